"""How far each juror can be trusted, from nothing but the jurors' votes (Dawid and Skene, 1979).

Each juror has a table of how often it says k where the truth is l; tables and truths are found together, by
expectation maximisation from the majority's view. The one module that imports crowd-kit, and only when it is used.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

EXTRA = "the reducer dawid_skene needs crowd-kit: pip install 'synthpref[jury]'"
Observation = tuple[int, int, int]
"""(thing that was voted on, juror, label), all counted from 0."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """What is estimated: for each thing the probability of each label, and for each juror the share of its votes
    that are right."""

    labels: np.ndarray[Any, np.dtype[np.float64]]
    reliability: tuple[float, ...]


def available() -> bool:
    """Whether crowd-kit is installed."""
    return importlib.util.find_spec("crowdkit") is not None


def dawid_skene(
    observations: Sequence[Observation], things: int, jurors: int, labels: int, *, iterations: int = 100
) -> Weighed:
    """Weigh the votes; a juror may vote several times on one thing. The same observations give the same result. Takes
    some seconds, and four for each 100,000 votes.

    Before the first vote each juror is taken to have said each wrong label once for each true one, and the right one
    twice as often as all the wrong ones together: with few votes nobody is taken for infallible, or for a liar.
    A thing without a vote has equal probabilities. Raises ImportError, with the fix, without crowd-kit.
    """
    if not labels:
        return Weighed(np.zeros((things, 0)), (0.0,) * jurors)
    seen = sorted(observations)
    prior, truths = _prior(things, jurors, labels)
    # crowd-kit and the libraries under it announce what they will change; that is nothing to the user of a recipe.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import pandas as pd
            from crowdkit.aggregation import DawidSkene
        except ImportError as error:
            raise ImportError(EXTRA) from error
        # Its own test of convergence stops too soon where some truths are given, so all iterations are made.
        model: Any = DawidSkene(n_iter=iterations, tol=-math.inf)
        model.fit(pd.DataFrame([*seen, *prior], columns=["task", "worker", "label"]), pd.Series(truths))
    every = range(labels)
    found = np.full((things, labels), 1 / labels)
    voted = sorted({thing for thing, _, _ in seen})
    found[voted] = model.probas_.loc[voted, every].to_numpy()
    shares = model.priors_.loc[every].to_numpy()
    right = [sum(shares[k] * model.errors_.loc[(juror, k), k] for k in every) for juror in range(jurors)]
    # Rounded below the tolerance of the fit, so that equal votes are equal in the last digit too.
    return Weighed(np.round(found, 8), tuple(round(float(share), 8) for share in right))


def _prior(things: int, jurors: int, labels: int) -> tuple[list[Observation], dict[int, int]]:
    """Votes on made-up things, numbered from `things` on, and the true label of each of these."""
    votes: list[Observation] = []
    truths: dict[int, int] = {}
    for truth in range(labels):
        wrong = [label for label in range(labels) if label != truth]
        for label in [*wrong, *[truth] * 2 * max(1, len(wrong))]:
            number = things + len(truths)
            truths[number] = truth
            votes += [(number, juror, label) for juror in range(jurors)]
    return votes, truths
