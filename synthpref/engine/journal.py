"""The journal of a run: every answer that was paid for, and how far each row has come. One SQLite file.

One thread writes, in commits of all that has gathered in at most 50 ms, in the order of the calls here. So a
row that is noted as finished has all its answers on disk, in the same commit or in an earlier one. A killed
run loses at most the answers of the last window.

    calls      an answer of a model: (row, key, ordinal) -> Completion
    requests   what was asked, once for each key, for `synthpref show`
    walked     a row that went into a step, with hashes of what it was and of what became of it
    rows       what came out of a step: rows that go on, and rows that left with their reason
    facts      of the run itself
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import queue
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import TypeAdapter

from synthpref.core.errors import JournalError
from synthpref.core.seam import Completion, Request
from synthpref.core.types import Row, Usage

COMMIT_WINDOW_S = 0.05
BACKLOG = 5_000
PAGE = 200

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
  row TEXT, key BLOB, ordinal INTEGER, role TEXT, answer BLOB,
  prompt_tokens INTEGER, completion_tokens INTEGER, PRIMARY KEY (row, key, ordinal)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (
  row TEXT, key BLOB, stage TEXT, role TEXT, model TEXT, request BLOB, PRIMARY KEY (row, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS walked (
  step INTEGER, id TEXT, digest BLOB, input BLOB, output BLOB, added INTEGER, again INTEGER, epoch INTEGER,
  PRIMARY KEY (step, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (
  step INTEGER, id TEXT, parent TEXT, kind TEXT, stage TEXT, reason TEXT, detail TEXT, body BLOB);
CREATE UNIQUE INDEX IF NOT EXISTS rows_by_id ON rows (step, id);
CREATE INDEX IF NOT EXISTS rows_by_parent ON rows (step, parent);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""
_NOW = "FROM rows r JOIN walked w ON w.step = r.step AND w.id = r.parent WHERE w.epoch = ?"
_LIVE = "FROM rows r JOIN walked w ON w.step = r.step AND w.id = r.parent WHERE r.step = ? AND w.epoch = ?"

_OTHER = "step = :step AND id = :id AND parent <> :parent"
_STRAYS = (
    f"DELETE FROM walked WHERE step = :step AND epoch <> :epoch AND id IN (SELECT parent FROM rows WHERE {_OTHER})",
    f"DELETE FROM rows WHERE {_OTHER} AND parent NOT IN (SELECT id FROM walked WHERE step = :step)",
)
"""Of an earlier recipe, another row had made this one in this step: forget that it was walked."""

_row = TypeAdapter(Row)
_completion = TypeAdapter(Completion)

Key = tuple[bytes, int]


def pack(thing: Any) -> bytes:
    """A row, request or completion as it is kept; equal things give equal bytes."""
    return orjson.dumps(thing, option=orjson.OPT_SORT_KEYS)


def unpack_row(body: bytes) -> Row:
    return _row.validate_json(zlib.decompress(body))


def digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"\0".join(parts)).digest()[:16]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row in a step: it goes on ("row"), was dropped ("drop") or was rejected ("reject")."""

    row: Row
    kind: Literal["row", "drop", "reject"]
    stage: str = ""
    reason: str = ""
    detail: str = ""


class Records:
    """What a journal holds, read-only: for `status`, `show` and `report`, also while the run goes on.

    Raises JournalError when the file is missing, damaged or of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise JournalError(f"{path}: no journal there; is this a run folder?")
        self._reader = self._connect()
        self.epoch = int(self.fact("epoch") or 0)

    def _connect(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=30)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise JournalError(
                f"{self.path}: {error}; is the disk full, read-only, or the file damaged?"
            ) from error
        return db

    def close(self) -> None:
        self._reader.close()

    def fact(self, name: str) -> str | None:
        found = self._one("SELECT value FROM facts WHERE name = ?", (name,))
        return found[0] if found else None

    def answers(self, row: str) -> dict[Key, Completion]:
        """All kept answers of a row."""
        found = self._all("SELECT key, ordinal, answer FROM calls WHERE row = ?", (row,))
        return {(key, n): _completion.validate_json(zlib.decompress(body)) for key, n, body in found}

    def asked(self, row: str) -> list[tuple[str, str, str, Request, list[Completion]]]:
        """(stage, role, model, request, answers) of each request of a row."""
        found = self._all("SELECT key, stage, role, model, request FROM requests WHERE row = ?", (row,))
        answers = sorted(self.answers(row).items())
        return [
            (
                stage,
                role,
                model,
                TypeAdapter(Request).validate_json(zlib.decompress(body)),
                [a for (k, _), a in answers if k == key],
            )
            for key, stage, role, model, body in found
        ]

    def done(self, step: int, row: str, digest: bytes, input: bytes) -> bool:
        """Whether the row has gone through this step, unchanged since, and was not rejected."""
        query = "SELECT digest, input, again FROM walked WHERE step = ? AND id = ?"
        found = self._one(query, (step, row))
        return found is not None and tuple(found) == (digest, input, 0)

    def rows(self, step: int) -> Iterator[Row]:
        """The rows that go on after the step, sorted by id."""
        return (unpack_row(body) for *_, body in self._pages(step, "r.kind = 'row'"))

    def left(self, step: int) -> Iterator[Outcome]:
        """The rows that left in the step, sorted by id."""
        for _, kind, stage, reason, detail, body in self._pages(step, "r.kind <> 'row'"):
            yield Outcome(unpack_row(body), kind, stage, reason, detail)

    def _pages(self, step: int, condition: str) -> Iterator[Any]:
        # Page by page, because a read that stays open keeps the write-ahead log from being folded in.
        what = f"SELECT r.id, r.kind, r.stage, r.reason, r.detail, r.body {_LIVE} AND {condition}"
        last = ""
        while page := self._all(f"{what} AND r.id > ? ORDER BY r.id LIMIT {PAGE}", (step, self.epoch, last)):
            yield from page
            last = page[-1][0]

    def counts(self, step: int) -> list[tuple[str, str, str, int]]:
        """(kind, stage, reason, how many) of what came out of a step."""
        what = f"SELECT r.kind, r.stage, r.reason, count(*) {_LIVE} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        return self._all(what, (step, self.epoch))

    def entered(self, step: int) -> tuple[int, int]:
        """(rows that went into the step, rows that stages added in it)."""
        what = "SELECT count(*), coalesce(sum(added), 0) FROM walked WHERE step = ? AND epoch = ?"
        found = self._one(what, (step, self.epoch))
        return (found[0], found[1]) if found else (0, 0)

    def state(self, step: int) -> bytes:
        """A hash of all that the step holds."""
        summary = hashlib.sha256()
        for id, output in self._each(
            "SELECT id, output FROM walked WHERE step = ? AND epoch = ? ORDER BY id", (step, self.epoch)
        ):
            summary.update(id.encode() + b"\0" + output)
        return summary.digest()[:16]

    def spent(self) -> dict[str, tuple[int, int, int]]:
        """(answers, prompt tokens, completion tokens) by role, over all starts of the run."""
        what = "SELECT role, count(*), sum(prompt_tokens), sum(completion_tokens) FROM calls GROUP BY role"
        return {role: (n, p, c) for role, n, p, c in self._all(what, ())}

    def steps(self) -> list[int]:
        """The steps that rows went into."""
        return [step for (step,) in self._all("SELECT DISTINCT step FROM walked ORDER BY step", ())]

    def find(self, text: str) -> list[str]:
        """Ids of rows whose id starts with `text`, at most 20."""
        what = f"SELECT DISTINCT r.id {_NOW} AND r.id >= ? AND r.id < ? ORDER BY r.id LIMIT 20"
        return [id for (id,) in self._all(what, (self.epoch, text, text + "\U0010ffff"))]

    def latest(self, row: str) -> Outcome | None:
        """The last thing noted of a row."""
        columns = "r.kind, r.stage, r.reason, r.detail, r.body"
        found = self._one(
            f"SELECT {columns} {_NOW} AND r.id = ? ORDER BY r.step DESC LIMIT 1", (self.epoch, row)
        )
        return Outcome(unpack_row(found[4]), *found[:4]) if found else None

    def _each(self, what: str, args: tuple[Any, ...]) -> Iterator[Any]:
        # A cursor of its own for each pass: several may be open at once.
        try:
            yield from self._reader.cursor().execute(what, args)
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: cannot be read ({error}); the file is damaged") from error

    def _all(self, what: str, args: tuple[Any, ...]) -> list[Any]:
        return list(self._each(what, args))

    def _one(self, what: str, args: tuple[Any, ...]) -> Any:
        return next(iter(self._all(what, args)), None)


class Journal(Records):
    """The open journal of a run. Methods that write return at once; `settle` waits until it is on disk.

    A refused write is raised as JournalError by the next call; the writing thread calls `on_error` at once.
    """

    def __init__(self, path: Path, on_error: Callable[[], None] = lambda: None) -> None:
        with contextlib.suppress(OSError):
            path.touch()
        super().__init__(path)
        self._error: JournalError | None = None
        self._on_error = on_error
        self._db = self._connect()
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_forever, name="journal", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """A new start of the run: rows count only once they are seen again."""
        self.epoch += 1
        self.set_fact("epoch", str(self.epoch))

    def put(
        self,
        row: str,
        key: bytes,
        first: int,
        role: str,
        stage: str,
        model: str,
        request: Request,
        answers: Sequence[Completion],
    ) -> None:
        """Keep the answers `first`, `first + 1`, ... of a request."""
        self._send(("put", (row, key, first, role, stage, model, request, tuple(answers))))

    def finish(
        self, step: int, row: str, digest: bytes, input: bytes, outcomes: Sequence[Outcome], added: int
    ) -> None:
        """Note what became of `row` in `step`, in place of what was noted before.

        Raises TypeError when a row holds a value that JSON cannot; nothing is noted then.
        """
        kept = [(o, pack(o.row)) for o in outcomes]
        self._send(("finish", (step, row, digest, input, kept, added, self.epoch)))

    def seen(self, step: int, row: str) -> None:
        """The row came by unchanged: what was noted of it still holds."""
        self._send(("seen", (self.epoch, step, row)))

    def set_fact(self, name: str, value: str) -> None:
        self._send(("fact", (name, value)))

    def _send(self, item: Any) -> None:
        if self._error:
            raise self._error
        self._queue.put(item)

    async def ready(self) -> None:
        """Wait while the disk is far behind."""
        if self._queue.qsize() > BACKLOG:
            await self.settle()

    async def settle(self) -> None:
        """Wait until all that was written so far is on disk."""
        done = threading.Event()
        self._send(("settle", done))
        await asyncio.get_running_loop().run_in_executor(None, done.wait)
        if self._error:
            raise self._error

    def close(self) -> None:
        if self._thread.is_alive():
            self._queue.put(("close", None))
            self._thread.join()
        self._reader.close()
        if self._error:
            raise self._error

    def _write_forever(self) -> None:
        db = self._db
        going = True
        while going:
            batch = self._gather()
            going = not any(kind == "close" for kind, _ in batch)
            try:
                if not self._error:
                    db.execute("BEGIN")
                    for kind, args in batch:
                        self._write(db, kind, args)
                    db.execute("COMMIT")
            except Exception as error:  # noqa: BLE001  whatever it is, who waits has to be told
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                self._error = JournalError(
                    f"{self.path}: cannot be written ({error}); nothing committed is lost: "
                    "make room or mend the folder, then run the same command again"
                )
                self._on_error()
            for kind, args in batch:
                if kind == "settle":
                    args.set()
        db.close()

    def _gather(self) -> list[Any]:
        """A window's worth of writes. Who settles or closes is not made to wait for the window's end."""
        batch = [self._queue.get()]
        end = time.monotonic() + COMMIT_WINDOW_S
        while batch[-1][0] not in ("settle", "close") and len(batch) < BACKLOG:
            try:
                batch.append(self._queue.get(timeout=max(0.0, end - time.monotonic())))
            except queue.Empty:
                break
        return batch

    def _write(self, db: sqlite3.Connection, kind: str, args: Any) -> None:
        if kind == "put":
            row, key, first, role, stage, model, request, answers = args
            asked = zlib.compress(pack(request), 1)
            db.execute(
                "INSERT OR IGNORE INTO requests VALUES (?,?,?,?,?,?)", (row, key, stage, role, model, asked)
            )
            for i, answer in enumerate(answers):
                usage = answer.usage or Usage()
                body = zlib.compress(pack(answer), 1)
                tokens = (usage.prompt_tokens, usage.completion_tokens)
                db.execute(
                    "INSERT OR IGNORE INTO calls VALUES (?,?,?,?,?,?,?)",
                    (row, key, first + i, role, body, *tokens),
                )
        elif kind == "finish":
            step, row, made_by, input, outcomes, added, epoch = args
            db.execute("DELETE FROM rows WHERE step = ? AND parent = ?", (step, row))
            output, again = hashlib.sha256(), False
            for o, body in outcomes:
                output.update(o.kind.encode() + body)
                again = again or o.kind == "reject"
                which = {"step": step, "id": o.row.id, "parent": row, "epoch": epoch}
                for statement in _STRAYS:
                    db.execute(statement, which)
                values = (step, o.row.id, row, o.kind, o.stage, o.reason, o.detail, zlib.compress(body, 1))
                db.execute("INSERT INTO rows VALUES (?,?,?,?,?,?,?,?)", values)
            noted = (step, row, made_by, input, output.digest()[:16], added, again, epoch)
            db.execute("INSERT OR REPLACE INTO walked VALUES (?,?,?,?,?,?,?,?)", noted)
        elif kind == "seen":
            db.execute("UPDATE walked SET epoch = ? WHERE step = ? AND id = ?", args)
        elif kind == "fact":
            db.execute("INSERT OR REPLACE INTO facts VALUES (?,?)", args)
