"""One run of one tool, measured from outside: at the endpoint, at the clock and at the memory of its processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.endpoint import Endpoint
from bench.peers.tools import Job, Tool, environment

IDLE_S = 60.0
"""Who asks for nothing for so long, and does not end, hangs."""
LIMIT_S = 900.0
STARTS = 3
"""How often the same command is given again after a kill."""


def members(leader: int) -> list[int]:
    """The processes of a session, whose leader is the process that was started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def resident_mb(pids: list[int]) -> float:
    """The memory of all of them together, what they share counted once."""
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def spent_s() -> float:
    """CPU time of all processes that were started from here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def machine_s() -> tuple[float, float]:
    """CPU time that this machine has spent and that it had, over all cores."""
    user, nice, system, idle, iowait, *rest = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    busy, ticks = user + nice + system + sum(rest), os.sysconf("SC_CLK_TCK")
    return busy / ticks, (busy + idle + iowait) / ticks


class Run:
    """A tool at work, its output in `log.txt` of the job's folder."""

    def __init__(self, tool: Tool, job: Job, **extra: str) -> None:
        self.tool, self.job = tool, job
        self.peak_mb = 0.0
        self.log = job.folder / "log.txt"
        with self.log.open("ab") as log:
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                tool.command(job),
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment(job.folder), **extra},
                start_new_session=True,
            )
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def _watch(self) -> None:
        while self.process.poll() is None:
            self.peak_mb = max(self.peak_mb, resident_mb(members(self.process.pid)))
            time.sleep(0.5)

    def wait(self, endpoint: Endpoint, limit_s: float) -> str:
        """Until it ends: "" when it succeeded, else what happened."""
        asked, moved = -1, time.monotonic()
        while True:
            try:
                code = self.process.wait(timeout=5)
                break
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                requests = endpoint.stats()["requests"]
                if requests != asked:
                    asked, moved = requests, now
                if now - moved > IDLE_S:
                    return f"hangs: asks for nothing for {IDLE_S:.0f} s"
                if now - self.started > limit_s:
                    return f"not done after {limit_s:.0f} s"
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return (
            f"exit {code}: {next((line for line in reversed(lines) if line.strip()), '')[:200]}"
            if code
            else ""
        )

    def kill(self) -> None:
        """SIGKILL to the tool and all that it started, at once."""
        for pid in members(self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


@contextmanager
def running(tool: Tool, job: Job, **extra: str) -> Iterator[Run]:
    run = Run(tool, job, **extra)
    try:
        yield run
    finally:
        run.kill()


def drained(endpoint: Endpoint) -> dict[str, Any]:
    """What the endpoint has seen, once all that waits for an answer there has been answered."""
    while True:
        stats = endpoint.stats()
        if stats["answers"] == stats["requests"]:
            return stats
        time.sleep(0.1)


def short(tool: Tool, job: Job, count: int) -> str:
    """What is missing in the dataset of a run that ended well, or ""."""
    if tool.records is None or (records := tool.records(job.folder)) == count:
        return ""
    return f"ends with {records} records of {count} prompts"


def measured(tool: Tool, job: Job, endpoint: Endpoint, count: int) -> dict[str, Any]:
    """One undisturbed run. `start_s` is what passes before the first request, `run_s` all after it; `others_share`
    is what others than the tool took of the machine's cores, the endpoint among them."""
    endpoint.reset()
    before, (busy_before, had_before) = spent_s(), machine_s()
    with running(tool, job) as run:
        why = run.wait(endpoint, LIMIT_S)
        ended = time.monotonic()
    cpu, (busy_after, had_after) = spent_s() - before, machine_s()
    stats = drained(endpoint)
    why = why or short(tool, job, count)
    busy = [at for at, slots in stats["ticks"] if slots]
    if why or not busy:
        return {"failed": why or "asked for nothing"}
    span = busy[-1] - busy[0]
    return {
        "busy_share": stats["busy_s"] / job.slots / span,
        "requests": stats["requests"],
        "most_at_once": stats["most_at_once"],
        "start_s": busy[0] - run.started,
        "run_s": ended - busy[0],
        "span_s": span,
        "peak_mb": run.peak_mb,
        "cpu_s": cpu,
        "others_share": (busy_after - busy_before - cpu) / (had_after - had_before),
    }


def killed(tool: Tool, job: Job, endpoint: Endpoint, count: int, share: float) -> dict[str, Any]:
    """SIGKILL once `share` of the answers are given, then the same command until it is done, at most STARTS times."""
    endpoint.reset()
    needed = count * tool.requests
    with running(tool, job) as run:
        while (stats := endpoint.stats())["answers"] < share * needed and run.process.poll() is None:
            time.sleep(0.02)
        run.kill()
    in_flight = stats["requests"] - stats["answers"]
    drained(endpoint)
    ends: list[str] = []
    while len(ends) < STARTS and "done" not in ends:
        with running(tool, job) as run:
            why = run.wait(endpoint, LIMIT_S)
        drained(endpoint)
        ends.append(why or short(tool, job, count) or "done")
    requests = drained(endpoint)["requests"]
    return {
        "share": share,
        "in_flight": in_flight,
        "ends": ends,
        "requests": requests,
        "repeated": requests - needed if ends[-1] == "done" else None,
    }
