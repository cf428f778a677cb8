"""Votes -> one outcome, and whether more votes could change it. Pure.

A vote without a value is not counted as anything: neither as a low score nor as a tie. A tie is settled by a
rule that the recipe names. No rule but the tie rule "first" depends on the order of the votes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import Literal

from synthpref.core.stats import mean
from synthpref.core.types import Score, Vote

Reducer = Literal["mean", "median", "majority", "multimode", "minimum"]
TieRule = Literal["abstain", "lowest", "highest", "mean"]
AnyTie = TieRule | Literal["first", "tie"]
Ends = tuple[float, float]

NOT_ASKED = "not asked: the outcome was certain"
_ANY: Ends = (-inf, inf)


@dataclass(frozen=True, slots=True)
class Rule:
    """How votes become one number.

    "mean": of the votes with a value. "minimum": the lowest of them. "median": the middle one; with an even
    number, where the two in the middle differ, these are tied. "majority": the value that more than half of the
    votes name; where there is none, all that were named are tied. "multimode": the value named most often; where
    there are several, these are tied (the juries of arXiv:2408.08688: a unique mode wins).

    `tie` settles a tie: "abstain" (no outcome), the "lowest", the "highest" or the "mean" of the tied values, the
    one that the "first" voter named who named any of them, or "tie", which is 0.5: neither side of a comparison.
    Fewer than `at_least` votes with a value make no outcome.
    """

    reducer: Reducer = "mean"
    tie: AnyTie = "abstain"
    at_least: int = 1

    def enough(self, counted: int) -> bool:
        return counted >= max(1, self.at_least)

    def tied(self, values: Sequence[float]) -> list[float]:
        """What the values come to: one number, or several that are tied, lowest first."""
        if self.reducer == "mean":
            return [mean(values)]
        if self.reducer == "minimum":
            return [min(values)]
        if self.reducer == "median":
            return _middle(values)
        counts = Counter(values)
        most = max(counts.values())
        if self.reducer == "majority" and 2 * most <= len(values):
            return sorted(counts)
        return sorted(value for value, count in counts.items() if count == most)

    def settle(self, tied: Sequence[float], values: Sequence[float]) -> float | None:
        """The one of the tied values that counts, or None. `values` are those of the voters, in their order."""
        if len(tied) == 1:
            return tied[0]
        if self.tie == "first":
            return next(value for value in values if value in tied)
        settled = {"lowest": tied[0], "highest": tied[-1], "mean": mean(tied), "tie": 0.5}
        return settled.get(self.tie)

    def outcome(self, values: Sequence[float]) -> float | None:
        """The number that the values make; None for a tie left open, or too few of them."""
        return self.settle(self.tied(values), values) if self.enough(len(values)) else None

    def decided(self, values: Sequence[float], left: int, ends: Ends = _ANY) -> bool:
        """Whether the outcome is what `values` make it, whatever the `left` other voters say within `ends`, and if
        they say nothing. Also where too few are left for any outcome. Every vote moves a mean, so that is decided
        by the last one."""
        if left == 0 or not self.enough(len(values) + left):
            return True
        if not self.enough(len(values)) or self.reducer == "mean":
            return False
        if self.reducer == "minimum":
            return min(values) <= ends[0]
        if self.reducer == "median":
            return _median_stands(values, left, ends)
        counts = sorted(Counter(values).values(), reverse=True)
        first, second = counts[0], counts[1] if len(counts) > 1 else 0
        if self.reducer == "multimode":
            return first > second + left
        # Each vote more raises the half by a half, and the strongest by one at the most.
        open_for_good = 2 * (first + left) <= len(values) + left and self.tie in ("abstain", "tie")
        return 2 * first > len(values) + left or open_for_good

    def fewest(self, values: Sequence[float], left: int, ends: Ends = _ANY) -> int:
        """After how many more votes the outcome can be certain, if they fall as well as they can."""
        likely = sorted({*values, *ends})
        for more in range(1, left):
            if any(self.decided([*values, *[value] * more], left - more, ends) for value in likely):
                return more
        return left


def pool(
    votes: Sequence[Vote], reducer: Reducer = "mean", *, tie: AnyTie = "abstain", at_least: int = 1
) -> Score:
    """The Score that the votes make together by `Rule`; it keeps them all. Each ballot counts once."""
    rule = Rule(reducer, tie, at_least)
    cast = ballots(votes)
    values = [value for value in cast if value is not None]
    kept = tuple(votes)
    if not rule.enough(len(values)):
        return Score(None, too_few(votes, at_least), kept)
    tied = rule.tied(values)
    settled = rule.settle(tied, values)
    if settled is None:
        return Score(None, "tied votes: " + " and ".join(f"{value:g}" for value in tied), kept)
    return Score(settled, votes=kept)


def by_voter(votes: Sequence[Vote]) -> list[list[Vote]]:
    """The votes of each voter, in order: those of one role together, one without a role alone."""
    found: dict[str | int, list[Vote]] = {}
    for i, vote in enumerate(votes):
        found.setdefault(vote.role or i, []).append(vote)
    return list(found.values())


def by_juror(votes: Iterable[Vote]) -> dict[str, list[Vote]]:
    """The votes of each juror, in order; one without a role goes by its judge."""
    found: dict[str, list[Vote]] = {}
    for vote in votes:
        found.setdefault(vote.role or vote.judge, []).append(vote)
    return found


def ballots(votes: Sequence[Vote]) -> list[float | None]:
    """What each voter says: the mean of its votes that have a value; None for one that has none."""
    cast = ([vote.value for vote in mine if vote.value is not None] for mine in by_voter(votes))
    return [mean(values) if values else None for values in cast]


def too_few(votes: Sequence[Vote], at_least: int = 1) -> str:
    """Why these votes make no score: with a single vote its own reason, else how many are missing."""
    whys = [vote.why for vote in votes if vote.failed and vote.why]
    if len(votes) == 1 and whys:
        return whys[0]
    cast = ballots(votes)
    counted = sum(value is not None for value in cast)
    first = f"; the first: {min(whys)}" if whys else ""
    return f"too few votes: {counted} of {len(cast)} have a value, {max(1, at_least)} needed{first}"


def _middle(values: Sequence[float]) -> list[float]:
    """The middle value, or the two different ones next to the middle."""
    ordered = sorted(values)
    if len(ordered) % 2:
        return [median(ordered)]
    half = len(ordered) // 2
    return sorted({ordered[half - 1], ordered[half]})


def _median_stands(values: Sequence[float], left: int, ends: Ends) -> bool:
    """Whether up to `left` values more leave the median as it is. It rises with each value, so what lies between
    all of them at the lowest and all at the highest is certain where these two agree."""
    now = _middle(values)
    return len(now) == 1 and all(
        _middle([*values, *[end] * more]) == now for more in range(1, left + 1) for end in ends
    )
