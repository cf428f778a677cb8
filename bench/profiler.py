"""Where the CPU time of the event loop's thread goes, by part of the program.

A signal comes after each few milliseconds of CPU time that the process has used, and the stack is looked at. What
the thread's own CPU clock says has passed since the last look is put down to the innermost part on the stack, so the
parts add up to the thread's time, and time spent waiting counts for nothing. A sampling thread would need the
interpreter's lock to look, and would get it mostly where the loop gives it away: it would see those places only.
"""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Self

import synthpref

EVERY_S = 0.002
OURS = str(Path(synthpref.__file__).parent) + "/"
HERE = str(Path(__file__).parent) + "/"
WIRE = ("aiohttp", "yarl", "multidict", "frozenlist", "propcache", "aiosignal", "aiohappyeyeballs")
"""Packages that make up the HTTP client. What any other package does is put down to who called it."""
LOOP, CLIENT, PLUGIN, BARE, REST = "asyncio", "aiohttp", "stage.py", "the bare loop", "the rest"


def part_of(frame: FrameType | None) -> str:
    """The innermost part that stands on the stack: a module of ours ("engine/ask.py"), the HTTP client, the
    recipe's plugin, or the event loop itself. A look that interrupts the last one's end goes to what that had seen."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(OURS):
            return name[len(OURS) :]
        if name.startswith(HERE) and name != __file__:
            return BARE
        _, _, package = name.partition("site-packages/")
        if package.split("/")[0] in WIRE:
            return CLIENT
        if name.endswith("/stage.py"):
            return PLUGIN
        if frame.f_code.co_name == "_run_once":
            return LOOP
        frame = frame.f_back
    return REST


class Sampler:
    """Looks while its block runs, which has to be in the main thread; then `seconds` holds CPU time by part."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._last = 0.0

    def __enter__(self) -> Self:
        self._last = time.thread_time()
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._look(signal.SIGPROF, None)

    def _look(self, number: int, frame: FrameType | None) -> None:
        now = time.thread_time()
        self.seconds[part_of(frame)] += now - self._last
        self._last = now
