"""Scores on one scale: each less its mean and by its standard deviation, over the run or by constants that are given."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from synthpref.core.combine import Moments, Weighing
from synthpref.core.settings import Settings
from synthpref.core.stage import Stage
from synthpref.core.types import Row, Sample, Score


class Constants(Settings):
    """What a score is standardised by."""

    mean: float
    sd: float = Field(ge=0)


def read_json(given: Mapping[str, Any], info: ValidationInfo) -> Any:
    """What the file of {file: PATH} says; the path is relative to the recipe. Raises ValueError."""
    path = Path((info.context or {}).get("base", ".")) / str(given["file"])
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{given['file']}: cannot be read as JSON: {error}") from None


def names_file(given: Any) -> bool:
    return isinstance(given, Mapping) and isinstance(given.get("file"), str)


def notes_of(report: Mapping[str, Any], *keys: str) -> list[Mapping[str, Any]]:
    """Of a run's report.json, what stages noted that has a table under each of these keys."""
    stages = report["stages"] if isinstance(report["stages"], list) else []
    notes = [stage.get("notes") for stage in stages if isinstance(stage, Mapping)]
    return [
        n for n in notes if isinstance(n, Mapping) and all(isinstance(n.get(key), Mapping) for key in keys)
    ]


def _constants(given: Any, info: ValidationInfo) -> Any:
    """A mapping from score to constants, or the one in a file; from a report, of all stages that noted some."""
    if not names_file(given):
        return given
    found, path = read_json(given, info), given["file"]
    if not isinstance(found, Mapping) or "stages" not in found:
        return found
    made: dict[str, Any] = {}
    for note in notes_of(found, "mean", "sd"):
        for name, mean in note["mean"].items():
            own = {"mean": mean, "sd": note["sd"].get(name)}
            if made.setdefault(name, own) != own:
                raise ValueError(f"{path}: two stages standardised {name!r} differently; write its constants")
    if not made:
        raise ValueError(f"{path}: no stage of that run standardised scores")
    return made


Standardise = Annotated[
    Literal["none", "run"] | dict[str, Constants],
    BeforeValidator(
        _constants,
        json_schema_input_type=Literal["none", "run"] | dict[str, Constants] | dict[Literal["file"], str],
    ),
]


class Standardising(Stage):
    """Base of the stages that bring several scores to one scale. Who derives from it says in `names` which."""

    standardise: Standardise = "none"
    """How the scores come to one scale."""

    def names(self) -> list[str]:
        raise NotImplementedError

    @model_validator(mode="after")
    def _constants_of_all(self) -> Self:
        if isinstance(self.standardise, dict):
            lacking = [name for name in self.names() if name not in self.standardise]
            if lacking:
                raise ValueError(f"standardise: no mean and sd of the score {lacking[0]!r} are given")
        return self

    def constants(self, rows: Iterable[Row]) -> dict[str, Constants] | None:
        """By score, those that are given or those of all rows; None where scores are taken as they are."""
        if isinstance(self.standardise, dict):
            return {name: self.standardise[name] for name in self.names()}
        return measured(rows, self.names()) if self.standardise == "run" else None


def measured(rows: Iterable[Row], names: Sequence[str]) -> dict[str, Constants]:
    """Mean and standard deviation of each score over all responses that have it. Raises ValueError where some are too
    large for that."""
    moments = {name: Moments() for name in names}
    for row in rows:
        for name, seen in moments.items():
            for value in row.values(name):
                if value is not None:
                    seen.add(value)
    for name, seen in moments.items():
        if not (math.isfinite(seen.mean) and math.isfinite(seen.spread)):
            fix = "give standardise its mean and sd, or leave it out"
            raise ValueError(f"score {name!r}: values are too large for a standard deviation; {fix}")
    return {name: Constants(mean=seen.mean, sd=seen.spread) for name, seen in moments.items()}


def weighing(weights: Mapping[str, float], constants: Mapping[str, Constants] | None) -> Weighing:
    """How scores of these constants become one by these weights."""
    if constants is None:
        return Weighing(weights)
    return Weighing(weights, {n: constants[n].mean for n in weights}, {n: constants[n].sd for n in weights})


def noted(constants: Mapping[str, Constants] | None) -> dict[str, dict[str, float]]:
    """The constants as a stage notes them for the report, from which another run can take them."""
    if constants is None:
        return {}
    return {"mean": {n: c.mean for n, c in constants.items()}, "sd": {n: c.sd for n, c in constants.items()}}


def combined(row: Row, name: str, how: Weighing) -> Row:
    """The row with the one score `name` on each response."""
    return row.scored(name, [_one(sample, how) for sample in row.samples])


def _one(sample: Sample, how: Weighing) -> Score:
    values = {}
    for name in how.counts():
        score = sample.scores.get(name)
        if score is None or score.value is None:
            return Score(None, f"no score {name}: {score.why if score else 'it was not given'}")
        values[name] = score.value
    if not values:
        return Score(None, "no weight: no score told responses apart")
    made = how(values)
    return Score(made) if math.isfinite(made) else Score(None, "no number: the weighted scores are too large")
