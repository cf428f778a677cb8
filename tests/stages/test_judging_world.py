"""Judges in a world where the true quality of every text is known: what each way of asking is worth."""

from __future__ import annotations

import asyncio
import math
from functools import cache
from statistics import mean, stdev
from typing import Any

import pytest
from judges import Simulating

from synthpref.core.agreement import spearman
from synthpref.core.seam import Request
from synthpref.core.types import Comparison, Row
from synthpref.models.simulated import Simulated, answers, quality
from synthpref.stages.judge import List, Pair, Point
from synthpref.testing import row

NOISY = Simulated(model="judge", noise=1.0)


@cache
def rows(count: int, samples: int) -> list[Row]:
    """Rows with samples by an ordinary policy."""
    policy = Simulated(model="policy", length=30)
    made = []
    for n in range(count):
        prompt = f"How does heat pump {n} work?"
        request = Request(messages=({"role": "user", "content": prompt},), n=samples, seed=100 * n)
        made.append(row(prompt, *(c.text for c in answers(policy, request)), id=f"row-{n}"))
    return made


def judged(stage: Any, given: list[Row], spec: Simulated) -> list[Row]:
    async def all_rows() -> list[Row]:
        return [await stage.run(one, Simulating(spec, one.id)) for one in given]

    return asyncio.run(all_rows())


def truth(made: Row) -> list[float]:
    return [quality(sample.text) for sample in made.samples]


def rank_agreement(made: list[Row], name: str) -> float:
    """Spearman's correlation of score and truth within a row, on average."""
    found = [spearman([v or 0.0 for v in one.values(name)], truth(one)) for one in made]
    return mean(value for value in found if value is not None)


def first_better(made: Row, c: Comparison) -> bool:
    return quality(made.samples[c.a].text) > quality(made.samples[c.b].text)


def accuracy(made: list[Row]) -> float:
    """The share of comparisons with the right winner, a tie as half."""
    right = []
    for one in made:
        for c in one.comparisons:
            assert c.p is not None
            right.append(0.5 if c.p == 0.5 else float((c.p > 0.5) == first_better(one, c)))
    return mean(right)


@pytest.mark.parametrize("verdict", ["winner", "scores"])
def test_both_orders_take_a_position_bias_away(verdict: str) -> None:
    biased = Simulated(model="judge", noise=0.5, position_bias=1.0)
    made = judged(Pair.model_validate({"model": "judge", "verdict": verdict}), rows(200, 2), biased)
    votes = [vote for one in made for c in one.comparisons for vote in c.votes]
    off = [one.comparisons[0].p - first_better(one, one.comparisons[0]) for one in made]  # type: ignore[operator]
    for shown, sign in (("ab", 1), ("ba", -1)):
        for_a = mean(v.value for v in votes if v.shown == shown and v.value is not None)
        truly = mean(first_better(one, one.comparisons[0]) for one in made)
        assert sign * (for_a - truly) > 0.1
    assert abs(mean(off)) < 3 * stdev(off) / math.sqrt(len(off))
    assert sum(c.flipped for one in made for c in one.comparisons) > 40


@pytest.mark.parametrize(
    ("word", "fields"),
    [(Point, {}), (List, {}), (Pair, {"score": "win_rate"}), (Pair, {"verdict": "scores", "score": "mean"})],
)
def test_the_expectation_beats_the_sampled_verdict(word: Any, fields: dict[str, Any]) -> None:
    found = {}
    for extract in ("sampled", "expected"):
        stage = word.model_validate({"model": "judge", "extract": extract, "reasoning": "none", **fields})
        found[extract] = rank_agreement(judged(stage, rows(40, 5), NOISY), stage.name)
    assert found["expected"] > found["sampled"] + 0.05


def test_probabilities_of_winners_are_calibrated() -> None:
    """Where the judge's tokens say 70 %, the first wins 70 % of what the judge would say if asked again."""
    stage = Pair(model="judge", extract="expected", ties=False, swap=False)
    again = Pair(model="judge", ties=False, swap=False, repeats=20)
    told = judged(stage, rows(100, 2), NOISY)
    said = judged(again, rows(100, 2), NOISY)
    off = []
    for one, other in zip(told, said, strict=True):
        p, share = one.comparisons[0].p, other.comparisons[0].p
        assert p is not None
        assert share is not None
        off.append((share - p) / max(0.02, math.sqrt(p * (1 - p) / 20)))
    assert abs(mean(off)) < 0.3
    assert stdev(off) < 1.3


@pytest.mark.parametrize("extract", ["sampled", "majority"])
def test_repeats_help(extract: str) -> None:
    once = judged(Point(model="judge"), rows(40, 5), NOISY)
    often = judged(
        Point.model_validate(
            {
                "model": "judge",
                "repeats": 9,
                "extract": extract,
                **({"tie": "mean"} if extract == "majority" else {}),
            }
        ),
        rows(40, 5),
        NOISY,
    )
    assert rank_agreement(often, "judge") > rank_agreement(once, "judge") + 0.05


def test_asking_again_settles_what_noise_left_open() -> None:
    unsure = Simulated(model="judge", noise=1.0, position_bias=0.5)
    found = {
        disagree: accuracy(
            judged(
                Pair.model_validate({"model": "judge", "disagree": disagree, **more}), rows(120, 2), unsure
            )
        )
        for disagree, more in (("average", {}), ("reask", {"reasks": 4}))
    }
    assert found["reask"] > found["average"] + 0.02


def test_the_tie_rule_keeps_fewer_and_better_verdicts() -> None:
    kept = {}
    for disagree in ("average", "tie"):
        made = judged(Pair.model_validate({"model": "judge", "disagree": disagree}), rows(120, 2), NOISY)
        decided = [(one, c) for one in made for c in one.comparisons if c.p != 0.5]
        right = mean((c.p > 0.5) == first_better(one, c) for one, c in decided)  # type: ignore[operator]
        kept[disagree] = (len(decided), right)
    assert kept["tie"][0] < kept["average"][0]
    assert kept["tie"][1] >= kept["average"][1]


@pytest.mark.parametrize("schedule", ["round_robin", "swiss"])
def test_half_of_the_comparisons_give_most_of_the_ranking(schedule: str) -> None:
    sharp = Simulated(model="judge", noise=0.3)
    whole = rank_agreement(judged(Pair(model="judge"), rows(20, 8), sharp), "compared")
    stage = Pair.model_validate({"model": "judge", "schedule": schedule, "rounds": 4})
    part = rank_agreement(judged(stage, rows(20, 8), sharp), "compared")
    assert whole > part > 0.8 * whole


def test_a_list_in_balanced_orders_is_fair_to_all_places() -> None:
    biased = Simulated(model="judge", noise=0.3, position_bias=3.0)
    found = {
        repeats: rank_agreement(judged(List(model="judge", repeats=repeats), rows(40, 5), biased), "listed")
        for repeats in (1, 2, 5)
    }
    fair = rank_agreement(
        judged(List(model="judge", repeats=5), rows(40, 5), Simulated(model="judge", noise=0.3)), "listed"
    )
    assert found[1] < found[2] - 0.1
    assert found[2] <= found[5] + 0.05
    assert found[5] > fair - 0.05


@pytest.mark.parametrize("extract", ["sampled", "majority", "expected"])
def test_no_verdict_is_made_up_for_a_judge_that_gives_none(extract: str) -> None:
    broken = Simulated(model="judge", malformed=0.5, refuse=0.1, empty=0.1, truncate=0.1)
    given = rows(20, 3)
    for word in (Point, List, Pair):
        stage: Any = word.model_validate({"model": "judge", "again": 0, "repeats": 2, "extract": extract})
        made = judged(stage, given, broken)
        scores = [sample.scores[stage.name] for one in made for sample in one.samples]
        votes = [vote for score in scores for vote in score.votes]
        votes += [vote for one in made for c in one.comparisons for vote in c.votes]
        assert 0.2 < mean(vote.value is None for vote in votes) < 0.9
        assert all(vote.why for vote in votes if vote.value is None)
        for one in made:
            for c in one.comparisons:
                assert (c.p is None) == all(vote.value is None for vote in c.votes)
