from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from synthpref.core.errors import JournalError
from synthpref.core.seam import Completion, Request
from synthpref.core.types import Row, Usage
from synthpref.engine.journal import FORGET, Journal
from synthpref.engine.records import Outcome, Records, Spent, digest, pack
from synthpref.testing import row

REQUEST = Request(messages=({"role": "user", "content": "hello"},), n=2)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


def settle(journal: Journal) -> None:
    asyncio.run(journal.indexed())


def finish(journal: Journal, made: Row, *outcomes: Outcome, step: int = 0) -> None:
    journal.finish(step, made.id, b"stage", digest(pack(made)), outcomes or [Outcome(made, "row")], 0)


def test_answers_come_back_as_they_were(journal: Journal) -> None:
    answers = [
        Completion(text="a", finish_reason="stop", usage=Usage(3, 5), seed=1),
        Completion(text="b", finish_reason="length", seed=2),
    ]
    journal.put("r", b"key", 4, "policy", "sample.n/0", "m", REQUEST, answers)
    settle(journal)
    assert journal.answers("r") == {(b"key", 4): answers[0], (b"key", 5): answers[1]}
    assert journal.answers("other") == {}
    assert journal.spent() == {"policy": Spent(2, 3, 5)}
    assert journal.asked("r") == [("sample.n/0", "policy", "m", REQUEST, answers)]


def test_a_row_is_done_only_with_the_same_stages_and_the_same_input(journal: Journal) -> None:
    journal.begin()
    one = row("q")
    finish(journal, one)
    settle(journal)
    same = digest(pack(one))
    assert journal.done(0, one.id, b"stage", same)
    assert not journal.done(0, one.id, b"other", same)
    assert not journal.done(0, one.id, b"stage", digest(pack(row("q?"))))
    assert not journal.done(1, one.id, b"stage", same)


def test_a_rejected_row_is_not_done(journal: Journal) -> None:
    journal.begin()
    one = row("q")
    finish(journal, one, Outcome(one, "reject", "judge.point", "transient", "500"))
    settle(journal)
    assert not journal.done(0, one.id, b"stage", digest(pack(one)))


def test_rows_come_back_sorted_and_only_those_of_this_start(journal: Journal) -> None:
    journal.begin()
    rows = [row(f"q{i}", "answer", id=f"{i:04}") for i in range(450)]
    for one in reversed(rows):
        finish(journal, one)
    finish(journal, row("q", id="gone"), Outcome(row("q", id="gone"), "drop", "pair.extremes", "tie", "0.5"))
    settle(journal)
    assert list(journal.rows(0)) == rows
    assert [(o.row.id, o.reason) for o in journal.left(0)] == [("gone", "tie")]
    assert journal.counts(0) == [("drop", "pair.extremes", "tie", 1), ("row", "", "", 450)]
    assert journal.entered(0) == (451, 0)

    journal.begin()
    settle(journal)
    assert list(journal.rows(0)) == []
    journal.seen(0, "0003")
    settle(journal)
    assert [r.id for r in journal.rows(0)] == ["0003"]


def test_what_was_noted_of_a_row_is_replaced_whole(journal: Journal) -> None:
    journal.begin()
    one = row("q", id="a")
    children = [row("c", id="a.x-0"), row("c", id="a.x-1")]
    journal.finish(0, "a", b"s", b"i", [Outcome(c, "row") for c in children], 1)
    asyncio.run(journal.indexed())
    assert [r.id for r in journal.rows(0)] == ["a.x-0", "a.x-1"]
    journal.finish(0, "a", b"s", b"i", [Outcome(one, "row")], 0)
    settle(journal)
    assert [r.id for r in journal.rows(0)] == ["a"]
    assert journal.entered(0) == (1, 0)


def test_what_came_of_a_row_is_found_by_the_index(journal: Journal) -> None:
    """A scan for each row that is walked again would make a million rows take days."""
    settle(journal)
    with sqlite3.connect(journal.path) as db:
        for statement in FORGET:
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", (0, "a"))]
            assert plan
            assert all(part.startswith("SEARCH rows USING INDEX rows_by_id (step=? AND id") for part in plan)
    db.close()


def test_the_state_of_a_step_changes_with_its_rows(journal: Journal) -> None:
    journal.begin()
    finish(journal, row("q", id="a"))
    settle(journal)
    first = journal.state(0)
    finish(journal, row("q", "more", id="a"))
    settle(journal)
    assert journal.state(0) != first


def test_a_killed_writer_loses_at_most_the_last_window(tmp_path: Path) -> None:
    code = f"""
import asyncio, time
from pathlib import Path
from synthpref.core.seam import Completion, Request
from synthpref.engine.journal import FORGET, Journal
journal = Journal(Path({str(tmp_path)!r}) / "journal.sqlite")
request = Request(messages=({{"role": "user", "content": "q"}},))
async def write():
    n = 0
    while True:
        journal.put(f"r{{n}}", b"k", 0, "m", "s", "m", request, [Completion(text="x" * 100)])
        print(n, time.time(), flush=True)
        n += 1
        await asyncio.sleep(0.001)
asyncio.run(write())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    told = [process.stdout.readline() for _ in range(300)]
    process.kill()
    ended = time.time()
    process.wait()
    told += process.stdout.readlines()
    process.stdout.close()
    settled = [int(line.split()[0]) for line in told if line.strip() and float(line.split()[1]) < ended - 1.0]
    records = Records(tmp_path / "journal.sqlite")
    kept = records.spent()["m"][0]
    assert all(records.answers(f"r{n}") for n in range(kept))
    assert kept > max(settled, default=-1)
    records.close()


def test_a_file_that_is_no_journal_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"not a database, surely" * 100)
    with pytest.raises(JournalError, match="not a database"):
        Journal(tmp_path / "journal.sqlite")
    with pytest.raises(JournalError, match="is this a run folder"):
        Records(tmp_path / "nothing.sqlite")


def test_a_refused_write_stops_and_says_what_to_do(tmp_path: Path) -> None:
    told = []
    journal = Journal(tmp_path / "journal.sqlite", lambda: told.append(True))
    settle(journal)
    with sqlite3.connect(tmp_path / "journal.sqlite") as other:
        other.execute("DROP TABLE calls")
    other.close()
    journal.put("r", b"key", 0, "m", "s", "m", REQUEST, [Completion(text="a")])
    with pytest.raises(JournalError, match="run the same command again"):
        settle(journal)
    assert told == [True]
    with pytest.raises(JournalError):
        journal.seen(0, "r")
    with pytest.raises(JournalError):
        journal.close()
