"""The page that `synthpref agree` writes, and the section of a run's report and card."""

from __future__ import annotations

import json
import re
from pathlib import Path

from synthpref.io.agreement_format import Figures
from synthpref.io.agreement_tables import blocks, judges
from synthpref.io.agreement_words import statements
from synthpref.io.tally import table

JSON, PAGE = "agreement.json", "agreement.md"
TITLE = "How good the judge is"
_MANY = 40


def markdown(found: Figures) -> str:
    """agreement.md: what to know, then every table."""
    parts = [f"# {TITLE}: {found.get('name', '')}".rstrip(": "), _about(found)]
    parts += ["## What to know", "\n".join(f"- {line}" for line in statements(found))]
    for block in blocks(found):
        lines = block.lines[:_MANY]
        more = (
            f"\n\n{len(block.lines) - _MANY} more lines are in agreement.json." if block.lines[_MANY:] else ""
        )
        note = f"{block.note}\n\n" if block.note else ""
        parts += [f"## {block.title}", f"{note}{table(block.header, lines)}{more}"]
    return "\n\n".join(parts) + "\n"


def section(found: Figures) -> str:
    """What a run's report and its dataset card say of the judge."""
    block = judges(found)
    lines = "\n".join(f"- {line}" for line in statements(found)[:6])
    return f"{_about(found)}\n\n{lines}\n\n{table(block.header, block.lines[:_MANY])}"


def tell(folder: Path, dataset: Path) -> None:
    """Say in the report of the run in `folder`, and in the card in `dataset`, what was found of its judge, if that
    was looked into."""
    if not (folder / JSON).exists():
        return
    text = section(json.loads((folder / JSON).read_text(encoding="utf-8")))
    for path, before in ((folder / "report.md", "Where the rows went"), (dataset / "README.md", "Figures")):
        page = with_section(path.read_text(encoding="utf-8"), TITLE, text, before)
        part = path.with_name(f"{path.name}.part")
        part.write_text(page, encoding="utf-8")
        part.replace(path)


def with_section(page: str, title: str, text: str, before: str) -> str:
    """The page with the section called `title` put in, before another one or at its end, in place of one of that
    name."""
    page = re.sub(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", "", page, flags=re.S | re.M)
    head, mark, rest = page.partition(f"\n## {before}\n")
    return f"{head.rstrip()}\n\n## {title}\n\n{text.rstrip()}\n{mark}{rest}"


def _about(found: Figures) -> str:
    what = "pairs" if found["kind"] == "pairs" else "responses"
    people = found.get("people")
    labelled = f", {people['labelled']:,} of them with a label" if people else ", none of them labelled"
    of = f" from {', '.join(found['files'])}" if found.get("files") else ""
    return (
        f"{found['items']:,} {what} of {found['prompts']:,} prompts{of}{labelled}. Intervals are of "
        f"{found['level']:.0%} level, by the bootstrap over prompts.".replace("%", " %", 1)
    )
