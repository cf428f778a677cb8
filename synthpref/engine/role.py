"""A model role in use: asks with retries, says when a failure ends the row or the run, and counts what it cost."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from synthpref.core.errors import RETRIED, BackendError, StageError
from synthpref.core.seam import Backend, Completion, ModelSpec, Request
from synthpref.core.tokens import counted, prompt_tokens_of
from synthpref.core.types import Usage
from synthpref.engine.budget import Budget, Hold
from synthpref.engine.kept import is_ours, kept_completions

RATE_LIMIT_PATIENCE_S = 1800.0
"""How long one call may get "too many requests", or be asked to wait, before the run stops."""
OUTAGE_PATIENCE_S = 600.0
"""How long an endpoint that has answered before may be away before the run stops."""
AWAY = (None, 502, 503, 504)
"""What an endpoint that is away says through what stands before it: a broken connection, or that it is not there."""
MAYBE_AWAY = (424, 499, 500, *range(520, 525), 529)
"""What an endpoint that is away may say, too; but so does one that breaks down over a single prompt. It is away when the
calls of several rows fail so, and none is answered."""
UNREADABLE_RETRIES = 2
"""How often a call is asked again whose answer came, was paid for, and cannot be read."""
UNREADABLE_TOKENS = 400
"""What such an answer is taken to have used, where nothing is known of the role's answers."""
LONGEST_RETRY_AFTER_S = 60.0
"""The longest wait that an endpoint that is away can ask for: it may be back earlier."""
SHOWN_FROM_S = 5.0
"""A wait from so many seconds on is shown."""
REFUSALS: Mapping[str, tuple[int, int, int]] = {
    "auth": (1, 3, 8),
    "not_found": (1, 3, 8),
    "unsupported": (1, 3, 8),
    "unreadable": (3, 3, 32),
    "bad_request": (8, 8, 32),
}
"""After so many rows that were refused in the same way, one after another, it is the role that is refused: of a role
that never answered, of one that answered in an earlier start only, and of one that answered in this start."""
SHOWN = 80
"""Characters of a failure that the console shows while it is waited for."""
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
    live: Usage = field(default_factory=Usage)
    """Of it, what a role that asks in batches asked for live."""
    estimated: int = 0
    """Answers whose tokens the endpoint did not count, so that they were estimated from the texts."""
    retries: int = 0

    def add(self, usage: Usage, answers: int) -> None:
        """Count what a call used."""
        self.usage += usage
        if usage.live:
            self.live += usage
        if usage.estimated:
            self.estimated += answers


@dataclass
class Stop:
    """Why the run ends early, once it does."""

    reason: str = ""
    failed: bool = False
    event: asyncio.Event = field(default_factory=asyncio.Event)
    then: list[Callable[[], None]] = field(default_factory=list)
    """What is done at once when the run stops."""

    def now(self, reason: str, failed: bool = False) -> None:
        """Stop. The first reason stays."""
        if not self.event.is_set():
            self.reason, self.failed = reason, failed
            self.event.set()
            for do in self.then:
                do()


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


class Patience:
    """When a call that keeps failing is given up. Time counts from the first failure of a kind, not from the
    call's start, which may have waited long for its turn.

    `answered` says when the endpoint last answered anybody, None for never. If that was before the failure that
    came before this one, it is the endpoint that fails and not the row. `several` says whether calls of several rows
    have failed since.
    """

    def __init__(
        self, retries: int, answered: Callable[[], float | None], several: Callable[[], bool] = lambda: False
    ) -> None:
        self._retries, self._answered, self._several = retries, answered, several
        self._since: dict[str, float] = {}
        self._failures, self._unread, self._last = 0, 0, 0.0
        self.left_s: float | None = None
        """For how many seconds more the call is tried, where that hangs on the time."""

    def ended(self, state: RetryCallState) -> bool:
        error = _error(state)
        if not isinstance(error, BackendError):
            return True
        now, answered = time.monotonic(), self._answered()
        since = self._since.setdefault(error.kind, now)
        waited = now - since + pause_for(error)
        self.left_s = None
        if error.kind == "unreadable":
            self._unread += 1
            return self._unread > min(self._retries, UNREADABLE_RETRIES)
        if error.kind == "transient":
            self._failures += 1
            silent = answered is not None and answered <= self._last
            away = error.status in AWAY or (error.status in MAYBE_AWAY and self._several())
            self._last = now
            if self._failures <= self._retries:
                return False
            self.left_s = OUTAGE_PATIENCE_S - waited
            return not (silent and away and waited <= OUTAGE_PATIENCE_S)
        if error.kind == "rate_limit":
            self.left_s = RATE_LIMIT_PATIENCE_S - waited
            return waited > RATE_LIMIT_PATIENCE_S
        if answered is not None:
            self.left_s = OUTAGE_PATIENCE_S - waited
            return waited > OUTAGE_PATIENCE_S
        return state.attempt_number >= FIRST_CONTACT_TRIES


def pause_for(error: BackendError) -> float:
    """How long the endpoint wants to be left alone, as far as that is heeded: a limit on requests is, whole."""
    asked = error.retry_after or 0.0
    return asked if error.kind == "rate_limit" else min(asked, LONGEST_RETRY_AFTER_S)


class Role:
    """An open model role: asks with retries, and counts."""

    def __init__(
        self,
        name: str,
        spec: ModelSpec,
        backend: Backend,
        stop: Stop,
        last_answers: dict[str, float],
        *,
        answered: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self.name, self.spec, self.backend, self.stop, self.budget = name, spec, backend, stop, budget
        self.identity = spec.identity()
        self.able = spec.able()
        self.meter = Meter()
        self.in_flight = 0
        self.asking = 0
        """Calls under way, those between two tries too."""
        self.waiting = 0
        """Calls that wait until there is room in the budget."""
        self.unreadable = Usage()
        """What answers that could not be read have used, about; whoever writes into the journal takes it."""
        self._written = 0
        """Tokens of the answers that could be read."""
        # By place, because roles at one endpoint share its outages.
        self._answered, self._place = last_answers, spec.place()
        self.answered = answered
        """Whether it has answered anything, in this start or an earlier one."""
        self._refused: dict[tuple[str, int | None], set[str]] = {}
        """Rows that were refused since it last answered, by kind and status."""
        self._refusal = ""
        self._failing: set[str] = set()
        """Rows with a call that failed since it last answered."""
        self._waiting: dict[int, str] = {}

    @property
    def cost(self) -> float | None:
        usage = self.meter.usage
        return self.spec.cost(usage.prompt_tokens, usage.completion_tokens, self.meter.live)

    def waits_for(self) -> str:
        """What the backend says it waits for, or what failed and until when it is tried, where that takes long; or how
        many calls the budget holds back."""
        said = getattr(self.backend, "waits_for", None)
        budget = f"{self.waiting:,} calls wait for room in the budget" if self.waiting else ""
        return (said() if said else "") or next(iter(self._waiting.values()), "") or budget

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

    async def fetch(self, request: Request, row: str = "", stage: str = "") -> list[Completion]:
        """At least one and at most `request.n` answers, asked with retries; `row` is whose request it is, and `stage`
        where it is made. The first one has the usage of all, estimated where the endpoint did not count it.

        Raises BackendError when it is the request's fault or the retries are used up, and Stopping when the run
        ends first.
        """
        if self.budget is None:
            return await self._fetch(request, row, None)
        self.waiting += 1
        try:
            # Not among the calls that are asked: who waits until all of those wait would wait for this one.
            hold = await self.budget.hold(self.name, stage, self.spec, request)
        finally:
            self.waiting -= 1
        if hold is None:
            raise Stopping
        try:
            return await self._fetch(request, row, hold)
        finally:
            self.budget.release(hold)

    async def _fetch(self, request: Request, row: str, hold: Hold | None) -> list[Completion]:
        self.asking += 1
        try:
            try:
                answers = await self._once(request, hold)
            except BackendError as error:
                answers = await self._insist(request, error, row, hold)
        except BackendError as error:
            self._blame(error, row)
            raise
        finally:
            self.asking -= 1
        self._answered[self._place] = time.monotonic()
        self.answered = True
        if self._refused or self._failing:
            self._refused.clear()
            self._failing.clear()
        self.meter.requests += 1
        self.meter.completions += len(answers)
        answers, usage = counted(request, answers)
        self.meter.add(usage, len(answers))
        self._written += usage.completion_tokens
        if hold and self.budget:
            self.budget.used(hold, len(answers), usage)
        return answers

    def _blame(self, error: BackendError, row: str) -> None:
        """Raise Stopping, and stop the run, where a failure is the role's and not the request's."""
        failed = True
        if error.kind in ("unreachable", "rate_limit"):
            failed = self._place not in self._answered
        elif error.kind != "payment":
            if error.kind not in REFUSALS:
                return
            most = REFUSALS[error.kind][2 if self.meter.requests else 1 if self.answered else 0]
            rows = self._refused.setdefault((error.kind, error.status), set())
            rows.add(row)
            self._refusal = f"models.{self.name}: {error}"
            if len(rows) < most:
                return
        self.stop.now(f"models.{self.name}: {error}", failed=failed)
        raise Stopping from error

    def check_refused(self) -> None:
        """Stop the run where the role never answered, and refused the few rows that there are."""
        if self._refused and not self.answered:
            self.stop.now(self._refusal, failed=True)

    async def _insist(
        self, request: Request, error: BackendError, row: str, hold: Hold | None
    ) -> list[Completion]:
        """Ask again after a first failure. Only here, because what retries need costs more than the call."""
        first = iter([error])

        async def attempt() -> list[Completion]:
            for failure in first:
                raise failure
            return await self._once(request, hold)

        patience = Patience(
            self.spec.retries, lambda: self._answered.get(self._place), lambda: len(self._failing) > 1
        )

        def before_sleep(state: RetryCallState) -> None:
            self._note(state, patience, row)

        retrying = AsyncRetrying(
            retry=retry_if_exception(self._again),
            stop=patience.ended,
            wait=self._pause,
            sleep=self._sleep,
            before_sleep=before_sleep,
            reraise=True,
        )
        try:
            answers: list[Completion] = await retrying(attempt)
        finally:
            self._waiting.pop(id(patience), None)
        return answers

    async def _once(self, request: Request, hold: Hold | None) -> list[Completion]:
        if hold and self.budget and not hold.open:
            # An answer that could not be read has used up what was reserved.
            self.asking -= 1
            try:
                await self.budget.take(hold)
            finally:
                self.asking += 1
        if self.stop.event.is_set():
            raise Stopping
        self.in_flight += 1
        try:
            answers = await self.backend.complete(request)
        except BackendError as error:
            if error.kind == "unreadable":
                self._book_unreadable(request, hold)
            raise
        finally:
            self.in_flight -= 1
        if not is_ours(self.spec):
            try:
                answers = kept_completions(list(answers))
            except StageError as error:
                message = f"the backend {self.spec.backend!r} gave an answer in which {error}"
                raise BackendError("unreadable", message, status=200) from error
        if not answers:
            raise BackendError("unreadable", "the endpoint answered without any choice", status=200)
        return answers if len(answers) <= request.n else answers[: request.n]

    def _book_unreadable(self, request: Request, hold: Hold | None) -> None:
        """Count an answer that came, and most likely has to be paid for: as long as others of the role were."""
        prompt, each = prompt_tokens_of(request.messages), 0.0
        if request.kind == "chat":
            mean = self._written / self.meter.completions if self.meter.completions else 0
            each = min(mean or UNREADABLE_TOKENS, request.max_tokens or inf)
        usage = Usage(prompt, round(each * request.n), estimated=True)
        self.meter.add(usage, 0)
        self.unreadable += usage
        if hold and self.budget:
            self.budget.lost(hold, usage)

    def _again(self, error: BaseException) -> bool:
        return isinstance(error, BackendError) and error.kind in RETRIED and not self.stop.event.is_set()

    @staticmethod
    def _pause(state: RetryCallState) -> float:
        error = _error(state)
        if isinstance(error, BackendError) and error.retry_after is not None:
            return pause_for(error)
        longest = min(LONGEST_PAUSE_S, 0.25 * 2.0 ** (state.attempt_number - 1))
        return longest * random.uniform(0.5, 1.0)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.stop.event.wait(), seconds)
        except TimeoutError:
            return
        raise Stopping

    def _note(self, state: RetryCallState, patience: Patience, row: str) -> None:
        self.meter.retries += 1
        error = _error(state)
        if isinstance(error, BackendError) and error.kind == "transient":
            self._failing.add(row)
        log.info("models.%s: asked again (attempt %d): %s", self.name, state.attempt_number + 1, error)
        pause = state.next_action.sleep if state.next_action else 0.0
        passing = patience.left_s is None or (isinstance(error, BackendError) and error.kind == "rate_limit")
        if passing and pause < SHOWN_FROM_S:
            return
        now = time.time()
        times = f"tried again at {time.strftime('%H:%M:%S', time.localtime(now + pause))}"
        if patience.left_s is not None:
            times += f", until {time.strftime('%H:%M:%S', time.localtime(now + patience.left_s))}"
        said = " ".join(error.message.split())[:SHOWN] if isinstance(error, BackendError) else ""
        self._waiting[id(patience)] = f"{said}; {times}"
