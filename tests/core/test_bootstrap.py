"""The bootstrap: intervals hold what they should as often as they say, and are those of scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, spearmanr, t
from scipy.stats import bootstrap as by_scipy
from sklearn.metrics import cohen_kappa_score

from synthpref.core.agreement import Array, ratio
from synthpref.core.bootstrap import _BLOCK, Estimate, Statistic, _t, bootstrap, resampled_sums
from synthpref.core.intervals import accuracy_estimate, kappa_estimate, spearman_estimate
from synthpref.core.ranking import length_controlled, probabilities

SEEDS = 400
RIGHT = 0.75
SHARES = np.array([0.45, 0.4, 0.15])


def judged(seed: int, n: int, clustered: bool) -> tuple[list[int], list[int], list[int] | None]:
    """Labels of three kinds, a judge who is right on three of four, and the prompts the items are of: as many as
    a quarter of n, of 1 to 7 items each, some easy and some hard."""
    rng = np.random.default_rng([seed, n])
    prompts, right = None, np.full(n, RIGHT)
    if clustered:
        prompts = np.repeat(np.arange(n // 4), rng.integers(1, 8, n // 4))
        right = rng.beta(3 * RIGHT, 3 * (1 - RIGHT), n // 4)[prompts]
    gold = rng.choice(3, len(right), p=SHARES)
    said = np.where(rng.random(len(right)) < right, gold, (gold + rng.integers(1, 3, len(right))) % 3)
    return gold.tolist(), said.tolist(), None if prompts is None else prompts.tolist()


def true_kappa() -> float:
    said = SHARES * RIGHT + (1 - SHARES) * (1 - RIGHT) / 2
    by_chance = float(SHARES @ said)
    return (RIGHT - by_chance) / (1 - by_chance)


def within_binomial_error(held: int, tries: int, level: float = 0.95) -> bool:
    """Whether an interval of that level would hold so often in all but 1 of 100 such tests."""
    low, high = binom.interval(0.99, tries, level)
    return bool(low <= held <= high)


def holds(estimate: Estimate, truth: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= truth <= estimate.high


@pytest.mark.parametrize("clustered", [False, True], ids=["items", "prompts"])
@pytest.mark.parametrize("n", [100, 400])
def test_intervals_of_accuracy_and_kappa_hold_the_truth_as_often_as_they_say(n: int, clustered: bool) -> None:
    accuracy = kappa = 0
    for seed in range(SEEDS):
        gold, said, prompts = judged(seed, n, clustered)
        accuracy += holds(accuracy_estimate(gold, said, clusters=prompts, seed=seed), RIGHT)
        kappa += holds(kappa_estimate(gold, said, clusters=prompts, seed=seed), true_kappa())
    assert within_binomial_error(accuracy, SEEDS), accuracy / SEEDS
    assert within_binomial_error(kappa, SEEDS), kappa / SEEDS


def test_items_of_a_prompt_taken_for_independent_would_say_too_much() -> None:
    """That clusters are needed at all: without them the same data give intervals that are too narrow."""
    held = 0
    for seed in range(SEEDS):
        gold, said, _ = judged(seed, 400, clustered=True)
        held += holds(accuracy_estimate(gold, said, seed=seed), RIGHT)
    assert not within_binomial_error(held, SEEDS)


def test_intervals_of_other_levels_hold_as_often_as_they_say() -> None:
    held = 0
    for seed in range(SEEDS):
        gold, said, _ = judged(seed, 100, clustered=False)
        held += holds(kappa_estimate(gold, said, level=0.8, seed=seed), true_kappa())
    assert within_binomial_error(held, SEEDS, 0.8)


def test_intervals_of_rank_correlation_hold_as_often_as_they_say() -> None:
    truth = 6 / math.pi * math.asin(0.6 / 2)
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=100)
        y = 0.6 * x + 0.8 * rng.normal(size=100)
        held += holds(spearman_estimate(x.tolist(), y.tolist(), resamples=500, seed=seed), truth)
    assert within_binomial_error(held, 200)


def test_intervals_of_the_win_rate_at_equal_length_hold_as_often_as_they_say() -> None:
    truth, spread = 1 / (1 + math.exp(-0.4)), math.hypot(30, 100)
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        longer = rng.normal(30, 100, 200)
        chance = 1 / (1 + np.exp(-0.4 - np.tanh(longer / spread)))
        won = (rng.random(200) < chance).astype(float)
        held += holds(length_controlled(won.tolist(), longer.tolist(), resamples=500, seed=seed), truth)
    assert within_binomial_error(held, 200)


def test_intervals_of_a_chance_to_win_hold_as_often_as_they_say() -> None:
    strength = [0.8, 0.3, 0.0, -0.2, -0.9]
    held = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        outcomes = [
            (a, b, float(rng.random() < 1 / (1 + math.exp(strength[b] - strength[a]))))
            for a in range(5)
            for b in range(a)
            for _ in range(20)
        ]
        found = probabilities(5, outcomes, [(0, 2)])[0]
        assert found is not None
        held += found[1] <= 1 / (1 + math.exp(-0.8)) <= found[2]
    assert within_binomial_error(held, SEEDS)


# ---- against scipy


def test_the_ends_are_those_of_scipys_bca() -> None:
    gold, said, _ = judged(1, 300, clustered=False)
    ours = kappa_estimate(gold, said, resamples=10_000)
    theirs = by_scipy(
        (gold, said),
        lambda a, b: cohen_kappa_score(a, b),
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="BCa",
        rng=np.random.default_rng(1),
    )
    spread = float(theirs.standard_error)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.25 * spread)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.25 * spread)


def test_the_ends_of_a_lopsided_figure_are_those_of_scipys_bca() -> None:
    """Rank correlation near 1, where the percentile method and BCa part ways."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=60)
    y = x + 0.3 * rng.normal(size=60)
    theirs = by_scipy(
        (x, y),
        lambda a, b, axis: spearmanr(a, b).statistic if a.ndim == 1 else _rows(a, b),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="BCa",
        rng=np.random.default_rng(1),
    )
    ours = spearman_estimate(x.tolist(), y.tolist(), resamples=10_000)
    # Ours are wider by the factor for 60 clusters.
    wider = float(t.ppf(0.975, 59)) / 1.96 * math.sqrt(60 / 59)
    for mine, end in zip((ours.low, ours.high), theirs.confidence_interval, strict=True):
        assert (mine - ours.value) / (end - ours.value) == pytest.approx(wider, abs=0.1)  # type: ignore[operator]


def _rows(a: Array, b: Array) -> Array:
    return np.array([spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)])


@pytest.mark.parametrize("freedom", [4, 9, 24, 99, 999])
def test_quantiles_of_t_are_those_of_scipy(freedom: int) -> None:
    for share in (0.9, 0.975, 0.995):
        assert _t(share, freedom) == pytest.approx(float(t.ppf(share, freedom)), rel=0.02)


# ---- contracts


def mean_of(values: Array) -> Statistic:
    return lambda weights: ratio(weights @ values, weights.sum(axis=1))


def test_both_ways_of_resampling_agree() -> None:
    """Weights of items, and sums of clusters of equal sums drawn together."""
    rng = np.random.default_rng(4)
    values = rng.integers(0, 3, 300).astype(float)
    clusters = rng.integers(0, 80, 300).tolist()
    one = bootstrap(mean_of(values), 300, clusters=clusters, resamples=20_000)
    rows = np.stack([values, np.ones(300)], axis=1)
    other = resampled_sums(
        lambda s: ratio(s[:, 0], s[:, 1]), rows, clusters=clusters, resamples=20_000, seed=9
    ).estimate()
    assert one.value == other.value
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.004)


def test_what_is_held_at_once_does_not_grow_with_the_resamples() -> None:
    seen: list[int] = []

    def statistic(weights: Array) -> Array:
        seen.append(weights.size)
        return weights[:, 0]

    n = 50_000
    bootstrap(statistic, n, resamples=300)
    assert max(seen) <= _BLOCK
    assert sum(seen) == n * (1 + 300 + 200)


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    values = np.random.default_rng(0).normal(size=50)
    found = [bootstrap(mean_of(values), 50, seed=seed) for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]


def test_there_is_no_interval_where_nothing_can_be_said_of_it() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0])
    assert bootstrap(mean_of(values), 4, clusters=["p"] * 4) == Estimate(3.75, None, None, 4)
    assert bootstrap(mean_of(np.ones(4)), 4) == Estimate(1.0, None, None, 4)
    assert bootstrap(mean_of(values[:0]), 0) == Estimate(None, None, None, 0)
    # Not defined without the one item that most resamples of ten lack or hold but once.
    rare = np.array([1.0] + [0.0] * 9)
    undefined = bootstrap(lambda w: ratio(w @ np.arange(10.0), w @ rare), 10)
    assert undefined == Estimate(45.0, None, None, 10)
    with pytest.raises(ValueError, match="3 clusters for 4 items"):
        bootstrap(mean_of(values), 4, clusters=[1, 2, 3])


def test_an_interval_holds_its_own_figure() -> None:
    rng = np.random.default_rng(6)
    for _ in range(100):
        values = rng.lognormal(sigma=2, size=int(rng.integers(2, 12)))
        found = bootstrap(mean_of(values), len(values), resamples=50)
        assert found.value is not None
        assert found.low is None or holds(found, found.value)
