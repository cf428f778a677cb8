"""How far a pair rule carries with n responses and a scale of so many values: pure figures, under a stated model.

The model: a row's scores are normal. On a scale of whole steps they lie around its middle, with both ends three
standard deviations away, and are rounded. Judges bunch more than that, so real ties are rather more frequent.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache
from statistics import NormalDist

SPAN = 6.0
"""Standard deviations from one end of a scale to the other."""
DRAWS = 30_000
"""Normal numbers drawn for one figure: it is known to within about 1.5 % at n = 30."""
MANY = 1000
"""Of more numbers, or values, than these the figures are as of so many: what is rare then is rarer still."""


def shared_best(n: int, levels: int) -> float:
    """The probability that the highest of n scores is shared by several, on a scale of `levels` values."""
    levels = min(levels, MANY)
    edges = [SPAN * ((i + 0.5) / (levels - 1) - 0.5) for i in range(levels - 1)]
    below = [0.0, *map(NormalDist().cdf, edges), 1.0]
    alone = (n * (below[i + 1] - below[i]) * below[i] ** (n - 1) for i in range(levels))
    return max(0.0, 1.0 - math.fsum(alone))


def levels_needed(n: int, share: float, most: int = 101) -> int | None:
    """The fewest values of a scale on which the highest of n scores is shared with at most this probability."""
    return next((levels for levels in range(2, most + 1) if shared_best(n, levels) <= share), None)


def furthest(n: int, ddof: int = 1) -> float:
    """How many standard deviations below their mean the lowest of n numbers can lie at most: (n-1)/sqrt(n)."""
    return (n - 1) / math.sqrt(n) if ddof else math.sqrt(n - 1)


@lru_cache(maxsize=256)
def was_minimum(n: int, sigmas: float, ddof: int = 1) -> float:
    """How often the number nearest to mu - sigmas*sigma is the lowest of n normal ones, by a count over draws."""
    if n < 3 or sigmas >= furthest(n, ddof):
        return 1.0
    n = min(n, MANY)
    rng = random.Random(7)
    rounds = max(100, DRAWS // n)
    return sum(_lowest_is_nearest(rng, n, sigmas, ddof) for _ in range(rounds)) / rounds


def _lowest_is_nearest(rng: random.Random, n: int, sigmas: float, ddof: int) -> bool:
    drawn = [rng.gauss(0.0, 1.0) for _ in range(n)]
    mean = sum(drawn) / n
    sd = math.sqrt(sum((x - mean) ** 2 for x in drawn) / (n - ddof))
    first = min(drawn)
    drawn.remove(first)
    return (first + min(drawn)) / 2 >= mean - sigmas * sd


def from_how_many(sigmas: float, share: float, ddof: int = 1) -> int | None:
    """From about how many numbers on the one nearest to mu - sigmas*sigma is the lowest in at most this share of
    the rows; None if not before a thousand."""
    high = 8
    while was_minimum(high, sigmas, ddof) > share:
        high *= 2
        if high > MANY:
            return None
    low = max(2, high // 2)
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if was_minimum(middle, sigmas, ddof) > share else (low, middle)
    return high


def quantile_from(quantile: float) -> int:
    """From how many numbers on the one nearest to a quantile (linear between them) is not always the lowest."""
    return math.floor(0.5 / quantile) + 2
