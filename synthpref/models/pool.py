"""Several endpoints as one Backend: the least loaded gets the call, a dead one is set aside and tried again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from synthpref.core.errors import BackendError
from synthpref.core.seam import Backend, Completion, Request
from synthpref.models.limiter import Limit, Limiter

ASIDE_S, LONGEST_ASIDE_S = 1.0, 60.0
FAILURES_IN_A_ROW = 5
CHARS_PER_TOKEN = 4

log = logging.getLogger("synthpref")


@dataclass
class Endpoint:
    """One address of a model, with the limit that all roles on it share."""

    name: str
    backend: Backend
    limiter: Limiter
    failures: int = 0
    aside_until: float = 0.0
    aside_for: float = ASIDE_S

    def failed(self, error: BackendError) -> None:
        self.failures += 1
        if error.kind == "unreachable" or self.failures >= FAILURES_IN_A_ROW:
            log.warning("%s is set aside for %.0f s: %s", self.name, self.aside_for, error)
            self.aside_until = time.monotonic() + self.aside_for
            self.aside_for = min(self.aside_for * 2, LONGEST_ASIDE_S)

    def worked(self) -> None:
        self.failures, self.aside_for, self.aside_until = 0, ASIDE_S, 0.0


class Pool:
    """A Backend over one endpoint or several. Raises BackendError; "unreachable" only when all are away."""

    def __init__(self, endpoints: Sequence[Endpoint], *, many: bool = True) -> None:
        self.endpoints = endpoints
        self.many = many

    async def complete(self, request: Request) -> list[Completion]:
        if request.n == 1 or self.many:
            return await self._one(request)
        seeds = [None if request.seed is None else request.seed + i for i in range(request.n)]
        singly = (self._one(replace(request, n=1, seed=seed)) for seed in seeds)
        return [answer for answers in await asyncio.gather(*singly) for answer in answers[:1]]

    async def _one(self, request: Request) -> list[Completion]:
        endpoint = self._choose()
        words = sum(len(m["content"]) for m in request.messages) / CHARS_PER_TOKEN
        async with endpoint.limiter.slot(
            request.priority, words + request.n * (request.max_tokens or 0)
        ) as ticket:
            try:
                answers = await endpoint.backend.complete(request)
            except BackendError as error:
                if error.kind in ("unreachable", "transient"):
                    endpoint.failed(error)
                if error.kind == "unreachable" and self._choose().aside_until <= time.monotonic():
                    raise BackendError("transient", f"{error}; the other endpoints go on") from error
                raise
            endpoint.worked()
            if answers and answers[0].usage:
                ticket[1] = answers[0].usage.prompt_tokens + answers[0].usage.completion_tokens
            return answers

    def _choose(self) -> Endpoint:
        """The endpoint with the most room among those not set aside; else the one that is back soonest."""
        now = time.monotonic()
        there = [e for e in self.endpoints if e.aside_until <= now]
        if there:
            return max(there, key=lambda e: e.limiter.room)
        return min(self.endpoints, key=lambda e: e.aside_until)

    async def aclose(self) -> None:
        for endpoint in self.endpoints:
            endpoint.limiter.close()
            await endpoint.backend.aclose()


def limiter_for(shared: dict[str, Any], key: str, most: int, rpm: int | None, tpm: int | None) -> Limiter:
    """The limiter of the endpoint `key`, one for all roles of a run; the tightest of their limits holds."""
    found = shared.get(f"limiter {key}")
    if not isinstance(found, Limiter):
        stop = shared.get("stop")
        found = Limiter(Limit(most, rpm, tpm), stop if isinstance(stop, asyncio.Event) else None)
        shared[f"limiter {key}"] = found
    limit = found.limit
    limit.most = min(limit.most, most)
    limit.rpm = min((n for n in (limit.rpm, rpm) if n is not None), default=None)
    limit.tpm = min((n for n in (limit.tpm, tpm) if n is not None), default=None)
    return found
