"""Bare loop and synthpref in turn, A B A B: latency, width and skew, where the endpoint is what takes the time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jobs
from endpoint import running
from results import Section, Table, conditions, line, lines, median, spread
from seen import busy, flow
from side import Side, measure

SEED = 11
CLOSE, FILLED, APART = 1.10, 0.90, 0.25
"""The targets: run / bare loop; share of slots busy; what a slow answer costs other rows, in slow answers."""

Column = tuple[str, str, Callable[[Side], float]]
"""A title, how a number is written, and the number of one measurement."""

WALL: Column = ("wall, s", "{:.2f}", lambda side: side.wall_s)
CPU: Column = ("CPU, s", "{:.2f}", lambda side: side.cpu_s)
PEAK: Column = ("peak memory, MB", "{:.0f}", lambda side: side.peak_mb)


@dataclass(frozen=True)
class Round:
    bare: Side
    ours: Side


def compare(*, rows: int, slots: int, rounds: int, **law: Any) -> list[Round]:
    """So many rounds against one endpoint. Each side finds it as if new: the same law from the same seed."""
    found = []
    with running(slots=slots, seed=SEED, **law) as endpoint:
        for number in range(rounds):
            bare = measure("bare", endpoint, rows=rows, slots=slots)
            ours = measure("ours", endpoint, rows=rows, slots=slots)
            found.append(Round(bare, ours))
            walls = f"bare loop {bare.wall_s:.2f} s, synthpref {ours.wall_s:.2f} s"
            print(f"  round {number + 1} of {rounds}: {walls}", file=sys.stderr, flush=True)
    return found


def sides(found: Sequence[Round], *columns: Column) -> Table:
    """A row for each side of the comparison."""
    by_name = {"bare loop": [r.bare for r in found], "synthpref": [r.ours for r in found]}
    rows = [
        [name, *(spread([of(side) for side in measured], form) for _, form, of in columns)]
        for name, measured in by_name.items()
    ]
    return Table(["", *(title for title, *_ in columns)], rows)


def under(found: Sequence[Round], rows: int, slots: int, mean_s: float) -> dict[str, str]:
    return conditions(
        rows=f"{rows:,}",
        requests=f"{rows * jobs.REQUESTS:,}",
        slots=f"{slots:,}",
        latency=f"{mean_s * 1000:g} ms, log-normal",
        rounds=str(len(found)),
    )


def figures(found: Sequence[Round]) -> dict[str, Any]:
    """What was measured, without what is long."""

    def short(side: Side) -> dict[str, Any]:
        seen = {name: side.stats[name] for name in ("requests", "answers", "most_at_once")}
        return {**{k: v for k, v in asdict(side).items() if k not in ("stats", "profile")}, **seen}

    return {"rounds": [{"bare": short(r.bare), "ours": short(r.ours)} for r in found]}


def latency(*, rows: int = 2000, slots: int = 64, mean_s: float = 0.05, rounds: int = 5) -> Section:
    """Bound by the endpoint's latency: how much longer is a whole run, journal and dataset included?"""
    found = compare(rows=rows, slots=slots, rounds=rounds, latency_s=mean_s)
    ratios = [r.ours.wall_s / r.bare.wall_s for r in found]
    what = f"wall time of a run / of the bare loop, {slots} slots x {mean_s * 1000:g} ms"
    head = lines(line(what, f"≤ {CLOSE:.2f}", spread(ratios), median(ratios) <= CLOSE))
    whole: Column = ("slots busy over all", "{:.2f}", lambda side: busy(side.stats).whole)
    return Section(
        [head, sides(found, WALL, whole, CPU, PEAK)], under(found, rows, slots, mean_s), figures(found)
    )


def wide(*, rows: int = 15_000, slots: int = 1024, mean_s: float = 1.0, rounds: int = 3) -> Section:
    """Many slots and slow answers: are all of them kept busy?"""
    found = compare(rows=rows, slots=slots, rounds=rounds, latency_s=mean_s)
    middle = [busy(r.ours.stats).middle for r in found]
    what = f"share of {slots:,} slots x {mean_s:g} s busy outside ramp-up and tail"
    head = lines(line(what, f"≥ {FILLED:.2f}", spread(middle), median(middle) >= FILLED))
    table = sides(
        found,
        ("busy outside ramp-up and tail", "{:.2f}", lambda side: busy(side.stats).middle),
        ("busy over all", "{:.2f}", lambda side: busy(side.stats).whole),
        ("ramp-up, s", "{:.1f}", lambda side: busy(side.stats).ramp_s),
        ("most at once", "{:,.0f}", lambda side: busy(side.stats).most),
        WALL,
        CPU,
        PEAK,
    )
    return Section([head, table], under(found, rows, slots, mean_s), figures(found))


def skew(
    *,
    rows: int = 2000,
    slots: int = 64,
    mean_s: float = 0.05,
    share: float = 0.01,
    factor: float = 50.0,
    rounds: int = 5,
) -> Section:
    """A few answers take very much longer: do rows wait for answers that are not theirs?"""
    law = {"latency_s": mean_s, "slow_share": share, "slow_factor": factor}
    found = compare(rows=rows, slots=slots, rounds=rounds, log=True, **law)
    flows = [flow(r.ours.stats, mean_s, jobs.REQUESTS) for r in found]
    ratios = [r.ours.wall_s / r.bare.wall_s for r in found]
    one = mean_s * factor
    pauses, ages = [f.pause / one for f in flows], [f.age_p99 / one for f in flows]
    slow = f"{share:.0%} of the answers {factor:g} times slower"
    head = lines(
        line(f"wall time of a run / of the bare loop, {slow}", f"≤ {CLOSE:.2f}", spread(ratios), median(ratios) <= CLOSE),
        line("longest pause between two rows that end / a slow answer", f"≤ {APART:.2f}", spread(pauses), median(pauses) <= APART),
        line("99th percentile of the age of a row that has no slow answer / a slow answer", f"≤ {APART:.2f}", spread(ages), median(ages) <= APART),
    )  # fmt: skip

    def flowing(side: Side) -> Any:
        return flow(side.stats, mean_s, jobs.REQUESTS)

    table = sides(
        found,
        WALL,
        ("slots busy over all", "{:.2f}", lambda side: busy(side.stats).whole),
        ("slow answers", "{:.0f}", lambda side: flowing(side).slow),
        ("longest pause, ms", "{:.0f}", lambda side: flowing(side).pause * 1000),
        ("age of a row without one, p99, ms", "{:.0f}", lambda side: flowing(side).age_p99 * 1000),
    )
    kept = figures(found) | {"flows": [asdict(f) for f in flows]}
    return Section([head, table], under(found, rows, slots, mean_s) | {"slow": slow}, kept)
