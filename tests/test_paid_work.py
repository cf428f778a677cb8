"""Runs that stop, hang or lose paid work, and caches that lie: what must not happen to a run, each as a whole run.

What happens when a run is killed or told to stop is in test_torture.py and test_interrupts.py.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import rough
from test_interrupts import PATIENCE_S, until
from wire import Call, Server, serving, status

ROWS = 10


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def answered(server: Server, *models: str) -> list[Call]:
    return [call for call in list(server.calls) if call.answered and call.model in models]


def test_one_slow_answer_holds_up_no_other_row(tmp_path: Path, server: Server) -> None:
    """It leaves only when every other row has been judged; if one row waited for another, none would ever be."""
    rough.write(tmp_path, [server.url], ROWS)
    rough.run_here(tmp_path)
    judged = len(answered(server, "judge"))
    server.calls.clear()

    def hold(call: Call) -> bool:
        slow = next((c for c in server.calls if c.model == "policy"), None)
        return call is slow and len(answered(server, "judge")) < judged - 3

    server.hold = hold
    rough.write(tmp_path / "slow", [server.url], ROWS)
    rough.run_here(tmp_path / "slow")
    assert rough.differences(rough.outcome(tmp_path), rough.outcome(tmp_path / "slow")) == []


def test_a_failed_call_is_asked_again_while_the_others_are_still_under_way(
    tmp_path: Path, server: Server
) -> None:
    """The first answer to the policy leaves only when the first call of all, which failed, has come again."""
    server.fault = lambda request, number: status(500) if number == 0 else None

    def hold(call: Call) -> bool:
        first = next((c for c in server.calls if c.model == "policy"), None)
        return call is first and sum(c.identity == server.calls[0].identity for c in server.calls) < 2

    server.hold = hold
    rough.write(tmp_path, [server.url], ROWS)
    rough.run_here(tmp_path)
    assert rough.every_row_ends_once(tmp_path)["rejected"] == 0


def test_parameters_of_one_role_never_reach_another(tmp_path: Path, server: Server) -> None:
    server.pace = lambda number: random.Random(number).uniform(0.0, 0.02)
    path = rough.write(tmp_path, [server.url], ROWS)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    own = {name: (name, 0.1 * i, 1000 + i, i) for i, name in enumerate(tree["models"], 1)}
    for name, (_, temperature, longest, top_k) in own.items():
        more = {"temperature": temperature, "max_tokens": longest, "extra_body": {"top_k": top_k}}
        tree["models"][name] |= more
    tree["stages"][1]["sample.n"] = {
        "models": [{"model": "policy", "n": 2}, {"model": "policy", "temperature": 1.7}]
    }
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    rough.run_here(tmp_path)
    sent = Counter((b["model"], b["temperature"], b["max_tokens"], b["top_k"]) for b in server.bodies)
    hot = ("policy", 1.7, *own["policy"][2:])
    assert sent.keys() == {*own.values(), hot}
    assert sent[hot] == sent[own["policy"]]


def test_stopped_half_way_edited_and_started_again_it_is_as_if_it_had_been_so_from_the_start(
    tmp_path: Path, server: Server
) -> None:
    rough.write(tmp_path / "edited", [server.url], ROWS, concurrency=4)
    server.hold = lambda call: server.calls.index(call) > 60
    process = rough.start(tmp_path / "edited")
    until(lambda: len(server.calls) > 62, process)
    process.send_signal(signal.SIGINT)
    until(lambda: "Stopping: " in rough.said(tmp_path / "edited"), process)
    server.hold = lambda call: False
    assert process.wait(PATIENCE_S) == 3
    for name in ("edited", "fresh"):
        path = rough.write(tmp_path / name, [server.url], ROWS)
        tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        tree["stages"][3] = {"pair.ranked": {"score": "helpful"}}
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        rough.run_here(tmp_path / name)
        if name == "edited":
            asked = [call.identity for call in server.calls]
            assert len(asked) == len(set(asked)), "what was asked before the edit is not asked again"
    assert rough.differences(rough.outcome(tmp_path / "fresh"), rough.outcome(tmp_path / "edited")) == []


MADE = """
import resource, sys
from pathlib import Path
from synthpref.core.errors import JournalError
from synthpref.engine.journal import Journal

refused = 0
for room in range(0, 120_000, 2_000):
    path = Path(sys.argv[1]) / f"{room}.sqlite"
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        Journal(path).close()
    except JournalError:
        refused += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        Journal(path).close()
    except JournalError as error:
        print(f"after {room} bytes: {error}")
print(f"refused {refused}")
"""


def test_a_journal_that_was_not_made_to_the_end_is_made_when_it_is_opened_again(tmp_path: Path) -> None:
    """Whatever ended it in the middle, a kill or a full disk: here the disk, as it ends at a known byte."""
    command = [sys.executable, "-c", MADE, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout
    *wrong, refused = told.splitlines()
    assert wrong == []
    assert int(refused.split()[1]) > 3, "some were not made to the end"
