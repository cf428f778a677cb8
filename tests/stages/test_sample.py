from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request
from synthpref.core.stage import PROMPT, ROLE
from synthpref.core.types import Drop, Row, Sample
from synthpref.stages.sample import Member, N
from synthpref.testing import FunctionAsk, row, run_stage


def numbered(request: Request) -> list[str]:
    return [f"answer {i} to {request.messages[-1]['content']}" for i in range(request.n)]


def only(rows: Sequence[Row | Drop]) -> Row:
    [made] = rows
    assert isinstance(made, Row)
    return made


def test_all_n_choices_are_kept_whole_and_in_order() -> None:
    def answer(request: Request) -> list[Completion]:
        assert request.n == 3
        ends = ("stop", "length", "content_filter")
        return [
            Completion(text=f"answer {i}", finish_reason=end, reasoning=f"thought {i}", seed=100 + i)
            for i, end in enumerate(ends)
        ]

    made = only(run_stage(N(model="policy", n=3), [row("Why?")], answer))
    assert [s.text for s in made.samples] == ["answer 0", "answer 1", "answer 2"]
    assert [s.finish_reason for s in made.samples] == ["stop", "length", "content_filter"]
    assert [s.reasoning for s in made.samples] == ["thought 0", "thought 1", "thought 2"]
    assert [s.seed for s in made.samples] == [100, 101, 102]
    assert {s.model for s in made.samples} == {"policy"}
    assert made.samples[1].truncated
    assert not made.samples[0].truncated


def test_each_member_has_its_own_count_temperature_and_system_prompt() -> None:
    seen: list[Request] = []

    def answer(request: Request) -> list[str]:
        seen.append(request)
        return numbered(request)

    stage = N(
        models=(
            Member(model="small", n=2, temperature=1.2, max_tokens=64, system="Be brief."),
            Member(model="large", system_prompt="sample/truthful"),
        )
    )
    made = only(run_stage(stage, [row("Why?")], answer))
    assert [s.model for s in made.samples] == ["small", "small", "large"]
    assert [(r.n, r.temperature, r.max_tokens) for r in seen] == [(2, 1.2, 64), (1, None, None)]
    assert seen[0].messages[0] == {"role": "system", "content": "Be brief."}
    assert made.samples[0].params == {"temperature": 1.2, "max_tokens": 64, "system": "Be brief."}
    assert made.samples[2].params["system"] == seen[1].messages[0]["content"]
    assert "Say only what is so" in made.samples[2].params["system"]
    assert made.prompt == ({"role": "user", "content": "Why?"},), "the training prompt holds no system prompt"


def test_parameters_in_effect_are_those_of_the_role_under_those_of_the_stage() -> None:
    class Ask(FunctionAsk):
        def info(self, model: str) -> Any:
            from synthpref.core.seam import ModelInfo

            return ModelInfo(name="org/model", params={"temperature": 0.7, "top_p": 0.9})

    ask = Ask(lambda request: [Completion(text="a", model="org/model-0324")])
    made = asyncio.run(N(model="policy", temperature=0.1).run(row("Why?"), ask))
    assert isinstance(made, Row)
    assert made.samples[0].model == "org/model"
    assert made.samples[0].params == {"temperature": 0.1, "top_p": 0.9, "served_as": "org/model-0324"}


def test_a_system_message_of_the_prompt_is_joined_because_templates_take_one() -> None:
    seen: list[Request] = []

    def answer(request: Request) -> list[str]:
        seen.append(request)
        return ["ok"]

    prompt = ({"role": "system", "content": "You are Ada."}, {"role": "user", "content": "Hi"})
    made = only(run_stage(N(model="policy", system="Be brief."), [Row(id="r", prompt=prompt)], answer))
    assert [m["role"] for m in seen[0].messages] == ["system", "user"]
    assert seen[0].messages[0]["content"] == "Be brief.\n\nYou are Ada."
    assert made.prompt == prompt


def test_order_is_that_of_the_members_and_not_of_arrival() -> None:
    async def main() -> Row | Drop:
        first_may_answer = asyncio.Event()

        class Ask(FunctionAsk):
            async def __call__(self, messages: Any, *, model: str, **given: Any) -> list[Completion]:
                if model == "slow":
                    await first_may_answer.wait()
                else:
                    first_may_answer.set()
                return [Completion(text=f"by {model}", finish_reason="stop")]

        stage = N(models=(Member(model="slow"), Member(model="quick")))
        return await stage.run(row("Why?"), Ask(numbered))

    made = asyncio.run(main())
    assert isinstance(made, Row)
    assert [s.text for s in made.samples] == ["by slow", "by quick"]


def test_brought_responses_are_left_alone_unless_always() -> None:
    brought = row("Why?", "brought")
    assert only(run_stage(N(model="policy", n=4), [brought])).samples == brought.samples
    made = only(run_stage(N(model="policy", n=2, when="always"), [brought], numbered))
    assert [s.text for s in made.samples] == ["brought", "answer 0 to Why?", "answer 1 to Why?"]
    assert made.samples[0] == brought.samples[0]


def test_empty_responses_are_recorded_and_a_row_of_nothing_else_is_dropped() -> None:
    made = only(run_stage(N(model="policy", n=2), [row("Why?")], lambda r: [" \n", "Because."]))
    assert [s.empty for s in made.samples] == [True, False]
    empty = [Completion(text="", finish_reason="content_filter"), Completion(text="  ", finish_reason="stop")]
    [drop] = run_stage(N(model="policy", n=2), [row("Why?")], lambda r: empty)
    assert isinstance(drop, Drop)
    assert drop.reason == "no usable response"
    assert drop.detail == "2 without text; finish_reason: 1 x content_filter, 1 x stop"


@pytest.mark.parametrize("kind", ["bad_request", "content_filter", "context_length"])
def test_the_text_of_an_error_never_becomes_a_response(kind: Any) -> None:
    def answer(request: Request) -> list[str]:
        raise BackendError(kind, "No response (bad request).")

    with pytest.raises(BackendError) as caught:
        run_stage(N(model="policy", n=2), [row("Why?", id="r1")], answer)
    assert caught.value.kind == kind


def test_rows_never_mix() -> None:
    rows = [row(f"question {i}", id=f"r{i}") for i in range(5)]
    for made in run_stage(N(model="policy", n=2), rows, numbered):
        assert isinstance(made, Row)
        number = made.id.removeprefix("r")
        assert [s.text for s in made.samples] == [f"answer {i} to question {number}" for i in range(2)]


def test_the_load_is_what_is_asked() -> None:
    stage = N(models=(Member(model="a", n=3), Member(model="b")))
    load = stage.load(0)
    assert load.samples == 4
    assert [(c.model, c.requests, c.n) for c in load.calls] == [("a", 1, 3), ("b", 1, 1)]
    assert stage.load(2).calls == ()
    assert stage.load(2).samples == 2
    assert N(model="a", n=3, when="always").load(2).samples == 5
    assert stage.gives() == {"samples"}
    assert stage.requires() == {"a": {"chat"}, "b": {"chat"}}


def test_roles_and_templates_are_found_inside_members() -> None:
    stage = N(models=(Member(model="a", system_prompt="sample/brief"), Member(model="b")))
    assert [value for _, value in stage.marked(ROLE)] == ["a", "b"]
    assert [value for _, value in stage.marked(PROMPT)] == ["sample/brief"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give model"),
        ({"model": "a", "models": [{"model": "b"}]}, "one of the two"),
        ({"models": [{"model": "b"}], "n": 3}, "n: with models, each member"),
        ({"models": [{"model": "b"}], "system": "x"}, "system: with models, each member"),
        ({"model": "a", "n": 0}, "greater than or equal to 1"),
        ({"model": "a", "temperature": -1}, "greater than or equal to 0"),
        ({"model": "a", "system": "x", "system_prompt": "sample/brief"}, "not both"),
        ({"models": [{"model": "b", "system": "x", "system_prompt": "y"}]}, "not both"),
        ({"model": "a", "N": 3}, "Extra inputs"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        N(**fields)


def test_a_sample_knows_that_it_is_empty() -> None:
    assert Sample("\n \t").empty
