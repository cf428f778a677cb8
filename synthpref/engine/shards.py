"""A segment walked by several processes: shards are dealt out to workers, and what they wrote is brought together.

Here is what does not depend on how the processes are started. A worker takes the next shard when it has room, so
quick ones do more; a shard whose worker died goes back, and the next one goes on from the shard's journal.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from synthpref.core.errors import JournalError
from synthpref.engine.journal import Journal
from synthpref.engine.merge import absorb
from synthpref.engine.overlay import how_far
from synthpref.engine.role import Stop
from synthpref.engine.salvage import mend
from synthpref.engine.steps import Step

LANES = 2
"""Shards that a worker walks at once: the next one's rows fill the gaps at the end of the one before."""
DEATHS = 3
"""Workers that may die at a shard one after another without getting on."""
LOOK_S = 0.5
LONGEST_PAUSE_S = 10.0
"""Between two tries to get a worker for a seat."""
LOCK_S = 60.0
"""How long a shard may be held by a process that is dying."""

log = logging.getLogger("synthpref")

Report = dict[str, Any]
"""What a worker says of itself: see tally.py."""


class WorkerLost(Exception):
    """The process of a worker, or its machine, is gone."""


class Worker(Protocol):
    """A process that walks shards. Each method raises WorkerLost when it is gone."""

    async def walk(self, step: int, shard: int, of: int) -> Report: ...

    async def report(self) -> Report: ...

    async def stop(self, reason: str) -> None: ...


@contextmanager
def shard_held(path: Path, patience_s: float = LOCK_S) -> Iterator[None]:
    """One process to a shard's journal, as for run folders. Raises JournalError when another one stays in it."""
    path.parent.mkdir(exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"), timeout=patience_s, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise JournalError(f"{path}: a worker still writes there; wait until it has ended") from None
    try:
        yield
    finally:
        lock.release()


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:04}.sqlite"


def gather(main: Journal, folder: Path, *, whole: bool = False) -> int:
    """Absorb every shard's journal that is in `folder`; how many there were. Unless they are known to be `whole`, they
    are looked through before: what is damaged in one is asked again."""
    # Of one that was being made anew when the run was killed, there may be the new file alone.
    paths = sorted(
        {
            path.with_suffix("") if path.suffix == ".made" else path
            for kind in ("*.sqlite", "*.sqlite.made")
            for path in folder.glob(kind)
        }
    )
    for path in paths:
        with shard_held(path):
            if not whole and (salvaged := mend(path)):
                log.warning("%s: %s", path.name, salvaged)
            absorb(main, path)
        path.with_suffix(".lock").unlink(missing_ok=True)
    return len(paths)


class Pool:
    """Workers by seat, and the shards of a segment that are dealt out to them."""

    def __init__(
        self,
        folder: Path,
        seats: int,
        shards: int,
        hire: Callable[[int], Awaitable[Worker]],
        hear: Callable[[int, Report | None], None],
        stop: Stop,
        lacking: Callable[[], str],
        patience_s: float,
        tend: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`hire` waits until the worker of a seat is there; `hear` is told what it reports, None when it is lost.
        `lacking` says what is waited for when nobody is there for `patience_s`. `tend` is called again and
        again while workers are there."""
        self.folder, self.seats, self.shards = folder, seats, shards
        self.hire, self.hear, self.stop, self.lacking, self.patience_s = hire, hear, stop, lacking, patience_s
        self._tend = tend
        self.there: dict[int, Worker] = {}
        self._open: deque[int] = deque()
        self._left = 0
        self._changed = asyncio.Event()
        self._deaths: dict[int, tuple[int, int]] = {}
        self._last_loss = ""

    async def segment(self, step: Step) -> None:
        """Have all shards walked through the step, or as far as they come before the run stops."""
        self._open, self._left = deque(range(self.shards)), self.shards
        self._deaths = {}
        watch = asyncio.create_task(self._watch())
        seats = [asyncio.create_task(self._seat(seat, step.number)) for seat in range(self.seats)]
        try:
            while self._left and not all(seat.done() for seat in seats):
                ended, _ = await asyncio.wait(
                    [watch, *seats], return_when=asyncio.FIRST_COMPLETED, timeout=LOOK_S
                )
                for task in ended:
                    task.result()
                if self.stop.event.is_set():
                    # Those who wait for a worker end at once, the others when their worker has.
                    await asyncio.gather(*seats)
                    return
        finally:
            for task in (watch, *seats):
                task.cancel()
            await asyncio.gather(watch, *seats, return_exceptions=True)

    async def _seat(self, seat: int, step: int) -> None:
        pause = LOOK_S
        while self._left and not self.stop.event.is_set():
            if seat not in self.there:
                try:
                    hired = await self._unless_stopped(self.hire(seat))
                except WorkerLost as error:
                    # A dying machine is sent workers for a while.
                    self._lost(seat, error)
                    await self._unless_stopped(asyncio.sleep(pause))
                    pause = min(2 * pause, LONGEST_PAUSE_S)
                    continue
                if hired is None:
                    return
                self.there[seat], pause = hired, LOOK_S
            # With few shards, none of them is one worker's second while another worker has no first.
            at_once = min(LANES, -(-self.shards // self.seats))
            lanes = [self._lane(seat, self.there[seat], step) for _ in range(at_once)]
            ended = await asyncio.gather(*lanes, return_exceptions=True)
            failed = [error for error in ended if error is not None]
            if others := [error for error in failed if not isinstance(error, WorkerLost)]:
                raise others[0]
            if failed:
                self._lost(seat, failed[0])

    def _lost(self, seat: int, error: BaseException) -> None:
        self._last_loss = f"; the last one was lost: {error}"
        log.warning("a worker was lost: %s", error)
        self.there.pop(seat, None)
        self.hear(seat, None)

    async def _lane(self, seat: int, worker: Worker, step: int) -> None:
        while (shard := await self._next()) is not None:
            if self.there.get(seat) is not worker:
                # It was lost at its other shard.
                self._open.append(shard)
                self._wake()
                return
            try:
                self.hear(seat, await worker.walk(step, shard, self.shards))
            except BaseException as error:
                self._open.append(shard)
                self._wake()
                if isinstance(error, WorkerLost):
                    self.there.pop(seat, None)
                    self._count_death(shard, error)
                raise
            if self.stop.event.is_set():
                return
            self._left -= 1
            self._wake()

    async def _next(self) -> int | None:
        """The next shard; None when there will be none."""
        while self._left and not self.stop.event.is_set():
            if self._open:
                return self._open.popleft()
            changed = self._changed
            await self._unless_stopped(changed.wait())
        return None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _count_death(self, shard: int, error: WorkerLost) -> None:
        path = shard_path(self.folder, shard)
        far = how_far(path)
        before, count = self._deaths.get(shard, (-1, 0))
        count = count + 1 if far <= before else 1
        self._deaths[shard] = far, count
        if count >= DEATHS:
            self.stop.now(
                f"{count} workers died at shard {shard}, and none got on with it: {error}", failed=True
            )

    async def _unless_stopped(self, waited_for: Awaitable[Any]) -> Any:
        """What is waited for, or None when the run stops first."""
        waits = [asyncio.ensure_future(waited_for), asyncio.ensure_future(self.stop.event.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return waits[0].result() if waits[0].done() else None
        finally:
            for wait in waits:
                wait.cancel()

    async def _watch(self) -> None:
        """Hear the workers, tell them of a stop, and end what nobody works at."""
        seen, told = time.monotonic(), False
        while True:
            await self._unless_stopped(asyncio.sleep(LOOK_S)) if not told else await asyncio.sleep(LOOK_S)
            if self.stop.event.is_set() and not told:
                told = True
                await self._each(lambda worker: worker.stop(self.stop.reason))
            await asyncio.gather(*(self._hear(seat, worker) for seat, worker in self.there.items()))
            if self._tend and self.there and not told:
                await self._tend()
            if self.there:
                seen = time.monotonic()
            elif time.monotonic() - seen > self.patience_s:
                waited = f"no worker came for {self.patience_s:g} s: {self.lacking()}{self._last_loss}"
                self.stop.now(waited, failed=True)

    async def _hear(self, seat: int, worker: Worker) -> None:
        try:
            # One that is out of sight must not keep the others from being heard, and told.
            found = await asyncio.wait_for(worker.report(), LONGEST_PAUSE_S)
        except (WorkerLost, TimeoutError):
            return  # its lanes see to it
        if self.there.get(seat) is worker:
            self.hear(seat, found)

    async def _each(self, do: Callable[[Worker], Awaitable[None]]) -> None:
        await asyncio.gather(*(do(worker) for worker in self.there.values()), return_exceptions=True)
