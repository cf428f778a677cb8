"""One batch on its way: uploaded, made, looked at until it has ended, and brought home.

What may have been paid for is never given up: where it is not known what became of a batch, it is left in the ledger,
to be found again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from synthpref.core.errors import FATAL, RETRIED, BackendError
from synthpref.core.seam import Request
from synthpref.models.batch_ledger import Ledger
from synthpref.models.batch_settings import Batching
from synthpref.models.batch_wire import Provider, State, read

PATIENCE_S = 600.0
"""How long a provider may be away before who waits for a batch is told."""
FIRST_LOOK_S = 1.0
OFTEN = 20
"""A batch is looked at after a twentieth of its age."""
NEW_S = 60.0
"""So long after it was made a batch may still be unknown at another door of the provider."""
SHORT = 5
"""How often a file that lacks answers is fetched again."""
FLUSH = 1000
"""Lines that are written to the ledger at once."""
FAREWELL_S = 10.0

log = logging.getLogger("synthpref")

Came = Callable[["Batch", str, BackendError | None], None]


@dataclass(eq=False)
class Line:
    """A call on its way. `future` is there while somebody waits: it gets the place of the answer in the ledger, None
    for "ask it live", or an error."""

    call: bytes
    request: Request | None = None
    """None for one of an earlier start that nobody has asked for since."""
    size: int = 0
    since: float = 0.0
    batch: int | None = None
    future: asyncio.Future[tuple[int, str] | None] | None = None

    @property
    def awaited(self) -> bool:
        return self.future is not None and not self.future.done()

    def deliver(self, where: tuple[int, str] | None) -> None:
        if self.future and not self.future.done():
            self.future.set_result(where)

    def fail(self, error: Exception) -> None:
        if self.future and not self.future.done():
            # One of its own for each, because what is raised gathers the ways it went.
            self.future.set_exception(again(error) if isinstance(error, BackendError) else error)


@dataclass(eq=False)
class Batch:
    """A batch that was sent, or is about to be."""

    number: int
    token: str
    made: float
    lines: dict[str, Line]
    """By custom_id, in the order of the file; those that came back are gone."""
    size: int
    file: str | None = None
    id: str | None = None
    answered: int = 0
    """Answers that are in the ledger."""
    completed: int = 0
    """Answers that the provider has, by its own count."""

    @property
    def awaited(self) -> bool:
        return any(line.awaited for line in self.lines.values())


class Left(Exception):
    """What becomes of a batch is not known now. It stays in the ledger as it is."""

    def __init__(self, error: BackendError) -> None:
        super().__init__(str(error))
        self.error = error


def again(error: BackendError) -> BackendError:
    return BackendError(error.kind, str(error), status=error.status, retry_after=error.retry_after)


class Tender:
    """Tends the batches of one provider. `closing` ends every wait, and `stop` what is not made yet."""

    def __init__(
        self,
        provider: Provider,
        ledger: Ledger,
        settings: Batching,
        closing: asyncio.Event,
        stop: asyncio.Event,
    ) -> None:
        self.provider, self.ledger, self.settings = provider, ledger, settings
        self._closing, self._stop = closing, stop

    async def make(self, batch: Batch, path: str, lines: AsyncIterable[bytes]) -> None:
        """Upload the requests and make the batch.

        Raises BackendError when there surely is none, and Left when that is not known.
        """
        file = await self.provider.upload(lines)
        if self._stop.is_set() or self._closing.is_set():
            raise BackendError("rate_limit", "the run is stopping")
        # Noted first: after a kill the batch is looked for by what it was made of.
        self.ledger.uploaded(batch.number, file)
        batch.file = file
        await self.ledger.copied()
        state = await self._made(batch, file, path)
        self.ledger.made(batch.number, state.id)
        batch.id = state.id

    async def _made(self, batch: Batch, file: str, path: str) -> State:
        """Make the batch, once: where an answer was lost it is looked for before it is made again."""
        doubt, began, pause = False, time.monotonic(), FIRST_LOOK_S / 2
        while True:
            try:
                if doubt and (found := await self.provider.find(file, batch.token, batch.made)):
                    return found
                doubt = False
                return await self.provider.create(file, path, self.settings.window, batch.token)
            except BackendError as error:
                if error.kind not in RETRIED:
                    if doubt:
                        raise Left(error) from error
                    raise
                doubt = doubt or error.kind in ("transient", "unreadable")
                log.info("batch %d: made again (%s)", batch.number, error)
                if time.monotonic() - began > PATIENCE_S:
                    raise Left(error) if doubt else error from error
                if await self._pause(max(pause, error.retry_after or 0.0)):
                    raise Left(error) from error
                pause = min(pause * 2, self.settings.poll_s)

    async def follow(self, batch: Batch, came: Came) -> State:
        """Wait until the batch has ended, and bring home what came of it.

        Raises Left when that cannot be found out.
        """
        assert batch.id
        began = time.monotonic()
        failing: float | None = None
        short = 0
        while True:
            try:
                state = await self.provider.get(batch.id)
                batch.completed = max(batch.completed, state.completed)
                if state.ended:
                    for file in (state.output, state.failures):
                        if file:
                            await self._fetch(batch, file, came)
                    if batch.answered >= state.completed or short >= SHORT:
                        return state
                    short += 1
                    missing = state.completed - batch.answered
                    raise BackendError("transient", f"{missing} answers of batch {batch.id} did not come")
                failing = None
            except BackendError as error:
                now = time.monotonic()
                failing = now if failing is None else failing
                unknown = error.kind == "not_found" and time.time() - batch.made < NEW_S
                if (error.kind in FATAL and not unknown) or now - failing > PATIENCE_S:
                    raise Left(_lost(batch, error)) from error
                log.info("batch %s: looked at again: %s", batch.id, error)
            age = time.monotonic() - began
            pause = min(self.settings.poll_s, max(FIRST_LOOK_S, age / OFTEN))
            if await self._pause(pause):
                raise Left(BackendError("rate_limit", "the run is stopping"))

    async def _fetch(self, batch: Batch, file: str, came: Came) -> None:
        """Bring the lines of a file home. Those that came before a break in the connection are kept."""
        found: dict[str, bytes | BackendError] = {}

        def keep() -> None:
            answers = [(name, body) for name, body in found.items() if isinstance(body, bytes)]
            failed = [name for name, body in found.items() if isinstance(body, BackendError)]
            self.ledger.came(batch.number, answers, failed)
            batch.answered += len(answers)
            for name, body in found.items():
                came(batch, name, body if isinstance(body, BackendError) else None)
            found.clear()

        def take(line: bytes) -> None:
            item = read(line)
            if item and item[0] in batch.lines:
                found[item[0]] = item[1]
                if len(found) >= FLUSH:
                    keep()

        try:
            await self.provider.content(file, take)
        finally:
            if found:
                keep()

    async def _pause(self, seconds: float) -> bool:
        """Wait; True when there is no time left to."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
        return self._closing.is_set()

    async def farewell(self, batches: Iterable[Batch]) -> str:
        """The run was stopped: leave batches under way, or cancel them. What a person is told of it."""
        made = [batch for batch in batches if batch.id]
        if not made:
            return ""
        if self.settings.on_stop == "leave":
            said = f"{len(made)} left under way for the next start"
        else:
            for batch in made:
                await self._cancel(batch)
            said = f"{len(made)} cancelled"
        log.warning("batches %s: %s", ", ".join(str(batch.id) for batch in made), said)
        return said

    async def _cancel(self, batch: Batch) -> None:
        assert batch.id
        try:
            await asyncio.wait_for(self.provider.cancel(batch.id), FAREWELL_S)
        except (BackendError, TimeoutError) as error:
            log.warning("batch %s could not be cancelled: %s", batch.id, error)


def _lost(batch: Batch, error: BackendError) -> BackendError:
    if error.kind != "not_found":
        return again(error)
    fix = (
        "was api_key or base_url changed? If it is gone for good, delete batches.sqlite, and it is asked anew"
    )
    return BackendError("not_found", f"batch {batch.id} is not known there ({error}); {fix}")
