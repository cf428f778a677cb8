"""judge.aspects: what it asks, and what becomes of the replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from synthpref.core.seam import Completion, Request
from synthpref.core.stage import PROMPT
from synthpref.core.types import Row
from synthpref.stages.judge_aspects import PRESETS, Aspects
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


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_shipped_rubrics(preset: str) -> None:
    stage = Aspects(model="judge", aspects=preset)  # type: ignore[arg-type]
    assert list(stage.aspects) == list(PRESETS[preset])
    used = {name for _, name in stage.marked(PROMPT)}
    assert used >= {f"judge/rubrics/{name}" for name in PRESETS[preset]}
    assert Aspects(model="judge").aspects == {name: name for name in PRESETS["ultrafeedback"]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"aspects": {"reasoning": "x"}},
        {"aspects": [["clarity"]]},
        {"aspects": "clarity"},
        {"aspects": []},
        {"aspects": ["clarity"], "rubric": "depth"},
        {"repeats": 0},
    ],
)
def test_it_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Aspects.model_validate({"model": "judge", **wrong})
