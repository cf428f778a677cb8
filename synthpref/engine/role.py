"""A model role in use: asks with retries, says when a failure ends the row or the run, and counts what it cost."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from synthpref.core.errors import FATAL, RETRIED, BackendError
from synthpref.core.seam import Backend, Completion, ModelSpec, Request
from synthpref.core.types import Usage

RATE_LIMIT_PATIENCE_S = 1800.0
"""How long one call may be told "too many requests", or is told to wait, before the run stops."""
OUTAGE_PATIENCE_S = 600.0
"""How long an endpoint that has answered before may be away before the run stops."""
AWAY = (None, 502, 503, 504)
"""What an endpoint that is away says through what stands before it: a broken connection, or that it is not there."""
LONGEST_PAUSE_S = 10.0
"""Between two tries of one call, unless the endpoint asks for more."""
FIRST_CONTACT_TRIES = 3
"""How often an endpoint that never answered is tried."""

log = logging.getLogger("synthpref")


class Stopping(BaseException):
    """The run is ending: no new call is made, and the row that wanted one is left for the next start."""


@dataclass
class Meter:
    """What one role cost in this start of the run."""

    requests: int = 0
    completions: int = 0
    replayed: int = 0
    usage: Usage = field(default_factory=Usage)
    retries: int = 0


@dataclass
class Stop:
    """Why the run ends early, once it does."""

    reason: str = ""
    failed: bool = False
    event: asyncio.Event = field(default_factory=asyncio.Event)

    def now(self, reason: str, failed: bool = False) -> None:
        """Stop. The first reason stays."""
        if not self.event.is_set():
            self.reason, self.failed = reason, failed
            self.event.set()


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


class Patience:
    """When a call that keeps failing is given up. Time counts from the first failure of a kind, not from the
    call's start, which may have waited long for its turn.

    `answered` tells when the endpoint last answered anybody, None for never. If that was before the failure that
    came before this one, it is the endpoint that fails and not the row.
    """

    def __init__(self, retries: int, answered: Callable[[], float | None]) -> None:
        self._retries, self._answered = retries, answered
        self._since: dict[str, float] = {}
        self._failures, self._last = 0, 0.0

    def ended(self, state: RetryCallState) -> bool:
        error = _error(state)
        if not isinstance(error, BackendError):
            return True
        now, answered = time.monotonic(), self._answered()
        since = self._since.setdefault(error.kind, now)
        waited = now - since + (error.retry_after or 0.0)
        if error.kind == "transient":
            self._failures += 1
            away = answered is not None and answered <= self._last and error.status in AWAY
            self._last = now
            return self._failures > self._retries and not (away and waited <= OUTAGE_PATIENCE_S)
        if error.kind == "rate_limit":
            return waited > RATE_LIMIT_PATIENCE_S
        if answered is not None:
            return waited > OUTAGE_PATIENCE_S
        return state.attempt_number >= FIRST_CONTACT_TRIES


class Role:
    """An open model role: asks with retries, and counts."""

    def __init__(
        self, name: str, spec: ModelSpec, backend: Backend, stop: Stop, answered: dict[str, float]
    ) -> None:
        self.name, self.spec, self.backend, self.stop = name, spec, backend, stop
        self.identity = spec.identity()
        self.able = spec.able()
        self.meter = Meter()
        self.in_flight = 0
        self.asking = 0
        """Calls under way, those between two tries too."""
        # By place, because roles at one endpoint share its outages.
        self._answered, self._place = answered, spec.place()

    @property
    def cost(self) -> float | None:
        price = self.spec.pays()
        return price.cost(self.meter.usage) if price else None

    def waits_for(self) -> str:
        """What the backend says it waits for, where that takes long."""
        said = getattr(self.backend, "waits_for", None)
        return said() if said else ""

    def with_defaults(self, request: Request) -> Request:
        """The request with the role's parameters where a stage gave none."""
        spec = self.spec
        return replace(
            request,
            temperature=spec.temperature if request.temperature is None else request.temperature,
            top_p=spec.top_p,
            max_tokens=spec.max_tokens if request.max_tokens is None else request.max_tokens,
            stop=spec.stop,
        )

    async def fetch(self, request: Request) -> list[Completion]:
        """At least one and at most `request.n` answers, asked with retries.

        Raises BackendError when it is the row's fault or the retries are used up, and Stopping when the run
        ends first.
        """
        self.asking += 1
        try:
            try:
                answers = await self._once(request)
            except BackendError as error:
                answers = await self._insist(request, error)
        except BackendError as error:
            if error.kind in FATAL or error.kind in ("unreachable", "rate_limit"):
                failed = error.kind in FATAL or self._place not in self._answered
                self.stop.now(f"models.{self.name}: {error}", failed=failed)
                raise Stopping from error
            raise
        finally:
            self.asking -= 1
        self._answered[self._place] = time.monotonic()
        self.meter.requests += 1
        self.meter.completions += len(answers)
        for answer in answers:
            if answer.usage:
                self.meter.usage += answer.usage
        return answers

    async def _insist(self, request: Request, error: BackendError) -> list[Completion]:
        """Ask again after a first failure. Only here, because what retries need costs more than the call."""
        first = iter([error])

        async def attempt() -> list[Completion]:
            for failure in first:
                raise failure
            return await self._once(request)

        patience = Patience(self.spec.retries, lambda: self._answered.get(self._place))
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._again),
            stop=patience.ended,
            wait=self._pause,
            sleep=self._sleep,
            before_sleep=self._note,
            reraise=True,
        )
        answers: list[Completion] = await retrying(attempt)
        return answers

    async def _once(self, request: Request) -> list[Completion]:
        if self.stop.event.is_set():
            raise Stopping
        self.in_flight += 1
        try:
            answers = await self.backend.complete(request)
        finally:
            self.in_flight -= 1
        if not answers:
            raise BackendError("transient", "the endpoint answered without any choice")
        return answers if len(answers) <= request.n else answers[: request.n]

    def _again(self, error: BaseException) -> bool:
        return isinstance(error, BackendError) and error.kind in RETRIED and not self.stop.event.is_set()

    @staticmethod
    def _pause(state: RetryCallState) -> float:
        error = _error(state)
        if isinstance(error, BackendError) and error.retry_after is not None:
            return error.retry_after
        longest = min(LONGEST_PAUSE_S, 0.25 * 2.0 ** (state.attempt_number - 1))
        return longest * random.uniform(0.5, 1.0)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.stop.event.wait(), seconds)
        except TimeoutError:
            return
        raise Stopping

    def _note(self, state: RetryCallState) -> None:
        self.meter.retries += 1
        error = _error(state)
        log.info("models.%s: asked again (attempt %d): %s", self.name, state.attempt_number + 1, error)
