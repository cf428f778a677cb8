"""Judges set against each other: how well they agree, what is left where they do, and whether one is better. Pure."""

from __future__ import annotations

from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from synthpref.core.agreement import kappa
from synthpref.core.intervals import accuracy_difference, alpha_estimate, holm, kappa_difference, mcnemar
from synthpref.core.judged import NONE, Codes
from synthpref.core.measure import FEW, Figures, Measure


def between(measure: Measure) -> Figures:
    """How well the judges agree among themselves."""
    names = measure.single
    if len(names) < 2:
        return {}
    stacked = np.stack([measure.verdicts[name] for name in names], axis=1)
    several = (stacked != NONE).sum(axis=1) > 1
    units = [[int(v) for v in row if v != NONE] for row in stacked[several]]
    kind: Any = "nominal" if measure.table.pairs else "interval"
    found: Figures = {"alpha": asdict(alpha_estimate(units, kind, **measure.how(several)))}
    if len(names) <= FEW:
        each = {}
        for i, j in combinations(range(len(names)), 2):
            both = (stacked[:, i] != NONE) & (stacked[:, j] != NONE)
            each[f"{names[i]}, {names[j]}"] = kappa(stacked[both, i].tolist(), stacked[both, j].tolist())
        found["kappas"] = each
    return found


def agreed(measure: Measure) -> list[Figures]:
    """What is left, and how right it is, when only those items are kept on which at least k of the judges name
    one label, and no other label so often."""
    names = measure.single
    m = len(names)
    labelled = measure.gold != NONE
    if m < 2 or not labelled.any() or not measure.table.pairs:
        return []
    stacked = np.stack([measure.verdicts[name] for name in names], axis=1)
    counts = np.stack([(stacked == side).sum(axis=1) for side in range(3)], axis=1)
    winner, most = counts.argmax(axis=1).astype(np.int64), counts.max(axis=1)
    alone = (counts == most[:, None]).sum(axis=1) == 1
    steps = sorted({round(k) for k in np.linspace(max(1, m // 2), m, min(m - m // 2 + 1, FEW))})
    found = []
    for k in steps:
        kept = labelled & alone & (most >= k)
        coverage = measure.share(kept, labelled)
        found.append(
            {
                "at_least": k,
                "of": m,
                "coverage": coverage,
                "accuracy": measure.accuracy(winner, measure.gold, kept),
            }
        )
    return found


def ranking(measure: Measure) -> list[Figures]:
    """Every judge against the one with the highest kappa, on the items that both judged: the difference with
    its interval, and p values adjusted for how many pairs of judges there are (Holm, 1979)."""
    kappas, counts = {}, {}
    for name, said in measure.verdicts.items():
        both = (said != NONE) & (measure.gold != NONE)
        value = kappa(said[both].tolist(), measure.gold[both].tolist()) if both.any() else None
        if value is not None:
            kappas[name], counts[name] = value, int(both.sum())
    if len(kappas) < 2:
        return []
    # Who judged only a few of the items is not the best by them.
    most = max(counts.values())
    best = max((name for name in kappas if 2 * counts[name] >= most), key=lambda name: kappas[name])
    others = sorted((name for name in kappas if name != best), key=lambda name: -kappas[name])
    found = [compared(measure, best, name, measure.verdicts[best], measure.verdicts[name]) for name in others]
    # Which one is the best was found by looking at all pairs of them.
    return adjusted(found, len(kappas) * (len(kappas) - 1) // 2)


def compared(measure: Measure, first: str, second: str, one: Codes, other: Codes) -> Figures:
    """Two raters on the same items: McNemar's exact test of accuracy, which takes items for independent, and a paired
    bootstrap of kappa and of accuracy, which heeds prompts."""
    gold = measure.gold
    mask = (one != NONE) & (other != NONE) & (gold != NONE)
    right, also = one[mask] == gold[mask], other[mask] == gold[mask]
    only = int((right & ~also).sum()), int((also & ~right).sum())
    lists = (one[mask].tolist(), other[mask].tolist(), gold[mask].tolist())
    how = measure.how(mask)
    return {
        "first": first,
        "second": second,
        "n": int(mask.sum()),
        "accuracy_difference": asdict(accuracy_difference(*lists, **how)),
        "only_first_right": only[0],
        "only_second_right": only[1],
        "p_accuracy": mcnemar(*only),
        "kappa_difference": asdict(kappa_difference(*lists, **how)),
    }


def adjusted(found: list[Figures], among: int = 0) -> list[Figures]:
    """Comparisons with p values adjusted together (Holm), those of accuracy and those of kappa; and the word for it.
    `among` is of how many comparisons these are a part, the others being taken as showing nothing."""
    p_accuracy = _holm([line["p_accuracy"] for line in found], among)
    known = [i for i, line in enumerate(found) if line["kappa_difference"]["p"] is not None]
    p_kappa = dict(zip(known, _holm([found[i]["kappa_difference"]["p"] for i in known], among), strict=True))
    return [
        {
            **line,
            "p_accuracy_adjusted": p_accuracy[i],
            "p_kappa_adjusted": p_kappa.get(i),
            "better": p_kappa.get(i, 1.0) <= 0.05,
        }
        for i, line in enumerate(found)
    ]


def _holm(ps: list[float], among: int) -> list[float]:
    return holm([*ps, *[1.0] * (among - len(ps))])[: len(ps)]
