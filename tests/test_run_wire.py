"""Whole runs as a person starts them, against a server on the wire, with what goes wrong in real life."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import forked
from synthpref.models.simulated import Simulated
from wire import Server, nobody, serving, status

KEY, PLANTED = "sk-test-key-0123456789", "planted-token-9876543210"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def write(folder: Path, url: str, rows: int = 30, **changes: Any) -> Path:
    role = {
        "backend": "openai",
        "base_url": url,
        "api_key": "${TEST_KEY}",
        "headers": {"x-team-token": "${TEAM}"},
    }
    tree = {
        "name": "wire",
        "seed": 5,
        "models": {
            "policy": {**role, "model": "policy", "temperature": 1.0, "retries": 8},
            "judge": {**role, "model": "judge", "temperature": 0, "retries": 8},
        },
        "source": {"rows": [f"Question number {i} about heat pumps?" for i in range(rows)]},
        "stages": [
            {"sample.n": {"model": "policy", "n": 4}},
            {"judge.point": {"model": "judge", "name": "helpful"}},
            {"pair.extremes": {"score": "helpful"}},
            "filter.dedup",
            {"enrich.rationale": {"model": "judge"}},
        ],
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def run(folder: Path, *args: str, **how: Any) -> tuple[int, str]:
    env = {**os.environ, "TEST_KEY": KEY, "TEAM": PLANTED}
    process = forked.start("run", "recipe.yaml", *args, cwd=folder, env=env, **how)
    out, _ = process.communicate(timeout=90)
    return process.returncode, out


def dataset(folder: Path, name: str = "wire") -> bytes:
    return (folder / "runs" / name / "dataset" / "data" / "train.parquet").read_bytes()


def test_no_key_and_no_token_is_written_anywhere(tmp_path: Path, server: Server) -> None:
    echo = f"bad key {KEY}, token {PLANTED}"
    server.fault = lambda request, number: status(400, echo) if number in (3, 4) else None
    write(tmp_path, server.url, limits={"max_reject_rate": 1})
    code, out = run(tmp_path)
    assert code == 0, out
    assert {h["Authorization"] for h in server.headers} == {f"Bearer {KEY}"}
    assert {h["x-team-token"] for h in server.headers} == {PLANTED}
    files = [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    assert len(files) > 8
    for secret in (KEY, PLANTED):
        assert secret not in out
        assert [p for p in files if secret.encode() in p.read_bytes()] == []
    assert "[secret]" in (tmp_path / "runs/wire/left.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("code", "found"),
    [(401, "check api_key"), (404, "check model and base_url")],
    ids=["wrong key", "wrong model"],
)
def test_a_wrong_key_or_model_stops_at_once_and_names_the_role(
    tmp_path: Path, server: Server, code: int, found: str
) -> None:
    server.fault = lambda request, number: status(code, "no such thing")
    write(tmp_path, server.url, rows=400)
    exit_code, out = run(tmp_path)
    assert exit_code == 1
    assert "models.policy" in out
    assert found in out
    assert "Traceback" not in out
    assert server.requests < 100


def test_an_endpoint_that_is_down_is_told_and_the_run_resumes_when_it_is_up(tmp_path: Path) -> None:
    with nobody() as url:
        write(tmp_path, url)
        code, out = run(tmp_path)
    assert code == 1
    assert "models.policy" in out
    assert "cannot be reached" in out
    with serving() as up:
        write(tmp_path, up.url)
        code, out = run(tmp_path)
    assert code == 0, out


def test_a_disk_that_is_full_stops_the_run_and_nothing_is_lost(tmp_path: Path, server: Server) -> None:
    write(tmp_path, server.url, rows=120)
    code, out = run(tmp_path, file_limit=150_000)
    assert code == 1, out
    assert "the same command again" in out
    assert "Traceback" not in out
    paid = server.requests
    code, out = run(tmp_path)
    assert code == 0, out
    assert 0 < paid < server.requests
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole", server.url, rows=120)
    assert run(tmp_path / "whole")[0] == 0
    assert dataset(tmp_path) == dataset(tmp_path / "whole")


def test_a_model_that_says_nothing_makes_no_pairs(tmp_path: Path, server: Server) -> None:
    server.worlds["policy"] = Simulated(model="policy", empty=1.0)
    write(tmp_path, server.url, rows=5)
    code, out = run(tmp_path)
    assert code == 1, out
    assert "5 rows read = 0 exported + 5 dropped + 0 rejected" in out


def test_a_judge_that_never_gives_a_verdict_makes_no_pairs(tmp_path: Path, server: Server) -> None:
    server.worlds["judge"] = Simulated(model="judge", malformed=1.0)
    write(tmp_path, server.url, rows=5)
    code, out = run(tmp_path)
    assert code == 1, out
    assert "5 rows read = 0 exported + 5 dropped + 0 rejected" in out
    report = json.loads((tmp_path / "runs/wire/report.json").read_text(encoding="utf-8"))
    assert "20" in json.dumps(report), "each of the 20 missing scores is counted"


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "broken line": (lambda p: p.write_text('{"prompt": "a"}\n{"prompt": "b"\n'), "p.jsonl:2"),
    "empty": (lambda p: p.write_text(""), "p.jsonl"),
    "not utf-8": (lambda p: p.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n'), "p.jsonl"),
    "no column": (lambda p: p.write_text('{"promt": "a"}\n'), "did you mean 'promt'?"),
    "not text": (lambda p: p.write_text('{"prompt": "a"}\n{"prompt": 7}\n'), "p.jsonl:2"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_source_is_told_before_anything_is_asked(tmp_path: Path, server: Server, name: str) -> None:
    make, found = BAD[name]
    make(tmp_path / "p.jsonl")
    write(tmp_path, server.url, source={"path": "p.jsonl"})
    code, out = run(tmp_path)
    assert code == 2, out
    assert found in out
    assert "Traceback" not in out
    assert server.requests == 0


def test_a_prompt_of_a_megabyte_is_a_row_like_any_other(tmp_path: Path, server: Server) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "word " * 210_000}) + "\n", encoding="utf-8")
    write(tmp_path, server.url, source={"path": "p.jsonl"})
    code, out = run(tmp_path)
    assert code == 0, out
    assert "1 rows read = 1 exported" in out
