"""A run whose folder is at a URL, killed and gone on with on another machine: another work folder stands for that."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from s3fs import S3FileSystem

import hub as hubs
import rough
import store as stores
from batch_server import batching
from store import Store
from synthpref import cli, job, places
from synthpref.core.errors import JournalError, RecipeError, RemoteError
from synthpref.engine import copies
from synthpref.engine.lease import Pace
from test_interrupts import until
from wire import Server, serving

URL = "s3://bucket/run"
ROWS = 24
SLACK_S = 0.5
"""From an answer to its commit, on a busy machine."""
FAST = """
import sys
from synthpref import cli, places
from synthpref.engine.lease import Pace
places.PACE = places.PACES["hf"] = Pace(upload_s=0.1, renew_s=0.1, patience_s=30)
cli.main(sys.argv[1:])
"""
"""The command, which uploads so often that a short run has segments."""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.latency_s = 0.02
        yield server


@pytest.fixture
def store() -> Iterator[Store]:
    with stores.serving() as store:
        yield store


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What comes out of an undisturbed run in a local folder."""
    folder = tmp_path_factory.mktemp("calm")
    with serving() as server:
        rough.write(folder, [server.url], ROWS, concurrency=4)
        rough.run_here(folder)
    return rough.outcome(folder)


def outcome(folder: Path, objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """What has to be the same, of what lies in the store."""
    home = rough.home(folder / "there")
    for key, content in objects.items():
        path = home / key.removeprefix("run/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return rough.outcome(folder / "there")


@dataclass
class Here:
    """Runs in this process, which is quicker."""

    folder: Path
    server: Server
    store: Store
    needed: dict[str, bytes]
    monkeypatch: pytest.MonkeyPatch

    def on(self, work: str) -> None:
        """From now on, the machine with this disk."""
        self.monkeypatch.setenv("SYNTHPREF_WORK", str(self.folder / work))

    def run(self, work: str = "one", url: str = URL) -> job.Result:
        self.on(work)
        return job.run(job.load(self.folder / "recipe.yaml"), url)

    def differs(self) -> list[str]:
        return rough.differences(self.needed, outcome(self.folder, self.store.objects))

    @property
    def answers(self) -> int:
        """How many are paid for in all."""
        return sum(answers for answers, _, _ in json.loads(self.needed["what was paid"]).values())


@pytest.fixture
def here(
    tmp_path: Path, server: Server, store: Store, calm: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Here]:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(places, "PACE", Pace(upload_s=0.05, renew_s=0.05, patience_s=30))
    S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    rough.write(tmp_path, [server.url], ROWS, concurrency=4)
    yield Here(tmp_path, server, store, calm, monkeypatch)
    S3FileSystem.clear_instance_cache()


def fast(folder: Path, env: Mapping[str, str], *words: str) -> subprocess.Popen[str]:
    """The command that a person gives, with more in its environment."""
    return subprocess.Popen(
        [sys.executable, "-c", FAST, *words],
        cwd=folder, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def start(here: Here) -> subprocess.Popen[str]:
    """A run on machine one."""
    here.on("one")
    return fast(here.folder, {}, "run", "recipe.yaml", "--out", URL)


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
    "before the first segment": ("PUT run/segments/", 1),
    "while segments are joined": ("DELETE run/segments/", 3),
    "after the snapshot": ("PUT run/left.jsonl", 1),
    "before the summary": ("PUT run/summary.json", 1),
}


def killed(here: Here, when: Callable[[str], bool]) -> float:
    """A run in a process of its own, on machine one, that is killed at a request to the store; when that was."""
    killer = Killer(when)
    killer.watch(here.store)
    killer.process = start(here)
    said, _ = killer.process.communicate(timeout=90)
    assert killer.at, f"that moment never came: {said}"
    here.store.fault = lambda request: None
    return here.store.seen[killer.at - 1]


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_it_goes_on_on_another_machine(here: Here, moment: str) -> None:
    at = killed(here, nth(*MOMENTS[moment]))
    began = len(here.server.calls)
    assert here.run("two").stopped == ""
    assert here.differs() == []
    assert not [key for key in here.store.objects if "segments" in key or "lease" in key]
    # What had been answered when the last upload began is not asked again, less the journal's own window.
    requests = zip(here.store.log, here.store.seen, strict=True)
    puts = [when for request, when in requests if "PUT run/segments" in request and when < at]
    done = {call.identity: call.answered for call in here.server.calls[:began] if call.answered}
    again = [done[call.identity] for call in here.server.calls[began:] if call.identity in done]
    assert [age for age in again if puts and age < puts[-1] - SLACK_S] == []


def test_killed_it_goes_on_from_the_hub(tmp_path: Path, server: Server, calm: dict[str, bytes]) -> None:
    rough.write(tmp_path, [server.url], ROWS, concurrency=4)
    url = "hf://datasets/me/runs/run"
    with hubs.serving() as hub:
        hub.repos["me/runs"] = hubs.Repo(True)

        def start(work: str, *words: str) -> subprocess.Popen[str]:
            env = hub.environment(str(tmp_path / "home")) | {"SYNTHPREF_WORK": str(tmp_path / work)}
            return fast(tmp_path, env, *words)

        def there() -> list[str]:
            return sorted(hub.repos["me/runs"].commits[-1])

        first = start("one", "run", "recipe.yaml", "--out", url)
        until(lambda: any("segments" in name for name in there()) or first.poll() is not None)
        first.kill()
        said, _ = first.communicate()
        assert any("segments" in name for name in there()), said
        began = len(server.calls)
        second = start("two", "run", "recipe.yaml", "--out", url)
        said, _ = second.communicate(timeout=90)
        assert second.returncode == 0, said
        answered = {call.identity for call in server.calls[:began] if call.answered}
        assert answered - {call.identity for call in server.calls[began:]}, "all was asked again"
        assert (
            rough.differences(
                calm, outcome(tmp_path, {name: hub.content("me/runs", name) for name in there()})
            )
            == []
        )
        assert not [name for name in there() if "segments" in name or "lease" in name]
        status = start("three", "status", url)
        assert status.communicate(timeout=90)[0].startswith(f"{url}: finished")


def test_killed_it_goes_on_at_once_on_the_same_machine(here: Here, capfd: pytest.CaptureFixture[str]) -> None:
    at = killed(here, nth("PUT run/segments/", 3))
    done = {call.identity: call.answered for call in here.server.calls if call.answered}
    began = len(here.server.calls)
    assert here.run("one").stopped == ""
    assert "looking for" not in capfd.readouterr().err, (
        "the lock of the work folder says that the holder is dead"
    )
    again = [done[call.identity] for call in here.server.calls[began:] if call.identity in done]
    assert [age for age in again if age < at - SLACK_S] == [], "what is on the disk here is not asked again"
    assert here.differs() == []


@pytest.mark.parametrize("moment", ["create", "get", "content"])
def test_batches_under_way_are_found_again_from_another_machine(here: Here, moment: str) -> None:
    with batching() as provider:
        rough.write(here.folder, [provider.url], ROWS, mode="batch", batch={"quiet_s": 0.05, "poll_s": 0.02})
        # Made, and nobody heard of it; under way; and half of its answers fetched.
        trouble = {"create": "stall", "get": "never", "content": "half stall"}[moment]
        provider.trouble = lambda step, number: trouble if step == moment else None
        process = start(here)
        until(lambda: provider.steps[moment] > 0 and bool(provider.made), process)
        process.kill()
        process.communicate()
        provider.trouble = lambda step, number: None
        assert here.run("two").stopped == ""
        assert here.differs() == []
        assert provider.paid_twice == []


def test_two_runs_at_once_are_refused(here: Here) -> None:
    arrived, leave = threading.Event(), threading.Event()

    def hold(call: object) -> bool:
        arrived.set()
        return not leave.is_set()

    here.server.hold = hold
    first = start(here)
    assert arrived.wait(60)
    with pytest.raises(JournalError) as error:
        here.run("two")
    assert f"{URL}: process {first.pid} on" in str(error.value)
    assert "is running there; wait for it, or name another with --out" in str(error.value)
    assert f"going on, in process {first.pid} on" in places.status(URL)[0]
    leave.set()
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 0, said


def test_a_run_that_was_taken_over_stops_and_keeps_what_it_paid_for(here: Here) -> None:
    other = json.dumps(
        {"holder": "process 1 on elsewhere", "token": "other", "home": "x", "every_s": 0.05}
    ).encode()
    taken = list[str]()

    def fault(request: str) -> None:
        if request.startswith("PUT run/segments/"):
            taken.append(request)
        # It renews its lease too, should a renewal that was under way here have gone over it.
        if taken and request in (taken[0], "GET run/run.lease"):
            here.store._keep("run/run.lease", other)

    here.store.fault = fault
    with pytest.raises(RemoteError, match=f"process 1 on elsewhere took over {URL}"):
        here.run("one")
    assert here.store.objects["run/run.lease"] == other, "the lease of the other is left alone"
    answered = {call.identity for call in here.server.calls if call.answered}
    before = len(here.server.calls)
    here.store.fault = lambda request: None
    assert here.run("two").stopped == ""
    assert not answered & {call.identity for call in here.server.calls[before:]}, (
        "all of its answers were uploaded"
    )
    assert here.differs() == []


def test_uploads_are_tried_again(here: Here) -> None:
    count = Counter[str]()

    def fault(request: str) -> tuple[int, str] | None:
        count[request] += 1
        slow = request in ("PUT run/journal.sqlite", "PUT run/summary.json") and count[request] < 3
        return (503, "SlowDown") if slow else None

    here.store.fault = fault
    assert here.run().stopped == ""
    assert count["PUT run/journal.sqlite"] == count["PUT run/summary.json"] == 3
    assert here.differs() == []


def test_a_store_that_takes_nothing_any_more_stops_the_run_and_loses_nothing(here: Here) -> None:
    here.server.latency_s = 0.1
    here.store.fault = lambda request: (
        (403, "AccessDenied") if request.startswith("PUT run/segments") else None
    )
    result = here.run()
    assert result.failed
    assert "what was answered cannot be uploaded" in result.stopped
    assert "set credentials that may" in result.stopped
    asked = {call.identity for call in here.server.calls}
    before = len(here.server.calls)
    assert before < here.answers, "it stopped before its end"
    here.server.latency_s = 0.0
    here.store.fault = lambda request: None
    assert here.run().stopped == ""
    assert not asked & {call.identity for call in here.server.calls[before:]}
    assert here.differs() == []


def test_an_upload_that_fails_at_the_end_says_where_the_run_is(here: Here) -> None:
    here.store.fault = lambda request: (403, "AccessDenied") if request.startswith("PUT run/rows") else None
    with pytest.raises(RemoteError) as error:
        here.run()
    assert f"All of the run is in {here.folder}" in str(error.value)
    assert "run the same command again on this machine" in str(error.value)
    assert "run/summary.json" not in here.store.objects, "nobody takes it for a finished one"
    assert "run/run.lease" not in here.store.objects
    before = len(here.server.calls)
    here.store.fault = lambda request: None
    assert here.run().stopped == ""
    assert len(here.server.calls) == before
    assert here.differs() == []


def test_no_secret_is_uploaded(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-test-key-0123456789"
    monkeypatch.setenv("TEST_KEY", key)
    rough.write(here.folder, [here.server.url], 6, api_key="${TEST_KEY}")
    here.run()
    assert any(f"Bearer {key}" == headers.get("Authorization") for headers in here.server.headers)
    everything = dict(here.store.objects)
    everything |= {str(path): path.read_bytes() for path in here.folder.glob("one/**/*") if path.is_file()}
    assert len(everything) > 12
    for secret in (key, stores.SECRET, stores.KEY):
        assert [name for name, content in everything.items() if secret.encode() in content] == []


def test_a_run_is_looked_at_where_it_is(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    here.run("one")
    here.on("two")

    def said(*command: str) -> str:
        with pytest.raises(SystemExit) as left:
            cli.main([*command])
        assert left.value.code == 0
        return capsys.readouterr().out

    assert said("status", URL).startswith(f"{URL}: finished 20")
    row = said("show", URL).splitlines()[1]
    assert "Question" in said("show", URL, row, "--calls")
    assert "Finished." in said("report", URL)
    assert f"records in {URL}/dataset-sft" in said("export", URL, "--format", "sft")
    assert "run/dataset-sft/data/train.parquet" in here.store.objects
    seen = len(here.store.log)
    said("status", URL)
    fetched = [r for r in here.store.log[seen:] if r.startswith("GET run/") and "lease" not in r]
    assert fetched == [], "what has not changed is not fetched again"


def test_an_export_that_takes_the_place_of_another_leaves_nothing_of_it(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    here.run("one")
    for work, *options in (("two", "--jsonl"), ("three",)):
        here.on(work)
        with pytest.raises(SystemExit):
            cli.main(["export", URL, "--format", "sft", *options])
    found = [name for name in here.store.objects if name.startswith("run/dataset-sft/data/")]
    assert found == ["run/dataset-sft/data/train.parquet"], "a loader would read both"


def test_a_run_that_another_recipe_may_not_go_on_with_stays_finished(here: Here) -> None:
    here.run("one")
    before = dict(here.store.objects)
    path = here.folder / "recipe.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("name: rough", "name: other"), encoding="utf-8")
    with pytest.raises(RecipeError, match="was made by another recipe"):
        here.run("two")
    assert here.store.objects == before


def test_a_work_folder_that_cannot_be_made_is_called_by_its_option(here: Here) -> None:
    (here.folder / "one").write_text("a file")
    with pytest.raises(JournalError, match=r"cannot be made .*; name another with --work"):
        here.run("one")
    assert here.store.objects == {}


def test_what_is_gone_there_is_gone_in_the_copy(here: Here) -> None:
    here.run()
    assert "finished" in places.status(URL)[0]
    del here.store.objects["run/summary.json"]
    assert "not finished" in places.status(URL)[0]


def test_answers_of_a_run_that_was_never_ended_are_seen(here: Here) -> None:
    here.store.fault = lambda request: (
        (403, "AccessDenied") if request.startswith("PUT run/journal") else None
    )
    with pytest.raises(RemoteError):
        here.run()
    assert [key for key in here.store.objects if "segments" in key]
    assert any("answers" in line for line in places.status(URL))


@pytest.mark.parametrize("command", ["status", "show", "report", "export"])
def test_what_is_no_run_is_said_so(here: Here, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([command, URL])
    assert left.value.code == (3 if command in ("report", "export") else 1)
    said = capsys.readouterr().err
    assert URL in said
    assert str(here.folder) not in said


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://absent/run", "there is no such bucket, container or folder: make it first, or mend the name"),
        ("gs://bucket/run", "gs:// needs a package that is not installed; pip install gcsfs"),
        ("nowhere://bucket/run", "Protocol not known: nowhere"),
        ("sftp://me:secret-word@host/run", "a password in an address shows in logs"),
    ],
)
def test_a_place_that_cannot_be_written(here: Here, url: str, told: str) -> None:
    with pytest.raises(RemoteError) as error:
        here.run(url=url)
    assert told in str(error.value)
    assert "secret-word" not in str(error.value)
    assert here.server.calls == []


def test_without_credentials(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    with pytest.raises(RemoteError, match="set credentials that may, as s3:// takes them \\(AWS_PROFILE"):
        here.run()


def test_a_disk_that_takes_nothing_more_is_said(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.run("one")
    (here.folder / "file").touch()
    here.on("file")
    with pytest.raises(RemoteError, match=r"file/seen.*name another folder with SYNTHPREF_WORK"):
        places.status(URL)

    def full(*args: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    # A snapshot takes as much room again.
    monkeypatch.setattr(copies, "snapshot", full)
    with pytest.raises(JournalError, match=r"two/runs.*disk is full; make room"):
        here.run("two")


def test_a_local_run_does_not_load_what_a_remote_one_needs(tmp_path: Path) -> None:
    code = "import sys; from synthpref import job, places; places.place('runs/x'); places.status"
    code += "; print(*{m.split('.')[0] for m in sys.modules} & {'fsspec', 's3fs'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
