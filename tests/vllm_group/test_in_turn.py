"""Two models that do not fit together, in one run: one engine at a time."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from room import SMALL
from synthpref import job
from synthpref.models import vllm
from synthpref.models.vllm_child import is_engine

ROWS = [
    f"Why is {matter} blue?" for matter in ("the sky", "light", "a question", "the answer", "an assistant")
]


def recipe(folder: Path, policy: str, grader: str, **fields: Any) -> Path:
    usual = {"backend": "vllm", "engine": SMALL, **fields}
    tree = {
        "name": "turns",
        "models": {
            "policy": {**usual, "model": policy, "temperature": 1.0, "max_tokens": 12},
            "grader": {**usual, "model": grader, "serves": "reward"},
        },
        "source": {"rows": ROWS},
        "stages": [
            {"sample.n": {"model": "policy", "n": 3}},
            {"reward": {"model": "grader"}},
            {"pair.extremes": {"score": "reward", "truncated": "keep"}},
        ],
        "limits": {"max_reject_rate": 0},
    }
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder / "recipe.yaml"


def test_models_in_turn_make_what_they_make_together(
    tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of three of five rows: policy, grader, policy, grader."""
    grader = tiny.reward(tmp_path / "grader")
    plain, beside = vllm._launch, list[int]()

    def launch(*words: Any) -> Any:
        made = plain(*words)
        beside.append(sum(is_engine(p.name) for p in multiprocessing.active_children()))
        return made

    monkeypatch.setattr(vllm, "_launch", launch)
    made = {}
    for name, fields in {"together": {}, "in_turn": {"placement": "in_turn", "block": 3}}.items():
        # No more rows under way than a block has.
        monkeypatch.setattr("synthpref.engine.runner.WORKERS", (1, 3 if fields else 64))
        begun = len(beside)
        done = job.run(job.load(recipe(tmp_path / name, policy, grader, **fields)), tmp_path / name / "run")
        assert not done.stopped, done.stopped
        assert beside[begun:] == ([1, 1, 1, 1] if fields else [1, 2])
        made[name] = list(job.rows.read_rows(tmp_path / name / "run/rows.parquet"))
    for one, other in zip(made["together"], made["in_turn"], strict=True):
        assert [(s.text, s.seed) for s in one.samples] == [(s.text, s.seed) for s in other.samples]
        assert one.values("reward") == pytest.approx(other.values("reward"), abs=1e-3)
        assert [(p.chosen, p.rejected) for p in one.pairs] == [(p.chosen, p.rejected) for p in other.pairs]


def test_servers_take_turns_too(tmp_path: Path, policy: str) -> None:
    """One starts when the other has ended."""
    grader = tiny.reward(tmp_path / "grader")
    fields = {"backend": "vllm-serve", "placement": "in_turn", "block": 64}
    done = job.run(job.load(recipe(tmp_path / "served", policy, grader, **fields)), tmp_path / "run")
    assert not done.stopped, done.stopped
    assert all(row.pairs for row in job.rows.read_rows(tmp_path / "run/rows.parquet"))
    said = (tmp_path / "run/run.log").read_text(encoding="utf-8")
    order = [
        said.index(words)
        for words in (f"{policy}: the engine is up", "the engine has ended", f"{grader}: the engine is up")
    ]
    assert order == sorted(order)
