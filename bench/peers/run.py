"""The same job in the field's other tools, on the same endpoint, in turn with a bare loop and with synthpref.

    make bench-peers        or    .venv/bin/python -m bench.peers.run --parts wide --tools curator --rounds 1

The job: for each prompt one request for four samples, and one that judges them together. Each tool has its own
environment under .venv-peers, made from pinned requirements the first time. Three parts: `narrow` and `wide` time it,
`kill` ends it by SIGKILL and gives the same command again. Before them each tool makes a small run with a guard
that lets nothing out of this machine. Results go to results.json here, and as tables to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import endpoint as endpoints
from bench.endpoint import Endpoint
from bench.peers import table
from bench.peers.measure import LIMIT_S, killed, measured, running
from bench.peers.tools import BARE, HERE, PEERS, SYNTHPREF, Job, Tool, install

RESULTS = HERE / "results.json"
GUARDED_PROMPTS = 50


@dataclass(frozen=True)
class Scene:
    slots: int
    latency_s: float
    prompts: int


SCENES = {"narrow": Scene(64, 0.05, 2000), "wide": Scene(1024, 1.0, 4000)}


@contextmanager
def job(endpoint: Endpoint, slots: int, count: int) -> Iterator[Job]:
    """A folder of its own, with the prompts in it."""
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        prompts = folder / "prompts.txt"
        texts = (f"Question {i}: what follows from the number {i * 7919 % 10007}?" for i in range(count))
        prompts.write_text("\n".join(texts) + "\n", encoding="utf-8")
        yield Job(endpoint.url, slots, prompts, folder)


def guarded(tool: Tool) -> dict[str, Any]:
    """A small run from which nothing gets out: whether it succeeds, and which hosts it tried to reach."""
    with endpoints.running(slots=64, latency_s=0.01) as endpoint, job(endpoint, 64, GUARDED_PROMPTS) as work:
        log = work.folder / "outward.txt"
        log.touch()
        with running(tool, work, PYTHONPATH=str(HERE / "guard"), GUARD_LOG=str(log)) as run:
            why = run.wait(endpoint, LIMIT_S)
        return {"failed": why, "tried": sorted(set(log.read_text(encoding="utf-8").split()))}


def timed(scene: Scene, tools: Sequence[Tool], rounds: int) -> dict[str, Any]:
    """Every tool in turn, each after a bare loop of its own, `rounds` times."""
    found: dict[str, list[dict[str, Any]]] = {}
    with endpoints.running(slots=scene.slots, latency_s=scene.latency_s) as endpoint:
        for number in range(rounds):
            for tool in tools:
                for one in (BARE, tool):
                    with job(endpoint, scene.slots, scene.prompts) as work:
                        result = measured(one, work, endpoint, scene.prompts)
                    found.setdefault(one.name, []).append(result)
                    print(f"round {number + 1}, {one.name}: {result}", flush=True)
                pair = found[BARE.name][-1], found[tool.name][-1]
                if "failed" not in pair[0] and "failed" not in pair[1]:
                    pair[1]["of_bare"] = pair[1]["span_s"] / pair[0]["span_s"]
    return {name: {"version": _version(name), "rounds": results} for name, results in found.items()}


def _version(name: str) -> str:
    return next(tool.version() for tool in (BARE, SYNTHPREF, *PEERS) if tool.name == name)


def killing(scene: Scene, tool: Tool, shares: Sequence[float]) -> dict[str, Any]:
    """The tool ended at each of the `shares` of its requests, and started again."""
    kills = []
    with endpoints.running(slots=scene.slots, latency_s=scene.latency_s) as endpoint:
        for share in shares:
            with job(endpoint, scene.slots, scene.prompts) as work:
                kills.append(killed(tool, work, endpoint, scene.prompts, share))
            print(f"{tool.name}, killed at {share:.0%}: {kills[-1]}", flush=True)
    return {tool.name: {"version": tool.version(), "kills": kills}}


def keep(part: str, scene: Scene | None, runs: dict[str, Any]) -> None:
    """Put these runs into results.json, in place of those of the same tools, and the tables into the page."""
    peers = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    about = {"machine": f"{os.cpu_count()} cores, Python {platform.python_version()}"}
    about |= {} if scene is None else asdict(scene)
    old = peers.get(part, {})
    # Figures of another setting are not kept beside these.
    kept = old["runs"] if {**old, "runs": None} == {**about, "runs": None} else {}
    today = datetime.date.today().isoformat()
    peers[part] = {**about, "runs": {**kept, **{name: {"date": today, **run} for name, run in runs.items()}}}
    RESULTS.write_text(json.dumps(peers, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    table.put(peers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default="guard,narrow,wide,kill")
    parser.add_argument("--tools", default=",".join(tool.name for tool in (*PEERS, SYNTHPREF)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", default="0.3,0.7", help="after which shares of the answers")
    options = parser.parse_args()
    tools = [tool for tool in (*PEERS, SYNTHPREF) if tool.name in options.tools.split(",")]
    for tool in tools:
        if tool in PEERS:
            install(tool)
    for part in options.parts.split(","):
        if part == "guard":
            keep(part, None, {tool.name: guarded(tool) for tool in tools})
        elif part == "kill":
            for tool in tools:
                shares = [float(share) for share in options.kills.split(",")]
                keep(part, SCENES["narrow"], killing(SCENES["narrow"], tool, shares))
        else:
            keep(part, SCENES[part], timed(SCENES[part], tools, options.rounds))


if __name__ == "__main__":
    main()
