"""Coefficients of agreement, against tables by hand and independent libraries."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import krippendorff as published
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa, to_table

from synthpref.core.agreement import (
    Level,
    Ranked,
    agreement,
    kappa,
    kappa_of,
    kendall,
    spearman,
)
from synthpref.core.intervals import alpha_estimate

LEVELS: tuple[Level, ...] = ("nominal", "interval")


def krippendorff(units: Sequence[Sequence[float | None]], level: Level) -> float | None:
    return alpha_estimate(units, level, resamples=2).value


labels = st.lists(st.tuples(st.sampled_from("abt"), st.sampled_from("abt")), min_size=1, max_size=40)
scores = st.lists(
    st.tuples(st.sampled_from([1, 2, 2.5, 4, 9]), st.sampled_from([-3, 0, 1, 7.5])), min_size=1, max_size=30
)
units = st.lists(st.lists(st.sampled_from([1, 2, 3, 7, None]), max_size=4), max_size=20)


# ---- two raters


@given(labels)
def test_kappa_is_that_of_sklearn_and_of_statsmodels(pairs: list[tuple[str, str]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    ours = kappa(first, second)
    if len({*first, *second}) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
        table = to_table(np.array([["abt".index(a), "abt".index(b)] for a, b in pairs]), bins=3)[0]
        assert ours == pytest.approx(cohens_kappa(table, return_results=False), abs=1e-12)
        assert ours == pytest.approx(kappa_of(table[None])[0], abs=1e-12)


def test_kappa_of_a_table_by_hand() -> None:
    """Cohen's own kind of table: 20 and 15 alike, 5 and 10 not; 35/50 seen, 25/50 by chance."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert agreement(first, second) == pytest.approx(0.7)
    assert kappa(first, second) == pytest.approx(0.4, abs=1e-15)


def test_kappa_and_agreement_of_nothing() -> None:
    assert kappa([], []) is None
    assert agreement([], []) is None
    assert agreement(["a", "tie", "b"], ["a", "b", "b"]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError):
        kappa(["a"], [])


@given(labels, st.randoms(use_true_random=False))
def test_an_item_without_a_label_counts_as_nothing(pairs: list[tuple[str, str]], rng: random.Random) -> None:
    more: list[tuple[str | None, str | None]] = [*pairs, ("a", None), (None, "t"), (None, None)]
    rng.shuffle(more)
    for coefficient in (agreement, kappa):
        before = coefficient(*zip(*pairs, strict=True))
        assert coefficient(*zip(*more, strict=True)) == pytest.approx(before)


# ---- many raters


def by_krippendorff(values: Sequence[Sequence[float | None]], level: Level) -> float | None:
    """The published package, where it has an answer."""
    width = max((len(unit) for unit in values), default=0)
    table = np.array([[*unit, *[None] * (width - len(unit))] for unit in values], dtype=float)
    paired = [v for unit in values if sum(x is not None for x in unit) > 1 for v in unit if v is not None]
    if len(set(paired)) < 2:
        return None
    return float(published.alpha(reliability_data=table.T, level_of_measurement=level))


@given(units, st.sampled_from(LEVELS))
def test_alpha_is_that_of_the_published_package(values: list[list[float | None]], level: Level) -> None:
    ours, theirs = krippendorff(values, level), by_krippendorff(values, level)
    assert (ours is None) == (theirs is None)
    if theirs is not None:
        assert ours == pytest.approx(theirs, abs=1e-9)


def test_alpha_of_krippendorffs_own_example() -> None:
    """Twelve units by four observers, some missing (Krippendorff, 2011, "Computing Krippendorff's
    alpha-reliability", section C): 0.743 nominal, 0.849 interval."""
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    table = [[None if mark == "." else int(mark) for mark in unit] for unit in zip(*observers, strict=True)]
    found = [krippendorff(table, level) for level in LEVELS]
    assert found == pytest.approx([0.743, 0.849], abs=5e-4)


def test_scores_are_numbers() -> None:
    for strange in ("poor", math.nan):
        with pytest.raises(ValueError, match=f"numbers, not {strange!r}"):
            krippendorff([[1.0, strange], [1.0, 2.0]], "interval")  # type: ignore[list-item]


@pytest.mark.parametrize("level", LEVELS)
def test_alpha_is_none_where_nothing_can_be_said(level: Level) -> None:
    assert krippendorff([], level) is None
    assert krippendorff([[1], [2, None], []], level) is None
    assert krippendorff([[0.1, 0.1], [0.1, 0.1, 0.1]], level) is None
    assert krippendorff([[1, 1], [2, 2]], level) == 1


def test_labels_may_be_those_of_numpy() -> None:
    marks = np.array([[1, 2, 2], [2, 2, 3], [3, 3, 3], [1, 1, 3]])
    for level in LEVELS:
        assert krippendorff(marks, level) == krippendorff(marks.tolist(), level)  # type: ignore[arg-type]
    assert kappa(marks[:, 0], marks[:, 1]) == kappa(marks[:, 0].tolist(), marks[:, 1].tolist())  # type: ignore[arg-type]


# ---- scores


@given(scores)
def test_rank_correlations_are_those_of_scipy(pairs: list[tuple[float, float]]) -> None:
    x, y = [a for a, _ in pairs], [b for _, b in pairs]
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert kendall(x, y) is spearman(x, y) is None
        return
    assert kendall(x, y) == pytest.approx(kendalltau(x, y).statistic, abs=1e-9)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-9)


@pytest.mark.parametrize("digits", [0, 1, 12])
def test_rank_correlations_of_many_scores(digits: int) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=3000).round(digits)
    y = (x + rng.normal(size=3000)).round(digits)
    assert kendall(x.tolist(), y.tolist()) == pytest.approx(kendalltau(x, y).statistic, abs=1e-12)
    assert spearman(x.tolist(), y.tolist()) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


@given(scores, st.lists(st.integers(0, 3), min_size=30, max_size=30))
def test_figures_under_weights_are_those_of_repeated_items(
    pairs: list[tuple[float, float]], times: list[int]
) -> None:
    ranked = Ranked.of([a for a, _ in pairs], [b for _, b in pairs])
    assert ranked is not None
    weights = np.bincount(ranked.kind, weights=times[: len(pairs)])[None, :]
    repeated = [pair for pair, n in zip(pairs, times, strict=False) for _ in range(n)]
    x, y = [a for a, _ in repeated], [b for _, b in repeated]
    for found, expected in ((ranked.taus(weights), kendall(x, y)), (ranked.rho(weights), spearman(x, y))):
        assert found[0] == pytest.approx(math.nan if expected is None else expected, abs=1e-12, nan_ok=True)


@given(scores)
def test_the_influence_of_an_item_is_the_slope_of_tau(pairs: list[tuple[float, float]]) -> None:
    ranked = Ranked.of([a for a, _ in pairs], [b for _, b in pairs])
    assert ranked is not None
    if math.isnan(ranked.tau):
        return
    tau, influence = ranked.influence()
    assert tau == ranked.tau
    step = 1e-4
    for i in range(len(influence)):
        nudge = step * np.eye(len(influence))[i]
        up, down = (ranked.taus((ranked.counts + sign * nudge)[None, :])[0] for sign in (1, -1))
        assert (up - down) / (2 * step) == pytest.approx(influence[i], abs=1e-3)


def test_items_without_both_scores_are_left_out_and_nan_is_refused() -> None:
    x = [1.0, 2.0, None, 4.0, 5.0]
    y = [2.0, 1.0, 9.0, None, 7.0]
    assert kendall(x, y) == kendall([1, 2, 5], [2, 1, 7]) == pytest.approx(1 / 3)
    assert spearman(x, y) == pytest.approx(0.5)
    assert kendall([], []) is kendall([None], [1.0]) is spearman([1.0], [None]) is None
    with pytest.raises(ValueError, match="not a number"):
        kendall([1.0, math.nan], [1.0, 2.0])
