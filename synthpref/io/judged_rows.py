"""Rows of two samples that a recipe's stages have judged -> what each of its judges said, as for any recorded judge.

Every score and every comparison is a judge, and so is each juror behind it, under `NAME/JUROR`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np

from synthpref.core.judged import FLIP, Floats, JudgeTable, Repeat, share_of
from synthpref.core.types import Comparison, Row, Score, Vote
from synthpref.core.votes import by_juror

NO_ROW = "the row was dropped or rejected"


class _Said:
    """What one judge said so far."""

    def __init__(self, items: int) -> None:
        self.shares: defaultdict[str, Floats] = defaultdict(lambda: np.full(items, np.nan))
        self.scores = np.full((items, 2), np.nan)
        self.repeats: list[Repeat] = []
        self.failed: Counter[str] = Counter()
        self.asked = self.calls = 0
        self.seen: set[int] = set()
        self.models: Counter[str] = Counter()
        self.of_jurors = False

    def count(self, item: int, votes: Iterable[Vote]) -> None:
        self.seen.add(item)
        for vote in votes:
            if vote.asked:
                self.asked += 1
                self.models[vote.judge] += 1
            if vote.failed:
                self.failed[_short(vote.why)] += 1

    def score(self, item: int, both: tuple[float | None, float | None]) -> None:
        if None not in both:
            self.scores[item] = both


def judges_of(
    rows: Iterable[Row], ids: Sequence[str], costs: Mapping[str, float | None] | None = None
) -> list[JudgeTable]:
    """Each judge of the rows, by the items called `ids`. `costs` are USD a reply, by model."""
    place = {name: i for i, name in enumerate(ids)}
    found: dict[str, _Said] = {}

    def said(name: str) -> _Said:
        return found.setdefault(name, _Said(len(ids)))

    for row in rows:
        item = place[row.id]
        compared = {c.name for c in row.comparisons}
        for comparison in row.comparisons:
            if {comparison.a, comparison.b} == {0, 1}:
                _compared(said, item, comparison)
        for name in dict.fromkeys(name for sample in row.samples[:2] for name in sample.scores):
            if name not in compared and len(row.samples) >= 2:
                _scored(said, name, item, [sample.scores.get(name) for sample in row.samples[:2]])
    return [_table(name, one, len(ids), costs or {}) for name, one in found.items()]


def _compared(said: Callable[[str], _Said], item: int, comparison: Comparison) -> None:
    turned = comparison.a == 1
    whole = said(comparison.name)
    whole.count(item, comparison.votes)
    jurors = by_juror(comparison.votes)
    for order, votes in _by_order(comparison.votes, turned).items():
        if len(jurors) == 1:
            _votes(whole, item, order, votes, turned)
    if len(jurors) != 1 and comparison.p is not None:
        whole.shares["ab"][item] = 1 - comparison.p if turned else comparison.p
    whole.of_jurors |= len(jurors) > 1
    for juror, mine in jurors.items() if len(jurors) > 1 else ():
        one = said(f"{comparison.name}/{juror}")
        one.count(item, mine)
        for order, votes in _by_order(mine, turned).items():
            _votes(one, item, order, votes, turned)


def _votes(one: _Said, item: int, order: str, votes: Sequence[Vote], turned: bool) -> None:
    values = [1 - v.value if turned else v.value for v in votes if v.value is not None]
    if values:
        one.shares[order][item] = fmean(values)
    if len(values) > 1:
        one.repeats.append(Repeat(item, order, tuple(values)))


def _scored(said: Callable[[str], _Said], name: str, item: int, both: Sequence[Score | None]) -> None:
    whole = said(name)
    scores = [score or Score(None, "not scored") for score in both]
    votes = [score.votes for score in scores]
    whole.count(item, [vote for side in votes for vote in side])
    if not any(votes):
        whole.asked += 1
        whys = [score.why for score in scores if score.why]
        whole.failed.update([_short(whys[0])] if whys else [])
    whole.score(item, (scores[0].value, scores[1].value))
    jurors = [by_juror(side) for side in votes]
    names = list(dict.fromkeys([*jurors[0], *jurors[1]]))
    if len(names) == 1:
        _repeated(whole, item, votes)
    whole.of_jurors |= len(names) > 1
    for juror in names if len(names) > 1 else ():
        one = said(f"{name}/{juror}")
        mine = [side.get(juror, []) for side in jurors]
        one.count(item, [*mine[0], *mine[1]])
        one.score(item, (_mean(mine[0]), _mean(mine[1])))
        _repeated(one, item, mine)


def _repeated(one: _Said, item: int, votes: Sequence[Sequence[Vote]]) -> None:
    values = [[vote.value for vote in side if vote.value is not None] for side in votes]
    pairs = list(zip(*values, strict=False))
    if len(pairs) > 1:
        one.repeats.append(Repeat(item, "ab", tuple(a - b for a, b in pairs)))


def _table(name: str, one: _Said, items: int, costs: Mapping[str, float | None]) -> JudgeTable:
    missing = items - len(one.seen)
    if missing:
        one.failed[NO_ROW] += missing
    scored = not np.isnan(one.scores).all()
    shares = dict(sorted(one.shares.items())) or {"ab": share_of(one.scores)}
    spent = [costs.get(model) for model in one.models]
    cost = None
    if one.models and all(price is not None for price in spent) and one.seen:
        cost = math.fsum((costs[m] or 0.0) * n for m, n in one.models.items()) / len(one.seen)
    return JudgeTable(
        name,
        shares,
        {"ab": one.scores} if scored else {},
        None,
        one.repeats,
        one.asked + missing,
        dict(one.failed.most_common()),
        cost,
        of_jurors=one.of_jurors,
    )


def _by_order(votes: Iterable[Vote], turned: bool) -> dict[str, list[Vote]]:
    found: dict[str, list[Vote]] = {}
    for vote in votes:
        shown = vote.shown if vote.shown in FLIP else "ab"
        found.setdefault(FLIP[shown] if turned else shown, []).append(vote)
    return found


def _mean(votes: Sequence[Vote]) -> float | None:
    values = [vote.value for vote in votes if vote.value is not None]
    return fmean(values) if values else None


def _short(why: str | None) -> str:
    return (why or "no reason given").split("\n")[0][:80]
