"""The disk under a run: full, read-only, or with what was written on it changed. The same command goes on, to the
same bytes; where it cannot, it says so."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from synthpref import job
from synthpref.core.errors import JournalDamaged

PAGE = 4096
RUN, JOURNAL, DATA = "runs/disk", "runs/disk/journal.sqlite", "runs/disk/dataset/data/train.parquet"


def write(folder: Path, rows: int = 24, latency_s: float = 0.0) -> Path:
    role = {"backend": "simulated", "length": 40, "latency_s": latency_s}
    tree = {
        "name": "disk",
        "seed": 5,
        "models": {
            "policy": {**role, "model": "policy", "empty": 0.1},
            "judge": {**role, "model": "judge", "malformed": 0.1},
        },
        "source": {"rows": [f"Question number {i} about heat pumps?" for i in range(rows)]},
        "stages": [
            {"synth.evolve": {"model": "policy"}},
            {"sample.n": {"model": "policy", "n": 3}},
            {"judge.point": {"model": "judge", "name": "good"}},
            {"pair.extremes": {"score": "good"}},
            "filter.dedup",
            {"enrich.rationale": {"model": "judge"}},
        ],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def start(folder: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "synthpref.cli", "run", "recipe.yaml"]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
    return subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def run(folder: Path, **options: Any) -> tuple[int, str]:
    process = start(folder, **options)
    out, _ = process.communicate(timeout=90)
    return process.returncode, out


def requests(folder: Path) -> int:
    summary = json.loads((folder / RUN / "summary.json").read_text(encoding="utf-8"))
    return sum(model["requests"] for model in summary["models"].values())


@dataclass
class Done:
    """A run that nothing disturbed, and one of the same recipe that was killed half-way."""

    whole: Path
    killed: Path
    data: bytes
    requests: int


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    whole, killed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
    write(whole)
    code, out = run(whole)
    assert code == 0, out
    write(killed, latency_s=0.3)
    process = start(killed)
    log = killed / f"{JOURNAL}-wal"
    while not (log.exists() and log.stat().st_size > 60 * PAGE):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    write(killed)
    return Done(whole, killed, (whole / DATA).read_bytes(), requests(whole))


# ---- what was written is changed


def zeros(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) // PAGE) * PAGE
    data[at : at + PAGE] = bytes(PAGE)


def noise(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) // PAGE) * PAGE
    data[at : at + PAGE] = rng.randbytes(PAGE)


def another_page(data: bytearray, rng: random.Random) -> None:
    at, other = (n * PAGE for n in rng.sample(range(len(data) // PAGE), 2))
    data[at : at + PAGE] = data[other : other + PAGE]


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def one_bit(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def a_sector(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) // 512) * 512
    data[at : at + 512] = bytes(512)


DAMAGE = [zeros, noise, another_page, cut, one_bit, a_sector]


def goes_on(folder: Path, done: Done) -> list[str]:
    """Start the run again, a second time where the first says that the journal is damaged. What was said."""
    said = []
    for _ in range(2):
        err = io.StringIO()
        try:
            with contextlib.redirect_stderr(err):
                result = job.run(job.load(folder / "recipe.yaml"), folder / RUN)
        except JournalDamaged as error:
            said.append(str(error))
            continue
        said.append(err.getvalue())
        assert not result.stopped
        assert (folder / DATA).read_bytes() == done.data, "never another dataset"
        return said
    raise AssertionError(f"once has to be enough: {said}")


@pytest.mark.parametrize("how", DAMAGE, ids=lambda how: how.__name__)
@pytest.mark.parametrize("which", ["whole", "killed"])
def test_a_damaged_journal_comes_to_the_same_dataset(
    tmp_path: Path, done: Done, which: str, how: Callable[[bytearray, random.Random], None]
) -> None:
    rng = random.Random(f"{which} {how.__name__}")
    for number in range(4):
        folder = tmp_path / str(number)
        shutil.copytree(getattr(done, which), folder)
        files = [folder / JOURNAL]
        if which == "killed":
            files.append(folder / f"{JOURNAL}-wal")
        file = max(files, key=lambda f: f.stat().st_size) if number else files[0]
        data = bytearray(file.read_bytes())
        if len(data) < 2 * PAGE and how is another_page:
            continue
        how(data, rng)
        file.write_bytes(data)
        said = " ".join(goes_on(folder, done))
        assert requests(folder) <= done.requests
        if how in (zeros, noise, cut) and which == "whole":
            assert "damaged" in said
            assert "damaged" in (folder / RUN / "run.log").read_text(encoding="utf-8")
            assert list((folder / RUN).glob("journal.sqlite.damaged-*"))


def test_one_broken_page_of_a_finished_run_costs_few_calls_and_the_command_line_says_it(
    tmp_path: Path, done: Done
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(done.whole, folder)
    data = bytearray((folder / JOURNAL).read_bytes())
    data[:PAGE] = bytes(PAGE)
    (folder / JOURNAL).write_bytes(data)
    code, out = run(folder)
    assert code == 0, out
    assert "The journal was damaged" in out
    assert "answers in it were whole and are kept" in " ".join(out.split())
    assert "Traceback" not in out
    assert (folder / DATA).read_bytes() == done.data
    assert requests(folder) < done.requests / 10


def test_a_log_that_is_lost_is_said(tmp_path: Path, done: Done) -> None:
    folder = tmp_path / "run"
    shutil.copytree(done.killed, folder)
    (folder / f"{JOURNAL}-wal").unlink()
    assert "missing from its write-ahead log" in goes_on(folder, done)[0]


# ---- nothing can be written


def without_override() -> None:
    """In the child: root may write wherever it likes, unless this is taken from it."""
    drop_from_bounding_set, dac_override = 24, 1
    ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0)


def modes_count(folder: Path) -> bool:
    """Whether a folder can be made read-only for a child."""
    (folder / "closed").mkdir(mode=0o555)
    code = f"open({str(folder / 'closed' / 'file')!r}, 'w')"
    tried = subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.DEVNULL, preexec_fn=without_override
    )
    return tried.returncode != 0


@pytest.mark.parametrize("what", ["nothing there", "a finished run"])
def test_a_read_only_folder_is_said_and_nothing_changes(tmp_path: Path, done: Done, what: str) -> None:
    if not sys.platform.startswith("linux") or not modes_count(tmp_path):
        pytest.skip("nothing here can be read-only for who runs the tests")
    folder = tmp_path / "run"
    if what == "a finished run":
        shutil.copytree(done.whole, folder)
    else:
        folder.mkdir()
        write(folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out = run(folder, preexec_fn=without_override)
    assert code == 1, out
    assert "Permission denied" in out
    assert "Traceback" not in out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("there", ["runs", RUN, JOURNAL])
def test_a_file_or_folder_in_the_way_is_said(tmp_path: Path, there: str) -> None:
    write(tmp_path)
    way = tmp_path / there
    way.parent.mkdir(parents=True, exist_ok=True)
    if there == JOURNAL:
        way.mkdir()
    else:
        way.touch()
    code, out = run(tmp_path)
    assert code == 1, out
    assert there.rpartition("/")[2] in out
    assert "Traceback" not in out


FILES = ["recipe.yaml.part", "left.jsonl.part", "report.json.part", "summary.json.part", "report.md"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
@pytest.mark.parametrize("name", FILES)
def test_a_disk_that_is_full_at_any_file_is_said_and_the_same_command_goes_on(
    tmp_path: Path, done: Done, name: str
) -> None:
    shutil.copytree(done.whole / RUN, tmp_path / RUN)
    write(tmp_path)
    # What is gone is written again; a whole folder would be left as it is.
    (tmp_path / RUN / "rows.parquet").unlink()
    (tmp_path / RUN / name).unlink(missing_ok=True)
    (tmp_path / RUN / name).symlink_to("/dev/full")
    code, out = run(tmp_path)
    assert code == 1, out
    assert "No space left" in out
    assert "Traceback" not in out
    if name != "recipe.yaml.part":
        assert not (tmp_path / RUN / "summary.json").exists(), "it is not called finished"
    (tmp_path / RUN / name).unlink()
    code, out = run(tmp_path)
    assert code == 0, out
    assert requests(tmp_path) == 0
    assert (tmp_path / DATA).read_bytes() == done.data
