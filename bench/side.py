"""One side of a comparison, in a process of its own: `python bench/side.py bare|ours URL ...` prints what it took.

A fresh process for each measurement, because two sides in one process pay for each other: the garbage collector walks
the heap of both, and what one leaves behind the other carries. Imports and a short warm-up (connections, caches of
the interpreter, the endpoint itself) come before the clock starts; what a start costs is measured by itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jobs
from endpoint import Endpoint

WARM_UP_ROWS = 40
Which = Literal["bare", "ours"]


@dataclass(frozen=True)
class Side:
    """What one side took: seconds on the wall, CPU seconds of all its threads and of the loop's, peak memory."""

    wall_s: float
    cpu_s: float
    loop_cpu_s: float
    peak_mb: float
    stats: dict[str, Any]
    """What the endpoint saw of it."""
    profile: dict[str, float]
    """CPU seconds of the loop's thread by part of the program, where that was asked for."""


def measure(which: Which, endpoint: Endpoint, *, rows: int, slots: int, profile: bool = False) -> Side:
    """Run one side against the endpoint and wait for it."""
    command = [sys.executable, __file__, which, endpoint.url, f"--rows={rows}", f"--slots={slots}"]
    command += ["--profile"] if profile else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Side(**json.loads(done.stdout.splitlines()[-1]), stats=endpoint.stats())


def _run(which: Which, url: str, rows: int, slots: int, folder: Path, profile: bool) -> dict[str, Any]:
    warm = min(rows, WARM_UP_ROWS)
    recipes = [
        jobs.write_recipe(folder / part, url, count, slots=slots)
        for part, count in (("warm", warm), ("measured", rows))
    ]
    sides: dict[Which, list[Callable[[], object]]] = {
        "bare": [lambda: jobs.bare(url, warm, slots), lambda: jobs.bare(url, rows, slots)],
        "ours": [lambda: jobs.ours(recipes[0]), lambda: jobs.ours(recipes[1])],
    }
    go = sides[which]
    go[0]()
    Endpoint(url).reset()
    gc.collect()
    if profile:
        # Only here, so that the sampler is no part of what is measured without it.
        import profiler

        sampler = profiler.Sampler()
    wall, cpu, loop = time.perf_counter(), time.process_time(), time.thread_time()
    if profile:
        with sampler:
            go[1]()
    else:
        go[1]()
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "loop_cpu_s": time.thread_time() - loop,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "profile": sampler.seconds if profile else {},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["bare", "ours"])
    parser.add_argument("url")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        took = _run(
            options.which, options.url, options.rows, options.slots, Path(folder), profile=options.profile
        )
    print(json.dumps(took))


if __name__ == "__main__":
    main()
