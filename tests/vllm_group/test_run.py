"""Whole runs by the command line: in process and by a server the same rows, and an end without a word too many."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from room import SMALL
from synthpref import job

ROWS = [
    f"Why is {matter} blue?" for matter in ("the sky", "light", "a question", "the answer", "an assistant")
]
COMMAND = [sys.executable, "-m", "synthpref.cli", "run", "recipe.yaml", "--out", "run"]
BAD = ("Traceback", "Exception ignored", "leaked")


@pytest.fixture(scope="module")
def grader(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.reward(tmp_path_factory.mktemp("models") / "grader")


def recipe(
    folder: Path, policy: dict[str, Any], grader: dict[str, Any] | None, rows: list[str] = ROWS
) -> Path:
    models = {"policy": policy, "cold": {**policy, "temperature": 0.0}}
    stages: list[Any] = [{"sample.n": {"models": [{"model": "policy", "n": 3}, {"model": "cold"}]}}]
    if grader:
        models["grader"] = {**grader, "serves": "reward"}
        stages += [
            {"reward": {"model": "grader"}},
            {"pair.extremes": {"score": "reward", "truncated": "keep"}},
        ]
    else:
        stages += [
            {"verify": {"kind": "regex", "pattern": "[aeiou]"}},
            {"pair.random": {"score": "verified", "truncated": "keep"}},
        ]
    tree = {
        "name": "tiny",
        "models": models,
        "source": {"rows": rows},
        "stages": stages,
        "limits": {"max_reject_rate": 0},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder


def ran(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True, timeout=800, check=False)


def walked(journal: Path) -> int:
    """How many rows a run has brought to the end of a step so far."""
    try:
        with contextlib.closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM walked").fetchone()[0])
    except sqlite3.Error:
        return 0


def rows_of(folder: Path) -> list[Any]:
    return list(job.rows.read_rows(folder / "run/rows.parquet"))


def test_in_process_and_by_a_server_the_rows_are_the_same(tmp_path: Path, policy: str, grader: str) -> None:
    usual = {"model": policy, "engine": SMALL, "temperature": 1.0, "max_tokens": 24}
    made = {}
    for backend in ("vllm", "vllm-serve"):
        grading = {"backend": backend, "model": grader, "engine": SMALL}
        folder = recipe(tmp_path / backend, {"backend": backend, **usual}, grading)
        done = ran(folder)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert not any(word in said for word in BAD), said
        made[backend] = rows_of(folder)
    ours, theirs = made.values()
    assert [r.id for r in ours] == [r.id for r in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert [(s.text, s.seed, s.finish_reason) for s in one.samples] == [
            (s.text, s.seed, s.finish_reason) for s in other.samples
        ]
        assert [(p.chosen, p.rejected) for p in one.pairs] == [(p.chosen, p.rejected) for p in other.pairs]
        assert one.values("reward") == pytest.approx(other.values("reward"), abs=1e-3)
        assert one.pairs


def test_a_run_that_is_interrupted_finishes_its_calls_and_goes_on_later(tmp_path: Path, policy: str) -> None:
    """The signal goes to all processes of the terminal, as Ctrl-C does."""
    rows = [f"{row} ({i})" for row in ROWS for i in range(80)]
    role = {"backend": "vllm", "model": policy, "engine": SMALL | {"max_num_seqs": 4}, "temperature": 1.0}
    folder = recipe(tmp_path, role | {"max_tokens": 100}, None, rows)
    with subprocess.Popen(
        COMMAND,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        until = time.monotonic() + 600
        while (
            process.poll() is None and walked(folder / "run/journal.sqlite") < 5 and time.monotonic() < until
        ):
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 3, said
    assert not any(word in said for word in BAD), said
    summary = json.loads((folder / "run/summary.json").read_text(encoding="utf-8"))
    assert summary["stop_reason"] == "interrupted"
    assert summary["books"]["rejected"] == 0
    assert 0 < summary["books"]["exported"] + summary["books"]["dropped"] < len(rows)
