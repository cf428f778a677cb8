"""Several scores -> one: a weighted mean, or weights learned from labelled pairs.

The learning is that of compositional preference models (Go et al., arXiv:2310.13011): logistic
regression without intercept on the differences of standardised scores, its strength chosen by cross-validation.
They choose by the accuracy on held-out pairs, which tells no weights from a multiple of them; here it is by the pairs'
likelihood, so that a difference of two scores is the logarithm of the odds that the one is preferred.
scikit-learn does it, and is imported only there.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Penalty = Literal["l1", "l2"]

STRENGTHS = tuple(float(c) for c in np.logspace(-4, 4, 12))
"""The values of C among which cross-validation chooses: the larger, the freer the weights."""
ROUNDING = 1e-12
"""Spread, as a share of the mean, up to which a score is the same everywhere, but for the error of adding up."""
_DIGITS = 6


class Moments:
    """Mean and standard deviation of numbers that come one at a time."""

    def __init__(self) -> None:
        self.n, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        self.n += 1
        step = value - self.mean
        self.mean += step / self.n
        self._squares += step * (value - self.mean)

    @property
    def spread(self) -> float:
        """The standard deviation over all of them; 0 where they are all alike."""
        spread = math.sqrt(self._squares / self.n) if self.n else 0.0
        return spread if spread > ROUNDING * abs(self.mean) else 0.0


@dataclass(frozen=True)
class Weighing:
    """How several scores become one.

    Without `spread`: sum of weight x score over sum of |weight|. With it: sum of weight x (score - centre) / spread.
    A score that was the same everywhere (spread 0) says nothing and is left out.
    """

    weights: Mapping[str, float]
    centre: Mapping[str, float] | None = None
    spread: Mapping[str, float] | None = None

    def counts(self) -> list[str]:
        """The names of the scores that have a say."""
        return [
            name
            for name, weight in self.weights.items()
            if weight and (self.spread is None or self.spread[name] > 0)
        ]

    def __call__(self, values: Mapping[str, float]) -> float:
        """The one score for the `values` of all scores that count."""
        names = self.counts()
        if self.spread is None or self.centre is None:
            whole = math.fsum(abs(self.weights[name]) for name in names)
            return math.fsum(self.weights[name] * values[name] for name in names) / whole
        centre, spread = self.centre, self.spread
        return math.fsum(self.weights[n] * (values[n] - centre[n]) / spread[n] for n in names)


@dataclass(frozen=True)
class Fit:
    """Weights that were learned, and how well they did."""

    weighing: Weighing
    strength: float
    """The chosen C."""
    accuracy: float
    """Share of the held-out pairs that were put in the labelled order (a tie counts half), for the chosen C."""
    folds: int
    pairs: int
    rows: int
    alone: Mapping[str, float]
    """Share of all labelled pairs that each score by itself puts in the labelled order."""


def labelled_pairs(features: Floats, labels: Sequence[float]) -> Floats:
    """Features of the better less those of the worse, for every two samples of a row whose labels differ."""
    found = [
        features[i] - features[j] if labels[i] > labels[j] else features[j] - features[i]
        for i, j in combinations(range(len(labels)), 2)
        if labels[i] != labels[j]
    ]
    return np.array(found, dtype=np.float64).reshape(-1, features.shape[1])


def learn(
    names: Sequence[str],
    rows: Sequence[tuple[Floats, Sequence[float]]],
    rng: random.Random,
    *,
    penalty: Penalty = "l2",
    folds: int = 8,
) -> Fit:
    """Weights for the scores `names`, such that of two samples of a row the one with the higher label scores higher.

    `rows` holds, for each row, its samples' scores (a line a sample, a column a name) and their labels. Folds are made
    of whole rows; with fewer rows than `folds` there are as many folds as rows. Raises ValueError where fewer than two
    rows have two samples that differ in the label.
    """
    rows = [row for row in rows if len(set(row[1])) > 1]
    if len(rows) < 2:
        raise ValueError(
            f"{len(rows)} rows have two samples with different labels (and every score); at least 2 are needed"
        )
    every = np.concatenate([features for features, _ in rows])
    centre, spread = every.mean(axis=0), every.std(axis=0)
    spread = np.where(spread > ROUNDING * np.abs(centre), spread, 0.0)
    safe = np.where(spread > 0, spread, 1.0)
    pairs = [labelled_pairs((features - centre) / safe * (spread > 0), labels) for features, labels in rows]
    folds = min(folds, len(rows))
    order = list(range(len(rows)))
    rng.shuffle(order)
    parts = [[pairs[i] for i in order[fold::folds]] for fold in range(folds)]
    right, loss = dict.fromkeys(STRENGTHS, 0.0), dict.fromkeys(STRENGTHS, 0.0)
    for fold, held in enumerate(parts):
        seen = np.concatenate([p for other, part in enumerate(parts) if other != fold for p in part])
        unseen = np.concatenate(held)
        for strength in STRENGTHS:
            margins = unseen @ _regress(seen, strength, penalty)
            right[strength] += _in_order(margins)
            loss[strength] += float(np.logaddexp(0.0, -margins).sum())
    # Of equals the first: the strongest pull towards 0.
    best = min(STRENGTHS, key=lambda strength: round(loss[strength], 9))
    together = np.concatenate(pairs)
    weights = _regress(together, best, penalty)
    weighing = Weighing(_named(names, weights), _named(names, centre), _named(names, spread))
    share = [_in_order(column) / len(together) for column in together.T]
    alone = _named(names, np.array(share))
    return Fit(weighing, best, right[best] / len(together), folds, len(together), len(rows), alone)


def _in_order(margins: Floats) -> float:
    """How many margins are positive; one of 0 counts half."""
    return float((margins > 0).sum() + 0.5 * (margins == 0).sum())


def _named(names: Sequence[str], values: Floats) -> dict[str, float]:
    # The last digits hang on the order in which a processor adds; no label may.
    return {name: float(f"{value:.{_DIGITS}g}") for name, value in zip(names, values, strict=True)}


def _regress(differences: Floats, strength: float, penalty: Penalty) -> Floats:
    """The weights under which the differences are most likely positive."""
    made, threads = _model(strength, penalty)
    # Each pair seen from both sides, at half weight: the same objective, and always two classes.
    both = np.concatenate([differences, -differences])
    side = np.repeat([1, 0], len(differences))
    # One thread: with more the sums, and so the last digits, hang on how many there are.
    with threads(limits=1):
        made.fit(both, side, sample_weight=np.full(len(both), 0.5))
    weights: Floats = made.coef_[0]
    return weights


def _model(strength: float, penalty: Penalty) -> tuple[Any, Any]:
    try:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError('learning weights needs scikit-learn: pip install "synthpref[jury]"') from error
    told: dict[str, Any] = {"l1_ratio": 1.0 if penalty == "l1" else 0.0}
    # Up to scikit-learn 1.7 the penalty has a field of its own.
    if inspect.signature(LogisticRegression).parameters["penalty"].default == "l2":
        told = {"penalty": penalty}
    solver = {"l1": "liblinear", "l2": "lbfgs"}[penalty]
    made = LogisticRegression(
        C=strength, fit_intercept=False, solver=solver, tol=1e-8, max_iter=10_000, random_state=0, **told
    )
    return made, threadpool_limits
