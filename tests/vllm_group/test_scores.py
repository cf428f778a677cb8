"""Scores of log-probabilities in an engine, held against transformers: of a model, and of it with an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny
from against import ANSWERS, ASKED, CLOSE, QUESTIONS, SCORES, ModelsAsk, Tiny, loaded, near, yes_or_no
from room import SMALL, Room
from synthpref.core.seam import Backend
from synthpref.core.types import Row
from synthpref.models.vllm import VLLM

ENGINE = SMALL | {"max_model_len": 512}


@pytest.fixture(scope="module")
def plain(policy: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, Tiny, str]:
    folder = tmp_path_factory.mktemp("merged")
    lora = tiny.adapter(policy, folder / "lora")
    return loaded(policy), loaded(tiny.merged(policy, lora, folder / "model")), lora


@pytest.fixture(scope="module")
def roles(room: Room, plain: tuple[Tiny, Tiny, str]) -> dict[str, Backend]:
    """On one engine: a model, and the same with one adapter, and with another."""
    strong, _, lora = plain
    loras = {"weak": lora, "other": tiny.adapter(strong.folder, Path(lora).parent / "other", seed=5)}
    usual: dict[str, Any] = {"model": strong.folder, "engine": ENGINE, "loras": loras}
    named = {"s": None, "w": "weak", "o": "other"}
    return {role: room.open(VLLM(**usual, lora=name)) for role, name in named.items()}


def scored(room: Room, stage: Any, roles: dict[str, Backend]) -> list[float | None]:
    made = room.run(stage.run(ASKED, ModelsAsk(roles)))
    assert isinstance(made, Row)
    return list(made.values(stage.name))


@pytest.mark.parametrize("case", SCORES, ids=lambda case: case.__name__)
def test_a_score_is_what_transformers_says(
    room: Room, roles: dict[str, Backend], plain: tuple[Tiny, Tiny, str], case: Any
) -> None:
    for stage, expected in case(*plain[:2]):
        assert scored(room, stage, roles) == near(expected)
    assert len(room.engines()) == 1, "adapters share it"


def test_each_token_of_a_prompt_is_as_probable_as_transformers_says(
    room: Room, roles: dict[str, Backend], plain: tuple[Tiny, Tiny, str]
) -> None:
    for role, model in zip("sw", plain[:2], strict=True):
        for question in QUESTIONS:
            messages = ({"role": "user", "content": question}, {"role": "assistant", "content": ANSWERS[2]})
            (answer,) = room.ask(roles[role], messages=messages, prompt_logprobs=0, max_tokens=1)
            ids, logits = model.logits(model.text(messages, continue_final_message=True))
            wanted = logits.log_softmax(-1)
            assert answer.prompt_logprobs is not None
            found = [token.logprob for token in answer.prompt_logprobs if token]
            assert found == pytest.approx([float(wanted[i, t]) for i, t in enumerate(ids[1:])], abs=CLOSE)


def test_adapters_answer_side_by_side_as_they_do_alone(room: Room, roles: dict[str, Backend]) -> None:
    """Each request of its own adapter, those of all three at the engine at once, and of one prefix."""
    from room import QUESTION
    from synthpref.core.seam import Request

    async def together() -> list[str]:
        import asyncio

        asked = [Request(messages=QUESTION, n=2, seed=i, temperature=1.0, max_tokens=12) for i in range(6)]
        calls = [roles[role].complete(one) for one in asked for role in roles]
        return [answer.text for answers in await asyncio.gather(*calls) for answer in answers]

    alone = [
        answer.text
        for i in range(6)
        for role in roles
        for answer in room.ask(roles[role], n=2, seed=i, temperature=1.0)
    ]
    assert room.run(together()) == alone
    assert len(set(alone)) == len(alone)


def test_yes_or_no(room: Room, tmp_path: Path) -> None:
    sure, stage, expected = yes_or_no(tmp_path, tmp_path)
    judge = room.open(VLLM(model=sure.folder, engine=ENGINE))
    assert scored(room, stage, {"s": judge}) == near(expected)
