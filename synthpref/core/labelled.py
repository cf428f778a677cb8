"""What labelled data is read for `synthpref agree`, and which columns mean what. Knows no file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from synthpref.core.settings import Settings


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str | Mapping) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_several)]
"""One name or several."""


def _written(value: Any) -> Any:
    return tuple(map(str, value if isinstance(value, list | tuple) else [value]))


Words = Annotated[tuple[str, ...], BeforeValidator(_written)]
"""A value or several, as they are written."""


class Price(Settings):
    """What tokens cost, in USD per million."""

    input: float = Field(ge=0)
    """Tokens read."""
    output: float = Field(ge=0)
    """Tokens written."""


class Said(Settings):
    """Where the answers of one judge or person stand. In place of the mapping a text may stand: `COLUMN` (its
    verdicts, or the scores of single responses), `A,B` (its scores of the two responses), `FIRST/SWAPPED` (either
    of these in both orders: `ab/ba`, `a1,b1/a2,b2`), with `+` between repeats (`run1+run2+run3`); in a mapping, as `columns`.

    Several columns, or a column that holds a list, are repeats of one answer."""

    verdict: Names = ()
    """Which of the two is better, where `a` was shown first; or the score, where single responses are labelled."""
    swapped: Names = ()
    """The verdict where `b` was shown first."""
    score_a: Names = ()
    """The score of `a`, where `a` was shown first (or it was shown alone)."""
    score_b: Names = ()
    """The score of `b` in the same reply."""
    swapped_a: Names = ()
    """The score of `a` where `b` was shown first."""
    swapped_b: Names = ()
    """The score of `b` where `b` was shown first."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "columns" in data:
            rest = {name: value for name, value in data.items() if name != "columns"}
            return {**columns_of(str(data["columns"])), **rest}
        return columns_of(data) if isinstance(data, str) else data

    @model_validator(mode="after")
    def _whole(self) -> Said:
        for a, b in (("score_a", "score_b"), ("swapped_a", "swapped_b")):
            if len(getattr(self, a)) != len(getattr(self, b)):
                raise ValueError(f"{a} and {b} go together: name as many columns for one as for the other")
        if not (self.verdict or self.swapped or self.score_a or self.swapped_a):
            raise ValueError("no column is named")
        return self

    @property
    def named(self) -> tuple[str, ...]:
        """Every column."""
        return (
            *self.verdict, *self.swapped, *self.score_a, *self.score_b, *self.swapped_a, *self.swapped_b
        )  # fmt: skip

    @property
    def of_pairs(self) -> bool:
        """Whether only pairs can be meant."""
        return bool(self.swapped or self.score_a or self.swapped_a)


def columns_of(text: str, known: Collection[str] = ()) -> dict[str, Any]:
    """The short form as the fields of Said. `known` are columns, whose names may hold the marks of the short form.
    Raises ValueError where it is not one."""
    names = sorted((name for name in known if set(name) & set("/+,")), key=len, reverse=True)
    for i, name in enumerate(names):
        text = text.replace(name, f"\0{i}\0")

    def column(part: str) -> str:
        return re.sub("\0(\\d+)\0", lambda match: names[int(match[1])], part.strip())

    orders = text.split("/")
    if len(orders) > 2:
        raise ValueError(f"{column(text)!r}: one / at the most, between the two orders")
    found: dict[str, list[str]] = {}
    for order, plain, scored in zip(orders, ("verdict", "swapped"), ("score_", "swapped_"), strict=False):
        for repeat in order.split("+"):
            parts = [column(part) for part in repeat.split(",")]
            if len(parts) > 2 or not all(parts):
                raise ValueError(
                    f"{column(text)!r}: a verdict is one column, scores are two: COLUMN_OF_A,COLUMN_OF_B"
                )
            fields = [plain] if len(parts) == 1 else [f"{scored}a", f"{scored}b"]
            for name, part in zip(fields, parts, strict=True):
                found.setdefault(name, []).append(part)
    return {name: tuple(columns) for name, columns in found.items()}


class Judge(Said):
    """Where the answers of one judge stand, and what is known about it."""

    cost: float | str | None = None
    """What one judgment costs in USD: a number, or a column."""
    tokens: tuple[str, str] | None = None
    """Columns with the tokens read and written for a judgment; with `price` they give its cost."""
    price: Price | None = None
    """What its tokens cost."""
    family: str | None = None
    """Its family of models, where the name does not say it."""


class Values(Settings):
    """What the values of verdicts and labels mean, beyond what is plain from them."""

    a: Words = ()
    """Values that name `a`."""
    b: Words = ()
    """Values that name `b`."""
    tie: Words = ()
    """Values for a tie."""
    none: Words = ()
    """Values that stand for no verdict."""

    def given(self) -> dict[str, str]:
        """Value, in small letters, to "a", "b", "tie" or "none"."""
        sides = {"a": self.a, "b": self.b, "tie": self.tie, "none": self.none}
        return {value.strip().casefold(): side for side, values in sides.items() for value in values}


class Labelled(Settings):
    """Labelled data: which files, and what their columns mean.

    A file is wide (one record for each item, a column for each judge) or long (a line for each verdict, with
    `by` for who gave it). Several files are joined on `id`. A column may be named with dots, to reach into
    mappings and lists: `scores.0`.
    """

    name: str = ""
    """The name of the report; told from the first file where it is not given."""
    files: Names = ()
    """JSONL, JSON, CSV, TSV (each also with .gz) or Parquet files, relative to this file."""
    kind: Literal["pairs", "scores"] | None = None
    """Whether two responses are compared ("pairs") or single responses scored ("scores"). Told from the columns
    where they say it."""
    id: Names = ()
    """The columns that name an item together. Without them each record of a wide file is an item."""
    each: str | None = None
    """A column that holds a list: each of its items is a record, with the columns of the record that it is in."""
    where: Mapping[str, Words] = {}
    """Only records with these values: {strategy: CoT}."""

    prompt: str | None = None
    """The column with the prompt, or its name. Items of one prompt are drawn together in every interval."""
    reference: str | None = None
    """The column with a gold answer, for judges that are shown it."""
    a: str | None = None
    """The column with response a (the only response, where single ones are scored)."""
    b: str | None = None
    """The column with response b."""
    model_a: str | None = None
    """The column that names the model that wrote a."""
    model_b: str | None = None
    """The column that names the model that wrote b."""

    labels: Annotated[tuple[Said, ...], BeforeValidator(_several)] = ()
    """What people said: a column for each annotator, or a column that holds the list of what all said, each as
    `judges` below."""
    worker: str | None = None
    """Who labelled, in files that have a line for each label."""
    no_majority: Literal["drop", "tie"] = "drop"
    """What the label is where no single answer was given by more annotators than any other: none, or a tie."""

    judges: Mapping[str, Judge] = {}
    """Each judge's name, and where its answers stand."""
    costs: Mapping[str, float] = {}
    """What a judgment costs in USD, by judge: for those that `by` names."""
    by: Names = ()
    """For long files: the columns that name the judge together, as [judge, strategy]."""
    says: Judge | None = None
    """For long files: where a line's answer stands."""
    people: Names = ()
    """For long files: names in `by` that are people. Their lines are labels."""
    order: str | None = None
    """For long files: the column that says which response was shown first: "ab" or "ba", or the place of a, 1 or
    2."""
    first: str | None = None
    """For long files: the column that names the response that was shown first. The item is then `id` with the two
    names, in any order."""
    second: str | None = None
    """For long files: the column that names the response that was shown second."""
    orders: Literal["unswapped", "shown"] = "unswapped"
    """What the answers given with b shown first speak of: a and b as they are stored ("unswapped"), or the places
    in which they were shown ("shown": `a` is the one shown first)."""

    values: Values = Values()
    """What verdicts mean that are not plain."""
    invalid: tuple[float | str, ...] | None = None
    """Scores that stand for none, e.g. [-1]. Where it is not given, -1 does if all others are 0 or more; []
    lets every number be a score."""
    swap: Literal["average", "agree", "first"] = "average"
    """How two orders make one verdict: the mean of both, so that a verdict that flips is a tie and a tie yields to
    a winner; only what both orders say ("agree", else a tie); or the answer with a shown first alone."""
    families: Mapping[str, str] = {}
    """Families of models by name, or by a pattern with * and ?, beside those that are known."""

    @model_validator(mode="after")
    def _consistent(self) -> Labelled:
        if bool(self.by) != (self.says is not None):
            raise ValueError("'by' (who judges) and 'says' (what was said) go together")
        if bool(self.first) != bool(self.second):
            raise ValueError("'first' and 'second' go together")
        if self.people and not self.by:
            raise ValueError("'people' names some of those in 'by', which is not given")
        return self
