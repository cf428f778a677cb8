"""Journals that were written elsewhere, brought into the run's own.

A shard writes to a journal of its own, and so may whoever keeps copies of a run: each is a small file with the tables
of records.py (and `came_by`, see overlay.py). `absorb` takes such a file over, in pieces: each is a transaction
that also notes how many are done, so that a kill at any moment loses nothing and takes nothing twice.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from synthpref.core.errors import JournalError
from synthpref.engine.journal import Journal
from synthpref.engine.pages import index_of, log_of
from synthpref.engine.records import ADD_FACT, ADD_SPENT, COUNTED, FORMAT, damaged, is_damage
from synthpref.engine.salvage import check, mark

PIECE = 5_000
"""Records in a transaction, so that the write-ahead log stays small."""
IDENTITY = "identity"
"""The fact that tells a journal from all others, whatever its file is called."""

COPY = "INSERT INTO main.{0} SELECT * FROM other.{0} WHERE rowid > {1} AND rowid <= {2}"
FORGET = (
    # What had come of the rows that were walked again: see journal.FORGET.
    """DELETE FROM main.rows WHERE rowid IN (SELECT r.rowid FROM other.walked w CROSS JOIN main.rows r
       ON r.step = w.step AND r.id = w.id AND r.parent = w.id)""",
    """DELETE FROM main.rows WHERE rowid IN (SELECT r.rowid FROM other.walked w CROSS JOIN main.rows r
       ON r.step = w.step AND r.id > w.id || '.' AND r.id < w.id || '/' AND r.parent = w.id)""",
    "DELETE FROM main.walked WHERE (step, id) IN (SELECT step, id FROM other.walked)",
    # Rows of an earlier recipe that had made what another row made now: they are to be walked again.
    """CREATE TEMP TABLE elder AS SELECT DISTINCT m.step AS step, m.parent AS id
       FROM other.rows r CROSS JOIN main.rows m ON m.step = r.step AND m.id = r.id
       JOIN main.walked w ON w.step = m.step AND w.id = m.parent
       WHERE w.epoch <> (SELECT max(epoch) FROM other.walked)""",
    """DELETE FROM main.rows WHERE rowid IN (SELECT r.rowid FROM elder e CROSS JOIN main.rows r
       ON r.step = e.step AND (r.id = e.id OR r.id > e.id || '.' AND r.id < e.id || '/') AND r.parent = e.id)""",
    "DELETE FROM main.walked WHERE (step, id) IN (SELECT step, id FROM elder)",
    "DROP TABLE elder",
)
WHOLE = (
    "INSERT INTO main.walked SELECT * FROM other.walked",
    f"INSERT INTO main.spent SELECT * FROM other.spent WHERE true {ADD_SPENT}",
    f"INSERT INTO main.facts SELECT * FROM other.facts WHERE substr(name, 1, {len(COUNTED)}) = '{COUNTED}' {ADD_FACT}",
    # A journal that was made anew counts its starts from nothing; what comes into it must not be of the future.
    """INSERT OR REPLACE INTO main.facts SELECT 'epoch', max(cast(value AS INTEGER)) FROM
       (SELECT value FROM main.facts WHERE name = 'epoch' UNION ALL SELECT value FROM other.facts WHERE name = 'epoch')
       HAVING count(*) > 0""",
)
CAME_BY = """UPDATE main.walked SET epoch = c.epoch FROM other.came_by c
  WHERE walked.step = c.step AND walked.id = c.id AND walked.epoch < c.epoch"""


def identify(db: sqlite3.Connection) -> str:
    """The name that the journal is known by, given to it where it has none."""
    found = db.execute("SELECT value FROM facts WHERE name = ?", (IDENTITY,)).fetchone()
    name = str(found[0]) if found else uuid.uuid4().hex
    if not found:
        db.execute("INSERT INTO facts VALUES (?,?)", (IDENTITY, name))
    return name


def absorb(main: Journal, other: Path, *, keep: bool = False) -> int:
    """Bring all that the journal `other` holds into `main`, and remove it unless `keep`; how many calls that were.

    Calls and tokens are added; what was noted of a row takes the place of what `main` had. Doing it twice, or again
    after a kill, does it once. Nobody may have `other` open. `main.indexed()` has to follow before anything is looked
    up. Raises JournalError.
    """
    if not other.exists():
        return 0
    try:
        name = _known_as(other)
    except sqlite3.Error as error:
        raise _told(other, error) from error
    calls = 0
    if name:
        with main.alone() as db:
            db.execute("ATTACH ? AS other", (str(other),))
            try:
                calls = _take_over(db, name, blank=main.blank)
            except sqlite3.Error as error:
                if is_damage(error) and (why := check(other)):
                    raise _told(other, why) from error
                raise
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                db.execute("DETACH other")
        main.epoch = max(main.epoch, int(main.fact("epoch") or 0))
    if not keep:
        # The log first: without its file it would be taken for damage. All that is in it was folded in.
        for path in (log_of(other), index_of(other), other):
            path.unlink(missing_ok=True)
    return calls


def _known_as(other: Path) -> str:
    """The identity of the journal; "" for a file that was cut off before anything was in it."""
    with closing(sqlite3.connect(other, isolation_level=None, timeout=30)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
            return ""
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found != FORMAT:
            raise JournalError(f"{other}: made by another version of synthpref; finish it with that version")
        return identify(db)


def _told(other: Path, why: object) -> JournalError:
    """What is said of a journal that cannot be taken over; one that is damaged is made anew at the next start."""
    if isinstance(why, sqlite3.Error) and not is_damage(why):
        return JournalError(f"{other}: cannot be read ({why})")
    mark(other, str(why))
    # Not JournalDamaged, which is about the run's own journal.
    return JournalError(str(damaged(other, why)))


def _take_over(db: sqlite3.Connection, name: str, *, blank: bool) -> int:
    """Do the pieces that are not done; how many calls came."""
    fact = f"absorbed {name}"
    found = db.execute("SELECT value FROM main.facts WHERE name = ?", (fact,)).fetchone()
    # A kill in between is gone on from with pieces of the same size.
    done, size = map(int, found[0].split(" of ")) if found else (0, PIECE)
    calls = 0
    for number, piece in enumerate(_pieces(db, size, blank=blank), 1):
        if number <= done:
            continue
        db.execute("BEGIN")
        for statement in piece:
            changed = db.execute(statement).rowcount
            calls += changed if statement.startswith("INSERT INTO main.calls") else 0
        db.execute("INSERT OR REPLACE INTO main.facts VALUES (?,?)", (fact, f"{number} of {size}"))
        db.execute("COMMIT")
    return calls


def _pieces(db: sqlite3.Connection, size: int, *, blank: bool) -> Iterator[Sequence[str]]:
    """The statements of each transaction. What makes rows count (`walked`) comes last."""
    yield from _copies(db, "calls", size)
    # In a journal that has no rows there is nothing to forget, and no index to find it by.
    yield () if blank else FORGET
    yield from _copies(db, "rows", size)
    has_come_by = db.execute("SELECT 1 FROM other.sqlite_master WHERE name = 'came_by'").fetchone()
    yield (*WHOLE, CAME_BY) if has_come_by and not blank else WHOLE


def _copies(db: sqlite3.Connection, table: str, size: int) -> Iterator[Sequence[str]]:
    (last,) = db.execute(f"SELECT coalesce(max(rowid), 0) FROM other.{table}").fetchone()
    for low in range(0, last, size):
        yield (COPY.format(table, low, low + size),)
