"""Parquet as this room writes it: streamed, and there whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

_ROWS = 512
_BYTES = 32 * 2**20
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
    same records give the same bytes."""
    batch: list[dict[str, Any]] = []
    size = 0
    with replaced(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:

        def flush() -> None:
            nonlocal size
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
            batch.clear()
            size = 0

        def add(record: dict[str, Any]) -> None:
            nonlocal size
            batch.append(record)
            size += len(orjson.dumps(record))
            if len(batch) == _ROWS or size >= _BYTES:
                flush()

        yield add
        if batch:
            flush()


def write(path: Path, schema: pa.Schema, records: Iterable[dict[str, Any]]) -> int:
    """Write the records, streamed. Returns how many there were."""
    count = 0
    with writing(path, schema) as add:
        for record in records:
            add(record)
            count += 1
    return count
