"""What a journal holds, and how it is read: every answer that was paid for, and how far each row has come.

    calls      answers of a model, `count` of them from the ordinal `first` on: (row, key) -> [Completion]
    spent      answers and tokens by role
    walked     a row that went into a step, with hashes of what it was and of what became of it
    rows       what came out of a step: rows that go on, and rows that left with their reason
    facts      of the run itself

Texts lie sealed: with a checksum that covers their place too, so that damage is found when they are read.
Bulk is only ever added at a table's end; what is looked up in any order are small trees of ids.
"""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import TypeAdapter

from synthpref.core.errors import JournalDamaged, JournalError
from synthpref.core.seam import Completion, Request
from synthpref.core.types import Row, Usage

FORMAT = 2
"""Of the file. Another one is refused, because what it holds would be read wrongly."""
PAGE = 200
SQUEEZED = 512
"""From so many bytes on a text is compressed; below, that costs more than it saves."""
CACHE_KB = 16_384

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS calls (
  row TEXT NOT NULL, key BLOB NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
  stage TEXT, role TEXT, model TEXT, request BLOB, answers BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS spent (
  role TEXT PRIMARY KEY, answers INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS walked (
  step INTEGER, id TEXT, digest BLOB, input BLOB, output BLOB, added INTEGER, again INTEGER, epoch INTEGER) STRICT;
CREATE TABLE IF NOT EXISTS rows (
  step INTEGER, id TEXT, parent TEXT, kind TEXT, stage TEXT, reason TEXT, detail TEXT, body BLOB) STRICT;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID, STRICT;
PRAGMA user_version = {FORMAT};
"""
INDEXES = """
CREATE INDEX IF NOT EXISTS calls_by_row ON calls (row);
CREATE UNIQUE INDEX IF NOT EXISTS walked_by_id ON walked (step, id);
CREATE UNIQUE INDEX IF NOT EXISTS rows_by_id ON rows (step, id);
"""
"""Made when something is first looked up, which in a run from nothing is after its first segment. Ids are hashes, so
each entry that is added by itself changes a page of its own; all at once they are sorted first."""
ADD_SPENT = """ON CONFLICT (role) DO UPDATE SET answers = answers + excluded.answers,
  prompt_tokens = prompt_tokens + excluded.prompt_tokens, completion_tokens = completion_tokens + excluded.completion_tokens"""
_HOW = "r.kind, r.stage, r.reason, r.detail"
_NOW = "FROM rows r JOIN walked w ON w.step = r.step AND w.id = r.parent WHERE w.epoch = ?"
_LIVE = "FROM rows r JOIN walked w ON w.step = r.step AND w.id = r.parent WHERE r.step = ? AND w.epoch = ?"

_row = TypeAdapter(Row)
_request = TypeAdapter(Request)
_completions = TypeAdapter(list[Completion])

Key = tuple[bytes, int]
Asked = list[tuple[str, str, str, Request, list[Completion]]]
"""(stage, role, model, request, answers) of each request of a row."""


SPEND = f"INSERT INTO spent VALUES (?,?,?,?) {ADD_SPENT}"
COUNTED = "counted "
"""Facts whose names begin so are sums, of what a role has spent in a way of its own: see `Spent`."""
ADD_FACT = """ON CONFLICT (name) DO UPDATE SET
  value = CAST(CAST(value AS INTEGER) + CAST(excluded.value AS INTEGER) AS TEXT)"""


class Spent(NamedTuple):
    """What a role has spent over all starts of the run."""

    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    """Answers whose tokens were estimated from their texts."""
    live: Usage = Usage()
    """Of the tokens, those that a role which asks in batches asked for live, at the full price."""


def spend(db: sqlite3.Connection, role: str, answers: int, usages: Sequence[Usage]) -> None:
    """Add what a call has used to what the role has spent."""
    prompt, completion = sum(u.prompt_tokens for u in usages), sum(u.completion_tokens for u in usages)
    db.execute(SPEND, (role, answers, prompt, completion))
    for usage in usages:
        if usage.estimated:
            db.execute(
                f"INSERT INTO facts VALUES (?,?) {ADD_FACT}", (f"{COUNTED}estimated {role}", str(answers))
            )
        if usage.live:
            for what in ("prompt_tokens", "completion_tokens"):
                value = str(getattr(usage, what))
                db.execute(f"INSERT INTO facts VALUES (?,?) {ADD_FACT}", (f"{COUNTED}{what} {role}", value))


def usages_of(answers: Sequence[Completion]) -> list[Usage]:
    return [answer.usage for answer in answers if answer.usage]


def answers_in(body: bytes, row: str, key: bytes, first: int, role: str) -> list[Completion]:
    """The answers that lie sealed in a record of `calls`. Raises ValueError or zlib.error where they are damaged."""
    return _completions.validate_json(unseal(body, row, key, str(first), role))


def reading(path: Path) -> sqlite3.Connection:
    """A connection that only reads, also while others write."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30, isolation_level=None)


def pack(thing: Any) -> bytes:
    """A row, request or completion as it is kept; equal things give equal bytes."""
    return orjson.dumps(thing, option=orjson.OPT_SORT_KEYS)


def digest(*parts: bytes) -> bytes:
    return hashlib.sha256(b"\0".join(parts)).digest()[:16]


def seal(text: bytes, *place: str | bytes) -> bytes:
    """The text as it lies in a column, bound to what stands beside it there."""
    if len(text) >= SQUEEZED:
        text = zlib.compress(text, 1)
    return _checksum(text, place) + text


def unseal(sealed: bytes, *place: str | bytes) -> bytes:
    """The text that was sealed. Raises ValueError when it, or its place, is not what was written."""
    text = sealed[4:]
    if sealed[:4] != _checksum(text, place):
        raise ValueError("a record does not match its checksum")
    return zlib.decompress(text) if text[:1] == b"\x78" else text


def _checksum(text: bytes, place: tuple[str | bytes, ...]) -> bytes:
    total = 0
    for part in place:
        total = zlib.crc32(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part, total)
    return zlib.crc32(text, total).to_bytes(4, "big")


def is_damage(error: BaseException) -> bool:
    """Whether an error of SQLite's is about what the file holds, not about the disk or a lock. A row that will not
    go where none is, is one, too; an error without a code is a text that is not UTF-8."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return isinstance(error, sqlite3.Error) and code in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CONSTRAINT,
    )


def damaged(path: Path, why: object) -> JournalDamaged:
    again = "run the same command again: what is whole in it is kept, and the rest is asked again"
    return JournalDamaged(f"{path}: the file is damaged ({why}); {again}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row in a step: it goes on ("row"), was dropped ("drop") or was rejected ("reject")."""

    row: Row
    kind: Literal["row", "drop", "reject"]
    stage: str = ""
    reason: str = ""
    detail: str = ""
    again: bool = False
    """Whether the next start is to walk the row once more: it was rejected, or something of it is missing for a passing
    reason."""


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
            db.execute(f"PRAGMA cache_size = -{CACHE_KB}")
            (found,) = db.execute("PRAGMA user_version").fetchone()
            if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                # Whole or not at all: half a schema, left by a kill, would be taken for another version's.
                db.executescript(f"BEGIN IMMEDIATE;{SCHEMA}COMMIT;")
            elif found != FORMAT:
                fix = "finish it with that version, or name another folder with --out"
                raise JournalError(f"{self.path}: made by another version of synthpref; {fix}")
        except sqlite3.Error as error:
            if is_damage(error):
                raise damaged(self.path, error) from error
            raise JournalError(
                f"{self.path}: {error}; is the disk full, read-only, or the file damaged?"
            ) from error
        return db

    def close(self) -> None:
        self._reader.close()

    # ---- calls

    def answers(self, row: str) -> dict[Key, Completion]:
        """All kept answers of a row."""
        kept: dict[Key, Completion] = {}
        what = "SELECT key, first, role, answers FROM calls WHERE row = ?"
        for key, first, role, body in self._all(what, (row,)):
            for i, answer in enumerate(self._read(_completions, body, row, key, str(first), role)):
                kept.setdefault((key, first + i), answer)
        return kept

    def asked(self, row: str) -> Asked:
        """What was asked for a row, in the order of the answers, and what was answered."""
        what = "SELECT key, stage, role, model, request FROM calls WHERE row = ? AND request IS NOT NULL ORDER BY rowid"
        found = {key: (*rest, body) for key, *rest, body in reversed(self._all(what, (row,)))}
        answers = sorted(self.answers(row).items())
        return [
            (
                stage,
                role,
                model,
                self._read(_request, body, row, key),
                [a for (k, _), a in answers if k == key],
            )
            for key, (stage, role, model, body) in reversed(found.items())
        ]

    def spent(self) -> dict[str, Spent]:
        """What was spent, by role."""
        names = f"SELECT name, value FROM facts WHERE name >= '{COUNTED}' AND name < '{COUNTED[:-1]}!'"
        counted = {name.removeprefix(COUNTED): int(value) for name, value in self._all(names, ())}
        what = "SELECT role, answers, prompt_tokens, completion_tokens FROM spent ORDER BY role"
        return {
            role: Spent(
                answers,
                prompt,
                completion,
                counted.get(f"estimated {role}", 0),
                Usage(counted.get(f"prompt_tokens {role}", 0), counted.get(f"completion_tokens {role}", 0)),
            )
            for role, answers, prompt, completion in self._all(what, ())
        }

    # ---- rows

    def done(self, step: int, row: str, digest: bytes, input: bytes) -> bool:
        """Whether the row has gone through this step, unchanged since, and was not rejected."""
        query = "SELECT digest, input, again FROM walked WHERE step = ? AND id = ?"
        found = self._one(query, (step, row))
        return found is not None and tuple(found) == (digest, input, 0)

    def rows(self, step: int) -> Iterator[Row]:
        """The rows that go on after the step, sorted by id."""
        return (outcome.row for outcome in self._pages(step, "r.kind = 'row'"))

    def left(self, step: int) -> Iterator[Outcome]:
        """The rows that left in the step, sorted by id."""
        return self._pages(step, "r.kind <> 'row'")

    def _pages(self, step: int, condition: str) -> Iterator[Outcome]:
        # Page by page, because a read that stays open keeps the write-ahead log from being folded in.
        what = f"SELECT r.id, r.parent, {_HOW}, r.body {_LIVE} AND {condition}"
        last = ""
        while page := self._all(f"{what} AND r.id > ? ORDER BY r.id LIMIT {PAGE}", (step, self.epoch, last)):
            for id, parent, *how, body in page:
                yield Outcome(self._read(_row, body, str(step), id, parent, *how), *how)
            last = page[-1][0]

    def counts(self, step: int) -> list[tuple[str, str, str, int]]:
        """(kind, stage, reason, how many) of what came out of a step."""
        what = f"SELECT r.kind, r.stage, r.reason, count(*) {_LIVE} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        return self._all(what, (step, self.epoch))

    def strays(self, step: int) -> list[str]:
        """Ids of rows that came out of a barrier and had not gone on from the step before it, at most three."""
        what = f"""SELECT r.id {_LIVE} AND NOT EXISTS (SELECT 1 FROM rows b JOIN walked v ON v.step = b.step AND v.id = b.parent
          WHERE b.step = r.step - 1 AND b.id = r.id AND b.kind = 'row' AND v.epoch = w.epoch) LIMIT 3"""
        return [id for (id,) in self._all(what, (step, self.epoch))]

    def entered(self, step: int) -> tuple[int, int]:
        """(rows that went into the step, rows that stages added in it)."""
        what = "SELECT count(*), coalesce(sum(added), 0) FROM walked WHERE step = ? AND epoch = ?"
        found = self._one(what, (step, self.epoch))
        return (found[0], found[1]) if found else (0, 0)

    def state(self, step: int) -> bytes:
        """A hash of all that the step holds."""
        summary = hashlib.sha256()
        what = "SELECT id, output FROM walked WHERE step = ? AND epoch = ? ORDER BY id"
        for id, output in self._each(what, (step, self.epoch)):
            summary.update(id.encode() + b"\0" + output)
        return summary.digest()[:16]

    def steps(self) -> list[int]:
        """The steps that rows went into."""
        return [step for (step,) in self._all("SELECT DISTINCT step FROM walked ORDER BY step", ())]

    def find(self, text: str) -> list[str]:
        """Ids of rows whose id starts with `text`, at most 20."""
        what = f"SELECT DISTINCT r.id {_NOW} AND r.id >= ? AND r.id < ? ORDER BY r.id LIMIT 20"
        return [id for (id,) in self._all(what, (self.epoch, text, text + "\U0010ffff"))]

    def latest(self, row: str) -> Outcome | None:
        """The last thing noted of a row."""
        what = f"SELECT r.step, r.parent, {_HOW}, r.body {_NOW} AND r.id = ? ORDER BY r.step DESC LIMIT 1"
        found = self._one(what, (self.epoch, row))
        if not found:
            return None
        step, parent, *how, body = found
        return Outcome(self._read(_row, body, str(step), row, parent, *how), *how)

    # ---- reading

    def fact(self, name: str) -> str | None:
        found = self._one("SELECT value FROM facts WHERE name = ?", (name,))
        return found[0] if found else None

    def _read(self, kind: TypeAdapter[Any], sealed: bytes, *place: str | bytes) -> Any:
        try:
            return kind.validate_json(unseal(sealed, *place))
        except (TypeError, ValueError, zlib.error) as error:
            raise damaged(self.path, error) from error

    def _unreadable(self, error: sqlite3.Error) -> JournalError:
        return (
            damaged(self.path, error)
            if is_damage(error)
            else JournalError(f"{self.path}: cannot be read ({error})")
        )

    def _each(self, what: str, args: tuple[Any, ...]) -> Iterator[Any]:
        # A cursor of its own for each pass: several may be open at once.
        try:
            yield from self._reader.cursor().execute(what, args)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def _all(self, what: str, args: tuple[Any, ...]) -> list[Any]:
        try:
            return self._reader.execute(what, args).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def _one(self, what: str, args: tuple[Any, ...]) -> Any:
        return next(iter(self._all(what, args)), None)
