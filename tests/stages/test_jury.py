"""A jury's votes become one score by a named rule."""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any

import pytest
from pydantic import ValidationError

from synthpref.core.seam import Completion, Request
from synthpref.core.stage import Barrier
from synthpref.core.template import fenced
from synthpref.core.types import Row
from synthpref.core.votes import NOT_ASKED
from synthpref.stages.jury import Jury
from synthpref.testing import FunctionAsk, row, run_stage


class Jurors(FunctionAsk):
    """Each role answers with its own words; a second question gets the same again."""

    def __init__(self, **said: str) -> None:
        super().__init__(lambda _: [])
        self.said = said

    async def _send(self, model: str, request: Request) -> list[Completion]:
        self.requests.append((model, request))
        return [Completion(text=self.said[model], finish_reason="stop")] * request.n


def tried(ask: FunctionAsk, *responses: str, **fields: Any) -> Row:
    stage = Jury.model_validate({"judges": ("a", "b", "c"), **fields})
    made = asyncio.run(stage.run(row("Why?", *(responses or ("x",))), ask))
    assert isinstance(made, Row)
    return made


@pytest.mark.parametrize(
    ("fields", "score"),
    [
        ({}, 6),
        ({"reducer": "median"}, 7),
        ({"reducer": "majority", "tie": "lowest"}, 2),
        ({"reducer": "majority", "tie": "highest"}, 9),
        ({"reducer": "majority", "tie": "mean"}, 6),
        ({"reducer": "majority"}, None),
        ({"reducer": "multimode", "tie": "highest"}, 9),
        ({"reducer": "multimode"}, None),
        ({"reducer": "minimum"}, 2),
    ],
)
def test_reducers_and_tie_rules(fields: dict[str, Any], score: float | None) -> None:
    for order in ((2, 7, 9), (9, 2, 7), (7, 9, 2)):
        ask = Jurors(**{judge: f"Score: {value}" for judge, value in zip("abc", order, strict=True)})
        made = tried(ask, **fields).samples[0].scores["jury"]
        assert made.value == score
        assert [(vote.judge, vote.value) for vote in made.votes] == list(zip("abc", order, strict=True))
        assert score is not None or made.why == "tied votes: 2 and 7 and 9"


def test_a_juror_without_a_verdict_casts_no_vote() -> None:
    ask = Jurors(a="Score: 8", b="N/A", c="Score: 6")
    score = tried(ask).samples[0].scores["jury"]
    assert score.value == 7
    assert [vote.value for vote in score.votes] == [8, None, 6]
    assert [model for model, _ in ask.requests] == ["a", "b", "c", "b"]
    few = tried(ask, at_least=3).samples[0].scores["jury"]
    assert few.value is None
    assert re.match("too few votes: 2 of 3 have a value, 3 needed", few.why or "")


def test_each_response_has_its_own_votes() -> None:
    made = tried(Jurors(a="Score: 8", b="Score: 7", c="Score: 6"), "x", "", "y")
    assert made.values("jury") == [7, None, 7]
    assert made.samples[1].scores["jury"].why == "empty response"


def test_what_it_asks_and_gives() -> None:
    stage = Jury(judges=("a", "b"))
    assert stage.gives() == {"score:jury"}
    assert stage.requires() == {"a": {"chat"}, "b": {"chat"}}
    assert [(c.model, c.requests) for c in stage.load(4).calls] == [("a", 4), ("b", 4)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"judges": ["a"]},
        {"judges": ["a", "a"]},
        {"judges": ["a", "b"], "at_least": 3},
        {"judges": ["a", "b"], "tie": "x"},
    ],
)
def test_a_jury_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Jury.model_validate(wrong)


# ---- seats


def test_a_seat_has_its_own_rubric_template_and_replies() -> None:
    seats = ["a", {"model": "a", "name": "strict", "rubric": "Count the errors.", "repeats": 2}, "c"]
    ask = Jurors(a="Score: 8", c="Score: 3")
    made = tried(ask, judges=seats).samples[0].scores["jury"]
    assert [(vote.role, vote.judge, vote.value) for vote in made.votes] == [
        ("a", "a", 8), ("strict", "a", 8), ("strict", "a", 8), ("c", "c", 3),
    ]  # fmt: skip
    assert made.value == pytest.approx(19 / 3), "two replies of one juror are one vote"
    asked = [(model, request.n, request.messages[-1]["content"]) for model, request in ask.requests]
    assert [(model, n) for model, n, _ in asked] == [("a", 1), ("a", 2), ("c", 1)]
    assert ["Count the errors." in text for _, _, text in asked] == [False, True, False]
    stage = Jury(judges=seats, rubric="honesty")
    assert [(c.model, c.n) for c in stage.load(4).calls] == [("a", 1), ("a", 2), ("c", 1)]
    assert dict(stage.marked("model role")) == {
        "judges[0].model": "a",
        "judges[1].model": "a",
        "judges[2].model": "c",
    }


def test_a_juror_is_marked_with_its_templates() -> None:
    seats = [{"model": "a", "rubric": "depth"}, {"model": "b", "prompt": "mine.j2"}]
    marked = dict(Jury(judges=seats).marked("prompt template"))
    assert marked["judges[0].rubric"] == "judge/rubrics/depth"
    assert marked["judges[1].prompt"] == "mine.j2"


def test_verdicts_by_expectation() -> None:
    stage = Jury(judges=("a", "b"), extract="expected")
    assert stage.requires() == {"a": {"chat", "logprobs"}, "b": {"chat", "logprobs"}}


# ---- stopping early


def many(n: int) -> list[str]:
    return [f"j{i}" for i in range(n)]


@pytest.mark.parametrize(
    ("said", "reducer", "asked", "score"),
    [
        ("77777", "majority", 3, 7),
        ("77377", "majority", 4, 7),
        ("73737", "majority", 5, 7),
        ("7x777", "majority", 4, 7),
        ("77777", "multimode", 3, 7),
        ("77777", "median", 3, 7),
        ("13999", "median", 5, 9),
        ("91777", "minimum", 2, 1),
        ("97777", "minimum", 5, 7),
    ],
)
def test_no_more_jurors_are_asked_than_it_takes(said: str, reducer: str, asked: int, score: float) -> None:
    judges = many(len(said))
    answers = {j: "N/A" if v == "x" else f"Score: {v}" for j, v in zip(judges, said, strict=True)}
    ask = Jurors(**answers)
    made = tried(ask, judges=judges, reducer=reducer, stop_early=True, again=0).samples[0].scores["jury"]
    assert made.value == score
    assert [model for model, _ in ask.requests] == judges[:asked]
    assert len(made.votes) == len(said)
    assert [vote.asked for vote in made.votes] == [i < asked for i in range(len(said))]
    assert all(not vote.failed and vote.why == NOT_ASKED for vote in made.votes if not vote.asked)
    whole = tried(Jurors(**answers), judges=judges, reducer=reducer, again=0).samples[0].scores["jury"]
    assert whole.value == score


def test_each_response_stops_by_itself_and_in_the_order_of_the_jurors() -> None:
    replies = {("a", "x"): 7, ("b", "x"): 7, ("a", "y"): 7, ("b", "y"): 3, ("c", "y"): 3}
    seen = []

    class Told(Jurors):
        async def _send(self, model: str, request: Request) -> list[Completion]:
            text = dict(fenced(request.messages[-1]["content"]))["response"]
            seen.append((model, text))
            return [Completion(text=f"Score: {replies[model, text]}", finish_reason="stop")]

    made = tried(Told(), "x", "y", reducer="majority", stop_early=True)
    assert made.values("jury") == [7, 3]
    assert seen == [("a", "x"), ("b", "x"), ("a", "y"), ("b", "y"), ("c", "y")]


# ---- weighed by reliability


def weighed(said: dict[str, str], texts: int = 6, **fields: Any) -> list[Row]:
    """Each juror's scores of the responses of three rows, as digits."""
    rows = [row("Why?", *(f"{n}-{i}" for i in range(texts)), id=f"row-{n}") for n in range(3)]

    class Told(Jurors):
        async def _send(self, model: str, request: Request) -> list[Completion]:
            n, i = map(int, dict(fenced(request.messages[-1]["content"]))["response"].split("-"))
            digit = said[model][n * texts + i]
            return [Completion(text="N/A" if digit == "x" else f"Score: {digit}", finish_reason="stop")]

    stage = Jury(judges=tuple(said), reducer="dawid_skene", scale=(1, 3), again=0, **fields)
    asking, weighing = stage.expand()
    assert isinstance(asking, Jury)
    assert isinstance(weighing, Barrier)
    made = [asyncio.run(asking.run(one, Told())) for one in rows]
    assert all(s.scores["jury"].value is None for one in made for s in one.samples)
    return [one for one in weighing.run(made, random.Random(0)) if isinstance(one, Row)]


SOUND = "123123112233321321"


def test_those_who_mostly_agree_outweigh_one_who_does_not() -> None:
    rows = weighed({"a": SOUND, "b": SOUND[:-1] + "2", "c": SOUND, "odd": "332211" * 3})
    values = [v for one in rows for v in one.values("jury")]
    assert [round(v or 0) for v in values] == [int(digit) for digit in SOUND]
    votes = rows[0].samples[0].scores["jury"].votes
    trust = {vote.role: vote.reliability or 0 for vote in votes}
    assert trust["a"] == trust["c"] > 0.75 > 0.5 > trust["odd"]
    assert [vote.value for vote in votes] == [1, 1, 1, 3]


def test_a_response_with_too_few_votes_has_no_score_and_an_empty_one_keeps_its_reason() -> None:
    rows = weighed({"a": "x" + SOUND[1:], "b": SOUND}, at_least=2)
    first, second = (rows[0].samples[i].scores["jury"] for i in (0, 1))
    assert first.value is None
    assert first.why == "too few votes: 1 of 2 have a value, 2 needed; the first: no score given: 'N/A'"
    assert second.value is not None
    stage = Jury(judges=("a", "b"), reducer="dawid_skene", scale=(1, 3))
    made = run_stage(stage, [row("Q", "", "y")], lambda request: ["Score: 2"])[0]
    assert isinstance(made, Row)
    assert made.samples[0].scores["jury"].why == "empty response"
    assert made.values("jury")[1] == pytest.approx(2, abs=0.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stop_early": True}, "every vote moves the outcome of reducer mean"),
        ({"stop_early": True, "reducer": "dawid_skene", "scale": (1, 5)}, "every vote moves"),
        ({"reducer": "dawid_skene", "scale": (1, 100)}, "at most 10 on the scale"),
        ({"reducer": "dawid_skene", "scale": (1, 5), "integer": False}, "whole numbers"),
        ({"reducer": "dawid_skene", "scale": (1, 5), "repeats": 2}, "one reply of each juror"),
        ({"extract": "expected", "reducer": "majority"}, "expectations hardly ever are"),
        ({"extract": "majority", "repeats": 3}, "a juror's are averaged"),
        ({"judges": ["a", {"model": "b", "name": "a"}]}, "sits on the jury twice; give one of them a name"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Jury.model_validate({"judges": ["a", "b"], **wrong})
