"""Readers: a file -> (where, record), one at a time. `where` is what an error message calls the record.

A reader raises RecipeError on a file that is broken, with the line and what stands there.
"""

from __future__ import annotations

import csv as _csv
import gzip
import json as _json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from synthpref.core.errors import Problem, RecipeError

Record = dict[str, Any]
Reader = Callable[[Path], Iterator[tuple[str, Record]]]

_AROUND = 30
"""Characters shown on either side of a mistake."""
_BATCH = 256


def broken(where: object, message: str, fix: str = "") -> RecipeError:
    return RecipeError([Problem(str(where), message, fix)])


def _bytes(path: Path) -> Iterator[bytes]:
    """The file's lines, unpacked where its name ends in .gz."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield from file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise broken(path, f"not a whole gzip file: {error}", "pack it again") from None
    except OSError as error:
        raise broken(path, f"cannot be read: {error.strerror or error}") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text). A byte order mark is taken off."""
    offset = 0
    for number, raw in enumerate(_bytes(path), 1):
        line = raw[3:] if number == 1 and raw.startswith(b"\xef\xbb\xbf") else raw
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            at = offset + len(raw) - len(line) + error.start
            found = f"not UTF-8: byte 0x{line[error.start]:02x} at byte {at} of the file"
            raise broken(f"{path}:{number}", found, "save the file as UTF-8") from None
        yield number, text
        offset += len(raw)


def _parsed(text: str, where: Callable[[int], str], fix: str) -> Any:
    """The JSON value. `where` names the place of a mistake from its index in the text."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        # orjson refuses NaN, which many programs write, and half a surrogate pair, which no endpoint takes.
        try:
            value = _json.loads(text)
            text.encode("utf-8")
            _json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise broken(where(0), "holds half of a surrogate pair (\\ud800 to \\udfff)", "mend it") from None
        except (ValueError, RecursionError):
            around = text[max(error.pos - _AROUND, 0) : error.pos + _AROUND].strip()
            raise broken(where(error.pos), f"not valid JSON: {error.msg}, near {around!r}", fix) from None
        return value


def _mapping(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise broken(where, f"a record is a mapping of column to value, not {short(value)}")
    return value


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def jsonl(path: Path) -> Iterator[tuple[str, Record]]:
    """A JSON mapping on each line; blank lines are passed over."""
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        array = number == 1 and line.lstrip().startswith("[")
        fix = "mend or remove the line" if not array else "a file that is one JSON array needs format: json"
        value = _parsed(line, lambda at, where=where: where, fix)  # type: ignore[misc]
        yield where, _mapping(value, where)


def json(path: Path) -> Iterator[tuple[str, Record]]:
    """One JSON array of mappings. The whole file is held in memory; JSON lines are not."""
    text = "".join(line for _, line in _lines(path))
    if not text.strip():
        return
    fix = "mend the file; one mapping on each line needs format: jsonl"
    value = _parsed(text, lambda at: f"{path}:{text.count(chr(10), 0, at) + 1}", fix)
    if not isinstance(value, list):
        raise broken(path, f"an array of records was expected, not {short(value)}", "put [ and ] around it")
    for i, item in enumerate(value):
        yield f"{path}[{i}]", _mapping(item, f"{path}[{i}]")


def csv(path: Path) -> Iterator[tuple[str, Record]]:
    """Comma-separated values (or tab-separated, where the name says .tsv) with column names in the first line.
    Every value is a text; an empty one is null."""
    _csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if ".tsv" in (suffix.lower() for suffix in path.suffixes) else ","
    cells = _csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    before = 0
    try:
        for row in cells:
            where, before = f"{path}:{before + 1}", cells.line_num
            if not row:
                continue
            if not header:
                header = row
                if twice := [name for name in header if header.count(name) > 1]:
                    raise broken(where, f"two columns are called {twice[0]!r}", "rename one")
                continue
            if len(row) != len(header):
                found = f"{len(row)} values, but the header names {len(header)} columns"
                raise broken(where, found, "a value that holds a comma or a line break needs quotes")
            yield where, {name: value or None for name, value in zip(header, row, strict=True)}
    except _csv.Error as error:
        raise broken(f"{path}:{before + 1}", f"not valid CSV: {error}", "mend the quotes") from None


def txt(path: Path) -> Iterator[tuple[str, Record]]:
    """A prompt on each line, as column "prompt"; blank lines are passed over."""
    for number, line in _lines(path):
        if line.strip():
            yield f"{path}:{number}", {"prompt": line.strip()}


def parquet(path: Path) -> Iterator[tuple[str, Record]]:
    """A Parquet file, read a batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH):
                for record in batch.to_pylist():
                    yield f"{path} row {number}", record
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise broken(path, f"not a readable Parquet file: {error}", "write it again") from None


READERS: dict[str, Reader] = {"jsonl": jsonl, "json": json, "csv": csv, "txt": txt, "parquet": parquet}
