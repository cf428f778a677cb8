"""The benchmarks: `python bench/run.py [SECTION ...]`, or `make bench`.

Each section is measured, kept in bench/results.json in place of its earlier results, and written into
docs/benchmarks.md, or docs/scaling.md, between its markers. Without names all are run but the long ones; `page` measures nothing and
writes the page anew.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import results
from barriers import barriers
from client import client
from growth import growth
from paired import latency, skew, wide
from resume import resume
from sizing import sizing
from start import start

SECTIONS: dict[str, Callable[..., results.Section]] = {
    "latency": latency,
    "wide": wide,
    "client": client,
    "skew": skew,
    "growth": growth,
    "barriers": barriers,
    "resume": resume,
    "start": start,
    "sizing": sizing,
}
LONG = ("growth", "barriers")
SMALL: dict[str, dict[str, Any]] = {
    "latency": {"rows": 40, "slots": 8, "mean_s": 0.01, "rounds": 1},
    "wide": {"rows": 60, "slots": 16, "mean_s": 0.02, "rounds": 1},
    "client": {"rows": 60, "slots": 8, "rounds": 1},
    "skew": {"rows": 40, "slots": 8, "mean_s": 0.002, "share": 0.05, "rounds": 1},
    "growth": {"sizes": (20,)},
    "barriers": {"sizes": (20,)},
    "resume": {"rows": 40},
    "start": {"rounds": 1},
    "sizing": {"rows": 10, "rounds": 1, "source_rows": 100},
}
"""Seconds in all: shows that the suite works, and measures nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)}, or page")
    parser.add_argument("--small", action="store_true", help="few rows: tries the suite, measures nothing")
    parser.add_argument("--sizes", help="rows of growth and barriers, e.g. 10000,100000")
    parser.add_argument("--rows", type=int, help="rows of the other sections")
    parser.add_argument("--rounds", type=int, help="how often both sides are run")
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    parser.add_argument("--page", type=Path, action="append", help="where to write; both pages by default")
    options = parser.parse_args()
    names = options.sections or [name for name in SECTIONS if name not in LONG]
    if unknown := [name for name in names if name not in SECTIONS and name != "page"]:
        parser.error(f"no section {', '.join(unknown)}; there is: {', '.join(SECTIONS)}, page")
    for name in names:
        if name != "page":
            begin = time.perf_counter()
            print(f"{name} ...", file=sys.stderr, flush=True)
            section = SECTIONS[name](**_sized(name, options))
            results.keep(options.results, name, section)
            if section.tables[0].columns == results.COLUMNS:
                for row in section.tables[0].rows:
                    print(f"  {row[0]}: {row[2]} (target {row[1]}) {row[3]}".rstrip(), flush=True)
            print(f"  took {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    for path in options.page or results.PAGES:
        results.write_page(path, options.results)


def _sized(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The section's sizes: its own, the small ones, or those that the command line names."""
    sized = dict(SMALL[name]) if options.small else {}
    if name in LONG and options.sizes:
        sized["sizes"] = tuple(int(size) for size in options.sizes.split(","))
    if name not in LONG and name != "start" and options.rows:
        sized["rows"] = options.rows
    if name not in (*LONG, "resume") and options.rounds:
        sized["rounds"] = options.rounds
    return sized


if __name__ == "__main__":
    main()
