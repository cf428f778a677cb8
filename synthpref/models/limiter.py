"""Where calls wait for a place at an endpoint: the law of models/limit.py and the caps of models/caps.py, with a
line before them, lowest priority number first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from math import inf
from types import TracebackType

from synthpref.core.errors import BackendError
from synthpref.models.caps import Caps, CountedTicket
from synthpref.models.limit import Limit

OVERLOADED = frozenset({408, 503, 529})
"""HTTP statuses, beside 429, by which an endpoint says that it has too much to do."""


class Slot(CountedTicket):
    """A place for one call, held while the block is inside it. Write what the call used into `used`.

    A BackendError that leaves the block is noted: refusals and time-outs lower the limit.
    """

    __slots__ = ("_limiter", "_priority", "_tokens")

    def __init__(self, limiter: Limiter, priority: int, tokens: Callable[[], float]) -> None:
        super().__init__()
        self._limiter, self._priority, self._tokens = limiter, priority, tokens

    async def __aenter__(self) -> Slot:
        limiter = self._limiter
        if limiter.waiting or not limiter.admit(self, self._tokens):
            await limiter.stand_in_line(self, self._priority, self._tokens)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limiter.leave(self, error)


class Limiter:
    """An endpoint's limits with calls waiting behind them. `stop`, once set, turns waiting calls away."""

    def __init__(
        self,
        limit: Limit,
        caps: Caps | None = None,
        stop: asyncio.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self.caps, self._stop, self._clock = limit, caps or Caps(), stop, clock
        self.waiting: list[tuple[int, int, Slot, Callable[[], float], asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def room(self) -> float:
        """Free places, less those that wait for one."""
        return self.limit.value - self.limit.in_flight - len(self.waiting)

    def slot(self, priority: int, tokens: Callable[[], float]) -> Slot:
        """`async with` it around a call. `tokens` says, when the call's turn has come, how many it may use."""
        return Slot(self, priority, tokens)

    def admit(self, slot: Slot, tokens: Callable[[], float]) -> bool:
        """Start the call if it may start now; else see to it that this is asked again when it may."""
        limit, caps = self.limit, self.caps
        if limit.in_flight >= limit.places:
            return False
        now = self._clock()
        pause = limit.paused_until - now
        if caps.any:
            expected = tokens() if caps.tpm is not None else 0.0
            pause = max(pause, caps.wait(now, expected))
            if pause <= 0:
                caps.start(now, slot, expected)
        if pause > 0:
            if pause < inf:
                self._later(pause)
            return False
        limit.start(now, slot)
        return True

    async def stand_in_line(self, slot: Slot, priority: int, tokens: Callable[[], float]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self.waiting, (priority, next(self._order), slot, tokens, future))
        if self._stop and self._watch is None:
            self._watch = asyncio.create_task(self._turn_away(self._stop))
        self._next()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                self._out(self._clock(), slot)
            raise

    def leave(self, slot: Slot, error: BaseException | None) -> None:
        limit, now = self.limit, self._clock()
        if error is None:
            limit.answered(now, slot)
        elif isinstance(error, BackendError):
            late = error.status == 408
            refused = (
                error.kind == "rate_limit" or error.status in OVERLOADED or error.retry_after is not None
            )
            if late or refused:
                limit.suffered(now, slot, refused=not late, retry_after=error.retry_after)
        self._out(now, slot)

    def _out(self, now: float, slot: Slot) -> None:
        self.limit.end(now, slot)
        if self.caps.any:
            self.caps.end(now, slot)
        if self.waiting:
            self._next()

    def _next(self) -> None:
        """Let in whoever may start now."""
        waiting = self.waiting
        while waiting:
            _, _, slot, tokens, future = waiting[0]
            if future.done():
                heapq.heappop(waiting)
            elif self.admit(slot, tokens):
                heapq.heappop(waiting)
                future.set_result(None)
            else:
                return

    def _later(self, pause: float) -> None:
        """Look again after a pause. One that was set for sooner comes first and sets the next."""
        loop = asyncio.get_running_loop()
        if self._timer is None or self._timer.when() > loop.time() + pause:
            if self._timer:
                self._timer.cancel()
            self._timer = loop.call_later(pause, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._next()

    async def _turn_away(self, stop: asyncio.Event) -> None:
        await stop.wait()
        for *_, future in self.waiting:
            if not future.done():
                # Of a kind for which the engine leaves the row for the next start, instead of rejecting it.
                future.set_exception(BackendError("rate_limit", "the run is stopping"))
        self.waiting.clear()

    def close(self) -> None:
        for waker in (self._timer, self._watch):
            if waker:
                waker.cancel()
