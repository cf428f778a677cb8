"""People as a yardstick: how well annotators agree among themselves, and a judge with each of them. Pure."""

from __future__ import annotations

from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpref.core.agreement import kappa
from synthpref.core.intervals import alpha_estimate
from synthpref.core.judged import NONE, TIE, Codes, Floats, JudgeTable
from synthpref.core.measure import FEW, Figures, Measure, present
from synthpref.core.stats import mean


def among_people(measure: Measure) -> Figures:
    """How well the annotators agree among themselves."""
    table = measure.table
    labels = measure.labels(table.marks)
    there = labels != NONE
    per_item = there.sum(axis=1)
    labelled = per_item > 0
    found: Figures = {
        "annotators": len(table.annotators),
        "labels": int(there.sum()),
        "labelled": int(table.labelled.sum()),
        "no_majority": int((labelled & ~table.labelled).sum()),
    }
    if table.pairs:
        shares = {
            side: int((measure.gold == code).sum()) for side, code in (("a", 0), ("b", 1), ("tie", TIE))
        }
        found["gold"] = shares
    if int((per_item > 1).sum()) == 0:
        return found
    several = per_item > 1
    units = [present(row) for row in table.marks[several]]
    kind: Any = "nominal" if table.pairs else "interval"
    found["alpha"] = asdict(alpha_estimate(units, kind, **measure.how(several)))
    found["unanimous"] = measure.share(
        np.array([len(set(present(row))) == 1 for row in table.marks]), several
    )
    found["kappa_pooled"] = pooled_kappa(labels)
    if len(table.annotators) <= FEW:
        each = {}
        for i, j in combinations(range(len(table.annotators)), 2):
            both = there[:, i] & there[:, j]
            if both.any():
                names = f"{table.annotators[i]}, {table.annotators[j]}"
                each[names] = measure.kappa(labels[:, i], labels[:, j], both)
        found["kappas"] = each
        known = [figure["value"] for figure in each.values() if figure["value"] is not None]
        found["kappa_mean"] = mean(known) if known else None
    return found


def with_people(measure: Measure, judge: JudgeTable) -> Figures:
    """A judge against each annotator, and where all of them agree against where they do not."""
    table, said = measure.table, measure.verdicts[judge.name]
    marks = measure.labels(table.marks)
    there = marks != NONE
    if int((there.sum(axis=1) > 1).sum()) == 0:
        return {}
    found: Figures = {"kappa_pooled": judge_pooled_kappa(said, marks)}
    if len(table.annotators) <= FEW:
        each = {
            name: kappa(said[both].tolist(), marks[both, i].tolist())
            for i, name in enumerate(table.annotators)
            if (both := there[:, i] & (said != NONE)).any()
        }
        known = [value for value in each.values() if value is not None]
        found |= {"kappas": each, "kappa_mean": mean(known) if known else None}
    one = np.array([len(set(present(row))) == 1 for row in table.marks]) & (there.sum(axis=1) > 1)
    both = (said != NONE) & (measure.gold != NONE) & (there.sum(axis=1) > 1)
    found["unanimous"] = measure.accuracy(said, measure.gold, both & one)
    found["split"] = measure.accuracy(said, measure.gold, both & ~one)
    return found


def pooled_kappa(marks: Codes) -> float | None:
    """Kappa between any two annotators of an item: every ordered pair of labels of an item is one, weighted so that
    each item counts as often as it was labelled."""
    cells = _cells_of(marks)
    size = cells.shape[1]
    per_item = np.array([row.sum() for row in cells])
    kept = per_item > 1
    if not kept.any():
        return None
    counts, m = cells[kept].astype(float), per_item[kept].astype(float)
    weights = 1 / (m - 1)
    joint = np.einsum("i,ij,ik->jk", weights, counts, counts)
    joint[np.arange(size), np.arange(size)] -= (weights[:, None] * counts).sum(axis=0)
    return _kappa_of(joint)


def judge_pooled_kappa(said: Codes, marks: Codes) -> float | None:
    """Kappa between the judge and any one annotator: each label of an item is set against the judge's."""
    there = said != NONE
    names = np.unique(np.concatenate([marks[marks != NONE], said[there]]))
    if not len(names):
        return None
    counts = np.stack([(marks[there] == name).sum(axis=1) for name in names], axis=1).astype(float)
    place = np.searchsorted(names, said[there])
    joint = np.zeros((len(names), len(names)))
    np.add.at(joint, place, counts)
    return _kappa_of(joint)


def _kappa_of(joint: Floats) -> float | None:
    n = joint.sum()
    chance = float((joint.sum(axis=0) * joint.sum(axis=1)).sum() / n**2) if n else 1.0
    return None if chance >= 1 else float((np.trace(joint) / n - chance) / (1 - chance))


def _cells_of(marks: Codes) -> NDArray[np.int64]:
    """How often each label was given to each item."""
    names = np.unique(marks[marks != NONE])
    if not len(names):
        return np.zeros((len(marks), 1), np.int64)
    return np.stack([(marks == name).sum(axis=1) for name in names], axis=1)
