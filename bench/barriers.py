"""Memory and time of the barriers as the rows grow: each by itself, over rows on disk, in a process of its own.

The prompts are made of words as often as in natural text; one in twenty says what an earlier one said, and one in
twenty says it but for its last word.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import child
from growth import SIZES
from results import Section, Table, conditions

BARRIERS = ("exact", "minhash", "diversity")
WORDS = 20_000
TWINS = 20
TOO_QUICK_S = 0.2
"""Times below this say nothing about growth."""


def texts(count: int) -> Iterator[str]:
    """The same texts each time; those of a smaller count are the first of a larger one's."""
    weights = list(itertools.accumulate(1 / rank for rank in range(1, WORDS + 1)))
    words = [f"w{i}" for i in range(WORDS)]

    def text(i: int) -> list[str]:
        luck = random.Random(i)
        return luck.choices(words, cum_weights=weights, k=luck.randint(14, 30))

    for i in range(count):
        if i % TWINS == 1:
            yield " ".join(text(i - 1))
        elif i % TWINS == 2:
            yield " ".join([*text(i - 2)[:-1], "other"])
        else:
            yield " ".join(text(i))


def barriers(*, sizes: Sequence[int] = SIZES, names: Sequence[str] = BARRIERS) -> Section:
    """Each barrier at each size."""
    rows = []
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        script = Path(__file__).with_name("barrier.py")
        for name in names:
            before: tuple[int, float] | None = None
            for size in (1, *sizes):
                with path.open("w", encoding="utf-8") as file:
                    file.writelines(json.dumps({"prompt": text}) + "\n" for text in texts(size))
                took = child.run([sys.executable, script, name, path])
                kept, passes = map(int, took.out.split())
                figures[f"{name} {size}"] = {**took.figures(), "kept": kept, "passes": passes}
                if size == 1:
                    start = took
                    continue
                wall, seconds = (max(0.0, n) for n in (took.wall_s - start.wall_s, took.cpu_s - start.cpu_s))
                print(f"  {name}, {size:,} rows: {wall:.1f} s, {took.peak_mb:.0f} MB", flush=True)
                order = _exponent(before, (size, seconds))
                memory = (took.peak_mb - start.peak_mb) * 2**20 / size
                rows.append(
                    [
                        f"{'filter.' if name == 'diversity' else 'filter.dedup '}{name}",
                        f"{size:,}",
                        f"{kept:,}",
                        f"{wall:.1f}",
                        f"{seconds:.1f}",
                        f"{seconds / size * 1e6:.0f}",
                        order,
                        f"{took.peak_mb:.0f}",
                        f"{memory:,.0f}",
                    ]
                )
                before = (size, seconds)
    columns = [
        "barrier",
        "rows",
        "kept",
        "wall, s",
        "CPU, s",
        "CPU for a row, µs",
        "growth",
        "peak memory, MB",
        "for a row, B",
    ]
    return Section([Table(columns, rows)], conditions(texts="14 to 30 words", rounds="1"), figures)


def _exponent(before: tuple[int, float] | None, now: tuple[int, float]) -> str:
    """With which power of the rows the CPU time grew since the size before."""
    if before is None or before[1] < TOO_QUICK_S:
        return ""
    return f"rows^{math.log(now[1] / before[1]) / math.log(now[0] / before[0]):.2f}"
