"""Strengths from comparisons by real judges and by a crowd, against independent implementations."""

from __future__ import annotations

from typing import Any

import choix
import numpy as np
import pytest
from scipy.optimize import minimize

import field
from synthpref.core.ranking import Outcome, bradley_terry, cycles, elo, win_rate

pytestmark = pytest.mark.field


def records(name: str) -> list[dict[str, Any]]:
    return field.records(f"{name}.jsonl.gz")


def test_bradley_terry_over_real_verdicts_is_what_scipy_finds() -> None:
    players = sorted({r["first"] for r in records("qlora_vicuna/pairwise_threeclass")})
    share = {"first": 1.0, "second": 0.0, "tie": 0.5}
    outcomes = [
        (players.index(r["first"]), players.index(r["second"]), share[r["winner"]])
        for r in records("qlora_vicuna/pairwise_threeclass")
        if r["winner"] in share
    ]
    a, b, p = (np.array(column) for column in zip(*outcomes, strict=True))

    def loss(s: np.ndarray) -> float:
        gap = s[a] - s[b]
        likelihood = p * np.logaddexp(0, -gap) + (1 - p) * np.logaddexp(0, gap)
        return float(likelihood.sum() + 0.05 * np.sum(np.logaddexp(0, -s) + np.logaddexp(0, s)))

    best = minimize(loss, np.zeros(len(players)), method="BFGS", options={"gtol": 1e-6}).x
    ours = bradley_terry(len(players), outcomes, prior=0.1)
    assert ours == pytest.approx(best - best.mean(), abs=1e-3)
    strength = dict(zip(players, ours, strict=True))
    assert strength["65b-guanaco"] > strength["7b-guanaco"]  # type: ignore[operator]


@pytest.fixture(scope="module")
def crowd() -> tuple[int, list[Outcome]]:
    """How many models a crowd compared, and its 8,931 votes."""
    votes = [r for r in records("llmfao/comparisons") if r["judge"] == "human"]
    place = {
        model: i for i, model in enumerate(sorted({m for r in votes for m in (r["model_x"], r["model_y"])}))
    }
    share = {"left": 1.0, "right": 0.0, "tie": 0.5}
    outcomes = [(place[r["model_x"]], place[r["model_y"]], share[r["winner"]]) for r in votes]
    assert (len(place), len(outcomes)) == (59, 8931)
    return len(place), outcomes


def twice(outcomes: list[Outcome]) -> list[tuple[int, int]]:
    """Each vote as two wins, one for each side where it is a tie."""
    return [pair for a, b, p in outcomes for pair in [(a, b)] * int(2 * p) + [(b, a)] * int(2 - 2 * p)]


def test_bradley_terry_over_the_votes_of_a_crowd_is_that_of_choix(crowd: tuple[int, list[Outcome]]) -> None:
    """With next to no prior both are the maximum of one likelihood."""
    models, outcomes = crowd
    theirs = choix.ilsr_pairwise(models, twice(outcomes), alpha=0, tol=1e-10, max_iter=1000)
    theirs = theirs - theirs.mean()
    ours = np.array(bradley_terry(models, outcomes, prior=1e-6))
    assert np.argsort(ours).tolist() == np.argsort(theirs).tolist()
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_with_the_prior_it_is_that_of_choix_with_the_like_penalty(crowd: tuple[int, list[Outcome]]) -> None:
    """Near 0 our prior of `prior` drawn games is a penalty of prior/8 times the square of the strength; on votes
    counted twice, of prior/4. The strengths here reach from -1 to 1, where the two definitions part by 1e-4."""
    models, outcomes = crowd
    wins = twice(outcomes)
    ours = np.array(bradley_terry(models, outcomes))
    theirs = choix.opt_pairwise(
        models, wins, alpha=0.1 / 4, method="Newton-CG", initial_params=ours, tol=1e-8
    )
    theirs = theirs - theirs.mean()
    assert np.argsort(ours).tolist() == np.argsort(theirs).tolist()
    assert ours == pytest.approx(theirs, abs=2e-4)


def test_elo_and_the_win_rate_rank_the_models_of_a_crowd_much_alike(crowd: tuple[int, list[Outcome]]) -> None:
    models, outcomes = crowd
    strength = np.array(bradley_terry(models, outcomes))
    rating = np.array(elo(models, outcomes))
    # A point of Elo is ln 10 / 400 of log-odds.
    assert (rating - rating.mean()) * np.log(10) / 400 == pytest.approx(strength, abs=0.05)
    assert np.corrcoef(np.array(win_rate(models, outcomes)), strength)[0, 1] > 0.97


def test_cycles_among_the_models_of_a_crowd(crowd: tuple[int, list[Outcome]]) -> None:
    models, outcomes = crowd
    found = cycles(models, outcomes)
    assert found.example is not None
    lead = {pair: 0.0 for a, b, _ in outcomes for pair in ((a, b), (b, a))}
    for a, b, p in outcomes:
        lead[a, b] += p - 0.5
        lead[b, a] += 0.5 - p
    complete = [
        (a, b, c)
        for a in range(models)
        for b in range(a)
        for c in range(b)
        if (a, b) in lead and (b, c) in lead and (a, c) in lead
    ]
    rings = [
        {(a, b, c), (b, c, a), (c, a, b)} & {found.example}
        for a, b, c in [*complete, *((a, c, b) for a, b, c in complete)]
        if min(lead[a, b], lead[b, c], lead[c, a]) > 0
    ]
    assert (found.complete, found.cyclic) == (len(complete), len(rings))
    assert sum(map(bool, rings)) == 1
