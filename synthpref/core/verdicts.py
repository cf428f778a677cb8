"""Verdicts on two responses -> one outcome. Pure; no rule depends on the order of the verdicts within a side.

A verdict is the share that the first response won: 1 for a win, 0 for a loss, 0.5 for a tie, and what lies between
where it is a probability. The verdicts of one side were given in one order of showing. One that could not be read
is in none of the lists: it is neither a loss nor a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from synthpref.core.stats import mean

Disagree = Literal["average", "tie", "reask"]
Sides = Sequence[Sequence[float]]


def leaning(share: float) -> float:
    """The winner that a share names: 1, 0, or 0.5 for neither."""
    return 1.0 if share > 0.5 else 0.0 if share < 0.5 else 0.5


def majority(shares: Sequence[float]) -> float:
    """The verdict given most often; a tie where no single one is (as by the juries of the Fellowship of the LLMs,
    arXiv:2408.08688)."""
    named = [leaning(share) for share in shares]
    counts = {verdict: named.count(verdict) for verdict in (0.0, 0.5, 1.0)}
    most = [verdict for verdict, count in counts.items() if count == max(counts.values())]
    return most[0] if len(most) == 1 else 0.5


def flipped(sides: Sides) -> bool:
    """Whether the two orders name different winners. A tie in one of them is no other winner."""
    return {leaning(mean(side)) for side in sides if side} >= {0.0, 1.0}


def outcome(
    sides: Sides, more: Sides = (), *, disagree: Disagree = "average", by_majority: bool = False
) -> float | None:
    """The share that the first response won in all; None where there is no verdict to say so.

    "average": the mean of all verdicts; with `by_majority`, of each side's majority. "tie": a win is what both
    orders call one, and all else is a tie, as in MT-Bench (arXiv:2306.05685, section 3.4); where an order has no
    verdict, there is no outcome. "reask": as "average" where there are no `more` sides, which were asked for because
    the first ones disagreed; else the majority of all verdicts.
    """
    counted = [side for side in sides if side]
    if disagree == "tie":
        if not counted or len(counted) < len(sides):
            return None
        winners = {majority(side) if by_majority else leaning(mean(side)) for side in counted}
        return winners.pop() if len(winners) == 1 else 0.5
    if not any((*counted, *more)):
        return None
    if more:
        return majority([share for side in (*counted, *more) for share in side])
    if by_majority:
        return mean([majority(side) for side in counted])
    return mean([share for side in counted for share in side])
