"""The journal of a shard: what is new goes into a file of its own, what is old is read from the run's journal.

While shards are walked nobody writes the run's journal, and its log is folded in: so any number of processes, also on
other machines, read the file as it lies. After the segment the shards' files are absorbed (merge.py), so that it never
matters how many there were.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from synthpref.core.seam import Completion
from synthpref.core.types import Row
from synthpref.engine.journal import Journal
from synthpref.engine.merge import identify
from synthpref.engine.records import CACHE_KB, Key, Records, reading

Mine = Callable[[str], bool]
"""Whether a row is one of the shard's, by its id."""

CAME_BY = """CREATE TABLE IF NOT EXISTS came_by (
  epoch INTEGER, step INTEGER, id TEXT, PRIMARY KEY (step, id)) WITHOUT ROWID, STRICT"""


GREW = {"calls": "max(rowid)", "walked": "max(rowid)", "came_by": "count(*)"}
"""What tells how much is in each of the tables."""


def how_far(path: Path) -> int:
    """Grows whenever something comes into a shard's journal: an answer, or a row that is through. Not the files' sizes:
    a log that was folded in is written anew from its beginning."""
    if not path.exists():
        return 0
    try:
        with closing(reading(path)) as db:
            there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            tables = [(table, what) for table, what in GREW.items() if table in there]
            return sum(
                db.execute(f"SELECT coalesce({what}, 0) FROM {table}").fetchone()[0] for table, what in tables
            )
    except sqlite3.Error:
        return 0  # whoever opens it next says what is wrong with it


def mine(shard: int, of: int) -> Mine:
    """Rows are dealt out by a hash of their id: every process knows by itself which are its own."""
    return lambda id: zlib.crc32(id.encode("utf-8", "surrogatepass")) % of == shard


class Base(Records):
    """The run's journal, while nobody writes it."""

    def __init__(self, path: Path, mine: Mine) -> None:
        super().__init__(path)
        # Asked for the id alone, before a row's text is read.
        self._reader.create_function("mine", 1, mine, deterministic=True)

    def _connect(self) -> sqlite3.Connection:
        # Without locks and without its log, which other machines could not share.
        where = f"{self.path.absolute().as_uri()}?immutable=1"
        db = sqlite3.connect(where, uri=True, check_same_thread=False, isolation_level=None)
        db.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        return db

    def rows(self, step: int) -> Iterator[Row]:
        return (outcome.row for outcome in self._pages(step, "r.kind = 'row' AND mine(r.id)"))


class Overlay(Journal):
    """The open journal of a shard."""

    SEEN = "INSERT OR IGNORE INTO came_by (epoch, step, id) VALUES (?,?,?)"

    def __init__(
        self, path: Path, base: Path, mine: Mine, on_error: Callable[[], None] = lambda: None
    ) -> None:
        self.base = Base(base, mine)
        super().__init__(path, on_error)
        with self.alone() as db:
            identify(db)
        self.epoch = self.base.epoch
        self.set_fact("epoch", str(self.epoch))

    def _connect(self) -> sqlite3.Connection:
        db = super()._connect()
        db.execute(CAME_BY)
        return db

    def answers(self, row: str) -> dict[Key, Completion]:
        return self.base.answers(row) | super().answers(row)

    def done(self, step: int, row: str, digest: bytes, input: bytes) -> bool:
        return super().done(step, row, digest, input) or self.base.done(step, row, digest, input)

    def rows(self, step: int) -> Iterator[Row]:
        """The shard's rows that go on after the step, which is over for all shards."""
        return self.base.rows(step)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.base.close()
