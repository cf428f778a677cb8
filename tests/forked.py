"""The command line in a process of its own, without the second and a half that a fresh one takes to import it.

A helper imports the program once for all tests; each start is a fork of it. Only what had been imported differs from
`python -m synthpref.cli`: environment, folder, streams, limits, signals, exit code and end are those of a fresh
process. Elsewhere than on Linux it is a fresh process.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import pkgutil
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
LONGEST = 1 << 18
LATER = ("synthpref.models.vllm_child", "synthpref.models.vllm_engine", "synthpref.models.local_loaded")
"""Modules that import what is not installed, or starts threads."""


def start(
    *args: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    out: Any = subprocess.PIPE,
    err: Any = subprocess.STDOUT,
    file_limit: int | None = None,
) -> subprocess.Popen[str]:
    """`synthpref args`; `out` and `err` as for a Popen. `file_limit` is how many bytes a file may have."""
    env = dict(os.environ if env is None else env)
    if sys.platform == "linux":
        return Fork(args, cwd, env, out, err, file_limit)
    command = [sys.executable, "-m", "synthpref.cli", *args]
    return subprocess.Popen(
        command, cwd=cwd, env=env, stdout=out, stderr=err, text=True, preexec_fn=lambda: _limit(file_limit)
    )


def run(*args: str, patience_s: float = 100, **how: Any) -> subprocess.CompletedProcess[str]:
    """`synthpref args` to its end, with what it says in stdout and stderr."""
    process = start(*args, err=subprocess.PIPE, **how)
    said = process.communicate(timeout=patience_s)
    return subprocess.CompletedProcess(args, process.returncode, *said)


class Fork(subprocess.Popen[str]):
    """A fork of the helper, which is handled like any process that was started here."""

    def __init__(
        self, args: Sequence[str], cwd: Path, env: Mapping[str, str], out: Any, err: Any, limit: int | None
    ) -> None:
        self.stdin = None
        self.stdout, write = _end(out)
        self.stderr, other = _end(err)
        order = {"args": args, "cwd": str(cwd), "env": env, "file_limit": limit}
        self.pid = _forked(json.dumps(order).encode(), [write, write if err == subprocess.STDOUT else other])
        for end, stream in ((write, self.stdout), (other, self.stderr)):
            if stream is not None:
                os.close(end)
        # What Popen's own methods look at.
        self.args, self.returncode, self._child_created = args, None, True
        self._communication_started, self._input, self.text_mode = False, None, True
        self._waitpid_lock = threading.Lock()


def _end(wanted: Any) -> tuple[Any, int]:
    """(the stream that is read here, the file that is written there)."""
    if wanted == subprocess.PIPE:
        read, write = os.pipe()
        return os.fdopen(read, encoding="utf-8"), write
    return None, wanted if isinstance(wanted, int) else wanted.fileno()


def _forked(order: bytes, files: list[int]) -> int:
    """The process that the helper makes of the order. It is left by its parent, and while it is, we are the one who
    takes in who is left, so that it can be waited for."""
    helper = _helper()
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    socket.send_fds(helper, [order], files)
    said = helper.recv(32)
    ctypes.CDLL(None).prctl(SUBREAPER, 0, 0, 0, 0)
    assert said, "the helper has ended; what it said stands above"
    return int(said)


@cache
def _helper() -> socket.socket:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        command = [sys.executable, __file__, str(its.fileno())]
        # It ends when the door is shut. Nobody waits for it, and nobody is to be warned of that.
        subprocess.Popen(command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL).returncode = 0
    atexit.register(ours.close)
    return ours


def _limit(size: int | None) -> None:
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


# ---- the helper


def _import() -> None:
    """Import the program, and all that a run may come to need."""
    import synthpref

    for module in pkgutil.walk_packages(synthpref.__path__, "synthpref."):
        if module.name not in LATER:
            import_module(module.name)
    for name in ("aiohttp", "numpy.ma", "pyarrow.json", "pyarrow.parquet", "rensa", "rich._emoji_codes"):
        import_module(name)
    # What reads the environment when it is imported is left to the forks.
    assert not {"datasets", "huggingface_hub"} & sys.modules.keys()
    assert threading.active_count() == 1, "a fork would have none of the threads"
    gc.freeze()


def _wait(door: socket.socket) -> list[str]:
    """Wait for orders, and return in the fork that was made for one, with its arguments."""
    while True:
        text, files, _, _ = socket.recv_fds(door, LONGEST, 2)
        if not text:
            os._exit(0)
        read, write = os.pipe()
        if between := os.fork():
            os.close(write)
            os.waitpid(between, 0)
            door.send(os.read(read, 32))
            for file in (read, *files):
                os.close(file)
        elif pid := os.fork():
            os.write(write, str(pid).encode())
            os._exit(0)
        else:
            break
    order = json.loads(text)
    for i, file in enumerate(files):
        os.dup2(file, 1 + i)
    for file in (read, write, *files):
        os.close(file)
    door.close()
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    _limit(order["file_limit"])
    args: list[str] = order["args"]
    return args


if __name__ == "__main__":
    _import()
    sys.argv = ["synthpref", *_wait(socket.socket(fileno=int(sys.argv[1])))]
    sys.path[0] = os.getcwd()

    from synthpref.cli import main

    main()
