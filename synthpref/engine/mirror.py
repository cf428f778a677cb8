"""A run folder at a URL, and the folder on this machine that the run works in.

The journal is written here, on a fast disk. Beside the run a thread uploads what was answered since, in segments that
are never changed:

    run.lease                     who runs there, renewed all the time
    segments/TOKEN-000001.sqlite  calls that are not in journal.sqlite yet
    batches.sqlite                as it was a moment ago
    journal.sqlite and the rest   of a run folder, as the last end of the run left them; summary.json comes last

Whoever goes on, on whatever machine, takes the lease, brings what it does not have, and walks the rows again from
their answers. `mirror.json` in the folder here says what of both sides is the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

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
from synthpref.engine.folder import JOURNAL, SHARDS, write_json
from synthpref.engine.lease import LEASE, Files, Lease, Pace
from synthpref.engine.salvage import mend
from synthpref.engine.segments import add_calls, cut, last_call, snapshot

STATE, SUMMARY, LOG = "mirror.json", "summary.json", "run.log"
SEGMENTS = "segments/"
HERE_ONLY = frozenset({STATE, LEASE, "run.lock", "run.holder", "copy.lock"})
HERE_ENDINGS = (".part", ".made", ".damage", "-wal", "-shm", "-journal")
JOINED = 16
"""So many segments of a size become one, so that a week's run leaves some dozens."""

log = logging.getLogger("synthpref")

Absorb = Callable[[Path, Path], object]
"""Bring what another database holds into the first one; nothing is taken twice."""


class Store(Files, Protocol):
    """A folder at a URL. Methods raise RemoteError."""

    def files(self) -> dict[str, str]: ...

    def put(self, file: Path, name: str) -> str: ...

    def fetch(self, name: str, file: Path) -> None: ...


@dataclass
class Known:
    """What of both sides is the same; kept in `mirror.json`."""

    home: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    files: dict[str, list[str]] = field(default_factory=dict)
    """Name -> [stamp here, stamp there]."""
    sent: list[int] = field(default_factory=lambda: [0, 0])
    """[which file the journal is, the last call of it that is at the URL]."""


class Copy:
    """A folder here of what is at a URL."""

    def __init__(self, store: Store, folder: Path, absorb: Mapping[str, Absorb]) -> None:
        self.store, self.folder = store, folder
        self.absorb = {JOURNAL: add_calls, **absorb}
        self.known = Known()
        with suppress(FileNotFoundError, ValueError, TypeError):
            self.known = Known(**json.loads((folder / STATE).read_text(encoding="utf-8")))

    def bring(self, wanted: Callable[[str], bool], *, ours: bool) -> None:
        """Bring what has changed there, of the files that are wanted. `ours`: what is here may be ahead, so that
        databases are brought together; else this is a copy, and what is gone there goes here too."""
        there = {name: stamp for name, stamp in self.store.files().items() if wanted(name)}
        journal = self.folder / JOURNAL
        is_new = not journal.exists()
        for name in [name for name in self.known.files if wanted(name) and name not in there]:
            del self.known.files[name]
            if not ours:
                (self.folder / name).unlink(missing_ok=True)
        for name in sorted(there, key=lambda name: (name != JOURNAL, name)):
            if not _is_here_only(name) and self.known.files.get(name, ["", ""])[1] != there[name]:
                self._bring(name, ours)
                self.note(name, there[name])
        if is_new and journal.exists():
            self.known.sent = [journal.stat().st_ino, last_call(journal)]
            self.save()

    def _bring(self, name: str, ours: bool) -> None:
        file = self.folder / name
        is_piece = name.startswith(SEGMENTS)
        absorb = add_calls if is_piece else self.absorb.get(name)
        if absorb and (is_piece or ours) and (is_piece or file.exists()):
            part = self.folder / "brought.part"
            self.store.fetch(name, part)
            if absorb is add_calls and (mended := mend(part)):
                log.warning("%s/%s: %s", self.store.url, name, mended)
            absorb(self.folder / JOURNAL if is_piece else file, part)
            part.unlink()
        elif name == LOG and ours and file.exists():
            # In its place, because it is being written to.
            part = self.folder / "brought.part"
            self.store.fetch(name, part)
            text = part.read_bytes() + file.read_bytes()
            with file.open("r+b") as log_file:
                log_file.write(text)
            part.unlink()
        else:
            self.store.fetch(name, file)
            if name == JOURNAL:
                mend(file)
                # Of another journal, other pieces are missing.
                self.known.files = {n: s for n, s in self.known.files.items() if not n.startswith(SEGMENTS)}

    def note(self, name: str, there: str) -> None:
        """The file is the same on both sides now."""
        self.known.files[name] = [self.stamp(name), there]
        self.save()

    def save(self) -> None:
        write_json(self.folder / STATE, vars(self.known))

    def stamp(self, name: str) -> str:
        """Changes when the file here does."""
        found = [path.stat() for path in (self.folder / name, self.folder / f"{name}-wal") if path.exists()]
        return " ".join(f"{stat.st_size} {stat.st_mtime_ns}" for stat in found)

    def changed(self) -> list[str]:
        """Names of files here that are not the same there; the summary last."""
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        names = [path.relative_to(self.folder).as_posix() for path in paths]
        mine = [name for name in names if not _is_here_only(name) and not name.startswith(f"{JOURNAL}.")]
        found = [name for name in mine if self.known.files.get(name, [""])[0] != self.stamp(name)]
        return sorted(found, key=lambda name: (name == SUMMARY, name not in self.absorb, name))

    def send(self, name: str) -> None:
        """Upload a file as it is now; of a database, a snapshot."""
        before = self.stamp(name)
        file = self.folder / name
        if name in self.absorb:
            file = self.folder / "snapshot.part"
            snapshot(self.folder / name, file)
        there = self.store.put(file, name)
        if name in self.absorb:
            file.unlink()
        self.known.files[name] = [before, there]
        self.save()


def _is_here_only(name: str) -> bool:
    # Of shards, what is committed comes into the journal when their segment is through.
    return name in HERE_ONLY or name.endswith(HERE_ENDINGS) or name.startswith(f"{SHARDS}/")


class Mirror(Copy):
    """The copy that a run works in. `kept` is around the run, `start` is called once it walks."""

    def __init__(
        self, store: Store, folder: Path, absorb: Mapping[str, Absorb], pace: Pace, say: Callable[[str], None]
    ) -> None:
        super().__init__(store, folder, absorb)
        self.pace, self.say = pace, say
        self.lease = Lease(store, self.known.home, pace.renew_s)
        self._made: list[tuple[str, int, int, int]] = []
        """Segments of this start: (name, how often joined, after which call, up to which)."""
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
        self.save()
        try:
            self._patiently(lambda: self.bring(lambda name: True, ours=True))
            # Until the run is finished again, what is said there is of an earlier start.
            self._patiently(lambda: self.store.remove(SUMMARY))
            self.known.files.pop(SUMMARY, None)
            try:
                yield
            except SynthprefError:
                self._pause()
                with suppress(RemoteError):
                    self.send_calls()
                raise
            self._pause()
            self._send_all()
        finally:
            self._pause()
            with suppress(RemoteError):
                self.lease.release()

    def start(self, stop: Callable[[str], None], told: Callable[[], str]) -> None:
        """Upload from now on. `stop` is called when that fails for good, or another run took over; `told` says how far
        the run is. Both in a thread."""

        def about() -> dict[str, Any]:
            with suppress(RuntimeError):  # The counters may change while they are read.
                return {"told": told()}
            return {}

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
            for name in self.changed():
                if name in self.absorb and name != JOURNAL:
                    self.send(name)

    def send_calls(self) -> None:
        """Upload the calls that came since the last time."""
        with self._turn:
            self._send_calls(self.folder / JOURNAL)

    def _send_calls(self, journal: Path) -> None:
        if not journal.exists():
            return
        which, last = journal.stat().st_ino, last_call(journal)
        # Of a journal that was made anew, nothing is known to be there.
        after = self.known.sent[1] if self.known.sent[0] == which else 0
        if last <= after:
            return
        self._segment(0, after, last)
        self.known.sent = [which, last]
        self.save()
        while len({times for _, times, _, _ in self._made[-JOINED:]}) == 1 and len(self._made) >= JOINED:
            self._join()

    def _segment(self, times: int, after: int, last: int) -> None:
        self._count += 1
        name = f"{SEGMENTS}{self.lease.token}-{self._count:06}.sqlite"
        piece = self.folder / "segment.part"
        cut(self.folder / JOURNAL, after, last, piece)
        self.note(name, self.store.put(piece, name))
        piece.unlink()
        self._made.append((name, times, after, last))

    def _join(self) -> None:
        old = self._made[-JOINED:]
        self._segment(old[0][1] + 1, old[0][2], old[-1][3])
        self._made[-JOINED - 1 : -1] = []
        for name, *_ in old:
            self._remove(name)

    def _remove(self, name: str) -> None:
        self.store.remove(name)
        self.known.files.pop(name, None)
        self.save()

    def _send_all(self) -> None:
        """The run has come to an end, of whatever kind."""
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
