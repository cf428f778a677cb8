"""Rounds with models that are loaded: other weights under the same name are loaded, and asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from room import SMALL
from synthpref import job, rounds

ROWS = ["Why is the sky blue?", "Why is light blue?", "Is an answer blue?"]


def recipe(backend: str, folder: Path) -> dict[str, Any]:
    policy = {"backend": backend, "model": str(folder / "model"), "temperature": 1.0, "max_tokens": 16}
    return {
        "name": "tiny",
        "models": {"policy": policy | ({"engine": SMALL} if backend == "vllm" else {"device": "cpu"})},
        "source": {"rows": ROWS},
        "stages": [
            {"sample.n": {"model": "policy", "n": 3}},
            {"verify": {"kind": "regex", "pattern": "a"}},
            {"pair.random": {"score": "verified", "truncated": "keep"}},
        ],
        "limits": {"max_reject_rate": 0},
    }


def asked(folder: Path, tree: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.mark.parametrize("backend", ["local", "vllm"])
def test_weights_that_a_hook_has_changed_are_the_ones_that_answer(tmp_path: Path, backend: str) -> None:
    tiny.policy(tmp_path / "model", seed=0)
    tiny.policy(tmp_path / "trained", seed=1)
    shutil.copytree(tmp_path / "model", tmp_path / "first")
    tree = recipe(backend, tmp_path)
    hook = "rm -r model && cp -r trained model && mv trained used"
    path = asked(tmp_path, tree | {"rounds": {"count": 2, "hook": hook, "after_last": False}})
    wanted = job.load(path).head.rounds
    assert wanted
    run = rounds.Asked(path, [], tmp_path / "run")
    result = rounds.run(run, wanted, job.run, lambda line: None)
    assert result
    assert not result.stopped
    told = [texts(tmp_path / "run" / f"round-{number}") for number in (1, 2)]
    assert told[0] != told[1]
    for number, weights in ((1, "first"), (2, "used")):
        shutil.rmtree(tmp_path / "model")
        shutil.copytree(tmp_path / weights, tmp_path / "model")
        job.run(job.load(asked(tmp_path, tree)), tmp_path / f"alone-{number}")
        assert texts(tmp_path / f"alone-{number}") == told[number - 1]


def texts(run: Path) -> dict[str, list[str]]:
    """All that was answered, also in rows that make no pair."""
    rows = list(job.rows.read_rows(run / "rows.parquet"))
    found = {row.id: [sample.text for sample in row.samples] for row in rows}
    for line in (run / "left.jsonl").read_text("utf-8").splitlines():
        left = json.loads(line)
        found[left["id"]] = [sample["text"] for sample in left["row"]["samples"]]
    return found
