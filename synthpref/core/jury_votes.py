"""The labels that juries of recorded judges give, many juries at once: as core/votes.py does vote by vote. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpref.core.judged import NONE, TIE, A, B, Codes, mean_scores
from synthpref.core.measure import Measure
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
MOST = 1023
"""More juries than these are not looked through: the juries of ten judges."""
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Panel:
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
    panel = panel_of(measure, tuple(names))
    return np.concatenate([labels for _, labels in blocks(panel, juries, rule)])


def panel_of(measure: Measure, names: tuple[str, ...]) -> Panel:
    stacked = np.stack([measure.verdicts[name] for name in names])
    votes = np.stack([stacked == side for side in (A, B, TIE)], axis=2).astype(np.float32)
    judges = {judge.name: judge for judge in measure.table.judges}
    if not all(judges[name].scores for name in names):
        return Panel(names, votes, None, None)
    gaps = np.stack([np.subtract(*mean_scores(judges[name]).T) for name in names])
    return Panel(names, votes, np.nan_to_num(gaps).astype(np.float32), (~np.isnan(gaps)).astype(np.float32))


def blocks(panel: Panel, juries: Sequence[tuple[int, ...]], rule: str) -> Iterator[tuple[int, Codes]]:
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
