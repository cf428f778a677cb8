"""Several endpoints as one Backend: the least loaded gets the call, or one that has read its beginning already; a dead
one is set aside and tried again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from synthpref.core.errors import BackendError
from synthpref.core.seam import Backend, Completion, Request
from synthpref.models.lengths import Lengths
from synthpref.models.limit import Limit
from synthpref.models.limiter import Limiter
from synthpref.models.prefixes import Prefixes

ASIDE_S, LONGEST_ASIDE_S = 1.0, 15.0
FAILURES_IN_A_ROW = 5
FULLER = 0.25
"""How much fuller, by its own limit, an endpoint may be that is chosen for what it has read."""

log = logging.getLogger("synthpref")


@dataclass
class Endpoint:
    """One address of a model, with the limit that all roles on it share."""

    name: str
    backend: Backend
    limiter: Limiter
    failures: int = 0
    aside_until: float = 0.0
    """When an endpoint that was set aside may be tried again; 0 for one that works."""
    aside_for: float = ASIDE_S
    on_trial: bool = False
    """Whether a call is under way that finds out if it is back."""

    def there(self, now: float) -> bool:
        """Whether a call may go to it. One that was set aside gets a single call, until that has worked."""
        return not self.aside_until or (self.aside_until <= now and not self.on_trial)

    def failed(self, error: BackendError, now: float) -> None:
        """Note a failure. Those of calls that were under way together set the endpoint aside once."""
        self.failures += 1
        if now < self.aside_until or (error.kind != "unreachable" and self.failures < FAILURES_IN_A_ROW):
            return
        log.warning("set aside for %.0f s: %s", self.aside_for, error)
        self.aside_until = now + self.aside_for
        self.aside_for = min(self.aside_for * 2, LONGEST_ASIDE_S)

    def worked(self) -> None:
        self.failures, self.aside_for, self.aside_until = 0, ASIDE_S, 0.0


class _Elsewhere(Exception):
    """The endpoint was set aside while the call waited for a place at it."""


class Pool:
    """A Backend over one endpoint or several. Raises BackendError; "unreachable" only when all are away."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        prefixes: Prefixes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoints, self._clock = endpoints, clock
        self.lengths = Lengths()
        self.prefixes = prefixes if len(endpoints) > 1 else None

    async def complete(self, request: Request) -> list[Completion]:
        """The answers of one endpoint. It may give fewer than were asked for."""
        return (await self._one(request))[: request.n]

    async def _one(self, request: Request) -> list[Completion]:
        while True:
            try:
                return await self._at(self._choose(request), request)
            except _Elsewhere:
                continue

    async def _at(self, endpoint: Endpoint, request: Request) -> list[Completion]:
        place = endpoint.limiter.slot(request.priority, partial(self.lengths.expected, request))
        place.weight = request.n
        async with place as slot:
            if not endpoint.there(self._clock()) and self._others(endpoint):
                slot.used = 0.0
                raise _Elsewhere
            trial = bool(endpoint.aside_until) and not endpoint.on_trial
            endpoint.on_trial = endpoint.on_trial or trial
            try:
                answers = await endpoint.backend.complete(request)
            except BackendError as error:
                noted = self._noted(endpoint, error)
                if noted is error:
                    raise
                raise noted from error
            finally:
                if trial:
                    endpoint.on_trial = False
            endpoint.worked()
            if endpoint.limiter.caps.tpm is not None:
                slot.used = self.lengths.learn(request, answers)
            return answers

    def _noted(self, endpoint: Endpoint, error: BackendError) -> BackendError:
        """The error as the engine is to see it: one address that is away is a passing failure of the pool."""
        if error.kind in ("unreachable", "transient"):
            endpoint.failed(error, self._clock())
        if error.kind == "unreachable" and self._others(endpoint):
            return BackendError("transient", f"{error}; the other endpoints go on")
        return error

    def _others(self, endpoint: Endpoint) -> list[Endpoint]:
        """The endpoints but this one that a call may go to."""
        now = self._clock()
        return [e for e in self.endpoints if e is not endpoint and e.there(now)]

    def _choose(self, request: Request) -> Endpoint:
        """The endpoint with the most room among those that are there; else the one that is back soonest. One that has
        read the request's beginning goes before it, unless it is much fuller."""
        now = self._clock()
        there = [i for i, e in enumerate(self.endpoints) if e.there(now)]
        if not there:
            return min(self.endpoints, key=lambda e: e.aside_until)
        room = [e.limiter.room for e in self.endpoints]
        chosen = max(there, key=lambda i: room[i])
        if self.prefixes:
            marks = self.prefixes.marks(request)
            knows = max(self.prefixes.longest(marks, there), key=lambda i: room[i])
            if room[chosen] - room[knows] <= FULLER * self.endpoints[knows].limiter.limit.value:
                chosen = knows
            self.prefixes.note(marks, chosen)
        return self.endpoints[chosen]

    async def aclose(self) -> None:
        for endpoint in self.endpoints:
            endpoint.limiter.close()
            await endpoint.backend.aclose()


def limiter_for(
    shared: dict[str, Any],
    key: str,
    most: int,
    rpm: int | None = None,
    tpm: int | None = None,
    law: Callable[[int], Limit] = Limit,
) -> Limiter:
    """The limiter of the endpoint `key`, one for all roles of a run; the tightest of their limits holds."""
    found = shared.get(f"limiter {key}")
    if not isinstance(found, Limiter):
        stop = shared.get("stop")
        found = Limiter(law(most), stop=stop if isinstance(stop, asyncio.Event) else None)
        shared[f"limiter {key}"] = found
    found.limit.most = min(found.limit.most, most)
    caps = found.caps
    caps.rpm = min((n for n in (caps.rpm, rpm) if n is not None), default=None)
    caps.tpm = min((n for n in (caps.tpm, tpm) if n is not None), default=None)
    return found
