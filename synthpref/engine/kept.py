"""What a plugin made, read as it will be read from the journal.

So a value that no journal can hold is the plugin's error, with the place of the value, and not a damaged file at the next
start; and what later stages see is what the next start of the run sees.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from synthpref.core.errors import StageError
from synthpref.core.seam import Completion
from synthpref.core.types import Drop, Row
from synthpref.engine.records import pack

T = TypeVar("T")
_row = TypeAdapter(Row)
_completions = TypeAdapter(list[Completion])
WANTED = {
    "scores": "a Score, such as Score(7.0) or Score(None, why=...)",
    "finish_reason": "a text or None",
    "content": "a text",
}
"""What belongs where plugins put something else."""


def is_ours(thing: object) -> bool:
    """Whether the class of the thing comes with the package: its values are checked by types and tests."""
    return type(thing).__module__.startswith("synthpref.")


def kept_rows(made: Row | list[Row] | Drop) -> Row | list[Row] | Drop:
    """What a plugin's stage made, as the journal will give it back. Raises StageError where the journal cannot hold it,
    or a pair points nowhere."""
    if isinstance(made, Drop):
        return made
    if isinstance(made, list):
        return [kept_row(row) for row in made]
    return kept_row(made)


def kept_row(row: Row) -> Row:
    """The same of one row."""
    kept = _kept(_row, row)
    there = range(len(kept.samples))
    for what in ("pairs", "comparisons"):
        for i, one in enumerate(getattr(kept, what)):
            for side in ("chosen", "rejected") if what == "pairs" else ("a", "b"):
                if getattr(one, side) not in there:
                    raise StageError(
                        f"{what}.{i}.{side} is {getattr(one, side)}, and the row has {len(there)} samples"
                    )
    return kept


def kept_completions(made: list[Completion]) -> list[Completion]:
    """The answers of a plugin's backend, as the journal will give them back. Raises StageError."""
    return _kept(_completions, made)


def _kept(kind: TypeAdapter[T], value: T) -> T:
    try:
        return kind.validate_json(pack(value))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = [str(part) for part in problem["loc"]]
        wanted = next((WANTED[name] for name in reversed(place) if name in WANTED), problem["msg"])
        found = repr(problem["input"])[:80]
        raise StageError(f"{'.'.join(place)} is {found}, where {wanted} belongs") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise StageError(f"a value that JSON cannot hold: {error}") from None
