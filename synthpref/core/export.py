"""What an export format is: Rows in, plain records out, and the types of their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from synthpref.core.settings import Settings
from synthpref.core.types import Row

if TYPE_CHECKING:
    import pyarrow as pa


class Exporter(Settings):
    """Base of all formats. The class docstring is the format's documentation, its fields are the options.

    `records` and `columns` name the same columns. Options decide which columns there are, never the rows, so
    a file has a column whole or not at all.
    """

    format: str
    """The format's name."""

    def needs(self) -> set[str]:
        """Facts that must be on a row (see Stage.needs)."""
        return {"pairs"}

    def fitted(self, rows: Callable[[], Iterable[Row]]) -> Exporter:
        """The exporter with what it has to know of all rows before it writes the first, such as a scale. Each call of
        `rows` streams them from the first one."""
        return self

    def records(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        """The training records of the rows, streamed. Raises ExportError where a row cannot be written."""
        raise NotImplementedError

    def columns(self) -> pa.Schema:
        """The Arrow types of the records' columns, in order."""
        raise NotImplementedError
