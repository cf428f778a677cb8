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
ran: dict[str, str] = {}
"""The version of each server of this session."""
VERSION = "what was asked"


def known() -> dict[tuple[str, str], str]:
    """What the page says: (server, expectation) to the words."""
    found: dict[tuple[str, str], str] = {}
    part = PAGE.read_text(encoding="utf-8").partition("<!-- table -->")[2].partition("<!-- end -->")[0]
    for line in part.strip().splitlines()[2:]:
        inner = re.split(r"(?<!\\)\|", line.strip())[1:-1]
        name, *cells = [cell.strip().replace("\\|", "|") for cell in inner]
        found |= {(server, name): cell for server, cell in zip(SERVERS, cells, strict=True)}
    return found


def write() -> None:
    table = known() | seen | {(server, VERSION): version for server, version in ran.items()}
    lines = ["| | " + " | ".join(SERVERS) + " |", "|---|" + "---|" * len(SERVERS)]
    for name in (VERSION, *EXPECTATIONS):
        cells = (table.get((server, name), "not tried") for server in SERVERS)
        lines.append(f"| {name} | {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    made = "<!-- table -->\n" + "\n".join(lines) + "\n<!-- end -->"
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        re.sub(r"<!-- table -->.*<!-- end -->", lambda _: made, text, flags=re.DOTALL), encoding="utf-8"
    )
