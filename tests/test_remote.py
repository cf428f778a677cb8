"""A run whose folder is at a URL, killed and gone on with on another machine: another work folder stands for that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

import rough
import store as stores
from store import Store
from wire import Server, serving

URL = "s3://bucket/run"
ROWS = 24
FAST = """
import sys
from synthpref import cli, places
from synthpref.engine.lease import Pace
places.PACE = Pace(upload_s=0.1, renew_s=0.1, patience_s=PATIENCE)
cli.main(sys.argv[1:])
"""
"""The command, which uploads so often that a short run has segments."""


@dataclass
class Machine:
    """A machine with a disk of its own."""

    folder: Path
    store: Store
    work: str = "one"
    patience_s: float = 30.0
    env: dict[str, str] = field(default_factory=dict)

    def start(self, *args: str) -> subprocess.Popen[str]:
        env = {
            **os.environ,
            **self.store.environment,
            "SYNTHPREF_WORK": str(self.folder / self.work),
            **self.env,
        }
        code = FAST.replace("PATIENCE", str(self.patience_s))
        return subprocess.Popen(
            [sys.executable, "-c", code, *args],
            cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def command(self, *args: str) -> tuple[int, str]:
        process = self.start(*args)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def run(self, url: str = URL) -> tuple[int, str]:
        return self.command("run", "recipe.yaml", "--out", url)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.latency_s = 0.02
        yield server


@pytest.fixture
def store() -> Iterator[Store]:
    with stores.serving() as store:
        yield store


def calm(folder: Path, server: Server) -> dict[str, bytes]:
    """What comes out of an undisturbed run in a local folder."""
    rough.write(folder / "calm", [server.url], ROWS, concurrency=4)
    rough.run_here(folder / "calm")
    server.calls.clear()
    return rough.outcome(folder / "calm")


def outcome(folder: Path, store: Store) -> dict[str, bytes]:
    """What has to be the same, of what lies in the store."""
    home = rough.home(folder / "there")
    for key, content in store.objects.items():
        path = home / key.removeprefix("run/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return rough.outcome(folder / "there")


@dataclass
class Killer:
    """Kills the process at the request that `when` names, before the store does as it was asked."""

    when: Callable[[str], bool]
    at: int = 0
    """How many requests the store had seen by then."""
    process: subprocess.Popen[str] | None = None

    def watch(self, store: Store) -> None:
        def fault(request: str) -> tuple[int, str] | None:
            if self.process and not self.at and self.when(request):
                self.at = len(store.log)
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
            return (500, "InternalError") if self.at == len(store.log) else None

        store.fault = fault


def nth(text: str, number: int) -> Callable[[str], bool]:
    left = [number]

    def when(request: str) -> bool:
        left[0] -= text in request
        return left[0] == 0 and text in request

    return when


MOMENTS = {
    "at the start": ("DELETE run/summary.json", 1),
    "before the first segment": ("PUT run/segments/", 1),
    "between segments": ("PUT run/segments/", 4),
    "while segments are joined": ("DELETE run/segments/", 3),
    "before the snapshot": ("PUT run/journal.sqlite", 1),
    "after the snapshot": ("PUT run/left.jsonl", 1),
    "before the summary": ("PUT run/summary.json", 1),
    "while it is given back": ("DELETE run/run.lease", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_it_goes_on_on_another_machine(
    tmp_path: Path, server: Server, store: Store, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = calm(tmp_path, server)
    rough.write(tmp_path, [server.url], ROWS, concurrency=4)
    killer = Killer(nth(*MOMENTS[moment]))
    killer.watch(store)
    killer.process = Machine(tmp_path, store, "one").start("run", "recipe.yaml", "--out", URL)
    said, _ = killer.process.communicate(timeout=60)
    assert killer.at, f"that moment never came: {said}"
    before = list(server.calls)
    store.fault = lambda request: None
    code, said = Machine(tmp_path, store, "two").run()
    assert code == 0, said
    assert rough.differences(needed, outcome(tmp_path, store)) == []
    assert not [key for key in store.objects if "segments" in key or "lease" in key]
    # What had been answered when the last upload began is not asked again, less the journal's own window.
    puts = [
        store.seen[i] for i, request in enumerate(store.log[: killer.at - 1]) if "PUT run/segments" in request
    ]
    asked = Counter(call.identity for call in server.calls)
    again = [call for call in before if asked[call.identity] > 1]
    last = puts[-1] if puts else 0.0
    uploaded = [call for call in again if call.answered and call.answered < last - 0.5]
    assert not uploaded, f"{len(uploaded)} of {len(again)} answers that were uploaded were asked again"


def test_killed_it_goes_on_at_once_on_the_same_machine(tmp_path: Path, server: Server, store: Store) -> None:
    needed = calm(tmp_path, server)
    rough.write(tmp_path, [server.url], ROWS, concurrency=4)
    killer = Killer(nth("PUT run/segments/", 3))
    killer.watch(store)
    killer.process = Machine(tmp_path, store).start("run", "recipe.yaml", "--out", URL)
    killer.process.communicate(timeout=60)
    done = {call.identity: call.answered for call in server.calls if call.answered}
    began = len(server.calls)
    store.fault = lambda request: None
    code, said = Machine(tmp_path, store).run()
    assert code == 0, said
    assert "still does" not in said, (
        "nobody is waited for: the lock of the work folder says that the holder is dead"
    )
    killed_at = store.seen[killer.at - 1]
    again = [call for call in server.calls[began:] if call.identity in done]
    assert all(done[call.identity] > killed_at - 0.5 for call in again), (
        "what is on the disk here is not asked again"
    )
    assert rough.differences(needed, outcome(tmp_path, store)) == []


def test_two_runs_at_once_are_refused(tmp_path: Path, server: Server, store: Store) -> None:
    rough.write(tmp_path, [server.url], ROWS, concurrency=4)
    arrived, leave = threading.Event(), threading.Event()

    def hold(call: object) -> bool:
        arrived.set()
        return not leave.is_set()

    server.hold = hold
    first = Machine(tmp_path, store, "one").start("run", "recipe.yaml", "--out", URL)
    assert arrived.wait(30)
    code, said = Machine(tmp_path, store, "two").run()
    assert code == 1
    assert f"{URL}: process {first.pid} on" in said
    assert "is running there; wait for it, or name another with --out" in said
    code, said = Machine(tmp_path, store, "two").command("status", URL)
    assert f"going on, in process {first.pid} on" in said
    leave.set()
    assert first.wait(60) == 0
    assert first.stdout
    first.stdout.close()


def test_a_run_that_was_taken_over_stops_and_keeps_what_it_paid_for(
    tmp_path: Path, server: Server, store: Store
) -> None:
    needed = calm(tmp_path, server)
    rough.write(tmp_path, [server.url], ROWS, concurrency=4)
    other = json.dumps({"holder": "process 1 on elsewhere", "token": "other", "home": "x", "every_s": 0.1})

    def fault(request: str) -> None:
        if request.startswith("PUT run/segments/") and not store.parts:
            store.parts["once"] = {}
            store._keep("run/run.lease", other.encode())

    store.fault = fault
    code, said = Machine(tmp_path, store, "one").run()
    assert code == 1, said
    assert f"process 1 on elsewhere took over {URL}" in said
    assert store.objects["run/run.lease"] == other.encode(), "the lease of the other is left alone"
    answered = {call.identity for call in server.calls if call.answered}
    before = len(server.calls)
    store.fault = lambda request: None
    code, said = Machine(tmp_path, store, "two").run()
    assert code == 0, said
    assert not answered & {call.identity for call in server.calls[before:]}, (
        "all of its answers were uploaded"
    )
    assert rough.differences(needed, outcome(tmp_path, store)) == []


def test_uploads_are_tried_again(tmp_path: Path, server: Server, store: Store) -> None:
    needed = calm(tmp_path, server)
    rough.write(tmp_path, [server.url], ROWS, concurrency=4)
    # The client tries five times by itself.
    count = Counter[str]()

    def fault(request: str) -> tuple[int, str] | None:
        count[request] += 1
        return (500, "InternalError") if request.endswith("000001.sqlite") and count[request] < 8 else None

    store.fault = fault
    code, said = Machine(tmp_path, store).run()
    assert code == 0, said
    assert any(request.endswith("000001.sqlite") and n >= 8 for request, n in count.items())
    assert rough.differences(needed, outcome(tmp_path, store)) == []


def test_a_store_that_takes_nothing_any_more_stops_the_run_and_loses_nothing(
    tmp_path: Path, server: Server, store: Store
) -> None:
    needed = calm(tmp_path, server)
    rough.write(tmp_path, [server.url], ROWS, concurrency=1)
    store.fault = lambda request: (403, "AccessDenied") if "PUT run/segments" in request else None
    code, said = Machine(tmp_path, store).run()
    assert code == 1
    assert "set credentials that may" in said
    asked = {call.identity for call in server.calls}
    assert len(asked) < len(calls_of(needed)), "it stopped before its end"
    before = len(server.calls)
    store.fault = lambda request: None
    code, said = Machine(tmp_path, store).run()
    assert code == 0, said
    assert not asked & {call.identity for call in server.calls[before:]}
    assert rough.differences(needed, outcome(tmp_path, store)) == []


def calls_of(needed: dict[str, bytes]) -> range:
    """As many as were answered in all."""
    paid = json.loads(needed["what was paid"])
    return range(sum(answers for answers, _, _ in paid.values()))


def test_no_secret_is_uploaded(tmp_path: Path, server: Server, store: Store) -> None:
    key = "sk-test-key-0123456789"
    rough.write(tmp_path, [server.url], 6, api_key="${TEST_KEY}")
    machine = Machine(tmp_path, store, env={"TEST_KEY": key})
    code, said = machine.run()
    assert code == 0, said
    assert any(f"Bearer {key}" == headers.get("Authorization") for headers in server.headers)
    everything = {**store.objects, "said": said.encode()}
    everything |= {str(path): path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file()}
    for secret in (key, stores.SECRET, stores.KEY):
        assert [name for name, content in everything.items() if secret.encode() in content] == []


def test_a_run_is_looked_at_where_it_is(tmp_path: Path, server: Server, store: Store) -> None:
    rough.write(tmp_path, [server.url], 6)
    machine = Machine(tmp_path, store)
    assert machine.run()[0] == 0
    other = Machine(tmp_path, store, "two")
    code, said = other.command("status", URL)
    assert (code, said.splitlines()[0][:26]) == (0, f"{URL}: finished 20")
    rows = [line for line in other.command("show", URL)[1].splitlines() if line and "Rows" not in line]
    code, said = other.command("show", URL, rows[0], "--calls")
    assert code == 0
    assert "Question" in said
    code, said = other.command("report", URL)
    assert code == 0
    assert "Finished." in said
    code, said = other.command("export", URL, "--format", "sft")
    assert code == 0
    assert f"records in {URL}/dataset-sft" in said
    assert "run/dataset-sft/data/train.parquet" in store.objects
    gets = [request for request in store.log if request.startswith("GET run/")]
    other.command("status", URL)
    again = [request for request in store.log if request.startswith("GET run/")][len(gets) :]
    assert [request for request in again if "lease" not in request] == [], (
        "what has not changed is not fetched again"
    )


def test_what_is_no_run_is_said_so(tmp_path: Path, store: Store) -> None:
    machine = Machine(tmp_path, store)
    for command in (["status"], ["show"], ["report"], ["export"]):
        code, said = machine.command(*command, URL)
        assert code == (3 if command[0] in ("report", "export") else 1), said
        assert URL in said
        assert "Traceback" not in said
        assert str(tmp_path) not in said


def test_a_store_without_a_package_is_named_with_it(tmp_path: Path, store: Store) -> None:
    recipe = {
        "name": "x",
        "source": {"path": "gs://bucket/prompts.jsonl"},
        "models": {},
        "stages": ["filter.dedup"],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    code, said = Machine(tmp_path, store).command("check", "recipe.yaml")
    assert code == 2
    assert (
        "source.path: gs://bucket/prompts.jsonl: gs:// needs a package that is not installed; pip install gcsfs"
        in said
    )
