"""Juries and debates in whole runs: stopped half-way, resumed, checked, and told of in what a run leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from aiohttp import web

from synthpref import job
from synthpref.core.errors import RecipeError
from synthpref.models.simulated import Simulated
from wire import Server, serving

ROLES = {"policy": 1.0, "a": 0.5, "b": 1.0, "c": 2.0}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        for name, noise in ROLES.items():
            server.worlds[name] = Simulated(model=name, length=30, noise=noise, malformed=0.1)
        yield server


def write(folder: Path, url: str, stages: list[Any], pair: dict[str, Any] | None = None) -> Path:
    role = {"backend": "openai", "base_url": url, "api_key": "sk-one", "retries": 0, "temperature": 1.0}
    tree = {
        "name": "polled",
        "seed": 5,
        "models": {name: {**role, "model": name} for name in ROLES},
        "source": {"rows": [f"How does heat pump {i} work?" for i in range(4)]},
        "stages": [
            {"sample.n": {"model": "policy", "n": 3}},
            *stages,
            {"pair.threshold": {"score": "said", "min_margin": 0, **(pair or {})}},
        ],
        "limits": {"max_reject_rate": 1},
    }
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder / "recipe.yaml"


def run(recipe: Path) -> dict[str, bytes]:
    """What the rows of a run came to."""
    result = job.run(job.load(recipe), recipe.parent / "run")
    assert result.stopped == ""
    names = ("rows.parquet", "left.jsonl", "dataset/data/train.parquet")
    return {name: (recipe.parent / "run" / name).read_bytes() for name in names}


BENCH = {"judges": ["a", "b", "c"], "name": "said"}
STAGES: dict[str, dict[str, Any]] = {
    "jury": {"jury": BENCH},
    "early": {"jury": {**BENCH, "reducer": "median", "stop_early": True}},
    "pair": {"jury.pair": BENCH},
    "pair early": {"jury.pair": {**BENCH, "stop_early": True, "schedule": "swiss", "rounds": 2}},
    "weighed": {"jury.pair": {**BENCH, "reducer": "dawid_skene"}},
    "scores weighed": {"jury": {**BENCH, "reducer": "dawid_skene", "scale": [1, 5]}},
    "debate": {"debate": {"judges": ["a", "b"], "name": "said", "rounds": 1}},
    "debate on two": {"debate": {"judges": ["a"], "name": "said", "rounds": 1, "about": "pair"}},
}


@pytest.mark.parametrize("name", STAGES)
def test_what_was_stopped_half_way_ends_as_if_it_had_not_been(
    tmp_path: Path, server: Server, name: str
) -> None:
    whole = run(write(tmp_path / "whole", server.url, [STAGES[name]]))
    asked = server.requests
    left = asked // 2

    def fault(request: web.Request, number: int) -> str | None:
        return "reset" if number >= asked + left else None

    server.fault = fault
    recipe = write(tmp_path / "halved", server.url, [STAGES[name]])
    # A row with a vote that could not be had goes on without it, and is walked once more by the next start.
    job.run(job.load(recipe), recipe.parent / "run")
    server.fault = lambda request, number: None
    again = server.requests
    assert run(recipe) == whole
    assert asked - left <= server.requests - again < asked


def test_a_run_tells_how_sure_its_labels_are(tmp_path: Path, server: Server) -> None:
    recipe = write(tmp_path, server.url, [STAGES["pair early"]])
    run(recipe)
    folder = tmp_path / "run"
    records = pq.read_table(folder / "dataset/data/train.parquet").to_pylist()
    assert records
    for record in records:
        if record["votes"]:
            assert record["p_low"] <= record["p"] <= record["p_high"]
            assert record["votes"] in (1, 2, 3)
            assert 0 <= record["agreement"] <= record["p"] <= 1
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    told = found["comparisons"]["said"]["jury"]
    assert set(told["jurors"]) == {"a", "b", "c"}
    assert told["replies_saved"] > 0
    asked = sum(found["models"][name]["completions"] for name in "abc")
    # Replies that were asked for again are in the meter, and not among the votes.
    assert told["replies"] <= asked
    plan = job.estimate(job.load(recipe))
    assert told["replies"] + told["replies_saved"] <= sum(
        line.answers for line in plan.lines if line.role in "abc"
    )
    for page in ("report.md", "dataset/README.md"):
        text = (folder / page).read_text(encoding="utf-8")
        assert "Krippendorff's alpha" in text
        assert "p, lower end of its interval" in text


def test_pairs_that_are_not_sure_enough_are_dropped_with_the_reason(tmp_path: Path, server: Server) -> None:
    recipe = write(tmp_path, server.url, [STAGES["pair"]], {"min_p_low": 0.9})
    run(recipe)
    left = [json.loads(line) for line in (tmp_path / "run/left.jsonl").read_text("utf-8").splitlines()]
    assert {record["reason"] for record in left} <= {"probability too unsure", "all scores equal"}
    assert len(left) == 4


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"jury": {**BENCH, "judges": ["a", "d"]}}, "no model role 'd'"),
        ({"jury": {**BENCH, "judges": ["a", {"model": "b", "rubric": "clearness"}]}}, "clearness"),
        ({"jury.pair": {**BENCH, "judges": ["a", {"model": "b", "prompt": "none.j2"}]}}, "none.j2"),
        ({"debate": {"judges": ["d"], "name": "said"}}, "no model role 'd'"),
    ],
)
def test_mistakes_are_found_before_anything_is_asked(
    tmp_path: Path, server: Server, stage: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        job.load(write(tmp_path, server.url, [stage]))
    assert server.requests == 0
