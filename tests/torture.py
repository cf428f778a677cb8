"""Violence to whole runs, for minutes: `make torture`. Writes what came of it into docs/reliability.md.

    python tests/torture.py --seed 7                    all of it
    python tests/torture.py --only kill --seed 7 --run 3     one killed run again, with the same luck

Ends with 1 if anything was lost, asked again without need, or came out differently. A short form is in
tests/test_torture.py.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import damage
import faults
import kills
import limits_table
import rough
from wire import Server, serving

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
KILLS_A_RUN = 8
SLACK_S = 0.1
"""Beyond the commit window: an answer lies in the socket, and a commit takes its time, while others have the CPU."""
KILLED = {"concurrency": 16}
OUTAGE_S = 30.0
CONCURRENCIES = (1, 7, 32, 256)
PACES = ("none", "random", "late first")


def pace_of(name: str, seed: int) -> Callable[[int], float]:
    """Seconds that the answer to the n-th request takes."""
    if name == "random":
        return lambda number: random.Random(f"{seed}|{number}").uniform(0.0, 0.06)
    if name == "late first":
        # Of each 32 requests that are under way together, the last is answered first.
        return lambda number: (31 - number % 32) * 0.002
    return lambda number: 0.0


@contextmanager
def slow_server(seed: int) -> Iterator[Server]:
    with serving(latency_s=0.01, pace=lambda n: random.Random(f"{seed}|{n}").uniform(0.0, 0.03)) as server:
        yield server


@dataclass(frozen=True)
class Told:
    """The lines of one section of the page, and what went wrong."""

    lines: list[str]
    wrong: list[str]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


# ---- kill


def kill(folder: Path, seed: int, points: int, rows: int, only: int | None) -> Told:
    """Runs that are killed again and again, until there were so many kills."""
    with slow_server(seed) as server:
        calm = kills.calm_run(folder / "calm", server, rows, **KILLED)
        accounts: list[kills.Account] = []
        wrong: list[str] = []
        while only is not None or _points(accounts) < points:
            number = only if only is not None else len(accounts)
            began = time.monotonic()
            account = kills.killed_run(
                folder / "killed", server, rows, calm, f"{seed}|{number}", KILLS_A_RUN, SLACK_S, **KILLED
            )
            accounts.append(account)
            where = ", ".join(f"{x.phase} ({x.again})" for x in account.lives if x.killed)
            print(f"run {number}, {time.monotonic() - began:.0f} s: {where}", *account.wrong, sep="\n    ")
            again = f"python tests/torture.py --only kill --seed {seed} --rows {rows} --run {number}"
            wrong += [f"{what.splitlines()[0]}; again: {again}" for what in account.wrong]
            if only is not None:
                break
    asked = sum(calm.requests.values())
    lines = [
        f"{_points(accounts)} kills in {len(accounts)} runs of {rows} prompts and {asked} requests, "
        f"{KILLED['concurrency']} at a time, 10 to 40 ms each. Runs that did not end in the same bytes: "
        f"{sum(any('differs' in w for w in a.wrong) for a in accounts)}. Seed {seed}.",
        "",
        *table(
            ("killed during", "kills", "asked again: in flight", "asked again: answered", "oldest of these"),
            [_phase(phase, accounts) for phase in kills.PHASES],
        ),
    ]
    return Told(lines, wrong)


def _points(accounts: Sequence[kills.Account]) -> int:
    return sum(life.killed is not None for account in accounts for life in account.lives)


def _phase(phase: str, accounts: Sequence[kills.Account]) -> list[object]:
    lives = [x for account in accounts for x in account.lives if x.phase == phase and x.killed]
    ages = [age for life in lives for age in life.ages]
    again = sum(life.again for life in lives)
    oldest = f"{max(ages) * 1000:.0f} ms before" if ages else "-"
    return [phase, len(lives), again - len(ages), len(ages), oldest]


# ---- faults


def fault(folder: Path, seed: int, rows: int, only: int | None) -> Told:
    """Each trouble done to a run, which has to come out like the run that had none."""
    none = faults.Trouble("nothing", "", faults.some(share=0))
    calm, asked = faults.troubled(folder / "calm", none, rows, "", 0.0, rough.run)
    table_rows: list[tuple[object, ...]] = []
    wrong: list[str] = []
    for number, trouble in enumerate(faults.TROUBLES):
        if only not in (None, number):
            continue
        began, where = time.monotonic(), folder / f"fault-{number}"
        try:
            found, requests = faults.troubled(where, trouble, rows, f"{seed}|{number}", OUTAGE_S, rough.run)
            books = rough.every_row_ends_once(where)
            differ = [name for name in rough.differences(calm, found) if name != "what was paid"]
            ended = f"{books['exported']} / {books['dropped']} / {books['rejected']}"
            result = "the same bytes" if not differ else f"differs: {', '.join(differ)}"
        except AssertionError as error:
            requests, ended, result = 0, "-", f"did not finish: {str(error).splitlines()[0]}"
        took = time.monotonic() - began
        print(f"fault {number}, {took:.0f} s: {trouble.name}: {result}", flush=True)
        if result != "the same bytes":
            again = f"python tests/torture.py --only faults --seed {seed} --run {number}"
            wrong.append(f"{trouble.name}: {result}; again: {again}")
        often = trouble.often.replace("once", f"once, for {OUTAGE_S:g} s")
        table_rows.append((trouble.name, often, requests, ended, result))
    head = ("what goes wrong", "how often", "requests", "exported / dropped / rejected", "dataset")
    lines = [f"Runs of {rows} prompts; undisturbed, they take {asked} requests. Seed {seed}.", ""]
    return Told([*lines, *table(head, table_rows)], wrong)


# ---- determinism


def same(folder: Path, seed: int, rows: int) -> Told:
    """One recipe at several concurrencies and paces, each in a process with a hash seed of its own."""
    first: dict[str, bytes] = {}
    table_rows: list[tuple[object, ...]] = []
    wrong: list[str] = []
    for concurrency in CONCURRENCIES:
        cells = []
        for pace in PACES:
            with serving(pace=pace_of(pace, seed)) as server:
                where = folder / f"same-{concurrency}-{pace.replace(' ', '-')}"
                rough.write(where, [server.url], rows, concurrency=concurrency)
                rough.run(where)
            found = rough.outcome(where)
            first = first or found
            differ = rough.differences(first, found)
            cells.append("the same bytes" if not differ else f"differs: {', '.join(differ)}")
            print(f"{concurrency} at a time, pace {pace}: {cells[-1]}", flush=True)
            if differ:
                again = f"python tests/torture.py --only determinism --seed {seed} --rows {rows}"
                wrong.append(f"{concurrency} at a time, pace {pace}: {cells[-1]}; again: {again}")
        table_rows.append((concurrency, *cells))
    lines = [f"Runs of {rows} prompts, each in a process of its own. Seed {seed}.", ""]
    head = ("requests at once", *(f"latency: {pace}" for pace in PACES))
    return Told([*lines, *table(head, table_rows)], wrong)


# ---- the disk


def disk(folder: Path, seed: int, points: int, only: int | None) -> Told:
    """Journals of finished and of killed runs, each damaged at one place."""
    done = damage.undisturbed(_made(folder / "whole"), _made(folder / "cut short"))
    counts: Counter[tuple[str, str]] = Counter()
    said: Counter[tuple[str, str]] = Counter()
    again: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    for number in range(points) if only is None else [only]:
        rng = random.Random(f"{seed}|{number}")
        how, which = rng.choice(damage.DAMAGE), rng.choice(("whole", "killed"))
        where = folder / f"damaged-{number}"
        kind = (how.__name__.replace("_", " "), {"whole": "finished", "killed": "killed"}[which])
        try:
            found = damage.damaged(done, which, where, how, rng)
        except Exception as error:  # noqa: BLE001  whatever it is, it is what this looks for
            repeat = f"python tests/torture.py --only disk --seed {seed} --run {number}"
            wrong.append(f"{' '.join(kind)}: {type(error).__name__}: {str(error)[:200]}; again: {repeat}")
            continue
        if found is not None:
            counts[kind] += 1
            said[kind] += "damaged" in found
            again[kind] += damage.requests(where) if which == "whole" else 0
        shutil.rmtree(where, ignore_errors=True)
    head = (
        "what is done to the file",
        "of a run",
        "times",
        "said to be damaged",
        "the same bytes",
        "calls made again",
    )
    rows = [
        (how, which, n, said[how, which], n, f"{again[how, which] / n:.1f}" if which == "finished" else "-")
        for (how, which), n in sorted(counts.items())
    ]
    lines = [
        f"{sum(counts.values())} journals damaged; an undisturbed run makes {done.requests} calls. Seed {seed}.", "",
        *table(head, rows),
    ]  # fmt: skip
    return Told(lines, wrong)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


# ---- limits


def limits() -> Told:
    """The law of the limits against simulated servers, in virtual time."""
    servers = table(limits_table.SERVERS, [limits_table.server_line(s) for s in limits_table.scenarios()])
    caps = table(limits_table.CAPS, [limits_table.cap_line(q) for q in limits_table.quotas()])
    return Told([*servers, "", *caps], [])


# ---- the page


def put(name: str, lines: Sequence[str]) -> None:
    """The lines between the markers of a section of the page."""
    start, end = f"<!-- {name}: written by make torture -->", f"<!-- {name}: end -->"
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(start)
    _, found, after = rest.partition(end)
    assert found, f"{PAGE} has no section {name}"
    PAGE.write_text("\n".join([before + start, *lines, end]) + after, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="the luck of this torture; without it, the clock's")
    parser.add_argument("--points", type=int, default=120, help="kills at the least, and damaged journals")
    parser.add_argument("--rows", type=int, default=60, help="prompts of a run")
    parser.add_argument("--only", choices=("kill", "faults", "determinism", "disk", "limits"))
    parser.add_argument(
        "--run", type=int, help="only this killed run, fault or damage; the page stays as it is"
    )
    options = parser.parse_args()
    seed = int(time.time()) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    told: dict[str, Told] = {}
    with tempfile.TemporaryDirectory(prefix="torture-") as made:
        folder = Path(made)
        if options.only in (None, "kill"):
            told["kill"] = kill(folder, seed, options.points, options.rows, options.run)
        if options.only in (None, "faults"):
            told["faults"] = fault(folder, seed, options.rows, options.run)
        if options.only in (None, "determinism"):
            told["determinism"] = same(folder, seed, max(options.rows // 3, 12))
        if options.only in (None, "disk"):
            told["disk"] = disk(folder, seed, options.points, options.run)
        if options.only in (None, "limits"):
            told["limits"] = limits()
    made_on = f"Python {platform.python_version()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}"
    for name, section in told.items():
        print("", *section.lines, sep="\n")
        if options.run is None:
            failures = [f"- **Not met**: {what}" for what in section.wrong]
            put(name, [*section.lines, "", f"({made_on}.)", *([""] if failures else []), *failures])
    wrong = [what for section in told.values() for what in section.wrong]
    print("", *(wrong or ["nothing was wrong"]), sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
