"""A thread that runs a model, and the line before it: what waits is taken in batches of like length."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from synthpref.core.errors import BackendError, ErrorKind

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False)
class Waiting(Generic[T, R]):
    """A task in the line, and who waits for its result."""

    task: T
    kind: str
    """Only tasks of one kind go together."""
    length: int
    """About how long the task is, compared with others of its kind."""
    weight: int
    """Places that it takes in a batch."""
    places: int
    """How many there are in its batch; only tasks that say the same go together."""
    order: tuple[int, int]
    """Its priority, and when it came; lower goes first."""
    future: asyncio.Future[R]
    loop: asyncio.AbstractEventLoop = field(repr=False)

    @property
    def given_up(self) -> bool:
        """Whether nobody waits any more."""
        return self.future.cancelled()

    def done(self, result: R) -> None:
        self._tell(lambda: self.future.set_result(result))

    def failed(self, error: BackendError) -> None:
        self._tell(lambda: self.future.set_exception(error))

    def _tell(self, what: Callable[[], None]) -> None:
        # A loop that was closed in the meantime has nobody left who waits.
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(lambda: None if self.future.done() else what())


def batch(waiting: Sequence[Waiting[T, R]]) -> list[Waiting[T, R]]:
    """What goes next: the first in line, with those of its kind that are nearest to it in length, as long as there
    are places. The first goes also where it takes more than there are."""
    first = min(waiting, key=lambda w: w.order)
    alike = (first.kind, first.places)
    others = [w for w in waiting if w is not first and (w.kind, w.places) == alike]
    chosen, left = [first], first.places - first.weight
    for one in sorted(others, key=lambda w: (abs(w.length - first.length), w.order)):
        if one.weight > left:
            break
        chosen.append(one)
        left -= one.weight
    return sorted(chosen, key=lambda w: w.order)


class Line(Generic[T, R]):
    """The thread. `load` is called in it once, before the first batch; `work` with each batch, and sees to it that each
    of its tasks is done or failed; `drop` at its end. What `load` raises is the answer to every task."""

    def __init__(
        self,
        name: str,
        load: Callable[[], None],
        work: Callable[[Sequence[Waiting[T, R]]], None],
        drop: Callable[[], None],
    ) -> None:
        self.name, self._load, self._work, self._drop = name, load, work, drop
        self._users = 0
        self._waiting: list[Waiting[T, R]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def use(self) -> Line[T, R]:
        """One role more; the line ends with its last."""
        self._users += 1
        return self

    async def ask(
        self, task: T, *, kind: str, length: int, weight: int = 1, places: int = 1, priority: int = 0
    ) -> R:
        """The result of a task. Raises BackendError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        order = (priority, next(self._numbers))
        with self._changed:
            self._waiting.append(Waiting(task, kind, length, weight, places, order, future, loop))
            if self._thread is None:
                # A daemon, so that a process which is told to end at once does not wait for a batch.
                self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self._thread.start()
            self._changed.notify()
        return await future

    def _run(self) -> None:
        failure: BackendError | None = None
        try:
            self._load()
        except BackendError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  whatever it is, who waits has to be told
            failure = _unforeseen("unsupported", error)
        while (taken := self._take()) is not None:
            lost = failure
            try:
                if taken and not failure:
                    self._work(taken)
            except Exception as error:  # noqa: BLE001  the same
                lost = _unforeseen("bad_request", error)
            for one in taken if lost else ():
                assert lost is not None
                one.failed(BackendError(lost.kind, str(lost)))
        self._drop()

    def _take(self) -> list[Waiting[T, R]] | None:
        """The next batch, once there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._waiting = [one for one in self._waiting if not one.given_up]
            if self._closing:
                return None
            taken = batch(self._waiting) if self._waiting else []
            self._waiting = [one for one in self._waiting if one not in taken]
            return taken

    async def aclose(self) -> None:
        """One role less."""
        self._users -= 1
        if not self._users:
            await self._end()

    async def ready(self) -> None:
        """It is loaded with the first task."""

    async def rest(self) -> None:
        """Give the model's memory up; the next task loads it again. Nobody may ask meanwhile."""
        await self._end()
        self._closing, self._thread = False, None

    async def _end(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)


def _unforeseen(kind: ErrorKind, error: Exception) -> BackendError:
    made = BackendError(kind, f"{type(error).__name__}: {error}")
    made.__cause__ = error
    return made
