"""Strengths from comparisons, against independent implementations."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from synthpref.core.ranking import Outcome, bradley_terry, win_rate

outcomes_of_five = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.0])).filter(
        lambda o: o[0] != o[1]
    ),
    min_size=1,
    max_size=25,
)


def by_scipy(players: int, outcomes: list[Outcome], prior: float) -> np.ndarray:
    """Bradley-Terry by a general optimiser, written down from the likelihood."""

    def loss(s: np.ndarray) -> float:
        total = 0.0
        for a, b, p in outcomes:
            total += p * np.logaddexp(0, s[b] - s[a]) + (1 - p) * np.logaddexp(0, s[a] - s[b])
        return total + prior * float(np.sum(0.5 * np.logaddexp(0, -s) + 0.5 * np.logaddexp(0, s)))

    found = minimize(loss, np.zeros(players), method="BFGS", options={"gtol": 1e-9})
    return found.x - found.x.mean()


@pytest.mark.parametrize("prior", [0.1, 1.0])
def test_bradley_terry_is_the_maximum_that_scipy_finds(prior: float) -> None:
    rng = random.Random(3)
    outcomes = [
        (a, b, rng.choice([0.0, 0.5, 1.0]))
        for a in range(6)
        for b in range(a + 1, 6)
        for _ in range(rng.randint(1, 4))
    ]
    ours = bradley_terry(6, outcomes, prior=prior)
    assert ours == pytest.approx(by_scipy(6, outcomes, prior), abs=1e-4)


def test_bradley_terry_recovers_known_strengths() -> None:
    truth = np.array([1.2, 0.4, -0.3, -1.3])
    outcomes = [
        (a, b, float(1 / (1 + np.exp(truth[b] - truth[a])))) for a in range(4) for b in range(a + 1, 4)
    ] * 200
    assert bradley_terry(4, outcomes) == pytest.approx(truth - truth.mean(), abs=0.01)


def test_a_sweep_stays_finite_and_in_order() -> None:
    sweep = [(a, b, 1.0) for a in range(8) for b in range(a + 1, 8)]
    for prior in (1e-6, 0.1, 10):
        found = [s for s in bradley_terry(8, sweep, prior=prior) if s is not None]
        assert found == sorted(found, reverse=True)
        assert len(set(found)) == 8
        assert np.isfinite(found).all()


def test_ties_are_half_a_win_each() -> None:
    tied = bradley_terry(2, [(0, 1, 0.5)])
    assert tied == bradley_terry(2, [(0, 1, 1.0), (0, 1, 0.0)]) == [0, 0]
    assert bradley_terry(3, [(0, 1, 0.5), (1, 2, 1.0), (0, 2, 1.0)])[:2] == pytest.approx([0.5] * 2, abs=2)


def test_players_that_were_not_compared_have_no_score() -> None:
    found = bradley_terry(4, [(0, 2, 1.0)])
    assert found[1] is found[3] is None
    assert found[0] == pytest.approx(-(found[2] or 0))
    assert bradley_terry(2, []) == [None, None] == win_rate(2, [])


def test_two_groups_that_never_met_stay_finite() -> None:
    found = bradley_terry(4, [(0, 1, 1.0), (2, 3, 0.0)])
    assert found[0] == pytest.approx(found[3])
    assert found[1] == pytest.approx(found[2])


@given(outcomes_of_five, st.randoms(use_true_random=False))
def test_neither_order_nor_sides_show(outcomes: list[Outcome], rng: random.Random) -> None:
    turned = [(b, a, 1 - p) if rng.random() < 0.5 else (a, b, p) for a, b, p in outcomes]
    rng.shuffle(turned)
    one, other = bradley_terry(5, outcomes), bradley_terry(5, turned)
    assert one == pytest.approx(other, abs=1e-6)
    assert win_rate(5, outcomes) == win_rate(5, turned)


@given(outcomes_of_five)
def test_a_player_who_wins_all_leads(outcomes: list[Outcome]) -> None:
    wins = [*outcomes, *((5, other, 1.0) for other in range(5))]
    found = bradley_terry(6, wins)
    assert found[5] == max(s for s in found if s is not None)
    assert win_rate(6, wins)[5] == 1


@pytest.mark.parametrize("outcome", [(0, 0, 1.0), (0, 3, 1.0), (-1, 0, 1.0), (0, 1, 1.5)])
def test_outcomes_that_are_none_are_refused(outcome: Outcome) -> None:
    with pytest.raises(ValueError, match="not an outcome"):
        bradley_terry(3, [outcome])


def test_the_prior_is_above_zero() -> None:
    with pytest.raises(ValueError, match="prior"):
        bradley_terry(2, [(0, 1, 1.0)], prior=0)


def test_win_rate() -> None:
    assert win_rate(3, [(0, 1, 1.0), (1, 0, 0.5), (0, 2, 0.0)]) == [0.5, 0.25, 1]
