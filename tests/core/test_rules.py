"""The pair rules: tables, what must hold for any scores, and the figures of the mu-sigma rule."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpref.core import rules
from synthpref.core.types import Drop, Pair

Rule = Callable[[rules.Scores, list[int], random.Random], rules.Outcome]

RULES: dict[str, Rule] = {
    "extremes": lambda s, e, r: rules.extremes(s, e),
    "mu_sigma": lambda s, e, r: rules.mu_sigma(s, e),
    "mu_sigma tolerance": lambda s, e, r: rules.mu_sigma(s, e, tolerance=0.3),
    "mu_sigma drop": lambda s, e, r: rules.mu_sigma(s, e, fallback="drop"),
    "mu_sigma ddof 0": lambda s, e, r: rules.mu_sigma(s, e, ddof=0, k=1),
    "mu_sigma chosen": lambda s, e, r: rules.mu_sigma(s, e, chosen="mu+sigma"),
    "mu_sigma quantile": lambda s, e, r: rules.mu_sigma(s, e, quantile=0.2),
    "min_of_k": lambda s, e, r: rules.min_of_k(s, e, k=3, rng=r),
    "threshold": lambda s, e, r: rules.threshold(s, e, margin=0.5),
    "threshold random": lambda s, e, r: rules.threshold(s, e, margin=0.5, max_pairs=3, rng=r),
    "threshold eta": lambda s, e, r: rules.threshold(s, e, eta=0.8, tau=0.5, max_pairs=5),
    "ranked best": lambda s, e, r: rules.ranked(s, e),
    "ranked adjacent": lambda s, e, r: rules.ranked(s, e, pairing="adjacent"),
    "ranked halves": lambda s, e, r: rules.ranked(s, e, pairing="halves", max_pairs=2),
    "verified": lambda s, e, r: rules.verified(s, e, right=1.0, wrong=0.0, max_pairs=6, rng=r),
    "random": lambda s, e, r: rules.random_pairs(s, e, max_pairs=2, rng=r),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())


def run(rule: Rule, scores: rules.Scores, eligible: list[int] | None = None) -> rules.Outcome:
    return rule(scores, list(range(len(scores))) if eligible is None else eligible, random.Random(3))


def indices(outcome: rules.Outcome) -> list[tuple[int, int]]:
    assert isinstance(outcome, list), outcome
    return [(pair.chosen, pair.rejected) for pair in outcome]


def reason(outcome: rules.Outcome) -> str:
    assert isinstance(outcome, Drop), outcome
    return outcome.reason


def only(outcome: rules.Outcome) -> Pair:
    assert isinstance(outcome, list)
    assert len(outcome) == 1
    return outcome[0]


@every_rule
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_better_one_is_chosen_wherever_it_stands(rule: Rule, place: int) -> None:
    scores: list[float | None] = [0.0, 0.0, 0.0]
    scores[place] = 1.0
    outcome = run(rule, scores)
    if isinstance(outcome, Drop):  # the rules that refuse here, and why
        assert outcome.reason in ("target below every sample", "ranks tie or are missing")
        scores = [0.5, 0.5, 0.5, 0.5, 0.5, 0.4, 0.0]
        scores.insert(place, 1.0)
        outcome = rules.mu_sigma(scores, list(range(8)), fallback="drop", k=1)
    assert {chosen for chosen, _ in indices(outcome)} == {place}


@every_rule
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_worse_one_is_rejected_wherever_it_stands(rule: Rule, place: int) -> None:
    scores: list[float | None] = [1.0, 1.0]
    scores.insert(place, 0.0)
    outcome = run(rule, scores)
    if isinstance(outcome, Drop):
        assert outcome.reason in (
            "target below every sample",
            "chosen does not outscore rejected",
            "only best drawn",
        )
    else:
        assert {rejected for _, rejected in indices(outcome)} == {place}


@every_rule
@pytest.mark.parametrize(
    ("scores", "why"),
    [
        ([], "no scores"),
        ([None, None], "no scores"),
        ([4.0, None], "one score"),
        ([4.0, 4.0, 4.0], "all scores equal"),
        ([0.1 + 0.2, 0.3], "all scores equal"),
        ([0.0, 5e-17], "all scores equal"),
    ],
)
def test_no_pair_has_a_reason(rule: Rule, scores: list[float | None], why: str) -> None:
    if rule is RULES["verified"] and why != "no scores":
        assert reason(run(rule, scores)) in ("all right", "all wrong", "none right or wrong")
    else:
        assert reason(run(rule, scores)) == why


values = st.one_of(
    st.integers(0, 10).map(float),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.floats(-1e300, 1e300, allow_nan=False),
)
score_lists = st.lists(st.one_of(st.none(), values), max_size=40)


@every_rule
@given(data=st.data())
def test_chosen_outscores_rejected_and_both_are_eligible(rule: Rule, data: st.DataObject) -> None:
    scores = data.draw(score_lists)
    eligible = data.draw(st.permutations(range(len(scores))))
    eligible = eligible[: data.draw(st.integers(0, len(scores)))]
    outcome = run(rule, scores, eligible)
    if isinstance(outcome, Drop):
        assert outcome.reason
        assert not any(digit in outcome.reason for digit in "0123456789")
        return
    assert outcome
    assert len(set(indices(outcome))) == len(outcome)
    for pair in outcome:
        better, worse = scores[pair.chosen], scores[pair.rejected]
        assert better is not None
        assert worse is not None
        assert better > worse
        assert pair.chosen in eligible
        assert pair.rejected in eligible
        assert pair.margin == better - worse
        for fact in pair.facts.values():
            assert not isinstance(fact, float) or math.isfinite(fact)


@every_rule
@given(data=st.data())
def test_the_order_of_the_samples_means_nothing(rule: Rule, data: st.DataObject) -> None:
    scores = data.draw(score_lists)
    moved = data.draw(st.permutations(range(len(scores))))
    there = [scores[i] for i in moved]
    place = {i: at for at, i in enumerate(moved)}
    before, after = run(rule, scores), run(rule, there, [place[i] for i in range(len(scores))])
    if isinstance(before, Drop):
        assert after == before
    else:
        assert indices(after) == [(place[chosen], place[rejected]) for chosen, rejected in indices(before)]
        assert isinstance(after, list)
        assert [pair.facts for pair in after] == [pair.facts for pair in before]


@every_rule
@given(scores=score_lists)
def test_a_missing_score_is_as_if_the_sample_were_not_there(rule: Rule, scores: list[float | None]) -> None:
    present = [i for i, value in enumerate(scores) if value is not None]
    with_gaps, without = run(rule, scores), run(rule, [scores[i] for i in present])
    if isinstance(with_gaps, Drop):
        assert without == with_gaps
    else:
        assert [(present[a], present[b]) for a, b in indices(without)] == indices(with_gaps)


@given(scores=score_lists)
def test_an_ineligible_sample_moves_neither_mu_nor_sigma(scores: list[float | None]) -> None:
    eligible = list(range(0, len(scores), 2))
    blanked = [value if i % 2 == 0 else None for i, value in enumerate(scores)]
    assert rules.mu_sigma(scores, eligible) == rules.mu_sigma(blanked, list(range(len(scores))))


def test_ties_go_to_the_first_of_the_eligible() -> None:
    scores = [1.0, 9.0, 9.0, 1.0]
    assert indices(rules.extremes(scores, [0, 1, 2, 3])) == [(1, 0)]
    assert indices(rules.extremes(scores, [3, 2, 1, 0])) == [(2, 3)]


def test_scores_too_far_apart_are_refused_and_not_infinite() -> None:
    assert reason(rules.extremes([1.7e308, -1.7e308], [0, 1])) == "scores too far apart"
    wide = rules.verified([1.7e308, -1.7e308], [0, 1], rng=random.Random(0))
    assert reason(wide) == "scores too far apart"


# ---- mu_sigma


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("max", None),
        ("mu", 0.0),
        ("mu+sigma", 1.0),
        ("mu-sigma", -1.0),
        ("mu+2sigma", 2.0),
        ("mu - 1.5sigma", -1.5),
    ],
)
def test_points(text: str, value: float | None) -> None:
    assert rules.point(text) == value


@pytest.mark.parametrize("text", ["min", "mu2sigma", "mu+", "sigma", "", "mu+2 sigmas", "mu+-2sigma"])
def test_what_is_no_point_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither 'max' nor a point"):
        rules.point(text)


def test_the_nearest_to_the_target_is_rejected() -> None:
    scores = [0.0, 3.0, *[9.0, 10.0, 11.0] * 8, 20.0]
    s = np.array(scores)
    target = s.mean() - 2 * s.std(ddof=1)
    pair = only(rules.mu_sigma(scores, list(range(len(scores)))))
    assert (pair.chosen, pair.rejected) == (len(scores) - 1, int(np.argmin(np.abs(s - target))))
    assert pair.rejected == 1
    assert pair.facts["mu"] == pytest.approx(s.mean())
    assert pair.facts["sigma"] == pytest.approx(s.std(ddof=1))
    assert pair.facts["target"] == pytest.approx(target)
    assert pair.facts["z"] == pytest.approx((3 - s.mean()) / s.std(ddof=1))
    assert pair.facts["chosen_z"] == pytest.approx((20 - s.mean()) / s.std(ddof=1))
    assert pair.facts["n"] == len(scores)
    assert (pair.facts["was_min"], pair.facts["below_all"]) == (False, False)
    assert (pair.facts["missed"], pair.facts["fallback"]) == (None, None)


@pytest.mark.parametrize("ddof", [0, 1])
def test_ddof(ddof: Any) -> None:
    scores = [1.0, 2.0, 4.0, 8.0]
    pair = only(rules.mu_sigma(scores, [0, 1, 2, 3], ddof=ddof))
    assert pair.facts["sigma"] == pytest.approx(np.std(scores, ddof=ddof))
    assert pair.facts["target"] == pytest.approx(3.75 - 2 * np.std(scores, ddof=ddof))


@given(st.lists(values, min_size=2, max_size=60), st.sampled_from(["max", "mu", "mu+sigma", "mu+2sigma"]))
def test_mu_sigma_is_the_plain_formula(scores: list[float], chosen: str) -> None:
    """The picks are the nearest by the textbook formula, to the last digits of the arithmetic."""
    outcome = rules.mu_sigma(scores, list(range(len(scores))), chosen=chosen)
    if isinstance(outcome, Drop) or outcome[0].facts["missed"]:
        return
    pair, s = outcome[0], np.array(scores) / max(map(abs, scores))
    mu, sigma, slack = s.mean(), s.std(ddof=1), 1e-7 * (s.max() - s.min())
    distance = np.abs(s - (mu - 2 * sigma))
    assert distance[pair.rejected] <= distance.min() + slack
    at = rules.point(chosen)
    goal = np.abs(s - (mu + at * sigma)) if at is not None else -s
    assert goal[pair.chosen] <= goal.min() + slack


@given(st.lists(values, min_size=2, max_size=60))
def test_no_sample_is_further_than_the_bound(scores: list[float]) -> None:
    """|z| <= (N-1)/sqrt(N) with ddof 1, sqrt(N-1) with ddof 0."""
    n = len(scores)
    for ddof, bound in ((1, (n - 1) / math.sqrt(n)), (0, math.sqrt(n - 1))):
        outcome = rules.mu_sigma(scores, list(range(n)), ddof=ddof)  # type: ignore[arg-type]
        if isinstance(outcome, list):
            assert abs(outcome[0].facts["z"]) <= bound * (1 + 1e-9)
            assert abs(outcome[0].facts["chosen_z"]) <= bound * (1 + 1e-9)


def test_the_bound_is_reached() -> None:
    scores = [1.0] * 19 + [0.0]
    pair = only(rules.mu_sigma(scores, list(range(20)), k=4, ddof=1))
    assert pair.facts["z"] == pytest.approx(-19 / math.sqrt(20))


@given(st.lists(values, min_size=2, max_size=5), st.sampled_from([0, 1]))
def test_up_to_five_samples_it_is_the_minimum_always(scores: list[float], ddof: Any) -> None:
    outcome = rules.mu_sigma(scores, list(range(len(scores))), ddof=ddof)
    plain = rules.extremes(scores, list(range(len(scores))))
    if isinstance(plain, Drop):
        assert outcome == plain
    else:
        assert only(outcome).facts["was_min"]
        assert only(outcome).margin == pytest.approx(only(plain).margin, rel=1e-9)


@pytest.mark.parametrize(("n", "share"), [(10, 1.0), (16, 0.98), (32, 0.71), (50, 0.43), (100, 0.10)])
def test_how_often_it_is_the_minimum_on_normal_scores(n: int, share: float) -> None:
    draws = np.random.default_rng(n).standard_normal((800, n)).tolist()
    found = [only(rules.mu_sigma(scores, list(range(n)))).facts["was_min"] for scores in draws]
    # Four standard errors of 800 draws, and the half unit of the table's last digit.
    assert abs(np.mean(found) - share) <= 4 * math.sqrt(share * (1 - share) / 800) + 0.006


def test_where_the_lowest_of_five_lies_on_normal_scores() -> None:
    rng = random.Random(1)
    draws = np.random.default_rng(1).standard_normal((600, 100))
    z = []
    for scores in draws:
        pair = only(rules.min_of_k(scores.tolist(), list(range(100)), k=5, rng=rng))
        z.append((scores[pair.rejected] - scores.mean()) / scores.std(ddof=1))
    assert np.mean(z) == pytest.approx(-1.16, abs=0.12)


SKEWED = [0.0] * 12 + [1.0] * 4 + [10.0] * 4
"""mu 2.2, sigma 4: the target -5.8 lies below every sample."""
FAR = [0.0, *[9.0, 10.0] * 15]
"""The target is near 5.8; the nearest sample is 1.4 sigmas above it."""


def test_a_target_below_every_sample_falls_back() -> None:
    eligible = list(range(len(SKEWED)))
    pair = only(rules.mu_sigma(SKEWED, eligible))
    assert SKEWED[pair.rejected] == 0.0
    assert pair.facts["below_all"]
    assert pair.facts["was_min"]
    assert (pair.facts["missed"], pair.facts["fallback"]) == ("target below every sample", "min")
    dropped = rules.mu_sigma(SKEWED, eligible, fallback="drop")
    assert dropped == Drop("target below every sample", "target -5.842, scores 0 to 10, n = 20")


def test_with_a_tolerance_nearness_decides_and_not_the_side() -> None:
    eligible = list(range(len(SKEWED)))
    within = only(rules.mu_sigma(SKEWED, eligible, tolerance=1.6, fallback="drop"))
    assert (within.facts["below_all"], within.facts["missed"]) == (True, None)
    beyond = rules.mu_sigma(SKEWED, eligible, tolerance=1.3, fallback="drop")
    assert reason(beyond) == "no sample near the target"


def test_beyond_the_tolerance_the_minimum_is_taken_or_the_row_dropped() -> None:
    eligible = list(range(len(FAR)))
    plain = only(rules.mu_sigma(FAR, eligible))
    assert (FAR[plain.rejected], plain.facts["missed"]) == (9.0, None)
    pair = only(rules.mu_sigma(FAR, eligible, tolerance=0.5))
    assert (FAR[pair.rejected], pair.facts["fallback"]) == (0.0, "min")
    assert pair.facts["missed"] == "no sample near the target"
    assert not pair.facts["below_all"]
    assert (
        reason(rules.mu_sigma(FAR, eligible, tolerance=0.5, fallback="drop")) == "no sample near the target"
    )


def test_nearest_that_ties_with_chosen_is_no_pair() -> None:
    """Pass/fail scores with one failure in a hundred: the nearest to mu - 2 sigma is a pass."""
    scores = [1.0] * 99 + [0.0]
    eligible = list(range(100))
    pair = only(rules.mu_sigma(scores, eligible))
    assert (pair.rejected, pair.margin, pair.facts["fallback"]) == (99, 1.0, "min")
    assert pair.facts["missed"] == "nearest to the target is not below chosen"
    dropped = rules.mu_sigma(scores, eligible, fallback="drop")
    assert reason(dropped) == "nearest to the target is not below chosen"


def test_chosen_at_a_point_that_is_the_lowest_score_makes_no_pair() -> None:
    scores = [0.0] * 30 + [100.0]
    assert reason(rules.mu_sigma(scores, list(range(31)), chosen="mu")) == "chosen does not outscore rejected"


def test_two_equally_near_the_lower_is_rejected() -> None:
    scores = [-3.0, -1.0, 1.0, 3.0]
    pair = only(rules.mu_sigma(scores, [2, 1, 0, 3], k=0))
    assert scores[pair.rejected] == -1.0


@given(st.lists(values, min_size=2, max_size=60), st.floats(0.01, 0.99))
def test_a_quantile_is_never_below_every_sample(scores: list[float], q: float) -> None:
    outcome = rules.mu_sigma(scores, list(range(len(scores))), quantile=q)
    if isinstance(outcome, list):
        assert not outcome[0].facts["below_all"]


def test_the_quantile_is_that_of_numpy() -> None:
    scores = np.random.default_rng(5).exponential(size=200)
    pair = only(rules.mu_sigma(scores.tolist(), list(range(200)), quantile=0.023))
    assert pair.facts["target"] == pytest.approx(np.quantile(scores, 0.023))
    assert pair.rejected == int(np.argmin(np.abs(scores - np.quantile(scores, 0.023))))
    assert only(rules.mu_sigma(scores.tolist(), list(range(200)))).facts["below_all"]


# ---- the others


def test_min_of_k_is_the_lowest_of_those_drawn() -> None:
    scores = [float(i) for i in range(50)]
    for seed in range(20):
        drawn = random.Random(seed).sample(range(50), 5)
        pair = only(rules.min_of_k(scores, list(range(50)), k=5, rng=random.Random(seed)))
        assert (pair.chosen, pair.rejected) == (49, min(drawn))


def test_min_of_k_with_k_or_fewer_samples_is_the_minimum() -> None:
    scores = [3.0, 1.0, 2.0]
    assert indices(rules.min_of_k(scores, [0, 1, 2], k=5, rng=random.Random(0))) == [(0, 1)]


def test_min_of_k_says_when_it_drew_only_the_best() -> None:
    scores = [5.0] * 99 + [1.0]
    assert reason(rules.min_of_k(scores, list(range(100)), k=1, rng=random.Random(0))) == "only best drawn"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"margin": 2.0}, [(3, 0), (2, 0), (3, 1)]),
        ({"margin": 2.0, "max_pairs": 1}, [(3, 0)]),
        ({"margin": 0.0}, [(3, 0), (2, 0), (3, 1), (1, 0), (2, 1), (3, 2)]),
        # sigmoid(2) = 0.8808: the gap of 2 is not above it, the gap of 3 is.
        ({"eta": 1 / (1 + math.exp(-2.0))}, [(3, 0)]),
        ({"eta": 0.8}, [(3, 0), (2, 0), (3, 1)]),
        ({"eta": 0.8, "tau": 2.0}, [(3, 0)]),
    ],
)
def test_threshold(fields: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    assert indices(rules.threshold([0.0, 1.0, 2.0, 3.0], [0, 1, 2, 3], **fields)) == expected


@given(st.lists(values, min_size=2, max_size=12), st.floats(0.51, 0.99), st.floats(0.1, 10))
def test_eta_is_the_sigmoid_of_the_gap(scores: list[float], eta: float, tau: float) -> None:
    outcome = rules.threshold(scores, list(range(len(scores))), eta=eta, tau=tau)
    found = set(indices(outcome)) if isinstance(outcome, list) else set()
    for i, a in enumerate(scores):
        for j, b in enumerate(scores):
            p = 1 / (1 + math.exp(-min((a - b) / tau, 700.0))) if (a - b) / tau > -700 else 0.0
            if abs(p - eta) > 1e-6:
                assert ((i, j) in found) == (p > eta and rules.outscores(a, b))


def test_a_margin_is_met_by_equality_despite_rounding() -> None:
    assert indices(rules.threshold([0.3, 0.1], [0, 1], margin=0.2)) == [(0, 1)]
    assert reason(rules.threshold([0.3, 0.15], [0, 1], margin=0.2)) == "margin too small"


def test_threshold_draws_where_asked() -> None:
    scores = [float(i) for i in range(20)]
    seen = {
        tuple(indices(rules.threshold(scores, list(range(20)), max_pairs=5, rng=random.Random(i))))
        for i in range(5)
    }
    assert len(seen) == 5
    assert all(len(pairs) == 5 for pairs in seen)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [(2, 1), (2, 3), (2, 4), (2, 0)]),
        ({"ranks": [4, 3, 2]}, [(2, 3), (2, 4), (2, 0)]),
        ({"ranks": [2, 9]}, [(2, 0)]),
        ({"max_pairs": 2}, [(2, 1), (2, 3)]),
        ({"margin": 2.0, "pairing": "adjacent", "max_pairs": 1}, [(0, 4)]),
        ({"pairing": "adjacent"}, [(2, 0), (0, 4), (4, 3), (3, 1)]),
        ({"pairing": "halves"}, [(2, 3), (0, 1)]),
    ],
)
def test_ranked(fields: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    scores = [8.0, 1.0, 9.0, 3.0, 5.0]
    assert indices(rules.ranked(scores, [0, 1, 2, 3, 4], **fields)) == expected


def test_ranks_that_tie_make_no_pair() -> None:
    scores = [8.0, 8.0, 1.0]
    assert indices(rules.ranked(scores, [0, 1, 2])) == [(0, 2)]
    assert indices(rules.ranked(scores, [0, 1, 2], pairing="adjacent")) == [(1, 2)]
    assert reason(rules.ranked(scores, [0, 1, 2], ranks=[2])) == "ranks tie or are missing"


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        ([1.0, 1.0], "all right"),
        ([0.0, 0.0, None], "all wrong"),
        ([0.5, 0.5], "none right or wrong"),
        ([1.0, 0.5], "none wrong"),
        ([0.5, 0.0], "none right"),
    ],
)
def test_verified_says_why_not(scores: list[float | None], why: str) -> None:
    assert reason(rules.verified(scores, list(range(len(scores))), rng=random.Random(0))) == why


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 150), st.integers(0, 99))
def test_verified_spreads_its_pairs_over_the_answers(right: int, wrong: int, limit: int, seed: int) -> None:
    scores = [1.0] * right + [0.0] * wrong
    pairs = indices(
        rules.verified(scores, list(range(len(scores))), max_pairs=limit, rng=random.Random(seed))
    )
    assert len(pairs) == len(set(pairs)) == min(limit, right * wrong)
    for side, among in ((0, range(right)), (1, range(right, right + wrong))):
        uses = [sum(pair[side] == i for pair in pairs) for i in among]
        assert max(uses) - min(uses) <= 1


def test_verified_refuses_a_bar_upside_down() -> None:
    with pytest.raises(ValueError, match="must lie below right"):
        rules.verified([1.0, 0.0], [0, 1], right=0.0, wrong=1.0, rng=random.Random(0))


def test_random_pairs_are_drawn_among_those_wide_enough() -> None:
    for seed in range(20):
        drawn = rules.random_pairs(
            [1.0, 2.0, 9.0], [0, 1, 2], margin=7.5, max_pairs=3, rng=random.Random(seed)
        )
        assert indices(drawn) == [(2, 0)]
    none = rules.random_pairs([1.0, 2.0], [0, 1], margin=7.5, max_pairs=3, rng=random.Random(0))
    assert none == Drop("margin too small", "the widest is 1")


def test_random_pairs_are_different_and_reach_all() -> None:
    scores = [1.0, 2.0, 3.0, 3.0]
    found = [
        indices(rules.random_pairs(scores, [0, 1, 2, 3], max_pairs=1, rng=random.Random(i)))[0]
        for i in range(200)
    ]
    assert set(found) == {(1, 0), (2, 0), (3, 0), (2, 1), (3, 1)}
    assert len(indices(rules.random_pairs(scores, [0, 1, 2, 3], max_pairs=9, rng=random.Random(0)))) == 5
