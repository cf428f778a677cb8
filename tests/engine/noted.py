"""The simulated backend under a name of its own, which notes each answer that it is asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import orjson

from synthpref.core.seam import Backend, Completion, Request
from synthpref.models.simulated import Simulated

NOTED: Counter[bytes] = Counter()
"""What was asked, once for each answer: all of the request that reaches a model, and the answer's seed."""


class Noted(Simulated):
    """Answers as Simulated does."""

    backend: Literal["noted"] = "noted"  # type: ignore[assignment]

    def open(self, shared: dict[str, Any]) -> Backend:
        return _Noting(self, super().open(shared))


class _Noting:
    def __init__(self, spec: Noted, backend: Backend) -> None:
        self.spec, self.backend = spec, backend

    async def complete(self, request: Request) -> list[Completion]:
        assert request.seed is not None
        whole = {name: getattr(request, name) for name in Request.__slots__ if name not in ("n", "priority")}
        for i in range(request.n):
            NOTED[orjson.dumps([self.spec.model, {**whole, "seed": request.seed + i}])] += 1
        return await self.backend.complete(request)

    async def aclose(self) -> None:
        await self.backend.aclose()


BACKENDS = {"noted": Noted}
