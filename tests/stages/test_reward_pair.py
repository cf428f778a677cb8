"""reward.pair: a reward model that reads two responses together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import simulated_judges
from synthpref.core.seam import Completion, Request
from synthpref.core.types import Row
from synthpref.models.simulated import Simulated
from synthpref.stages.pair import Extremes
from synthpref.stages.reward import RewardPair
from synthpref.testing import row, run_stage

Logit = Callable[[str, str], float | None]


def compared(logit: Logit, *texts: str, asked: list[tuple[str, str]] | None = None, **fields: Any) -> Row:
    def answer(request: Request) -> list[Completion]:
        assert request.kind == "compare"
        *prompt, a, b = request.messages
        assert prompt == [{"role": "user", "content": "Why?"}]
        assert [m["role"] for m in (a, b)] == ["assistant"] * 2
        if asked is not None:
            asked.append((a["content"], b["content"]))
        return [Completion(values={"reward": logit(a["content"], b["content"])})]

    (made,) = run_stage(RewardPair(model="rm", **fields), [row("Why?", *texts)], answer)
    assert isinstance(made, Row)
    return made


def by_length(a: str, b: str) -> float:
    return float(len(a) - len(b))


@pytest.mark.parametrize("texts", [("aaa", "bb", "c"), ("c", "aaa", "bb"), ("bb", "c", "aaa")])
def test_it_compares_each_two_in_both_orders_and_the_better_one_scores_higher(texts: tuple[str, ...]) -> None:
    asked: list[tuple[str, str]] = []
    made = compared(by_length, *texts, asked=asked)
    assert sorted(asked) == sorted((a, b) for a in texts for b in texts if a != b)
    scores = dict(zip(texts, made.values("compared"), strict=True))
    assert (scores["aaa"] or 0) > (scores["bb"] or 0) > (scores["c"] or 0)
    (paired,) = run_stage(Extremes(score="compared"), [made])
    assert isinstance(paired, Row)
    (pair,) = paired.pairs
    assert (texts[pair.chosen], texts[pair.rejected]) == ("aaa", "c")
    assert pair.p == pytest.approx(1 / (1 + math.exp(-2)))
    assert pair.votes == 2


def test_a_vote_is_the_probability_that_the_first_of_the_comparison_wins_whatever_order_was_shown() -> None:
    (only,) = compared(lambda a, b: by_length(a, b) + 0.5, "aaa", "bb").comparisons
    assert (only.a, only.b, only.name) == (0, 1, "compared")
    assert [(v.shown, v.judge) for v in only.votes] == [("ab", "rm"), ("ba", "rm")]
    wanted = [1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(-0.5))]
    assert [v.value for v in only.votes] == pytest.approx(wanted)
    assert only.p == pytest.approx(sum(wanted) / 2)
    assert not only.flipped


def test_a_model_that_goes_by_the_place_is_seen_and_cancels_out() -> None:
    made = compared(lambda a, b: 3.0, "aaa", "bb", "c")
    assert all(c.flipped and c.p == pytest.approx(0.5) for c in made.comparisons)
    assert made.values("compared") == pytest.approx([0, 0, 0], abs=1e-9)


@given(st.floats(allow_nan=False))
def test_any_logit_is_a_probability_or_none(logit: float) -> None:
    (only,) = compared(lambda a, b: logit if a == "x" else -logit, "x", "y").comparisons
    if math.isinf(logit):
        assert only.p is None
    else:
        assert only.p is not None
        assert 0 <= only.p <= 1
        assert (only.p > 0.5) == (logit > 0) or abs(logit) < 1e-12


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_no_number_is_no_vote_and_no_score(nothing: float | None) -> None:
    made = compared(lambda a, b: nothing if "c" in (a, b) else by_length(a, b), "aaa", "bb", "c")
    lost = [c for c in made.comparisons if 2 in (c.a, c.b)]
    assert all(c.p is None and all(v.failed for v in c.votes) for c in lost)
    assert made.values("compared")[2] is None
    why = made.samples[2].scores["compared"].why
    assert why == "no verdict on it: no comparison: the model gave no number"
    assert None not in made.values("compared")[:2]


def test_empty_responses_are_not_shown() -> None:
    asked: list[tuple[str, str]] = []
    made = compared(by_length, "a", " ", "bb", asked=asked)
    assert set(asked) == {("a", "bb"), ("bb", "a")}
    assert made.samples[1].scores["compared"].why == "empty response"


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, 30),
        ({"swap": False}, 15),
        ({"schedule": "round_robin", "rounds": 2}, 12),
        ({"schedule": "swiss", "rounds": 2, "score": "elo"}, 12),
        ({"against": 0, "score": "win_rate"}, 10),
    ],
)
def test_who_meets_whom(fields: dict[str, Any], asked: int) -> None:
    seen: list[tuple[str, str]] = []
    made = compared(by_length, *("x" * i for i in range(1, 7)), asked=seen, **fields)
    stage = RewardPair(model="rm", **fields)
    assert len(seen) == asked == stage.load(6).calls[0].requests
    assert None not in made.values("compared")
    assert stage.makes(6)["compared"].one_order is (fields.get("swap") is False)


def test_what_it_needs_and_what_makes_no_sense() -> None:
    stage = RewardPair(model="rm", name="pr")
    assert stage.requires() == {"rm": {"compare"}}
    assert stage.gives() == {"score:pr", "comparisons:pr"}
    assert stage.needs() == {"samples"}
    for fields, said in (
        ({"score": "mean"}, "Input should be"),
        ({"schedule": "swiss"}, "needs rounds"),
        ({"rounds": 2}, "rounds is for schedule"),
        ({"schedule": "anchor"}, "needs against"),
        ({"score": "elo", "prior": 1}, "prior is for score"),
        ({"rubric": "helpfulness"}, "Extra inputs"),
    ):
        with pytest.raises(ValidationError, match=said):
            RewardPair(model="rm", **fields)  # type: ignore[arg-type]


def test_in_the_simulated_world_it_finds_the_better_one_and_a_taste_for_the_place_does_not_harm() -> None:
    rows = simulated_judges.pairs(60, samples=3)
    for bias in (0.0, 2.0):
        roles = {"rm": Simulated(model="rm", noise=0.05, position_bias=bias)}
        made = simulated_judges.asked(RewardPair(model="rm"), rows, roles)
        right = 0
        for one in made:
            scores, truth = one.values("compared"), simulated_judges.quality(one)
            best = max(range(3), key=lambda i: scores[i] or 0.0)
            right += truth[best] == max(truth)
        assert right >= 52, bias
        flips = sum(c.flipped for one in made for c in one.comparisons)
        assert flips > 100 if bias else flips < 20
