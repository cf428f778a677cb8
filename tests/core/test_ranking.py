"""Strengths from comparisons, against independent implementations."""

from __future__ import annotations

import math
import random
from itertools import combinations, permutations

import choix
import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from synthpref.core.bootstrap import Estimate
from synthpref.core.intervals import wilson
from synthpref.core.ranking import (
    Cycles,
    Outcome,
    bradley_terry,
    cycles,
    elo,
    length_controlled,
    logistic,
    probabilities,
    win_rate,
)

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
    assert elo(5, outcomes) == pytest.approx(elo(5, turned), abs=1e-6)
    assert cycles(5, outcomes) == cycles(5, turned)


@given(outcomes_of_five)
def test_a_player_who_wins_all_leads(outcomes: list[Outcome]) -> None:
    wins = [*outcomes, *((5, other, 1.0) for other in range(5))]
    found = bradley_terry(6, wins)
    assert found[5] == max(s for s in found if s is not None)
    assert win_rate(6, wins)[5] == 1


@pytest.mark.parametrize("outcome", [(0, 0, 1.0), (0, 3, 1.0), (-1, 0, 1.0), (0, 1, 1.5)])
def test_outcomes_that_are_none_are_refused(outcome: Outcome) -> None:
    for ranking in (bradley_terry, elo, cycles):
        with pytest.raises(ValueError, match="not an outcome"):
            ranking(3, [outcome])


def test_the_prior_is_above_zero() -> None:
    with pytest.raises(ValueError, match="prior"):
        bradley_terry(2, [(0, 1, 1.0)], prior=0)


def test_win_rate() -> None:
    assert win_rate(3, [(0, 1, 1.0), (1, 0, 0.5), (0, 2, 0.0)]) == [0.5, 0.25, 1]


# ---- the chance to win


def random_outcomes(seed: int, players: int, games: int) -> list[Outcome]:
    rng = random.Random(seed)
    return [(*rng.sample(range(players), 2), rng.choice([0.0, 0.5, 1.0, 1.0])) for _ in range(games)]


def test_bradley_terry_without_much_of_a_prior_is_that_of_choix() -> None:
    outcomes = random_outcomes(1, 6, 120)
    wins = [pair for a, b, p in outcomes for pair in [(a, b)] * int(2 * p) + [(b, a)] * int(2 - 2 * p)]
    theirs = choix.ilsr_pairwise(6, wins, alpha=0, tol=1e-12, max_iter=1000)
    assert bradley_terry(6, outcomes, prior=1e-9) == pytest.approx(theirs - theirs.mean(), abs=1e-7)


def test_the_interval_of_a_chance_is_that_of_a_logistic_regression() -> None:
    """Bradley-Terry is a logistic regression without intercept on who met whom (statsmodels, by weights)."""
    players, prior = 4, 0.1
    outcomes = random_outcomes(2, players, 40)
    rows, share, weight = [], [], []
    for a, b, p in outcomes:
        rows.append(np.eye(players)[a] - np.eye(players)[b])
        share.append(p)
        weight.append(1.0)
    for player in range(players):
        rows.append(np.eye(players)[player])
        share.append(0.5)
        weight.append(prior)
    fit = sm.GLM(share, np.array(rows), family=sm.families.Binomial(), freq_weights=np.array(weight)).fit()
    for i, j in permutations(range(players), 2):
        contrast = np.eye(players)[i] - np.eye(players)[j]
        effect = fit.t_test(contrast)
        gap, error = effect.effect[0], effect.sd[0, 0]
        ends = [1 / (1 + math.exp(-x)) for x in (gap, gap - 1.95996398 * error, gap + 1.95996398 * error)]
        assert probabilities(players, outcomes, [(i, j)], prior=prior)[0] == pytest.approx(ends, abs=1e-7)


def test_a_chance_and_its_counterpart_mirror_each_other() -> None:
    outcomes = random_outcomes(3, 5, 30)
    for i, j in combinations(range(5), 2):
        one, other = probabilities(5, outcomes, [(i, j)])[0], probabilities(5, outcomes, [(j, i)])[0]
        assert one is not None
        assert other is not None
        assert one == pytest.approx((1 - other[0], 1 - other[2], 1 - other[1]))
        assert one[1] < one[0] < one[2]


def test_more_games_make_a_chance_surer() -> None:
    narrow, wide = (probabilities(2, [(0, 1, 1.0), (0, 1, 0.0)] * n, [(0, 1)])[0] for n in (50, 5))
    assert narrow is not None
    assert wide is not None
    assert narrow[0] == wide[0] == pytest.approx(0.5)
    assert wide[2] - wide[1] > 2 * (narrow[2] - narrow[1])


def test_who_was_not_compared_has_no_chance() -> None:
    assert probabilities(3, [(0, 1, 1.0)], [(0, 2)])[0] is None
    assert probabilities(3, [], [(0, 1)])[0] is None
    found = probabilities(3, [(0, 1, 1.0)], [(0, 1), (2, 1), (0, 1)])
    assert found[1] is None
    assert found[0] == found[2] == probabilities(3, [(0, 1, 1.0)], [(0, 1)])[0]


# ---- Elo


def one_by_one(players: int, outcomes: list[Outcome], k: float = 32, scale: float = 400) -> np.ndarray:
    """Elo's own way, game after game."""
    rating = np.full(players, 1500.0)
    for a, b, p in outcomes:
        gain = k * (p - 1 / (1 + 10 ** ((rating[b] - rating[a]) / scale)))
        rating[a] += gain
        rating[b] -= gain
    return rating


def test_elo_of_one_game() -> None:
    assert elo(3, [(0, 2, 1.0)]) == [1516, None, 1484]
    assert elo(2, [(0, 1, 0.5)]) == [1500, 1500]
    assert elo(2, [(1, 0, 1.0)], k=20, start=0) == [-10, 10]
    assert elo(2, []) == [None, None]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [8, 32, 64])
def test_elo_is_the_mean_over_all_orders(seed: int, k: float) -> None:
    """As drawn one by one. What the method leaves out grows with k."""
    outcomes = random_outcomes(seed, 4, 6)
    orders = [one_by_one(4, list(order), k) for order in permutations(outcomes)]
    ours = elo(4, outcomes, k=k)
    spread = np.std(orders, axis=0).max()
    for i, mean in enumerate(np.mean(orders, axis=0)):
        if ours[i] is not None:
            assert ours[i] == pytest.approx(mean, abs=0.2 * (k / 32) ** 3)
    assert spread > 0.5 * (k / 32) ** 2, "the orders differ by more than the method does from their mean"


def test_elo_of_many_games_is_the_mean_of_shuffles() -> None:
    rng = random.Random(8)
    outcomes = random_outcomes(8, 6, 200)
    orders = [one_by_one(6, rng.sample(outcomes, len(outcomes))) for _ in range(4000)]
    error = np.std(orders, axis=0) / math.sqrt(len(orders))
    assert np.abs(np.array(elo(6, outcomes)) - np.mean(orders, axis=0)).max() < 1 + 3 * error.max()


@given(outcomes_of_five)
def test_elo_takes_from_one_what_it_gives_to_another(outcomes: list[Outcome]) -> None:
    rated = [rating for rating in elo(5, outcomes) if rating is not None]
    assert sum(rated) == pytest.approx(1500 * len(rated))


@given(outcomes_of_five, st.permutations(range(5)))
def test_elo_of_renamed_players_is_theirs_renamed(outcomes: list[Outcome], names: list[int]) -> None:
    renamed = elo(5, [(names[a], names[b], p) for a, b, p in outcomes])
    assert [renamed[names[i]] for i in range(5)] == pytest.approx(elo(5, outcomes), abs=1e-6)


def test_equal_records_are_equal_ratings_to_the_last_digit() -> None:
    ring = [(i, (i + 1) % 7, 1.0) for i in range(7)]
    assert set(elo(7, ring)) == {1500}
    assert len(set(elo(4, [(0, 1, 1.0), (2, 3, 1.0)]))) == 2


def test_elo_of_a_great_many_games_stays_put() -> None:
    found = elo(2, [(0, 1, 1.0)] * 3000 + [(0, 1, 0.0)] * 1000)
    # Three wins in four are 191 points.
    assert found[0] - found[1] == pytest.approx(400 * math.log10(3), abs=5)  # type: ignore[operator]


# ---- cycles


def test_a_ring_of_three_is_a_cycle() -> None:
    ring = [(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0)]
    assert cycles(3, ring) == Cycles(1, 1, (0, 1, 2))
    assert cycles(3, [(b, a, p) for a, b, p in ring]) == Cycles(1, 1, (0, 2, 1))
    assert cycles(3, [(0, 1, 1.0), (1, 2, 1.0), (0, 2, 1.0)]) == Cycles(0, 1, None)
    assert cycles(4, ring) == Cycles(1, 1, (0, 1, 2))
    # What counts is who won more; equal is a tie, and a tie is no part of a cycle.
    assert cycles(3, [*ring, (0, 1, 0.0), (0, 1, 1.0)]).cyclic == 1
    assert cycles(3, [*ring, (0, 1, 0.0)]) == Cycles(0, 1, None)
    assert cycles(0, []) == Cycles(0, 0, None)


@given(outcomes_of_five)
def test_cycles_are_those_found_by_looking(outcomes: list[Outcome]) -> None:
    lead: dict[tuple[int, int], float] = {}
    for a, b, p in outcomes:
        lead[a, b] = lead.get((a, b), 0) + p - 0.5
        lead[b, a] = lead.get((b, a), 0) + 0.5 - p
    complete = [t for t in combinations(range(5), 3) if all(pair in lead for pair in combinations(t, 2))]
    rings = [
        (a, b, c)
        for t in complete
        for a, b, c in permutations(t)
        if min(lead[a, b], lead[b, c], lead[c, a]) > 0 and a == t[0]
    ]
    found = cycles(5, outcomes)
    assert (found.cyclic, found.complete) == (len(rings), len(complete))
    assert (found.example in rings) if rings else found.example is None


def test_as_many_cycles_as_kendall_and_babington_smith_count() -> None:
    """In a full tournament: n(n-1)(n-2)/6 less, for each player, the twos among those it beat."""
    rng = random.Random(9)
    outcomes = [(a, b, float(rng.random() < 0.5)) for a, b in combinations(range(30), 2)]
    won = [sum(p if a == i else 1 - p for a, b, p in outcomes if i in (a, b)) for i in range(30)]
    found = cycles(30, outcomes)
    assert found.complete == math.comb(30, 3)
    assert found.cyclic == math.comb(30, 3) - sum(math.comb(int(w), 2) for w in won)


# ---- logistic regression


@pytest.mark.parametrize("ridge", [0.01, 1.0, 30.0])
def test_logistic_is_that_of_sklearn(ridge: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 4)) * [1, 10, 0.1, 1]
    y = (rng.random(200) < 1 / (1 + np.exp(-x @ [1, 0.1, -3, 0]))).astype(float)
    weight = rng.uniform(0.5, 3, 200)
    theirs = LogisticRegression(C=1 / ridge, fit_intercept=False, tol=1e-10, max_iter=10_000)
    theirs.fit(x, y, sample_weight=weight)
    assert logistic(x, y, ridge, weights=weight) == pytest.approx(theirs.coef_[0], abs=1e-5)


def test_logistic_of_shares_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(2)
    x = np.column_stack([np.ones(80), rng.normal(size=(80, 2))])
    y = rng.choice([0, 0.5, 1], 80)
    fit = sm.GLM(y, x, family=sm.families.Binomial()).fit(tol=1e-12)
    assert logistic(x, y, 0) == pytest.approx(fit.params, abs=1e-8)


def test_a_ridge_for_each_column_keeps_what_separates_finite() -> None:
    x = np.column_stack([np.ones(40), np.repeat([-1.0, 1.0], 20)])
    found = logistic(x, x[:, 1] > 0, [0, 0.01])
    assert found[0] == pytest.approx(0, abs=1e-8)
    assert 5 < found[1] < 15
    # At the maximum the pull of the data is that of the ridge.
    assert 40 / (1 + math.exp(found[1])) == pytest.approx(0.01 * found[1])


@pytest.mark.parametrize(("x", "y"), [([[1.0]], [1, 0]), ([1.0, 2.0], [1, 0]), (np.zeros((0, 2)), [])])
def test_shapes_that_do_not_fit_are_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="shapes"):
        logistic(x, y)


# ---- length


def long_winded(seed: int, n: int, better: float, liking: float) -> tuple[list[float], list[float]]:
    """Wins of one who is better by so much, against one a hundred words shorter, by a judge who likes length."""
    rng = np.random.default_rng(seed)
    longer = rng.normal(100, 150, n)
    chance = 1 / (1 + np.exp(-better - liking * np.tanh(longer / math.hypot(100, 150))))
    return (rng.random(n) < chance).astype(float).tolist(), longer.tolist()


def test_the_win_rate_at_equal_length_is_what_sklearn_reads_off() -> None:
    won, longer = long_winded(1, 300, 0.3, 1.5)
    gap = np.array(longer)
    x = np.column_stack([np.ones(300), np.tanh(gap / np.sqrt((gap**2).mean()))])
    fit = LogisticRegression(C=1 / 0.1, fit_intercept=False, tol=1e-10).fit(x, won)
    found = length_controlled(won, longer)
    assert found.value == pytest.approx(1 / (1 + math.exp(-fit.coef_[0, 0])), abs=1e-6)
    assert found.n == 300


def test_length_is_taken_out_of_the_win_rate() -> None:
    won, longer = long_winded(2, 20_000, 0.0, 1.5)
    found = length_controlled(won, longer, resamples=100)
    assert np.mean(won) > 0.6
    assert found.value == pytest.approx(0.5, abs=0.02)
    assert found.low < 0.5 < found.high  # type: ignore[operator]
    plain, even = long_winded(3, 5000, 0.5, 0.0)
    assert length_controlled(plain, even, resamples=100).value == pytest.approx(np.mean(plain), abs=0.02)


def test_sides_mirror_each_other_at_equal_length() -> None:
    won, longer = long_winded(4, 200, 0.4, 1.0)
    one = length_controlled(won, longer)
    other = length_controlled([1 - w for w in won], [-x for x in longer])
    assert other.value == pytest.approx(1 - one.value)  # type: ignore[operator]
    assert (other.low, other.high) == pytest.approx((1 - one.high, 1 - one.low))  # type: ignore[operator]


def test_lengths_that_are_all_equal_leave_the_win_rate() -> None:
    found = length_controlled([1.0, 1.0, 0.0, 0.5] * 50, [0.0] * 200)
    assert found.value == pytest.approx(0.625, abs=1e-3)


def test_wins_throughout_stay_finite_and_doubtful() -> None:
    found = length_controlled([1.0] * 20, list(range(20)))
    assert found.value is not None
    assert found.low == wilson(20, 20).low < found.value < 1
    separated = length_controlled([1.0] * 20 + [0.0] * 20, [50.0] * 20 + [-50.0] * 20)
    assert separated.value == pytest.approx(0.5, abs=1e-6)
    assert 0 < separated.low < 0.5 < separated.high < 1  # type: ignore[operator]


def test_what_lacks_a_verdict_or_a_length_is_left_out() -> None:
    won, longer = long_winded(5, 60, 0.2, 1.0)
    prompts = [i // 2 for i in range(60)]
    more = length_controlled(
        [None, *won, 1.0], [3.0, *longer, None], clusters=[99, *prompts, 98], resamples=200
    )
    assert more == length_controlled(won, longer, clusters=prompts, resamples=200)
    assert length_controlled([], []) == Estimate(None, None, None, 0)
    with pytest.raises(ValueError, match="ridge"):
        length_controlled(won, longer, ridge=0)
