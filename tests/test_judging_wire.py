"""Judges on the wire: probabilities of verdicts from an endpoint, and a tournament that is stopped half-way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from synthpref import job
from synthpref.core.errors import RecipeError
from synthpref.core.types import Row
from synthpref.io.rows import read_rows
from synthpref.models.simulated import Simulated
from wire import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.worlds["policy"] = Simulated(model="policy", length=30)
        server.worlds["judge"] = Simulated(model="judge", noise=1.0, position_bias=0.5, malformed=0.1)
        yield server


def write(folder: Path, url: str, stage: dict[str, Any], **judge: Any) -> Path:
    role = {"backend": "openai", "base_url": url, "api_key": "sk-one", "retries": 0}
    [[word, fields]] = stage.items()
    tree = {
        "name": "judged",
        "seed": 5,
        "models": {
            "policy": {**role, "model": "policy", "temperature": 1.0},
            "judge": {**role, "model": "judge", "temperature": 1.0, **judge},
        },
        "source": {"rows": [f"How does heat pump {i} work?" for i in range(4)]},
        "stages": [
            {"sample.n": {"model": "policy", "n": 5}},
            {word: {"model": "judge", "name": "judged", **fields}},
            {"pair.extremes": {"score": "judged"}},
        ],
        "limits": {"max_reject_rate": 1},
    }
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder / "recipe.yaml"


def run(recipe: Path) -> list[Row]:
    result = job.run(job.load(recipe), recipe.parent / "run")
    assert result.stopped == ""
    return list(read_rows(recipe.parent / "run/rows.parquet"))


STAGES: dict[str, dict[str, Any]] = {
    "point": {"judge.point": {"extract": "expected"}},
    "list": {"judge.list": {"extract": "expected", "reasoning": "after"}},
    "winner": {"judge.pair": {"extract": "expected", "reasoning": "none"}},
    "scores": {"judge.pair": {"extract": "expected", "verdict": "scores", "score": "mean"}},
}


@pytest.mark.parametrize("name", STAGES)
def test_probabilities_come_from_the_endpoint(tmp_path: Path, server: Server, name: str) -> None:
    made = run(write(tmp_path, server.url, STAGES[name]))
    assert all(body["logprobs"] for body in server.bodies if body["model"] == "judge")
    votes = [vote for one in made for sample in one.samples for vote in sample.scores["judged"].votes]
    votes += [vote for one in made for c in one.comparisons for vote in c.votes]
    values = [vote.value for vote in votes if vote.value is not None]
    assert len(values) > 0.8 * len(votes)
    assert sum(value != round(value * 2) / 2 for value in values) > 0.9 * len(values)
    if name == "scores":
        assert all(vote.scores for vote in votes if vote.value is not None)


@pytest.mark.parametrize("name", STAGES)
def test_a_judge_without_logprobs_is_found_before_anything_is_asked(
    tmp_path: Path, server: Server, name: str
) -> None:
    with pytest.raises(RecipeError, match="needs 'logprobs'"):
        job.load(write(tmp_path, server.url, STAGES[name], logprobs=False))
    assert server.requests == 0


TOURNAMENTS: dict[str, dict[str, Any]] = {
    "swiss": {"judge.pair": {"schedule": "swiss", "rounds": 3}},
    "reask": {"judge.pair": {"disagree": "reask", "reasks": 3}},
    "round robin": {"judge.pair": {"schedule": "round_robin", "rounds": 2, "swap": False, "score": "elo"}},
    "list": {"judge.list": {"repeats": 5}},
}


@pytest.mark.parametrize("name", TOURNAMENTS)
def test_what_was_stopped_half_way_ends_as_if_it_had_not_been(
    tmp_path: Path, server: Server, name: str
) -> None:
    whole = run(write(tmp_path / "whole", server.url, TOURNAMENTS[name]))
    asked = server.requests
    left = asked // 2

    def fault(request: web.Request, number: int) -> str | None:
        return "reset" if number >= asked + left else None

    server.fault = fault
    recipe = write(tmp_path / "halved", server.url, TOURNAMENTS[name])
    first = job.run(job.load(recipe), recipe.parent / "run")
    assert first.books.rejected
    server.fault = lambda request, number: None
    again = server.requests
    assert run(recipe) == whole
    assert server.requests - again < asked
    assert server.requests - again >= asked - left
