"""Votes -> one Score. Pure; no rule depends on the order of the votes.

A vote without a value is not counted as anything: neither as a low score nor as a tie. A tie is settled by a
rule that the recipe names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Literal

from synthpref.core.stats import mean
from synthpref.core.types import Score, Vote

Reducer = Literal["mean", "median", "majority"]
TieRule = Literal["abstain", "lowest", "highest", "mean"]


def pool(
    votes: Sequence[Vote], reducer: Reducer = "mean", *, tie: TieRule = "abstain", at_least: int = 1
) -> Score:
    """The Score that the votes make together; it keeps them all.

    "mean": of the votes with a value. "median": the middle one; with an even number, where the two in the
    middle differ, `tie` decides between them. "majority": the value named most often; where several are,
    `tie` decides among those.

    `tie` is "abstain" (no score), "lowest", "highest" or "mean" of the tied values. It has no bearing on the
    mean. Fewer than `at_least` votes with a value give no score.
    """
    values = [vote.value for vote in votes if vote.value is not None]
    kept = tuple(votes)
    if len(values) < max(1, at_least):
        return Score(None, too_few(votes, at_least), kept)
    if reducer == "mean":
        return Score(mean(values), votes=kept)
    tied = _middle(values) if reducer == "median" else _modes(values)
    if len(tied) == 1:
        return Score(tied[0], votes=kept)
    if tie == "abstain":
        return Score(None, "tied votes: " + " and ".join(f"{value:g}" for value in tied), kept)
    settled = {"lowest": tied[0], "highest": tied[-1], "mean": mean(tied)}[tie]
    return Score(settled, votes=kept)


def too_few(votes: Sequence[Vote], at_least: int = 1) -> str:
    """Why these votes make no score: with a single vote its own reason, else how many are missing."""
    whys = [vote.why for vote in votes if vote.value is None and vote.why]
    if len(votes) == 1 and whys:
        return whys[0]
    counted = len(votes) - len(whys)
    first = f"; the first: {min(whys)}" if whys else ""
    return f"too few votes: {counted} of {len(votes)} have a value, {max(1, at_least)} needed{first}"


def _middle(values: Sequence[float]) -> list[float]:
    """The middle value, or the two different ones next to the middle."""
    ordered = sorted(values)
    if len(ordered) % 2:
        return [median(ordered)]
    half = len(ordered) // 2
    return sorted({ordered[half - 1], ordered[half]})


def _modes(values: Sequence[float]) -> list[float]:
    """The values that occur most often, lowest first."""
    counts = Counter(values)
    most = max(counts.values())
    return sorted(value for value, count in counts.items() if count == most)
