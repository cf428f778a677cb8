"""score.users: rows as different users would judge them, each user a mixture of scores."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from synthpref.core.seam import Ask
from synthpref.core.settings import Settings
from synthpref.core.stage import Barrier, Load, Made, RowStage, Stage
from synthpref.core.types import Note, Origin, Row
from synthpref.core.users import Weights, apart, drawn
from synthpref.stages.standard import (
    Constants,
    Standardise,
    Standardising,
    combined,
    names_file,
    noted,
    read_json,
    weighing,
)

WORD = "score.users"


class Population(Settings):
    """Who the users are: drawn, given, or brought by each row."""

    draw: int | None = Field(default=None, ge=1)
    """Draw so many users, each with weights from a Dirichlet distribution."""
    alpha: float = Field(default=0.05, gt=0)
    """For `draw`: its parameter. Near 0 each user goes by one score alone, at 1 every mixture is as likely as another,
    and the larger, the more all users are alike. PersonalLLM has users from 0.01 to 0.1."""
    seed: int = 0
    """For `draw`: other seeds are other users."""
    apart: float = Field(default=0.0, ge=0, lt=1)
    """For `draw`: leave out a user who lies nearer than this to an earlier one, by the share of weight that would have
    to move to make one of the other (0 to 1)."""
    given: dict[str, Weights] | None = None
    """The users' weights, as {user: {score: weight}}."""
    file: str | None = None
    """A JSON file with such a mapping, relative to the recipe."""
    column: str | None = None
    """With `given` or `file`, the column that names the user a row is for, or a list of them. Without, the column that
    holds {user: {score: weight}} of the row's own."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any, info: ValidationInfo) -> Any:
        if not names_file(data):
            return data
        if "given" in data:
            raise ValueError("give one of `given` and `file`")
        return {**data, "given": read_json(data, info)}

    @model_validator(mode="after")
    def _one(self) -> Self:
        listed = self.given is not None or self.column is not None
        if self.draw is None and not listed:
            raise ValueError("give `draw`, `given`, `file` or `column`, to say who the users are")
        if self.draw is not None and listed:
            raise ValueError("users are drawn, or given: keep one of the two")
        if self.draw is None and (idle := {"alpha", "seed", "apart"} & self.model_fields_set):
            raise ValueError(f"{min(idle)} goes with `draw`")
        if self.given is not None and not self.given:
            raise ValueError("there are no users")
        return self

    def all(self, names: Sequence[str]) -> dict[str, Weights]:
        """Those that are drawn or given, by name."""
        if self.draw is None:
            return self.given or {}
        made = drawn(names, self.draw, self.alpha, random.Random(f"users {self.seed}"))
        return apart(made, names, self.apart) if self.apart else made


class Users(Standardising):
    """Makes of each row one for each user, in which a score says how that user likes each response: the sum of the
    user's weights times the standardised scores (PersonalLLM, arXiv:2409.20296).

    A user is a mixture of scores, such as those of several reward models or of one model's heads. The rows that are
    made have ids of their own, the user's name in a column called as the score and the weights beside it, so that any
    pair rule makes that user's pairs, and `meta: [user, user_weights]` in `export` writes who they are of. A response that
    lacks a score with a weight gets none from that user. The report has the constants of the standardisation, and
    `standardise: {file: .../report.json}` uses them in another run.
    """

    renames: ClassVar[bool] = True
    scores: tuple[str, ...] = Field(min_length=1)
    """The scores that users weigh."""
    users: Annotated[
        Population, BeforeValidator(lambda given: {"draw": given} if isinstance(given, int) else given)
    ]
    """Who they are: a number of users to draw, or {draw, alpha, seed, apart}, {given: {user: {score: weight}}},
    {file: PATH}, {column: NAME}."""
    per_row: int | None = Field(default=None, ge=1)
    """How many of them each row is for, drawn for each row; all where it is not given."""
    standardise: Standardise = "run"
    """Take each score less its mean and by its standard deviation over all rows of the run ("run"), by constants that
    are given as {score: {mean, sd}} or by those of another run as {file: .../report.json}, or as it is ("none": a
    user's score is then a weighted mean)."""
    name: str = Field(default="user", min_length=1)
    """The name of the score, and of the column with the user's name; that of the weights has `_weights` behind it."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if len(set(self.scores)) < len(self.scores):
            raise ValueError("scores: name each once")
        for user, weights in (self.users.given or {}).items():
            _checked(user, weights, self.scores)
        return self

    def names(self) -> list[str]:
        return list(self.scores)

    @cached_property
    def everybody(self) -> dict[str, Weights]:
        """Every user by name; none where each row brings its own."""
        return self.users.all(self.scores)

    def needs(self) -> set[str]:
        own = {f"meta:{self.users.column}"} if self.users.column else set()
        return {"samples", *(f"score:{name}" for name in self.scores)} | own

    def gives(self) -> set[str]:
        return {f"score:{self.name}", f"meta:{self.name}", f"meta:{self.name}_weights"}

    def load(self, samples: int) -> Load:
        there = 1 if self.users.column else len(self.everybody)
        return Load(samples, rows=min(there, self.per_row or there))

    def makes(self, samples: int) -> dict[str, Made]:
        return {self.name: Made(of=self.scores)}

    def expand(self) -> Sequence[Stage]:
        fields = {name: getattr(self, name) for name in self.model_fields_set}
        return [_Measure(**fields), _Label(**fields)]


class _Measure(Users, Barrier):
    """Finds the constants of the run, and notes them and the users."""

    def expand(self) -> Sequence[Stage]:
        return [self]

    def run(self, rows: Iterable[Row], rng: random.Random) -> Iterator[Row | Note]:
        constants = noted(self.constants(rows))
        for row in rows:
            yield replace(row, scratch={**row.scratch, WORD: constants}) if constants else row
        facts: dict[str, Any] = {"score": self.name}
        if users := self.everybody:
            facts |= {"users": len(users)}
            facts |= {"too near to another": (self.users.draw or len(users)) - len(users)}
            whole = {n: math.fsum(w.get(n, 0.0) for w in users.values()) for n in self.scores}
            facts["mean weight"] = {name: total / len(users) for name, total in whole.items()}
        yield Note(facts | constants)


class _Label(Users, RowStage):
    """Makes the rows of the users."""

    def expand(self) -> Sequence[Stage]:
        return [self]

    async def run(self, row: Row, ask: Ask) -> list[Row]:
        tables = row.scratch.get(WORD)
        constants = tables and {n: Constants(mean=tables["mean"][n], sd=tables["sd"][n]) for n in self.scores}
        users = self._of(row)
        if self.per_row is not None and self.per_row < len(users):
            # In their own order, so that the rows of one prompt stand as they would without a draw.
            taken = set(ask.rng.sample(sorted(users), self.per_row))
            users = {user: weights for user, weights in users.items() if user in taken}
        return [
            combined(self._row_of(row, user, weights), self.name, weighing(weights, constants or None))
            for user, weights in users.items()
        ]

    def _of(self, row: Row) -> Mapping[str, Weights]:
        """The users that the row may be for. Raises ValueError where its column does not tell."""
        users, column = self.everybody, self.users.column
        if column is None:
            return users
        found = row.meta.get(column)
        if self.users.given is None:
            if not isinstance(found, Mapping) or not found:
                raise ValueError(
                    f"column {column!r}: {{user: {{score: weight}}}} was expected, found {found!r}"
                )
            return {str(user): _checked(str(user), weights, self.scores) for user, weights in found.items()}
        named = [found] if isinstance(found, str) else found
        if not isinstance(named, list | tuple) or not named:
            raise ValueError(f"column {column!r}: a user's name was expected, found {found!r}")
        if strangers := [user for user in named if user not in users]:
            raise ValueError(f"column {column!r}: there is no user {strangers[0]!r} among those given")
        return {user: users[user] for user in named}

    def _row_of(self, row: Row, user: str, weights: Weights) -> Row:
        own = {self.name: user, f"{self.name}_weights": {n: w for n, w in weights.items() if w}}
        for column in own:
            if column in row.meta and column != self.users.column:
                raise ValueError(f"the row has a column {column!r} already; give score.users another name")
        return replace(
            row,
            id=f"{row.id}.{user}",
            trail=(*row.trail, Origin(WORD, row.id, "", user)),
            meta={**row.meta, **own},
            scratch={key: value for key, value in row.scratch.items() if key != WORD},
        )


def _checked(user: str, weights: Any, scores: Sequence[str]) -> Weights:
    """The weights, if they are some. Raises ValueError."""
    if not isinstance(weights, Mapping):
        raise ValueError(f"user {user!r}: {{score: weight}} was expected, found {weights!r}")
    for name, weight in weights.items():
        if name not in scores:
            raise ValueError(
                f"user {user!r} weighs {name!r}, which is none of the scores {', '.join(scores)}"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ValueError(f"user {user!r}: the weight of {name!r} is {weight!r}, and no number")
    if not any(weights.values()):
        raise ValueError(f"user {user!r}: every weight is 0")
    return dict(weights)
