"""What judging is worth, in a world where the truth is known: each figure against the one that theory gives."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from simulated_judges import asked, pairs, quality
from synthpref.core.agreement import agreement, kappa
from synthpref.core.intervals import accuracy_estimate, kappa_estimate
from synthpref.core.types import Row
from synthpref.models.simulated import Simulated
from synthpref.stages.judge import Pair, Point
from synthpref.stages.jury import Jury
from synthpref.stages.jury_pair import JuryPair

PHI = NormalDist().cdf
FINE = (0.0, 1000.0)
"""A scale so fine that rounding to it changes nothing that is measured here."""


def judges(count: int, **faults: float) -> dict[str, Simulated]:
    return {f"judge-{i}": Simulated(model=f"judge-{i}", **faults) for i in range(count)}


def better(values: list[float]) -> str:
    return "a" if values[0] > values[1] else "b" if values[0] < values[1] else "tie"


def gap(row: Row) -> float:
    first, second = quality(row)
    return abs(first - second)


def by_score(rows: list[Row], name: str) -> list[str]:
    return [better([v for v in row.values(name) if v is not None]) for row in rows]


def near(measured: float, chances: list[float], errors: float = 4.0) -> bool:
    """Whether a share of successes is one that independent trials with these chances give."""
    spread = math.sqrt(sum(p * (1 - p) for p in chances)) / len(chances)
    return abs(measured - float(np.mean(chances))) <= errors * spread


def test_the_kappa_of_a_jury_grows_as_theory_says() -> None:
    """The mean of m scores has a m-th of the variance of one: P(right) = Phi(gap sqrt(m) / (noise sqrt(2)))."""
    rows, noise = pairs(500), 0.6
    truth = [better(quality(row)) for row in rows]
    found = []
    for m in (2, 7):
        roles = judges(m, noise=noise)
        said = by_score(asked(Jury(judges=tuple(roles), scale=FINE), rows, roles), "jury")
        chances = [PHI(gap(row) * math.sqrt(m) / (noise * math.sqrt(2))) for row in rows]
        right = np.mean([a == b for a, b in zip(said, truth, strict=True)])
        assert near(float(right), chances)
        # Both labels are equally likely, so kappa is twice what accuracy is above one half.
        measured = kappa(said, truth)
        assert measured == pytest.approx(2 * right - 1, abs=0.03)
        found.append(measured or 0.0)
    assert found == sorted(found)
    assert found[-1] - found[0] > 0.08


@pytest.mark.parametrize(("reducer", "most"), [("majority", 0.5), ("multimode", 0.0)])
def test_a_vote_of_jurors_is_right_as_often_as_a_count_of_all_votes_says(reducer: str, most: float) -> None:
    """Condorcet (1785) with ties: each juror is right in both orders, wrong in both, or tied between them."""
    rows, noise, m = pairs(250), 0.6, 5
    roles = judges(m, noise=noise)
    stage = JuryPair(judges=tuple(roles), reducer=reducer, ties=False)
    made = asked(stage, rows, roles)
    said = [{1.0: "a", 0.0: "b"}.get(row.comparisons[0].p, "tie") for row in made]
    for verdict in ("right", "wrong"):
        chances = []
        for row in rows:
            once = PHI(gap(row) / (noise * math.sqrt(2)))
            once = once if verdict == "right" else 1 - once
            win, lose = once**2, (1 - once) ** 2
            chances.append(
                sum(
                    math.factorial(m) / math.prod(map(math.factorial, (w, x, m - w - x)))
                    * win**w * lose**x * (1 - win - lose) ** (m - w - x)
                    for w in range(m + 1)
                    for x in range(m + 1 - w)
                    if w > most * m and w > max(x, m - w - x)
                )
            )  # fmt: skip
        truth = [better(quality(row)) for row in rows]
        seen = [
            s == t if verdict == "right" else s not in (t, "tie") for s, t in zip(said, truth, strict=True)
        ]
        assert near(float(np.mean(seen)), chances), verdict


def test_a_lasting_taste_is_what_only_more_judges_average_out() -> None:
    """Repeats average the error of a reply, and leave the opinion of the judge; jurors average both."""
    rows, noise, taste = pairs(300), 0.3, 0.6
    truth = [better(quality(row)) for row in rows]
    roles = judges(4, noise=noise, taste=taste)
    alone = asked(Point(model="judge-0", repeats=4, scale=FINE), rows, roles)
    jury = asked(Jury(judges=tuple(roles), scale=FINE), rows, roles)
    for made, name, spread in (
        (alone, "judge", math.sqrt(noise**2 / 4 + taste**2)),
        (jury, "jury", math.sqrt((noise**2 + taste**2) / 4)),
    ):
        right = [a == b for a, b in zip(by_score(made, name), truth, strict=True)]
        assert near(float(np.mean(right)), [PHI(gap(row) / (spread * math.sqrt(2))) for row in rows])


def place_effect(rows: list[Row], said: list[str]) -> tuple[float, float]:
    """How much more often the better response wins where it is shown first than where it is shown second; and
    the standard error of that. `said` names the winner among samples that were shown in their own order."""
    first = [s == "a" for s, row in zip(said, rows, strict=True) if better(quality(row)) == "a"]
    second = [s == "b" for s, row in zip(said, rows, strict=True) if better(quality(row)) == "b"]
    error = math.sqrt(sum(np.mean(x) * (1 - np.mean(x)) / len(x) for x in (first, second)))
    return float(np.mean(first) - np.mean(second)), error


def test_the_swap_removes_position_bias_to_within_noise() -> None:
    rows = pairs(700)
    roles = {"judge": Simulated(model="judge", noise=0.4, position_bias=0.8)}
    made = asked(Pair(model="judge", score="win_rate"), rows, roles)
    in_order = [next(v for v in row.comparisons[0].votes if v.shown == "ab").value or 0.0 for row in made]
    once = ["a" if v == 1 else "b" if v == 0 else "tie" for v in in_order]
    effect, error = place_effect(rows, once)
    assert effect > 10 * error, "a judge with a liking for the first place, asked once, shows it"
    both = ["a" if (p := row.comparisons[0].p or 0.0) > 0.5 else "b" if p < 0.5 else "tie" for row in made]
    effect, error = place_effect(rows, both)
    assert abs(effect) < 4 * error
    wrong_once, wrong_both = (
        np.mean([s not in ("tie", better(quality(row))) for s, row in zip(said, rows, strict=True)])
        for said in (once, both)
    )
    assert wrong_both < wrong_once / 2


def test_probability_weighted_scores_beat_sampled_ones() -> None:
    """A sampled score is a draw from the judge's distribution, rounded; the expectation is its mean. It makes
    fewer ties on a coarse scale, and gets more pairs right, than even the mean of several draws."""
    rows = pairs(300)
    truth = [better(quality(row)) for row in rows]
    roles = {"judge": Simulated(model="judge", noise=0.7)}
    right, tied = {}, {}
    for name, fields in {
        "sampled": {},
        "mean of 4": {"repeats": 4},
        "expected": {"extract": "expected"},
    }.items():
        said = by_score(asked(Point(model="judge", scale=(1, 5), **fields), rows, roles), "judge")
        right[name] = float(np.mean([a == b for a, b in zip(said, truth, strict=True)]))
        tied[name] = float(np.mean([a == "tie" for a in said]))
    assert right["sampled"] < right["mean of 4"] < right["expected"]
    assert tied["sampled"] > 0.25
    assert tied["expected"] < 0.01
    assert right["expected"] > 0.95


def test_the_intervals_of_a_judges_figures_hold_the_truth_as_often_as_they_say() -> None:
    """A judge whose figures are known, as it judged all there is; 240 people who each label 80 pairs of it."""
    rows = pairs(800)
    roles = {"judge": Simulated(model="judge", noise=0.6, position_bias=0.3)}
    made = asked(Pair(model="judge"), rows, roles)
    said = ["a" if (p := row.comparisons[0].p or 0.0) > 0.5 else "b" if p < 0.5 else "tie" for row in made]
    truth = [better(quality(row)) for row in rows]
    rng = np.random.default_rng(0)
    for estimate, of in ((accuracy_estimate, agreement), (kappa_estimate, kappa)):
        whole, held, seeds = of(said, truth), 0, 240
        assert whole is not None
        for seed in range(seeds):
            drawn = rng.integers(0, len(rows), 80)
            found = estimate([said[i] for i in drawn], [truth[i] for i in drawn], resamples=400, seed=seed)
            assert found.low is not None
            assert found.high is not None
            held += found.low <= whole <= found.high
        assert near(held / seeds, [0.95] * seeds)
