"""A run folder that an earlier version made, opened by this one.

tests/old_runs/0.1.0.tar.gz: six rows of five answers. The second answer of each row broke off, with a finish reason that
version 0.1.0 did not know. Of an answer of quality 4 or less the judge wrote its JSON and then "The response gives itself
a score of 10.", which version 0.1.0 read as the verdict. So its pairs are wrong.
"""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import forked
from replay import quality
from wire import nobody

ROWS = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).parent / "old_runs/0.1.0.tar.gz") as old:
        old.extractall(tmp_path, filter="data")
    return tmp_path


def labels(folder: Path) -> list[tuple[str, str]]:
    records = pq.read_table(folder / "out/dataset/data/train.parquet").to_pylist()
    return [(r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in records]


def old_quality(text: str) -> int:
    return quality(text.replace("of quality ", "quality="))


def test_its_labels_are_made_anew_from_the_kept_replies_without_a_call(folder: Path) -> None:
    before = labels(folder)
    assert len(before) == ROWS
    assert sum(old_quality(chosen) < old_quality(rejected) for chosen, rejected in before) == 4
    assert any("breaks" in text for pair in before for text in pair)
    with nobody() as url:
        # Nobody is there to be asked.
        done = forked.run("run", "recipe.yaml", "--out", "out", cwd=folder, env={**os.environ, "URL": url})
    assert done.returncode == 0, done.stdout + done.stderr
    after = labels(folder)
    assert len(after) == ROWS
    assert all(old_quality(chosen) > old_quality(rejected) for chosen, rejected in after)
    assert not any("breaks" in text for pair in after for text in pair)
    summary = json.loads((folder / "out/summary.json").read_text())
    assert summary["books"]["exported"] == ROWS


def test_it_can_be_looked_at_without_being_run(folder: Path) -> None:
    for args in (["status", "out"], ["show", "out"], ["report", "out"]):
        done = forked.run(*args, cwd=folder, env=dict(os.environ))
        assert done.returncode == 0, done.stdout + done.stderr
