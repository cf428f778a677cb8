"""What tests of judges share: what was shown, and answers by a quality that the texts carry."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from synthpref.core.seam import Completion, Request
from synthpref.core.template import fenced
from synthpref.core.types import Row
from synthpref.models.simulated import Simulated, answers
from synthpref.testing import FunctionAsk, run_stage

Answer = Callable[[Request], Sequence[str | Completion]]


def text_of(request: Request) -> str:
    return request.messages[-1]["content"]


def shown(request: Request) -> dict[str, str]:
    """The texts between the marks, by label."""
    return dict(fenced(next(m["content"] for m in request.messages if "<<" in m["content"])))


def quality(text: str) -> int:
    """The number that a test response carries."""
    return int(re.findall(r"q(\d+)", text)[-1])


def judged(stage: Any, rows: Row, answer: Answer, **able: Any) -> Row:
    [made] = run_stage(stage, [rows], answer, **able)
    assert isinstance(made, Row)
    return made


def by_quality(request: Request) -> list[str]:
    return [json.dumps({"reasoning": "seen", "score": quality(shown(request)["response"])})] * request.n


def prefer_quality(request: Request) -> list[str]:
    texts = shown(request)
    a, b = quality(texts["response A"]), quality(texts["response B"])
    return [
        json.dumps({"reasoning": "seen", "winner": "A" if a > b else "B" if b > a else "tie"})
    ] * request.n


def prefer_first(request: Request) -> list[str]:
    return ['{"reasoning": "seen", "winner": "A"}'] * request.n


class Simulating(FunctionAsk):
    """A simulated model answers; equal requests get answers of their own by their order, as in a run."""

    def __init__(self, spec: Simulated, row_id: str = "row-1") -> None:
        super().__init__(lambda _: [], row_id, spec.able())
        self.spec, self.counts = spec, Counter[str]()

    async def _send(self, model: str, request: Request) -> list[Completion]:
        self.requests.append((model, request))
        key = repr(request.messages)
        first, self.counts[key] = self.counts[key], self.counts[key] + request.n
        base = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
        return answers(self.spec, replace(request, seed=base + first))
