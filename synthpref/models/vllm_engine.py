"""The life of an engine beside the run: started when it is first asked, shared by the roles on it, started once more
when it dies, at rest while others have the device, and ended with the last of its roles. What it is, and how it is
started, is the caller's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import glob
import logging
import multiprocessing
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from synthpref.core.errors import BackendError, ErrorKind
from synthpref.models.vllm_args import why_not
from synthpref.models.vllm_child import is_engine

QUIET_S = 3600.0
"""An engine that dies again so soon will go on dying; one that lived longer is started again."""
LOOK_S = 0.5
PATIENCE_S = 10.0
"""How long an engine that is still starting may take to end when it is told to."""
CLOSING_S = 60.0
"""How long an engine may take to end by itself; killed, it leaves things behind."""

Launch = Callable[[Path, threading.Event], tuple[Any, Mapping[int, str]]]
"""Starts an engine, in a thread. Given a file to write its log to, and whether it has been given up meanwhile; returns
what has a blocking `shutdown(timeout)`, and its processes (see `family`)."""

log = logging.getLogger("synthpref")


class Engine:
    """One engine. A launch that fails is not tried again."""

    def __init__(
        self,
        name: str,
        launch: Launch,
        stop: asyncio.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleeps: bool = False,
    ) -> None:
        self.name, self._launch, self._stop, self._clock, self._sleeps = name, launch, stop, clock, sleeps
        self._starting: asyncio.Task[Any] | None = None
        self._running: Any = None
        self._asleep: Any = None
        self._died_at: float | None = None
        self._users = 0
        self._given_up = threading.Event()
        self._folder: Path | None = None
        self._family: Mapping[int, str] = {}
        self._read = 0
        """How much of the log is of engines before this one."""

    def use(self) -> Engine:
        """One more role asks it; `aclose` is called once for each."""
        self._users += 1
        return self

    async def ready(self) -> Any:
        """The running engine, which is started if there is none. Raises BackendError when that fails."""
        if self._running is not None:
            return self._running
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(None))
        starting = self._starting
        stopping = asyncio.create_task(self._stop.wait()) if self._stop else None
        try:
            # Who waits may be cancelled; the others wait on.
            await asyncio.wait([t for t in (starting, stopping) if t], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if stopping:
                stopping.cancel()
        if not starting.done():
            raise BackendError(
                "rate_limit", f"{self.name}: the run is stopping, and the engine is not up yet"
            )
        return starting.result()

    async def died(self, engine: Any, error: BaseException) -> None:
        """It is dead: start it again, unless somebody did. Raises BackendError where it is not worth it."""
        if self._stop and self._stop.is_set():
            # Of a kind for which the row is left for the next start, instead of being rejected.
            raise BackendError(
                "rate_limit", f"{self.name}: the engine is gone, and the run is stopping"
            ) from error
        if engine is not self._running:
            return
        now = self._clock()
        if self._died_at is not None and now - self._died_at < QUIET_S:
            why = why_not(self._log(), error)
            raise BackendError("unsupported", f"{self.name}: the engine died again: {why}; {self._where()}")
        log.warning("%s: the engine died and is started again: %s", self.name, why_not(self._log(), error))
        self._died_at, self._running = now, None
        self._starting = asyncio.create_task(self._start(engine))

    async def rest(self) -> None:
        """Give the device's memory up until it is asked again; nobody may ask it meanwhile. It sleeps, if it can, and
        else it ends and is started anew."""
        if self._starting is None:
            return
        await asyncio.wait([self._starting])
        if (running := self._running) is None:
            return
        began = self._clock()
        self._running, self._starting, self._asleep = None, None, running
        if self._sleeps:
            try:
                await running.sleep(1)
            except Exception as error:  # noqa: BLE001  whatever it says, it can be ended
                log.warning("%s: the engine does not sleep, and is ended: %s", self.name, error)
            else:
                log.info("%s: the engine sleeps after %.1f s", self.name, self._clock() - began)
                return
        if self._asleep is running:
            self._asleep = None
            await self._end(running)
            log.info("%s: the engine has ended after %.1f s", self.name, self._clock() - began)

    async def _woken(self) -> Any:
        """The engine that slept; None if there is none, or it does not wake up."""
        if (asleep := self._asleep) is None:
            return None
        began, self._asleep = self._clock(), None
        try:
            await asleep.wake_up()
        except Exception as error:  # noqa: BLE001  the same
            log.warning("%s: the engine does not wake up, and is started again: %s", self.name, error)
            await self._end(asleep)
            return None
        log.info("%s: the engine is awake after %.1f s", self.name, self._clock() - began)
        return asleep

    async def _end(self, engine: Any) -> None:
        await _shut(engine)
        # Its workers end a little later, and hold the device's memory until then.
        await asyncio.to_thread(_until_gone, self._family, CLOSING_S)

    async def _start(self, dead: Any) -> Any:
        if (woken := await self._woken()) is not None:
            self._running = woken
            return woken
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="synthpref-engine-"))
        path = self._folder / "engine.log"
        if dead is not None:
            await self._end(dead)
            dead = None
        self._read = path.stat().st_size if path.exists() else 0
        log.info("%s: the engine starts; its log is %s", self.name, path)
        began = self._clock()
        failed: BackendError | None = None
        try:
            # In a list, because the futures of a thread keep what it returns.
            made: list[tuple[Any, Mapping[int, str]]] = []
            await asyncio.to_thread(lambda: made.append(self._launch(path, self._given_up)))
        except Exception as error:
            kind: ErrorKind = "not_found" if isinstance(error, OSError) else "unsupported"
            why = why_not(self._log(), error)
            log.info("%s: the engine did not start", self.name, exc_info=error)
            # Its frames hold an engine that is half there.
            traceback.clear_frames(error.__traceback__)
            failed = BackendError(kind, f"{self.name}: the engine did not start: {why}; {self._where()}")
        if failed:
            raise failed
        log.info("%s: the engine is up after %.0f s", self.name, self._clock() - began)
        self._running, self._family = made.pop()
        return self._running

    def _log(self) -> str:
        with contextlib.suppress(OSError), ((self._folder or Path()) / "engine.log").open("rb") as file:
            file.seek(self._read)
            return file.read().decode("utf-8", "replace")
        return ""

    def _where(self) -> str:
        return f"see {self._folder}/engine.log" if self._folder else "it wrote no log"

    async def aclose(self) -> None:
        self._users -= 1
        if self._users > 0:
            return
        self._given_up.set()
        asleep, self._asleep = self._asleep, None
        if asleep is not None:
            await _shut(asleep)
            del asleep
        if self._starting is None:
            self._leave_no_log()
            return
        starting, self._starting = self._starting, None
        patient_until = self._clock() + PATIENCE_S
        while not starting.done():
            # A thread cannot be cancelled, but without its processes the launch ends. One that loads a model may not
            # listen before that is done.
            for process in multiprocessing.active_children():
                if is_engine(process.name):
                    (process.terminate if self._clock() < patient_until else process.kill)()
            await asyncio.wait([starting], timeout=LOOK_S)
        self._running = None
        if not starting.cancelled() and not starting.exception():
            await _shut(starting.result())
        # What is left in cycles would speak up when the interpreter ends.
        del starting
        gc.collect()
        self._leave_no_log()

    def _leave_no_log(self) -> None:
        if self._folder and self._died_at is None:
            shutil.rmtree(self._folder, ignore_errors=True)


def children() -> set[int]:
    """The engines that this process has started."""
    return {p.pid for p in multiprocessing.active_children() if is_engine(p.name) and p.pid}


def family(of: set[int]) -> dict[int, str]:
    """Processes and all that they have started: pid -> when it began. Empty where the system does not say."""
    parents: dict[int, tuple[int, str]] = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = Path(path).read_text("utf-8", "replace").rpartition(")")[2].split()
            parents[int(path.split("/")[2])] = int(fields[1]), fields[19]
    grown = set(of)
    while of:
        of = {child for child, (parent, _) in parents.items() if parent in of} - grown
        grown |= of
    return {one: parents[one][1] for one in grown if one in parents}


def _until_gone(pids: Mapping[int, str], within_s: float) -> None:
    until = time.monotonic() + within_s
    while time.monotonic() < until and any(_began(pid) == began for pid, began in pids.items()):
        time.sleep(0.1)


def _began(pid: int) -> str:
    """When the process with this number began; "" when there is none."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""


def _nothing(timeout: float | None = None) -> None:
    pass


async def _shut(engine: Any) -> None:
    """End an engine; one that is dead already may complain."""
    with contextlib.suppress(Exception):
        await asyncio.to_thread(engine.shutdown, timeout=CLOSING_S)
        # It is asked once more when it is collected, which may be when the interpreter has no modules any more.
        engine.shutdown = _nothing
    # What it still has to do in this loop when it ends.
    await asyncio.sleep(0)
