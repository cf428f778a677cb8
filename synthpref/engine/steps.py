"""A recipe's stages, cut into what is walked at one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synthpref.core.stage import Barrier, Stage
from synthpref.engine.recipe import Recipe, Use


@dataclass(frozen=True)
class Part:
    """One part of a stage of the recipe, with what sets its draws and its calls apart."""

    use: Use
    stage: Stage
    name: str
    salt: int


@dataclass(frozen=True)
class Step:
    """A segment of row stages, or one barrier. A segment without stages stands before a barrier that comes first, so that
    it gets its rows as every barrier does: from the journal, sorted by id."""

    number: int
    parts: Sequence[Part]
    digest: bytes

    @property
    def is_barrier(self) -> bool:
        return bool(self.parts) and isinstance(self.parts[0].stage, Barrier)

    @property
    def name(self) -> str:
        labels = list(dict.fromkeys(part.use.label for part in self.parts))
        if not labels:
            return "source"
        return labels[0] if len(labels) == 1 else f"{labels[0]} … {labels[-1]}"


def steps_of(recipe: Recipe) -> list[Step]:
    """The recipe's stages cut at its barriers."""
    groups: list[list[Part]] = []
    for use in recipe.uses:
        for i, stage in enumerate(use.parts):
            barrier = isinstance(stage, Barrier)
            if barrier and not groups:
                groups.append([])
            new = barrier or not groups or (bool(groups[-1]) and isinstance(groups[-1][0].stage, Barrier))
            if new:
                groups.append([])
            # Equal requests on two sides of a barrier are counted apart: each segment starts its own count.
            salt = sum(p.use.word == use.word for group in groups[:-1] for p in group)
            groups[-1].append(Part(use, stage, f"{use.label}/{i}", salt))
    return [
        Step(n, parts, recipe.digest([(part.use, part.stage) for part in parts]))
        for n, parts in enumerate(groups)
    ]
