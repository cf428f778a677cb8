"""Model servers in virtual time, each with a way of its own to be full, and clients that always want more."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import virtual_time
from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request
from synthpref.core.types import Usage
from synthpref.models.caps import Caps
from synthpref.models.limit import Limit
from synthpref.models.limiter import Limiter
from synthpref.models.pool import Endpoint, Pool

REFUSAL_S = 0.002
"""What a server needs to say no."""

Work = Callable[[random.Random], float]


def lognormal(mean: float, sigma: float = 0.4, slow_share: float = 0.0, slow_factor: float = 50.0) -> Work:
    """Answers of mixed lengths; a share of them may be many times as long."""

    def draw(rng: random.Random) -> float:
        slow = slow_factor if slow_share and rng.random() < slow_share else 1.0
        return mean * slow * rng.lognormvariate(-sigma * sigma / 2, sigma)

    return draw


class Server:
    """A batch of at most `slots` answers, the others in line. With `k` in the batch each one's work goes on at
    1 / slowness(k); slots that do not touch each other have a slowness of 1."""

    def __init__(
        self,
        slots: int,
        work: Work,
        slowness: Callable[[int], float] = lambda k: 1.0,
        *,
        refuses: bool = False,
        retry_after: float | None = None,
        way: Callable[[random.Random], float] | None = None,
        seed: int = 0,
    ) -> None:
        self.slots, self.work, self.slowness, self.way = slots, work, slowness, way
        self.refuses, self.retry_after = refuses, retry_after
        self.down = False
        """Whether it refuses everything."""
        self.rng = random.Random(seed)
        self.arrived: list[float] = []
        self.answered: list[float] = []
        self.refused: list[float] = []
        self.most = 0
        self._line: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._batch: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._done, self._worked, self._at = 0.0, 0.0, 0.0
        self._timer: asyncio.TimerHandle | None = None

    # ---- the seam

    async def complete(self, request: Request) -> list[Completion]:
        loop = asyncio.get_running_loop()
        if self.way:
            await asyncio.sleep(self.way(self.rng))
        self.arrived.append(loop.time())
        if self.down or (self.refuses and len(self._batch) >= self.slots) or self.over(loop.time()):
            self.refused.append(loop.time())
            await asyncio.sleep(REFUSAL_S)
            raise BackendError("rate_limit", "too many requests", status=429, retry_after=self.retry_after)
        work, future = self.work(self.rng), loop.create_future()
        self._line.append((work, future))
        self.most = max(self.most, len(self._line) + len(self._batch))
        self._turn()
        arrived = loop.time()
        await future
        self.answered.append(loop.time())
        answer = self.answer(arrived, work)
        if self.way:
            await asyncio.sleep(self.way(self.rng))
        return [answer]

    def answer(self, arrived: float, work: float) -> Completion:
        return Completion(text="x")

    def over(self, now: float) -> bool:
        """Whether a cap of the server's own refuses a request."""
        return False

    async def aclose(self) -> None:
        return None

    # ---- the batch

    def worked(self) -> float:
        """The work done so far. Of how much it says more than the number of answers, which are of all lengths."""
        self._turn()
        return self._worked

    def best(self) -> float:
        """The most work that it can do in a second."""
        return max(k / self.slowness(k) for k in range(1, self.slots + 1))

    def _turn(self) -> None:
        """Bring the work up to now, let in who fits, and wait for who is through next."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._batch:
            done = (now - self._at) / self.slowness(len(self._batch))
            self._done += done
            self._worked += done * len(self._batch)
        self._at = now
        while self._batch and (self._batch[0][0] <= self._done + 1e-9 or self._batch[0][2].cancelled()):
            future = heapq.heappop(self._batch)[2]
            if not future.done():
                future.set_result(None)
        while self._line and len(self._batch) < self.slots:
            work, future = self._line.popleft()
            if not future.cancelled():
                heapq.heappush(self._batch, (self._done + work, next(self._order), future))
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._batch:
            left = (self._batch[0][0] - self._done) * self.slowness(len(self._batch))
            self._timer = loop.call_later(max(left, 0.0), self._turn)


class Counting(Server):
    """A server that tells what each answer used, and counts it at the start, at the end or as it is written."""

    def __init__(self, slots: int, work: Work, *, per_second: float, counts: str, **options: Any) -> None:
        super().__init__(slots, work, **options)
        self.per_second, self.counts = per_second, counts
        self.counted: list[tuple[float, float]] = []

    def answer(self, arrived: float, work: float) -> Completion:
        used = Usage(50, max(1, round(work * self.per_second)))
        now = asyncio.get_running_loop().time()
        total = used.prompt_tokens + used.completion_tokens
        if self.counts == "at the end":
            self.counted.append((now, total))
        elif self.counts == "at the start":
            self.counted.append((arrived, total))
        else:
            parts = max(1, round(2 * (now - arrived)))
            times = [arrived + (now - arrived) * (i + 0.5) / parts for i in range(parts)]
            self.counted += [(at, total / parts) for at in times]
        return Completion(text="x", usage=used)


@dataclass
class Seen:
    """What came of a drive: times with the limit then, and the work done until then."""

    server: Server
    samples: list[tuple[float, float, float]] = field(default_factory=list)

    def share(self, start: float, end: float) -> float:
        """How much of the best throughput was had between two times."""
        inside = [(at, work) for at, _, work in self.samples if start <= at <= end]
        (first, before), (last, after) = inside[0], inside[-1]
        return (after - before) / (last - first) / self.server.best()

    def reached(self, share: float, start: float = 0.0) -> float:
        """When a share of the best throughput was first had, over a twentieth of the time; inf for never."""
        width, best = max(1, len(self.samples) // 20), self.server.best()
        for (at, _, before), (end, _, after) in zip(self.samples, self.samples[width:], strict=False):
            if at >= start and after - before >= share * best * (end - at):
                return at
        return float("inf")


def heaviest(counted: list[tuple[float, float]], width: float = 60.0) -> float:
    """The most tokens in any window."""
    counted = sorted(counted)
    most = total = 0.0
    first = 0
    for at, tokens in counted:
        total += tokens
        while counted[first][0] <= at - width:
            total -= counted[first][1]
            first += 1
        most = max(most, total)
    return most


def drive(
    server: Server,
    seconds: float,
    *,
    callers: int = 2000,
    most: int = 4096,
    rpm: int | None = None,
    tpm: int | None = None,
    max_tokens: int | None = None,
    later: Callable[[asyncio.AbstractEventLoop], object] | None = None,
) -> Seen:
    """So many callers ask without end through the real pool, and after a refusal pause as the engine does."""
    seen = Seen(server)
    rng = random.Random(7)

    async def go() -> None:
        loop = asyncio.get_running_loop()
        limiter = Limiter(Limit(most), Caps(rpm, tpm), clock=loop.time)
        pool = Pool([Endpoint("simulated", server, limiter)], clock=loop.time)

        async def call(number: int) -> None:
            request = Request(
                messages=({"role": "user", "content": "w" * 200},), max_tokens=max_tokens, priority=number
            )
            failures = 0
            while True:
                try:
                    await pool.complete(request)
                    failures = 0
                except BackendError as error:
                    pause = min(30.0, 0.25 * 2**failures) * rng.uniform(0.5, 1.0)
                    failures += 1
                    await asyncio.sleep(pause if error.retry_after is None else error.retry_after)

        async def watch() -> None:
            while True:
                seen.samples.append((loop.time(), limiter.limit.value, server.worked()))
                await asyncio.sleep(seconds / 1000)

        if later:
            later(loop)
        tasks = [asyncio.create_task(call(i)) for i in range(callers)]
        tasks.append(asyncio.create_task(watch()))
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await pool.aclose()

    virtual_time.run(go())
    return seen
