"""A command run to its end: what it took of time and memory, as the system counts it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CLI = [sys.executable, "-m", "synthpref.cli"]


@dataclass(frozen=True)
class Took:
    wall_s: float
    cpu_s: float
    peak_mb: float
    """The most memory it held. At least as much as its parent when it was started, so the parent has to be small."""
    begun: float
    """When it was started, on the clock that all processes of the machine share."""
    out: str

    def figures(self) -> dict[str, float]:
        return {"wall_s": self.wall_s, "cpu_s": self.cpu_s, "peak_mb": self.peak_mb}


def run(command: Sequence[str | Path], folder: Path | None = None) -> Took:
    """Run the command in `folder`. Raises RuntimeError when it fails."""
    begun = time.monotonic()
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - begun
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{out}")
    return Took(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, begun, out)
