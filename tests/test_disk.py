"""The disk under a run: full, read-only, or with what was written on it changed. The same command goes on, to the
same bytes; where it cannot, it says so."""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from damage import (
    DAMAGE,
    DATA,
    JOURNAL,
    PAGE,
    RUN,
    Damage,
    Done,
    cut,
    damaged,
    goes_on,
    noise,
    requests,
    run,
    undisturbed,
    write,
    zeros,
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return undisturbed(tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed"))


@pytest.mark.parametrize("how", DAMAGE, ids=lambda how: how.__name__)
@pytest.mark.parametrize("which", ["whole", "killed"])
def test_a_damaged_journal_comes_to_the_same_dataset(
    tmp_path: Path, done: Done, which: str, how: Damage
) -> None:
    rng = random.Random(f"{which} {how.__name__}")
    for number in range(2):
        folder = tmp_path / str(number)
        said = damaged(done, which, folder, how, rng, main=number == 0)
        if said is None:
            continue
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
    command = [sys.executable, "-m", "synthpref.cli", "run", "recipe.yaml"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, preexec_fn=without_override)
    out = ended.stdout + ended.stderr
    assert ended.returncode == 1, out
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
