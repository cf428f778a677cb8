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
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import orjson
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from synthpref.core.errors import FATAL, RETRIED, BackendError
from synthpref.core.seam import Backend, Completion, ModelInfo, ModelSpec, Request, RequestAsk
from synthpref.core.template import Prompts
from synthpref.core.types import Message, Usage
from synthpref.engine.journal import Journal
from synthpref.engine.records import Key

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
        # By place, because roles at one endpoint share its outages.
        self._answered, self._place = answered, spec.place()

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

        patience = _Patience(self.spec.retries, lambda: self._answered.get(self._place))
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


class Models:
    """The open roles of a run, opened at first use, and what they all share."""

    def __init__(
        self, specs: Mapping[str, ModelSpec], journal: Journal, prompts: Prompts, seed: int, stop: Stop
    ) -> None:
        self.specs, self.journal, self.prompts, self.seed, self.stop = specs, journal, prompts, seed, stop
        self.roles: dict[str, Role] = {}
        self.on_answer: Callable[[], None] | None = None
        self._shared: dict[str, Any] = {"stop": stop.event}
        self._answered: dict[str, float] = {}
        self._infos: dict[str, ModelInfo] = {}
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def role(self, name: str) -> Role:
        if name not in self.roles:
            spec = self.specs[name]
            self.roles[name] = Role(name, spec, spec.open(self._shared), self.stop, self._answered)
        return self.roles[name]

    def info(self, name: str) -> ModelInfo:
        if name not in self._infos:
            spec = self.specs[name]
            params = {"temperature": spec.temperature, "top_p": spec.top_p, "max_tokens": spec.max_tokens}
            given = {k: v for k, v in params.items() if v is not None}
            self._infos[name] = ModelInfo(spec.model, given, spec.able())
        return self._infos[name]

    def enter(self) -> None:
        """A call begins; `drained` waits for the last one to leave."""
        self._busy += 1
        self._idle.clear()

    def leave(self) -> None:
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
        self.told = {key for key, _ in self.kept}
        """Keys whose request the journal has already."""
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

    @cached_property
    def rng(self) -> random.Random:
        # Made when it is first used, because seeding is slow.
        return random.Random(f"{self._models.seed}|{self._walk.row_id}|{self._stage}")

    def prompt(self, name: str, **values: Any) -> list[Message]:
        return self._models.prompts.render(name, values)

    def info(self, model: str) -> ModelInfo:
        return self._models.info(model)

    async def _send(self, model: str, request: Request) -> list[Completion]:
        role, walk = self._models.role(model), self._walk
        if request.kind == "chat":
            request = role.with_defaults(request)
        key = call_key(role.identity, request, self._models.seed, self._salt)
        ordinals = walk.take(key, request.n)
        missing = [i for i in ordinals if (key, i) not in walk.kept]
        role.meter.replayed += len(ordinals) - len(missing)
        if missing:
            self._models.enter()
            try:
                if len(missing) == 1 or "n" in role.able:
                    await self._buy(role, request, key, missing)
                else:
                    await self._buy_singly(role, request, key, missing)
            finally:
                self._models.leave()
        return [walk.kept[key, i] for i in ordinals]

    async def _buy_singly(self, role: Role, request: Request, key: bytes, missing: list[int]) -> None:
        """Ask for the missing ordinals one by one, at once. Every answer that comes is kept, also where another
        one fails; then the failure is raised."""
        buying = (self._buy(role, request, key, [ordinal]) for ordinal in missing)
        made = await asyncio.gather(*buying, return_exceptions=True)
        failures = [error for error in made if error is not None]
        if failures:
            raise next((error for error in failures if isinstance(error, Stopping)), failures[0])

    async def _buy(self, role: Role, request: Request, key: bytes, missing: list[int]) -> None:
        walk, models = self._walk, self._models
        base = seed_of(walk.row_id, key)
        while missing:
            count = next((i for i, n in enumerate(missing) if n != missing[0] + i), len(missing))
            seeded = replace(request, n=count, seed=base + missing[0], priority=walk.priority)
            answers = await role.fetch(seeded)
            for i, answer in enumerate(answers):
                if answer.seed != base + missing[i]:
                    answers[i] = replace(answer, seed=base + missing[i])
                walk.kept[key, missing[i]] = answers[i]
            asked = None if key in walk.told else request
            walk.told.add(key)
            models.journal.put(
                walk.row_id, key, missing[0], role.name, self._stage, role.spec.model, asked, answers
            )
            missing = missing[len(answers) :]
            if models.on_answer:
                models.on_answer()


def seed_of(row_id: str, key: bytes) -> int:
    """The seed of a request's first answer; answer i has seed i more."""
    return int.from_bytes(hashlib.sha256(row_id.encode() + key).digest()[:4], "big") >> 2
