"""Runs of rounds that are killed, interrupted and started again, from outside, as a person would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from in_rounds import Tree, hooked, recipe
from wire import Server, serving

PATIENCE_S = 60
SAME = ("rows.parquet", "left.jsonl", "dataset/data/train.parquet")
# It begins, waits until it may go on, and ends.
HOOK = """
echo $ROUND >> hooked
while ! test -e go; do sleep 0.02; done
echo $ROUND >> ended
echo models.policy.model=policy-$ROUND > $SYNTHPREF_NEXT
"""


@dataclass(frozen=True)
class Calm:
    """The files of a run, and what it asked."""

    outcome: dict[str, bytes]
    asked: Counter[str]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@dataclass
class Outside:
    """A run as it is seen from outside, in the folder of its recipe."""

    folder: Path
    server: Server

    def write(self, hook: str = HOOK, **head: Any) -> Tree:
        tree = recipe(hook, **head)
        for role in tree["models"]:
            same = {"backend": "openai", "base_url": self.server.url, "model": role}
            tree["models"][role] = same | {"concurrency": 4}
        self.folder.mkdir(exist_ok=True)
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        return tree

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "synthpref.cli", "run", "recipe.yaml"]
        with (self.folder / "said").open("w", encoding="utf-8") as said:
            return subprocess.Popen(command, cwd=self.folder, stdout=said, stderr=said, text=True)

    def run(self) -> None:
        self.let_go()
        assert self.start().wait(PATIENCE_S) == 0, self.said()

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def said(self) -> str:
        return (self.folder / "said").read_text(encoding="utf-8")

    def ended(self) -> list[int]:
        path = self.folder / "ended"
        return [int(line) for line in path.read_text("utf-8").split()] if path.exists() else []

    def round(self, number: int) -> Path:
        return self.folder / "runs/tried" / f"round-{number}"

    def outcome(self) -> dict[str, bytes]:
        return {f"{n}/{name}": (self.round(n) / name).read_bytes() for n in (1, 2, 3) for name in SAME}

    def asked(self) -> Counter[str]:
        return Counter(call.identity for call in self.server.calls)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """What a run comes to that nobody disturbs."""
    with serving() as server:
        made = Outside(tmp_path_factory.mktemp("calm"), server)
        made.write()
        made.run()
        return Calm(made.outcome(), made.asked())


def until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "it never happened"
        assert process.poll() is None, f"exit {process.returncode} before it happened"
        time.sleep(0.01)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def group_of(run: Outside, number: int) -> int:
    return int((run.round(number) / "hook.lock").read_text("ascii"))


def test_killed_within_the_second_round_at_several_moments(
    tmp_path: Path, calm: Calm, server: Server
) -> None:
    run = Outside(tmp_path / "killed", server)
    run.write()
    run.let_go()
    for after in (30, 32, 45, 58):  # of 30 in each round

        def far(after: int = after) -> bool:
            return len(run.asked()) > after

        server.hold = lambda call, far=far: far()
        process = run.start()
        until(far, process)
        kill(process)
    first = Counter([call.identity for call in server.calls][:30])
    server.hold = lambda call: False
    run.run()
    assert run.outcome() == calm.outcome
    assert run.asked().keys() == calm.asked.keys()
    assert all(run.asked()[identity] == 1 for identity in first), "nothing of the first round is asked again"
    assert (hooked(run.folder), run.ended()) == ([1, 2, 3], [1, 2, 3])


def killed_in_its_first_hook(tmp_path: Path, server: Server) -> Outside:
    run = Outside(tmp_path / "killed", server)
    run.write()
    process = run.start()
    until(lambda: hooked(run.folder) == [1], process)
    kill(process)
    return run


def test_killed_while_a_hook_is_at_work_it_is_waited_for_and_not_run_again(
    tmp_path: Path, calm: Calm, server: Server
) -> None:
    run = killed_in_its_first_hook(tmp_path, server)
    process = run.start()
    until(lambda: "waiting for it" in run.said(), process)
    status = subprocess.run(
        [sys.executable, "-m", "synthpref.cli", "status", "runs/tried"],
        cwd=run.folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "its hook is at work" in status.stdout
    run.let_go()
    assert process.wait(PATIENCE_S) == 0, run.said()
    assert (hooked(run.folder), run.ended()) == ([1, 2, 3], [1, 2, 3])
    assert run.outcome() == calm.outcome


def test_a_hook_that_ended_well_when_nobody_was_there_is_not_run_again(
    tmp_path: Path, calm: Calm, server: Server
) -> None:
    run = killed_in_its_first_hook(tmp_path, server)
    group = group_of(run, 1)
    run.let_go()
    end = time.monotonic() + PATIENCE_S
    while not gone(group):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not (run.round(1) / "round.json").exists()
    run.run()
    assert (hooked(run.folder), run.ended()) == ([1, 2, 3], [1, 2, 3])
    assert run.outcome() == calm.outcome


def test_a_hook_that_was_killed_as_well_is_run_again(tmp_path: Path, calm: Calm, server: Server) -> None:
    run = Outside(tmp_path / "killed", server)
    run.write()
    process = run.start()
    until(lambda: hooked(run.folder) == [1], process)
    group = group_of(run, 1)
    kill(process)
    os.killpg(group, signal.SIGKILL)
    before = run.asked()
    run.run()
    assert (hooked(run.folder), run.ended()) == ([1, 1, 2, 3], [1, 2, 3])
    assert run.outcome() == calm.outcome
    assert (run.asked() - before).total() == 60, "two rounds, and nothing of the first"


def test_a_hook_alone_that_is_killed_stops_the_run(tmp_path: Path, server: Server) -> None:
    run = Outside(tmp_path / "killed", server)
    run.write()
    process = run.start()
    until(lambda: hooked(run.folder) == [1], process)
    os.killpg(group_of(run, 1), signal.SIGKILL)
    assert process.wait(PATIENCE_S) == 1, run.said()
    assert "the hook of round 1 was killed" in run.said()
    run.run()
    assert hooked(run.folder) == [1, 1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupt_goes_to_the_hook_and_the_run_stops(
    tmp_path: Path, calm: Calm, server: Server, number: signal.Signals
) -> None:
    run = Outside(tmp_path / "stopped", server)
    run.write(f"trap 'echo told; exit 9' INT\n{HOOK}")
    process = run.start()
    until(lambda: hooked(run.folder) == [1], process)
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == 3, run.said()
    assert "interrupted while the hook was at work, which will be run again" in run.said()
    assert "told" in (run.round(1) / "hook.log").read_text("utf-8")
    run.run()
    assert (hooked(run.folder), run.ended()) == ([1, 1, 2, 3], [1, 2, 3])
    assert run.outcome() == calm.outcome


def test_a_hook_that_ends_well_all_the_same_is_done(tmp_path: Path, server: Server) -> None:
    run = Outside(tmp_path / "stopped", server)
    run.write(f"trap 'touch go' INT\n{HOOK}")
    process = run.start()
    until(lambda: hooked(run.folder) == [1], process)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 3, run.said()
    assert (run.round(1) / "round.json").exists()
    assert not run.round(2).exists(), "nothing is begun after an interrupt"
    run.run()
    assert (hooked(run.folder), run.ended()) == ([1, 2, 3], [1, 2, 3])


def test_told_twice_it_kills_the_hook_and_leaves(tmp_path: Path, server: Server) -> None:
    run = Outside(tmp_path / "stopped", server)
    run.write(f"trap 'echo deaf >> told' INT\n{HOOK}")
    process = run.start()
    until(lambda: hooked(run.folder) == [1], process)
    group = group_of(run, 1)
    process.send_signal(signal.SIGINT)
    until(lambda: (run.folder / "told").exists(), process)
    assert "interrupt again to kill it" in run.said()
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130, run.said()
    end = time.monotonic() + PATIENCE_S
    while not gone(group):
        assert time.monotonic() < end
        time.sleep(0.01)
    run.run()
    assert (hooked(run.folder), run.ended()) == ([1, 1, 2, 3], [1, 2, 3])


def test_an_interrupt_while_a_hook_of_an_earlier_start_is_waited_for(tmp_path: Path, server: Server) -> None:
    run = Outside(tmp_path / "stopped", server)
    run.write(f"trap 'exit 9' INT\n{HOOK}")
    process = run.start()
    until(lambda: hooked(run.folder) == [1], process)
    kill(process)
    process = run.start()
    until(lambda: "waiting for it" in run.said(), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 3, run.said()
    run.run()
    assert (hooked(run.folder), run.ended()) == ([1, 1, 2, 3], [1, 2, 3])
