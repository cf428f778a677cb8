"""Maxima of log-likelihoods in log-odds, by Newton's method. Pure.

A full step may overshoot where the likelihood is flat, so every step is kept to a change of the log-odds by 2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from synthpref.core.agreement import Array

_FURTHEST = 2.0
_STEPS = 200


def share(log_odds: Array) -> Array:
    """1 / (1 + exp(-x))."""
    shares: Array = 1 / (1 + np.exp(-np.clip(log_odds, -500, 500)))
    return shares


def newton(
    slope: Callable[[Array], tuple[Array, Array]],
    moved: Callable[[Array], Array],
    size: int,
    tolerance: float = 1e-10,
) -> tuple[Array, Array]:
    """The maximum of a concave log-likelihood of `size` parameters, and minus its Hessian there. `slope` gives its
    gradient and minus its Hessian; `moved` by how much a step changes the log-odds."""
    at: Array = np.zeros(size)
    gradient, bend = slope(at)
    for _ in range(_STEPS if size else 0):
        step: Array = np.asarray(np.linalg.solve(bend, gradient), dtype=float)
        largest = float(np.abs(moved(step)).max())
        at += step * min(1.0, _FURTHEST / max(1e-300, largest))
        gradient, bend = slope(at)
        if largest < tolerance:
            break
    return at, bend


def line(weights: Array, x: Array, y: Array, ridge: float, start: Array) -> Array:
    """Intercept and slope of many logistic regressions of y at once, one for each row of weights and of x, which
    lies between -1 and 1; from `start`."""
    at = np.tile(start, (len(weights), 1))
    for _ in range(_STEPS):
        expected = share(at[:, :1] + at[:, 1:] * x)
        left = weights * (y - expected)
        gradient = np.stack([left.sum(axis=1), (left * x).sum(axis=1)], axis=1) - ridge * at
        bend = weights * expected * (1 - expected)
        once, twice = bend * x, bend * x * x
        rows = [[bend.sum(axis=1) + ridge, once.sum(axis=1)], [once.sum(axis=1), twice.sum(axis=1) + ridge]]
        step = np.linalg.solve(np.moveaxis(np.array(rows), 2, 0), gradient[:, :, None])[:, :, 0]
        largest = np.abs(step).sum(axis=1, keepdims=True)
        at = at + step * np.minimum(1.0, _FURTHEST / np.maximum(1e-300, largest))
        # The next step would be of the order of the square of this one.
        if largest.max() < 1e-5:
            break
    return at
