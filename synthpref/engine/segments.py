"""Pieces of a journal: the answers that came since the last one, in a small journal of their own.

A piece holds calls and nothing else: how far the rows had come follows from the answers, which costs no call. So
pieces may be brought back in any order, and twice.
"""

from __future__ import annotations

import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

from synthpref.engine.merge import IDENTITY, PIECE
from synthpref.engine.records import (
    INDEXES,
    SCHEMA,
    answers_in,
    damaged,
    is_damage,
    reading,
    spend,
    usages_of,
)

_NEW = """INSERT INTO main.calls SELECT * FROM other.calls o WHERE o.rowid > ? AND o.rowid <= ? AND NOT EXISTS
  (SELECT 1 FROM main.calls c WHERE c.row = o.row AND c.key = o.key AND c.first = o.first AND c.count = o.count)"""


def last_call(journal: Path) -> int:
    """The place of the last call that is on the disk."""
    if not journal.exists():
        return 0
    with closing(reading(journal)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'calls'").fetchone():
            return 0
        (last,) = db.execute("SELECT coalesce(max(rowid), 0) FROM calls").fetchone()
        return int(last)


def identity(journal: Path) -> str:
    """What tells the journal from another one of its name. A shard's has a name of its own, because inodes are used
    again; the run's own, once made anew, stands beside the old one."""
    with closing(reading(journal)) as db:
        found = db.execute("SELECT value FROM facts WHERE name = ?", (IDENTITY,)).fetchone()
    return f"{journal.stat().st_ino} {found[0] if found else ''}"


def cut(journal: Path, after: int, last: int, piece: Path) -> None:
    """Write the calls past `after`, up to `last`, as a journal of their own. Runs in SQLite, beside the walk."""
    piece.unlink(missing_ok=True)
    with closing(sqlite3.connect(piece, isolation_level=None, uri=True)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.executescript(SCHEMA)
        db.execute("ATTACH ? AS journal", (f"{journal.absolute().as_uri()}?mode=ro",))
        db.execute(
            "INSERT INTO calls SELECT * FROM journal.calls WHERE rowid > ? AND rowid <= ? ORDER BY rowid",
            (after, last),
        )


def snapshot(database: Path, copy: Path) -> None:
    """A copy of a database that may be in use, as one file."""
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(database, timeout=30)) as db, closing(sqlite3.connect(copy)) as other:
        db.backup(other, pages=4096)
        other.execute("PRAGMA journal_mode = DELETE")


def add_calls(journal: Path, piece: Path) -> int:
    """Bring the calls of another journal, or of a piece, into this one, which nobody has open; those that are there
    already stay as they are. How many were new. Can be cut off anywhere and done again. Raises JournalError."""
    new = 0
    try:
        with closing(sqlite3.connect(journal, isolation_level=None, timeout=30)) as db:
            db.executescript(f"PRAGMA journal_mode = WAL; BEGIN IMMEDIATE; {SCHEMA} {INDEXES} COMMIT;")
            db.execute("ATTACH ? AS other", (str(piece),))
            (last,) = db.execute("SELECT coalesce(max(rowid), 0) FROM other.calls").fetchone()
            for low in range(0, last, PIECE):
                db.execute("BEGIN IMMEDIATE")
                (before,) = db.execute("SELECT coalesce(max(rowid), 0) FROM main.calls").fetchone()
                new += db.execute(_NEW, (low, low + PIECE)).rowcount
                what = "SELECT row, key, first, role, answers FROM main.calls WHERE rowid > ?"
                for row, key, first, role, body in db.execute(what, (before,)).fetchall():
                    answers = answers_in(body, row, key, first, role)
                    spend(db, role, len(answers), usages_of(answers))
                db.execute("COMMIT")
    except (sqlite3.Error, ValueError, zlib.error) as error:
        if isinstance(error, sqlite3.Error) and not is_damage(error):
            raise
        raise damaged(journal, error) from error
    return new
