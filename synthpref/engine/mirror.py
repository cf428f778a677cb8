"""A run at a URL, and the folder on this machine that it works in.

The journal is written here, on a fast disk. Beside the run a thread uploads what was answered since, in segments that
are never changed:

    run.lease                     who runs there, renewed all the time
    segments/TOKEN-000001.sqlite  calls that are not in journal.sqlite yet
    batches.sqlite                as it was a moment ago
    journal.sqlite and the rest   of a run folder, as the last end of the run left them; summary.json comes last

Whoever goes on, on whatever machine, takes the lease, brings what it does not have, and walks the rows again from
their answers.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from synthpref.core.errors import JournalError, RemoteError, SynthprefError
from synthpref.engine.copies import SEGMENTS, SUMMARY, Absorb, Copy, Store
from synthpref.engine.folder import JOURNAL, SHARDS
from synthpref.engine.lease import Lease, Pace
from synthpref.engine.segments import cut, identity, last_call

JOINED = 16
"""So many segments of a size become one, so that a week's run leaves some dozens."""

log = logging.getLogger("synthpref")


class Mirror(Copy):
    """The copy that a run works in. `kept` is around the run, `start` is called once it walks."""

    def __init__(
        self, store: Store, folder: Path, absorb: Mapping[str, Absorb], pace: Pace, say: Callable[[str], None]
    ) -> None:
        super().__init__(store, folder, absorb)
        self.pace, self.say = pace, say
        self.lease = Lease(store, self.known.home, pace.renew_s)
        self._made: dict[str, list[tuple[str, int, int, int]]] = {}
        """Journal -> segments of it, of this start: (name, how often joined, after which call, up to which)."""
        self._with_shards = False
        self._count = 0
        self._failed = False
        self._turn = threading.RLock()
        """Held by who sends."""
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Hold the run at the URL, and bring what is there; at the end upload what came of it. The folder here has to
        be locked. Raises RemoteError, and JournalError where another run is alive there."""
        self.lease.take(self.say)
        try:
            self.save()
            self._patiently(lambda: self.bring(lambda name: True, ours=True))
            try:
                yield
            except SynthprefError:
                self._pause()
                # Whatever is wrong, with the journal perhaps, was raised already.
                with suppress(RemoteError, sqlite3.Error, OSError):
                    self.send_calls()
                raise
            self._pause()
            self._send_all()
        finally:
            self._pause()
            with suppress(RemoteError):
                self.lease.release()

    def unfinished(self) -> None:
        """Until the run is finished again, what is said there is of an earlier start. Raises RemoteError."""
        self._patiently(lambda: self.store.remove(SUMMARY))
        self.known.files.pop(SUMMARY, None)

    def start(self, stop: Callable[[str], None], told: Callable[[], str], *, shards: bool = False) -> None:
        """Upload from now on. `stop` is called when that fails for good, or another run took over; `told` says how far
        the run is. Both in a thread. `shards`: the run's shards are walked on this machine, so that what is in their
        journals is uploaded too; who reads one from another machine may find it half-written."""

        def about() -> dict[str, Any]:
            with suppress(RuntimeError):  # The counters may change while they are read.
                return {"told": told()}
            return {}

        self._with_shards = shards
        self.lease.about = about
        self.lease.on_lost(stop)
        self._thread = threading.Thread(target=self._send_forever, args=(stop,), name="mirror", daemon=True)
        self._thread.start()

    async def noted(self) -> None:
        """Wait until the databases beside the journal are there as they are now: what is under way elsewhere, and paid
        for, is known by them alone. Raises JournalError."""
        try:
            await asyncio.get_running_loop().run_in_executor(None, lambda: self._patiently(self._send_beside))
        except RemoteError as error:
            raise JournalError(str(error)) from error

    def _pause(self) -> None:
        self._ending.set()
        if self._thread:
            self._thread.join()

    def _send_forever(self, stop: Callable[[str], None]) -> None:
        while not self._ending.wait(self.pace.upload_s):
            try:
                self._patiently(self._send, self._ending)
            except Exception as error:  # noqa: BLE001  whatever it is, the run has to be told
                if not self._ending.is_set():
                    self._failed = True
                    log.warning("%s", error)
                    stop(f"what was answered cannot be uploaded: {error}")
                return

    def _send(self) -> None:
        self._send_beside()
        self.send_calls()

    def _send_beside(self) -> None:
        with self._turn:
            names = [name for name in self.changed() if name in self.absorb and name != JOURNAL]
            if names:
                # Another run may have sent its own, while this machine slept.
                self.lease.check()
            if self.lease.lost:
                raise JournalError(self.lease.lost)
            for name in names:
                self.send(name)

    def send_calls(self) -> None:
        """Upload the calls that came since the last time."""
        with self._turn:
            shards = sorted((self.folder / SHARDS).glob("*.sqlite")) if self._with_shards else []
            for journal in (self.folder / JOURNAL, *shards):
                try:
                    self._send_calls(journal)
                except (sqlite3.OperationalError, FileNotFoundError):
                    # A shard's is taken into the run's at any moment, and sent with that.
                    if journal.exists():
                        raise

    def _send_calls(self, journal: Path) -> None:
        if not (last := last_call(journal)):
            return
        name, which = journal.relative_to(self.folder).as_posix(), identity(journal)
        before, after = self.known.sent.get(name, ("", 0))
        if before != which:
            # Of a journal that was made anew, nothing is known to be there.
            after, self._made[name] = 0, []
        if last <= after:
            return
        made = self._made.setdefault(name, [])
        made.append(self._segment(journal, 0, after, last))
        self.known.sent[name] = (which, last)
        self.save()
        while len(made) >= JOINED and len({times for _, times, _, _ in made[-JOINED:]}) == 1:
            old = made[-JOINED:]
            made[-JOINED:] = [self._segment(journal, old[0][1] + 1, old[0][2], old[-1][3])]
            for gone, *_ in old:
                self._remove(gone)

    def _segment(self, journal: Path, times: int, after: int, last: int) -> tuple[str, int, int, int]:
        self._count += 1
        name = f"{SEGMENTS}{self.lease.token}-{self._count:06}.sqlite"
        piece = self.folder / "segment.part"
        cut(journal, after, last, piece)
        self.note(name, self.store.put(piece, name))
        piece.unlink()
        return name, times, after, last

    def _remove(self, name: str) -> None:
        self.store.remove(name)
        self.known.files.pop(name, None)
        self.save()

    def _send_all(self) -> None:
        """The run has come to an end, of whatever kind."""
        self._patiently(self.lease.check)
        if self.lease.lost:
            with suppress(RemoteError):
                self.send_calls()
            fix = "the same command goes on once that run has ended"
            raise RemoteError(f"{self.lease.lost}; what was answered here is in {self.folder}, and {fix}")
        try:
            for name in self.changed():
                self._patiently(lambda name=name: self.send(name))  # type: ignore[misc]
            for name in [name for name in self.known.files if name.startswith(SEGMENTS)]:
                self._patiently(lambda name=name: self._remove(name))  # type: ignore[misc]
            if last := last_call(self.folder / JOURNAL):
                self.known.sent[JOURNAL] = (identity(self.folder / JOURNAL), last)
                self.save()
        except RemoteError as error:
            fix = "run the same command again on this machine"
            raise RemoteError(f"{error}. All of the run is in {self.folder}; {fix}") from error

    def _patiently(self, call: Callable[[], None], ending: threading.Event | None = None) -> None:
        """Try again what may pass, for as long as the pace says; once, if that did not help before."""
        ending = ending or threading.Event()
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, RemoteError) and error.passing),
            stop=stop_after_delay(0 if self._failed else self.pace.patience_s) | stop_when_event_set(ending),
            wait=wait_random_exponential(multiplier=0.5, max=30),
            sleep=sleep_using_event(ending),
            before_sleep=self._again,
            reraise=True,
        )
        retrying(call)

    def _again(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("tried again: %s", error)
        if state.attempt_number == 3:
            self.say(f"{error}. It is tried again for {self.pace.patience_s / 60:g} minutes; Ctrl-C leaves.")
