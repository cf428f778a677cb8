"""Mean and spread of scores. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    """The mean, the same for any order of the values and never outside their range."""
    return min(max(math.fsum(values) / len(values), min(values)), max(values))


def std(values: Sequence[float], ddof: int = 0) -> float | None:
    """The standard deviation with divisor n - ddof; None for too few values."""
    if len(values) <= ddof or not values:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - ddof))
