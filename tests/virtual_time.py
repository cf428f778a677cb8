"""An event loop in which time passes by itself: it jumps to the next timer whenever nothing is left to do.

Minutes pass in milliseconds, always in the same order, and the code under test is the real one.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.SelectSelector):
    """Instead of waiting for a timer it moves the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits, and no timer is set: nothing will ever happen")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._time = _Jumping()
        super().__init__(self._time)

    def time(self) -> float:
        return self._time.now


def run(steps: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, in time that starts at 0."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(steps)
