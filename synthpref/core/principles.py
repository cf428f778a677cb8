"""Which of several principles decides between two responses, as in SALMON (Sun et al., arXiv:2310.05910).

A lean is a number above 0 where a response keeps more to a principle than the other does, and below where less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

_EDGE = 1e-6


def log_odds(share: float) -> float:
    """The lean that a probability means; certainty is kept finite."""
    held = min(max(share, _EDGE), 1 - _EDGE)
    return math.log(held / (1 - held))


def lean(orders: Sequence[Sequence[float]]) -> float | None:
    """The lean of two responses that were shown in both orders: the mean of the orders' means; 0 where the orders
    lean opposite ways; None where an order gave none."""
    if not all(orders):
        return None
    means = [math.fsum(order) / len(order) for order in orders]
    if min(means) < 0 < max(means):
        return 0.0
    return math.fsum(means) / len(means)


def deciding(leans: Mapping[str, float | None]) -> list[str]:
    """The principles with the strongest lean; none where nothing leans."""
    strengths = {name: abs(value) for name, value in leans.items() if value}
    most = max(strengths.values(), default=0.0)
    return [name for name, strength in strengths.items() if math.isclose(strength, most, rel_tol=1e-9)]


def share_won(leans: Sequence[float]) -> float:
    """The share of leans that are for the first response; one of 0 counts half."""
    return math.fsum((value > 0) + 0.5 * (value == 0) for value in leans) / len(leans)
