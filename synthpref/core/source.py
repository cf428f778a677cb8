"""Where rows come from: the `source` section of a recipe, and how its columns become a Row."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any, Literal

from pydantic import Field, model_validator

from synthpref.core.settings import Settings

ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "txt",
}
"""File endings and the readers they stand for; each but .parquet may be followed by .gz."""


def is_url(path: str) -> bool:
    """Whether it is not on this machine's disks: s3://bucket/prompts.jsonl."""
    return "://" in path


@dataclass(frozen=True, slots=True)
class Remark:
    """What the first records of a source show, and may be a mistake: a name to silence it by, where, what, why it
    matters and what to do."""

    name: str
    path: str
    found: str
    why: str
    fix: str


class Column(Settings):
    """A value that each record brings, where a text alone would be the same for all rows."""

    column: str
    """The column that holds it."""


class Constant(Settings):
    """A value that is the same for all rows, where a text alone would name a column."""

    constant: str
    """The value."""


class Mapped(Settings):
    """A score that needs more than the name of its column."""

    column: str | tuple[str, ...]
    """The column that holds it, or several columns whose mean it is."""
    lower_is_better: bool = False
    """True for ranks, errors and the like. The score is then turned round (rank 1 is -1, rank 7 is -7), so that the
    higher is the better everywhere in the run."""


class Samples(Settings):
    """Where one response stands in a record, or (with `column`) every response of a list."""

    column: str | None = None
    """A column that holds a list, one item for each response. The other names are then those of the items'
    fields; an item may also be a text. Without it they are columns of the record."""
    text: str = "text"
    """The response's text. A record where it is null brings no such response."""
    model: str | Constant | None = None
    """The model that wrote it, or {constant: NAME}."""
    scores: Mapping[str, str | tuple[str, ...] | Mapped] = {}
    """Score name to the column that holds it, or to several columns whose mean it is; {column: NAME, lower_is_better:
    true} where it is a rank. A mean has a value only where all its columns have one."""
    finish_reason: str | None = None
    """The column that says why the response ended, as "stop" or "length"."""

    def columns_of(self, score: str) -> tuple[str, ...]:
        """The columns that hold a score."""
        mapped = self.scores[score]
        columns = mapped.column if isinstance(mapped, Mapped) else mapped
        return (columns,) if isinstance(columns, str) else columns

    def is_turned(self, score: str) -> bool:
        """Whether the lower value of its column is the better one."""
        mapped = self.scores[score]
        return isinstance(mapped, Mapped) and mapped.lower_is_better

    def is_declared(self, score: str) -> bool:
        """Whether the recipe says which value is the better one."""
        mapped = self.scores[score]
        return isinstance(mapped, Mapped) and "lower_is_better" in mapped.model_fields_set

    def named(self, where: str = "samples") -> dict[str, str]:
        """Every column (of the record, or of a list's items) that a field names, to that field's path."""
        named = {self.text: f"{where}.text"}
        if isinstance(self.model, str):
            named[self.model] = f"{where}.model"
        if self.finish_reason:
            named[self.finish_reason] = f"{where}.finish_reason"
        for name in self.scores:
            named |= dict.fromkeys(self.columns_of(name), f"{where}.scores.{name}")
        return named


class Source(Settings):
    """What to read, and which columns mean what. One of `path`, `hf` and `rows` says where it is.

    A column may be named with dots, to reach into mappings and lists: `instances.0.output`, and from a list's end
    `chosen.-1.content`.
    """

    path: str | None = None
    """A file, or a pattern such as `prompts/*.jsonl`, relative to the recipe or a URL (s3://, hf://, https:// and all
    that fsspec knows): .jsonl, .json, .csv, .tsv, .parquet or .txt (a prompt a line), those of text also with .gz."""
    hf: str | None = None
    """A dataset on the Hugging Face Hub, as `org/name`."""
    rows: tuple[str | Mapping[str, Any], ...] | None = None
    """The records themselves: prompts, or mappings of column to value."""
    format: str | None = None
    """The reader for `path`; told from the ending where it is not given."""
    split: str = "train"
    """The split of an `hf` dataset."""
    config: str | None = None
    """The configuration of an `hf` dataset."""

    prompt: str = "prompt"
    """The column with the prompt, a text."""
    messages: str | None = None
    """The column with the prompt as a list of {role, content}, instead of `prompt`."""
    system: str | Column | None = None
    """A system message put before every prompt; {column: NAME} where each record has its own."""
    id: str | None = None
    """The column that names the row. Without it a row is named by a hash of its record, so rows may be added,
    removed and reordered."""
    reference: str | None = None
    """The column with a gold answer."""
    licence: str | Column | None = None
    """The licence of the rows; {column: NAME} where each record has its own."""
    samples: Samples | tuple[Samples, ...] = ()
    """Where responses stand that the records bring: one mapping, or a list of them."""
    invalid: tuple[float | str, ...] = ()
    """Values that stand for "no score", e.g. [-1]. Null, NaN and the empty text always do."""
    meta: Literal["*"] | tuple[str, ...] = "*"
    """Columns to carry along; "*" for all that are not named above."""
    part: str | None = Field(default=None, pattern=r"^[1-9]\d*/[1-9]\d*$")
    """Only one part of several, as `2/3`; a row's id decides in which it is. Counted around: 4/3 is 1/3 again. With
    rounds, `${ROUND}/3` gives each its own third."""
    limit: int | None = Field(default=None, ge=1)
    """Read only so many rows."""

    @model_validator(mode="after")
    def _consistent(self) -> Source:
        given = [name for name in ("path", "hf", "rows") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of path, hf and rows is needed, not {' and '.join(given) or 'none'}"
            )
        for name, owner in (("split", "hf"), ("config", "hf"), ("format", "path")):
            if name in self.model_fields_set and owner not in given:
                raise ValueError(f"{name!r} goes with {owner!r} only")
        if self.messages is not None and "prompt" in self.model_fields_set:
            raise ValueError("'prompt' and 'messages' both say where the prompt is: keep one")
        if self.rows is not None and not self.rows:
            raise ValueError("'rows' is empty")
        return self

    def takes(self, id: str) -> bool:
        """Whether the row is in the part that is read."""
        if self.part is None:
            return True
        part, of = map(int, self.part.split("/"))
        # With a word of its own, so that parts and other divisions by id have nothing to do with each other.
        return (int(hashlib.sha256(f"part|{id}".encode()).hexdigest(), 16) - part + 1) % of == 0

    @property
    def reader(self) -> str | None:
        """The name of the reader for `path`: `format`, or told from the ending; None where neither helps."""
        if self.path is None or self.format is not None:
            return self.format
        endings = [ending.lower() for ending in PurePath(self.path).suffixes]
        packed = endings[-1:] == [".gz"]
        if packed:
            endings.pop()
        name = ENDINGS.get(endings[-1]) if endings else None
        return None if packed and name == "parquet" else name

    @cached_property
    def brought(self) -> tuple[Samples, ...]:
        """The mappings of `samples`, as a list in both forms."""
        return (self.samples,) if isinstance(self.samples, Samples) else self.samples

    @cached_property
    def columns(self) -> dict[str, str]:
        """Every column of the record that a field names, as column to the field's path."""
        named = {self.messages: "messages"} if self.messages else {self.prompt: "prompt"}
        plain = {"id": self.id, "reference": self.reference}
        plain |= {f: v.column for f in ("system", "licence") if isinstance(v := getattr(self, f), Column)}
        named |= {column: field for field, column in plain.items() if column is not None}
        for i, samples in enumerate(self.brought):
            where = "samples" if isinstance(self.samples, Samples) else f"samples[{i}]"
            named |= {samples.column: f"{where}.column"} if samples.column else samples.named(where)
        if self.meta != "*":
            named |= {column: "meta" for column in self.meta if column not in named}
        return {str(column): field for column, field in named.items()}

    def facts(self) -> set[str]:
        """What is on every row. "meta:*" says that any column may be there, as only a record can tell."""
        facts = {"samples"} if self.brought else set()
        facts |= {f"score:{name}" for samples in self.brought for name in samples.scores}
        facts |= {"reference"} if self.reference else set()
        return facts | ({"meta:*"} if self.meta == "*" else {f"meta:{column}" for column in self.meta})
