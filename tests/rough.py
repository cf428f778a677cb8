"""The run that violence is done to: a recipe with every kind of step, and what has to come out of it all the same.

Calls stand on both sides of a barrier, some rows are nearly alike, some make no pair, and children are made on the
way, so that every door through which a row can leave is used.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

import forked
from synthpref import job

NAME = "rough"
BEFORE, AFTER = ("writer", "policy", "judge"), ("critic",)
"""Models that are asked before and after the first barrier."""
SAME = ("dataset/data/train.parquet", "rows.parquet", "left.jsonl")
"""What has to be the same byte for byte. Left out are the journal (pages lie as the answers arrived), run.log, and
what tells the time or the calls of the last start (summary.json, and through it the report and the card)."""
THINGS = ("pump", "boiler", "valve", "roof", "well", "gate", "kiln")
ALIKE = (
    "Please tell me, with an example or two, how the heat pump in the cellar of our old house works in winter"
)


def prompts(rows: int) -> list[str]:
    """Mostly different, some nearly alike."""
    alike = max(2, rows // 10)
    made = [f"Question {i} about the {THINGS[i % 7]} of house {i * 31 % 97}?" for i in range(rows - alike)]
    return [*made, *(f"{ALIKE}{'.' * (i % 3)}" for i in range(alike))]


def write(folder: Path, urls: Sequence[str], rows: int, **role: Any) -> Path:
    """The recipe, in `folder`, with more fields of its roles as given."""
    folder.mkdir(parents=True, exist_ok=True)
    address = urls[0] if len(urls) == 1 else list(urls)
    shared = {"backend": "openai", "base_url": address, "temperature": 1.0, **role}
    tree = {
        "name": NAME,
        "seed": 5,
        "models": {name: {**shared, "model": name} for name in (*BEFORE, *AFTER)},
        "source": {"rows": prompts(rows)},
        "stages": [
            {"synth.evolve": {"model": "writer", "check": False}},
            {"sample.n": {"model": "policy", "n": 3}},
            {"judge.point": {"model": "judge", "name": "helpful"}},
            {"pair.extremes": {"score": "helpful"}},
            "filter.dedup",
            {"enrich.rationale": {"model": "critic"}},
            {"filter.diversity": {"keep": 0.9}},
        ],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def start(folder: Path, file_limit: int | None = None) -> subprocess.Popen[str]:
    """The command that a person gives. What it says goes to `folder`/said, so that no pipe fills up."""
    with (folder / "said").open("a", encoding="utf-8") as said:
        return forked.start("run", "recipe.yaml", cwd=folder, out=said, file_limit=file_limit)


def said(folder: Path) -> str:
    return (folder / "said").read_text(encoding="utf-8")


def run(folder: Path, patience_s: float = 300) -> None:
    """Run to the end, which has to be a good one."""
    process = start(folder)
    try:
        code: int | str = process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = f"none after {patience_s:g} s"
    assert code == 0, f"exit {code}: {why(folder)}"
    assert "Traceback" not in said(folder), said(folder)


def why(folder: Path) -> str:
    """What the last start said of its end, and below it all that was ever said."""
    lines = [line for line in said(folder).splitlines() if line.startswith(("Stopped", "error", "Left"))]
    return "\n".join([*lines[-1:], "", said(folder)])


def run_here(folder: Path) -> None:
    """The same without a process of its own, which is quicker."""
    result = job.run(job.load(folder / "recipe.yaml"), home(folder))
    assert result.stopped == "", result


def home(folder: Path) -> Path:
    return folder / "runs" / NAME


def outcome(folder: Path) -> dict[str, bytes]:
    """What has to be the same, by name."""
    files = {name: (home(folder) / name).read_bytes() for name in SAME}
    summary = json.loads((home(folder) / "summary.json").read_text(encoding="utf-8"))
    # Calls differ from start to start; what was paid for in all of them together does not.
    paid = {
        role: [spent[key] for key in ("completions", "prompt_tokens", "completion_tokens")]
        for role, spent in summary["models"].items()
    }
    ended = {"books": summary["books"], "stages": summary["stages"]}
    told = {"where rows ended": ended, "what was paid": paid}
    return {**files, **{name: json.dumps(value, sort_keys=True).encode() for name, value in told.items()}}


def differences(calm: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    return [name for name in calm if calm[name] != found[name]]


def every_row_ends_once(folder: Path) -> dict[str, int]:
    """Where the rows ended, counted in the files and not as the run says it."""
    books: dict[str, int] = json.loads((home(folder) / "summary.json").read_text(encoding="utf-8"))["books"]
    gone = [json.loads(line) for line in (home(folder) / "left.jsonl").read_text("utf-8").splitlines()]
    kept = pq.read_table(home(folder) / "rows.parquet").column("id").to_pylist()
    ids = [*kept, *(line["id"] for line in gone)]
    assert len(ids) == len(set(ids)) == books["input"] + books["added"], books
    assert len(kept) == books["exported"], books
    assert sum(line["how"] == "reject" for line in gone) == books["rejected"], books
    return books
