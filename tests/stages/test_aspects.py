"""judge.aspects: what it asks, and what becomes of the replies."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from synthpref.core.seam import Completion, Request, TokenLogprob
from synthpref.core.stage import PROMPT
from synthpref.core.types import Row
from synthpref.engine.prompts import shipped
from synthpref.stages.judge_aspects import FAULTS, PRESETS, Aspects
from synthpref.testing import row, run_stage


def judged(stage: Any, rows: Row, answer: Callable[[Request], Sequence[str | Completion]]) -> Row:
    [made] = run_stage(stage, [rows], answer)
    assert isinstance(made, Row)
    return made


def text_of(request: Request) -> str:
    return request.messages[-1]["content"]


def test_aspects_are_kept_by_name_with_their_mean() -> None:
    stage = Aspects(model="judge", aspects={"wit": "Is it funny?", "depth": "depth"}, name="h")
    assert stage.gives() == {"score:h", "score:h.wit", "score:h.depth"}
    assert stage.prompt == "judge/aspects"

    def answer(request: Request) -> list[str]:
        properties = (request.response_format or {})["json_schema"]["schema"]["properties"]
        assert list(properties) == ["reasoning", "wit", "depth"]
        assert '"wit"\nIs it funny?' in text_of(request)
        assert '"depth"\nDepth: how far' in text_of(request)
        return ['{"reasoning": "r", "wit": 4, "depth": 8}']

    made = judged(stage, row("Why?", "x", ""), answer)
    assert [made.values(n)[0] for n in ("h", "h.wit", "h.depth")] == [6, 4, 8]
    assert made.values("h") == [6, None]
    assert made.samples[1].scores["h.wit"].why == "empty response"
    assert made.samples[0].scores["h"].votes[0].rationale == "r"


def test_an_aspect_that_is_missing_takes_the_mean_with_it_but_not_the_others() -> None:
    stage = Aspects(model="judge", aspects=["clarity", "depth"])
    asked: list[Request] = []

    def answer(request: Request) -> list[str]:
        asked.append(request)
        return ['{"reasoning": "r", "clarity": 4}']

    made = judged(stage, row("Why?", "x"), answer)
    assert len(asked) == 2
    scores = made.samples[0].scores
    assert scores["aspects.clarity"].value == 4
    assert scores["aspects.depth"].value is None
    assert scores["aspects"].value is None
    assert (scores["aspects"].why or "").startswith("no score for aspect depth")


def test_aspects_over_repeats() -> None:
    stage = Aspects(model="judge", aspects=["clarity", "depth"], repeats=2)
    replies = ['{"clarity": 4, "depth": 8}', '{"clarity": 6, "depth": 10}']
    made = judged(stage, row("Why?", "x"), lambda _: replies)
    assert [made.values(n)[0] for n in ("aspects", "aspects.clarity", "aspects.depth")] == [7, 5, 9]
    assert [vote.value for vote in made.samples[0].scores["aspects"].votes] == [6, 8]


def test_a_call_for_each_aspect() -> None:
    stage = Aspects(
        model="judge", aspects={"wit": "Is it funny?", "depth": "depth"}, per_call="one", repeats=2
    )  # type: ignore[arg-type]
    [calls] = stage.load(3).calls
    assert (calls.requests, calls.n) == (6, 2)
    asked: list[str] = []

    def answer(request: Request) -> list[str]:
        properties = (request.response_format or {})["json_schema"]["schema"]["properties"]
        (aspect,) = set(properties) - {"reasoning"}
        asked.append(aspect)
        assert ("Is it funny?" in text_of(request)) == (aspect == "wit")
        assert "on one aspect." in request.messages[0]["content"]
        if aspect == "depth" and "\nsecond\n" in request.messages[1]["content"]:
            return ["I cannot say."] * request.n
        return [f'{{"reasoning": "r", "{aspect}": {n}}}' for n in ((4, 6) if aspect == "wit" else (8, 9))]

    made = judged(stage, row("Why?", "first", "second", ""), answer)
    assert asked[:4] == ["wit", "depth", "wit", "depth"]
    first, second, empty = made.samples
    assert [first.scores[n].value for n in ("aspects.wit", "aspects.depth", "aspects")] == [5, 8.5, 6.75]
    assert [vote.value for vote in first.scores["aspects.wit"].votes] == [4, 6]
    assert first.scores["aspects.wit"].votes[0].reply
    assert second.scores["aspects.wit"].value == 5
    assert (second.scores["aspects"].why or "").startswith("no score for aspect depth")
    assert {score.why for score in empty.scores.values()} == {"empty response"}


@pytest.mark.parametrize("per_call", ["all", "one"])
def test_a_fault_counts_turned_around_and_is_kept_as_given(per_call: str) -> None:
    aspects = {"wit": "W", "bore": "B"}
    fields = {"model": "judge", "aspects": aspects, "scale": (1, 5), "per_call": per_call}
    stage = Aspects.model_validate(fields | {"faults": ["bore"]})
    made = judged(stage, row("Why?", "x"), lambda _: ['{"wit": 4, "bore": 5}'])
    assert [made.values(n)[0] for n in ("aspects", "aspects.wit", "aspects.bore")] == [2.5, 4, 5]
    plainly = judged(Aspects.model_validate(fields), row("Why?", "x"), lambda _: ['{"wit": 4, "bore": 5}'])
    assert plainly.values("aspects") == [4.5]


def test_the_thirteen_features_of_cpm() -> None:
    stage = Aspects.model_validate({"model": "judge", "aspects": "cpm"})
    assert len(stage.aspects) == 13

    def answer(request: Request) -> list[str]:
        for name in stage.aspects:
            assert f'"{name}"\n{name.capitalize()}: ' in text_of(request)
        return [json.dumps({name: 10 if text not in FAULTS else 1 for name, text in stage.aspects.items()})]

    assert judged(stage, row("Why?", "x"), answer).values("aspects") == [10]
    with_faults = Aspects.model_validate({"model": "judge", "aspects": ["cpm/too-long", "clarity"]})
    made = judged(with_faults, row("Why?", "x"), lambda _: ['{"too-long": 10, "clarity": 3}'])
    assert made.values("aspects") == [2]


def tokens(reply: Mapping[str, Mapping[str, float]]) -> Completion:
    """A reply in JSON whose numbers might have been others, with these probabilities."""
    parts = []
    for i, (name, odds) in enumerate(reply.items()):
        most = max(odds, key=lambda number: odds[number])
        top = tuple((number, math.log(p)) for number, p in odds.items())
        parts += [
            TokenLogprob(f'{", " if i else "{"}"{name}": ', 0.0),
            TokenLogprob(most, math.log(odds[most]), top),
        ]
    parts.append(TokenLogprob("}", 0.0))
    return Completion(text="".join(part.token for part in parts), finish_reason="stop", logprobs=tuple(parts))


@pytest.mark.parametrize("per_call", ["all", "one"])
def test_expected_scores_of_each_aspect(per_call: str) -> None:
    odds = {"wit": {"6": 0.5, "8": 0.25, "4": 0.25}, "too-long": {"3": 0.75, "7": 0.25}}
    fields = {
        "model": "judge",
        "aspects": {"wit": "W", "too-long": "L"},
        "faults": ["too-long"],
        "per_call": per_call,
    }
    stage = Aspects.model_validate(fields | {"extract": "expected"})
    assert stage.requires() == {"judge": {"chat", "logprobs"}}

    def answer(request: Request) -> list[Completion]:
        assert request.logprobs == 20
        properties = (request.response_format or {})["json_schema"]["schema"]["properties"]
        return [tokens({name: odds[name] for name in properties if name in odds})]

    made = judged(stage, row("Why?", "x"), answer)
    assert [made.values(n)[0] for n in ("aspects.wit", "aspects.too-long", "aspects")] == pytest.approx(
        [6, 4, 6.5]
    )


def test_what_most_of_the_repeats_say() -> None:
    fields = {"model": "judge", "aspects": {"wit": "W", "depth": "D"}, "extract": "majority", "repeats": 3}
    replies = ['{"wit": 4, "depth": 8}', '{"wit": 4, "depth": 6}', '{"wit": 9, "depth": 6}']
    made = judged(Aspects.model_validate(fields), row("Why?", "x"), lambda _: replies)
    assert [made.values(n)[0] for n in ("aspects.wit", "aspects.depth", "aspects")] == [4, 6, 5]
    split = ['{"wit": 4, "depth": 8}', '{"wit": 5, "depth": 8}', '{"wit": 6, "depth": 8}']
    made = judged(Aspects.model_validate(fields), row("Why?", "x"), lambda _: split)
    assert (made.samples[0].scores["aspects"].why or "").startswith("no score for aspect wit: tied votes")
    made = judged(Aspects.model_validate(fields | {"tie": "highest"}), row("Why?", "x"), lambda _: split)
    assert made.values("aspects") == [7]


def test_the_reasons_stand_where_they_are_asked_for() -> None:
    for place, order in (
        ("before", ["reasoning", "wit"]),
        ("after", ["wit", "reasoning"]),
        ("none", ["wit"]),
    ):
        seen: list[Request] = []

        def answer(request: Request, seen: list[Request] = seen) -> list[str]:
            seen.append(request)
            return ['{"wit": 4}']

        stage = Aspects.model_validate({"model": "judge", "aspects": {"wit": "W"}, "reasoning": place})
        judged(stage, row("Why?", "x"), answer)
        assert list((seen[0].response_format or {})["json_schema"]["schema"]["properties"]) == order
        assert ("your reasons come after it" in text_of(seen[0])) == (place == "after")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_shipped_rubrics(preset: str) -> None:
    stage = Aspects.model_validate({"model": "judge", "aspects": preset})
    assert stage.aspects == PRESETS[preset]
    used = {name for _, name in stage.marked(PROMPT)}
    assert used >= {f"judge/rubrics/{name}" for name in PRESETS[preset].values()}
    for name in PRESETS[preset].values():
        assert (shipped("prompts") / "judge" / "rubrics" / f"{name}.j2").is_file()


def test_without_any_it_goes_by_those_of_ultrafeedback() -> None:
    assert Aspects(model="judge").aspects == PRESETS["ultrafeedback"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"aspects": {"reasoning": "x"}},
        {"aspects": [["clarity"]]},
        {"aspects": "clarity"},
        {"aspects": []},
        {"aspects": ["clarity"], "rubric": "depth"},
        {"aspects": {"too long": "x", "too-long": "y"}},
        {"aspects": ["clarity"], "faults": ["depth"]},
        {"repeats": 0},
    ],
)
def test_it_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Aspects.model_validate({"model": "judge", **wrong})
