"""No latency at all, so that the client is what takes the time: what a request costs in CPU, and where that goes."""

from __future__ import annotations

import jobs
import profiler
from endpoint import running
from paired import CPU, PEAK, WALL, Column, Round, compare, figures, sides, under
from results import Section, Table, line, lines, median, spread
from side import Side, measure

LEAN = 0.6
SHOWN_FROM = 0.01
"""Parts that take a smaller share of the CPU time are shown as one."""
THREADS = "threads beside the loop"

WHAT = {
    profiler.CLIENT: "HTTP: requests out, answers in",
    profiler.LOOP: "the event loop itself",
    profiler.PLUGIN: "the recipe's own judge",
    THREADS: "the journal's writes to the disk, for the most part",
    "engine/ask.py": "call keys, seeds",
    "engine/role.py": "retries, usage",
    "engine/journal.py": "rows and answers made ready to be written; reads",
    "engine/records.py": "what the journal holds, read",
    "engine/runner.py": "the walk of the rows",
    "models/http.py": "requests handed to the HTTP client",
    "models/openai.py": "what is asked of which address",
    "models/wire.py": "requests and answers to and from their JSON",
    "models/limiter.py": "the adaptive limit",
    "models/limit.py": "its law",
    "models/pool.py": "the choice of an endpoint",
    "io/rows.py": "rows.parquet, written and read",
    "io/parquet.py": "Parquet",
    "io/export.py": "the dataset",
    "io/tally.py": "the report",
    "io/read.py": "the source",
    "job.py": "start and end",
}


def client(*, rows: int = 3000, slots: int = 64, rounds: int = 5) -> Section:
    """Requests for each second of CPU, ours / bare loop; then one run of each that is looked at from inside."""
    found = compare(rows=rows, slots=slots, rounds=rounds, latency_s=0.0)
    ratios = [r.bare.cpu_s / r.ours.cpu_s for r in found]
    walls = [r.bare.wall_s / r.ours.wall_s for r in found]
    head = lines(
        line("requests per CPU second, a run / the bare loop", f"≥ {LEAN:.2f}", spread(ratios), median(ratios) >= LEAN),
        line("requests per second, a run / the bare loop", "none", spread(walls)),
    )  # fmt: skip
    requests = rows * jobs.REQUESTS
    each: Column = ("CPU a request, µs", "{:.0f}", lambda side: side.cpu_s / requests * 1e6)
    rate: Column = ("requests per CPU second", "{:,.0f}", lambda side: requests / side.cpu_s)
    with running(slots=slots, latency_s=0.0) as endpoint:
        looked_at = Round(
            measure("bare", endpoint, rows=rows, slots=slots, profile=True),
            measure("ours", endpoint, rows=rows, slots=slots, profile=True),
        )
    parts = {"bare": parts_of(looked_at.bare, requests), "ours": parts_of(looked_at.ours, requests)}
    tables = [head, sides(found, rate, each, WALL, CPU, PEAK), profile(parts["bare"], parts["ours"])]
    return Section(
        tables, under(found, rows, slots, 0.0) | {"latency": "none"}, figures(found) | {"profile": parts}
    )


def parts_of(side: Side, requests: int) -> dict[str, float]:
    """Microseconds of CPU for a request, by part; they add up to all that the process used."""
    seconds = {**side.profile, THREADS: max(0.0, side.cpu_s - side.loop_cpu_s)}
    return {part: s / requests * 1e6 for part, s in seconds.items()}


def profile(bare: dict[str, float], ours: dict[str, float]) -> Table:
    """Where the CPU time of a request goes, the most first."""
    whole = sum(ours.values())
    order = sorted({*bare, *ours}, key=lambda part: -ours.get(part, 0.0))
    shown = [p for p in order if ours.get(p, 0.0) >= SHOWN_FROM * whole or p in bare]
    rest = sum(us for part, us in ours.items() if part not in shown)
    rows = [
        [_name(p), f"{ours.get(p, 0.0) / whole:.0%}", f"{ours.get(p, 0.0):.0f}", f"{bare.get(p, 0.0):.0f}"]
        for p in shown
    ]
    rows.append(["other parts", f"{rest / whole:.0%}", f"{rest:.0f}", "0"])
    rows.append(["all", "100%", f"{whole:.0f}", f"{sum(bare.values()):.0f}"])
    return Table(["CPU time of a request", "share", "synthpref, µs", "bare loop, µs"], rows)


def _name(part: str) -> str:
    what = WHAT.get(part)
    return f"{part}: {what}" if what else part
