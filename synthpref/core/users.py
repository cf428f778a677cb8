"""Users made up as mixtures of scores: each is a set of weights, drawn from a Dirichlet distribution as in PersonalLLM
(arXiv:2409.20296). Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np

Weights = dict[str, float]
_DIGITS = 6


def drawn(names: Sequence[str], count: int, alpha: float, rng: random.Random) -> dict[str, Weights]:
    """`count` users by name ("u0", "u1", ...), each with weights for `names` from Dirichlet(alpha, ..., alpha): they sum
    to 1, and the smaller alpha, the more a user goes by one score alone."""
    width = len(str(count - 1))
    return {f"u{i:0{width}}": dirichlet(names, alpha, rng) for i in range(count)}


def dirichlet(names: Sequence[str], alpha: float, rng: random.Random) -> Weights:
    """One draw, to six places."""
    # In logarithms: for a small alpha nearly every gamma variate is too small for a float, and all of them may be.
    # Gamma(alpha) is Gamma(alpha + 1) x U^(1 / alpha).
    logs = [math.log(rng.gammavariate(alpha + 1, 1)) + math.log(1 - rng.random()) / alpha for _ in names]
    shares = [math.exp(value - max(logs)) for value in logs]
    whole = math.fsum(shares)
    # Rounded, because the last digits hang on the machine, and a millionth is no say.
    return {name: round(share / whole, _DIGITS) for name, share in zip(names, shares, strict=True)}


def apart(users: Mapping[str, Weights], names: Sequence[str], least: float) -> dict[str, Weights]:
    """The users without those that lie nearer than `least` to an earlier one that stays. How far two lie apart is the
    share of weight that would have to move to make one of the other (total variation), from 0 to 1."""
    kept: dict[str, Weights] = {}
    table = np.empty((len(users), len(names)))
    for user, weights in users.items():
        line = np.array([weights.get(name, 0.0) for name in names])
        near = np.abs(table[: len(kept)] - line).sum(axis=1) / 2 < least
        if not near.any():
            table[len(kept)] = line
            kept[user] = weights
    return kept
