from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from synthpref.core.errors import JournalDamaged
from synthpref.core.seam import Completion, Request
from synthpref.core.types import Usage
from synthpref.engine.ask import seed_of
from synthpref.engine.journal import Journal
from synthpref.engine.records import Records, Spent
from synthpref.engine.salvage import check
from synthpref.engine.segments import add_calls, cut, last_call, snapshot
from synthpref.models.batch_ledger import Ledger, absorb


def journal(path: Path, *rows: str, role: str = "policy") -> Path:
    """A journal with two answers for each row."""
    made = Journal(path)
    for row in rows:
        key = f"key of {row}".encode()
        seed = seed_of(row, key)
        answers = [Completion(text=f"{row} {i}", usage=Usage(3, 5), seed=seed + i) for i in range(2)]
        made.put(
            row, key, 0, role, "sample.n", "m", Request(messages=({"role": "user", "content": row},)), answers
        )
    made.close()
    return path


def held(path: Path) -> tuple[dict[str, list[str]], dict[str, Spent]]:
    """(texts by row, what was spent)."""
    records = Records(path)
    try:
        with closing(sqlite3.connect(path)) as db:
            rows = [row for (row,) in db.execute("SELECT row FROM calls ORDER BY rowid")]
        assert len(rows) == len(set(rows)), "a call is there twice"
        return {row: [c.text for c in records.answers(row).values()] for row in rows}, records.spent()
    finally:
        records.close()


def test_pieces_bring_back_all_of_a_journal(tmp_path: Path) -> None:
    whole = journal(tmp_path / "whole", "a", "b", "c", "d", "e")
    assert last_call(whole) == 5
    for number, (after, last) in enumerate([(0, 2), (2, 3), (3, 5)]):
        cut(whole, after, last, tmp_path / f"piece-{number}")
    again = tmp_path / "again"
    # In any order, and twice.
    assert [add_calls(again, tmp_path / f"piece-{n}") for n in (2, 0, 2, 1, 0)] == [2, 2, 0, 1, 0]
    assert held(again)[1] == held(whole)[1] == {"policy": Spent(10, 15 * 2, 25 * 2)}
    assert held(again)[0] == held(whole)[0]
    assert check(again) is None


def test_a_piece_that_holds_what_is_there_already_adds_the_rest(tmp_path: Path) -> None:
    main = journal(tmp_path / "main", "a", "b")
    other = journal(tmp_path / "other", "b", "c")
    assert add_calls(main, other) == 1
    assert list(held(main)[0]) == ["a", "b", "c"]
    assert held(main)[1] == {"policy": Spent(6, 18, 30)}


def test_what_is_written_meanwhile_is_not_in_a_piece_and_is_in_the_next(tmp_path: Path) -> None:
    path = journal(tmp_path / "main", "a")
    going = Journal(path)
    going.put("b", b"k", 0, "policy", "s", "m", None, [Completion(text="x")])
    cut(path, 0, last_call(path), tmp_path / "piece")
    going.close()
    assert last_call(tmp_path / "piece") == 1
    cut(path, 1, last_call(path), tmp_path / "piece")
    assert last_call(path) == 2
    with closing(sqlite3.connect(tmp_path / "piece")) as db:
        assert db.execute("SELECT row FROM calls").fetchall() == [("b",)]


def test_nothing_is_in_what_is_not_there(tmp_path: Path) -> None:
    assert last_call(tmp_path / "absent") == 0
    (tmp_path / "empty").touch()
    assert last_call(tmp_path / "empty") == 0


def test_a_snapshot_is_one_whole_file(tmp_path: Path) -> None:
    path = journal(tmp_path / "main", "a")
    going = Journal(path)
    going.put("b", b"k", 0, "policy", "s", "m", None, [Completion(text="x")])
    going._flush()
    snapshot(path, tmp_path / "copy")
    going.close()
    assert sorted(p.name for p in tmp_path.iterdir() if "copy" in p.name) == ["copy"]
    assert last_call(tmp_path / "copy") == 2


def test_a_damaged_piece_is_refused_whole(tmp_path: Path) -> None:
    main = journal(tmp_path / "main", "a")
    before = held(main)
    piece = journal(tmp_path / "piece", "b", "c")
    with closing(sqlite3.connect(piece)) as db:
        db.execute("UPDATE calls SET answers = x'00112233445566' WHERE row = 'c'")
        db.commit()
    with pytest.raises(JournalDamaged):
        add_calls(main, piece)
    assert held(main) == before


# ---- ledgers of batches


def ledger(path: Path, *batches: str, answered: str = "", settled: str = "") -> Path:
    """A ledger with two calls in each batch."""
    made = Ledger(path)
    for token in batches:
        number = made.begin("place", token, [(f"{token}{i}", f"call {token}{i}".encode()) for i in range(2)])
        made.uploaded(number, f"file of {token}")
        if token in answered:
            made.came(number, [(f"{token}0", b"answer")], [])
        if token in settled:
            made.settled(number)
    made.close()
    return path


def batches(path: Path) -> dict[str, tuple[bool, list[tuple[str, bool]]]]:
    """Token -> (settled, [(custom_id, whether it is answered)])."""
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT number, token, settled FROM batches ORDER BY number").fetchall()
        lines = "SELECT custom, answer IS NOT NULL FROM lines WHERE batch = ? ORDER BY custom"
        return {
            token: (bool(settled), [(c, bool(a)) for c, a in db.execute(lines, (number,))])
            for number, token, settled in found
        }


def test_ledgers_of_one_run_are_brought_together(tmp_path: Path) -> None:
    mine = ledger(tmp_path / "mine", "a", "b", answered="a")
    theirs = ledger(tmp_path / "theirs", "a", "c", answered="c", settled="a")
    absorb(mine, theirs)
    wanted = {
        "a": (True, [("a0", True)]),
        "b": (False, [("b0", False), ("b1", False)]),
        "c": (False, [("c0", True), ("c1", False)]),
    }
    assert batches(mine) == wanted
    absorb(mine, theirs)
    assert batches(mine) == wanted, "nothing is taken twice"


def test_a_ledger_takes_over_an_answer_that_it_lacks(tmp_path: Path) -> None:
    mine = ledger(tmp_path / "mine", "a")
    absorb(mine, ledger(tmp_path / "theirs", "a", answered="a"))
    assert batches(mine) == {"a": (False, [("a0", True), ("a1", False)])}
    found = Ledger(mine)
    assert found.kept(b"call a0", 0) == (1, "a0")
    assert found.answer(1, "a0") == b"answer"
    found.close()
