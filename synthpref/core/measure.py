"""How well judges agree with people: the figures of `synthpref agree`, each with its interval. Pure.

Every function takes a Table and gives plain values, as agreement.json holds them. Items of one prompt are drawn
together in every bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpref.core.agreement import ratio
from synthpref.core.bootstrap import How, resampled_sums
from synthpref.core.intervals import (
    accuracy_estimate,
    alpha_estimate,
    kappa_estimate,
    kendall_estimate,
    share_estimate,
    spearman_estimate,
)
from synthpref.core.judged import (
    NONE,
    TIE,
    Codes,
    Floats,
    JudgeTable,
    Swap,
    Table,
    codes,
    mean_mark,
    mean_scores,
    one_verdict,
)

Figures = dict[str, Any]
Mask = NDArray[np.bool_]
FEW = 12
"""So many annotators or judges, and no more, are compared one with another by name."""


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
        every = [table.marks, *(judge.values for judge in table.judges if judge.values is not None)]
        lows = [float(np.nanmin(values)) for values in every if np.isfinite(values).any()]
        self._shift = max(0, math.ceil(-min(lows, default=0.0)) + 1)
        self.gold = self.labels(table.gold)
        self.verdicts = {judge.name: self.verdict(judge) for judge in table.judges}
        self.single = [judge.name for judge in table.judges if not judge.of_jurors]
        """Judges that are no jury of others that are there."""
        self.alone = len(set(table.prompts)) == len(table.prompts)

    def verdict(self, judge: JudgeTable) -> Codes:
        """The judge's label of each item: a, b or tie; of single responses its score, rounded."""
        return one_verdict(judge, self.settings.swap) if judge.values is None else self.labels(judge.values)

    def labels(self, values: Floats) -> Codes:
        """Shares as codes of a, b and tie; scores rounded to whole numbers, halves up. NONE for nothing. Below 0 there
        is no label but NONE, so a scale that goes there is moved up as a whole: labels are only compared."""
        if self.table.pairs:
            return codes(values)
        return np.where(np.isnan(values), NONE, np.floor(np.nan_to_num(values) + 0.5) + self._shift).astype(
            np.int64
        )

    # ---- intervals

    def how(self, mask: Mask) -> How:
        """What every interval over the items in the mask is made with."""
        prompts = self.table.prompts
        clusters = None if self.alone else [prompts[i] for i in np.flatnonzero(mask).tolist()]
        s = self.settings
        return {"clusters": clusters, "level": s.level, "resamples": s.resamples, "seed": s.seed}

    def accuracy(self, one: Codes, other: Codes, mask: Mask) -> Figures:
        return asdict(accuracy_estimate(one[mask].tolist(), other[mask].tolist(), **self.how(mask)))

    def kappa(self, one: Codes, other: Codes, mask: Mask) -> Figures:
        return asdict(kappa_estimate(one[mask].tolist(), other[mask].tolist(), **self.how(mask)))

    def share(self, hits: Mask, mask: Mask) -> Figures:
        """Of the items in the mask the share that are hits."""
        return asdict(share_estimate(hits[mask].astype(float).tolist(), **self.how(mask)))

    def mean(self, values: Floats, mask: Mask) -> Figures:
        """The mean of the values over the items in the mask."""
        return self.ratio(values, np.ones(len(values)), mask)

    def ratio(self, above: Floats, below: Floats, mask: Mask) -> Figures:
        """The sum of the one over the sum of the other, over the items in the mask."""
        rows = np.stack([above[mask], below[mask]], axis=1)
        found = resampled_sums(lambda sums: ratio(sums[:, 0], sums[:, 1]), rows, **self.how(mask))
        return asdict(found.estimate())

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
        lean = np.nan_to_num(mean_mark(table.marks), nan=0.5)
        how = self.how(there)
        x, y = (scores[:, 0] - scores[:, 1])[there].tolist(), lean[there].tolist()
        return self._each_score(judge) | {
            "by_gap": [
                {
                    "gap": name,
                    "share": float(part.sum() / max(there.sum(), 1)),
                    **self.accuracy(said, gold, part),
                }
                for name, part in _bands(gap, there)
            ],
            "kendall": asdict(kendall_estimate(x, y, **how)),
            "spearman": asdict(spearman_estimate(x, y, **how)),
        }

    def _each_score(self, judge: JudgeTable) -> Figures:
        """A judge's scores of all responses against people's."""
        gold = self.table.gold_scores
        if gold is None:
            return {}
        said = mean_scores(judge)
        both = ~np.isnan(said.sum(axis=1) + gold.sum(axis=1))
        how = self.how(both)
        how["clusters"] = [c for c in how.get("clusters") or range(int(both.sum())) for _ in range(2)]
        x, y = said[both].ravel().tolist(), gold[both].ravel().tolist()
        return {
            "score_kendall": asdict(kendall_estimate(x, y, **how)),
            "score_spearman": asdict(spearman_estimate(x, y, **how)),
        }

    def _scores(self, judge: JudgeTable) -> Figures:
        """Scores of single responses against people's."""
        table = self.table
        said = judge.values if judge.values is not None else np.full(len(table.ids), np.nan)
        both = ~np.isnan(said) & ~np.isnan(table.gold)
        how = self.how(both)
        x, y = said[both].tolist(), table.gold[both].tolist()
        close = np.abs(self.labels(said) - self.gold) <= 1
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


def within_prompts(said: Floats, gold: Floats, prompts: Sequence[str]) -> tuple[float, int]:
    """Of the responses to one prompt that people scored differently, taken two at a time: how many the judge puts in
    the same order, equal scores as half, and how many there are."""
    by_prompt: dict[str, list[int]] = {}
    for i in np.flatnonzero(~np.isnan(said) & ~np.isnan(gold)).tolist():
        by_prompt.setdefault(prompts[i], []).append(i)
    right, n = 0.0, 0
    for items in by_prompt.values():
        x, y = said[items], gold[items]
        order, truth = (np.sign(side[:, None] - side[None, :]) for side in (x, y))
        upper = np.triu(truth != 0, 1)
        n += int(upper.sum())
        right += float(np.where(order == 0, 0.5, order == truth)[upper].sum())
    return right, n


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
            (
                f"{low:.3g} to {high:.3g}",
                there & (gap >= low) & ((gap < high) | ((i == last) & (gap <= high))),
            )
            for i, (low, high) in enumerate(pairwise(edges))
        ]
    return [(name, part) for name, part in bands if part.any()]


def present(row: Floats) -> list[float]:
    return [float(value) for value in row if not np.isnan(value)]
