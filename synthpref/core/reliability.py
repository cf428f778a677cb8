"""How far each juror can be trusted, from nothing but the jurors' votes (Dawid and Skene, 1979). Pure.

Each juror has a table of how often it says k where the truth is l; tables and truths are found together, by
expectation maximisation from the majority's view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synthpref.core.agreement import Array

Observation = tuple[int, int, int]
"""(thing that was voted on, juror, label), all counted from 0."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """What is estimated: for each thing the probability of each label, and for each juror the share of its votes
    that are right."""

    labels: Array
    reliability: tuple[float, ...]


def dawid_skene(
    observations: Sequence[Observation], things: int, jurors: int, labels: int, *, iterations: int = 100
) -> Weighed:
    """Weigh the votes; a juror may vote several times on one thing. The same observations give the same result.

    Before the first vote each juror is taken to have said each wrong label once for each true one, and the right one
    twice as often as all the wrong ones together: with few votes nobody is taken for infallible, or for a liar.
    A thing without a vote has equal probabilities.
    """
    if not labels:
        return Weighed(np.zeros((things, 0)), (0.0,) * jurors)
    thing, juror, label = np.array(sorted(observations), dtype=np.intp).reshape(-1, 3).T
    before = np.where(np.eye(labels) > 0, 2.0 * max(1, labels - 1), 1.0)
    share = np.zeros((things, labels))
    np.add.at(share, (thing, label), 1.0)
    votes = share.sum(axis=1, keepdims=True)
    share = share / np.maximum(votes, 1)
    for round_ in range(iterations + 1):
        truths = share.sum(axis=0) + before.sum(axis=0)
        truths = truths / truths.sum()
        said = np.repeat(before[None], jurors, axis=0)  # by juror, what it says, and the truth
        np.add.at(said, (juror, label), share[thing])
        said = said / said.sum(axis=1, keepdims=True)
        if round_ < iterations:
            log = np.tile(np.log(truths), (things, 1))
            np.add.at(log, thing, np.log(said)[juror, label])
            share = np.exp(log - log.max(axis=1, keepdims=True))
            share = share / share.sum(axis=1, keepdims=True) * (votes > 0)
    right = np.einsum("l,jll->j", truths, said)
    # Rounded, so that equal votes are equal in the last digit too.
    share = np.where(votes > 0, share, np.full_like(share, 1 / labels))
    return Weighed(np.round(share, 8), tuple(np.round(right, 8).tolist()))
