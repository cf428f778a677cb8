"""How well judges agree with people: the figures of `synthpref agree`, each with its interval. Pure.

Every function takes a Table and gives plain values, as agreement.json holds them. Items of one prompt are drawn
together in every bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpref.core.agreement import kappa, ratio
from synthpref.core.intervals import (
    Estimate,
    accuracy_estimate,
    alpha_estimate,
    bootstrap,
    holm,
    kappa_difference,
    kappa_estimate,
    kendall_estimate,
    mcnemar,
    spearman_estimate,
)
from synthpref.core.stats import mean
from synthpref.core.verdicts import NONE, TIE, Codes, Floats, JudgeTable, Swap, Table, codes, mean_scores, one_verdict

Figures = dict[str, Any]
Mask = NDArray[np.bool_]
FEW = 12
"""So many annotators or judges are compared one with another by name."""


@dataclass(frozen=True)
class Settings:
    """How intervals are made, and how two orders become a verdict."""

    swap: Swap = "average"
    level: float = 0.95
    resamples: int = 1000
    seed: int = 0


class Measure:
    """The figures of a table."""

    def __init__(self, table: Table, settings: Settings | None = None) -> None:
        self.table = table
        self.settings = settings or Settings()
        self.gold = codes(table.gold) if table.pairs else _rounded(table.gold)
        self.verdicts = {judge.name: self.verdict(judge) for judge in table.judges}
        self.alone = len(set(table.prompts)) == len(table.prompts)

    def verdict(self, judge: JudgeTable) -> Codes:
        """The judge's label of each item: a, b or tie; of single responses its score, rounded."""
        return one_verdict(judge, self.settings.swap) if judge.values is None else _rounded(judge.values)

    # ---- intervals

    def how(self, mask: Mask) -> dict[str, Any]:
        """What every interval over the items in the mask is made with."""
        prompts = self.table.prompts
        clusters = None if self.alone else [prompts[i] for i in np.flatnonzero(mask)]
        s = self.settings
        return {"clusters": clusters, "level": s.level, "resamples": s.resamples, "seed": s.seed}

    def accuracy(self, one: Codes, other: Codes, mask: Mask) -> Figures:
        return asdict(accuracy_estimate(one[mask].tolist(), other[mask].tolist(), **self.how(mask)))

    def kappa(self, one: Codes, other: Codes, mask: Mask) -> Figures:
        return asdict(kappa_estimate(one[mask].tolist(), other[mask].tolist(), **self.how(mask)))

    def share(self, hits: Mask, mask: Mask) -> Figures:
        """Of the items in the mask the share that are hits."""
        return self.mean(hits.astype(float), mask)

    def mean(self, values: Floats, mask: Mask) -> Figures:
        """The mean of the values over the items in the mask."""
        kept = values[mask]

        def of(weights: Floats) -> Floats:
            return ratio(weights @ kept, weights.sum(axis=1))

        return asdict(bootstrap(of, len(kept), **self.how(mask)))

    # ---- one judge against the labels

    def agreement(self, judge: JudgeTable) -> Figures:
        """How often the judge's verdicts are the labels."""
        said, gold = self.verdicts[judge.name], self.gold
        both = (said != NONE) & (gold != NONE)
        found: Figures = {
            "labelled_and_judged": int(both.sum()),
            "accuracy": self.accuracy(said, gold, both),
            "kappa": self.kappa(said, gold, both),
        }
        if not self.table.pairs:
            return found | self._scores(judge)
        decided = both & (said != TIE) & (gold != TIE)
        by_label = both & (gold != TIE)
        credit = np.where(said == TIE, 0.5, (said == gold).astype(float))
        found |= {
            "accuracy_two_way": self.accuracy(said, gold, decided),
            "kappa_two_way": self.kappa(said, gold, decided),
            "credit": self.mean(credit, by_label),
        }
        if len(judge.shares) > 1:
            found["by_order"] = {}
            for order, shares in judge.shares.items():
                ordered = codes(shares)
                there = (ordered != NONE) & (gold != NONE)
                found["by_order"][order] = {
                    "accuracy": self.accuracy(ordered, gold, there),
                    "kappa": self.kappa(ordered, gold, there),
                }
        return found | self._gaps(judge, both)

    def _gaps(self, judge: JudgeTable, both: Mask) -> Figures:
        """For a judge with scores: agreement by how far apart they are, and their order against the labels'."""
        if not judge.scores:
            return {}
        said, gold, table = self.verdicts[judge.name], self.gold, self.table
        scores = mean_scores(judge)
        gap = np.abs(scores[:, 0] - scores[:, 1])
        there = both & ~np.isnan(gap)
        lean = np.nan_to_num(_row_means(table.marks), nan=0.5)
        how = self.how(there)
        x, y = (scores[:, 0] - scores[:, 1])[there].tolist(), lean[there].tolist()
        return {
            "by_gap": [
                {"gap": name, "share": float(part.sum() / max(there.sum(), 1)), **self.accuracy(said, gold, part)}
                for name, part in _bands(gap, there)
            ],
            "kendall": asdict(kendall_estimate(x, y, **how)),
            "spearman": asdict(spearman_estimate(x, y, **how)),
        }

    def _scores(self, judge: JudgeTable) -> Figures:
        """Scores of single responses against people's."""
        table = self.table
        said = judge.values if judge.values is not None else np.full(len(table.ids), np.nan)
        both = ~np.isnan(said) & ~np.isnan(table.gold)
        how = self.how(both)
        x, y = said[both].tolist(), table.gold[both].tolist()
        close = np.abs(_rounded(said).astype(float) - _rounded(table.gold)) <= 1
        right, pairs = within_prompts(said, table.gold, table.prompts)
        return {
            "within_one": self.share(close, both),
            "alpha": asdict(alpha_estimate(list(zip(x, y, strict=True)), "interval", **how)),
            "kendall": asdict(kendall_estimate(x, y, **how)),
            "spearman": asdict(spearman_estimate(x, y, **how)),
            "mean_difference": self.mean(said - table.gold, both),
            "mean_absolute_difference": self.mean(np.abs(said - table.gold), both),
            "same_prompt_pairs": {"n": pairs, "accuracy": right / pairs if pairs else None},
        }

    # ---- people

    def people(self) -> Figures:
        """How well the annotators agree among themselves."""
        table = self.table
        marks = codes(table.marks) if table.pairs else table.marks
        there = marks != NONE if table.pairs else ~np.isnan(table.marks)
        per_item = there.sum(axis=1)
        labelled = per_item > 0
        found: Figures = {
            "annotators": len(table.annotators),
            "labels": int(there.sum()),
            "labelled": int(table.labelled.sum()),
            "no_majority": int((labelled & ~table.labelled).sum()),
        }
        if table.pairs:
            shares = {side: int((self.gold == code).sum()) for side, code in (("a", 0), ("b", 1), ("tie", TIE))}
            found["gold"] = shares
        if int((per_item > 1).sum()) == 0:
            return found
        several = per_item > 1
        units = [_present(row) for row in table.marks[several]]
        kind: Any = "nominal" if table.pairs else "interval"
        found["alpha"] = asdict(alpha_estimate(units, kind, **self.how(several)))
        found["unanimous"] = self.share(
            np.array([len(set(_present(row))) == 1 for row in table.marks]), several
        )
        labels = marks if table.pairs else _rounded(table.marks)
        found["kappa_pooled"] = pooled_kappa(labels)
        if len(table.annotators) <= FEW:
            each = {}
            for i, j in combinations(range(len(table.annotators)), 2):
                both = there[:, i] & there[:, j]
                if both.any():
                    names = f"{table.annotators[i]}, {table.annotators[j]}"
                    each[names] = self.kappa(labels[:, i], labels[:, j], both)
            found["kappas"] = each
            known = [figure["value"] for figure in each.values() if figure["value"] is not None]
            found["kappa_mean"] = mean(known) if known else None
        return found

    def with_people(self, judge: JudgeTable) -> Figures:
        """A judge against each annotator, and where all of them agree against where they do not."""
        table, said = self.table, self.verdicts[judge.name]
        marks = codes(table.marks) if table.pairs else _rounded(table.marks)
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
        one = np.array([len(set(_present(row))) == 1 for row in table.marks]) & (there.sum(axis=1) > 1)
        both = (said != NONE) & (self.gold != NONE) & (there.sum(axis=1) > 1)
        found["unanimous"] = self.accuracy(said, self.gold, both & one)
        found["split"] = self.accuracy(said, self.gold, both & ~one)
        return found

    # ---- judges against each other

    def between(self) -> Figures:
        """How well the judges agree among themselves."""
        names = list(self.verdicts)
        if len(names) < 2:
            return {}
        stacked = np.stack([self.verdicts[name] for name in names], axis=1)
        several = (stacked != NONE).sum(axis=1) > 1
        units = [[int(v) for v in row if v != NONE] for row in stacked[several]]
        kind: Any = "nominal" if self.table.pairs else "interval"
        found: Figures = {"alpha": asdict(alpha_estimate(units, kind, **self.how(several)))}
        if len(names) <= FEW:
            each = {}
            for i, j in combinations(range(len(names)), 2):
                both = (stacked[:, i] != NONE) & (stacked[:, j] != NONE)
                each[f"{names[i]}, {names[j]}"] = kappa(stacked[both, i].tolist(), stacked[both, j].tolist())
            found["kappas"] = each
        return found

    def agreed(self) -> list[Figures]:
        """What is left, and how right it is, when only those items are kept on which at least k of the judges name
        one label, and no other label so often."""
        names = list(self.verdicts)
        m = len(names)
        labelled = self.gold != NONE
        if m < 2 or not labelled.any() or not self.table.pairs:
            return []
        stacked = np.stack([self.verdicts[name] for name in names], axis=1)
        counts = np.stack([(stacked == side).sum(axis=1) for side in range(3)], axis=1)
        winner, most = counts.argmax(axis=1).astype(np.int8), counts.max(axis=1)
        alone = (counts == most[:, None]).sum(axis=1) == 1
        steps = sorted({round(k) for k in np.linspace(max(1, m // 2), m, min(m - m // 2 + 1, FEW))})
        found = []
        for k in steps:
            kept = labelled & alone & (most >= k)
            coverage = self.share(kept, labelled)
            found.append(
                {"at_least": k, "of": m, "coverage": coverage, "accuracy": self.accuracy(winner, self.gold, kept)}
            )
        return found

    def ranking(self) -> list[Figures]:
        """Every judge against the one with the highest kappa, on the items that both judged: the difference with
        its interval, and p values adjusted for how many comparisons there are (Holm, 1979)."""
        kappas = {}
        for name, said in self.verdicts.items():
            both = (said != NONE) & (self.gold != NONE)
            value = kappa(said[both].tolist(), self.gold[both].tolist()) if both.any() else None
            if value is not None:
                kappas[name] = value
        if len(kappas) < 2:
            return []
        best = max(kappas, key=lambda name: kappas[name])
        others = sorted((name for name in kappas if name != best), key=lambda name: -kappas[name])
        found = [self.compared(best, name, self.verdicts[best], self.verdicts[name]) for name in others]
        return adjusted(found)

    def compared(self, first: str, second: str, one: Codes, other: Codes) -> Figures:
        """Two raters on the same items: McNemar's exact test of accuracy, a paired bootstrap of kappa."""
        gold = self.gold
        mask = (one != NONE) & (other != NONE) & (gold != NONE)
        right, also = one[mask] == gold[mask], other[mask] == gold[mask]
        only = int((right & ~also).sum()), int((also & ~right).sum())
        lists = (one[mask].tolist(), other[mask].tolist(), gold[mask].tolist())
        difference = kappa_difference(*lists, **self.how(mask))
        return {
            "first": first,
            "second": second,
            "n": int(mask.sum()),
            "accuracy_difference": (only[0] - only[1]) / max(int(mask.sum()), 1),
            "only_first_right": only[0],
            "only_second_right": only[1],
            "p_accuracy": mcnemar(*only),
            "kappa_difference": asdict(difference),
        }


def adjusted(found: list[Figures]) -> list[Figures]:
    """Comparisons with p values adjusted together, those of accuracy and those of kappa; and the word for it."""
    p_accuracy = holm([line["p_accuracy"] for line in found])
    known = [i for i, line in enumerate(found) if line["kappa_difference"]["p"] is not None]
    p_kappa = dict(zip(known, holm([found[i]["kappa_difference"]["p"] for i in known]), strict=True))
    return [
        {
            **line,
            "p_accuracy_adjusted": p_accuracy[i],
            "p_kappa_adjusted": p_kappa.get(i),
            "better": p_kappa.get(i, 1.0) <= 0.05,
        }
        for i, line in enumerate(found)
    ]


def estimate(found: Estimate) -> Figures:
    return asdict(found)


def within_prompts(said: Floats, gold: Floats, prompts: Sequence[str]) -> tuple[float, int]:
    """Of the responses to one prompt that people scored differently, taken two at a time: how many the judge puts in
    the same order, equal scores as half, and how many there are."""
    by_prompt: dict[str, list[int]] = {}
    for i in np.flatnonzero(~np.isnan(said) & ~np.isnan(gold)):
        by_prompt.setdefault(prompts[i], []).append(int(i))
    right, n = 0.0, 0
    for items in by_prompt.values():
        x, y = said[items], gold[items]
        order, truth = (np.sign(side[:, None] - side[None, :]) for side in (x, y))
        upper = np.triu(truth != 0, 1)
        n += int(upper.sum())
        right += float(np.where(order == 0, 0.5, order == truth)[upper].sum())
    return right, n


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


def _bands(gap: Floats, there: Mask) -> list[tuple[str, Mask]]:
    """Bands of score gaps: whole numbers up to 5 where the gaps are mostly such, else five of equal count."""
    seen = gap[there]
    if not len(seen):
        return []
    if np.mean(seen == np.round(seen)) > 0.9 and seen.max() <= 20:
        bands = [(f"{k}", there & (np.floor(gap + 0.5) == k)) for k in range(5)]
        bands.append(("5 or more", there & (np.floor(gap + 0.5) >= 5)))
    else:
        edges = np.unique(np.quantile(seen, [0, 0.2, 0.4, 0.6, 0.8, 1]))
        if len(edges) < 2:
            return [(f"{edges[0]:.3g}", there)]
        last = len(edges) - 2
        bands = [
            (f"{low:.3g} to {high:.3g}", there & (gap >= low) & ((gap < high) | ((i == last) & (gap <= high))))
            for i, (low, high) in enumerate(zip(edges, edges[1:], strict=False))
        ]
    return [(name, part) for name, part in bands if part.any()]


def _rounded(values: Floats) -> Codes:
    """Scores to whole numbers, halves up; NaN as no label. As labels they have room for large scales."""
    found: Any = np.where(np.isnan(values), np.nan, np.floor(values + 0.5))
    low = np.nanmin(found) if np.isfinite(found).any() else 0.0
    # -1 stands for no label, so a scale that goes below 0 is moved up: labels are only compared.
    shift = -low if low < 0 else 0.0
    labels: Any = np.where(np.isnan(found), NONE, found + shift).astype(np.int64)
    return labels  # type: ignore[no-any-return]


def _row_means(marks: Floats) -> Floats:
    there = ~np.isnan(marks)
    count = there.sum(axis=1)
    return np.where(count > 0, np.where(there, marks, 0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _present(row: Floats) -> list[float]:
    return [float(value) for value in row if not np.isnan(value)]
