"""Estimates of agreement and tests of difference, against independent libraries."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.contingency_tables import mcnemar as by_statsmodels
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from synthpref.core.agreement import agreement, kappa, kendall, spearman
from synthpref.core.intervals import (
    Difference,
    Estimate,
    accuracy_difference,
    accuracy_estimate,
    alpha_estimate,
    holm,
    kappa_difference,
    kappa_estimate,
    kendall_estimate,
    mcnemar,
    share_estimate,
    spearman_estimate,
    wilson,
)

# ---- shares


@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_wilson_is_that_of_statsmodels(n: int, share: float, level: float) -> None:
    successes = round(2 * n * share) / 2
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    found = wilson(successes, n, level)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_wilson_of_nothing_and_of_what_is_no_share() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0, 1)
    for successes, n in ((3, 2), (-1, 2), (1, -1)):
        with pytest.raises(ValueError, match="not a share"):
            wilson(successes, n)


def test_where_all_are_right_or_none_wilson_stands_in() -> None:
    bound = wilson(20, 20)
    assert share_estimate([1.0] * 20) == Estimate(1.0, bound.low, bound.high, 20)
    assert accuracy_estimate("ab" * 10, "ab" * 10) == Estimate(1.0, bound.low, bound.high, 20)
    assert accuracy_estimate("ab" * 10, "ba" * 10) == Estimate(0.0, 0.0, wilson(0, 20).high, 20)
    # Four prompts tell no more than four trials.
    prompts = [i // 5 for i in range(20)]
    assert share_estimate([1.0] * 20, clusters=prompts).low == wilson(4, 4).low


def test_kappa_of_full_agreement_has_a_lower_end() -> None:
    found = kappa_estimate("ab" * 10, "ab" * 10)
    # With both labels as frequent, kappa is twice the agreement less 1.
    assert found == Estimate(1.0, pytest.approx(2 * wilson(20, 20).low - 1), 1.0, 20)


def test_ties_count_half_in_shares() -> None:
    found = share_estimate([1, 0.5, 0.5, 0, None, 1])
    assert found.value == pytest.approx(0.6)
    assert found.n == 5


# ---- estimates

PAIRED: dict[str, tuple[Callable[..., Estimate], Callable[..., float | None]]] = {
    "accuracy": (accuracy_estimate, agreement),
    "kappa": (kappa_estimate, kappa),
    "kendall": (kendall_estimate, kendall),
    "spearman": (spearman_estimate, spearman),
}


def two_raters(seed: int, n: int) -> tuple[list[Any], list[Any]]:
    """Scores of 1 to 5, one in ten missing."""
    rng = random.Random(seed)
    first = [rng.randint(1, 5) for _ in range(n)]
    second = [min(5, max(1, score + rng.randint(-2, 2))) for score in first]
    return (
        [None if rng.random() < 0.1 else score for score in first],
        [None if rng.random() < 0.1 else score for score in second],
    )


@pytest.mark.parametrize("name", PAIRED)
def test_an_estimate_is_the_figure_itself_with_ends_about_it(name: str) -> None:
    estimate, figure = PAIRED[name]
    first, second = two_raters(1, 200)
    found = estimate(first, second)
    assert found.value == pytest.approx(figure(first, second), abs=1e-12)
    assert found.n == sum(None not in both for both in zip(first, second, strict=True))
    assert found.low < found.value < found.high  # type: ignore[operator]
    # Four times the items, half the width.
    wide = estimate(*two_raters(1, 50))
    narrow = estimate(*two_raters(1, 3200))
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(8, rel=0.35)  # type: ignore[operator]


@pytest.mark.parametrize("name", PAIRED)
def test_items_without_an_answer_leave_with_their_cluster(name: str) -> None:
    estimate, _ = PAIRED[name]
    first, second = two_raters(2, 120)
    prompts = [i // 3 for i in range(120)]
    kept = [i for i in range(120) if None not in (first[i], second[i])]
    answered = [[column[i] for i in kept] for column in (first, second, prompts)]
    assert estimate(first, second, clusters=prompts) == estimate(
        answered[0], answered[1], clusters=answered[2]
    )


@pytest.mark.parametrize("name", PAIRED)
def test_the_same_items_many_times_over_are_no_surer(name: str) -> None:
    """As clusters; taken for new items they would seem so."""
    estimate, _ = PAIRED[name]
    first, second = two_raters(3, 80)
    prompts = list(range(80))
    once = estimate(first, second, resamples=4000)
    repeated = estimate(first * 6, second * 6, clusters=prompts * 6, resamples=4000)
    naive = estimate(first * 6, second * 6, resamples=4000)
    assert repeated.value == pytest.approx(once.value)
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high), abs=0.03)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)  # type: ignore[operator]


@pytest.mark.parametrize("level", ["nominal", "interval"])
def test_alpha_has_an_interval(level: Any) -> None:
    rng = random.Random(4)
    truth = [rng.randint(1, 3) for _ in range(150)]
    units = [[t if rng.random() < 0.7 else rng.randint(1, 3) for _ in range(3)] for t in truth]
    units[0] = [1]
    found = alpha_estimate(units, level)
    coded = np.array([[*unit, *[np.nan] * (3 - len(unit))] for unit in units]).T
    assert found.value == pytest.approx(krippendorff.alpha(coded, level_of_measurement=level))
    assert found.n == 149
    assert 0 < found.low < found.value < found.high < 1  # type: ignore[operator]
    same = alpha_estimate([[1]] + units[1:] * 4, level, clusters=[-1, *(list(range(149)) * 4)])
    assert same.high - same.low == pytest.approx(found.high - found.low, rel=0.15)  # type: ignore[operator]


def test_tau_of_very_many_scores_keeps_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=800).round(2)
    y = (x + rng.normal(size=800)).round(2)
    prompts = rng.integers(0, 300, 800).tolist()
    exact = kendall_estimate(x.tolist(), y.tolist(), clusters=prompts, resamples=4000)
    monkeypatch.setattr("synthpref.core.intervals._MANY", 100)
    quick = kendall_estimate(x.tolist(), y.tolist(), clusters=prompts, resamples=4000)
    assert quick.value == pytest.approx(exact.value)
    assert (quick.low, quick.high) == pytest.approx((exact.low, exact.high), abs=0.004)


@pytest.mark.parametrize("name", PAIRED)
def test_nothing_has_no_estimate(name: str) -> None:
    estimate, _ = PAIRED[name]
    assert estimate([], []) == estimate([None], [1]) == Estimate(None, None, None, 0)
    one = estimate([1], [1])
    assert one.n == 1
    assert (one.value, one.low) == ((1.0, wilson(1, 1).low) if name == "accuracy" else (None, None))
    assert alpha_estimate([]) == Estimate(None, None, None, 0)


# ---- differences


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_that_of_statsmodels_and_of_the_binomial(first: int, second: int) -> None:
    ours = mcnemar(first, second)
    assert ours == pytest.approx(by_statsmodels([[5, first], [second, 7]], exact=True).pvalue, abs=1e-12)
    if first + second:
        assert ours == pytest.approx(binomtest(first, first + second).pvalue, rel=1e-9)


def test_mcnemar_of_very_many_items() -> None:
    assert mcnemar(49_000, 51_000) == pytest.approx(binomtest(49_000, 100_000).pvalue, rel=1e-6)
    assert mcnemar(0, 5000) == pytest.approx(0, abs=1e-300)
    with pytest.raises(ValueError):
        mcnemar(-1, 3)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_holm_is_that_of_statsmodels(n: int) -> None:
    rng = random.Random(n)
    ps = [rng.choice([rng.random(), rng.random() / 50, 0.03]) for _ in range(n)]
    ours = holm(ps)
    assert ours == pytest.approx(multipletests(ps, method="holm")[1].tolist(), abs=1e-12)
    assert all(adjusted >= p for adjusted, p in zip(ours, ps, strict=True))
    ranked = [adjusted for _, adjusted in sorted(zip(ps, ours, strict=True))]
    assert all(a <= b for a, b in pairwise(ranked))


def test_holm_of_nothing() -> None:
    assert holm([]) == []


def rated(seed: int, n: int, right: tuple[float, float]) -> tuple[list[int], list[int], list[int]]:
    """Two raters, right so often, and the gold labels; both find the same items hard."""
    rng = np.random.default_rng([seed, n])
    gold = rng.choice(3, n, p=[0.45, 0.4, 0.15])
    hard = rng.normal(0, 0.8, n)
    raters = []
    for share in right:
        missed = hard + rng.normal(0, 0.6, n) > NormalDist().inv_cdf(share)
        raters.append(np.where(missed, (gold + rng.integers(1, 3, n)) % 3, gold))
    return raters[0].tolist(), raters[1].tolist(), gold.tolist()


def test_the_difference_is_that_of_the_two_accuracies() -> None:
    first, second, gold = rated(4, 300, (0.8, 0.73))
    found = accuracy_difference(first, second, gold)
    assert found.value == pytest.approx(np.mean(np.equal(first, gold)) - np.mean(np.equal(second, gold)))
    one, other = (
        sum(a == g != b for a, b, g in zip(x, y, gold, strict=True))
        for x, y in ((first, second), (second, first))
    )
    # Of 300 separate items it says much what the test of McNemar does in its form for many.
    asymptotic = by_statsmodels([[0, one], [other, 0]], exact=False, correction=False)
    assert found.p == pytest.approx(asymptotic.pvalue, rel=0.2)
    # The same items over again, in as many clusters, say no more; taken for new ones, McNemar's test is misled.
    again = accuracy_difference(first * 5, second * 5, gold * 5, clusters=list(range(300)) * 5)
    assert again.p == pytest.approx(found.p, rel=0.25)
    assert mcnemar(5 * one, 5 * other) < 0.2 * found.p  # type: ignore[operator]


def test_the_difference_is_that_of_the_two_kappas() -> None:
    first, second, gold = rated(1, 300, (0.8, 0.7))
    found = kappa_difference(first, second, gold)
    assert found.value == pytest.approx(cohen_kappa_score(first, gold) - cohen_kappa_score(second, gold))
    turned = kappa_difference(second, first, gold)
    assert turned.value == pytest.approx(-found.value)  # type: ignore[operator]
    # The rest but for the luck of the draw.
    errors = [NormalDist().inv_cdf(one.p) for one in (found, turned)]  # type: ignore[arg-type]
    assert errors[0] == pytest.approx(errors[1], rel=0.1)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=0.01)  # type: ignore[operator]


def test_only_items_that_both_answered_are_compared() -> None:
    first, second, gold = rated(2, 200, (0.8, 0.7))
    prompts = [i // 2 for i in range(200)]
    gaps: list[list[int | None]] = [list(first), list(second), list(gold)]
    for place, column in zip((3, 50, 120), gaps, strict=True):
        column[place] = None
    kept = [i for i in range(200) if i not in (3, 50, 120)]
    whole = [[column[i] for i in kept] for column in (first, second, gold, prompts)]
    assert kappa_difference(*gaps, clusters=prompts) == kappa_difference(*whole[:3], clusters=whole[3])


@pytest.mark.parametrize("n", [60, 300])
def test_better_is_said_by_chance_as_seldom_as_it_should(n: int) -> None:
    low, high = binom.interval(0.99, 300, 0.05)
    for difference in (kappa_difference, accuracy_difference):
        said = missed = 0
        for seed in range(300):
            found = difference(*rated(seed, n, (0.75, 0.75)), seed=seed)
            assert found.p is not None
            said += found.p <= 0.05
            missed += not found.low <= 0 <= found.high  # type: ignore[operator]
        assert low <= said <= high
        assert low <= missed <= high


def test_better_is_said_where_it_is_so() -> None:
    said = sum(kappa_difference(*rated(s, 300, (0.8, 0.65)), seed=s).p <= 0.05 for s in range(50))  # type: ignore[operator]
    assert said >= 45
    # Small enough to survive an adjustment for a thousand comparisons.
    assert kappa_difference(*rated(1, 1000, (0.85, 0.6))).p < 5e-5  # type: ignore[operator]


def test_raters_who_say_the_same_do_not_differ() -> None:
    first, _, gold = rated(3, 100, (0.8, 0.8))
    assert kappa_difference(first, first, gold) == Difference(0.0, 0.0, 0.0, 1.0)
    assert accuracy_difference(first, first, gold) == Difference(0.0, 0.0, 0.0, 1.0)


def test_no_items_have_no_difference() -> None:
    for difference in (kappa_difference, accuracy_difference):
        assert difference([], [], []) == Difference(None, None, None, None)
    assert accuracy_difference([1], [2], [1]) == Difference(1.0, None, None, None)
    assert kappa_difference([1, 1], [1, 1], [1, 1]) == Difference(None, None, None, None)
