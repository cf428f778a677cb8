"""How sure a figure is: intervals by the bootstrap, and tests of whether one rater is better than another. Pure.

The bootstrap resamples whole clusters where they are given, because items of one prompt are alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from synthpref.core.agreement import (
    Array,
    Codes,
    Level,
    Ranked,
    Rated,
    answered,
    coded,
    kappa_of,
    ratio,
)

Clusters = Sequence[Hashable] | None
Statistic = Callable[[Array], Array]

NORMAL = NormalDist()
BLOCK = 1 << 21
"""How many numbers of resampled weights are held at once."""


@dataclass(frozen=True)
class Interval:
    """From low to high."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; None where it is not defined, or the interval is not."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """How many items it is made from."""


@dataclass(frozen=True)
class Difference:
    """A first figure less a second, with its interval, and p: how often chance alone would show one as large."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """The score interval of a share (Wilson, 1927). A tie may count as half a success. Of nothing: 0 to 1."""
    if not 0 <= successes <= n:
        raise ValueError(f"not a share: {successes} of {n}")
    if n == 0:
        return Interval(0.0, 1.0)
    z = NORMAL.inv_cdf(0.5 + level / 2)
    share, weight = successes / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    return Interval(max(0.0, centre - reach), min(1.0, centre + reach))


def bootstrap(
    statistic: Statistic,
    n: int,
    *,
    clusters: Clusters = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """The figure that `statistic` makes of n items, with a percentile interval.

    `statistic` takes weights of shape (weightings, n), how many times each item counts, and gives one figure
    for each weighting, NaN where it is not defined. Memory stays the same however many resamples there are.
    """
    groups, m = _groups(n, clusters)
    value = float(statistic(np.ones((1, n)))[0]) if n else math.nan
    rng = np.random.default_rng(seed)
    figures = [statistic(drawn[:, groups]) for drawn in _resampled(m, resamples, rng, n)] if m > 1 else []
    return _estimate(value, np.concatenate(figures) if figures else np.empty(0), n, m, level)


def accuracy_estimate(
    a: Sequence[Hashable],
    b: Sequence[Hashable],
    *,
    clusters: Clusters = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`agreement` with its interval."""
    both, kept = _kept(clusters, a, b)
    right = np.array([x == y for x, y in both], dtype=float)
    rows = np.stack([right, np.ones(len(right))], axis=1)
    return _of_sums(lambda sums: ratio(sums[:, 0], sums[:, 1]), rows, kept, level, resamples, seed)


def kappa_estimate(
    a: Sequence[Hashable],
    b: Sequence[Hashable],
    *,
    clusters: Clusters = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`kappa` with its interval."""
    both, kept = _kept(clusters, a, b)
    codes, names = coded([label for pair in both for label in pair])
    size = len(names)
    rows = _indicator(codes[::2] * size + codes[1::2], size * size)
    return _of_sums(lambda sums: kappa_of(sums.reshape(-1, size, size)), rows, kept, level, resamples, seed)


def alpha_estimate(
    units: Sequence[Sequence[Hashable]],
    kind: Level = "nominal",
    *,
    order: Sequence[Hashable] | None = None,
    clusters: Clusters = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`krippendorff` with its interval; units are resampled. n counts the units with two labels or more."""
    rated = Rated.of(units, kind, order)
    kept = None if clusters is None else [clusters[i] for i in rated.kept]
    return bootstrap(rated.alpha, rated.n, clusters=kept, level=level, resamples=resamples, seed=seed)


def kendall_estimate(
    x: Sequence[float | None],
    y: Sequence[float | None],
    *,
    clusters: Clusters = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`kendall` with its interval."""
    ranked = Ranked.of(x, y)
    if ranked is None:
        return Estimate(None, None, None, 0)
    kept = None if clusters is None else [clusters[i] for i in ranked.kept]
    return _ranks(ranked, ranked.taus, kept, level, resamples, seed)


def spearman_estimate(
    x: Sequence[float | None],
    y: Sequence[float | None],
    *,
    clusters: Clusters = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`spearman` with its interval."""
    ranked = Ranked.of(x, y)
    if ranked is None:
        return Estimate(None, None, None, 0)
    kept = None if clusters is None else [clusters[i] for i in ranked.kept]
    return _ranks(ranked, ranked.rho, kept, level, resamples, seed)


def mcnemar(only_first_right: int, only_second_right: int) -> float:
    """The exact p value that two raters are right equally often (McNemar, 1947; binomial, two-sided), from the
    items that one of the two got right."""
    n, fewer = only_first_right + only_second_right, min(only_first_right, only_second_right)
    if fewer < 0:
        raise ValueError(f"not counts: {only_first_right}, {only_second_right}")
    # Terms of the binomial from the largest down, each from the one before, so that none needs a factorial.
    term = math.exp(
        math.lgamma(n + 1) - math.lgamma(fewer + 1) - math.lgamma(n - fewer + 1) - n * math.log(2)
    )
    tail, k = 0.0, fewer
    while k >= 0 and term > 1e-20 * tail:
        tail += term
        term *= k / (n - k + 1)
        k -= 1
    return min(1.0, 2 * tail)


def kappa_difference(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    gold: Sequence[Hashable],
    *,
    clusters: Clusters = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Cohen's kappa of the first rater with the gold labels less that of the second, on the items that all
    three label, by a paired bootstrap: each resample takes the same items for both."""
    items, kept = _kept(clusters, first, second, gold)
    codes, names = coded([label for item in items for label in item])
    size = len(names)
    tables = [_indicator(codes[rater::3] * size + codes[2::3], size * size) for rater in (0, 1)]

    def difference(sums: Array) -> Array:
        one, other = (kappa_of(part.reshape(-1, size, size)) for part in np.split(sums, 2, axis=1))
        return one - other

    rows = np.concatenate(tables, axis=1)
    value, figures, m = _resampled_sums(difference, rows, kept, resamples, seed)
    found = _estimate(value, figures, len(items), m, level)
    return Difference(found.value, found.low, found.high, _p(value, figures, m))


def holm(ps: Sequence[float]) -> list[float]:
    """The p values adjusted for how many there are (Holm, 1979), in the order given: rejecting those at or below
    0.05 makes one wrong rejection or more with a chance of at most 0.05."""
    adjusted = [0.0] * len(ps)
    least = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = least
    return adjusted


def _kept(clusters: Clusters, *lists: Sequence[Hashable]) -> tuple[list[tuple[Hashable, ...]], Clusters]:
    """The items labelled in every list, and their clusters."""
    items = answered(*lists)
    if clusters is None:
        return items, None
    cluster = [c for c, *labels in zip(clusters, *lists, strict=True) if None not in labels]
    return items, cluster


def _groups(n: int, clusters: Clusters) -> tuple[Codes, int]:
    """The cluster of each item, and how many there are."""
    if clusters is None:
        return np.arange(n), n
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} clusters for {n} items")
    codes, names = coded(clusters)
    return codes, len(names)


def _indicator(codes: Codes, size: int) -> Array:
    rows = np.zeros((len(codes), size))
    rows[np.arange(len(codes)), codes] = 1
    return rows


def _resampled(m: int, resamples: int, rng: np.random.Generator, width: int) -> Iterator[Array]:
    """Blocks of resamples: how many times each of m clusters was drawn."""
    at_once = max(1, BLOCK // max(m, width))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(0, m, size=(rows, m)) + m * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * m).reshape(rows, m).astype(float)


def _resampled_sums(
    statistic: Statistic, rows: Array, clusters: Clusters, resamples: int, seed: int
) -> tuple[float, Array, int]:
    """A figure of the column sums of `rows`, that of every resample, and the number of clusters. Clusters of
    equal sums are drawn together, which for tables of few cells leaves little to draw."""
    if not len(rows):
        return math.nan, np.empty(0), 0
    groups, m = _groups(len(rows), clusters)
    sums = np.zeros((m, rows.shape[1]))
    np.add.at(sums, groups, rows)
    value = float(statistic(sums.sum(axis=0, keepdims=True))[0])
    if m < 2:
        return value, np.empty(0), m
    kinds, counts = np.unique(sums, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    at_once = max(1, BLOCK // len(kinds))
    figures = [
        statistic(rng.multinomial(m, counts / m, size=min(at_once, resamples - start)) @ kinds)
        for start in range(0, resamples, at_once)
    ]
    return value, np.concatenate(figures), m


def _of_sums(
    statistic: Statistic, rows: Array, clusters: Clusters, level: float, resamples: int, seed: int
) -> Estimate:
    value, figures, m = _resampled_sums(statistic, rows, clusters, resamples, seed)
    return _estimate(value, figures, len(rows), m, level)


def _ranks(
    ranked: Ranked, statistic: Statistic, clusters: Clusters, level: float, resamples: int, seed: int
) -> Estimate:
    """An interval of a figure of weighted points."""
    order = np.argsort(ranked.point, kind="stable")
    starts = np.flatnonzero(np.diff(ranked.point[order], prepend=-1))

    def of_items(weights: Array) -> Array:
        return statistic(np.add.reduceat(weights[:, order], starts, axis=1))

    n = len(ranked.point)
    return bootstrap(of_items, n, clusters=clusters, level=level, resamples=resamples, seed=seed)


def _estimate(value: float, figures: Array, n: int, m: int, level: float) -> Estimate:
    if math.isnan(value):
        return Estimate(None, None, None, n)
    there = figures[~np.isnan(figures)]
    # Where many resamples have no figure the rest are not a fair sample of what might have been.
    if m < 2 or len(there) < 0.9 * len(figures):
        return Estimate(value, None, None, n)
    tail = NORMAL.cdf(-_t(0.5 + level / 2, m - 1) * math.sqrt(m / (m - 1)))
    low, high = np.quantile(there, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), n)


def _p(value: float, figures: Array, m: int) -> float | None:
    there = figures[~np.isnan(figures)]
    if math.isnan(value) or m < 2 or len(there) < 0.9 * len(figures):
        return None
    error = float(np.std(there))
    if error == 0:
        return 1.0 if value == 0 else None
    return min(1.0, 2 * NORMAL.cdf(-abs(value) / error))


def _t(share: float, freedom: int) -> float:
    """The quantile of Student's t, by its expansion about the normal one (Abramowitz and Stegun, 26.7.5)."""
    z = NORMAL.inv_cdf(share)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
