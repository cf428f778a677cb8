"""What runs inside the process of an engine that a run started (vLLM loads it there as a plugin), or of a server.

A run that is killed leaves nobody to end its engine, which would keep the device's memory, and the next start of the
run would find none. So the process waits for the end of the one that started it. And what it prints goes into the
engine's log, because the terminal is the run's.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import wait

LOG = "SYNTHPREF_ENGINE_LOG"
"""Where a run that starts an engine wants its log. Without it, and in other processes, nothing is done."""
GRACE_S = 10.0
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl."""

_begun = threading.Event()


def begin() -> None:
    """Log into the file, and end with the parent. Called more than once in a process, it does so once."""
    parent, path = multiprocessing.parent_process(), os.environ.get(LOG)
    # An engine's own workers end with it, in an order of their own.
    if parent is None or not path or not is_engine(multiprocessing.current_process().name) or _begun.is_set():
        return
    _begun.set()
    sys.stdout.flush()
    sys.stderr.flush()
    # The folder may be gone with its run, where something else that was started then starts an engine now.
    with suppress(OSError), open(path, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    threading.Thread(target=_watch, args=(parent.sentinel,), name="parent", daemon=True).start()


def is_engine(process: str) -> bool:
    """Whether a process is an engine, by the name that vLLM gives it."""
    return process.startswith("EngineCore")


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    # One that is stuck does not hear it.
    threading.Event().wait(GRACE_S)
    os._exit(1)


def main() -> None:
    """Be a vLLM server that ends with who started it, where the system can see to that."""
    import ctypes
    import runpy

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
