"""score.combine: several scores of a response become one."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from synthpref.core.combine import Fit, Floats, Penalty, Weighing, learn
from synthpref.core.seam import Ask
from synthpref.core.settings import Settings
from synthpref.core.stage import Barrier, Made, RowStage, Stage
from synthpref.core.types import Note, Row
from synthpref.stages.standard import (
    Standardise,
    Standardising,
    combined,
    names_file,
    notes_of,
    read_json,
    weighing,
)


class Weights(Settings):
    """Weights by score; with `mean` and `sd` where they are for standardised scores."""

    weights: dict[str, float]
    mean: Mapping[str, float] = {}
    sd: Mapping[str, float] = {}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for other in (self.mean, self.sd):
            if (self.mean or self.sd) and set(other) != set(self.weights):
                raise ValueError("weights, mean and sd must be of the same scores")
        if not self.weighing().counts():
            raise ValueError("every weight is 0")
        return self

    def weighing(self) -> Weighing:
        return Weighing(self.weights, self.mean or None, self.sd or None)


def _weights(given: Any, info: ValidationInfo) -> Any:
    """A mapping from score to weight, or {file: PATH}, as Weights."""
    if names_file(given):
        given = _learned_there(read_json(given, info), str(given["file"]))
    plain = isinstance(given, Mapping) and not isinstance(given.get("weights"), Mapping)
    return {"weights": given} if plain else given


def _learned_there(found: Any, path: str) -> Any:
    """What a file of weights says; of a run's report.json, the one set of weights that was learned there."""
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: a mapping was expected")
    if "stages" not in found:
        return found
    learned = notes_of(found, "weights", "mean", "sd")
    if len(learned) != 1:
        raise ValueError(f"{path}: weights of one stage were expected in the report, found {len(learned)}")
    return {key: learned[0][key] for key in ("weights", "mean", "sd")}


Given = Annotated[
    Weights | None,
    BeforeValidator(_weights, json_schema_input_type=dict[str, float] | dict[Literal["file"], str]),
]


class Combine(Standardising):
    """Makes one score of several: by weights that are given, or by weights that are learned from labelled pairs.

    A response that lacks one of the scores gets none, and the reason. With learned weights (CPM, arXiv:2310.13011) a
    difference of two scores is the logarithm of the odds that the one is preferred. The weights, and how well they
    do on pairs that were held out, are in the report; `weights: {file: .../report.json}` uses them in another run.
    Memory for learning: 8 bytes for each score of a labelled response, and of a pair of them.
    """

    name: str = Field(default="combined", min_length=1)
    """The name of the score that is made."""
    weights: Given = None
    """A weight for each score. The result is their weighted mean: the sum of weight times score, by the sum of
    the weights without their signs (a fault has a negative weight). Or {file: PATH} with such a mapping in
    JSON, or the report.json of a run that learned weights, relative to the recipe."""
    standardise: Standardise = "none"
    """For `weights`: take each score as it is, or ("run") less its mean and by its standard deviation over all
    rows of the run, so that a score with a wide spread has no more say than another. Or the constants themselves,
    {score: {mean, sd}}, or {file: .../report.json}, those that another run has found."""
    fit: str | None = None
    """Learn the weights: the name of a score that labels responses, of some rows at least (for example one that
    the source brings, given by people). Every two responses of a row that differ in it are a labelled pair."""
    scores: tuple[str, ...] = ()
    """For `fit`: the scores to combine."""
    penalty: Penalty = "l2"
    """For `fit`: what keeps the weights small. "l1" sets those that are not needed to 0."""
    folds: int = Field(default=8, ge=2)
    """For `fit`: parts of the labelled rows, each held out once to choose how strong the penalty is."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if (self.weights is None) == (self.fit is None):
            raise ValueError("give `weights`, or `fit` with the name of a score that labels responses")
        if self.fit is None:
            idle = {"scores", "penalty", "folds"} & self.model_fields_set
            if idle:
                raise ValueError(f"{min(idle)} goes with `fit` only; `weights` names its scores itself")
            if self.standardise != "none" and self.weights and self.weights.sd:
                raise ValueError("these weights bring their own mean and sd: leave standardise: none")
            return self
        if find_spec("sklearn") is None:
            raise ValueError('fit learns with scikit-learn: pip install "synthpref[jury]"')
        if "standardise" in self.model_fields_set:
            raise ValueError("standardise goes with `weights`; `fit` always standardises")
        if len(set(self.scores)) < 2 or len(set(self.scores)) < len(self.scores):
            raise ValueError("scores: name at least two to combine, each once")
        if self.fit in self.scores:
            raise ValueError(f"fit: {self.fit!r} cannot be learned from itself; take it out of scores")
        return self

    def names(self) -> list[str]:
        """The scores that go in."""
        return list(self.weights.weights) if self.weights else list(self.scores)

    def needs(self) -> set[str]:
        return {"samples", *(f"score:{name}" for name in [*self.names(), *([self.fit] if self.fit else [])])}

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def makes(self, samples: int) -> dict[str, Made]:
        return {self.name: Made(of=tuple(self.names()))}

    def expand(self) -> Sequence[Stage]:
        fields = {name: getattr(self, name) for name in self.model_fields_set}
        over_all_rows = self.fit is not None or self.standardise == "run"
        return [_OverRows(**fields) if over_all_rows else _Each(**fields)]


class _Each(Combine, RowStage):
    """Weighs the scores of one row."""

    def expand(self) -> Sequence[Stage]:
        return [self]

    async def run(self, row: Row, ask: Ask) -> Row:
        assert self.weights is not None
        if self.standardise == "none":
            return combined(row, self.name, self.weights.weighing())
        return combined(row, self.name, weighing(_shares(self.weights.weights), self.constants([])))


class _OverRows(Combine, Barrier):
    """Weighs the scores of every row, after a look at all of them."""

    def expand(self) -> Sequence[Stage]:
        return [self]

    def run(self, rows: Iterable[Row], rng: random.Random) -> Iterator[Row | Note]:
        facts: dict[str, Any] = {}
        if self.fit is not None:
            how, facts = self._learned(rows, self.fit, rng)
        else:
            assert self.weights is not None
            how = weighing(_shares(self.weights.weights), self.constants(rows))
        whole = sum(abs(how.weights[name]) for name in how.counts())
        share = {name: abs(w) / whole if name in how.counts() else 0.0 for name, w in how.weights.items()}
        tables = {"weights": how.weights, "share": share, **facts.pop("by name", {})}
        tables |= {"mean": how.centre, "sd": how.spread}
        missing = 0
        for row in rows:
            made = combined(row, self.name, how)
            missing += sum(value is None for value in made.values(self.name))
            yield made
        yield Note({"score": self.name, **facts, "without a value": missing, **tables})

    def _learned(
        self, rows: Iterable[Row], label: str, rng: random.Random
    ) -> tuple[Weighing, dict[str, Any]]:
        found = learn(
            self.scores, _labelled(rows, self.scores, label), rng, penalty=self.penalty, folds=self.folds
        )
        return found.weighing, _facts(found, label, self.penalty)


def _labelled(rows: Iterable[Row], names: Sequence[str], label: str) -> list[tuple[Floats, list[float]]]:
    """Of each row that has a label, its responses' scores and labels; those that lack one are left out."""
    kept = []
    for row in rows:
        lines = zip(row.values(label), *(row.values(name) for name in names), strict=True)
        whole = [line for line in lines if None not in line]
        if len({line[0] for line in whole}) > 1:
            labels, features = [line[0] for line in whole], [line[1:] for line in whole]
            kept.append((np.array(features, dtype=np.float64), labels))
    return kept


def _facts(fit: Fit, label: str, penalty: str) -> dict[str, Any]:
    return {
        "label": label,
        "pairs": fit.pairs,
        "rows": fit.rows,
        "penalty": penalty,
        "C": fit.strength,
        "folds": fit.folds,
        "accuracy": fit.accuracy,
        "by name": {"alone": dict(fit.alone)},
    }


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    whole = sum(abs(weight) for weight in weights.values())
    return {name: weight / whole for name, weight in weights.items()}
