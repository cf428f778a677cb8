"""Ctrl-C, SIGTERM and a second run: when a run is told to stop, and who may run in a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import rough
from wire import Server, serving, status

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
PATIENCE_S = 60


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def until(true: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for something to happen; if it does not, the test fails."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "it never happened"
        assert process is None or process.poll() is None, f"exit {process.returncode} before it happened"
        time.sleep(0.005)


def stopping(folder: Path, process: subprocess.Popen[str]) -> None:
    until(lambda: "Stopping: " in rough.said(folder), process)


@BOTH
def test_told_once_it_makes_no_new_call_and_keeps_those_in_flight(
    tmp_path: Path, server: Server, number: signal.Signals
) -> None:
    rough.write(tmp_path / "calm", [server.url], 20)
    rough.run(tmp_path / "calm")
    needed, before = rough.outcome(tmp_path / "calm"), server.requests
    server.calls.clear()
    rough.write(tmp_path, [server.url], 20, concurrency=8)
    server.hold = lambda call: True
    process = rough.start(tmp_path)
    until(lambda: server.requests == before + 8, process)
    process.send_signal(number)
    stopping(tmp_path, process)
    server.hold = lambda call: False
    assert process.wait(PATIENCE_S) == 3, rough.said(tmp_path)
    assert server.requests == before + 8, "no call is made after the signal"
    assert "interrupted" in rough.said(tmp_path)
    assert "the same command goes on" in rough.said(tmp_path)
    rough.run(tmp_path)
    asked = [call.identity for call in server.calls]
    assert len(asked) == len(set(asked)), "the answers of the calls in flight are kept"
    assert rough.differences(needed, rough.outcome(tmp_path)) == []


@BOTH
def test_told_twice_it_leaves_at_once(tmp_path: Path, server: Server, number: signal.Signals) -> None:
    server.fault = lambda request, call: "hang" if call >= 20 else None
    rough.write(tmp_path, [server.url], 20, concurrency=8)
    process = rough.start(tmp_path)
    until(lambda: server.requests == 28, process)
    process.send_signal(number)
    stopping(tmp_path, process)
    assert process.poll() is None, "it waits for the calls in flight"
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == 130, rough.said(tmp_path)
    assert "the same command goes on" in rough.said(tmp_path)
    kept = {call.identity for call in server.calls if call.answered}
    server.fault = lambda request, call: None
    server.calls.clear()
    rough.run(tmp_path)
    assert not kept & {call.identity for call in server.calls}, "what was answered is kept"


@pytest.mark.parametrize("wait", ["Retry-After", "rpm"])
def test_told_while_all_calls_have_to_wait_it_stops(tmp_path: Path, server: Server, wait: str) -> None:
    if wait == "Retry-After":
        server.fault = lambda request, number: status(429, Retry_After="1000")
    # At one a minute, the second call waits for as long as this test may take.
    rough.write(tmp_path, [server.url], 20, **({"rpm": 1} if wait == "rpm" else {}))
    process = rough.start(tmp_path)
    until(lambda: server.requests >= 1 and not server.in_flight, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 3, rough.said(tmp_path)
    server.fault = lambda request, number: None
    rough.write(tmp_path, [server.url], 20)
    rough.run(tmp_path)


SLOW_BARRIER = '''
import time
from pathlib import Path
from synthpref import Barrier


class Slow(Barrier):
    """Thinks for as long as nobody lets it go on."""

    def run(self, rows, rng):
        Path("thinking").touch()
        while not Path("enough").exists():
            time.sleep(0.01)
        yield from rows


STAGES = {"my.slow": Slow}
'''


def with_a_slow_barrier(folder: Path, server: Server) -> None:
    path = rough.write(folder, [server.url], 10)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    tree["plugins"] = ["slow.py"]
    tree["stages"].insert(4, "my.slow")
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    (folder / "slow.py").write_text(SLOW_BARRIER, encoding="utf-8")


@BOTH
def test_told_twice_in_a_barrier_it_leaves_at_once(
    tmp_path: Path, server: Server, number: signal.Signals
) -> None:
    with_a_slow_barrier(tmp_path, server)
    process = rough.start(tmp_path)
    try:
        until((tmp_path / "thinking").exists, process)
        process.send_signal(number)
        stopping(tmp_path, process)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 130, rough.said(tmp_path)
    finally:
        process.kill()
        process.wait()
    (tmp_path / "enough").touch()
    paid = {call.identity for call in server.calls if call.model in rough.BEFORE}
    server.calls.clear()
    rough.run(tmp_path)
    assert not paid & {call.identity for call in server.calls}


@BOTH
def test_told_in_a_barrier_it_stops_when_the_barrier_is_through(
    tmp_path: Path, server: Server, number: signal.Signals
) -> None:
    with_a_slow_barrier(tmp_path, server)
    process = rough.start(tmp_path)
    try:
        until((tmp_path / "thinking").exists, process)
        process.send_signal(number)
        (tmp_path / "enough").touch()
        assert process.wait(PATIENCE_S) == 3, rough.said(tmp_path)
    finally:
        process.kill()
        process.wait()
    assert not [call for call in server.calls if call.model in rough.AFTER]
    rough.run(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_while_the_dataset_is_written_it_says_that_the_run_can_go_on(
    tmp_path: Path, server: Server, number: signal.Signals
) -> None:
    rough.write(tmp_path, [server.url], 10)
    rough.home(tmp_path).mkdir(parents=True)
    # Whoever opens a pipe to write waits for one who reads: here the run waits, for as long as it has to.
    pipe = rough.home(tmp_path) / "left.jsonl.part"
    os.mkfifo(pipe)
    process = rough.start(tmp_path)
    try:
        until(lambda: server.requests > 0 and not server.in_flight and asleep_in_open(process.pid), process)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) in (3, 130), rough.said(tmp_path)
        assert "the same command goes on" in rough.said(tmp_path)
        assert "Traceback" not in rough.said(tmp_path)
    finally:
        process.kill()
        process.wait()
    pipe.unlink(missing_ok=True)
    server.calls.clear()
    rough.run(tmp_path)
    assert server.calls == []


def asleep_in_open(pid: int) -> bool:
    """Whether the process waits for a pipe to be opened at its other end."""
    try:
        return "wait_for_partner" in Path(f"/proc/{pid}/wchan").read_text(encoding="utf-8")
    except OSError:
        return False


def test_a_second_run_in_the_folder_is_refused_and_told_who_is_there(tmp_path: Path, server: Server) -> None:
    server.hold = lambda call: True
    rough.write(tmp_path, [server.url], 10)
    first = rough.start(tmp_path)
    until(lambda: server.requests > 0, first)
    second = rough.start(tmp_path)
    assert second.wait(PATIENCE_S) == 1
    assert f"process {first.pid} on" in rough.said(tmp_path)
    assert first.poll() is None, "the first is left in peace"
    first.kill()
    first.wait()
    server.hold = lambda call: False
    rough.run(tmp_path)
    rough.every_row_ends_once(rough.home(tmp_path).parents[1])


def test_of_two_that_take_over_from_a_dead_one_only_one_runs(tmp_path: Path, server: Server) -> None:
    rough.write(tmp_path, [server.url], 10)
    server.hold = lambda call: True
    dead = rough.start(tmp_path)
    until(lambda: server.requests > 0, dead)
    dead.kill()
    dead.wait()
    two = [rough.start(tmp_path), rough.start(tmp_path)]
    until(lambda: any(process.poll() is not None for process in two))
    server.hold = lambda call: False
    assert sorted(process.wait(PATIENCE_S) for process in two) == [0, 1], rough.said(tmp_path)
    refused = next(p for p in two if p.returncode == 1)
    assert refused.pid != dead.pid
    assert f"process {dead.pid} on" not in rough.said(tmp_path), "nobody is told of the dead one"
