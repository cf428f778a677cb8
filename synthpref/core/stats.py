"""Statistics over scores and verdicts. Pure."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

Outcome = tuple[int, int, float]
"""(a, b, p): of players a and b, a won with share p: 1 for a win, 0 for a loss, 0.5 for a tie."""


def mean(values: Sequence[float]) -> float:
    """The mean, the same for any order of the values and never outside their range."""
    return min(max(math.fsum(values) / len(values), min(values)), max(values))


def std(values: Sequence[float], ddof: int = 0) -> float | None:
    """The standard deviation with divisor n - ddof; None for too few values."""
    if len(values) <= ddof or not values:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - ddof))


def win_rate(players: int, outcomes: Sequence[Outcome]) -> list[float | None]:
    """For each player the share of its comparisons that it won, a tie as half; None for one in none."""
    won: list[list[float]] = [[] for _ in range(players)]
    for a, b, p in outcomes:
        won[a].append(p)
        won[b].append(1 - p)
    return [mean(shares) if shares else None for shares in won]


def bradley_terry(
    players: int, outcomes: Sequence[Outcome], *, prior: float = 0.1, tolerance: float = 1e-10
) -> list[float | None]:
    """Strengths s with P(a beats b) = 1 / (1 + exp(s_b - s_a)) (Bradley and Terry, 1952), in natural
    log-odds, of mean 0 over the players that were compared; None for those that were not.

    A tie counts as half a win for each. The maximum of the likelihood is regularised by `prior`: each player
    is taken to have drawn `prior` games against one more player, of strength 0, so that those who won all, or
    never met, stay finite. Found by Newton's method; the log-likelihood is strictly concave.
    Raises ValueError on an outcome of unknown players or a share outside 0 to 1, and on a prior that is not
    positive.
    """
    if not prior > 0:
        raise ValueError(f"the prior must be above 0, not {prior}")
    for a, b, p in outcomes:
        if a == b or not (0 <= a < players and 0 <= b < players) or not 0 <= p <= 1:
            raise ValueError(f"not an outcome among {players} players: {(a, b, p)}")
    seen = sorted({player for a, b, _ in outcomes for player in (a, b)})
    if not seen:
        return [None] * players
    place = {player: i for i, player in enumerate(seen)}
    games = np.zeros((len(seen), len(seen)))
    wins = np.zeros(len(seen))
    for a, b, p in sorted(outcomes):
        i, j = place[a], place[b]
        games[i, j] += 1
        games[j, i] += 1
        wins[i] += p
        wins[j] += 1 - p
    strength = np.zeros(len(seen))
    for _ in range(200):
        expected = 1 / (1 + np.exp(-np.clip(strength[:, None] - strength[None, :], -500, 500)))
        alone = 1 / (1 + np.exp(-np.clip(strength, -500, 500)))
        gradient = wins - (games * expected).sum(axis=1) + prior * (0.5 - alone)
        weight = games * expected * (1 - expected)
        hessian = np.diag(weight.sum(axis=1) + prior * alone * (1 - alone)) - weight
        step = np.linalg.solve(hessian, gradient)
        # A full Newton step may overshoot where the likelihood is flat, so it is kept to log-odds of 2.
        strength = strength + step * min(1.0, 2.0 / max(1e-300, float(np.abs(step).max())))
        if np.abs(step).max() < tolerance:
            break
    strength = strength - strength.mean()
    # Rounded below the tolerance, so that equal records are equal scores whatever the solver's last digits.
    found = {player: round(float(strength[i]), 8) + 0.0 for player, i in place.items()}
    return [found.get(player) for player in range(players)]


def agreement(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """The share of items that two raters label alike; None for no items. Labels are anything hashable, so
    "a", "b" and "tie" are three. Raises ValueError on lists of different length."""
    both = list(zip(first, second, strict=True))
    return sum(a == b for a, b in both) / len(both) if both else None


def kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Cohen's kappa (Cohen, 1960): agreement beyond what the raters' own label frequencies give by chance.

    None where it is not defined: no items, or both raters using one and the same label throughout. Raises
    ValueError on lists of different length.
    """
    observed = agreement(first, second)
    if observed is None:
        return None
    n = len(first)
    by_chance = sum(
        sum(a == label for a in first) * sum(b == label for b in second) for label in {*first, *second}
    ) / (n * n)
    return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)
