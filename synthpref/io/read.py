"""The door in: a `source` of a recipe -> Rows, streamed, each with an id that stays its own."""

from __future__ import annotations

import glob
import hashlib
import itertools
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol

import orjson

from synthpref.core.errors import Problem, RecipeError, RemoteError, SynthprefError
from synthpref.core.source import Remark, Source, is_url
from synthpref.core.types import Row
from synthpref.io import first_records
from synthpref.io.columns import MISSING, missing_columns, pick, plain, row_of
from synthpref.io.files import READERS, Reader, Record, broken, csv, json, jsonl, parquet, short, txt

__all__ = ["csv", "json", "jsonl", "parquet", "problems", "rows", "txt"]

_LOOKED_AT = 20
"""Records whose columns are known before a run: a column may be absent from some."""


class Readers(Protocol):
    """Where readers are looked up by name; the engine's registry is one."""

    def get(self, kind: Literal["readers"], name: str, path: str = "", /) -> Any: ...


def rows(source: Source, base: Path, readers: Readers | None = None) -> Iterator[Row]:
    """The rows of the source; `base` is the folder that its path is relative to.

    Raises RecipeError at the first record that cannot be a row, with its line.
    """
    seen = _Seen()
    copies: dict[str, int] = {}
    left = source.limit
    for where, record in _records(source, base, readers):
        with _nesting(where):
            if source.id is not None:
                name = _id(source.id, record, where)
                if not seen.add(hashlib.sha256(name.encode()).digest()):
                    _refuse_second(source, base, readers, name, where)
            else:
                digest = hashlib.sha256(orjson.dumps(plain(record), option=orjson.OPT_SORT_KEYS)).digest()
                name = digest[:8].hex()
                if not seen.add(digest):
                    copies[name] = copies.get(name, 1) + 1
                    name = f"{name}-{copies[name]}"
            if not source.takes(name):
                continue
            row = row_of(source, name, record, where)
        yield row
        if left is not None and (left := left - 1) == 0:
            return


@contextmanager
def _nesting(where: str) -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise broken(where, "holds mappings or lists nested too deeply", "flatten it") from None


def problems(source: Source, base: Path, readers: Readers | None = None) -> list[Problem]:
    """What is wrong with the source, as far as its first records show it."""
    try:
        first = list(itertools.islice(_records(source, base, readers), _LOOKED_AT))
        if not first:
            return [
                Problem(
                    _place(source),
                    f"{source.path or source.hf or 'it'} holds no records",
                    "name one that has some",
                )
            ]
        records = [record for _, record in first]
        found = missing_columns(source, records) or first_records.wrong_scores(source, records)
        if not found:
            for where, record in first[: source.limit]:
                with _nesting(where):
                    row_of(source, "", record, where)
    except RecipeError as error:
        return [
            p if p.path.startswith("source") else Problem(_place(source), f"{p.path}: {p.message}", p.fix)
            for p in error.problems
        ]
    return found


def remarks(source: Source, base: Path, readers: Readers | None = None) -> list[Remark]:
    """What the first records show that may be a mistake in the mapping, and may be meant."""
    if not source.brought:
        return []
    try:
        first = itertools.islice(_records(source, base, readers), _LOOKED_AT)
        return first_records.remarks(source, [record for _, record in first])
    except RecipeError:
        # What cannot be read is a problem, and reported as one.
        return []


# ---- records


def _records(source: Source, base: Path, readers: Readers | None) -> Iterator[tuple[str, Record]]:
    """Every record of the source, and what to call it in a message."""
    if source.rows is not None:
        for i, item in enumerate(source.rows):
            yield f"source.rows[{i}]", {"prompt": item} if isinstance(item, str) else dict(item)
    elif source.hf is not None:
        yield from _hub(source)
    else:
        reader = _reader(source, readers)
        if is_url(source.path or ""):
            for url, path in _copies(source.path or ""):
                yield from _called(url, path, _read(reader, path))
            return
        for path in _paths(source, base):
            yield from _read(reader, path)


def _copies(url: str) -> list[tuple[str, Path]]:
    from synthpref.io.remote import copies

    try:
        found = copies(url)
    except RemoteError as error:
        raise broken("source.path", str(error)) from error
    if not found:
        raise broken("source.path", f"there is no file {url}", "mend the address, or the pattern")
    return found


def _called(url: str, path: Path, records: Iterator[tuple[str, Record]]) -> Iterator[tuple[str, Record]]:
    """What was read from the copy of a file, with each place in it called by the file's own address."""
    try:
        for where, record in records:
            yield where.replace(str(path), url, 1), record
    except RecipeError as error:
        own = [Problem(p.path.replace(str(path), url, 1), p.message, p.fix) for p in error.problems]
        raise RecipeError(own) from error


def _read(reader: Reader, path: Path) -> Iterator[tuple[str, Record]]:
    """The boundary around a reader, which may be a plugin's."""
    try:
        yield from reader(path)
    except SynthprefError:
        raise
    except Exception as error:
        name = getattr(reader, "__name__", "the reader")
        raise broken(
            path, f"{name} raised {type(error).__name__}: {error}", "mend the file or the reader"
        ) from error


def _reader(source: Source, readers: Readers | None) -> Reader:
    name = source.reader
    if name is None:
        fix = f"add format: one of {', '.join(sorted(READERS))}"
        raise broken("source.path", f"cannot tell the format of {source.path!r} from its ending", fix)
    if readers is not None:
        found: Reader = readers.get("readers", name, "source.format")
        return found
    if name not in READERS:
        raise broken("source.format", f"no reader named {name!r}", f"there is: {', '.join(sorted(READERS))}")
    return READERS[name]


def _paths(source: Source, base: Path) -> list[Path]:
    path = base / Path(source.path or "").expanduser()
    if glob.has_magic(str(source.path)) and not path.exists():
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        if not found:
            raise broken("source.path", f"no file matches {path}", "the path is relative to the recipe")
        return found
    if path.is_dir():
        raise broken("source.path", f"{path} is a folder", f"name the files in it: {source.path}/*.jsonl")
    if not path.exists():
        near = get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
        fix = f"did you mean {near[0]!r}?" if near else "the path is relative to the recipe"
        raise broken("source.path", f"there is no file {path}", fix)
    return [path]


def _hub(source: Source) -> Iterator[tuple[str, Record]]:
    import datasets

    try:
        stream = datasets.load_dataset(source.hf, source.config, split=source.split, streaming=True)
        for i, record in enumerate(stream):
            yield f"{source.hf} ({source.split}) row {i}", record
    except Exception as error:
        fix = "check the name, split and config, HF_TOKEN for a private dataset, and the network"
        raise broken(
            "source.hf", f"{source.hf} cannot be loaded: {type(error).__name__}: {error}", fix
        ) from error


def _place(source: Source) -> str:
    return "source." + next(name for name in ("path", "hf", "rows") if getattr(source, name) is not None)


# ---- ids


def _id(column: str, record: Record, where: str) -> str:
    value = pick(record, column)
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        found = "is missing" if value is MISSING else f"holds {short(value)}"
        fix = "give it one, or leave `id` out of the source: rows are then named by their content"
        raise broken(where, f"the id column {column!r} {found}", fix)
    return str(value)


def _refuse_second(source: Source, base: Path, readers: Readers | None, name: str, where: str) -> None:
    """Raise RecipeError that names both records called `name`."""
    for first, record in _records(source, base, readers):
        if first == where:
            return
        if _id(source.id or "", record, first) == name:
            message = f"the id {name!r} is that of {first} already"
            fix = "make ids unique, or leave `id` out of the source"
            raise broken(where, message, fix)


class _Seen:
    """Which digests came before, by their first 64 bits, in about 16 to 32 bytes each: with a million rows a
    plain set of them would be most of a run's memory."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._count = 0

    def add(self, digest: bytes) -> bool:
        """Note the digest; True if it is new."""
        if not self._put(self._slots, int.from_bytes(digest[:8], "big") or 1):
            return False
        self._count += 1
        if self._count * 2 > len(self._slots):
            slots = array("Q", bytes(8 * 2 * len(self._slots)))
            for number in self._slots:
                if number:
                    self._put(slots, number)
            self._slots = slots
        return True

    @staticmethod
    def _put(slots: array[int], number: int) -> bool:
        mask = len(slots) - 1
        at = number & mask
        while held := slots[at]:
            if held == number:
                return False
            at = (at + 1) & mask
        slots[at] = number
        return True
