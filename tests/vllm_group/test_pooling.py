"""Reward models and embeddings in an engine, held against transformers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import tiny
from room import QUESTION, SMALL, Room
from synthpref.models.vllm import VLLM

CONVERSATIONS = [
    (*QUESTION, {"role": "assistant", "content": said})
    for said in ("the light", "because a question is true", "")
]


@pytest.mark.parametrize("heads", [1, 3])
def test_a_reward_is_the_raw_logit_that_transformers_gives(room: Room, tmp_path: Path, heads: int) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = tiny.reward(tmp_path / "reward", heads)
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
        names = ["reward"] if heads == 1 else ["head_0", "head_1", "head_2"]
        assert answer.values is not None
        assert list(answer.values) == names
        assert all(
            math.isclose(answer.values[n], w, abs_tol=1e-3) for n, w in zip(names, wanted, strict=True)
        )
        assert not all(0 <= w <= 1 for w in wanted), "else nothing tells a logit from a probability"
        assert answer.usage
        assert answer.usage.prompt_tokens == ids.shape[1]
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
