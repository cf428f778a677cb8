"""What it takes to start: until the help is shown, and until the first request is at the endpoint."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import child
import jobs
from endpoint import Endpoint, running
from results import Section, Table, conditions, line, lines, median, spread

HELP_S, FIRST_S = 0.3, 1.5
ROWS, SLOTS = 20, 8
PATIENCE_S = 60.0
PACKAGES = 12
"""How many packages the table of imports names."""


def start(*, rounds: int = 7) -> Section:
    """Both times over several rounds, after one that is not counted; then which imports come before the request."""
    with tempfile.TemporaryDirectory() as name, running(slots=SLOTS, latency_s=0.0) as endpoint:
        folder = Path(name)
        shown = [child.run([*child.CLI, "--help"]).wall_s for _ in range(rounds + 1)][1:]
        sent = [_until_request(folder, endpoint, number) for number in range(rounds + 1)][1:]
    head = lines(
        line("synthpref --help, s", f"< {HELP_S}", spread(shown), median(shown) < HELP_S),
        line("synthpref run until the endpoint has the first request, s", f"< {FIRST_S}", spread(sent), median(sent) < FIRST_S),
    )  # fmt: skip
    times, modules = imports()
    rows = [[p, f"{ms:.0f}", str(modules[p])] for p, ms in Counter(times).most_common(PACKAGES)]
    rest = [p for p in times if p not in {row[0] for row in rows}]
    rows.append(["others", f"{sum(times[p] for p in rest):.0f}", str(sum(modules[p] for p in rest))])
    rows.append(["all", f"{sum(times.values()):.0f}", str(modules.total())])
    table = Table(
        ["imported before the first request", "ms, by itself and slowed by being timed", "modules"], rows
    )
    kept = {"help_s": shown, "first_request_s": sent, "imports_ms": dict(times), "modules": dict(modules)}
    return Section([head, table], conditions(rounds=str(rounds)), kept)


def _until_request(folder: Path, endpoint: Endpoint, number: int) -> float:
    recipe = jobs.write_recipe(folder / str(number), endpoint.url, ROWS, slots=SLOTS)
    endpoint.reset()
    took = child.run([*child.CLI, "run", recipe, "--out", recipe.parent / "run"], recipe.parent)
    return float(endpoint.stats()["first"]) - took.begun


def imports() -> tuple[dict[str, float], Counter[str]]:
    """(milliseconds, modules) by package, of what a run has imported when its first request is there.

    The endpoint lets the client wait for its answer meanwhile, so nothing later gets in.
    """
    with tempfile.TemporaryDirectory() as name, running(slots=SLOTS, latency_s=PATIENCE_S) as endpoint:
        recipe = jobs.write_recipe(Path(name), endpoint.url, ROWS, slots=SLOTS)
        log = Path(name) / "imports.txt"
        command = [
            sys.executable,
            "-X",
            "importtime",
            *child.CLI[1:],
            "run",
            str(recipe),
            "--out",
            f"{name}/run",
        ]
        with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
            end = time.monotonic() + PATIENCE_S
            while not endpoint.stats()["requests"] and process.poll() is None and time.monotonic() < end:
                time.sleep(0.1)
            text = log.read_text(encoding="utf-8")
            process.kill()
    times: defaultdict[str, float] = defaultdict(float)
    modules = Counter[str]()
    for entry in text.splitlines():
        if entry.startswith("import time:") and not entry.endswith("imported package"):
            own, _, module = entry.removeprefix("import time:").split("|")
            package = _package(module.strip())
            times[package] += float(own) / 1000
            modules[package] += 1
    return times, modules


def _package(module: str) -> str:
    top = module.split(".")[0]
    return "the standard library" if top in sys.stdlib_module_names else top
