"""Memory and time as the rows grow: runs on simulated models, from the command line, each size a process of its own.

The models answer at once and with few words, so that the rows are what is measured. What a start costs (a run of one
row) is taken from the time before it is divided by the rows: at 10,000 it would hide that a row had become dearer.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import child
import jobs
from results import Section, Table, conditions, line, lines

MEMORY, FLAT = 1.5, 1.10
SIZES = (10_000, 100_000, 1_000_000)


def recipe(folder: Path, rows: int) -> Path:
    """Two short answers for each prompt, a score for each from a reward model, a pair."""
    tree = {
        "name": "growth",
        "models": {
            "policy": {"backend": "simulated", "length": 4},
            "reward": {"backend": "simulated", "model": "reward"},
        },
        "source": {"path": "prompts.jsonl"},
        "stages": [
            {"sample.n": {"model": "policy", "n": 2}},
            {"reward": {"model": "reward"}},
            {"pair.extremes": {"score": "reward"}},
        ],
    }
    jobs.write_source(folder / "prompts.jsonl", rows)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def growth(*, sizes: Sequence[int] = SIZES) -> Section:
    """A run of each size: does a row cost more memory or time where there are more of them?"""
    took: dict[int, child.Took] = {}
    disk: dict[int, float] = {}
    for rows in (1, *sizes):
        with tempfile.TemporaryDirectory() as folder:
            path = recipe(Path(folder), rows)
            took[rows] = child.run([*child.CLI, "run", path, "--out", Path(folder) / "run"], Path(folder))
            disk[rows] = sum(f.stat().st_size for f in (Path(folder) / "run").rglob("*") if f.is_file())
            print(f"  {rows:,} rows: {took[rows].wall_s:.1f} s, {took[rows].peak_mb:.0f} MB", flush=True)
    start, least, most = took[1], sizes[0], sizes[-1]
    wall = {n: (took[n].wall_s - start.wall_s) / n for n in sizes}
    cpu = {n: (took[n].cpu_s - start.cpu_s) / n for n in sizes}
    memory, dearer = took[most].peak_mb / took[least].peak_mb, max(cpu[n] / cpu[least] for n in sizes)
    waits = max(wall[n] / wall[least] for n in sizes)
    # Of fewer rows than the target speaks of, nothing is said.
    known = (least, most) == (SIZES[0], SIZES[-1])
    head = lines(
        line(f"peak memory, {most:,} rows / {least:,} rows", f"≤ {MEMORY}", f"{memory:.2f}", memory <= MEMORY if known else None),
        line(f"time for a row, the dearest size / {least:,} rows", f"≤ {FLAT:.2f}", f"{waits:.2f}", waits <= FLAT if known else None),
        line("the same in CPU time", f"≤ {FLAT:.2f}", f"{dearer:.2f}", dearer <= FLAT if known else None),
    )  # fmt: skip
    table = Table(
        ["rows", "wall, s", "for a row, ms", "CPU for a row, ms", "peak memory, MB", "run folder, MB"],
        [
            [
                f"{n:,}",
                f"{took[n].wall_s:.1f}",
                f"{wall[n] * 1000:.2f}" if n in wall else "",
                f"{cpu[n] * 1000:.2f}" if n in cpu else "",
                f"{took[n].peak_mb:.0f}",
                f"{disk[n] / 2**20:,.1f}",
            ]
            for n in (1, *sizes)
        ],
    )
    figures = {str(n): t.figures() for n, t in took.items()}
    return Section([head, table], conditions(models="simulated", rounds="1"), figures)
