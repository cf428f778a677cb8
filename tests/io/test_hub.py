from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import forked
from hub import TOKEN, Hub, serving
from made import paired
from synthpref.core.errors import ExportError
from synthpref.io import card, export, report
from synthpref.io.hub import push

LOAD = """
import datasets, json, sys
streamed = sys.argv[2] == "streamed"
print(json.dumps(list(datasets.load_dataset(sys.argv[1], split="train", streaming=streamed))))
"""

READ = """
import sys
from pathlib import Path
from synthpref.core.source import Source
from synthpref.io.read import problems, rows
source = Source(hf=sys.argv[1], messages="prompt", samples={"text": "chosen.0.content"}, id="id", limit=3)
found = problems(source, Path("."))
print(*found)
print(*([] if found else [(row.id, row.samples[0].text) for row in rows(source, Path("."))]), sep="\\n")
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        yield server


def written(folder: Path, count: int, *, jsonl: bool = False) -> list[dict[str, object]]:
    """A dataset of `count` pairs with its card; its records."""
    rows = [paired(i) for i in range(count)]
    exporter = export.TrlPreference(format="trl-preference")
    stats = export.write(rows, exporter, folder, jsonl=jsonl)
    found = report.build(rows, {"name": "tried"})
    text = card.build(found, recipe="name: tried\n", exporter=exporter, stats=stats)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return [json.loads(json.dumps(record)) for record in exporter.records(rows)]


def ran(hub: Hub, home: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **hub.environment(str(home)), **env}
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, env=variables, timeout=60)


def pushed(hub: Hub, home: Path, folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **hub.environment(str(home)), **env}
    return forked.run("push", str(folder), "lab/tried", *args, cwd=folder.parent, env=variables)


@pytest.mark.parametrize("how", ["whole", "streamed"])
def test_what_was_pushed_loads_again(hub: Hub, tmp_path: Path, how: str) -> None:
    records = written(tmp_path / "set", 30)
    done = pushed(hub, tmp_path / "home", tmp_path / "set")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.address}/datasets/lab/tried"
    assert set(hub.repos["lab/tried"].commits[-1]) == {"README.md", "data/train.parquet"}
    assert not hub.repos["lab/tried"].private

    loaded = ran(hub, tmp_path / "home", "-c", LOAD, "lab/tried", how)
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout.splitlines()[-1]) == records


def test_a_dataset_on_the_hub_as_a_source(hub: Hub, tmp_path: Path) -> None:
    written(tmp_path / "set", 5)
    assert pushed(hub, tmp_path / "home", tmp_path / "set").returncode == 0
    done = ran(hub, tmp_path / "home", "-c", READ, "lab/tried")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[1:4] == [
        str((f"row-{i:03}", f"answer 0 to question {i}")) for i in range(3)
    ]
    done = ran(hub, tmp_path / "home", "-c", READ, "lab/other")
    assert done.returncode == 0, done.stderr
    assert "source.hf: lab/other cannot be loaded: DatasetNotFoundError" in done.stdout


def test_a_second_push_replaces_the_data_of_the_first(hub: Hub, tmp_path: Path) -> None:
    written(tmp_path / "set", 3)
    assert pushed(hub, tmp_path / "home", tmp_path / "set", "--private").returncode == 0
    assert hub.repos["lab/tried"].private
    written(tmp_path / "set", 2, jsonl=True)
    done = pushed(hub, tmp_path / "home", tmp_path / "set", "--private")
    assert done.returncode == 0, done.stderr
    assert set(hub.repos["lab/tried"].commits[-1]) == {"README.md", "data/train.jsonl"}
    assert len(hub.content("lab/tried", "data/train.jsonl").splitlines()) == 2


@pytest.mark.parametrize("status", [503, 412])
def test_a_commit_that_fails_for_a_passing_reason_is_tried_again(
    hub: Hub, tmp_path: Path, status: int
) -> None:
    written(tmp_path / "set", 3)
    hub.refusals = [status]
    done = pushed(hub, tmp_path / "home", tmp_path / "set")
    assert done.returncode == 0, done.stderr
    commits = [line.split()[-1] for line in hub.log if "/commit/" in line]
    assert commits == [str(status), "200"]
    assert "data/train.parquet" in hub.repos["lab/tried"].commits[-1]


def test_a_wrong_token_says_so_without_showing_it(hub: Hub, tmp_path: Path) -> None:
    written(tmp_path / "set", 3)
    done = pushed(hub, tmp_path / "home", tmp_path / "set", HF_TOKEN="hf_wrong")
    assert done.returncode == 1
    assert "does not know the token" in done.stderr
    assert "HF_TOKEN" in done.stderr
    assert "hf_wrong" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_no_right_to_write_says_whose_right_is_missing(hub: Hub, tmp_path: Path) -> None:
    written(tmp_path / "set", 3)
    hub.read_only = True
    done = pushed(hub, tmp_path / "home", tmp_path / "set")
    assert done.returncode == 1
    assert "write access to 'lab'" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_nothing_private_goes_into_a_public_dataset(hub: Hub, tmp_path: Path) -> None:
    written(tmp_path / "set", 3)
    assert pushed(hub, tmp_path / "home", tmp_path / "set").returncode == 0
    before = list(hub.repos["lab/tried"].commits)
    done = pushed(hub, tmp_path / "home", tmp_path / "set", "--private")
    assert done.returncode == 1
    assert "public" in done.stderr
    assert hub.repos["lab/tried"].commits == before


def test_no_token(tmp_path: Path, hub: Hub) -> None:
    written(tmp_path / "set", 3)
    done = pushed(hub, tmp_path / "home", tmp_path / "set", HF_TOKEN="")
    assert done.returncode == 1
    assert "HF_TOKEN" in done.stderr
    assert hub.log == []


def test_a_folder_without_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="export one first"):
        push(tmp_path, "lab/tried")
