"""A jury's votes become one score by a named rule."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from pydantic import ValidationError

from synthpref.core.seam import Completion, Request
from synthpref.core.types import Row
from synthpref.stages.jury import Jury
from synthpref.testing import FunctionAsk, row


class Jurors(FunctionAsk):
    """Each role answers with its own words; a second question gets the same again."""

    def __init__(self, **said: str) -> None:
        super().__init__(lambda _: [])
        self.said = said

    async def _send(self, model: str, request: Request) -> list[Completion]:
        self.requests.append((model, request))
        return [Completion(text=self.said[model], finish_reason="stop")]


def tried(ask: FunctionAsk, *responses: str, **fields: Any) -> Row:
    made = asyncio.run(Jury(judges=("a", "b", "c"), **fields).run(row("Why?", *(responses or ("x",))), ask))
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
