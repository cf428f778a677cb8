"""A finished run started again from the command line: as it was, and with another pair rule."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import child
import jobs
from endpoint import Endpoint, running
from results import Section, Table, conditions, line, lines

TARGET_ROWS, TARGET_S = 100_000, 10.0
SLOTS = 64
OTHER_RULE = {"pair.ranked": {"score": "s"}}


def resume(*, rows: int = TARGET_ROWS) -> Section:
    """How long until the same command has nothing to do, and what a changed rule costs; no call for either."""
    with tempfile.TemporaryDirectory() as name, running(slots=SLOTS, latency_s=0.0) as endpoint:
        folder = Path(name)
        recipe = jobs.write_recipe(folder, endpoint.url, rows, slots=SLOTS)
        other = jobs.write_recipe(folder, endpoint.url, rows, slots=SLOTS, pair=OTHER_RULE, name="other")
        first, calls = _start(recipe, endpoint)
        again, repeated = _start(recipe, endpoint)
        changed, bought = _start(other, endpoint)
    head = lines(
        line(
            f"a finished run of {rows:,} rows started again",
            f"≤ {TARGET_S:g} s",
            f"{again.wall_s:.1f} s",
            again.wall_s <= TARGET_S if rows >= TARGET_ROWS else None,
        ),
        line("calls that it makes", "0", f"{repeated:,}", repeated == 0),
        line("calls made after the pair rule is changed", "0", f"{bought:,}", bought == 0),
        line("rows a second with the changed rule", "stated", f"{rows / changed.wall_s:,.0f}"),
    )
    table = Table(
        ["start", "calls", "wall, s", "rows a second", "CPU, s", "peak memory, MB"],
        [
            [
                what,
                f"{n:,}",
                f"{t.wall_s:.1f}",
                f"{rows / t.wall_s:,.0f}",
                f"{t.cpu_s:.1f}",
                f"{t.peak_mb:.0f}",
            ]
            for what, t, n in (
                ("the run itself, of an endpoint without latency", first, calls),
                ("the same again", again, repeated),
                ("with another pair rule", changed, bought),
            )
        ],
    )
    kept = {"calls": [calls, repeated, bought], "wall_s": [t.wall_s for t in (first, again, changed)]}
    return Section([head, table], conditions(rows=f"{rows:,}", rounds="1"), kept)


def _start(recipe: Path, endpoint: Endpoint) -> tuple[child.Took, int]:
    """Run the recipe from the command line; what it took, and the calls that the endpoint saw."""
    endpoint.reset()
    took = child.run([*child.CLI, "run", recipe, "--out", recipe.parent / "run"], recipe.parent)
    print(f"  {took.wall_s:.1f} s", file=sys.stderr, flush=True)
    return took, int(endpoint.stats()["requests"])
