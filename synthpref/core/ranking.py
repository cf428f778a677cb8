"""From comparisons to strengths, and what comparisons say of each other. Pure; no figure depends on the order
in which they are given."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Unpack

import numpy as np
import numpy.typing as npt

from synthpref.core.agreement import Array
from synthpref.core.bootstrap import Estimate, How, bootstrap
from synthpref.core.intervals import of_these, wilson
from synthpref.core.newton import line, newton, share
from synthpref.core.stats import mean

Outcome = tuple[int, int, float]
"""(a, b, p): of players a and b, a won with share p: 1 for a win, 0 for a loss, 0.5 for a tie."""


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
    place, strength, _ = _fit(players, outcomes, prior, tolerance)
    strength = strength - strength.mean() if place else strength
    # Rounded below the tolerance, so that equal records are equal scores whatever the solver's last digits.
    found = {player: round(float(strength[i]), 8) + 0.0 for player, i in place.items()}
    return [found.get(player) for player in range(players)]


def probabilities(
    players: int,
    outcomes: Sequence[Outcome],
    pairs: Sequence[tuple[int, int]],
    level: float = 0.95,
    *,
    prior: float = 0.1,
) -> list[tuple[float, float, float] | None]:
    """(p, low, high) for each of the pairs: the chance that the one beats the other by their Bradley-Terry strengths,
    with an interval; None where one of them was not compared.

    The interval is that of the difference of strengths, from the inverse of the information at the maximum, taken
    through to p. It holds each outcome for independent of the others, and a tie for a draw of 1 or 0, which varies
    more: where there are many ties it is wider than it need be.
    """
    place, strength, information = _fit(players, outcomes, prior)
    spread = np.linalg.inv(information) if place else information
    reach = NormalDist().inv_cdf(0.5 + level / 2)

    def chance(i: int, j: int) -> tuple[float, float, float] | None:
        if i not in place or j not in place:
            return None
        a, b = place[i], place[j]
        gap = float(strength[a] - strength[b])
        error = math.sqrt(max(0.0, float(spread[a, a] + spread[b, b] - spread[a, b] - spread[b, a])))
        ends = (gap, gap - reach * error, gap + reach * error)
        p, low, high = (float(share(np.array(x))) for x in ends)
        return p, low, high

    return [chance(i, j) for i, j in pairs]


def elo(
    players: int, outcomes: Sequence[Outcome], *, k: float = 32, scale: float = 400, start: float = 1500
) -> list[float | None]:
    """Elo ratings R (Elo, 1978): after each game R_a rises and R_b falls by k · (p - E), where the expected E is
    1 / (1 + 10^((R_b - R_a) / scale)). Of mean `start` over the players that were compared; None for those that
    were not.

    Elo's ratings hang on the order of the games, which means nothing here, so each rating is the mean over all
    orders, for which Boubdir et al. (2023, arXiv:2311.17295) draw permutations. It is found without drawing, so
    that equal records are equal ratings: in a random order each game falls at some time between 0 and 1, and what
    the two have gained by then is, in the mean, what their other games have brought. That leaves out only the
    bend of E over the spread of the orders, some tenths of a point at k = 32. One game by itself is exact.
    """
    _check(players, outcomes)
    times = Counter((a, b, p) if a < b else (b, a, 1 - p) for a, b, p in outcomes)
    kinds = sorted(times)
    if not kinds:
        return [None] * players
    a, b = (np.array([kind[side] for kind in kinds]) for side in (0, 1))
    won = np.array([kind[2] for kind in kinds])
    count = np.array([times[kind] for kind in kinds], dtype=float)
    per_point = math.log(10) / scale

    def gains(own: Array) -> Array:
        """How fast each kind of game gains now, where one of it has gained `own` so far."""
        rating = np.bincount(a, own * count, players) - np.bincount(b, own * count, players)
        # What a game itself will bring is not known before it is played.
        return k * (won - share(per_point * (rating[a] - rating[b] - 2 * own)))

    most = float(np.max(np.bincount(a, count, players) + np.bincount(b, count, players)))
    steps = max(64, math.ceil(4 * k * per_point * most))
    own = np.zeros(len(kinds))
    for _ in range(steps):
        own = own + gains(own + gains(own) / (2 * steps)) / steps
    rating = np.bincount(a, own * count, players) - np.bincount(b, own * count, players)
    seen = {*a.tolist(), *b.tolist()}
    return [round(start + float(rating[i]), 8) if i in seen else None for i in range(players)]


@dataclass(frozen=True)
class Cycles:
    """How often wins go round in a circle."""

    cyclic: int
    """Triples in which a beats b, b beats c and c beats a (circular triads; Kendall and Babington Smith, 1940)."""
    complete: int
    """Triples in which all three met each other."""
    example: tuple[int, int, int] | None
    """A cyclic triple, each beating the next: the one with the lowest numbers."""


def cycles(players: int, outcomes: Sequence[Outcome]) -> Cycles:
    """How many triples are intransitive. Who won more of their games against each other beats the other; equal
    is a tie, and a triple with a tie in it is none that goes round."""
    _check(players, outcomes)
    lead = np.zeros((players, players))
    met = np.zeros((players, players))
    for a, b, p in sorted(outcomes):
        lead[a, b] += p - 0.5
        lead[b, a] -= p - 0.5
        met[a, b] = met[b, a] = 1
    beats = (lead > 1e-9).astype(float)
    # The number of ways to go from c back to a by one more step, for each a and c.
    closed = (beats @ beats) * beats.T
    example = None
    if closed.any():
        first = int(np.flatnonzero(closed.any(axis=1))[0])
        last = int(np.flatnonzero(closed[first])[0])
        between = int(np.flatnonzero(beats[first] * beats[:, last])[0])
        example = (first, between, last)
    complete = round(float(np.trace(met @ met @ met)) / 6)
    return Cycles(round(float(closed.sum()) / 3), complete, example)


def logistic(
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    ridge: float | Sequence[float] = 1.0,
    *,
    weights: npt.ArrayLike | None = None,
) -> Array:
    """Coefficients w that minimise the log loss of y, shares from 0 to 1, under 1 / (1 + exp(-X w)), plus
    ridge · |w|² / 2: as scikit-learn's with C = 1 / ridge and no intercept. For an intercept give X a column of
    ones; `ridge` may be one for each column, and 0 only where the data cannot be told apart without error.
    Raises ValueError on shapes that do not fit, or of no rows."""
    x = np.asarray(X, dtype=float)
    shares = np.asarray(y, dtype=float)
    weight = np.ones(len(shares)) if weights is None else np.asarray(weights, dtype=float)
    if x.ndim != 2 or not len(x) == len(shares) == len(weight) > 0:
        raise ValueError(f"shapes do not fit: X {x.shape}, y {shares.shape}, weights {weight.shape}")
    penalty = np.broadcast_to(np.asarray(ridge, dtype=float), x.shape[1])

    def slope(w: Array) -> tuple[Array, Array]:
        expected = share(x @ w)
        bend = (x * (weight * expected * (1 - expected))[:, None]).T @ x + np.diag(penalty)
        return x.T @ (weight * (shares - expected)) - penalty * w, bend

    return newton(slope, lambda step: x @ step, x.shape[1])[0]


def length_controlled(
    wins: Sequence[float | None],
    length_differences: Sequence[float | None],
    *,
    ridge: float = 0.1,
    **how: Unpack[How],
) -> Estimate:
    """The win rate if both had been of equal length (Dubois et al., 2024, arXiv:2404.04475, with no term for
    the prompt): a logistic regression of `wins` (1, 0, or 0.5 for a tie) on an intercept and
    tanh(length difference / its spread), read off at no difference. None in either is left out.

    A difference is the length of the one whose wins these are less that of the other. The spread is about 0, so
    that no difference stays none. `ridge` keeps it finite where all were won, or all by the longer.
    """
    if not ridge > 0:
        raise ValueError(f"the ridge must be above 0, not {ridge}")
    both = enumerate(zip(wins, length_differences, strict=True))
    kept = [i for i, (win, gap) in both if win is not None and gap is not None]
    won = np.array([wins[i] for i in kept], dtype=float)
    gap = np.array([length_differences[i] for i in kept], dtype=float)
    how = of_these(how, kept)
    n = len(kept)
    if not n:
        return Estimate(None, None, None, 0)

    def apart(weights: Array) -> Array:
        spread = np.sqrt((weights @ gap**2) / weights.sum(axis=1))[:, None]
        bent: Array = np.tanh(np.divide(gap, spread, out=np.zeros(weights.shape), where=spread > 0))
        return bent

    every = np.ones((1, n))
    start = line(every, apart(every), won, ridge, np.zeros(2))[0]
    found = bootstrap(lambda weights: share(line(weights, apart(weights), won, ridge, start)[:, 0]), n, **how)
    if found.value is None or not won.min() == won.max() in (0, 1):
        return found
    # All won, or all lost: no resample is otherwise, so a bound on the plain win rate stands in.
    m = len(set(how.get("clusters") or range(n)))
    bound = wilson(float(won[0]) * m, m, how.get("level", 0.95))
    return Estimate(found.value, min(bound.low, found.value), max(bound.high, found.value), n)


def _check(players: int, outcomes: Sequence[Outcome]) -> None:
    for a, b, p in outcomes:
        if a == b or not (0 <= a < players and 0 <= b < players) or not 0 <= p <= 1:
            raise ValueError(f"not an outcome among {players} players: {(a, b, p)}")


def _fit(
    players: int, outcomes: Sequence[Outcome], prior: float, tolerance: float = 1e-10
) -> tuple[dict[int, int], Array, Array]:
    """The place of each player that was compared, their strengths, and the information about them."""
    if not prior > 0:
        raise ValueError(f"the prior must be above 0, not {prior}")
    _check(players, outcomes)
    place = {player: i for i, player in enumerate(sorted({x for a, b, _ in outcomes for x in (a, b)}))}
    games = np.zeros((len(place), len(place)))
    wins = np.zeros(len(place))
    for a, b, p in sorted(outcomes):
        i, j = place[a], place[b]
        games[i, j] += 1
        games[j, i] += 1
        wins[i] += p
        wins[j] += 1 - p

    def slope(strength: Array) -> tuple[Array, Array]:
        expected = share(strength[:, None] - strength[None, :])
        alone = share(strength)
        weight = games * expected * (1 - expected)
        bend = np.diag(weight.sum(axis=1) + prior * alone * (1 - alone)) - weight
        return wins - (games * expected).sum(axis=1) + prior * (0.5 - alone), bend

    return place, *newton(slope, lambda step: step, len(place), tolerance)
