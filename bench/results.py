"""Results as they are kept (results.json) and shown (docs/benchmarks.md, docs/scaling.md).

A section of the suite is one key of results.json: {"conditions": {name: value}, "tables": [{"columns": [...],
"rows": [[...], ...]}], "figures": {...}}. One of the pages has a pair of markers for each, <!-- bench:KEY --> and
<!-- /bench:KEY -->; what stands between them is written by `render`, and nothing else there is touched.
`figures` are the numbers behind the tables, for who wants to look closer.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[1]
RESULTS = REPO / "bench" / "results.json"
PAGE = REPO / "docs" / "benchmarks.md"
PAGES = (PAGE, REPO / "docs" / "scaling.md")
LOAD = os.getloadavg()[0]
"""What the machine did before the first measurement, which makes a load of its own."""
COLUMNS = ["what", "target", "result", ""]
MET, MISSED, SHOWN = "met", "**not met**", ""


@dataclass(frozen=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """What one part of the suite found: first its lines against their targets, then tables of the particulars."""

    tables: Sequence[Table]
    conditions: dict[str, str]
    figures: dict[str, Any] = field(default_factory=dict)


def line(what: str, target: str, result: str, met: bool | None = None) -> list[str]:
    """A line of a section's first table; `met` is None where there is no target."""
    return [what, target, result, SHOWN if met is None else MET if met else MISSED]


def lines(*rows: list[str]) -> Table:
    return Table(COLUMNS, rows)


def spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    """The median with the least and the most."""
    ordered = sorted(values)
    if len(ordered) == 1:
        return form.format(ordered[0])
    middle, least, most = (form.format(v) for v in (median(ordered), ordered[0], ordered[-1]))
    return f"{middle} ({least} to {most})"


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def conditions(**particulars: str) -> dict[str, str]:
    """What was measured on and with; the particulars first."""
    return {
        **particulars,
        "cores": str(os.cpu_count()),
        "load before": f"{LOAD:.1f}",
        "Python": platform.python_version(),
        "aiohttp": version("aiohttp"),
        "synthpref": f"{version('synthpref')} ({_commit()})",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _commit() -> str:
    """The commit that is measured, with a + where the package has changes beside it."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", *args], cwd=REPO, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = git("status", "--porcelain", "--", "synthpref", "prompts")
    return (git("rev-parse", "--short", "HEAD") or "no commit") + ("+" if changed else "")


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def keep(path: Path, key: str, section: Section) -> None:
    """Put the section's results in place of its earlier ones."""
    found = load(path)
    found[key] = asdict(section)
    found = dict(sorted(found.items()))
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_page(path: Path, kept: Path) -> None:
    """Write anew what stands between the markers of a page."""
    path.write_text(render(path.read_text(encoding="utf-8"), load(kept)), encoding="utf-8")


def render(page: str, results: dict[str, Any]) -> str:
    """The page with what stands between its markers written anew. A key without results is left as it is."""
    for key, section in {**results, "summary": _summary(results)}.items():
        begin, end = f"<!-- bench:{key} -->", f"<!-- /bench:{key} -->"
        place = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
        text = f"{begin}\n\n{_markdown(section)}\n\n{end}"
        page = place.sub(text.replace("\\", r"\\"), page)
    return page


def _markdown(section: dict[str, Any]) -> str:
    blocks = [_table(table) for table in section["tables"]]
    if section["conditions"]:
        blocks.append(" · ".join(f"{name}: {value}" for name, value in section["conditions"].items()))
    return "\n\n".join(blocks)


def _table(table: dict[str, Any]) -> str:
    rows = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _summary(results: dict[str, Any]) -> dict[str, Any]:
    """Every line that has a target, in the order of the suite."""
    found = [
        row
        for key in (*ORDER, *sorted(set(results) - set(ORDER)))
        for table in results.get(key, {}).get("tables", [])[:1]
        if list(table["columns"]) == COLUMNS
        for row in table["rows"]
        if row[3]
    ]
    return {"tables": [{"columns": COLUMNS, "rows": found}], "conditions": {}}


ORDER = ("latency", "wide", "client", "skew", "growth", "barriers", "resume", "start")
