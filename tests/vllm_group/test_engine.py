"""An engine beside the run, asked as a role asks it."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

import tiny
from room import QUESTION, SMALL, Room
from synthpref.core.errors import BackendError
from synthpref.core.seam import Backend, Request
from synthpref.models.vllm import VLLM

ENGINE = SMALL | {"enable_lora": True}
SCHEMA = {
    "type": "object",
    "properties": {"winner": {"type": "string", "enum": ["A", "B", "tie"]}, "sure": {"type": "boolean"}},
    "required": ["winner", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def plain(room: Room, policy: str) -> Backend:
    return room.open(VLLM(model=policy, engine=ENGINE))


def test_n_samples_are_one_request_and_each_has_its_seed(room: Room, plain: Backend, policy: str) -> None:
    together = room.ask(plain, n=4, seed=5, temperature=1.0)
    assert [a.seed for a in together] == [5, 6, 7, 8]
    assert len({a.text for a in together}) == 4
    assert [a.usage is None for a in together] == [False, True, True, True]
    usage = together[0].usage
    assert usage
    assert usage.completion_tokens == 4 * 12
    assert {a.finish_reason for a in together} == {"length"}
    assert {a.model for a in together} == {policy}
    later = room.ask(plain, n=2, seed=7, temperature=1.0)
    assert [(a.text, a.seed) for a in later] == [(a.text, a.seed) for a in together[2:]]
    alone = room.ask(plain, seed=6, temperature=1.0)
    assert alone[0].text == together[1].text


def test_without_chance_all_answers_are_the_same_one(room: Room, plain: Backend) -> None:
    three = room.ask(plain, n=3, seed=1)
    assert [(a.text, a.seed) for a in three] == [(three[0].text, seed) for seed in (1, 2, 3)]
    assert three[0].usage
    assert three[0].usage.completion_tokens == 12


def test_an_answer_ends_where_it_is_told_to(room: Room, plain: Backend) -> None:
    (whole,) = room.ask(plain, seed=5, temperature=1.0, max_tokens=40)
    mark = whole.text.strip()[4:6]
    assert mark
    (cut,) = room.ask(plain, seed=5, temperature=1.0, max_tokens=40, stop=(mark,))
    assert cut.text == whole.text[: whole.text.index(mark)]
    assert (cut.finish_reason, whole.finish_reason) == ("stop", "length")


def test_without_max_tokens_an_answer_may_fill_the_context(room: Room, plain: Backend) -> None:
    (answer,) = room.ask(plain, max_tokens=None)
    assert answer.usage
    total = answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.finish_reason == "stop" or total == SMALL["max_model_len"]
    assert total > 60


def test_logprobs(room: Room, plain: Backend) -> None:
    (answer,) = room.ask(plain, logprobs=3, max_tokens=5)
    assert answer.logprobs is not None
    assert len(answer.logprobs) == 5
    for token in answer.logprobs:
        assert len(token.top) == 3
        assert token.logprob == token.top[0][1], "the likeliest token was taken"
        assert [p for _, p in token.top] == sorted((p for _, p in token.top), reverse=True)
    (drawn,) = room.ask(plain, logprobs=0, max_tokens=5, temperature=1.0, seed=3)
    assert drawn.logprobs is not None
    assert [token.top for token in drawn.logprobs] == [()] * 5


def test_logprobs_of_the_prompt_are_those_of_transformers(room: Room, plain: Backend, policy: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    messages = (*QUESTION, {"role": "assistant", "content": "because the light is blue"})
    (answer,) = room.ask(plain, messages=messages, prompt_logprobs=2, max_tokens=1)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, continue_final_message=True)
    assert text.endswith("because the light is blue")
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)(ids).logits.log_softmax(
            -1
        )[0]
    assert answer.prompt_logprobs is not None
    first, *others = answer.prompt_logprobs
    assert first is None
    assert len(others) == ids.shape[1] - 1
    for i, token in enumerate(others):
        assert token is not None
        assert math.isclose(token.logprob, float(wanted[i, ids[0, i + 1]]), abs_tol=1e-3)
        assert math.isclose(token.top[0][1], float(wanted[i].max()), abs_tol=1e-3)
        assert token.token in (tokenizer.decode(ids[0, i + 1]), "", "�") or "�" in token.token
    assert answer.usage
    assert answer.usage.prompt_tokens == ids.shape[1]


def test_a_message_that_is_begun_is_gone_on_with(room: Room, plain: Backend) -> None:
    (whole,) = room.ask(plain, temperature=1.0, seed=11, max_tokens=10, logprobs=0)
    said = "the sky is blue"
    (rest,) = room.ask(plain, messages=(*QUESTION, {"role": "assistant", "content": said}), max_tokens=8)
    assert rest.usage
    assert whole.usage
    assert rest.usage.prompt_tokens > whole.usage.prompt_tokens
    assert not rest.text.startswith(said)


def test_a_reply_is_held_to_a_schema(room: Room, plain: Backend) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA}}
    answers = room.ask(plain, n=4, seed=1, temperature=1.0, max_tokens=200, response_format=form)
    read = [json.loads(a.text) for a in answers if a.finish_reason == "stop"]
    assert read, "at least one ends before the context does"
    assert all(r["winner"] in ("A", "B", "tie") and isinstance(r["sure"], bool) for r in read)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"messages": ({"role": "user", "content": "sky " * 400},)}, "context_length"),
        ({"messages": ({"role": "user", "content": "sky " * 20_000},)}, "context_length"),
        ({"stop": ("",)}, "bad_request"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "odd"}}}},
            "bad_request",
        ),
        ({"response_format": {"type": "poem"}}, "bad_request"),
        ({"temperature": 1.0, "logprobs": 500}, "bad_request"),
    ],
)
def test_a_request_that_cannot_be_met_fails_alone(
    room: Room, plain: Backend, fields: dict[str, Any], kind: str
) -> None:
    with pytest.raises(BackendError) as caught:
        room.ask(plain, **fields)
    assert caught.value.kind == kind
    assert room.ask(plain)[0].text


def test_roles_on_one_model_share_its_engine(room: Room, plain: Backend, policy: str, tmp_path: Path) -> None:
    adapted = VLLM(model=policy, engine=ENGINE, lora=tiny.adapter(policy, tmp_path / "adapter"))
    thinking = VLLM(model=policy, engine=ENGINE, chat_template_kwargs={"think": True})
    short = VLLM(model=policy, engine=ENGINE, chat_template="{{ messages[-1]['content'] }}")
    likely = VLLM(model=policy, engine=ENGINE, sampling={"top_k": 1})
    usual, by_adapter, by_thought, bare, top = (
        room.ask(backend)[0] for backend in (plain, *map(room.open, (adapted, thinking, short, likely)))
    )
    assert len(room.engines()) == 1
    assert by_adapter.text != usual.text
    assert by_adapter.model == f"{policy}+{adapted.lora}"
    tokens = [a.usage.prompt_tokens if a.usage else 0 for a in (usual, by_adapter, by_thought, bare)]
    assert tokens[0] == tokens[1] == tokens[2] - 1
    assert tokens[3] < tokens[0]
    assert top.text == usual.text
    assert room.ask(room.opened[-1], temperature=1.0, seed=9)[0].text == usual.text


def test_a_call_that_is_cancelled_leaves_nothing_behind(room: Room, plain: Backend) -> None:
    async def cancel() -> None:
        (engine,) = [e._running for e in room.engines()]
        request = Request(messages=QUESTION, n=8, seed=1, temperature=1.0, max_tokens=200)
        call = asyncio.create_task(plain.complete(request))
        while not engine.get_num_unfinished_requests():  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert engine.get_num_unfinished_requests() == 0

    room.ask(plain)
    room.run(cancel())
    assert room.ask(plain)[0].text


def test_the_queue_is_kept_full_and_no_fuller(room: Room, plain: Backend) -> None:
    most = 0

    async def crowd() -> None:
        nonlocal most
        (engine,) = [e._running for e in room.engines()]
        ask = [
            plain.complete(Request(messages=QUESTION, n=4, seed=i, temperature=1.0, max_tokens=20))
            for i in range(40)
        ]
        crowd = asyncio.gather(*ask)
        while not crowd.done():
            most = max(most, engine.get_num_unfinished_requests())
            await asyncio.sleep(0.001)
        assert {len(answers) for answers in await crowd} == {4}

    room.ask(plain)
    room.run(crowd())
    # 16 at once, the next two that are to be there, and the rest of the call that fills them.
    assert SMALL["max_num_seqs"] <= most <= 18 + 3


def test_seeds_hold_where_more_is_asked_than_one_step_reads(room: Room, plain: Backend) -> None:
    """Prompts that are read in parts, with seeds, are what an engine on a CPU dies of."""
    long = ({"role": "user", "content": "the sky is blue because light " * 25},)
    requests = [Request(messages=long, n=4, seed=i, temperature=1.0, max_tokens=8) for i in range(20)]

    async def crowd() -> list[list[str]]:
        answered = await asyncio.gather(*map(plain.complete, requests))
        return [[a.text for a in answers] for answers in answered]

    together = room.run(crowd())
    assert [a.text for a in room.run(plain.complete(requests[13]))] == together[13]


def test_reasoning_is_told_from_the_answer(room: Room, policy: str) -> None:
    """With an engine of its own, because the parser is the engine's too."""
    tokenizer = tiny.tokenizer()
    ends, word = tokenizer.convert_tokens_to_ids("</think>"), tokenizer.encode(" blue")[0]
    still, done = (
        room.open(VLLM(
            model=policy, engine=SMALL, reasoning_parser="deepseek_r1", chat_template_kwargs={"think": True},
            sampling={"allowed_token_ids": ids, "skip_special_tokens": False, "frequency_penalty": 2.0},
        ))
        for ids in ([word], [ends, word])
    )  # fmt: skip
    (thinks,) = room.ask(still)
    assert (thinks.reasoning or "").strip() == " ".join(["blue"] * 12)
    assert (thinks.text, thinks.finish_reason) == ("", "length"), "a thought that is cut short is no answer"
    answers = room.ask(done, n=8, seed=1, temperature=2.0, max_tokens=60)
    assert any("blue" in a.text for a in answers)
    assert all("think>" not in (a.reasoning or "") for a in answers)
