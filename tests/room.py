"""An event loop in which models are open, with what is shared in a run: for tests that ask a backend many times."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from synthpref.core.seam import Backend, Completion, ModelSpec, Request

SMALL: dict[str, Any] = {"max_model_len": 256, "max_num_seqs": 16, "enforce_eager": True, "dtype": "float32"}
"""Engine arguments of all tests."""
QUESTION = ({"role": "user", "content": "Why is the sky blue?"},)


@dataclass
class Room:
    """An event loop with what is shared in a run."""

    runner: asyncio.Runner
    shared: dict[str, Any] = field(default_factory=dict)
    opened: list[Backend] = field(default_factory=list)

    def open(self, spec: ModelSpec) -> Backend:
        self.opened.append(spec.open(self.shared))
        return self.opened[-1]

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(what)

    def ask(self, backend: Backend, **fields: Any) -> list[Completion]:
        request = Request(**{"messages": QUESTION, "max_tokens": 12, "temperature": 0.0, **fields})
        answers: list[Completion] = self.run(backend.complete(request))
        return answers

    def engines(self) -> list[Any]:
        """The engines that were started or are to be."""
        return [e for key, fleet in self.shared.items() if key.startswith("vllm [") for e in fleet]

    def close(self) -> None:
        async def close() -> None:
            await asyncio.gather(*(backend.aclose() for backend in self.opened))

        self.run(close())
        self.opened.clear()
