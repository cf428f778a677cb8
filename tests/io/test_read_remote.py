"""Sources at a URL: in an object store over HTTP, on the Hub, and through any other filesystem."""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from fsspec.implementations.local import LocalFileSystem
from s3fs import S3FileSystem

import hub as hubs
import store as stores
from served import served
from store import Store
from synthpref.core.errors import RecipeError, RemoteError
from synthpref.core.source import Source
from synthpref.core.types import Row
from synthpref.io import read
from synthpref.io import remote as remotes
from synthpref.io.remote import Remote, stamp, told

RECORDS = [{"prompt": f"Question {i}?", "tag": "x"} for i in range(3)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    with stores.serving() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SYNTHPREF_WORK", str(tmp_path / "cache"))
        S3FileSystem.clear_instance_cache()
        yield store
        S3FileSystem.clear_instance_cache()


def rows(**source: object) -> list[Row]:
    return list(read.rows(Source.model_validate(source), Path("/")))


def prompts(**source: object) -> list[str]:
    return [row.prompt_text for row in rows(**source)]


def refused(**source: object) -> str:
    with pytest.raises(RecipeError) as error:
        rows(**source)
    [found] = read.problems(Source.model_validate(source), Path("/"))
    assert str(found).removeprefix("source.path: ") == str(error.value).removeprefix("source.path: ")
    return str(error.value)


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(RECORDS), sink)
    return bytes(sink.getvalue())


FORMATS = {
    "a.jsonl": LINES,
    "a.jsonl.gz": gzip.compress(LINES),
    "a.json": json.dumps(RECORDS).encode(),
    "a.csv": b"prompt,tag\n" + b"".join(f"{r['prompt']},x\n".encode() for r in RECORDS),
    "a.txt": "\n".join(record["prompt"] for record in RECORDS).encode(),
    "a.parquet": parquet(),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_from_a_store(store: Store, name: str) -> None:
    store._keep(f"data/{name}", FORMATS[name])
    assert prompts(path=f"s3://bucket/data/{name}") == [record["prompt"] for record in RECORDS]


def test_a_pattern_names_many_files_in_order(store: Store) -> None:
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", "other.txt"):
        store._keep(f"data/{name}", json.dumps({"prompt": name}).encode())
    assert prompts(path="s3://bucket/data/*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert prompts(path="s3://bucket/data/**/*.jsonl") == ["a.jsonl", "b.jsonl", "deep/c.jsonl"]


def test_a_file_is_fetched_once_and_again_when_it_has_changed(store: Store, tmp_path: Path) -> None:
    def gets() -> int:
        return sum(request.startswith("GET data/") for request in store.log)

    store._keep("data/a.jsonl", LINES)
    assert len(prompts(path="s3://bucket/data/a.jsonl")) == 3
    once = gets()
    assert len(prompts(path="s3://bucket/data/a.jsonl")) == 3
    assert gets() == once
    store._keep("data/a.jsonl", LINES.replace(b"Question", b"Matter  "))
    assert prompts(path="s3://bucket/data/a.jsonl")[0] == "Matter   0?"
    assert len(list((tmp_path / "cache").rglob("a.jsonl"))) == 1, "the old copy is gone"


@pytest.mark.parametrize("has_time", [True, False])
def test_a_server_that_tells_no_version_is_not_taken_to_have_the_same_file_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_time: bool
) -> None:
    content = ["first"]

    async def answer(request: web.Request) -> web.Response:
        headers = {"Last-Modified": f"Thu, 01 Jan 2026 00:00:0{len(content)} GMT"} if has_time else {}
        return web.json_response({"prompt": content[-1]}, headers=headers)

    app = web.Application()
    app.router.add_get("/a.jsonl", answer)
    monkeypatch.setenv("SYNTHPREF_WORK", str(tmp_path))
    with served(app) as port:
        url = f"http://127.0.0.1:{port}/a.jsonl"
        assert prompts(path=url) == ["first"]
        content.append("other")
        assert prompts(path=url) == ["other"]


def test_a_mistake_in_a_file_is_told_by_its_address(store: Store) -> None:
    store._keep("data/a.jsonl", LINES + b"{oh}\n")
    said = refused(path="s3://bucket/data/a.jsonl")
    assert "s3://bucket/data/a.jsonl:4: not valid JSON" in said
    assert "cache" not in said


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("s3://bucket/data/absent.jsonl", "there is no file s3://bucket/data/absent.jsonl"),
        (
            "s3://bucket/data/*.csv",
            "there is no file s3://bucket/data/*.csv; mend the address, or the pattern",
        ),
        ("s3://absent/a.jsonl", "there is no file s3://absent/a.jsonl"),
        ("s3://bucket/data.jsonl", "s3://bucket/data.jsonl is a folder; name the files in it"),
        ("gs://bucket/a.jsonl", "gs:// needs a package that is not installed; pip install gcsfs"),
        ("sftp://host/a.jsonl", "sftp:// needs a package that is not installed; pip install paramiko"),
        ("ftp://me:word@host/a.jsonl", "a password in an address shows in logs"),
        (
            "https://localhost:1/a.jsonl",
            "https://localhost:1/a.jsonl: cannot be read (ClientConnectorError: ",
        ),
        ("https://localhost:1/a?b=c.jsonl", "check the address and the network"),
        ("{store}/absent/a.jsonl", "there is no file {store}/absent/a.jsonl"),
    ],
)
def test_what_is_wrong_with_a_source_is_said_in_one_line(store: Store, path: str, told: str) -> None:
    store._keep("data.jsonl/a.jsonl", LINES)
    said = refused(path=path.format(store=store.environment["AWS_ENDPOINT_URL"]))
    assert said.startswith("source.path: ")
    assert told.format(store=store.environment["AWS_ENDPOINT_URL"]) in said
    assert "\n" not in said


def test_a_source_that_may_not_be_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert "set credentials that may, as s3:// takes them (AWS_PROFILE" in refused(path="s3://bucket/a.jsonl")


def test_other_filesystems(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    assert len(prompts(path=f"file://{tmp_path}/*.jsonl")) == 3
    fsspec.filesystem("memory").pipe_file("/data/a.jsonl", LINES)
    assert len(prompts(path="memory://data/a.jsonl")) == 3


def test_a_file_of_a_dataset_on_the_hub(tmp_path: Path) -> None:
    code = """if True:
        from pathlib import Path
        from synthpref.core.source import Source
        from synthpref.io import read
        for path in ("hf://datasets/me/prompts/data/a.jsonl", "hf://datasets/me/prompts/**/*.jsonl"):
            print([row.prompt_text for row in read.rows(Source(path=path), Path("/"))])
    """
    with hubs.serving() as hub:
        hub.repos["me/prompts"] = hubs.Repo(False, [{"data/a.jsonl": hub._keep(LINES)}])
        env = {**os.environ, **hub.environment(str(tmp_path / "home")), "SYNTHPREF_WORK": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str([record["prompt"] for record in RECORDS])] * 2


# ---- a folder


@pytest.mark.parametrize("url", ["s3://bucket/folder", "memory://folder", "file://{tmp}/folder"])
def test_a_folder_at_a_url(store: Store, tmp_path: Path, url: str) -> None:
    remote = Remote(url.format(tmp=tmp_path))
    assert remote.files() == {}
    assert remote.read("a") is None
    remote.remove("a")
    assert remote.create("deep/a", b"1")
    assert not remote.create("deep/a", b"2"), "it is there already"
    assert remote.read("deep/a") == b"1"
    before = remote.files()
    (tmp_path / "file").write_bytes(b"three")
    there = remote.put(tmp_path / "file", "deep/a")
    assert remote.files() == {"deep/a": there} != before
    remote.fetch("deep/a", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"three"
    remote.write("b", b"x")
    assert sorted(remote.files()) == ["b", "deep/a"]
    remote.remove("b")
    assert sorted(remote.files()) == ["deep/a"]


def test_a_file_is_not_made_twice_in_a_store_that_heeds_no_condition(store: Store) -> None:
    store.heeds_conditions = False
    assert Remote("s3://bucket/folder").create("a", b"1")
    assert not Remote("s3://bucket/folder").create("a", b"2")
    assert store.objects["folder/a"] == b"1"


class Alone(LocalFileSystem):
    """A filesystem with a connection, which takes one request at a time."""

    protocol = "alone"

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.broken = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("alone://")

    def info(self, path: str, **kwargs: Any) -> Any:
        assert threading.get_ident() == self.thread
        if self.broken:
            raise OSError("Socket is closed")
        return super().info(path, **kwargs)

    def rm_file(self, path: str) -> None:
        self.info(path)
        super().rm_file(path)

    def ls(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            raise OSError("Socket is closed")
        return super().ls(path, *args, **kwargs)

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            raise OSError("Socket is closed")
        return super()._open(path, *args, **kwargs)


@pytest.fixture
def alone(tmp_path: Path) -> Remote:
    fsspec.register_implementation("alone", Alone, clobber=True)
    return Remote(f"alone://{tmp_path}/run")


def test_each_thread_has_a_connection_of_its_own(alone: Remote) -> None:
    assert alone.create("a", b"1")
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(alone.create, "a", b"2").result()
        assert list(pool.submit(alone.files).result()) == ["a"]
    assert list(alone.files()) == ["a"]


def test_a_connection_that_broke_is_made_again(alone: Remote) -> None:
    alone.write("a", b"1")
    alone._fs.broken = True
    with pytest.raises(RemoteError, match="Socket is closed") as error:
        alone.read("a")
    assert error.value.passing
    assert list(alone.files()) == ["a"]


def test_a_connection_that_was_idle_is_made_anew(alone: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "LOGIN", {"alone"})
    alone.write("a", b"1")
    before = alone._fs
    assert alone._fs is before
    before.broken = True
    monkeypatch.setattr(remotes, "IDLE_S", -1.0)
    assert list(alone.files()) == ["a"]


def test_what_cannot_be_listed_is_not_empty(alone: Remote) -> None:
    alone.write("a", b"1")
    alone._fs.broken = True
    with pytest.raises(RemoteError, match="cannot be listed"):
        alone.files()


def test_what_cannot_be_removed_is_not_gone(alone: Remote) -> None:
    alone.write("a", b"1")
    alone._fs.broken = True
    with pytest.raises(RemoteError, match="cannot be removed"):
        alone.remove("a")
    alone.remove("a")
    alone.remove("a")
    assert alone.files() == {}


def test_a_large_file_goes_in_parts_and_appears_whole(store: Store, tmp_path: Path) -> None:
    content = os.urandom(1024) * (120 * 1024)
    (tmp_path / "large").write_bytes(content)
    remote = Remote("s3://bucket/folder")
    seen: list[bool] = []
    store.fault = lambda request: seen.append("folder/large" in store.objects)  # type: ignore[func-returns-value]
    remote.put(tmp_path / "large", "large")
    assert len(seen) > 3
    assert not any(seen[:-1]), "until it is whole, it is not there"
    assert store.objects["folder/large"] == content


def test_where_files_do_not_appear_whole_they_are_written_beside_first(tmp_path: Path) -> None:
    remote = Remote(f"file://{tmp_path}/there")
    (tmp_path / "file").write_bytes(b"new")
    remote.write("a", b"old")

    class Cut(Exception):
        pass

    def cut(*args: object) -> None:
        (tmp_path / "there" / "a.part").write_bytes(b"ne")
        raise Cut

    remote._own.fs = type(remote._fs)(skip_instance_cache=True)
    remote._fs.put_file = cut
    with pytest.raises(RemoteError, match="Cut"):
        remote.put(tmp_path / "file", "a")
    assert remote.read("a") == b"old"


def test_a_disk_that_is_full_is_no_matter_of_the_network() -> None:
    full = pytest.raises(RemoteError, match=r"No space left.*make room there, or in")
    with full as error, told("s3://bucket/a", "cannot be read"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not error.value.passing


def test_a_stamp_changes_with_the_content() -> None:
    assert stamp({"size": 3, "ETag": '"x"', "LastModified": 1}) == '"x"'
    assert stamp({"size": 3, "mtime": 1.5}) != stamp({"size": 3, "mtime": 1.6})
    assert stamp({"size": 3, "created": 1}) != stamp({"size": 4, "created": 1})
    assert stamp({"size": 3, "modify": "20260101000000"}) != stamp({"size": 3, "modify": "20260101000001"})
