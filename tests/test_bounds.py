"""What has to have an end: redirects, answers, recipes; and runs that come to nothing."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

import forked
from replay import Body, Replay, completion, good
from wire import running

ROLE = {"backend": "openai", "model": "m-test", "retries": 0}


@pytest.fixture
def server() -> Iterator[Replay]:
    with running(Replay()) as server:
        yield server


def run(folder: Path, server: Replay, policy: str = "ok", judge: str = "ok", **more: Any) -> tuple[int, str]:
    roles = {"policy": policy, "judge": judge}
    tree = {
        "name": "bounds",
        "models": {
            role: {
                **ROLE,
                "base_url": f"{server.root}/{name}/v1",
                "headers": {"x-team-key": "planted-secret-77"},
            }
            for role, name in roles.items()
        },
        "source": {"rows": [f"Question {i}?" for i in range(6)]},
        "stages": [
            {"sample.n": {"model": "policy", "n": 3}},
            {"judge.point": {"model": "judge", "name": "s"}},
            {"pair.extremes": {"score": "s"}},
        ],
        "allow": ["one_judge", "same_model", "same_family", "coarse_scale"],
        **more,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    done = forked.run("run", "recipe.yaml", "--out", "out", cwd=folder, env=dict(os.environ))
    return done.returncode, done.stdout + done.stderr


# ---- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("transport", ["http", "sdk"])
def test_a_redirect_is_not_followed_and_named(
    tmp_path: Path, server: Replay, status: int, transport: str
) -> None:
    """Custom headers with keys went on to the other host, and its answer became data."""
    if transport == "sdk":
        pytest.importorskip("openai")
    with running(Replay()) as other:
        place = f"{other.root}/stolen/v1/chat/completions"
        server.scripts["moved"] = lambda body, number: web.Response(
            status=status, headers={"Location": f"{place}?token=abc"}
        )
        ROLE["transport"] = transport
        try:
            code, out = run(tmp_path, server, policy="moved")
        finally:
            del ROLE["transport"]
        assert other.requests == 0
    assert code == 1, out
    assert f"HTTP {status}: base_url redirects to {place}" in out
    assert "token=abc" not in out
    assert len(server.asked["moved"]) <= 6


# ---- answers without an end

MEMORY = """
import asyncio, re, sys
from synthpref.core.errors import BackendError
from synthpref.core.seam import Request
from synthpref.models.openai import OpenAI

async def go():
    backend = OpenAI(model="m", base_url=sys.argv[1], timeout_s=60).open({})
    try:
        await backend.complete(Request(messages=({"role": "user", "content": "a"},)))
    except BackendError as error:
        print(error.kind, error.message)
    await backend.aclose()

asyncio.run(go())
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


def bomb(body: Body, number: int) -> web.Response:
    """A gigabyte of spaces, in one megabyte."""
    return web.Response(body=BOMB, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})


packer = zlib.compressobj(9, wbits=31)
BOMB = b"".join(packer.compress(b" " * 2**20) for _ in range(2**10)) + packer.flush()


def test_an_answer_that_is_much_larger_than_it_looks_takes_no_memory(server: Replay) -> None:
    server.scripts["bomb"] = bomb
    command = [sys.executable, "-c", MEMORY, f"{server.root}/bomb/v1"]
    said, megabytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert said == "unreadable the answer is longer than 128 MiB"
    assert int(megabytes) < 500


def test_a_packed_answer_is_read_and_one_that_never_ends_is_given_up(tmp_path: Path, server: Replay) -> None:
    def packed(body: Body, number: int) -> web.Response:
        data = gzip.compress(json.dumps(good(body)).encode())
        return web.Response(
            body=data, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"}
        )

    server.scripts["packed"] = packed
    code, out = run(tmp_path, server, policy="packed", judge="packed")
    assert code == 0, out
    server.scripts["other"] = lambda body, number: web.Response(body=b"x", headers={"Content-Encoding": "br"})
    (tmp_path / "two").mkdir()
    code, out = run(tmp_path / "two", server, policy="other")
    assert code == 1
    assert "packed as 'br', unasked" in out


# ---- recipes


def checked(folder: Path, text: str) -> tuple[int, str]:
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    done = forked.run("check", "recipe.yaml", cwd=folder, env=dict(os.environ), patience_s=20)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_aliases_of_aliases_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    code, out = checked(tmp_path, "\n".join(lines))
    assert code == 2
    assert "values, with each use of an alias" in out


@pytest.mark.parametrize("number", [str(10**30), "1" + "0" * 5000, str(2**63), f"-{2**70}"])
def test_a_number_beyond_64_bits_is_refused(tmp_path: Path, number: str) -> None:
    code, out = checked(tmp_path, f"name: x\nseed: {number}\n")
    assert code == 2
    assert "bits is too large" in out or "not valid YAML" in out


def test_a_recipe_within_itself_and_one_without_a_bottom_are_refused(tmp_path: Path) -> None:
    assert checked(tmp_path, "name: &a [*a]\n")[0] == 2
    assert checked(tmp_path, "name: " + "[" * 20_000)[0] == 2


# ---- runs that come to nothing


def test_a_run_without_a_pair_fails_and_says_why(tmp_path: Path, server: Replay) -> None:
    server.scripts["same"] = lambda body, number: completion(json.dumps({"reasoning": "seen", "score": 5}))
    code, out = run(tmp_path, server, judge="same")
    assert code == 1, out
    assert "All rows came to nothing. Most often:\n  6 in pair.extremes: all scores equal" in out
    assert "Next:" not in out
    done = forked.run("push", "out", "me/x", cwd=tmp_path, env={**os.environ, "HF_TOKEN": "hf_x"})
    assert done.returncode == 1
    assert "holds no records" in done.stderr


def test_a_run_that_loses_half_of_its_rows_says_so(tmp_path: Path, server: Replay) -> None:
    def script(body: Body, number: int) -> Body:
        text = str(body["messages"])
        return (
            good(body) if "Question 1?" in text else completion(json.dumps({"reasoning": "seen", "score": 5}))
        )

    server.scripts["mostly"] = script
    code, out = run(tmp_path, server, judge="mostly")
    assert code == 0, out
    assert "5 of 6 rows came to nothing. Most often:\n  5 in pair.extremes: all scores equal" in out


def test_a_run_folder_is_its_owners_and_the_dataset_everybodys(tmp_path: Path, server: Replay) -> None:
    before = os.umask(0o022)
    try:
        code, out = run(tmp_path, server)
    finally:
        os.umask(before)
    assert code == 0, out
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")}
    assert {
        modes[name] for name in ("journal.sqlite", "rows.parquet", "left.jsonl", "run.log", "summary.json")
    } == {0o600}
    assert (modes["train.parquet"], modes["README.md"], modes["dataset"], modes["data"]) == (
        0o644,
        0o644,
        0o755,
        0o755,
    )


# ---- barriers

PLUGIN = """
from dataclasses import replace
from synthpref import Barrier, Sample

class Wall(Barrier):
    '''Does something to the rows.'''
    how: str = "order"
    def run(self, rows, rng):
        seen = [row.id for row in rows]
        for row in rows:
            if self.how == "id": yield replace(row, id=row.id + "x")
            elif self.how == "swap": yield replace(row, id=seen[(seen.index(row.id) + 1) % len(seen)])
            elif self.how == "samples": yield replace(row, samples=row.samples[1:])
            elif self.how == "text": yield replace(row, samples=tuple(replace(s, text="other") for s in row.samples))
            elif self.how == "prompt": yield replace(row, prompt=({"role": "user", "content": "other"},))
            else: yield replace(row, meta={**row.meta, "seen": seen})

STAGES = {"my.wall": Wall}
"""


@pytest.mark.parametrize("first", [True, False])
def test_a_barrier_gets_its_rows_in_the_order_of_their_ids_wherever_it_stands(
    tmp_path: Path, server: Replay, first: bool
) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN, encoding="utf-8")
    stages: list[Any] = [{"sample.n": {"model": "policy", "n": 2}}]
    stages.insert(0 if first else 1, "my.wall")
    code, out = run(
        tmp_path, server, plugins=["plugin.py"], stages=stages, export={"format": "trl-prompt-only"},
        source={"rows": [{"prompt": f"Q{i}", "key": f"{i * 7 % 10}"} for i in range(10)], "id": "key"},
    )  # fmt: skip
    assert code == 0, out
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "out/rows.parquet").to_pylist()
    assert json.loads(rows[0]["meta"])["seen"] == sorted(str(i) for i in range(10))


@pytest.mark.parametrize("how", ["id", "samples", "text", "prompt", "swap"])
def test_a_barrier_that_changes_what_it_may_not_is_named(tmp_path: Path, server: Replay, how: str) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN, encoding="utf-8")
    stages: list[Any] = [{"sample.n": {"model": "policy", "n": 2}}, {"my.wall": {"how": how}}]
    code, out = run(
        tmp_path, server, plugins=["plugin.py"], stages=stages, export={"format": "trl-prompt-only"}
    )
    assert code == 1, out
    assert "my.wall: " in out
