"""From a row's comparisons to a score on each of its responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from synthpref.core.ranking import bradley_terry, elo, win_rate
from synthpref.core.types import Comparison, Row, Score

Method = Literal["bradley_terry", "win_rate", "elo"]


def rated(
    row: Row, asked: Sequence[int], made: Sequence[Comparison], method: Method, prior: float
) -> dict[int, Score]:
    """A Score for each of the responses `asked` about, or the reason why it has none."""
    outcomes = [(c.a, c.b, c.p) for c in made if c.p is not None]
    players = len(row.samples)
    values = {
        "bradley_terry": lambda: bradley_terry(players, outcomes, prior=prior),
        "win_rate": lambda: win_rate(players, outcomes),
        "elo": lambda: elo(players, outcomes),
    }[method]()
    return {i: _score(i, values[i], made) for i in asked}


def _score(i: int, value: float | None, made: Sequence[Comparison]) -> Score:
    if value is not None:
        return Score(value)
    mine = [c for c in made if i in (c.a, c.b)]
    whys = [vote.why for c in mine for vote in c.votes if vote.failed and vote.why]
    if whys:
        return Score(None, f"no verdict on it: {whys[0]}")
    return Score(None, "no outcome: its votes are tied" if mine else "nothing to compare with")
