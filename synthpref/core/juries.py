"""Every jury that can be made of some judges, and which of them to take. Pure.

The best of many juries on one sample of labels looks better than it is, so the figure to expect of it is found by
choosing on one half of the prompts and measuring on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpref.core.agreement import kappa_of, ratio
from synthpref.core.intervals import holm
from synthpref.core.judged import NONE, TIE, Codes, Floats
from synthpref.core.jury_votes import RULES, Panel, blocks, jury_labels, panel_of, subsets, too_many
from synthpref.core.measure import Figures, Measure
from synthpref.core.panel import adjusted, compared

RESAMPLES = 400
"""Of the prompts, for the test of the best jury."""


@dataclass(frozen=True)
class Choice:
    """Which juries to look at, by which rule."""

    judges: tuple[str, ...] = ()
    """Those to choose from; all where there are at most ten."""
    sizes: tuple[int, ...] = ()
    """Jurors a jury; all sizes where none is given."""
    rule: str = "multimode"
    splits: int = 100
    """Halvings of the prompts for the figure to expect."""


def best_juries(measure: Measure, choice: Choice) -> Figures:
    """All juries by size; the best, what to expect of it, and the cheapest that is not significantly worse."""
    names = tuple(choice.judges or measure.single)
    if unknown := [name for name in names if name not in measure.verdicts]:
        return {"skipped": f"there is no judge {unknown[0]!r}; there is: {', '.join(measure.verdicts)}"}
    if len(names) < 2 or not measure.table.pairs or not (measure.gold != NONE).any():
        return {}
    measure, note = _on_common_items(measure, names)
    if not (measure.gold != NONE).any():
        return {"skipped": note}
    if (count := too_many(names, choice.sizes)) > 0:
        return {
            "skipped": f"{len(names)} judges make {count:,} juries: name some with --jurors, or give --sizes"
        }
    juries = subsets(len(names), choice.sizes)
    sizes = np.array([len(jury) for jury in juries])
    panel = panel_of(measure, names)
    rules = [name for name in RULES if name != "scores" or panel.gaps is not None]
    if choice.rule not in rules:
        return {"skipped": f"the rule {choice.rule!r} needs scores of every juror"}
    by_rule = {}
    for rule in rules:
        of_rule = _figures(measure, panel, juries, rule)
        by_rule[rule] = {
            str(size): _summary(names, juries, sizes == size, of_rule.kappa, of_rule.accuracy)
            for size in np.unique(sizes).tolist()
        }
    weights, splits = _weightings(measure, len(juries), choice.splits)
    figures = _figures(measure, panel, juries, choice.rule, weights)
    # A jury that has labels for only a few of the items is not the best by them.
    kappas = np.where(2 * figures.n >= figures.n.max(), figures.kappa, np.nan)
    accuracies = figures.accuracy
    if np.isnan(kappas).all():
        return {"skipped": "no jury has a kappa: the labels are all one, or no item is judged"}
    costs, unit = _costs(measure, names, juries)
    order = np.lexsort((costs, -np.nan_to_num(kappas, nan=-9)))
    best = int(order[0])
    lone = int(np.flatnonzero(sizes == 1)[np.nanargmax(np.nan_to_num(kappas[sizes == 1], nan=-9))])
    found: Figures = {"rule": choice.rule, "judges": list(names), "juries": len(juries), "cost_unit": unit}
    found |= {"items_note": note} if note else {}
    describe = _describer(measure, panel, juries, choice.rule, costs)
    found["by_size"] = []
    for size in np.unique(sizes).tolist():
        of_size = np.flatnonzero(sizes == size)
        summary = _summary(names, juries, sizes == size, kappas, accuracies)
        top = int(of_size[np.argmax(np.nan_to_num(kappas[of_size], nan=-9))])
        found["by_size"].append({"size": size, **summary, "best": describe(top)})
    found |= {"by_rule": by_rule, "best": describe(best), "best_single": describe(lone)}
    inside, outside, resampled = np.split(figures.weighted, [splits, 2 * splits])
    found["expected"] = _expected(inside, outside, sizes == 1)
    rivals = [i for i in _frontier(costs, kappas) if i != best]
    rivals += [lone] if lone not in (best, *rivals) and not np.isnan(kappas[lone]) else []
    labels = {i: jury_labels(measure, names, [juries[i]], choice.rule)[0] for i in (best, *rivals)}
    title = {i: " + ".join(names[j] for j in juries[i]) for i in labels}
    lines = [
        {
            **compared(measure, title[best], title[i], labels[best], labels[i]),
            "cost": float(costs[i]),
            "p_of_choice": chance_of_choice(kappas, resampled, i),
        }
        for i in rivals
    ]
    found["best_against"] = _after_choice(adjusted(lines))
    equal = [i for i, line in zip(rivals, found["best_against"], strict=True) if not line["better"]]
    cheapest = min([best, *equal], key=lambda i: (costs[i], -kappas[i]))
    found["cheapest_not_worse"] = describe(cheapest)
    found["all"] = [
        {"judges": [names[j] for j in jury], "kappa": _known(kappa), "accuracy": _known(accuracy)}
        for jury, kappa, accuracy in zip(juries, kappas.tolist(), accuracies.tolist(), strict=True)
    ]
    return found


def _on_common_items(measure: Measure, names: Sequence[str]) -> tuple[Measure, str]:
    """The same on the items that all the judges have, and a note that says so, where they have judged different ones: a
    jury must not be the better one because its items are the easier ones. A judge that failed on a few items abstains
    there."""
    there = np.stack([(measure.verdicts[name] != NONE) & (measure.gold != NONE) for name in names])
    counted, any_ = there.sum(axis=1), there.any(axis=0)
    # Who judged only a few is not taken for the best by them, and takes nothing from the others.
    many = 2 * counted >= counted.max()
    common = there[many].all(axis=0)
    if (counted[many] >= NEARLY_ALL * any_.sum()).all():
        return measure, ""
    counts = ", ".join(f"{name} {int(n):,}" for name, n in zip(names, counted, strict=True))
    note = f"The judges have judged different items ({counts}); juries are compared on {int(common.sum()):,} that they share."
    limited = copy(measure)
    limited.gold = np.where(common, measure.gold, NONE)
    return limited, note


NEARLY_ALL = 0.9


@dataclass(frozen=True)
class _Kappas:
    """Kappa and accuracy of each jury, on how many items; and its kappa under each weighting of the prompts, of shape
    (weightings, juries)."""

    kappa: Floats
    accuracy: Floats
    n: Floats
    weighted: Floats


def _figures(
    measure: Measure,
    panel: Panel,
    juries: Sequence[tuple[int, ...]],
    rule: str,
    weights: Floats | None = None,
) -> _Kappas:
    gold, cluster, m = measure.gold, *_prompts(measure)
    light = np.zeros((0, m), np.float32) if weights is None else weights.astype(np.float32)
    kappas, accuracies, counts, weighted = [], [], [], []
    for _, labels in blocks(panel, juries, rule):
        for said in labels:
            both = (said != NONE) & (gold != NONE)
            cells = np.bincount(cluster[both] * 9 + said[both] * 3 + gold[both], minlength=9 * m)
            tables = cells.reshape(m, 9)
            total = tables.sum(axis=0).astype(float)
            kappas.append(kappa_of(total.reshape(1, 3, 3))[0])
            counts.append(total.sum())
            accuracies.append(ratio(total[[0, 4, 8]].sum(), total.sum()))
            weighted.append(kappa_of((light @ tables.astype(np.float32)).astype(float).reshape(-1, 3, 3)))
    return _Kappas(np.array(kappas), np.array(accuracies, float), np.array(counts), np.array(weighted).T)


def _prompts(measure: Measure) -> tuple[Codes, int]:
    """The place of each item's prompt among those with a label, 0 where it has none, and how many these are."""
    there = (measure.gold != NONE).tolist()
    prompts = [prompt for prompt, labelled in zip(measure.table.prompts, there, strict=True) if labelled]
    place = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    return np.array([place.get(prompt, 0) for prompt in measure.table.prompts]), len(place)


def _weightings(measure: Measure, juries: int, splits: int) -> tuple[Floats, int]:
    """Halves of the prompts, the other halves in the same order, and resamples of them all; how many halves."""
    _, m = _prompts(measure)
    # As many as can be afforded: what is multiplied are tables of nine cells a prompt and jury.
    room = 6e10 / (juries * m * 9)
    splits, resamples = int(np.clip(room / 6, 20, splits)), int(np.clip(room * 2 / 3, 60, RESAMPLES))
    rng = np.random.default_rng(measure.settings.seed)
    halves = np.array([rng.permutation(m) < m // 2 for _ in range(splits)], float).reshape(splits, m)
    drawn = rng.multinomial(m, np.full(m, 1 / m), size=resamples).astype(float)
    return np.concatenate([halves, 1 - halves, drawn]), splits


def chance_of_choice(kappas: Floats, resampled: Floats, rival: int) -> float | None:
    """The p value that no jury is better than `rival`, though the best of them looks so: how often, of resamples in
    which none is, the best looks as much better (the reality check of White, 2000, for data that a choice was made
    by). `resampled` is of shape (resamples, juries)."""
    lead = kappas - kappas[rival]
    shaken = resampled - resampled[:, [rival]] - lead
    shaken = shaken[:, ~np.isnan(lead)]
    usable = ~np.isnan(shaken).all(axis=1)
    if not usable.any():
        return None
    most = np.nanmax(shaken[usable], axis=1)
    return float((1 + (most >= np.nanmax(lead)).sum()) / (1 + len(most)))


def _expected(inside: Floats, outside: Floats, single: NDArray[np.bool_]) -> Figures:
    """What to expect of the choice on other prompts: chosen on one half, measured on the other."""
    usable = ~np.isnan(inside).all(axis=1) & ~np.isnan(inside[:, single]).all(axis=1)
    inside, outside = inside[usable], outside[usable]
    if not len(inside):
        return {}
    rows = np.arange(len(inside))
    ranked = np.nan_to_num(inside, nan=-9)
    chosen = outside[rows, ranked.argmax(axis=1)]
    alone = outside[rows, np.flatnonzero(single)[ranked[:, single].argmax(axis=1)]]
    known = ~np.isnan(chosen) & ~np.isnan(alone)
    if not known.any():
        return {}
    return {
        "halvings": int(known.sum()),
        "kappa_of_the_best_jury": float(chosen[known].mean()),
        "kappa_of_the_best_single": float(alone[known].mean()),
        "gain": float((chosen - alone)[known].mean()),
        "halves_with_a_gain": float((chosen > alone)[known].mean()),
    }


def _after_choice(lines: list[Figures]) -> list[Figures]:
    """The comparisons, in which the best is called better only if that holds though it was chosen as the best."""
    known = [line for line in lines if line["p_of_choice"] is not None]
    ps = dict(zip(map(id, known), holm([line["p_of_choice"] for line in known]), strict=True))
    return [
        {
            **line,
            "p_of_choice_adjusted": ps.get(id(line)),
            "better": line["better"] and ps.get(id(line), 1.0) <= 0.05,
        }
        for line in lines
    ]


def _summary(
    names: Sequence[str],
    juries: Sequence[tuple[int, ...]],
    mask: NDArray[np.bool_],
    kappas: Floats,
    accuracies: Floats,
) -> Figures:
    there = kappas[mask]
    known = there[~np.isnan(there)]
    if not len(known):
        return {"juries": int(mask.sum()), "mean_kappa": None, "mean_accuracy": None, "best_kappa": None}
    top = int(np.flatnonzero(mask)[np.argmax(np.nan_to_num(there, nan=-9))])
    return {
        "juries": int(mask.sum()),
        "mean_kappa": float(known.mean()),
        "mean_accuracy": float(np.nanmean(accuracies[mask])),
        "best_kappa": float(kappas[top]),
        "best_judges": [names[j] for j in juries[top]],
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _costs(measure: Measure, names: Sequence[str], juries: Sequence[tuple[int, ...]]) -> tuple[Floats, str]:
    """What each jury costs a judgment in USD; where that is not known of every judge, how many jurors it has."""
    price = {judge.name: judge.cost for judge in measure.table.judges}
    each = [price[name] for name in names]
    if any(cost is None for cost in each):
        return np.array([float(len(jury)) for jury in juries]), "jurors"
    return np.array([sum(each[j] or 0.0 for j in jury) for jury in juries]), "USD"


def _frontier(costs: Floats, kappas: Floats) -> list[int]:
    """The juries to which no other is both as cheap and better, cheapest first."""
    found: list[int] = []
    best = -np.inf
    for i in np.lexsort((-np.nan_to_num(kappas, nan=-9), costs)).tolist():
        if kappas[i] > best:
            best = kappas[i]
            found.append(i)
    return found


def _describer(
    measure: Measure, panel: Panel, juries: Sequence[tuple[int, ...]], rule: str, costs: Floats
) -> Any:
    def describe(i: int) -> Figures:
        said = jury_labels(measure, panel.names, [juries[i]], rule)[0]
        both = (said != NONE) & (measure.gold != NONE)
        decided = both & (said != TIE) & (measure.gold != TIE)
        return {
            "judges": [panel.names[j] for j in juries[i]],
            "kappa": measure.kappa(said, measure.gold, both),
            "accuracy": measure.accuracy(said, measure.gold, both),
            "kappa_two_way": measure.kappa(said, measure.gold, decided),
            "accuracy_two_way": measure.accuracy(said, measure.gold, decided),
            "coverage": measure.share(said != NONE, measure.gold != NONE),
            "cost": float(costs[i]),
        }

    return describe
