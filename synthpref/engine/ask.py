"""What stands between a stage and a model: the call key, the look-up in the journal, retries, the budget.

The key of an answer is (row id, hash of all that can change it, ordinal): the hash covers the model's
identity, the effective parameters, the messages, the response format and the run's seed; the ordinal counts
the equal requests of the row. Neither n nor anything NEUTRAL is in it, so n = 8 raised to 16 buys eight.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from synthpref.core.errors import FATAL, RETRIED, BackendError
from synthpref.core.seam import Backend, Completion, ModelInfo, ModelSpec, Request, RequestAsk
from synthpref.core.template import Prompts
from synthpref.core.types import Message, Usage
from synthpref.engine.journal import Journal, Key

RATE_LIMIT_PATIENCE_S = 1800.0
"""How long one call may be told "too many requests", or is told to wait, before the run stops."""
OUTAGE_PATIENCE_S = 600.0
"""How long an endpoint that has answered before may be away before the run stops."""
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


def call_key(identity: Mapping[str, Any], request: Request, seed: int, salt: int = 0) -> bytes:
    """The hash of all that can change an answer to the request. `salt` tells apart stages of one kind that
    stand on two sides of a barrier."""
    what = {
        "model": identity,
        "kind": request.kind,
        "messages": request.messages,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "stop": request.stop,
        "logprobs": request.logprobs,
        "response_format": request.response_format,
        "seed": seed,
        "salt": salt,
    }
    return hashlib.sha256(orjson.dumps(what, option=orjson.OPT_SORT_KEYS)).digest()[:16]


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


class _Patience:
    """When a call that keeps failing is given up. Time counts from the first failure of a kind, not from the
    call's start, which may have waited long for its turn."""

    def __init__(self, retries: int, answered: Callable[[], bool]) -> None:
        self._retries, self._answered = retries, answered
        self._since: dict[str, float] = {}

    def ended(self, state: RetryCallState) -> bool:
        error = _error(state)
        if not isinstance(error, BackendError) or error.kind == "transient":
            return state.attempt_number > self._retries
        now = time.monotonic()
        waited = now - self._since.setdefault(error.kind, now) + (error.retry_after or 0.0)
        if error.kind == "rate_limit":
            return waited > RATE_LIMIT_PATIENCE_S
        if self._answered():
            return waited > OUTAGE_PATIENCE_S
        return state.attempt_number >= FIRST_CONTACT_TRIES


class Role:
    """An open model role: asks with retries, and counts."""

    def __init__(self, name: str, spec: ModelSpec, backend: Backend, stop: Stop) -> None:
        self.name, self.spec, self.backend, self.stop = name, spec, backend, stop
        self.identity = spec.identity()
        self.able = spec.able()
        self.meter = Meter()
        self.in_flight = 0
        self._answered = False

    @property
    def cost(self) -> float | None:
        return self.spec.price.cost(self.meter.usage) if self.spec.price else None

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
        patience = _Patience(self.spec.retries, lambda: self._answered)
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._again),
            stop=patience.ended,
            wait=self._pause,
            sleep=self._sleep,
            before_sleep=self._note,
            reraise=True,
        )
        try:
            answers: list[Completion] = await retrying(self._once, request)
        except BackendError as error:
            if error.kind in FATAL or error.kind in ("unreachable", "rate_limit"):
                failed = error.kind in FATAL or not self._answered
                self.stop.now(f"models.{self.name}: {error}", failed=failed)
                raise Stopping from error
            raise
        self._answered = True
        self.meter.requests += 1
        self.meter.completions += len(answers)
        self.meter.usage = sum((a.usage for a in answers if a.usage), self.meter.usage)
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
        return answers[: request.n]

    def _again(self, error: BaseException) -> bool:
        return isinstance(error, BackendError) and error.kind in RETRIED and not self.stop.event.is_set()

    @staticmethod
    def _pause(state: RetryCallState) -> float:
        error = _error(state)
        if isinstance(error, BackendError) and error.retry_after is not None:
            return error.retry_after
        longest = min(30.0, 0.25 * 2.0 ** (state.attempt_number - 1))
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


class Models:
    """The open roles of a run, opened at first use, and what they all share."""

    def __init__(
        self, specs: Mapping[str, ModelSpec], journal: Journal, prompts: Prompts, seed: int, stop: Stop
    ) -> None:
        self.specs, self.journal, self.prompts, self.seed, self.stop = specs, journal, prompts, seed, stop
        self.roles: dict[str, Role] = {}
        self.on_answer: Callable[[Role], None] = lambda role: None
        self._shared: dict[str, Any] = {"stop": stop.event}
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def role(self, name: str) -> Role:
        if name not in self.roles:
            spec = self.specs[name]
            self.roles[name] = Role(name, spec, spec.open(self._shared), self.stop)
        return self.roles[name]

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Around a call: `drained` waits for the last one to leave."""
        self._busy += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    async def drained(self) -> None:
        """Wait until no call is under way. A row that failed may have left others of its calls behind."""
        await self._idle.wait()

    async def aclose(self) -> None:
        async with AsyncExitStack() as stack:
            for role in self.roles.values():
                stack.push_async_callback(role.backend.aclose)


class Walk:
    """One row on its way through a segment: its answers so far, and how often it asked the same."""

    def __init__(self, models: Models, row_id: str, priority: int) -> None:
        self.row_id, self.priority = row_id, priority
        self.kept: dict[Key, Completion] = models.journal.answers(row_id)
        self._asked: dict[bytes, int] = {}

    def take(self, key: bytes, n: int) -> range:
        """The ordinals of the next n equal requests."""
        first = self._asked.get(key, 0)
        self._asked[key] = first + n
        return range(first, first + n)


class RowAsk(RequestAsk):
    """The Ask of one row in one stage. See core.seam.Ask."""

    def __init__(self, models: Models, walk: Walk, stage: str, salt: int) -> None:
        self._models, self._walk, self._stage, self._salt = models, walk, stage, salt
        self.rng = random.Random(f"{models.seed}|{walk.row_id}|{stage}")

    def prompt(self, name: str, **values: Any) -> list[Message]:
        return self._models.prompts.render(name, values)

    def info(self, model: str) -> ModelInfo:
        spec = self._models.specs[model]
        params = {"temperature": spec.temperature, "top_p": spec.top_p, "max_tokens": spec.max_tokens}
        return ModelInfo(spec.model, {k: v for k, v in params.items() if v is not None}, spec.able())

    async def _send(self, model: str, request: Request) -> list[Completion]:
        role, walk = self._models.role(model), self._walk
        if request.kind == "chat":
            request = role.with_defaults(request)
        key = call_key(role.identity, request, self._models.seed, self._salt)
        ordinals = walk.take(key, request.n)
        missing = [i for i in ordinals if (key, i) not in walk.kept]
        role.meter.replayed += len(ordinals) - len(missing)
        if missing:
            with self._models.busy():
                await self._buy_all(role, request, key, missing)
        return [walk.kept[key, i] for i in ordinals]

    async def _buy_all(self, role: Role, request: Request, key: bytes, missing: list[int]) -> None:
        """Ask for the missing ordinals: together, or one by one where the role cannot do n. Every answer that
        comes is kept, also where another one fails; then the failure is raised."""
        together = "n" in role.able
        groups = [missing] if together else [[ordinal] for ordinal in missing]
        made = await asyncio.gather(
            *(self._buy(role, request, key, group) for group in groups), return_exceptions=True
        )
        failures = [error for error in made if error is not None]
        if failures:
            raise next((error for error in failures if isinstance(error, Stopping)), failures[0])

    async def _buy(self, role: Role, request: Request, key: bytes, missing: list[int]) -> None:
        walk = self._walk
        base = _seed(walk.row_id, key)
        while missing:
            count = next((i for i, n in enumerate(missing) if n != missing[0] + i), len(missing))
            seeded = replace(request, n=count, seed=base + missing[0], priority=walk.priority)
            got = await role.fetch(seeded)
            answers = [replace(answer, seed=base + n) for n, answer in zip(missing, got, strict=False)]
            self._models.journal.put(
                walk.row_id, key, missing[0], role.name, self._stage, role.spec.model, request, answers
            )
            walk.kept.update(((key, n), answer) for n, answer in zip(missing, answers, strict=False))
            missing = missing[len(answers) :]
            self._models.on_answer(role)


def _seed(row_id: str, key: bytes) -> int:
    return int.from_bytes(hashlib.sha256(row_id.encode() + key).digest()[:4], "big") >> 2
