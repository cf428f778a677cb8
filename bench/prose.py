"""A backend whose answers look like English prose and cost nothing: with it a run's size and its own work are measured.

Named by a recipe's `plugins`. The words follow each other as in Python's own help topics, so that short texts squeeze as
prose does, and long ones do not by repeating each other. How long an answer is, is drawn from the log-normal law that
the sizing assumes.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import cache
from pydoc_data.topics import topics
from typing import Annotated, Any, Literal

from synthpref.core.seam import NEUTRAL, Backend, Capability, Completion, ModelSpec, Request
from synthpref.core.types import Usage

CHARS_PER_TOKEN = 4.4
"""Of English prose, by the tokenizers of today's models."""
WORDS = 3_000_000
SIGMA = 0.6
"""Of the log-normal law of lengths."""


@cache
def text() -> str:
    """Characters enough that no two answers of a short run are alike."""
    words = "\n".join(topics[name] for name in sorted(topics)).split(" ")
    after: dict[str, list[str]] = {}
    for word, following in zip(words, [*words[1:], words[0]], strict=True):
        after.setdefault(word, []).append(following)
    luck, word, made = random.Random(1), words[0], []
    for _ in range(WORDS):
        made.append(word)
        word = luck.choice(after[word])
    return " ".join(made)


def piece(luck: random.Random, chars: int) -> str:
    """A stretch of prose of so many characters."""
    begin = luck.randrange(len(text()) - chars)
    return text()[begin : begin + chars]


def lengths(luck: random.Random, mean: float) -> Iterator[int]:
    """Log-normal lengths with that mean, at least 1."""
    while True:
        yield max(1, round(mean * luck.lognormvariate(-(SIGMA**2) / 2, SIGMA)))


class Prose(ModelSpec):
    """Made-up answers of a mean length; as a reward model, made-up values."""

    backend: Literal["prose"] = "prose"
    chars: Annotated[int, NEUTRAL] = 2200

    def able(self) -> frozenset[Capability]:
        return frozenset({"chat", "n", "reward"})

    def open(self, shared: dict[str, Any]) -> Backend:
        return Writing(self)


class Writing:
    def __init__(self, spec: Prose) -> None:
        self.spec = spec

    async def complete(self, request: Request) -> list[Completion]:
        asked = hashlib.sha256(repr((request.messages, request.seed)).encode()).digest()
        luck = random.Random(asked)
        if request.kind == "reward":
            return [Completion(values={"reward": luck.gauss(0, 1)}, usage=Usage(800, 0))]
        long = lengths(luck, self.spec.chars)
        texts = [piece(luck, next(long)) for _ in range(request.n)]
        tokens = round(sum(map(len, texts)) / CHARS_PER_TOKEN)
        usages = [Usage(250, tokens), *[None] * (request.n - 1)]
        seeds = [None if request.seed is None else request.seed + i for i in range(request.n)]
        return [
            Completion(text=text, finish_reason="stop", usage=usage, model="prose", seed=seed)
            for text, usage, seed in zip(texts, usages, seeds, strict=True)
        ]

    async def aclose(self) -> None:
        pass


BACKENDS = {"prose": Prose}
