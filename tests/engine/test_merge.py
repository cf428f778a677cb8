"""Journals brought into another: whatever was noted in several is in one as if it had been noted there."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthpref.core.errors import JournalError
from synthpref.core.seam import Completion, Request
from synthpref.core.types import Row, Usage
from synthpref.engine import merge
from synthpref.engine.ask import seed_of
from synthpref.engine.journal import Journal
from synthpref.engine.merge import absorb, identify
from synthpref.engine.records import Outcome, Records, Spent
from synthpref.engine.salvage import mend
from synthpref.testing import row

TOPICS = "abcdef"


def put(journal: Journal, id: str, number: int = 0, text: str = "answer") -> None:
    key = number.to_bytes(16, "big")
    answers = [Completion(text=f"{text} {id}", seed=seed_of(id, key), usage=Usage(2, 3))]
    request = Request(messages=({"role": "user", "content": id},))
    journal.put(id, key, 0, "policy", "sample.n/0", "m", request, answers)


def note(journal: Journal, id: str, *made: Row | str, step: int = 0, input: bytes = b"i") -> None:
    """The row ends in the step as the rows `made`, or is dropped for the reason that stands there."""
    outcomes = [
        Outcome(row("q", id=id), "drop", "s", o) if isinstance(o, str) else Outcome(o, "row") for o in made
    ]
    journal.finish(step, id, b"stage", input, outcomes, len(outcomes) - 1)


def settle(journal: Journal) -> None:
    asyncio.run(journal.indexed())


def said(journal: Records, steps: int = 2) -> dict[str, Any]:
    """All that is in a journal, as it is read."""
    return {
        "spent": journal.spent(),
        "rows": [list(journal.rows(step)) for step in range(steps)],
        "left": [list(journal.left(step)) for step in range(steps)],
        "books": [(journal.counts(step), journal.entered(step)) for step in range(steps)],
        "state": [journal.state(step) for step in range(steps)],
        "calls": {id: journal.asked(id) for id in TOPICS},
    }


def opened(path: Path) -> Journal:
    journal = Journal(path)
    if not journal.epoch:
        journal.begin()
    return journal


Noted = list[tuple[str, int, str, int]]
"""(row, step, what becomes of it, a number that its text depends on)"""
NOTES: st.SearchStrategy[Noted] = st.lists(
    st.tuples(
        st.sampled_from(TOPICS),
        st.sampled_from((0, 1)),
        st.sampled_from(("row", "drop", "two")),
        st.integers(0, 2),
    ),
    max_size=12,
    unique_by=lambda noted: noted[:2],
)


def write(journal: Journal, notes: Noted) -> None:
    for id, step, what, number in notes:
        put(journal, id, number, f"step {step}")
        mine = row(f"q{number}", id=id)
        made: dict[str, tuple[Row | str, ...]] = {
            "row": (mine,),
            "drop": ("tie",),
            "two": (mine, row(f"child {number}", id=f"{id}.x-0")),
        }
        note(journal, id, *made[what], step=step)


@settings(max_examples=60, deadline=None)
@given(before=NOTES, after=NOTES)
def test_shards_absorbed_are_one_journal(
    tmp_path_factory: pytest.TempPathFactory, before: Noted, after: Noted
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    whole, main = opened(folder / "whole.sqlite"), opened(folder / "main.sqlite")
    for journal in (whole, main):
        write(journal, before)
        settle(journal)
    write(whole, after)
    settle(whole)
    parts = [folder / f"{n}.sqlite" for n in range(3)]
    for n, part in enumerate(parts):
        journal = opened(part)
        write(journal, [noted for noted in after if TOPICS.index(noted[0]) % 3 == n])
        journal.close()
        absorb(main, part)
    settle(main)
    assert said(main) == said(whole)
    for journal in (whole, main):
        journal.close()
    assert sorted(p.name for p in folder.iterdir()) == ["main.sqlite", "whole.sqlite"]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Journal, Path]:
    """A journal with rows of an earlier start, and one of a shard that walked some of them again."""
    main, part = opened(tmp_path / "main.sqlite"), tmp_path / "part.sqlite"
    write(main, [("a", 0, "two", 0), ("b", 0, "row", 0), ("c", 0, "row", 0)])
    settle(main)
    main.begin()
    shard = Journal(part)
    shard.epoch = 1
    shard.begin()
    write(shard, [("a", 0, "row", 1), ("b", 0, "two", 1), ("d", 0, "drop", 0), ("a", 1, "drop", 0)])
    shard.close()
    settle(main)
    return main, part


def test_a_file_is_absorbed_once(pair: tuple[Journal, Path], tmp_path: Path) -> None:
    main, part = pair
    with closing(sqlite3.connect(part, isolation_level=None)) as db:
        assert identify(db) == identify(db)
    copy = shutil.copy(part, tmp_path / "again.sqlite")
    assert absorb(main, part) == 4
    assert not part.exists()
    settle(main)
    once = said(main)
    assert main.spent() == {"policy": Spent(7, 14, 21)}
    assert absorb(main, Path(copy), keep=True) == 0
    settle(main)
    assert said(main) == once
    assert Path(copy).exists()
    assert absorb(main, part) == 0, "one that is not there"
    main.close()


def test_what_another_row_made_in_an_earlier_recipe_is_replaced(tmp_path: Path) -> None:
    main = opened(tmp_path / "main.sqlite")
    note(main, "a", row("by a", id="a"), row("by a", id="a.x-0"))
    settle(main)
    main.begin()
    shard = Journal(tmp_path / "part.sqlite")
    shard.epoch = 1
    shard.begin()
    note(shard, "a.x-0", row("by itself", id="a.x-0"))
    shard.close()
    absorb(main, shard.path)
    settle(main)
    assert [r.prompt_text for r in main.rows(0)] == ["by itself"]
    assert not main.done(0, "a", b"stage", b"i"), "it has to be walked again"
    main.close()


def test_an_absorbed_file_is_never_of_the_future(tmp_path: Path) -> None:
    """Else its rows would count in a later start without being seen."""
    shard = Journal(tmp_path / "part.sqlite")
    shard.epoch = 6
    shard.begin()
    note(shard, "a", row("q", id="a"))
    shard.close()
    main = opened(tmp_path / "main.sqlite")
    absorb(main, shard.path)
    main.begin()
    settle(main)
    assert main.epoch == 8
    assert list(main.rows(0)) == []
    main.close()


def test_a_file_without_anything_is_removed(tmp_path: Path) -> None:
    main = opened(tmp_path / "main.sqlite")
    for size in (b"", None):
        part = tmp_path / "part.sqlite"
        if size is None:
            Journal(part).close()
        else:
            part.write_bytes(size)
        assert absorb(main, part) == 0
        assert not part.exists()
    main.close()


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    part = tmp_path / "part.sqlite"
    Journal(part).close()
    with closing(sqlite3.connect(part)) as db:
        db.execute("PRAGMA user_version = 99")
    main = opened(tmp_path / "main.sqlite")
    with pytest.raises(JournalError, match="another version"):
        absorb(main, part)
    assert part.exists()
    main.close()


def test_a_damaged_file_is_told_and_made_anew(pair: tuple[Journal, Path]) -> None:
    main, part = pair
    with closing(sqlite3.connect(part)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'rows'").fetchone()
    data = bytearray(part.read_bytes())
    data[4096 * (root - 1) : 4096 * (root - 1) + 64] = b"\xff" * 64
    part.write_bytes(data)
    with pytest.raises(JournalError, match=r"part\.sqlite: the file is damaged.*same command again"):
        absorb(main, part)
    main.close()
    main = Journal(main.path)
    assert mend(part), "the next start makes it anew"
    absorb(main, part)
    settle(main)
    assert main.asked("d"), "its answers are kept"
    main.close()


KILLED = """
import os, signal, shutil, sys
from pathlib import Path
from synthpref.engine import merge
from synthpref.engine.journal import Journal

merge.PIECE = 1
folder = Path(sys.argv[1])
point = 0
while True:
    here = folder / f"{point}"
    here.mkdir()
    for name in ("main.sqlite", "part.sqlite"):
        shutil.copy(folder / name, here)
    child = os.fork()
    if not child:
        main = Journal(here / "main.sqlite")
        left = [point]
        def count(statement):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        main._db.set_trace_callback(count)
        merge.absorb(main, here / "part.sqlite")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        break
    point += 1
print(point)
"""


def test_killed_before_any_statement_it_goes_on(pair: tuple[Journal, Path], tmp_path: Path) -> None:
    main, part = pair
    main.close()
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    found = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert found.returncode == 0, found.stderr
    points = int(found.stdout)
    assert points > 30
    whole = Journal(main.path)
    absorb(whole, part)
    settle(whole)
    wanted = said(whole)
    for point in range(points + 1):
        again = Journal(tmp_path / str(point) / "main.sqlite")
        absorb(again, tmp_path / str(point) / "part.sqlite")
        settle(again)
        assert said(again) == wanted, point
        again.close()
    whole.close()


def test_pieces_are_noted_by_number(pair: tuple[Journal, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one they are the same as all at once."""
    main, part = pair
    monkeypatch.setattr(merge, "PIECE", 1)
    assert absorb(main, part) == 4
    settle(main)
    assert main.counts(0) == [("drop", "s", "tie", 1), ("row", "", "", 3)]
    main.close()
