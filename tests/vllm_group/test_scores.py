"""Scores of log-probabilities in an engine, and adapters, held against transformers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import tiny
from against import ANSWERS, ASKED, CLOSE, QUESTIONS, SCORES, ModelsAsk, Tiny, loaded, near, yes_or_no
from room import QUESTION, SMALL, Room
from synthpref.core.seam import Backend, Request
from synthpref.core.types import Row
from synthpref.models.vllm import VLLM

ENGINE = SMALL | {"max_model_len": 512}


@pytest.fixture(scope="module")
def sure(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, Any, list[float]]:
    folder = tmp_path_factory.mktemp("sure")
    return yes_or_no(folder, folder)


@pytest.fixture(scope="module")
def models(policy: str, sure: tuple[Tiny, Any, list[float]]) -> dict[str, Tiny]:
    return {"s": loaded(policy), "w": sure[0]}


@pytest.fixture(scope="module")
def roles(room: Room, models: dict[str, Tiny]) -> dict[str, Backend]:
    return {role: room.open(VLLM(model=model.folder, engine=ENGINE)) for role, model in models.items()}


def scored(room: Room, stage: Any, roles: dict[str, Backend]) -> list[float | None]:
    made = room.run(stage.run(ASKED, ModelsAsk(roles)))
    assert isinstance(made, Row)
    return list(made.values(stage.name))


@pytest.mark.parametrize("case", SCORES, ids=lambda case: case.__name__)
def test_a_score_is_what_transformers_says(
    room: Room, roles: dict[str, Backend], models: dict[str, Tiny], case: Any
) -> None:
    for stage, expected in case(models["s"], models["w"]):
        assert scored(room, stage, roles) == near(expected)


def test_yes_or_no(room: Room, roles: dict[str, Backend], sure: tuple[Tiny, Any, list[float]]) -> None:
    _, stage, expected = sure
    assert scored(room, stage, {"s": roles["w"]}) == near(expected)


def test_each_token_of_a_prompt_is_as_probable_as_transformers_says(
    room: Room, roles: dict[str, Backend], models: dict[str, Tiny]
) -> None:
    for question in QUESTIONS:
        messages = ({"role": "user", "content": question}, {"role": "assistant", "content": ANSWERS[2]})
        (answer,) = room.ask(roles["s"], messages=messages, prompt_logprobs=0, max_tokens=1)
        ids, logits = models["s"].logits(models["s"].text(messages, continue_final_message=True))
        wanted = logits.log_softmax(-1)
        assert answer.prompt_logprobs is not None
        found = [token.logprob for token in answer.prompt_logprobs if token]
        assert found == pytest.approx([float(wanted[i, t]) for i, t in enumerate(ids[1:])], abs=CLOSE)
    room.close()


def test_adapters_by_name_answer_side_by_side_as_they_do_alone(
    room: Room, policy: str, tmp_path: Path
) -> None:
    """Three roles on one engine, of which two have an adapter: each is what the weights with it are in transformers."""
    made = {
        "first": tiny.adapter(policy, tmp_path / "a"),
        "other": tiny.adapter(policy, tmp_path / "b", seed=5),
    }
    usual: dict[str, Any] = {"model": policy, "engine": SMALL, "loras": made}
    roles = {name: room.open(VLLM(**usual, lora=name)) for name in (None, *made)}

    async def together() -> list[str]:
        asked = [Request(messages=QUESTION, n=2, seed=i, temperature=1.0, max_tokens=12) for i in range(4)]
        calls = [role.complete(one) for one in asked for role in roles.values()]
        return [answer.text for answers in await asyncio.gather(*calls) for answer in answers]

    alone = [
        answer.text
        for i in range(4)
        for role in roles.values()
        for answer in room.ask(role, n=2, seed=i, temperature=1.0)
    ]
    assert room.run(together()) == alone
    assert len(set(alone)) == 15, "of five seeds by three roles"
    assert len([e for e in room.engines() if e._running]) == 1
    for name, path in made.items():
        plain = loaded(tiny.merged(policy, path, tmp_path / f"merged-{name}"))
        (answer,) = room.ask(roles[name], logprobs=0)
        assert answer.logprobs is not None
        _, logits = plain.logits(plain.text(QUESTION, add_generation_prompt=True))
        assert answer.logprobs[0].logprob == pytest.approx(float(logits[-1].log_softmax(-1).max()), abs=CLOSE)
        assert answer.model == f"{policy}+{name}"
    room.close()
