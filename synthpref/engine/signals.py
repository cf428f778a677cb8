"""Ctrl-C and SIGTERM: once to stop, twice to leave."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from synthpref.engine.role import Stop

DEAF_S = 0.5
"""How long a second interrupt may go unheard, while a barrier computes, before it breaks in."""


class Signals:
    """SIGINT or SIGTERM once: finish what is in flight and stop. Twice, or when nothing is in flight: leave at once.

    The handlers are Python's and not the loop's, which hears nothing while a barrier or a stage computes.
    """

    def __init__(self) -> None:
        self.steps: Iterator[Callable[[], object]] = iter(())

    def __call__(self, number: int, frame: object) -> None:
        for step in self.steps:
            step()
            return
        raise KeyboardInterrupt

    @contextmanager
    def stopping(self, stop: Stop) -> Iterator[None]:
        """While calls are made, the first signal is for `stop`, and the second ends the task that runs here."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        again = threading.Timer(DEAF_S, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True

        def first() -> None:
            loop.call_soon_threadsafe(stop.now, "interrupted")
            # Not print: what was interrupted may be printing.
            wait = "waiting for the calls in flight; interrupt again to leave without them"
            os.write(2, f"\nStopping: {wait}.\n".encode())

        def heard() -> None:
            again.cancel()
            if task:
                task.cancel()

        def second() -> None:
            loop.call_soon_threadsafe(heard)
            again.start()

        self.steps = iter((first, second))
        try:
            yield
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            again.cancel()
            self.steps = iter(())


@contextmanager
def hearing() -> Iterator[Signals]:
    """SIGINT and SIGTERM are heard until the block ends."""
    signals = Signals()
    # Only the main thread may take signals; elsewhere the caller decides when to stop.
    taken = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, signals) for number in taken}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
