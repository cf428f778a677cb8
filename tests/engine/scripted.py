"""A backend that a test scripts by the public hook: a recipe names it as a plugin, and a function answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from synthpref.core.seam import Backend, Capability, Completion, ModelSpec, Request
from synthpref.core.types import Usage

Answer = Callable[[Request, int], str | Completion]


def echo(request: Request, i: int) -> str:
    return f"answer {(request.seed or 0) + i} to {request.messages[-1]['content']}"


@dataclass
class Script:
    """What the backend does, and what it saw. `answer` may raise BackendError."""

    answer: Answer = echo
    seen: list[Request] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0
    closed: int = 0
    gate: asyncio.Event | None = None

    def reset(self, answer: Answer = echo) -> None:
        self.__init__(answer)  # type: ignore[misc]


SCRIPT = Script()


class Scripted(ModelSpec):
    """Answers from SCRIPT."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"chat", "n"})
    backend: Literal["scripted"] = "scripted"

    def open(self, shared: dict[str, Any]) -> Backend:
        return _Open()


class _Open:
    async def complete(self, request: Request) -> list[Completion]:
        SCRIPT.seen.append(request)
        SCRIPT.asked[request.messages[-1]["content"]] += request.n
        SCRIPT.in_flight += 1
        SCRIPT.most_in_flight = max(SCRIPT.most_in_flight, SCRIPT.in_flight)
        try:
            await asyncio.sleep(0)
            if SCRIPT.gate:
                await SCRIPT.gate.wait()
            made = [SCRIPT.answer(request, i) for i in range(request.n)]
        finally:
            SCRIPT.in_flight -= 1
        answers = [Completion(text=m, finish_reason="stop") if isinstance(m, str) else m for m in made]
        first = answers[0]
        usage = first.usage or Usage(10, 5 * request.n)
        return [Completion(text=first.text, finish_reason=first.finish_reason, usage=usage), *answers[1:]]

    async def aclose(self) -> None:
        SCRIPT.closed += 1


BACKENDS = {"scripted": Scripted}
