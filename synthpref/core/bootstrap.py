"""The bootstrap: how far a figure might have come out otherwise, from the data alone (Efron, 1979). Pure.

Whole clusters are resampled where they are given, because items of one prompt are alike. Intervals are BCa
(Efron, 1987: corrected for bias and for a spread that changes with the figure), widened for few clusters as
Hesterberg (2015, "What teachers should know about the bootstrap", on expanded percentiles) says: of the four ways
with and without either, this one came nearest to its stated level for accuracy and kappa of 40 to 400 items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypedDict, Unpack

import numpy as np

from synthpref.core.agreement import Array, Codes, coded

Clusters = Sequence[Hashable] | None
Statistic = Callable[[Array], Array]


class How(TypedDict, total=False):
    """How an interval is made; each may be left out."""

    clusters: Clusters
    """The cluster of each item; each is its own where there are none."""
    level: float
    """0.95."""
    resamples: int
    """1000."""
    seed: int
    """0."""


NORMAL = NormalDist()
_BLOCK = 1 << 21
"""How many numbers of resampled weights are held at once."""
_LEFT_OUT = 200
"""Into how many groups the clusters are put that are left out in turn. More are not more exact: the skewness of
larger groups is smaller by as much as there are fewer of them."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval. None where the figure is not defined; or its interval is not, because there is
    but one cluster, no resample differs from another, or more than one in ten has no figure."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """How many items it is made from."""


@dataclass(frozen=True)
class Resampled:
    """A figure, and what it would have been; NaN where it is not defined."""

    value: float
    figures: Array
    """That of each resample."""
    without: Array
    """That without one cluster, or without one group of them."""
    times: Array
    """How often the like of it would be left out."""
    clusters: int
    n: int
    level: float

    def estimate(self) -> Estimate:
        """The figure with its interval."""
        if math.isnan(self.value):
            return Estimate(None, None, None, self.n)
        there = self.defined
        if there is None or there.min() == there.max():
            return Estimate(self.value, None, None, self.n)
        below = (np.sum(there < self.value) + np.sum(there == self.value) / 2) / len(there)
        bias = NORMAL.inv_cdf(float(np.clip(below, 0.5 / len(there), 1 - 0.5 / len(there))))
        reach = _t(0.5 + self.level / 2, self.clusters - 1) * math.sqrt(self.clusters / (self.clusters - 1))
        bend = self._acceleration()
        ends = []
        for z in (bias - reach, bias + reach):
            ends.append(NORMAL.cdf(bias + z / max(0.2, 1 - bend * z)))
        low, high = (float(end) for end in np.quantile(there, ends))
        return Estimate(self.value, min(low, self.value), max(high, self.value), self.n)

    @property
    def defined(self) -> Array | None:
        """The figures of the resamples; None where there are too few to speak for all."""
        there: Array = self.figures[~np.isnan(self.figures)]
        # Where many have no figure the rest are not a fair sample of what might have been.
        return there if len(there) and len(there) >= 0.9 * len(self.figures) else None

    def error(self) -> float | None:
        """The standard error, as if the clusters were drawn from many."""
        there = self.defined
        return (
            None if there is None else float(np.std(there)) * math.sqrt(self.clusters / (self.clusters - 1))
        )

    def _acceleration(self) -> float:
        there = ~np.isnan(self.without)
        without, times = self.without[there], self.times[there]
        if not len(without):
            return 0.0
        apart = np.average(without, weights=times) - without
        spread = float(times @ apart**2)
        return float(times @ apart**3) / (6 * spread**1.5) if spread > 0 else 0.0


def bootstrap(statistic: Statistic, n: int, **how: Unpack[How]) -> Estimate:
    """The figure that `statistic` makes of n items, with its interval.

    `statistic` takes weights of shape (weightings, n), how many times each item counts, and gives one figure
    for each weighting, NaN where it is not defined. It is called with blocks of weightings, so that memory stays
    the same however many resamples there are.
    """
    groups, m = _groups(n, how.get("clusters"))
    if not n:
        return Estimate(None, None, None, 0)
    value = float(statistic(np.ones((1, n)))[0])
    figures, without = [np.empty(0)], [np.empty(0)]
    if m > 1:
        rng = np.random.default_rng(how.get("seed", 0))
        figures += [statistic(drawn[:, groups]) for drawn in _drawn(m, how.get("resamples", 1000), n, rng)]
        parts = min(m, _LEFT_OUT)
        at_once = max(1, _BLOCK // n)
        for start in range(0, parts, at_once):
            left_out = np.arange(start, min(parts, start + at_once))
            without.append(statistic((groups[None, :] % parts != left_out[:, None]).astype(float)))
    left = np.concatenate(without)
    level = how.get("level", 0.95)
    return Resampled(value, np.concatenate(figures), left, np.ones(len(left)), m, n, level).estimate()


def resampled_sums(statistic: Statistic, rows: Array, **how: Unpack[How]) -> Resampled:
    """Like `bootstrap`, of a figure that hangs on no more than the column sums of `rows`, one row an item:
    `statistic` takes sums of shape (weightings, columns). Clusters of equal sums are drawn together, which for
    tables of few cells leaves little to draw."""
    groups, m = _groups(len(rows), how.get("clusters"))
    resamples, known = how.get("resamples", 1000), (m, len(rows), how.get("level", 0.95))
    if not len(rows):
        return Resampled(math.nan, np.empty(0), np.empty(0), np.empty(0), *known)
    sums = np.zeros((m, rows.shape[1]))
    np.add.at(sums, groups, rows)
    total = sums.sum(axis=0, keepdims=True)
    value = float(statistic(total)[0])
    if m < 2:
        return Resampled(value, np.empty(0), np.empty(0), np.empty(0), *known)
    kinds, counts = np.unique(sums, axis=0, return_counts=True)
    rng = np.random.default_rng(how.get("seed", 0))
    if len(kinds) > m / 4:
        figures = [statistic(drawn @ sums) for drawn in _drawn(m, resamples, m, rng)]
    else:
        at_once = max(1, _BLOCK // len(kinds))
        rows_at_once = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
        figures = [statistic(rng.multinomial(m, counts / m, size=size) @ kinds) for size in rows_at_once]
    return Resampled(value, np.concatenate(figures), statistic(total - kinds), counts.astype(float), *known)


def _groups(n: int, clusters: Clusters) -> tuple[Codes, int]:
    """The cluster of each item, and how many there are."""
    if clusters is None:
        return np.arange(n), n
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} clusters for {n} items")
    codes, names = coded(clusters)
    return codes, len(names)


def _drawn(m: int, resamples: int, width: int, rng: np.random.Generator) -> Iterator[Array]:
    """Blocks of resamples: how many times each of m clusters was drawn."""
    at_once = max(1, _BLOCK // max(m, width))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(0, m, size=(rows, m)) + m * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * m).reshape(rows, m).astype(float)


def _t(share: float, freedom: int) -> float:
    """The quantile of Student's t, for a whole number of degrees of freedom: the distribution function in closed form
    (Abramowitz and Stegun, 26.7.3 and 26.7.4), inverted. An expansion about the normal quantile is 24 % short at one
    degree of freedom."""
    if share < 0.5:
        return -_t(1 - share, freedom)
    if freedom > CLOSE_TO_NORMAL:
        z = NORMAL.inv_cdf(share)
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    low, high = 0.0, math.pi / 2
    for _ in range(200):
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, freedom) < 2 * share - 1 else (low, angle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


CLOSE_TO_NORMAL = 400


def _within(angle: float, freedom: int) -> float:
    """The probability that |t| lies within sqrt(freedom) * tan(angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(odd + 1, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
