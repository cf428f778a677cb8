"""The ledger of a run's batches, `batches.sqlite` in its folder: what was sent off, and what came back.

A batch is noted before it is made at the provider, with a token that goes with it, so that after a kill it is found
again there. Each line is one call, known by a hash of all that is asked; its answer stays here for good, because the
journal may lose an answer that was handed over in the last moment before a kill.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from synthpref.core.errors import JournalError

FORMAT = 1
SCHEMA = f"""
CREATE TABLE batches (
  number INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, place TEXT NOT NULL, made REAL NOT NULL,
  file TEXT, id TEXT, settled INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE lines (batch INTEGER NOT NULL, custom TEXT NOT NULL, call BLOB NOT NULL, answer BLOB) STRICT;
CREATE UNIQUE INDEX lines_by_name ON lines (batch, custom);
CREATE INDEX lines_by_call ON lines (call);
PRAGMA user_version = {FORMAT};
"""


async def _here() -> None:
    pass


@dataclass(frozen=True)
class Noted:
    """A batch that was not settled in an earlier start. Without `file` it was never made; without `id` it is not
    known whether it was."""

    number: int
    token: str
    made: float
    file: str | None
    id: str | None
    open: tuple[tuple[str, bytes], ...]
    """(custom_id, call) of the lines without an answer."""
    answered: int


class Ledger:
    """Every method that writes has written to disk when it returns. Raises JournalError."""

    def __init__(self, path: Path | None, copied: Callable[[], Awaitable[None]] | None = None) -> None:
        self.path = path
        self.copied = copied or _here
        """Waits until what was written is wherever the run's folder is copied to."""
        with self._told():
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if not found:
                self._db.executescript(f"BEGIN IMMEDIATE;{SCHEMA}COMMIT;")
            elif found != FORMAT:
                raise JournalError(
                    f"{path}: made by another version of synthpref; finish it with that version"
                )
            (last,) = self._db.execute("SELECT coalesce(max(number), 0) FROM batches").fetchone()
        self.last: int = last
        """The last batch of earlier starts."""

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            fix = "make room or mend the folder, then run the same command again"
            loss = "without this file, batches that are under way are not found again and are paid for twice"
            raise JournalError(f"{self.path}: {error}; {fix} ({loss})") from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def begin(self, place: str, token: str, lines: Iterable[tuple[str, bytes]]) -> int:
        """Note a batch that is about to be made; its number."""
        with self._writing() as db:
            made = db.execute(
                "INSERT INTO batches (token, place, made) VALUES (?,?,?)", (token, place, time.time())
            )
            number = made.lastrowid
            assert number is not None
            rows = ((number, custom, call) for custom, call in lines)
            db.executemany("INSERT INTO lines (batch, custom, call) VALUES (?,?,?)", rows)
        return number

    def uploaded(self, number: int, file: str) -> None:
        with self._writing() as db:
            db.execute("UPDATE batches SET file = ? WHERE number = ?", (file, number))

    def made(self, number: int, id: str) -> None:
        with self._writing() as db:
            db.execute("UPDATE batches SET id = ? WHERE number = ?", (id, number))

    def came(self, number: int, answers: Sequence[tuple[str, bytes]], failed: Sequence[str]) -> None:
        """Keep answers, by custom_id, and forget the lines that failed: they are asked again as new ones."""
        with self._writing() as db:
            kept = ((zlib.compress(answer, 1), number, custom) for custom, answer in answers)
            db.executemany("UPDATE lines SET answer = ? WHERE batch = ? AND custom = ?", kept)
            gone = ((number, custom) for custom in failed)
            db.executemany("DELETE FROM lines WHERE batch = ? AND custom = ?", gone)

    def settled(self, number: int) -> None:
        """All that will ever come of the batch has come."""
        with self._writing() as db:
            db.execute("UPDATE batches SET settled = 1 WHERE number = ?", (number,))
            db.execute("DELETE FROM lines WHERE batch = ? AND answer IS NULL", (number,))

    def unsettled(self, place: str) -> list[Noted]:
        """The batches of a place that earlier starts left."""
        what = """SELECT number, token, made, file, id FROM batches
          WHERE place = ? AND settled = 0 AND number <= ? ORDER BY number"""
        with self._told():
            found = self._db.execute(what, (place, self.last)).fetchall()
            return [
                Noted(number, token, made, file, id, *self._lines(number))
                for number, token, made, file, id in found
            ]

    def _lines(self, number: int) -> tuple[tuple[tuple[str, bytes], ...], int]:
        what = "SELECT custom, call FROM lines WHERE batch = ? AND answer IS NULL ORDER BY rowid"
        count = "SELECT count(*) FROM lines WHERE batch = ? AND answer IS NOT NULL"
        (answered,) = self._db.execute(count, (number,)).fetchone()
        return tuple(self._db.execute(what, (number,)).fetchall()), answered

    def kept(self, call: bytes, skip: int) -> tuple[int, str] | None:
        """(batch, custom_id) of an answer that a batch of an earlier start brought; the first `skip` are taken."""
        what = """SELECT batch, custom FROM lines WHERE call = ? AND batch <= ? AND answer IS NOT NULL
          ORDER BY batch, custom LIMIT 1 OFFSET ?"""
        with self._told():
            found: tuple[int, str] | None = self._db.execute(what, (call, self.last, skip)).fetchone()
        return found

    def answer(self, number: int, custom: str) -> bytes:
        what = "SELECT answer FROM lines WHERE batch = ? AND custom = ?"
        with self._told():
            (answer,) = self._db.execute(what, (number, custom)).fetchone()
        return zlib.decompress(answer)

    def close(self) -> None:
        with self._told():
            self._db.close()


def absorb(path: Path, other: Path) -> None:
    """Bring what the ledger `other` knows into the one at `path`, which nobody has open: both are of one run, and
    either may be ahead in a batch. What is known is not forgotten, and nothing is taken twice."""
    ledger = Ledger(path)
    with ledger._told():
        ledger._db.execute("ATTACH ? AS other", (str(other),))
        ledger._db.executescript(_ABSORB)
        ledger._db.execute("DETACH other")
    ledger.close()


_ABSORB = """
BEGIN IMMEDIATE;
CREATE TEMP TABLE same AS SELECT m.number AS mine, o.number AS theirs
  FROM main.batches m JOIN other.batches o ON o.token = m.token;
UPDATE main.batches SET (file, id, settled) =
  (SELECT coalesce(batches.file, o.file), coalesce(batches.id, o.id), max(batches.settled, o.settled)
   FROM other.batches o WHERE o.token = batches.token) WHERE number IN (SELECT mine FROM same);
UPDATE main.lines SET answer = (SELECT o.answer FROM other.lines o JOIN same s ON o.batch = s.theirs
   WHERE s.mine = lines.batch AND o.custom = lines.custom)
  WHERE answer IS NULL AND batch IN (SELECT mine FROM same);
CREATE TEMP TABLE fresh AS SELECT number AS theirs,
  (SELECT coalesce(max(number), 0) FROM main.batches) + row_number() OVER (ORDER BY number) AS mine
  FROM other.batches WHERE token NOT IN (SELECT token FROM main.batches);
INSERT INTO main.batches SELECT f.mine, o.token, o.place, o.made, o.file, o.id, o.settled
  FROM other.batches o JOIN fresh f ON f.theirs = o.number;
INSERT INTO main.lines SELECT f.mine, o.custom, o.call, o.answer
  FROM other.lines o JOIN fresh f ON f.theirs = o.batch;
DELETE FROM main.lines WHERE answer IS NULL AND batch IN (SELECT number FROM main.batches WHERE settled);
DROP TABLE same;
DROP TABLE fresh;
COMMIT;
"""
