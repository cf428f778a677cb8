"""How sure a figure is: intervals of the usual ones, and tests of whether one rater is better than another. Pure.

An item that lacks a label or a score on one side (None) is left out, with its cluster.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from synthpref.core.agreement import Array, Codes, Level, Ranked, Rated, answered, kappa_of_sums, met, ratio
from synthpref.core.bootstrap import NORMAL, How, Resampled, Statistic, resampled_sums
from synthpref.core.bootstrap import Estimate as Estimate
from synthpref.core.bootstrap import bootstrap as bootstrap

_MANY = 3000
"""Different points of which tau is counted out for every resample."""


@dataclass(frozen=True)
class Interval:
    """From low to high."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A first figure less a second, with its interval, and p: how often one so large or larger would come by
    chance where there is none. None where not defined, like those of an Estimate."""

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


def share_estimate(shares: Sequence[float | None], **how: Unpack[How]) -> Estimate:
    """The mean of shares from 0 to 1 (a tie may be 0.5) with its interval. Where all are 0, or all 1, no resample
    is otherwise; `wilson` stands in, with the clusters as trials."""
    there, how = _kept(how, shares)
    rows = np.array([(share, 1.0) for (share,) in there], dtype=float).reshape(-1, 2)
    found = resampled_sums(lambda sums: ratio(sums[:, 0], sums[:, 1]), rows, **how)
    estimate = found.estimate()
    if estimate.value in (0, 1):
        bound = wilson(estimate.value * found.clusters, found.clusters, found.level)
        return Estimate(estimate.value, bound.low, bound.high, len(there))
    return estimate


def accuracy_estimate(a: Sequence[Hashable], b: Sequence[Hashable], **how: Unpack[How]) -> Estimate:
    """`agreement` with its interval, as that of `share_estimate`."""
    both, how = _kept(how, a, b)
    return share_estimate([float(x == y) for x, y in both], **how)


def kappa_estimate(a: Sequence[Hashable], b: Sequence[Hashable], **how: Unpack[How]) -> Estimate:
    """`kappa` with its interval. Where all items agree, `wilson`'s bound on the agreement stands in, with the
    clusters as trials and the labels as frequent as they are."""
    both, how = _kept(how, a, b)
    rows = met(both)
    found = resampled_sums(kappa_of_sums, rows, **how)
    estimate = found.estimate()
    if estimate.value == 1:
        by_chance = float((rows.mean(axis=0) ** 2)[1:].sum()) / 2
        low = (wilson(found.clusters, found.clusters, found.level).low - by_chance) / (1 - by_chance)
        return Estimate(1.0, low, 1.0, len(both))
    return estimate


def alpha_estimate(
    units: Sequence[Sequence[Hashable]],
    kind: Level = "nominal",
    **how: Unpack[How],
) -> Estimate:
    """Krippendorff's alpha with its interval; units are resampled. n counts the units with two labels or more."""
    rated = Rated.of(units, kind)
    return _of_kinds(rated.alpha, rated.kind, rated.kept, how)


def kendall_estimate(x: Sequence[float | None], y: Sequence[float | None], **how: Unpack[How]) -> Estimate:
    """`kendall` with its interval. Of more than some thousand different points only the tau of all is counted
    out, and that of a resample is taken to the first order from the influence of each item."""
    ranked = Ranked.of(x, y)
    if ranked is None:
        return Estimate(None, None, None, 0)
    if len(ranked.counts) > _MANY:
        tau, influence = ranked.influence()
        n = len(ranked.kind)
        rows = np.stack([influence[ranked.kind], np.ones(n)], axis=1)
        found = resampled_sums(
            lambda sums: tau + n * sums[:, 0] / sums[:, 1], rows, **of_these(how, ranked.kept)
        )
        return found.estimate()
    return _of_kinds(ranked.taus, ranked.kind, ranked.kept, how)


def spearman_estimate(x: Sequence[float | None], y: Sequence[float | None], **how: Unpack[How]) -> Estimate:
    """`spearman` with its interval."""
    ranked = Ranked.of(x, y)
    if ranked is None:
        return Estimate(None, None, None, 0)
    return _of_kinds(ranked.rho, ranked.kind, ranked.kept, how)


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


def accuracy_difference(
    first: Sequence[Hashable], second: Sequence[Hashable], gold: Sequence[Hashable], **how: Unpack[How]
) -> Difference:
    """How much more often the first rater gives the gold label than the second, on the items that all three label,
    by a paired bootstrap: each resample takes the same items for both. Unlike `mcnemar` it heeds clusters."""
    items, how = _kept(how, first, second, gold)
    rows = np.array([((a == right) - (b == right), 1.0) for a, b, right in items], dtype=float).reshape(-1, 2)
    return _difference(resampled_sums(lambda sums: ratio(sums[:, 0], sums[:, 1]), rows, **how))


def kappa_difference(
    first: Sequence[Hashable], second: Sequence[Hashable], gold: Sequence[Hashable], **how: Unpack[How]
) -> Difference:
    """Cohen's kappa of the first rater with the gold labels less that of the second, as `accuracy_difference`."""
    items, how = _kept(how, first, second, gold)
    tables = [met([(item[rater], item[2]) for item in items]) for rater in (0, 1)]
    width = tables[0].shape[1]

    def gap(sums: Array) -> Array:
        return kappa_of_sums(sums[:, :width]) - kappa_of_sums(sums[:, width:])

    return _difference(resampled_sums(gap, np.concatenate(tables, axis=1), **how))


def holm(ps: Sequence[float]) -> list[float]:
    """The p values adjusted for how many there are (Holm, 1979), in the order given: rejecting those at or below
    0.05 makes one wrong rejection or more with a chance of at most 0.05."""
    adjusted = [0.0] * len(ps)
    least = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = least
    return adjusted


def _kept(how: How, *lists: Sequence[Hashable]) -> tuple[list[tuple[Any, ...]], How]:
    """The items labelled in every list, and how with their clusters."""
    every = zip(*lists, strict=True)
    return answered(*lists), of_these(how, [i for i, labels in enumerate(every) if None not in labels])


def of_these(how: How, items: Sequence[int]) -> How:
    """How, with the clusters of these items only."""
    clusters = how.get("clusters")
    return how if clusters is None else {**how, "clusters": [clusters[i] for i in items]}


def _of_kinds(statistic: Statistic, kind: Codes, kept: Sequence[int], how: How) -> Estimate:
    """A figure of weighted kinds of items."""
    order = np.argsort(kind, kind="stable")
    starts = np.flatnonzero(np.diff(kind[order], prepend=-1))

    def of(weights: Array) -> Array:
        return statistic(np.add.reduceat(weights[:, order], starts, axis=1))

    return bootstrap(of, len(kind), **of_these(how, kept))


def _difference(found: Resampled) -> Difference:
    """The difference with its interval and p, two-sided: the figure over its standard error as Student's t, which is
    taken to a normal deviate by the formula of Wallace (1959). Counting resamples would not give a p small enough
    to adjust for many tests."""
    estimate, error = found.estimate(), found.error()
    if estimate.value is None or error is None:
        return Difference(estimate.value, None, None, None)
    if error == 0:
        return (
            Difference(0.0, 0.0, 0.0, 1.0) if found.value == 0 else Difference(found.value, None, None, None)
        )
    freedom = found.clusters - 1
    shrunk = math.sqrt(freedom * math.log1p((found.value / error) ** 2 / freedom))
    p = 2 * NORMAL.cdf(-shrunk * (8 * freedom + 1) / (8 * freedom + 3))
    return Difference(estimate.value, estimate.low, estimate.high, p)
