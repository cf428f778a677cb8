"""`mode: batch`: a Backend whose calls wait for a batch at the provider. No stage knows.

A call is known by a hash of all that is asked with its seed, which the engine derives from the row, the call key and
the ordinal. The hash is in the custom_id of its line, so an answer finds its call whatever the order of the lines and
however often the run was killed in between.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from synthpref.core.errors import BackendError
from synthpref.core.seam import Backend, Completion, Request
from synthpref.core.types import Usage
from synthpref.models import wire_decode
from synthpref.models.batch_fleet import Fleet, stopping
from synthpref.models.batch_hall import Hall
from synthpref.models.batch_settings import Batching
from synthpref.models.batch_tend import Line
from synthpref.models.batch_wire import Door, written
from synthpref.models.http import Http

log = logging.getLogger("synthpref")


class Batches:
    """The batches of one model at one address, with one set of parameters. Raises BackendError."""

    def __init__(
        self,
        place: str,
        door: Door,
        http: Http,
        hall: Hall,
        settings: Batching,
        live: Callable[[], Backend],
    ) -> None:
        self.door, self.hall, self.settings = door, hall, settings
        self.users = 0
        self._https = [http]
        self._make_live = live
        self._live: Backend | None = None
        self._queue: deque[Line] = deque()
        self._bytes = 0
        self._fleet = Fleet(
            place, door, http, hall.ledger, settings, hall.stop, back=self._back, moved=hall.arrived
        )

    @staticmethod
    def shared_by(
        shared: dict[str, Any],
        identity: dict[str, Any],
        door: Door,
        http: Http,
        settings: Batching,
        live: Callable[[], Backend],
    ) -> Batches:
        """The one for a model: roles that cannot be told apart by it gather together."""
        place = hashlib.sha256(orjson.dumps([door.url, identity], option=orjson.OPT_SORT_KEYS)).hexdigest()[
            :16
        ]
        found = shared.get(f"batches {place}")
        if isinstance(found, Batches) and found.users:
            found._https.append(http)
        else:
            found = Batches(place, door, http, Hall.of(shared), settings, live)
            shared[f"batches {place}"] = found
            found.hall.enter(found)
        found.users += 1
        return found

    # ---- a call

    async def complete(self, request: Request) -> list[Completion]:
        try:
            return await self._complete(request)
        except BackendError as error:
            raise self.door.told(error) from None

    async def _complete(self, request: Request) -> list[Completion]:
        try:
            call, size = self._measured(request)
        except (TypeError, ValueError) as error:
            # A lone surrogate in a text: nothing was sent.
            raise BackendError("bad_request", f"the request cannot be sent: {error}") from error
        if size > self.settings.max_bytes:
            most = self.settings.max_bytes
            raise BackendError(
                "bad_request", f"the request has {size:,} bytes, more than a batch may (max_bytes {most:,})"
            )
        await self._fleet.recovered()
        if found := self._fleet.kept(call):
            return self._read(request, found)
        line = self._fleet.claimed(call) or Line(call)
        line.request, line.size = request, size
        line.future = asyncio.get_running_loop().create_future()
        self._wait(line)
        self.hall.waiting += 1
        try:
            where = await line.future
        finally:
            self.hall.waiting -= 1
            self.hall.arrived()
        if where is None:
            return _live(await self._one_by_one().complete(request))
        return self._read(request, where)

    def _measured(self, request: Request) -> tuple[bytes, int]:
        """The hash of all that is asked but for n, because an answer cut short is one all the same; and the bytes
        of its line."""
        path, body = self.door.asked(request)
        _, one = self.door.asked(replace(request, n=1))
        what = orjson.dumps([path, one, request.seed], option=orjson.OPT_SORT_KEYS)
        call = hashlib.sha256(what).digest()[:16]
        return call, len(written(f"{call.hex()}-00000", path, body))

    def _read(self, request: Request, where: tuple[int, str]) -> list[Completion]:
        ledger = self.hall.ledger
        try:
            answers = self.door.answered(request, wire_decode.decode(ledger.answer(*where)))
        except BackendError:
            # It is of no use to anybody, so that it must not be found again.
            ledger.came(where[0], (), (where[1],))
            raise
        return answers[: request.n]

    def _wait(self, line: Line) -> None:
        """Take the line's place among those that wait, unless the run stops."""
        if self.hall.stop.is_set():
            line.fail(stopping())
        elif line.batch is None:
            line.since = time.monotonic()
            self._queue.append(line)
            self._bytes += line.size
            self._dispatch(all=False)
        self.hall.arrived()

    def _one_by_one(self) -> Backend:
        if self._live is None:
            self._live = self._make_live()
        return self._live

    # ---- what gathers

    @property
    def gathered(self) -> int:
        return len(self._queue)

    @property
    def under_way(self) -> bool:
        return self._fleet.under_way

    @property
    def quiet_s(self) -> float:
        return self.settings.quiet_s

    def consider(self, still: bool, under_way: bool) -> None:
        settings, size = self.settings, len(self._queue)
        if not size or self._fleet.blocked:
            return
        late = time.monotonic() - self._queue[0].since >= settings.wait_s
        if still and not under_way and size < settings.live_below:
            log.info("%s: %d requests are asked one by one", self.door.url, size)
            for line in self._emptied():
                line.deliver(None)
        elif late or (still and (size >= settings.min_requests or not under_way)):
            self._dispatch(all=True)

    def turn_away(self) -> None:
        for line in self._emptied():
            line.fail(stopping())
        self._fleet.turn_away()

    def _back(self, lines: list[Line]) -> None:
        """Lines that were sent in vain take their places at the head of the queue again."""
        self._queue.extendleft(reversed(lines))
        self._bytes += sum(line.size for line in lines)

    def _emptied(self) -> list[Line]:
        lines = [line for line in self._queue if line.awaited]
        self._queue.clear()
        self._bytes = 0
        return lines

    def _dispatch(self, all: bool) -> None:
        """Send full batches, or all that has gathered."""
        while self._queue and not self._fleet.blocked:
            full = len(self._queue) >= self._fleet.most or self._bytes > self.settings.max_bytes
            if not (all or full):
                return
            lines: list[Line] = []
            bytes = 0
            while self._queue and len(lines) < self._fleet.most:
                size = self._queue[0].size
                if lines and bytes + size > self.settings.max_bytes:
                    break
                line = self._queue.popleft()
                self._bytes -= size
                if line.awaited:
                    lines.append(line)
                    bytes += size
            self._fleet.send(lines)

    # ---- the view, and the end

    def waits_for(self) -> str:
        """What a person is told while batches run."""
        parts = self._fleet.told()
        if self._queue:
            parts.append(f"{len(self._queue):,} gathered")
        return ", ".join(parts)

    async def aclose(self) -> None:
        self.users -= 1
        if self.users:
            return
        await self._fleet.aclose()
        self.hall.leave(self)
        if self._live:
            await self._live.aclose()
        for http in self._https:
            await http.aclose()


def _live(answers: list[Completion]) -> list[Completion]:
    """The answers, with word that they cost the full price."""
    usage = answers[0].usage or Usage() if answers else Usage()
    return [replace(answers[0], usage=replace(usage, live=True)), *answers[1:]] if answers else answers
