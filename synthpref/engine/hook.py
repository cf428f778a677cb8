"""What a user has done after a round: a line for the shell, run once to its good end, whoever is killed meanwhile.

A small shell stands between the run and the hook. It holds a lock while the hook is at work and writes down the exit
code, so that a start of the run after a kill knows whether the hook has ended, and how, or is at work still. Neither
the lock nor the output is waited for: what a hook leaves in the background (a server) may stay.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from synthpref.engine.signals import hearing

log = logging.getLogger("synthpref")

# Its standard input is the lock, which the hook does not get. With a trap it outlives an interrupt, and the hook
# decides what to make of one.
_KEEPER = """
trap : INT TERM
echo $$ >&0
sh -c "$1" </dev/null
echo $? >"$2.part" && mv "$2.part" "$2"
"""
_LOOK_S = 0.1
Tell = Callable[[str], None]
TAIL = 20
"""Lines of a hook's output that are shown when it fails."""


@dataclass(frozen=True)
class Ended:
    """How a hook ended: its exit code, None where it was killed; and whether the run was told to stop meanwhile."""

    code: int | None = 0
    told: bool = False


def ended(at: Path) -> int | None:
    """How the last hook of the round ended: its exit code, None where that is not known."""
    try:
        return int((at / "hook.exit").read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None


def working(at: Path) -> int | None:
    """The process group of the round's hook where it is at work."""
    try:
        with (at / "hook.lock").open("r+", encoding="ascii") as lock:
            return None if _free(lock) else int(lock.read() or 0)
    except FileNotFoundError:
        return None


def run(line: str, at: Path, cwd: Path, environment: Mapping[str, str], tell: Tell) -> Ended:
    """Run the hook of the round in the folder `at`. Raises KeyboardInterrupt when told twice to stop."""
    import fcntl  # not everywhere

    (at / "hook.exit").unlink(missing_ok=True)
    (at / "next.txt").write_text("", encoding="utf-8")
    begun: list[int] = []
    with _passing_on(lambda: begun[0] if begun else None) as told:
        tell(f"the hook is at work ({at}/hook.log)")
        with (at / "hook.lock").open("w+", encoding="ascii") as lock, (at / "hook.log").open("ab") as output:
            fcntl.flock(lock, fcntl.LOCK_EX)  # may wait a moment for one who looks
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            output.write(f"--- {now} the hook begins\n".encode())
            output.flush()
            process = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER, "hook", line, str((at / "hook.exit").resolve())],
                cwd=cwd,
                env={**os.environ, **environment},
                stdin=lock,
                stdout=output,
                stderr=output,
                # Ctrl-C is for the run, which passes it on; and what the hook leaves running is not of the run.
                start_new_session=True,
            )
        begun.append(process.pid)
        if told:  # while there was nobody yet to tell
            _send(process.pid, signal.SIGINT)
        process.wait()
    return Ended(ended(at), bool(told))


def wait(at: Path, tell: Tell) -> Ended:
    """Wait for a hook that an earlier start of the run has left at work; as `run`."""
    with _passing_on(lambda: working(at)) as told:
        tell(f"the hook of an earlier start is at work; waiting for it ({at}/hook.log)")
        while working(at) is not None:
            time.sleep(_LOOK_S)
    return Ended(ended(at), bool(told))


def last_lines(at: Path) -> str:
    """The end of what the hook printed."""
    with (at / "hook.log").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-TAIL:])


def _free(lock: IO[str]) -> bool:
    """Whether no hook holds the lock. Looking does not take it from others who look."""
    import fcntl  # not everywhere

    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _send(group: int | None, number: signal.Signals) -> None:
    try:
        if group:
            os.killpg(group, number)
    except ProcessLookupError:
        log.info("the hook had ended when it was to be told")


@contextmanager
def _passing_on(group: Callable[[], int | None]) -> Iterator[list[str]]:
    """The first signal goes to the hook, as an interrupt; the second kills it, and leaves. Yields what was told."""
    told: list[str] = []

    def first() -> None:
        told.append("stop")
        _send(group(), signal.SIGINT)
        os.write(2, b"\nStopping: waiting for the hook; interrupt again to kill it.\n")

    def second() -> None:
        _send(group(), signal.SIGKILL)
        raise KeyboardInterrupt

    with hearing() as signals:
        signals.steps = iter((first, second))
        yield told
