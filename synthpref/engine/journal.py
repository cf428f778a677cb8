"""The journal of a run, as it is written: one SQLite file, in group commits. What it holds is in records.py.

What is noted gathers for at most 50 ms, is written in the order of the calls here, and is committed by a thread,
so that no row waits for the disk. Should the loop be held up, the thread writes too. A row that is noted as
finished has all its answers on disk, in the same commit or in an earlier one. A killed run loses at most the
answers of the last window.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synthpref.core.errors import JournalError
from synthpref.core.seam import Completion, Request
from synthpref.core.types import Usage
from synthpref.engine.records import (
    INDEXES,
    Key,
    Outcome,
    Records,
    damaged,
    digest,
    is_damage,
    pack,
    seal,
    spend,
    usages_of,
)

COMMIT_WINDOW_S = 0.05
"""How long an answer may wait for its commit to begin. It begins earlier, so that it has ended by then."""
GATHER_S = COMMIT_WINDOW_S / 2
BACKLOG = 2_000

_PUT = "INSERT INTO calls VALUES (?,?,?,?,?,?,?,?,?)"
_WALKED = "INSERT INTO walked VALUES (?,?,?,?,?,?,?,?)"
_ROW = "INSERT INTO rows VALUES (?,?,?,?,?,?,?,?)"
FORGET = (
    "DELETE FROM rows WHERE step = ?1 AND id = ?2 AND parent = ?2",
    "DELETE FROM rows WHERE step = ?1 AND id > ?2 || '.' AND id < ?2 || '/' AND parent = ?2",
)
"""What came of a row: itself and its children, whose ids begin with its own and a dot ("/" comes next after it).
Apart, because only then each goes by the index."""


class Journal(Records):
    """The open journal of a run. Methods that write return at once; `settle` waits until it is on disk.

    A refused write is raised as JournalError by the next call; `on_error` is called at once.
    """

    SEEN = "UPDATE walked SET epoch = ? WHERE step = ? AND id = ?"

    def __init__(self, path: Path, on_error: Callable[[], None] = lambda: None) -> None:
        with contextlib.suppress(OSError):
            path.touch()
        super().__init__(path)
        self._error: JournalError | None = None
        self._on_error = on_error
        self._db = self._connect()
        self._pending: deque[tuple[Callable[..., None] | None, tuple[Any, ...]]] = deque()
        """What writes, with what; None for a row that came by, of which many are written at once."""
        self._oldest = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._turn = threading.Lock()
        """Held by who writes, until it is committed."""
        # Nothing to look up in a journal that is new, and nothing to look it up by: see records.INDEXES.
        anything = "SELECT 1 FROM calls UNION ALL SELECT 1 FROM walked UNION ALL SELECT 1 FROM rows LIMIT 1"
        self.blank = self._one(anything, ()) is None
        """Whether nothing can be looked up yet."""
        if not self.blank:
            self._index()
            self._check()
        self._commits: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._commit_forever, name="journal", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """A new start of the run: rows count only once they are seen again."""
        self.epoch += 1
        self.set_fact("epoch", str(self.epoch))

    # ---- what there is to look up

    def answers(self, row: str) -> dict[Key, Completion]:
        return {} if self.blank else super().answers(row)

    def done(self, step: int, row: str, digest: bytes, input: bytes) -> bool:
        return not self.blank and super().done(step, row, digest, input)

    async def indexed(self) -> None:
        """Wait until all that was written so far is on disk and can be looked up."""
        await self.settle()
        if self.blank:
            await asyncio.get_running_loop().run_in_executor(None, self._index)
            self._check()

    def _index(self) -> None:
        with self._turn:
            try:
                self._db.executescript(f"BEGIN;{INDEXES}COMMIT;")
                self.blank = False
            except sqlite3.Error as error:
                self._fail(error)

    # ---- what can be noted

    def put(
        self,
        row: str,
        key: bytes,
        first: int,
        role: str,
        stage: str,
        model: str,
        request: Request | None,
        answers: Sequence[Completion],
    ) -> None:
        """Keep the answers `first`, `first + 1`, ... of a request; None for one that was kept with others."""
        self._note(self._put, row, key, first, role, stage, model, request, tuple(answers))

    def spend(self, role: str, usage: Usage) -> None:
        """Note what was paid for and cannot be kept."""
        self._note(self._spend, role, usage)

    def finish(
        self, step: int, row: str, digest: bytes, input: bytes, outcomes: Sequence[Outcome], added: int
    ) -> None:
        """Note what became of `row` in `step`, in place of what was noted in an earlier start.

        Raises TypeError when a row holds a value that JSON cannot; nothing is noted then.
        """
        kept = [(o, pack(o.row)) for o in outcomes]
        self._note(self._finish, step, row, digest, input, kept, added, self.epoch)

    def seen(self, step: int, row: str) -> None:
        """The row came by unchanged: what was noted of it still holds."""
        self._note(None, self.epoch, step, row)

    def set_fact(self, name: str, value: str) -> None:
        self._note(self._fact, name, value)

    # ---- when it is written

    def _note(self, write: Callable[..., None] | None, *args: Any) -> None:
        self._check()
        if not self._pending:
            self._oldest = time.monotonic()
        self._pending.append((write, args))
        if self._timer is None:
            self._later()

    def _check(self) -> None:
        if self._error:
            raise self._error

    def _later(self) -> None:
        with contextlib.suppress(RuntimeError):  # no loop runs: the thread writes it, or settle, or close
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._gathered)

    def _gathered(self) -> None:
        """Write what is pending, here, where no thread has to wait for another; the thread puts it on disk."""
        self._timer = None
        if not self._turn.acquire(blocking=False):
            self._later()
            return
        self._write()
        self._commits.put(True)

    def _commit_forever(self) -> None:
        while True:
            try:
                if not self._commits.get(timeout=COMMIT_WINDOW_S):
                    return
            except queue.Empty:
                # Has the loop not come to it? Then a stage computes, and nothing else gets its turn.
                late = self._pending and time.monotonic() - self._oldest > COMMIT_WINDOW_S
                if not late or not self._turn.acquire(blocking=False):
                    continue
                self._write()
            self._commit()
            self._turn.release()

    def _flush(self) -> None:
        with self._turn:
            self._write()
            self._commit()

    def _write(self) -> None:
        came_by: list[tuple[Any, ...]] = []
        try:
            if self._pending and not self._error:
                self._db.execute("BEGIN")
            while self._pending and not self._error:
                write, args = self._pending.popleft()
                if write is None:
                    came_by.append(args)
                else:
                    write(*args)
            if not self._error:
                self._db.executemany(self.SEEN, came_by)
        except Exception as error:  # noqa: BLE001  whatever it is, who waits has to be told
            self._fail(error)

    def _commit(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("ROLLBACK")
        if isinstance(error, JournalError):
            self._error = error
        elif is_damage(error):
            self._error = damaged(self.path, error)
        else:
            self._error = JournalError(
                f"{self.path}: cannot be written ({error}); nothing committed is lost: "
                "make room or mend the folder, then run the same command again"
            )
        self._on_error()

    async def ready(self) -> None:
        """Wait while the disk is far behind."""
        if len(self._pending) > BACKLOG:
            await self.settle()

    async def settle(self) -> None:
        """Wait until all that was written so far is on disk."""
        await asyncio.get_running_loop().run_in_executor(None, self._flush)
        self._check()

    @contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """The connection that writes, with all on disk that was noted; until the block ends nothing else is written."""
        with self._turn:
            self._write()
            self._commit()
            self._check()
            try:
                yield self._db
            except sqlite3.Error as error:
                self._fail(error)
        self._check()

    def fold(self) -> None:
        """Put all that is in the write-ahead log into the file. Raises JournalError where a reader is in the way."""
        with self.alone() as db:
            (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise JournalError(
                f"{self.path}: somebody reads it for long; end that, then run the same command again"
            )

    def close(self) -> None:
        """Write and commit what is left. Raises JournalError when that, or a commit before it, was refused."""
        if self._timer:
            self._timer.cancel()
        self._commits.put(False)
        self._thread.join()
        self._flush()
        self._db.close()
        self._reader.close()
        self._check()

    # ---- how it is written

    def _put(
        self,
        row: str,
        key: bytes,
        first: int,
        role: str,
        stage: str,
        model: str,
        request: Request | None,
        answers: tuple[Completion, ...],
    ) -> None:
        asked = None if request is None else seal(pack(request), row, key)
        body = seal(pack(answers), row, key, str(first), role)
        self._db.execute(_PUT, (row, key, first, len(answers), stage, role, model, asked, body))
        spend(self._db, role, len(answers), usages_of(answers))

    def _spend(self, role: str, usage: Usage) -> None:
        spend(self._db, role, 0, [usage])

    def _finish(
        self,
        step: int,
        row: str,
        made_by: bytes,
        input: bytes,
        outcomes: Sequence[tuple[Outcome, bytes]],
        added: int,
        epoch: int,
    ) -> None:
        output = digest(*(o.kind.encode() + body for o, body in outcomes))
        again = any(o.kind == "reject" or o.again for o, _ in outcomes)
        walked = (step, row, made_by, input, output, added, again, epoch)
        try:
            self._db.execute(_WALKED, walked)
        except sqlite3.IntegrityError:
            self._forget(step, row)
            self._db.execute("DELETE FROM walked WHERE step = ? AND id = ?", (step, row))
            self._db.execute(_WALKED, walked)
        for o, body in outcomes:
            id = o.row.id
            how = (o.kind, o.stage, o.reason, o.detail)
            values = (step, id, row, *how, seal(body, str(step), id, row, *how))
            try:
                self._db.execute(_ROW, values)
            except sqlite3.IntegrityError:
                self._forget_other(step, id, epoch)
                self._own_name(step, id, row)
                self._db.execute(_ROW, values)

    def _forget_other(self, step: int, id: str, epoch: int) -> None:
        """Of an earlier recipe, another row had made this one in this step: forget that it was walked."""
        for (parent,) in self._db.execute(
            "SELECT parent FROM rows WHERE step = ? AND id = ?", (step, id)
        ).fetchall():
            forgotten = "DELETE FROM walked WHERE step = ? AND id = ? AND epoch <> ?"
            if self._db.execute(forgotten, (step, parent, epoch)).rowcount:
                self._forget(step, parent)

    def _own_name(self, step: int, id: str, row: str) -> None:
        """Raise JournalError where another row of this start has become one of the same id: which is which could not
        be told any more."""
        told = """SELECT r.parent FROM rows r JOIN walked w ON w.step = r.step AND w.id = r.parent
          WHERE r.step = ? AND r.id = ?"""
        for (other,) in self._db.execute(told, (step, id)).fetchall():
            fix = "give the source's rows other ids, then run the same command again"
            raise JournalError(f"{self.path}: {other!r} and {row!r} both became a row {id!r}; {fix}")

    def _forget(self, step: int, row: str) -> None:
        for statement in FORGET:
            self._db.execute(statement, (step, row))

    def _fact(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?,?)", (name, value))
