"""What a stage is: a frozen pydantic class whose fields are its YAML, its JSON Schema and its docs.

A RowStage sees one row and may ask models. A Barrier sees all rows, streamed from disk, and may not ask.
A word that needs both (embed every row, then choose among all) is one class whose `expand` gives its parts.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel

from synthpref.core.seam import Ask, Capability
from synthpref.core.settings import Settings
from synthpref.core.types import Drop, Note, Row

ROLE, PROMPT = "model role", "prompt template"
Role = Annotated[str, ROLE]
"""A field that names a model role of the recipe."""
PromptName = Annotated[str, PROMPT]
"""A field that names a template in `prompts/`, without its ending, or the path of a file of the user's."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Requests to one role for one row; `reads` counts the candidate texts that each request holds."""

    model: str
    requests: float
    n: int = 1
    reads: float = 0
    writes: int | None = None
    """Tokens of an answer, where the stage says how many there may be."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a stage does to one row, for the plan before the run."""

    samples: int
    """Samples on a row after the stage."""
    calls: tuple[Calls, ...] = ()
    rows: float = 1.0
    """Rows that come out for each that goes in."""


@dataclass(frozen=True, slots=True)
class Made:
    """How a score comes about, for the warnings of `check`."""

    judges: tuple[str, ...] = ()
    """The roles whose word it is."""
    levels: int | None = None
    """How many values one vote can have; None where any number will do, or it is not known."""
    votes: int = 1
    """Votes whose mean is the score."""
    one_order: bool = False
    """Whether responses are shown side by side, and in one order only."""
    lower_is_better: bool = False
    """Whether it measures what a good response has little of; pair rules hold the highest for the best."""
    of: tuple[str, ...] = ()
    """The scores that it is made of."""


@dataclass(frozen=True, slots=True)
class Takes:
    """Which responses a pair rule takes by which score, for the warnings of `check`."""

    score: str
    best: bool = False
    """Whether chosen is the highest score of all."""
    sigmas: float | None = None
    """Rejected is sought this many standard deviations below the mean."""
    ddof: int = 1
    quantile: float | None = None
    """Rejected is sought at this quantile."""


class Stage(Settings):
    """Base of both kinds. Facts are named "samples", "pairs", "comparisons:NAME", "score:NAME",
    "reference", "meta:COLUMN"; `needs` and `gives` let the recipe be checked before any call."""

    renames: ClassVar[bool] = False
    """Whether the rows that come out have other ids than the row that went in, so that they are no longer that one."""

    def needs(self) -> set[str]:
        """Facts that must be on a row that comes in."""
        return set()

    def gives(self) -> set[str]:
        """Facts that are on every row that goes out."""
        return set()

    def requires(self) -> dict[str, set[Capability]]:
        """What each role must be able to do, by role name."""
        return {role: {"chat"} for _, role in self.marked(ROLE)}

    def load(self, samples: int) -> Load:
        """Requests, samples and rows for one row that comes in with `samples` samples."""
        return Load(samples)

    def makes(self, samples: int) -> dict[str, Made]:
        """How each score that it gives comes about. Without a word of its own, a stage is taken to give the
        verdicts of the roles that it shows candidate texts."""
        judges = dict.fromkeys(calls.model for calls in self.load(samples).calls if calls.reads)
        scores = sorted(fact.removeprefix("score:") for fact in self.gives() if fact.startswith("score:"))
        return dict.fromkeys(scores, Made(tuple(judges)))

    def takes(self) -> Takes | None:
        """What a pair rule takes; None for what is no pair rule."""
        return None

    def expand(self) -> Sequence[Stage]:
        """The parts this word stands for."""
        return [self]

    def marked(self, mark: str) -> Iterator[tuple[str, str]]:
        """(path, value) of each field marked ROLE or PROMPT, those inside lists and submodels included."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if mark in field.metadata or mark in repr(field.annotation):
                yield from _texts(name, value)
            yield from _nested(name, value, mark)


def _texts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(f"{path}.{key}", item)
    elif isinstance(value, Sequence):
        for i, item in enumerate(value):
            yield from _texts(f"{path}[{i}]", item)


def _nested(path: str, value: Any, mark: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            inner = getattr(value, name)
            if mark in field.metadata or mark in repr(field.annotation):
                yield from _texts(f"{path}.{name}", inner)
            yield from _nested(f"{path}.{name}", inner, mark)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for i, item in enumerate(value):
            yield from _nested(f"{path}[{i}]", item, mark)


class RowStage(Stage):
    """A stage that works on one row."""

    async def run(self, row: Row, ask: Ask) -> Row | list[Row] | Drop:
        """The row with more on it; several rows made from it; or a Drop with its reason.

        Raise anything: the row is then rejected with the error, and the run goes on.
        """
        raise NotImplementedError


class Barrier(Stage):
    """A stage that works on all rows. `rows` is sorted by id and may be iterated several times; each pass
    streams from disk, so keep less than a row's worth of memory for each row."""

    def run(self, rows: Iterable[Row], rng: random.Random) -> Iterable[Row | tuple[Row, Drop] | Note]:
        """Every row that came in, either as it goes on or with the Drop that says why it does not; and, once,
        a Note if there is something to report."""
        raise NotImplementedError
