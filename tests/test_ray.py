"""Runs on a Ray cluster of several nodes, against a server on the wire, with workers, nodes and drivers killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import rough
from ray_nodes import ENV, Nodes, nodes
from wire import Server, serving

pytest.importorskip("ray", reason='needs the `ray` extra: pip install "synthpref[ray]"')
pytestmark = pytest.mark.timeout(400)

ROWS = 40
KEY = "sk-test-key-0123456789"
AGAIN = 24
"""Requests that may be asked again after one kill: those in flight, and those of the last commit window."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with nodes() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def write(folder: Path, server: Server) -> None:
    rough.write(folder, [server.url], ROWS, api_key="${TEST_KEY}", concurrency=8)


@pytest.fixture(scope="module")
def calm(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], set[str]]:
    """What an undisturbed run here makes, and asks."""
    folder = tmp_path_factory.mktemp("calm")
    write(folder, server)
    finish(start(folder, "run", "recipe.yaml"), folder)
    return rough.outcome(folder), {call.identity for call in server.calls}


@pytest.fixture(autouse=True)
def forgetful(server: Server, calm: object) -> None:
    server.calls.clear()
    server.latency_s = 0.02


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    with (folder / "said").open("a", encoding="utf-8") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "synthpref.cli", *words],
            cwd=folder,
            env={**os.environ, **ENV, "TEST_KEY": KEY},
            stdout=said,
            stderr=said,
            text=True,
        )


def on_ray(folder: Path, cluster: Nodes, *words: str) -> subprocess.Popen[str]:
    return start(folder, "run", "recipe.yaml", "--on", "ray", "--address", cluster.address, *words)


def finish(process: subprocess.Popen[str], folder: Path, code: int = 0) -> str:
    try:
        found = process.wait(300)
    finally:
        process.kill()
        process.wait()
    said = rough.said(folder)
    assert found == code, said
    assert not re.search(r"Traceback|\(raylet\)|\[.* [IWE] ", said), said
    return said


def until(come: Callable[[], bool], process: subprocess.Popen[str], folder: Path) -> None:
    """Wait for a moment of a run that goes on."""
    while not come():
        assert process.poll() is None, rough.said(folder)
        time.sleep(0.01)


def asked(server: Server, count: int) -> Callable[[], bool]:
    return lambda: len(server.calls) >= count


def asked_again(server: Server) -> int:
    return sum(n - 1 for n in Counter(call.identity for call in server.calls).values())


def workers(folder: Path) -> set[int]:
    """The processes that have walked, by what their logs say."""
    texts = [p.read_text(encoding="utf-8") for p in (rough.home(folder) / "shards").glob("worker-*/run.log")]
    return {int(pid) for text in texts for pid in re.findall(r"worker \d+: process (\d+)", text)}


def test_a_worker_is_killed_and_nothing_else_is_lost(
    tmp_path: Path, cluster: Nodes, server: Server, calm: tuple[dict[str, bytes], set[str]]
) -> None:
    node = cluster.add(3)
    write(tmp_path, server)
    process = on_ray(tmp_path, cluster, "--workers", "2", "--shards", "5")
    until(asked(server, 100), process, tmp_path)
    status = subprocess.run(
        [sys.executable, "-m", "synthpref.cli", "status", str(rough.home(tmp_path))],
        capture_output=True,
        text=True,
    )
    assert "on a cluster" in status.stdout, status
    os.kill(min(workers(tmp_path)), signal.SIGKILL)
    finish(process, tmp_path)
    assert len(set(re.findall(r"worker \d+: process (\d+)", log_of(tmp_path)))) >= 2
    assert rough.differences(calm[0], rough.outcome(tmp_path)) == []
    assert {call.identity for call in server.calls} == calm[1]
    assert asked_again(server) <= AGAIN
    rough.every_row_ends_once(tmp_path)
    # The key has been there, in memory alone.
    assert {h["Authorization"] for h in server.headers} == {f"Bearer {KEY}"}
    written = [p for top in (cluster.folder, tmp_path) for p in top.rglob("*") if p.is_file()]
    assert len(written) > 20
    assert [p for p in written if KEY.encode() in p.read_bytes()] == []
    # Nothing tells this folder from one that was made here, and nothing is left to ask.
    assert not (rough.home(tmp_path) / "shards").exists()
    server.calls.clear()
    finish(start(tmp_path, "run", "recipe.yaml"), tmp_path)
    assert server.calls == []
    cluster.kill(node)


def log_of(folder: Path) -> str:
    return (rough.home(folder) / "run.log").read_text(encoding="utf-8")


def test_nodes_are_killed_and_the_run_goes_on_with_those_that_are_there_or_come(
    tmp_path: Path, cluster: Nodes, server: Server, calm: tuple[dict[str, bytes], set[str]]
) -> None:
    first, second = cluster.add(1), cluster.add(1)
    write(tmp_path, server)
    process = on_ray(tmp_path, cluster, "--workers", "2", "--shards", "6")
    until(asked(server, 60), process, tmp_path)
    cluster.kill(first)
    before = len(server.calls)
    until(asked(server, before + 60), process, tmp_path)  # without a spare
    cluster.kill(second)
    third = cluster.add(1)  # and with nothing but one
    finish(process, tmp_path)
    cluster.kill(third)
    assert rough.differences(calm[0], rough.outcome(tmp_path)) == []
    assert {call.identity for call in server.calls} == calm[1]
    assert asked_again(server) <= 2 * AGAIN


def test_the_driver_is_killed_and_any_command_goes_on(
    tmp_path: Path, cluster: Nodes, server: Server, calm: tuple[dict[str, bytes], set[str]]
) -> None:
    node = cluster.add(2)
    write(tmp_path, server)
    for shards, count in (("5", 80), ("3", 200)):
        process = on_ray(tmp_path, cluster, "--workers", "2", "--shards", shards)
        until(asked(server, count), process, tmp_path)
        process.kill()
        process.wait()
    finish(start(tmp_path, "run", "recipe.yaml"), tmp_path)
    cluster.kill(node)
    assert rough.differences(calm[0], rough.outcome(tmp_path)) == []
    assert {call.identity for call in server.calls} == calm[1]
    # Workers of a dead driver go on for a moment.
    assert asked_again(server) <= 4 * AGAIN


@pytest.mark.parametrize("bound", [None, 60], ids=["no max_tokens", "max_tokens"])
def test_a_budget_holds_for_all_workers(
    tmp_path: Path, cluster: Nodes, server: Server, bound: int | None
) -> None:
    first, second = cluster.add(1), cluster.add(1)
    more = {} if bound is None else {"max_tokens": bound}
    rough.write(tmp_path, [server.url], ROWS, api_key="${TEST_KEY}", concurrency=128, **more)
    before = len(server.calls)
    process = on_ray(tmp_path, cluster, "--workers", "2", "--set", "limits.max_tokens=20000")
    said = finish(process, tmp_path, code=3)
    cluster.kill(first)
    cluster.kill(second)
    assert "the budget of 20,000 tokens (limits.max_tokens) is spent" in said
    summary = json.loads((rough.home(tmp_path) / "summary.json").read_text(encoding="utf-8"))
    used = sum(m["prompt_tokens"] + m["completion_tokens"] for m in summary["models"].values())
    assert 15_000 < used <= (20_000 if bound else 25_000), "the whole run takes 280,000"
    assert len(server.calls) - before == sum(m["requests"] for m in summary["models"].values())
    assert not (rough.home(tmp_path) / "shards").exists()


def test_rounds_on_a_cluster_come_to_what_they_come_to_here(
    tmp_path: Path, cluster: Nodes, server: Server
) -> None:
    """Workers load the recipe of their round: with its number, and with what the hook before it has set."""
    made, node = {}, cluster.add(2)
    for name, words in (("here", []), ("there", ["--on", "ray", "--address", cluster.address])):
        folder = tmp_path / name
        write(folder, server)
        tree = yaml.safe_load((folder / "recipe.yaml").read_text("utf-8"))
        hook = "echo models.policy.model=policy-$ROUND > $SYNTHPREF_NEXT"
        tree["rounds"] = {"count": 2, "hook": hook}
        tree["models"]["judge"]["model"] = "judge-${ROUND}"
        (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        finish(start(folder, "run", "recipe.yaml", *words), folder)
        homes = [rough.home(folder) / f"round-{number}" for number in (1, 2)]
        made[name] = [(home / file).read_bytes() for home in homes for file in rough.SAME]
    cluster.kill(node)
    assert made["here"] == made["there"]
    asked = {call.model for call in server.calls}
    assert {"policy", "policy-1", "judge-1", "judge-2"} <= asked


def test_a_worker_finds_what_lies_where_the_run_was_started(
    tmp_path: Path, cluster: Nodes, server: Server
) -> None:
    node = cluster.add(2)
    write(tmp_path, server)
    (tmp_path / "rules.py").write_text("def good(text, row):\n    return len(text) > 10\n", encoding="utf-8")
    tree = yaml.safe_load((tmp_path / "recipe.yaml").read_text("utf-8"))
    tree["stages"].insert(2, {"verify": {"kind": "python", "function": "rules.py:good"}})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    finish(on_ray(tmp_path, cluster, "--workers", "1"), tmp_path)
    cluster.kill(node)
    rough.every_row_ends_once(tmp_path)


NOBODY = """
from pathlib import Path
from synthpref import job
from synthpref.on_ray import Cluster
import sys
path = Path("recipe.yaml")
cluster = Cluster(address=sys.argv[1], workers=2, gpus=1, patience_s=1)
print(job.run(job.load(path), Path("runs/rough"), cluster=cluster).stopped)
"""


def test_workers_that_cannot_come_are_told(tmp_path: Path, cluster: Nodes, server: Server) -> None:
    write(tmp_path, server)
    found = subprocess.run(
        [sys.executable, "-c", NOBODY, cluster.address],
        cwd=tmp_path,
        env={**os.environ, **ENV, "TEST_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "no worker came for 1 s: each needs 1 CPU and 1 GPUs, and the cluster has" in found.stdout, found
    assert server.calls == []
