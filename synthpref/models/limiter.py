"""How many calls an endpoint gets at once: found by trying, lowered when it suffers, kept within RPM and TPM.

`Limit` is the law, with time handed in, so that it can be tested without a clock. `Limiter` puts waiting calls
behind it, lowest priority number first.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from synthpref.core.errors import BackendError

WINDOW_S = 60.0
START = 16.0
BREATH_S = 0.25
"""Pause after a refusal that does not say how long to wait."""
CUT = 0.8
STEP = 1.25
"""How far a probe goes beyond the limit that is known to serve; twice as far until the first that did not."""
WORTH = 0.3
"""The share of a probe's extra calls that must come back as extra throughput, for the probe to be kept."""
JUDGED_BY = 16
"""Fewest answers by which a limit is judged."""
REST = 8
"""Judgements between a probe that was not kept and the next."""
CEILING_REST = 40
"""Judgements for which a limit that was refused is not tried again."""


@dataclass
class Limit:
    """The law of one endpoint's limit. Times are in seconds, from any fixed start.

    It climbs by probes. A limit L that is in use, with a mean latency R, serves L / R calls a second (Little's
    law), so two limits are compared by their latencies alone: a probe is kept when throughput grew with it, and
    taken back when only latency did, as with vLLM, which queues and never says 429. A refusal or a time-out cuts
    the limit, once for all calls that were under way, and its neighbourhood is left alone for a while.
    """

    most: int = 256
    rpm: int | None = None
    tpm: int | None = None
    value: float = START
    in_flight: int = 0
    paused_until: float = 0.0
    _starting: bool = True
    _known: tuple[float, float] | None = None
    """(limit, mean latency) of the best limit known to serve."""
    _since: float = float("-inf")
    _latencies: list[float] = field(default_factory=list)
    _rest: int = 0
    _cut_at: float = float("-inf")
    _ceiling: float = float("inf")
    _ceiling_rest: int = 0
    _admitted: deque[list[float]] = field(default_factory=deque)
    _tokens: float = 0.0

    def __post_init__(self) -> None:
        self.value = min(self.value, self.most)

    # ---- admission

    def wait(self, now: float, tokens: float) -> float | None:
        """Seconds until a call of so many tokens may start: 0 at once; None when a call has to end first."""
        self._forget(now)
        if self.in_flight >= int(self.value):
            return None
        until = self.paused_until
        if self.rpm is not None and len(self._admitted) >= self.rpm:
            until = max(until, self._admitted[-self.rpm][0] + WINDOW_S)
        if self.tpm is not None and self._admitted and self._tokens + tokens > self.tpm:
            until = max(until, self._free_at(self._tokens + tokens - self.tpm) + WINDOW_S)
        return max(0.0, until - now)

    def _free_at(self, excess: float) -> float:
        """When the calls started that have to leave the window, so that it holds `excess` tokens less."""
        for started, used in self._admitted:
            excess -= used
            if excess <= 0:
                return started
        return self._admitted[-1][0]

    def start(self, now: float, tokens: float) -> list[float]:
        """A call starts; hand the ticket back to `end`."""
        self.in_flight += 1
        ticket = [now, tokens]
        if self.rpm is not None or self.tpm is not None:
            self._admitted.append(ticket)
            self._tokens += tokens
        return ticket

    def _forget(self, now: float) -> None:
        while self._admitted and self._admitted[0][0] + WINDOW_S <= now:
            self._tokens -= self._admitted.popleft()[1]

    # ---- feedback

    def end(self, now: float, ticket: list[float], tokens: float | None = None) -> None:
        """A call ended, with `tokens` used where the endpoint counted them."""
        self.in_flight -= 1
        if tokens is not None and self.tpm is not None and ticket[0] + WINDOW_S > now:
            self._tokens += tokens - ticket[1]
            ticket[1] = tokens

    def answered(self, now: float, ticket: list[float]) -> None:
        """A call was answered well. Only calls that started at this limit, while it was in use, judge it."""
        if ticket[0] >= self._since and self.in_flight >= int(self.value):
            self._latencies.append(now - ticket[0])
            if len(self._latencies) >= max(JUDGED_BY, int(self.value)):
                self._judge(now, sum(self._latencies) / len(self._latencies))

    def suffered(self, now: float, ticket: list[float], retry_after: float | None = None) -> None:
        """The endpoint said "too many", or did not answer in time."""
        if retry_after is not None:
            self.paused_until = max(self.paused_until, now + retry_after)
        if ticket[0] < self._cut_at:
            return
        self.paused_until = max(self.paused_until, now + BREATH_S)
        self._ceiling, self._ceiling_rest = self.value, CEILING_REST
        served = self._known[0] if self._known else self.value
        self._starting, self._cut_at, self._known = False, now, None
        self._go(now, max(1.0, min(self.value * CUT, served)))

    def _go(self, now: float, limit: float) -> None:
        self.value = min(limit, self.most)
        self._since = now
        self._latencies = []

    def _judge(self, now: float, latency: float) -> None:
        if self._known and self.value > self._known[0]:
            limit, before = self._known
            gain = (self.value / latency) / (limit / before)
            if gain < 1 + WORTH * (self.value / limit - 1):
                self._starting, self._rest = False, REST
                self._go(now, limit)
                return
        else:
            self._rest -= 1
            self._ceiling_rest -= 1
            if self._ceiling_rest <= 0:
                self._ceiling = float("inf")
        self._known = (self.value, latency)
        beyond = self.value * (2 if self._starting else STEP)
        beyond = min(beyond, max(self.value, 0.95 * self._ceiling))
        self._go(now, beyond if self._rest <= 0 else self.value)


class Limiter:
    """A `Limit` with calls waiting behind it. `stop`, once set, turns waiting calls away."""

    def __init__(self, limit: Limit, stop: asyncio.Event | None = None) -> None:
        self.limit = limit
        self._stop = stop
        self._waiting: list[tuple[int, int, float, asyncio.Future[list[float]]]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def room(self) -> float:
        """Free places, less those that wait for one."""
        return self.limit.value - self.limit.in_flight - len(self._waiting)

    @asynccontextmanager
    async def slot(self, priority: int, tokens: float) -> AsyncIterator[list[float]]:
        """A place for one call; put the tokens really used into the ticket's second item before leaving.

        A BackendError that leaves the block is noted: rate limits and time-outs lower the limit.
        """
        ticket = await self._place(priority, tokens)
        used = [ticket[0], tokens]
        try:
            yield used
        except BackendError as error:
            now = time.monotonic()
            if error.kind == "rate_limit" or error.status == 408 or error.retry_after is not None:
                self.limit.suffered(now, ticket, error.retry_after)
            raise
        else:
            self.limit.answered(time.monotonic(), ticket)
        finally:
            self.limit.end(time.monotonic(), ticket, used[1])
            self._admit()

    async def _place(self, priority: int, tokens: float) -> list[float]:
        now = time.monotonic()
        if not self._waiting and self.limit.wait(now, tokens) == 0:
            return self.limit.start(now, tokens)
        future: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._order), tokens, future))
        if self._stop and self._watch is None:
            self._watch = asyncio.create_task(self._turn_away(self._stop))
        self._admit()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                self.limit.end(time.monotonic(), future.result())
                self._admit()
            raise

    def _admit(self) -> None:
        """Let in whoever may start now, and look again when the next may."""
        while self._waiting:
            tokens, future = self._waiting[0][2:]
            now = time.monotonic()
            pause = 0.0 if future.done() else self.limit.wait(now, tokens)
            if pause != 0:
                self._later(pause)
                return
            heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(self.limit.start(now, tokens))

    def _later(self, pause: float | None) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if pause is not None:
            self._timer = asyncio.get_running_loop().call_later(pause, self._admit)

    async def _turn_away(self, stop: asyncio.Event) -> None:
        await stop.wait()
        for *_, future in self._waiting:
            if not future.done():
                # Of a kind for which the engine leaves the row for the next start, instead of rejecting it.
                future.set_exception(BackendError("rate_limit", "the run is stopping"))
        self._waiting.clear()

    def close(self) -> None:
        self._later(None)
        if self._watch:
            self._watch.cancel()
