"""The table of docs/servers.md: what each server did."""

from __future__ import annotations

import os
import re
from pathlib import Path

from expectations import EXPECTATIONS

PAGE = Path(__file__).parents[2] / "docs/servers.md"
SERVERS = ("llama.cpp", "vLLM")
WRITES = bool(os.environ.get("WRITE_SERVERS"))
"""Whether the table is to be written anew instead of being compared."""
seen: dict[tuple[str, str], str] = {}
"""What the servers did in this session, by server and expectation."""


def known() -> dict[tuple[str, str], str]:
    """What the page says: (server, expectation) to the words."""
    found = {}
    part = PAGE.read_text(encoding="utf-8").partition("<!-- table -->")[2].partition("<!-- end -->")[0]
    for line in part.strip().splitlines()[2:]:
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        found |= {(server, name): cell for server, cell in zip(SERVERS, cells, strict=True)}
    return found


def write() -> None:
    table = known() | seen
    lines = ["| | " + " | ".join(SERVERS) + " |", "|---|" + "---|" * len(SERVERS)]
    for name in EXPECTATIONS:
        cells = (table.get((server, name), "not tried") for server in SERVERS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    made = "<!-- table -->\n" + "\n".join(lines) + "\n<!-- end -->"
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        re.sub(r"<!-- table -->.*<!-- end -->", lambda _: made, text, flags=re.DOTALL), encoding="utf-8"
    )
