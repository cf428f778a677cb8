"""Parquet as this room writes it: streamed, and there whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.json import ParseOptions, ReadOptions, read_json

from synthpref.core.errors import ExportError

_ROWS = 2048
_BYTES = 4 * 2**20
"""A row group ends with whichever comes first: it bounds memory, and Arrow's arrays of text end at 2 GiB."""


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` at the end of the block, or vanishes if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, schema: pa.Schema) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that takes one record after the other; the file is there when the block has ended well. The
    same records give the same bytes. Raises ExportError when a record does not fit the schema."""
    lines: list[bytes] = []
    size = 0
    with (
        replaced(path) as part,
        pq.ParquetWriter(part, schema, compression="zstd", write_statistics=False) as writer,
    ):

        def flush() -> None:
            nonlocal size
            writer.write_table(_table(path, schema, b"\n".join(lines)), row_group_size=_ROWS)
            lines.clear()
            size = 0

        def add(record: dict[str, Any]) -> None:
            nonlocal size
            line = orjson.dumps(record)
            lines.append(line)
            size += len(line)
            if len(lines) == _ROWS or size >= _BYTES:
                flush()

        yield add
        if lines:
            flush()


def _table(path: Path, schema: pa.Schema, lines: bytes) -> pa.Table:
    """Columns of JSON lines. Arrow's own reader is quicker with these than with Python objects, for which it would
    also load pandas."""
    try:
        return read_json(
            cast(IO[bytes], pa.BufferReader(lines)),
            read_options=ReadOptions(use_threads=False, block_size=len(lines) + 1),
            parse_options=ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ExportError(f"{path}: a record does not fit its columns: {error}") from error


def write(path: Path, schema: pa.Schema, records: Iterable[dict[str, Any]]) -> int:
    """Write the records, streamed. Returns how many there were."""
    count = 0
    with writing(path, schema) as add:
        for record in records:
            add(record)
            count += 1
    return count
