"""The batches of one model that are under way, those that earlier starts sent among them."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson

from synthpref.core.errors import BackendError
from synthpref.models import wire_errors
from synthpref.models.batch_ledger import Ledger, Noted
from synthpref.models.batch_settings import Batching
from synthpref.models.batch_tend import Batch, Left, Line, Tender, again
from synthpref.models.batch_wire import Door, Provider, as_a_whole, written
from synthpref.models.http import Http

SLICE = 500
"""Lines written at a time, before others get their turn."""
CLOSING_S = 2.0
"""How long a batch that is just being made is waited for when the run ends."""
LONGEST_BLOCK_S = 600.0
"""Between two tries of a provider that has too much of ours in its queue."""

log = logging.getLogger("synthpref")


class Fleet:
    """Sends lines off and tells who waits for them what came. Each line gets an answer, an error, or goes back to the
    queue by `back`; none is forgotten. `moved` is told when a batch has ended."""

    def __init__(
        self,
        place: str,
        door: Door,
        http: Http,
        ledger: Ledger,
        settings: Batching,
        stop: asyncio.Event,
        back: Callable[[list[Line]], None],
        moved: Callable[[], None],
    ) -> None:
        self.place, self.door, self.ledger, self.settings = place, door, ledger, settings
        self.most = settings.max_requests
        """Requests in a batch; fewer than the settings say while the provider has no room for more."""
        self._stop, self._back, self._moved = stop, back, moved
        self._blocked_until, self._blocks = 0.0, 0
        self._unclaimed: dict[bytes, list[Line]] = {}
        """Lines that an earlier start sent and nobody has asked for yet, by call."""
        self._taken: Counter[bytes] = Counter()
        """How many of the answers to a call that lay in the ledger were handed out."""
        self._to_find: list[Noted] | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._active: dict[int, Batch] = {}
        self._closing = asyncio.Event()
        self._said = ""
        """What became of the batches under way when the run was stopped."""
        self._tender = Tender(Provider(door, http), ledger, settings, self._closing, stop)

    @property
    def under_way(self) -> bool:
        """Whether there is a batch that somebody waits for."""
        return any(batch.awaited for batch in self._active.values())

    @property
    def blocked(self) -> bool:
        """Whether the provider has said that it takes no more for now."""
        return time.monotonic() < self._blocked_until

    def send(self, lines: list[Line]) -> None:
        """Send lines off in one batch."""
        if not lines:
            return
        same: Counter[bytes] = Counter()
        named: dict[str, Line] = {}
        for line in lines:
            named[f"{line.call.hex()}-{same[line.call]}"] = line
            same[line.call] += 1
        token = uuid.uuid4().hex
        try:
            number = self.ledger.begin(self.place, token, ((n, line.call) for n, line in named.items()))
        except Exception as error:  # noqa: BLE001  whatever it is, who waits has to be told
            for line in lines:
                line.fail(error)
            return
        batch = Batch(number, token, time.time(), named, len(named))
        for line in lines:
            line.batch = number
        self._start(batch)

    def _start(self, batch: Batch) -> None:
        self._active[batch.number] = batch
        task = asyncio.create_task(self._tend(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tend(self, batch: Batch) -> None:
        try:
            await self._see_through(batch)
        except Left as left:
            self._leave(batch, left.error)
        except Exception as error:  # noqa: BLE001  whatever it is, who waits has to be told
            self._fail(batch, error)
        finally:
            self._active.pop(batch.number, None)
            self._moved()

    async def _see_through(self, batch: Batch) -> None:
        first = next(iter(batch.lines.values()), None)
        if batch.id is None and first and first.request:
            path, _ = self.door.asked(first.request)
            try:
                await self._tender.make(batch, path, self._text(batch))
            except BackendError:
                self.ledger.settled(batch.number)
                raise
            log.info("%s: batch %s of %d requests", self.door.url, batch.id, batch.size)
        state = await self._tender.follow(batch, self._came)
        self.ledger.settled(batch.number)
        if state.status == "failed":
            self._refused(batch, state.errors)
            return
        self.most = min(self.settings.max_requests, self.most * 2)
        self._blocks, self._blocked_until = 0, 0.0
        log.info("batch %s is %s; %d lines were not answered", batch.id, state.status, len(batch.lines))
        missing = f"batch {batch.id} is {state.status} without a line for it"
        self._fail(batch, BackendError("transient", missing))

    async def _text(self, batch: Batch) -> AsyncIterator[bytes]:
        for i, (custom, line) in enumerate(batch.lines.items()):
            assert line.request
            path, body = self.door.asked(line.request)
            yield written(custom, path, body)
            if i % SLICE == 0:
                await asyncio.sleep(0)

    def _came(self, batch: Batch, custom: str, failure: BackendError | None) -> None:
        """A line of a batch came back, and is in the ledger if it holds an answer."""
        line = batch.lines.pop(custom)
        waited = line.awaited
        if failure:
            line.fail(failure)
        else:
            line.deliver((batch.number, custom))
        if waited and batch.number <= self.ledger.last:
            self._taken[line.call] += not failure
        if not waited:
            self._forget(line)

    def _forget(self, line: Line) -> None:
        lines = self._unclaimed.get(line.call, [])
        if line in lines:
            lines.remove(line)

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Nothing more will come of the batch; who waits for it is told why."""
        for line in batch.lines.values():
            line.fail(error)
            self._forget(line)
        batch.lines.clear()

    def _leave(self, batch: Batch, error: BackendError) -> None:
        """What comes of the batch is not known now; it is found again when its lines are asked for."""
        opened = tuple((custom, line.call) for custom, line in batch.lines.items())
        noted = Noted(batch.number, batch.token, batch.made, batch.file, batch.id, opened, batch.answered)
        self._to_find = [*(self._to_find or ()), noted]
        if self._recovery and self._recovery.done():
            self._recovery = None
        self.ledger.last = max(self.ledger.last, batch.number)
        self._fail(batch, error)

    def _refused(self, batch: Batch, errors: tuple[Any, ...]) -> None:
        """A batch that was not begun: nothing of it is paid for."""
        failure = _refusal(errors)
        log.warning("batch %s was refused: %s", batch.id, self.door.told(failure))
        all_lines = list(batch.lines.values())
        batch.lines = {}
        for line in all_lines:
            line.batch = None
            self._forget(line)
        lines = [line for line in all_lines if line.awaited]
        if failure.kind == "rate_limit" and (len(lines) > 1 or len(self._active) > 1):
            self._hold_back(lines)
            return
        # Whether they count from 0 or from 1 is not known, and no row may pay for another's fault.
        named = {int(error["line"]) for error in errors if isinstance(error.get("line"), int)}
        suspects = {i for n in named for i in (n - 1, n) if 0 <= i < len(lines)}
        if suspects and 1 < len(lines) == len(all_lines):
            for i in sorted(suspects):
                self.send([lines[i]])
            self.send([line for i, line in enumerate(lines) if i not in suspects])
            return
        for line in lines:
            line.fail(failure if len(all_lines) == 1 else as_a_whole(failure))

    def _hold_back(self, lines: list[Line]) -> None:
        """The provider takes no more for now: wait until a batch of ours has ended, or, if there is none, send
        less at once."""
        if len(self._active) == 1:
            self.most = max(1, len(lines) // 2)
        self._blocks += 1
        pause = min(LONGEST_BLOCK_S, self.settings.poll_s * 2.0 ** (self._blocks - 1))
        log.info("%s: %d requests wait %.0f s for room in the queue", self.door.url, len(lines), pause)
        self._blocked_until = time.monotonic() + pause
        self._back(lines)

    # ---- what earlier starts left

    async def recovered(self) -> None:
        """Wait until it is known which lines are under way. Raises BackendError when that cannot be found out."""
        if self._stop.is_set():
            raise stopping()
        task = self._recovery
        if task is None:
            task = self._recovery = asyncio.create_task(self._recover())
        if task.done() and not task.exception():
            return
        try:
            await asyncio.shield(task)
        except BackendError as error:
            if self._recovery is task:
                self._recovery = None
            raise again(error) from None

    async def _recover(self) -> None:
        ledger = self.ledger
        if self._to_find is None:
            self._to_find = ledger.unsettled(self.place)
        while self._to_find:
            noted = self._to_find[0]
            id = noted.id
            if id is None and noted.file:
                state = await self._tender.provider.find(noted.file, noted.token, noted.made)
                id = state.id if state else None
                if id:
                    ledger.made(noted.number, id)
            if id is None:
                # It was never made, so that nothing was paid: its calls are asked anew.
                ledger.settled(noted.number)
            else:
                log.info("%s: batch %s, sent before, is taken up again", self.door.url, id)
                lines = {custom: Line(call, batch=noted.number) for custom, call in noted.open}
                for line in lines.values():
                    self._unclaimed.setdefault(line.call, []).append(line)
                size = len(lines) + noted.answered
                batch = Batch(
                    noted.number, noted.token, noted.made, lines, size, noted.file, id, noted.answered
                )
                self._start(batch)
            self._to_find.remove(noted)

    def kept(self, call: bytes) -> tuple[int, str] | None:
        """Where in the ledger an answer lies that an earlier start paid for."""
        found = self.ledger.kept(call, self._taken[call]) if self.ledger.last else None
        if found:
            self._taken[call] += 1
        return found

    def claimed(self, call: bytes) -> Line | None:
        """A line for the call that an earlier start sent."""
        lines = self._unclaimed.get(call)
        if not lines:
            return None
        line = lines.pop(0)
        if not lines:
            del self._unclaimed[call]
        return line

    # ---- the view, and the end

    def turn_away(self) -> None:
        for batch in self._active.values():
            for line in batch.lines.values():
                line.fail(stopping())

    def told(self) -> list[str]:
        """What a person is told while batches run."""
        parts = [self._said] if self._said else []
        if batches := list(self._active.values()):
            age = _duration(time.time() - min(batch.made for batch in batches))
            done, of = sum(batch.completed for batch in batches), sum(batch.size for batch in batches)
            word = "batch" if len(batches) == 1 else "batches"
            parts.append(
                f"{len(batches)} {word} under way, {done:,} of {of:,} answered, the oldest {age} old"
            )
        return parts

    async def aclose(self) -> None:
        self._closing.set()
        left = list(self._active.values())
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSING_S)
        rest = [*self._tasks, *([self._recovery] if self._recovery else [])]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        if self._stop.is_set():
            self._said = await self._tender.farewell(left)


def stopping() -> BackendError:
    # Of a kind for which the engine leaves the row for the next start, instead of rejecting it.
    return BackendError("rate_limit", "the run is stopping")


def _refusal(errors: Sequence[Any]) -> BackendError:
    """Why a batch as a whole was refused, told by the first of the reasons."""
    if not errors:
        return BackendError("transient", "the batch failed, and no reason was given")
    code = str(errors[0].get("code") or "")
    if code == "token_limit_exceeded":
        return BackendError("rate_limit", f"the batch was refused: {errors[0].get('message')}")
    status = {"model_not_found": 404, "billing_hard_limit_reached": 401}.get(code, 400)
    error = wire_errors.http_error(status, {}, orjson.dumps({"error": errors[0]}))
    return BackendError(error.kind, str(error))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
