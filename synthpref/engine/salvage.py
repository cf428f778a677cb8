"""A damaged journal: seen before it is used, moved aside, and made anew from every answer that is whole.

Answers are what was paid for, so they and what was asked are all that is taken over. How far each row had come is
not: the rows walk again, from their answers, and only what is missing is asked again. So the dataset is that of
an undisturbed run, whatever was lost.

Most damage is found by `check`, at the start. What a check cannot see (a changed byte inside a record) is found when
the record is read: `mark` leaves a note of it, and the next start begins here.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from synthpref.core.errors import JournalError
from synthpref.core.seam import Completion, Request
from synthpref.engine.ask import seed_of
from synthpref.engine.pages import FILE_HEADER, MAGIC, index_of, log_of, read_log, records, stated_pages
from synthpref.engine.records import SCHEMA, answers_in, digest, is_damage, reading, spend, unseal, usages_of

_request = TypeAdapter(Request)


@dataclass(frozen=True, slots=True)
class Salvaged:
    """A journal that was made anew: what was wrong with the old one, where that is now, what was whole in it."""

    why: str
    aside: Path
    answers: int

    def __str__(self) -> str:
        return (
            f"The journal was damaged ({self.why}). {self.answers:,} answers in it were whole and are kept; what "
            f"is missing is asked again. The damaged file is kept as {self.aside}."
        )


def mend(path: Path) -> Salvaged | None:
    """See to the journal at `path` before it is opened; None when nothing was wrong.

    Nobody else may have it open. Raises JournalError when it can be neither used nor made anew; the damaged file
    is then still in its place.
    """
    try:
        if _made(path).exists():
            # An earlier start was killed while it put the new file in the place of the old one.
            return Salvaged(_marked(path) or "damaged", _swap(path), _answers(path))
        why = _marked(path) or check(path)
        return salvage(path, why) if why else None
    except (OSError, sqlite3.Error) as error:
        fix = "make room or mend the folder, then run the same command again"
        raise JournalError(f"{path}: the damaged journal cannot be made anew ({error}); {fix}") from error


def check(path: Path) -> str | None:
    """What is wrong with the file of a journal, or None. Changes nothing. Raises JournalError when the file
    cannot be read at all.

    Sees a file that is cut or gone, pages that do not fit their place, an index that does not fit its table, values
    of another type, and commits that the write-ahead log has lost. Takes about as long as reading the file does.
    """
    pages = read_log(path)
    if pages.wanted > pages.whole:
        return f"{pages.wanted - pages.whole:,} pages are missing from its write-ahead log"
    if not path.exists() or not path.stat().st_size:
        return "the file is empty, but not its write-ahead log" if pages.whole else None
    with path.open("rb") as file:
        head = file.read(FILE_HEADER)
    if not head.startswith(MAGIC):
        return "its first page is overwritten"
    # The check below does not look at what a text goes over to, which may be all that a cut took. What the log has is not
    # missing: who was killed, or had no room, while the log was folded in had written the first page already.
    there, (stated, size) = path.stat().st_size, stated_pages(head)
    if not all(number in pages.numbers for number in range(there // size + 1, stated + 1)):
        return f"{stated * size - there:,} bytes are missing at its end"
    try:
        # Read-only, because who closes a journal last folds the log in and deletes it.
        with closing(reading(path)) as db:
            [(found,)] = db.execute("PRAGMA integrity_check(1)").fetchall()
    except sqlite3.Error as error:
        if is_damage(error):
            return str(error)
        raise JournalError(f"{path}: {error}; is the disk full, or the folder read-only?") from error
    return None if found == "ok" else " ".join(str(found).removeprefix("*** in database main ***").split())


def mark(path: Path, why: str) -> None:
    """Note what was found wrong while the journal was in use: the next start makes it anew."""
    _note(path).write_text(" ".join(why.split()), encoding="utf-8")


def salvage(path: Path, why: str) -> Salvaged:
    """Make the journal anew from every record that is whole, and move the damaged one aside. The new one takes
    its place only once it is on the disk."""
    mark(path, why)
    made = _made(path)
    part = made.with_name(f"{made.name}.part")
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(part, isolation_level=None)) as db:
        db.executescript(SCHEMA)
        answers = _fill(db, path)
    part.replace(made)
    return Salvaged(why, _swap(path), answers)


def _fill(db: sqlite3.Connection, path: Path) -> int:
    """Take over what is whole, as it comes; how many answers. No call is ever changed, so of two alike either is
    right."""
    columns = [name for _, name, *_ in db.execute("PRAGMA table_info(calls)")]
    put = f"INSERT INTO calls ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})"
    seen: set[bytes] = set()
    saved = 0
    db.execute("BEGIN")
    for record in records(path):
        if len(record) != len(columns):
            continue
        call = dict(zip(columns, record, strict=True))
        place = digest(repr((call["row"], call["key"], call["first"])).encode())
        if place in seen or (answers := _whole(call)) is None:
            continue
        seen.add(place)
        db.execute(put, record)
        spend(db, call["role"], len(answers), usages_of(answers))
        saved += len(answers)
    db.execute("COMMIT")
    return saved


def _whole(call: Mapping[str, object]) -> list[Completion] | None:
    """The answers of a call; None when it is none, or anything about it is not as it was written."""
    match call:
        case {
            "row": str(row),
            "key": bytes(key),
            "first": int(first),
            "count": int(count),
            "stage": str(),
            "role": str(role),
            "model": str(),
            "request": bytes() | None as request,
            "answers": bytes(body),
        }:
            pass
        case _:
            return None
    try:
        answers = answers_in(body, row, key, first, role)
        if request is not None:
            _request.validate_json(unseal(request, row, key))
    except (ValueError, zlib.error):
        return None
    # Seeds follow from the place, so an answer itself shows where it belongs.
    seeds = [seed_of(row, key) + first + i for i in range(count)]
    return answers if [answer.seed for answer in answers] == seeds else None


# ---- files beside the journal


def _made(path: Path) -> Path:
    """The new journal, whole and on the disk, before it takes the place of the old one."""
    return path.with_name(f"{path.name}.made")


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.damage")


def _marked(path: Path) -> str | None:
    note = _note(path)
    return (note.read_text(encoding="utf-8") or "damaged") if note.exists() else None


def _answers(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        [(count,)] = db.execute("SELECT coalesce(sum(count), 0) FROM calls").fetchall()
        return int(count)


def _swap(path: Path) -> Path:
    """Move what is there aside, and put what was made in its place; where the old file is now. Can be interrupted
    anywhere and done again: the file moves after its log, and the new one comes last."""
    aside = next(place for place in _asides(path) if not place.exists())
    for old, new in ((log_of(path), log_of(aside)), (index_of(path), index_of(aside)), (path, aside)):
        if old.exists():
            old.replace(new)
    _note(path).unlink(missing_ok=True)
    _made(path).replace(path)
    return aside


def _asides(path: Path) -> Iterator[Path]:
    number = 1
    while True:
        yield path.with_name(f"{path.name}.damaged-{number}")
        number += 1
