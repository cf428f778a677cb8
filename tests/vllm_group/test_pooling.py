"""Reward models and embeddings in an engine, held against transformers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import tiny
from room import QUESTION, SMALL, Room
from synthpref.models.openai import OpenAI
from synthpref.models.vllm import VLLM
from synthpref.models.vllm_serve import VLLMServe

CONVERSATIONS = [
    (*QUESTION, {"role": "assistant", "content": said})
    for said in ("the light", "because a question is true", "")
]


@pytest.mark.parametrize("names", [["reward"], ["head_0", "head_1", "head_2"], ["helpful", "verbose"]])
def test_a_reward_is_the_raw_logit_that_transformers_gives(
    room: Room, tmp_path: Path, names: list[str]
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    labels = tuple(names) if "helpful" in names else ()
    model = tiny.reward(tmp_path / "reward", len(names), labels=labels)
    backend = room.open(VLLM(model=model, engine=SMALL, serves="reward"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    grader = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32)
    for messages in CONVERSATIONS:
        (answer,) = room.ask(backend, messages=messages, kind="reward")
        ids = tokenizer.apply_chat_template(list(messages), return_tensors="pt", return_dict=True)[
            "input_ids"
        ]
        with torch.no_grad():
            wanted = [float(x) for x in grader(ids).logits[0]]
        assert answer.values is not None
        assert list(answer.values) == names
        assert all(
            math.isclose(answer.values[n], w, abs_tol=1e-3) for n, w in zip(names, wanted, strict=True)
        )
        assert not all(0 <= w <= 1 for w in wanted), "else nothing tells a logit from a probability"
        assert answer.usage
        assert answer.usage.prompt_tokens == ids.shape[1]
    room.close()


@pytest.mark.parametrize("kind", [VLLM, VLLMServe])
def test_two_answers_are_compared_by_a_template_that_names_them(
    room: Room, tmp_path: Path, kind: type[VLLM]
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = tiny.reward(tmp_path / "pair", template=tiny.PAIR)
    backend = room.open(kind(model=model, engine=SMALL, serves="comparisons"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    grader = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32)
    texts = ("the light", "because a question is true")
    for a, b in (texts, texts[::-1]):
        both = tuple({"role": "assistant", "content": text} for text in (a, b))
        (answer,) = room.ask(backend, messages=(*QUESTION, *both), kind="compare")
        text = f"{QUESTION[0]['content']}\n<|im_start|>{a}<|im_end|>\n<|im_start|>{b}<|im_end|>"
        with torch.no_grad():
            logits = grader(torch.tensor([tokenizer(text)["input_ids"]])).logits[0]
        assert answer.values == {"reward": pytest.approx(float(logits[0]), abs=1e-3)}
    room.close()


def test_the_server_gives_the_same_by_each_of_its_paths_with_the_names_of_the_heads(
    room: Room, tmp_path: Path
) -> None:
    """/classify and /pooling read the conversation, /score the prompt and the response as two texts."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = tiny.reward(tmp_path / "two", labels=("helpful", "verbose"))
    served = room.open(VLLMServe(model=model, engine=SMALL, serves="reward"))
    inside = room.open(VLLM(model=model, engine=SMALL, serves="reward"))
    url = served.wire.endpoints[0].backend.url  # type: ignore[attr-defined]
    for messages in CONVERSATIONS:
        (one,) = room.ask(served, messages=messages, kind="reward")
        (other,) = room.ask(inside, messages=messages, kind="reward")
        assert one.values is not None
        assert list(one.values) == list(other.values or {}) == ["helpful", "verbose"]
        assert one.values == pytest.approx(other.values, abs=1e-3)
        for path in ("/classify", "/pooling", "auto"):
            spec = OpenAI(model=model, base_url=url, serves="reward", reward_path=path)
            (by_path,) = room.ask(room.open(spec), messages=messages, kind="reward")
            assert list((by_path.values or {}).values()) == pytest.approx(list(one.values.values()), abs=1e-3)
    room.close()

    model = tiny.reward(tmp_path / "one")
    served = room.open(VLLMServe(model=model, engine=SMALL, serves="reward"))
    room.ask(served, messages=CONVERSATIONS[0], kind="reward")
    url = served.wire.endpoints[0].backend.url  # type: ignore[attr-defined]
    spec = OpenAI(model=model, base_url=url, serves="reward", reward_path="/score")
    (answer,) = room.ask(room.open(spec), messages=CONVERSATIONS[0], kind="reward")
    tokenizer = AutoTokenizer.from_pretrained(model)
    grader = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32)
    pair = tokenizer(QUESTION[0]["content"], CONVERSATIONS[0][-1]["content"], return_tensors="pt")
    with torch.no_grad():
        (wanted,) = grader(**pair).logits[0].tolist()
    assert answer.values == {"reward": pytest.approx(wanted, abs=1e-3)}
    room.close()


def test_an_embedding_is_a_vector_of_length_1(room: Room, policy: str) -> None:
    backend = room.open(VLLM(model=policy, engine=SMALL, serves="embeddings"))
    texts = ("the sky is blue", "the sky is blue", "a question")
    first, again, other = (
        room.ask(backend, messages=({"role": "user", "content": text},), kind="embed")[0].vector
        for text in texts
    )
    assert first is not None
    assert other is not None
    assert len(first) == 64
    assert math.isclose(sum(x * x for x in first), 1, abs_tol=1e-4)
    assert first == pytest.approx(again, abs=1e-5)
    assert other != pytest.approx(first, abs=1e-2)
    room.close()
