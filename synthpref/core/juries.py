"""Every jury that can be made of some judges, and which of them to take. Pure.

The best of many juries on one sample of labels looks better than it is, so the figure to expect of it is found by
choosing on one half of the prompts and measuring on the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpref.core.agreement import kappa_of, ratio
from synthpref.core.intervals import holm
from synthpref.core.judged import NONE, TIE, A, B, Codes, Floats, mean_scores
from synthpref.core.measure import Figures, Measure
from synthpref.core.panel import adjusted, compared
from synthpref.core.votes import Rule

RULES: dict[str, Rule | None] = {
    "multimode": Rule("multimode", "tie"),
    "lean": Rule("multimode", "mean"),
    "majority": Rule("majority", "tie"),
    "abstain": Rule("multimode", "abstain"),
    "mean": Rule("mean"),
    "scores": None,
}
"""How verdicts (1, 0 and 0.5 for a tie) make one: the label named most often, and where several are a tie (the juries
of arXiv:2408.08688), what leans to the one side or the other of those ("lean": a tie yields to a winner), or none
("abstain"); the label that more than half name, else a tie; the mean of the votes. "scores" is no vote: the higher
mean of the jurors' scores."""
RESAMPLES = 400
"""Of the prompts, for the test of the best jury."""
MOST = 1023
"""More juries than these are not looked through: the juries of ten judges."""
_BLOCK = 1 << 22


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


@dataclass(frozen=True)
class _Panel:
    """The judges of the juries, as arrays: counts of labels are sums over them."""

    names: tuple[str, ...]
    votes: NDArray[np.float32]
    """(judges, items, 3): 1 where the judge gave that label."""
    gaps: NDArray[np.float32] | None
    """(judges, items): score of a less score of b, 0 for none; None unless all have scores."""
    scored: NDArray[np.float32] | None


def too_many(names: Sequence[str], sizes: Sequence[int]) -> int:
    """How many juries there are, if they are more than are looked through; else 0."""
    count = sum(comb(len(names), size) for size in sizes or range(1, len(names) + 1))
    return count if count > MOST else 0


def subsets(count: int, sizes: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """Every set of that many judges' places, by size; single judges always are among them."""
    wanted = sorted({1, *(sizes or range(1, count + 1))})
    return [chosen for size in wanted if size <= count for chosen in combinations(range(count), size)]


def jury_labels(
    measure: Measure, names: Sequence[str], juries: Sequence[tuple[int, ...]], rule: str
) -> Codes:
    """The label that each jury gives each item, of shape (juries, items)."""
    panel = _panel(measure, tuple(names))
    return np.concatenate([labels for _, labels in _blocks(panel, juries, rule)])


def best_juries(measure: Measure, choice: Choice) -> Figures:
    """All juries by size; the best, what to expect of it, and the cheapest that is not significantly worse."""
    names = tuple(choice.judges or measure.single)
    if unknown := [name for name in names if name not in measure.verdicts]:
        return {"skipped": f"there is no judge {unknown[0]!r}; there is: {', '.join(measure.verdicts)}"}
    if len(names) < 2 or not measure.table.pairs or not (measure.gold != NONE).any():
        return {}
    if (count := too_many(names, choice.sizes)) > 0:
        return {
            "skipped": f"{len(names)} judges make {count:,} juries: name some with --jurors, or give --sizes"
        }
    juries = subsets(len(names), choice.sizes)
    sizes = np.array([len(jury) for jury in juries])
    panel = _panel(measure, names)
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


def _panel(measure: Measure, names: tuple[str, ...]) -> _Panel:
    stacked = np.stack([measure.verdicts[name] for name in names])
    votes = np.stack([stacked == side for side in (A, B, TIE)], axis=2).astype(np.float32)
    judges = {judge.name: judge for judge in measure.table.judges}
    if not all(judges[name].scores for name in names):
        return _Panel(names, votes, None, None)
    gaps = np.stack([np.subtract(*mean_scores(judges[name]).T) for name in names])
    return _Panel(names, votes, np.nan_to_num(gaps).astype(np.float32), (~np.isnan(gaps)).astype(np.float32))


def _blocks(panel: _Panel, juries: Sequence[tuple[int, ...]], rule: str) -> Iterator[tuple[int, Codes]]:
    """Labels of some juries at a time, with the place of the first of them."""
    _, n, _ = panel.votes.shape
    at_once = max(1, _BLOCK // max(3 * n, 1))
    for start in range(0, len(juries), at_once):
        part = juries[start : start + at_once]
        sits = np.zeros((len(part), len(panel.names)), np.float32)
        for i, jury in enumerate(part):
            sits[i, list(jury)] = 1
        if rule == "scores" and panel.gaps is not None and panel.scored is not None:
            gap, there = np.round(sits @ panel.gaps, 5), sits @ panel.scored
            yield start, np.select([there == 0, gap > 0, gap < 0], [NONE, A, B], TIE)
        else:
            counts = np.tensordot(sits, panel.votes, axes=1)
            yield start, settled(counts, rule)


def settled(counts: NDArray[Any], rule: str) -> Codes:
    """The label by a rule, from how many name a, b and a tie: the last axis of `counts`."""
    a, b, tie = (counts[..., side] for side in (A, B, TIE))
    total = a + b + tie
    if rule == "mean":
        return np.select([total == 0, a > b, a < b], [NONE, A, B], TIE)
    most = counts.max(axis=-1)
    first: Codes = counts.argmax(axis=-1)
    if rule == "majority":
        return np.select([total == 0, 2 * most > total], [NONE, first], TIE)
    one = (counts == most[..., None]).sum(axis=-1) == 1
    if rule == "lean":
        # Of the labels that share the lead: a winner and a tie lean to the winner, both winners to neither.
        lean = np.select([(a == most) & (b < most), (b == most) & (a < most)], [A, B], TIE)
        return np.select([total == 0, one], [NONE, first], lean)
    return np.select([total == 0, one], [NONE, first], NONE if rule == "abstain" else TIE)


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
    panel: _Panel,
    juries: Sequence[tuple[int, ...]],
    rule: str,
    weights: Floats | None = None,
) -> _Kappas:
    gold, cluster, m = measure.gold, *_prompts(measure)
    light = np.zeros((0, m), np.float32) if weights is None else weights.astype(np.float32)
    kappas, accuracies, counts, weighted = [], [], [], []
    for _, labels in _blocks(panel, juries, rule):
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
    measure: Measure, panel: _Panel, juries: Sequence[tuple[int, ...]], rule: str, costs: Floats
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
