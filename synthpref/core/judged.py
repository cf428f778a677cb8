"""Labelled items and what judges said of them, as arrays: what every figure of `synthpref agree` is computed from.

A share is 1.0 where `a` is preferred, 0.0 where `b` is, 0.5 for a tie and NaN where there is no verdict; a code
is 0 for a, 1 for b, 2 for a tie and -1 for none. Nothing is filled in: who said nothing is counted as nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Swap = Literal["average", "agree", "first"]
A, B, TIE, NONE = 0, 1, 2, -1
FLIP = {"ab": "ba", "ba": "ab"}
"""The other order."""


@dataclass(frozen=True)
class Repeat:
    """What a judge said of one item in one order, more than once: shares of a, or scores."""

    item: int
    order: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class JudgeTable:
    """What one judge said, by item. `shares` and `scores` (columns: of a, of b) are by order: "ab" where a was
    shown first, "ba" where b was. `values` are its scores of single responses."""

    name: str
    shares: Mapping[str, Floats] = field(default_factory=dict)
    scores: Mapping[str, Floats] = field(default_factory=dict)
    values: Floats | None = None
    repeats: Sequence[Repeat] = ()
    asked: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    """Why answers hold no verdict, and how often."""
    cost: float | None = None
    """USD a judgment of one item, all its calls together."""
    family: str | None = None
    of_jurors: bool = False
    """Whether it is a jury whose jurors stand beside it, each as a judge of its own."""


@dataclass(frozen=True)
class Table:
    """Items with their labels and judges. In every array the items come in the order of `ids`."""

    pairs: bool
    ids: Sequence[str]
    prompts: Sequence[str]
    words: Floats
    """Words of response a and of response b, NaN where the text is not known."""
    models: Sequence[tuple[str | None, str | None]]
    annotators: Sequence[str]
    marks: Floats
    """What each annotator (a column each) said: shares of a, or scores; NaN for nothing."""
    gold: Floats
    """The label that the annotators make together: a share, or a score."""
    judges: Sequence[JudgeTable]
    gold_scores: Floats | None = None
    """People's mean scores of a and of b, where they gave scores to the two."""
    notes: Sequence[str] = ()
    """What was taken for granted in reading."""

    @property
    def labelled(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.gold)


def codes(shares: Floats) -> Codes:
    """Shares of a as codes."""
    found = np.full(shares.shape, NONE, np.int64)
    found[shares > 0.5] = A
    found[shares < 0.5] = B
    found[shares == 0.5] = TIE
    return found


def one_verdict(judge: JudgeTable, swap: Swap = "average") -> Codes:
    """A judge's verdict on each item, of both orders where it was asked in both.

    "average": of scores, the higher mean; of verdicts, the mean share. "agree": a winner that both orders name, else a
    tie; nothing where one of them has no verdict, because the two cannot agree. "first": the order ab alone.
    """
    if swap == "first" and "ab" in judge.shares:
        return codes(judge.shares["ab"])
    orders = [codes(shares) for shares in judge.shares.values()]
    if swap == "agree":
        found = orders[0].copy()
        for other in orders[1:]:
            found = np.where((found == NONE) | (other == NONE), NONE, _agreed(found, other))
        return found.astype(np.int64)
    if judge.scores:
        scores = mean_scores(judge)
        found = codes(share_of(scores))
        # An order that brought a verdict but no scores still speaks where no scores are.
        return np.where(found == NONE, codes(_mean(list(judge.shares.values()))), found).astype(np.int64)
    return codes(_mean(list(judge.shares.values())))


def mean_share(judge: JudgeTable, swap: Swap = "average") -> Floats:
    """How far a judge prefers a on each item, from 0 to 1: what win rates are the mean of. A preference of 0.6 is no win;
    only where there are scores, or `swap` asks for verdicts, it is 1, 0 or 0.5."""
    if judge.scores or swap != "average":
        said = one_verdict(judge, swap)
        return np.select([said == A, said == B, said == TIE], [1.0, 0.0, 0.5], np.nan)
    return _mean(list(judge.shares.values()))


def mean_scores(judge: JudgeTable) -> Floats:
    """The scores of a and of b, averaged over the orders."""
    return _mean(list(judge.scores.values()))


def share_of(scores: Floats) -> Floats:
    """The winner by two scores: the higher; equal is a tie."""
    gap = scores[:, 0] - scores[:, 1]
    return np.where(np.isnan(gap), np.nan, 0.5 + 0.5 * np.sign(gap))


def _agreed(one: Codes, other: Codes) -> Codes:
    return np.where(one == other, one, TIE).astype(np.int64)


def _mean(arrays: Sequence[Floats]) -> Floats:
    """The mean over the arrays of what is there, NaN where nothing is."""
    stacked = np.stack(arrays)
    there = ~np.isnan(stacked)
    count = there.sum(axis=0)
    total = np.where(there, stacked, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def majority(marks: Floats, no_majority: str = "drop") -> Floats:
    """The label of each item: what more annotators said than anything else; where several labels are named
    equally often none ("drop") or a tie ("tie")."""
    said = codes(marks)
    counts = np.stack([(said == side).sum(axis=1) for side in (A, B, TIE)], axis=1)
    most = counts.max(axis=1)
    one = (counts == most[:, None]).sum(axis=1) == 1
    winner = np.array([1.0, 0.0, 0.5])[counts.argmax(axis=1)]
    split = 0.5 if no_majority == "tie" else np.nan
    return np.where(most == 0, np.nan, np.where(one, winner, split))


def mean_mark(marks: Floats) -> Floats:
    """The mean score of each item over its annotators."""
    return _mean(list(marks.T)) if marks.shape[1] else np.full(len(marks), np.nan)
