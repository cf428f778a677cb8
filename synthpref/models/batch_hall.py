"""Where requests of all roles wait to be sent in batches, and when those that gathered there leave.

A batch takes minutes to a day, so it should hold all that can be asked by then. Rows walk until each of them waits for
an answer; when nothing moves any more but batches, what has gathered is sent.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Protocol

from synthpref.models.batch_ledger import Ledger
from synthpref.models.still import Still

LEDGER = "batches.sqlite"


class Queue(Protocol):
    """Of one role."""

    @property
    def gathered(self) -> int: ...

    @property
    def under_way(self) -> bool:
        """Whether there is a batch that a row waits for."""
        ...

    @property
    def quiet_s(self) -> float: ...

    def consider(self, still: bool, under_way: bool) -> None:
        """Send what has gathered, or wait for more. `still`: nothing moves but batches, of which some are
        `under_way`."""
        ...

    def turn_away(self) -> None:
        """The run stops: no row waits any more."""
        ...


class Hall:
    """One for a run. `shared` is that of ModelSpec.open."""

    def __init__(self, shared: dict[str, Any]) -> None:
        folder = shared.get("folder")
        self.ledger = Ledger(folder / LEDGER if isinstance(folder, Path) else None, shared.get("noted"))
        stop = shared.get("stop")
        self.stop = stop if isinstance(stop, asyncio.Event) else asyncio.Event()
        self.waiting = 0
        """Calls that wait for a batch, gathered or under way."""
        self._still = Still.of(shared)
        self._still.parks(lambda: self.waiting)
        self._queues: list[Queue] = []
        self._watch: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    @staticmethod
    def of(shared: dict[str, Any]) -> Hall:
        found = shared.get("batch hall")
        if not isinstance(found, Hall):
            shared["batch hall"] = found = Hall(shared)
        return found

    def enter(self, queue: Queue) -> None:
        self._queues.append(queue)

    def leave(self, queue: Queue) -> None:
        """Close the ledger behind the last one."""
        self._queues.remove(queue)
        if not self._queues:
            for task in (self._watch, self._stopping):
                if task:
                    task.cancel()
            self.ledger.close()

    def arrived(self) -> None:
        """A call came, or an answer went: things move."""
        self._still.moves += 1
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._turn_away())
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while gathering := [queue for queue in self._queues if queue.gathered]:
            seen = self._still.moves
            await asyncio.sleep(max(queue.quiet_s for queue in gathering))
            still = seen == self._still.moves and self._still.rests
            under_way = any(queue.under_way for queue in self._queues)
            for queue in gathering:
                queue.consider(still, under_way)

    async def _turn_away(self) -> None:
        await self.stop.wait()
        for queue in self._queues:
            queue.turn_away()
