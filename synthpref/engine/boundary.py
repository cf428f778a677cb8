"""The boundary around stage and plugin code: what it may return, and what its errors mean."""

from __future__ import annotations

import asyncio

from synthpref.core.errors import BackendError, JournalError, StageError
from synthpref.core.types import Drop, Row
from synthpref.engine.role import Stopping


def check_contract(row: Row, made: object) -> None:
    """Raise StageError unless `made` is what a RowStage may return for `row`."""
    if isinstance(made, Drop):
        return
    if isinstance(made, Row):
        if made.id != row.id:
            raise StageError(
                f"a stage returned the row {made.id!r} for {row.id!r}; return a list to make new rows"
            )
        if len(made.samples) < len(row.samples):
            raise StageError("a stage took samples away; indices into them would change their meaning")
        return
    if not isinstance(made, list) or not all(isinstance(child, Row) for child in made):
        raise StageError(f"a stage returns a Row, a list of Rows or a Drop, not {type(made).__name__}")
    ids = [child.id for child in made]
    if not ids:
        raise StageError("a stage returned no rows; return a Drop with the reason")
    strays = [id for id in ids if id != row.id and not id.startswith(f"{row.id}.")]
    if strays or len(set(ids)) < len(ids):
        raise StageError(
            f"new rows need ids of their own that begin with {row.id!r}; use row.child(...): {ids}"
        )


def foremost(group: BaseExceptionGroup[BaseException], label: str) -> BaseException:
    """What a group of errors, as asyncio.TaskGroup raises it, means for the row or the run."""
    for kind in (Stopping, JournalError, asyncio.CancelledError, KeyboardInterrupt, BackendError, StageError):
        found = group.subgroup(kind)
        while found:
            first = found.exceptions[0]
            if not isinstance(first, BaseExceptionGroup):
                return first
            found = first
    error = StageError(f"{label}: {group.exceptions[0]}")
    error.__cause__ = group.exceptions[0]
    return error
