"""How far raters agree: coefficients over labels and over scores. Pure.

None is no label: an item that a rater left out, or whose verdict could not be read. It counts as nothing, neither
as an agreement nor as a disagreement. Every function gives None where its figure is not defined, which is not 0.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]
_Label = TypeVar("_Label", bound=Hashable)
Level = Literal["nominal", "interval"]


def agreement(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """The share of items that two raters label alike, of those that both label; None where there are none.
    Labels are anything hashable, so "a", "b" and "tie" are three. Raises ValueError on lists of different
    length."""
    both = answered(first, second)
    return sum(a == b for a, b in both) / len(both) if both else None


def kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Cohen's kappa (Cohen, 1960): agreement beyond what the raters' own label frequencies give by chance.

    None where it is not defined: no item that both label, or both using one and the same label throughout.
    Raises ValueError on lists of different length.
    """
    return defined(kappa_of_sums(met(answered(first, second)).sum(axis=0, keepdims=True)))


def kendall(x: Sequence[float | None], y: Sequence[float | None]) -> float | None:
    """Kendall's tau-b (Kendall, 1945): of the items taken two at a time, the share ordered alike less the share
    ordered otherwise, corrected for ties on either side. None where one side does not vary. Raises ValueError
    on lists of different length."""
    ranked = Ranked.of(x, y)
    return defined(np.array([ranked.tau])) if ranked else None


def spearman(x: Sequence[float | None], y: Sequence[float | None]) -> float | None:
    """Spearman's rho (Spearman, 1904): the correlation of the ranks, tied ones averaged. None where one side
    does not vary. Raises ValueError on lists of different length."""
    ranked = Ranked.of(x, y)
    return defined(ranked.rho(ranked.counts[None, :])) if ranked else None


def answered(*lists: Sequence[Hashable]) -> list[tuple[Any, ...]]:
    """The items that have a label in every list. Raises ValueError on lists of different length."""
    return [item for item in zip(*lists, strict=True) if None not in item]


def defined(values: Array) -> float | None:
    """The first value, None for NaN."""
    return float(values[0]) if len(values) and not math.isnan(values[0]) else None


def coded(labels: Sequence[_Label]) -> tuple[Codes, list[_Label]]:
    """Each label as its place in the list of labels, in order of first use."""
    places: dict[_Label, int] = {}
    codes = np.array([places.setdefault(label, len(places)) for label in labels], dtype=np.intp)
    return codes, list(places)


def met(both: Sequence[tuple[Hashable, Hashable]]) -> Array:
    """A row for each item that two raters label: whether they agree, what the first says and what the second
    says, as indicators of the labels. Of all that the two say kappa takes no more than the sums of these."""
    codes, names = coded([label for pair in both for label in pair])
    first, second = codes[::2], codes[1::2]
    rows = np.zeros((len(both), 1 + 2 * len(names)))
    items = np.arange(len(both))
    rows[items, 0] = first == second
    rows[items, 1 + first] = 1
    rows[items, 1 + len(names) + second] = 1
    return rows


def kappa_of_sums(sums: Array) -> Array:
    """Cohen's kappa of each row of sums of `met`; NaN where not defined."""
    agreed, first, second = np.split(sums, [1, 1 + (sums.shape[1] - 1) // 2], axis=1)
    n, by_chance = first.sum(axis=1), (first * second).sum(axis=1)
    return ratio(agreed[:, 0] * n - by_chance, n * n - by_chance)


def kappa_of(tables: Array) -> Array:
    """Cohen's kappa of each table of counts in an array of shape (tables, labels, labels)."""
    agreed = np.trace(tables, axis1=1, axis2=2)
    return kappa_of_sums(np.column_stack([agreed, tables.sum(axis=2), tables.sum(axis=1)]))


def ratio(above: Array, below: Array) -> Array:
    """The one over the other; NaN where the latter is not above 0."""
    over: Array = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return over


@dataclass(frozen=True)
class Rated:
    """What Krippendorff's alpha (Krippendorff, 1970; in the form of Hayes and Krippendorff, 2007) is made from, of any
    number of raters, where any may be missing: 1 less the disagreement seen over that expected if all labels were
    dealt out at random. Labels differ entirely or not at all ("nominal"), or by the square of their difference
    ("interval").

    Units with two labels or more, as the different kinds of them (the same labels, in any order), laid out so
    that alpha is found for many weightings of the kinds at once."""

    kept: tuple[int, ...]
    """Which of the units given have two labels or more."""
    kind: Codes
    """The kind of each of these."""
    level: Level
    unit: Codes
    """Of each label, the kind it belongs to, ascending."""
    code: Codes
    """Each label's place among the different labels, in their order."""
    scale: Array
    """What the labels are worth: their values, about the mean of these, for "interval"."""

    @classmethod
    def of(cls, units: Sequence[Sequence[Hashable]], level: Level) -> Rated:
        labels = [[label for label in unit if label is not None] for unit in units]
        kept = [i for i, unit in enumerate(labels) if len(unit) > 1]
        names: list[Any] = list(dict.fromkeys(label for i in kept for label in labels[i]))
        if level == "interval":
            if strange := [name for name in names if not isinstance(name, Real) or name != name]:
                raise ValueError(f"{level} labels are numbers, not {strange[0]!r}")
            names.sort()
        place = {name: i for i, name in enumerate(names)}
        kind, kinds = coded([tuple(sorted(place[label] for label in labels[i])) for i in kept])
        sizes = [len(one) for one in kinds]
        code = np.array([label for one in kinds for label in one], dtype=np.intp)
        scale = np.arange(len(names), dtype=float)
        if level == "interval" and names:
            scale = np.array(names, dtype=float)
            scale = scale - scale.mean()
        return cls(tuple(kept), kind, level, np.repeat(np.arange(len(kinds)), sizes), code, scale)

    def alpha(self, weights: Array) -> Array:
        """Alpha under each row of weights, of shape (weightings, kinds); NaN where not defined."""
        if not len(self.unit):
            return np.full(len(weights), np.nan)
        starts = np.flatnonzero(np.diff(self.unit, prepend=-1))
        size = np.diff(starts, append=len(self.unit)).astype(float)
        by_code = np.argsort(self.code, kind="stable")
        first = np.flatnonzero(np.diff(self.code[by_code], prepend=-1))
        counts = np.add.reduceat(weights[:, self.unit[by_code]], first, axis=1)
        total = counts.sum(axis=1)
        if self.level == "nominal":
            same = np.zeros(len(size))
            _, place, times = np.unique(
                self.unit * len(self.scale) + self.code, return_index=True, return_counts=True
            )
            np.add.at(same, self.unit[place], times.astype(float) ** 2)
            seen = weights @ ((size**2 - same) / (size - 1))
            expected = total**2 - (counts**2).sum(axis=1)
        else:
            worth = self.scale[None, :]
            each = worth[:, self.code]
            squares = np.add.reduceat(each**2, starts, axis=1)
            sums = np.add.reduceat(each, starts, axis=1)
            seen = (weights * (2 * (size * squares - sums**2) / (size - 1))).sum(axis=1)
            moments = (counts * worth**2).sum(axis=1), (counts * worth).sum(axis=1)
            expected = 2 * (total * moments[0] - moments[1] ** 2)
            # All of one label: nothing but the last digits is left of the difference.
            expected = np.where((counts > 0).sum(axis=1) > 1, expected, 0.0)
        return 1 - ratio(seen * (total - 1), expected)


@dataclass(frozen=True)
class Ranked:
    """Two scores an item as the different points (x, y), laid out for many weightings of them at once."""

    kept: tuple[int, ...]
    """Which of the items given have both scores."""
    kind: Codes
    """The point of each of these."""
    counts: Array
    """How many items are at each point."""
    x: Codes
    """The place of each point among the different x, ascending: points are sorted by x, then y."""
    y: Codes

    @classmethod
    def of(cls, x: Sequence[float | None], y: Sequence[float | None]) -> Ranked | None:
        """None where no item has both. Raises ValueError on lists of different length, and on NaN."""
        kept = [i for i, both in enumerate(zip(x, y, strict=True)) if None not in both]
        if not kept:
            return None
        columns = [np.array([column[i] for i in kept], dtype=float) for column in (x, y)]
        if np.isnan(columns).any():
            raise ValueError("not a number among the scores; None is no score")
        ranks = [np.unique(column, return_inverse=True)[1] for column in columns]
        points, point, counts = np.unique(
            np.stack(ranks, axis=1), axis=0, return_inverse=True, return_counts=True
        )
        return cls(tuple(kept), point.reshape(-1), counts.astype(float), points[:, 0], points[:, 1])

    @property
    def tau(self) -> float:
        """Kendall's tau-b; NaN where not defined."""
        return self._tau(self.concordance())

    def influence(self) -> tuple[float, Array]:
        """Kendall's tau-b, and how fast it changes with the weight of an item at each point."""
        concordance = self.concordance()
        tau, n = self._tau(concordance), self.counts.sum()
        slope = np.zeros(len(self.x))
        apart = 1.0
        for by in (self.x, self.y):
            others = n - self.tied(by)[by]
            among = float(self.counts @ others)
            slope -= tau * others / among
            apart *= among
        return tau, slope + 2 * concordance / math.sqrt(apart)

    def _tau(self, concordance: Array) -> float:
        n = self.counts.sum()
        apart = [float(n * n - self.counts @ self.tied(by)[by]) for by in (self.x, self.y)]
        return float(self.counts @ concordance) / math.sqrt(apart[0] * apart[1]) if all(apart) else math.nan

    def tied(self, by: Codes) -> Array:
        """How many items share each place."""
        return np.bincount(by, weights=self.counts).astype(float)

    def concordance(self) -> Array:
        """For each point how many items are ordered alike on both sides against it, less those ordered
        otherwise. Insertion into a sorted list: for 100,000 points some seconds."""
        found = np.zeros(len(self.x))
        for sign, places in ((1, range(len(self.x))), (-1, range(len(self.x) - 1, -1, -1))):
            before: list[int] = []
            waiting: list[int] = []
            last = -1
            for i in places:
                if self.x[i] != last:
                    for j in waiting:
                        for _ in range(int(self.counts[j])):
                            insort(before, int(self.y[j]))
                    waiting, last = [], int(self.x[i])
                waiting.append(i)
                lower = bisect_left(before, int(self.y[i]))
                higher = len(before) - bisect_right(before, int(self.y[i]))
                found[i] += sign * (lower - higher)
        return found

    def taus(self, weights: Array) -> Array:
        """Kendall's tau-b under each row of weights, of shape (weightings, points)."""
        above = np.zeros(len(weights))
        light = weights.astype(np.float32)
        for start in range(0, len(self.x), 512):
            part = slice(start, start + 512)
            order = np.sign(self.x[:, None] - self.x[None, part]) * np.sign(
                self.y[:, None] - self.y[None, part]
            )
            # Whole numbers below 2^24, so single precision holds them exactly.
            above += ((light @ order.astype(np.float32)) * weights[:, part]).sum(axis=1)
        total = weights.sum(axis=1) ** 2
        apart = [total - (self.levels(weights, by) ** 2).sum(axis=1) for by in (self.x, self.y)]
        return ratio(above, np.sqrt(apart[0] * apart[1]))

    def rho(self, weights: Array) -> Array:
        """Spearman's rho under each row of weights, of shape (weightings, points)."""
        centred = []
        for by in (self.x, self.y):
            counts = self.levels(weights, by)
            middle = np.cumsum(counts, axis=1) - counts / 2
            centred.append((middle - counts.sum(axis=1, keepdims=True) / 2)[:, by])
        x, y = centred
        spread = [(weights * side**2).sum(axis=1) for side in (x, y)]
        return ratio((weights * x * y).sum(axis=1), np.sqrt(spread[0] * spread[1]))

    def levels(self, weights: Array, by: Codes) -> Array:
        """The weight at each place of one side."""
        order = np.argsort(by, kind="stable")
        return np.add.reduceat(weights[:, order], np.flatnonzero(np.diff(by[order], prepend=-1)), axis=1)
