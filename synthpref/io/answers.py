"""Cells of a file -> what they say: sides, shares and scores. Every value that means nothing that is known is told, with
its column and how often it comes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from statistics import fmean
from typing import Any

import numpy as np

from synthpref.core.errors import Problem
from synthpref.core.judged import (
    Floats,
    JudgeTable,
    Repeat,
    mean_mark,
    share_of,
)
from synthpref.core.labelled import Judge, Labelled
from synthpref.core.sides import NONE, Reading, is_number, read_values, word
from synthpref.io.labels import Cell, Item, unreadable

SHARE = {"a": 1.0, "b": 0.0, "tie": 0.5}
_CROWD = 50
"""More annotators than these are not told apart: each labels a few items of many."""
_NAMED = {"a": "\0a", "b": "\0b"}


@dataclass
class _Read:
    """One answer, read: shares of a and scores, a repeat each, and why those are missing that are."""

    order: str
    shares: list[float] = field(default_factory=list)
    scores: list[tuple[float, float]] = field(default_factory=list)
    why_no_share: list[str] = field(default_factory=list)
    why_no_scores: list[str] = field(default_factory=list)


class Reader:
    """Reads cells. What cannot be read is noted in `problems`, what was taken for granted in `notes`."""

    def __init__(self, mapping: Labelled, items: Sequence[Item], pairs: bool) -> None:
        self.mapping, self.items, self.pairs = mapping, items, pairs
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.readings = self._readings() if pairs else {}
        self.unread: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.gold_scores = np.full((len(items), 2), np.nan)
        """The annotators' mean scores of the two responses, where they gave such."""
        self.minus: list[str] = []
        """Those of whom -1 was read as no score."""

    # ---- what values mean

    def _readings(self) -> dict[str, Reading]:
        """How each column with verdicts is read."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for item in self.items:
            for cells in (*item.marks.values(), *item.answers.values()):
                for cell in cells:
                    for raw in cell.raw:
                        if not isinstance(raw, tuple):
                            counts[cell.column][self._word(item, raw)] += 1
        given = {**self.mapping.values.given(), **{v: k for k, v in _NAMED.items()}}
        readings = {column: read_values(values, given, {}) for column, values in counts.items()}
        # A column may use only some of the numbers whose meaning another one shows.
        full = max((r.sides for r in readings.values() if r.note), key=len, default={})
        shared = {value: side for value, side in full.items() if is_number(value) and value != "-1"}
        for column, reading in readings.items():
            if reading.unread and shared:
                readings[column] = reading = read_values(counts[column], given, shared)
            if reading.note:
                self.notes.append(f"{column}: {reading.note}.")
            if reading.unread:
                values = Counter({value: counts[column][value] for value in reading.unread})
                fix = f"say what they mean: --values a={values.most_common(1)[0][0]} (or b=, tie=, none=)"
                self.problems.append(unreadable(column, values, fix))
        return readings

    @staticmethod
    def _word(item: Item, raw: Any) -> str:
        """The value as it is looked up. The name of one of the two models stands for its response."""
        if isinstance(raw, str) and not is_number(raw.strip()):
            models = model_of(item, "model_a"), model_of(item, "model_b")
            if models[0] != models[1] and raw in models:
                return _NAMED["a" if raw == models[0] else "b"]
        return word(raw)

    def _side(self, item: Item, cell: Cell, raw: Any) -> tuple[float, str]:
        value = self._word(item, raw)
        reading = self.readings[cell.column]
        if value in reading.shares:
            return (1 - reading.shares[value] if cell.turned else reading.shares[value]), ""
        side = reading.sides.get(value, "none")
        if side == "none":
            return math.nan, f"{value!r} is no verdict" if value else "empty"
        turn = cell.turned and value not in _NAMED.values()
        return (1 - SHARE[side] if turn else SHARE[side]), ""

    def _number(self, column: str, raw: Any, invalid: frozenset[float | str]) -> tuple[float, str]:
        if raw is None or (isinstance(raw, str) and word(raw) in NONE | {str(v).casefold() for v in invalid}):
            return math.nan, "empty" if raw is None or not str(raw).strip() else f"{word(raw)!r} is no score"
        try:
            number = float(raw)
        except (TypeError, ValueError):
            self.unread[column][str(raw)] += 1
            return math.nan, "not a number"
        if number in invalid:
            return math.nan, f"{raw} stands for no score"
        return (number, "") if math.isfinite(number) else (math.nan, "empty")

    def _invalid(self, who: str, cells: Iterable[Cell]) -> frozenset[float | str]:
        """The scores that stand for none among these."""
        if self.mapping.invalid is not None:
            return frozenset(self.mapping.invalid)
        numbers = set()
        for cell in cells:
            for raw in cell.raw:
                for value in raw if isinstance(raw, tuple) else (raw,):
                    try:
                        numbers.add(float(value))
                    except (TypeError, ValueError):
                        continue
        # NaN compares with nothing, so the least of a set that holds one hangs on its order.
        others = {number for number in numbers if not math.isnan(number)} - {-1}
        if -1 in numbers and others and min(others) >= 0:
            self.minus.append(who)
            return frozenset({-1.0})
        return frozenset()

    def about_minus(self) -> list[str]:
        if not self.minus:
            return []
        return [f"{', '.join(self.minus)}: -1 was read as no score; with --invalid none it is one."]

    # ---- people and judges

    def _read(self, item: Item, cell: Cell, invalid: frozenset[float | str]) -> _Read:
        read = _Read(cell.order)
        for raw in cell.raw:
            if isinstance(raw, tuple):
                a, b = (self._number(cell.column, side, invalid) for side in raw)
                scores = (b[0], a[0]) if cell.turned else (a[0], b[0])
                if math.isnan(scores[0]) or math.isnan(scores[1]):
                    scores = (math.nan, math.nan)
                read.scores.append(scores)
                read.why_no_scores.append(a[1] or b[1])
            elif self.pairs:
                share, why = self._side(item, cell, raw)
                read.shares.append(share)
                read.why_no_share.append(why)
            else:
                value, why = self._number(cell.column, raw, invalid)
                read.shares.append(value)
                read.why_no_share.append(why)
        return read

    def marks(self, annotators: Sequence[str]) -> Floats:
        """What each annotator said, a column each; of a crowd, as many columns as an item has labels."""
        crowd = len(annotators) > _CROWD
        place = {name: i for i, name in enumerate(annotators)}
        every = [cell for item in self.items for cells in item.marks.values() for cell in cells]
        invalid = self._invalid("labels", every) if self._scored(every) else frozenset()
        width = max((len(item.marks) for item in self.items), default=0) if crowd else len(annotators)
        found = np.full((len(self.items), width), np.nan)
        scored: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
        for i, item in enumerate(self.items):
            for k, (name, cells) in enumerate(item.marks.items()):
                said = [self._mark(item, cell, invalid) for cell in cells]
                values = [share for share, _ in said if not math.isnan(share)]
                scored[i] += [scores for _, scores in said if scores is not None]
                if not values:
                    continue
                if self.pairs and len(set(values)) > 1:
                    if not (self.mapping.worker or self.mapping.people):
                        fix = "an annotator has one label for an item; name who labels with --worker"
                        self.problems.append(
                            Problem(item.where, f"{item.id!r} has two labels in {name!r}", fix)
                        )
                    continue
                found[i, k if crowd else place[name]] = fmean(values)
        for i, scores in scored.items():
            if scores:
                self.gold_scores[i] = [fmean(side) for side in zip(*scores, strict=True)]
        self._tell_unread()
        return found

    def _mark(
        self, item: Item, cell: Cell, invalid: frozenset[float | str]
    ) -> tuple[float, tuple[float, float] | None]:
        """What an annotator said: the share of a (or the score), and the scores of the two where there are any."""
        read = self._read(item, cell, invalid)
        if read.scores:
            share = float(share_of(np.array(read.scores[:1]))[0])
            return share, None if math.isnan(share) else read.scores[0]
        return (read.shares[0] if read.shares else math.nan), None

    def _scored(self, cells: Sequence[Cell]) -> bool:
        return not self.pairs or any(isinstance(raw, tuple) for cell in cells for raw in cell.raw)

    def judge(self, name: str, judge: Judge) -> JudgeTable:
        """What one judge said of every item."""
        n = len(self.items)
        every = [cell for item in self.items for cell in item.answers.get(name, ())]
        invalid = self._invalid(name, every) if self._scored(every) else frozenset()
        shares: defaultdict[str, Floats] = defaultdict(lambda: np.full(n, np.nan))
        scores: defaultdict[str, Floats] = defaultdict(lambda: np.full((n, 2), np.nan))
        repeats: list[Repeat] = []
        failed: Counter[str] = Counter()
        asked = 0
        costs = [judge.cost] if isinstance(judge.cost, int | float) else []
        for i, item in enumerate(self.items):
            by_order: defaultdict[str, list[_Read]] = defaultdict(list)
            for cell in item.answers.get(name, ()):
                by_order[cell.order].append(self._read(item, cell, invalid))
            if name in item.costs:
                costs.append(math.fsum(item.costs[name]))
            for order, reads in by_order.items():
                verdicts = [value for read in reads for value in read.shares]
                pairs = [value for read in reads for value in read.scores]
                no_share = [why for read in reads for why in read.why_no_share]
                no_scores = [why for read in reads for why in read.why_no_scores]
                # A reply that holds a verdict and scores is one reply, and has failed if it brought neither.
                for whys in zip_longest(no_share, no_scores):
                    asked += 1
                    if "" not in whys:
                        failed[next(why for why in whys if why)] += 1
                good = [value for value in verdicts if not math.isnan(value)]
                scored = [pair for pair in pairs if not math.isnan(pair[0])]
                if scored:
                    scores[order][i] = [fmean(side) for side in zip(*scored, strict=True)]
                if good:
                    shares[order][i] = fmean(good)
                elif scored:
                    shares[order][i] = share_of(scores[order][i : i + 1])[0]
                said = good or [pair[0] - pair[1] for pair in scored]
                if len(said) > 1:
                    repeats.append(Repeat(i, order, tuple(said)))
        self._tell_unread()
        built = JudgeTable(
            name,
            dict(sorted(shares.items())),
            dict(sorted(scores.items())),
            None,
            repeats,
            asked,
            dict(failed.most_common()),
            fmean(costs) if costs else self.mapping.costs.get(name),
            judge.family,
        )
        if self.pairs:
            return built if built.shares else replace(built, shares={"ab": np.full(n, np.nan)})
        # Scores of single responses that were shown first ("ab") or second.
        orders = list(built.shares.values()) or [np.full(n, np.nan)]
        return replace(
            built, shares=built.shares if len(orders) > 1 else {}, values=mean_mark(np.stack(orders, 1))
        )

    def _tell_unread(self) -> None:
        for column, values in self.unread.items():
            fix = "name the values that stand for no score with --invalid"
            self.problems.append(unreadable(column, values, fix))
        self.unread.clear()


def model_of(item: Item, name: str) -> str | None:
    value = item.facts.get(name)
    return None if value is None else str(value)
