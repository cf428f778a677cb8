"""Scores from a served reward model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from pydantic import Field

from synthpref.core.seam import Ask, Capability
from synthpref.core.stage import Calls, Load, Role, RowStage
from synthpref.core.types import Row, Sample, Score, Vote
from synthpref.stages.judging import EMPTY, present


class Reward(RowStage):
    """A reward model scores the conversation that ends with the response.

    A model with several heads (helpfulness, verbosity, ...) has each kept as `name.head`.
    """

    model: Role
    """The role of the reward model."""
    head: str | None = Field(default=None, min_length=1)
    """The head that makes the score; not needed where the model has one, or one that is called "reward"."""
    name: str = Field(default="reward", min_length=1)
    """The score's name."""

    def needs(self) -> set[str]:
        return {"samples"}

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: {"reward"}}

    def load(self, samples: int) -> Load:
        return Load(samples, (Calls(self.model, samples, reads=1),))

    async def run(self, row: Row, ask: Ask) -> Row:
        asked = present(row.samples)
        answers = await asyncio.gather(*(self._heads(row, row.samples[i], ask) for i in asked))
        heads = dict(zip(asked, answers, strict=True))
        judge = ask.info(self.model).name
        every = range(len(row.samples))
        chosen = {i: self._chosen(values) for i, values in heads.items()}
        names = list(dict.fromkeys(head for values in heads.values() for head in values))
        for head in names if len(names) > 1 else []:
            kept = [_score(judge, heads[i].get(head), head) if i in heads else EMPTY for i in every]
            row = row.scored(f"{self.name}.{head}", kept)
        scores = [_score(judge, heads[i][chosen[i]], chosen[i]) if i in heads else EMPTY for i in every]
        return row.scored(self.name, scores)

    async def _heads(self, row: Row, sample: Sample, ask: Ask) -> Mapping[str, float]:
        return await ask.reward(
            [*row.prompt, {"role": "assistant", "content": sample.text}], model=self.model
        )

    def _chosen(self, heads: Mapping[str, float]) -> str:
        """The head that makes the score. Raises ValueError when it is not to be had or not clear."""
        if self.head is not None and self.head in heads:
            return self.head
        there = ", ".join(heads) or "no head at all"
        if self.head is not None:
            raise ValueError(
                f"the reward model gave no head {self.head!r} but {there}; name one of these in head"
            )
        if len(heads) == 1:
            return next(iter(heads))
        if "reward" in heads:
            return "reward"
        raise ValueError(f"the reward model gave {there}; say in head which one makes the score")


def _score(judge: str, value: float | None, head: str) -> Score:
    if value is None or not math.isfinite(value):
        why = f"no reward: head {head!r} gave {value}"
        return Score(None, why, (Vote(judge, None, why),))
    return Score(value, votes=(Vote(judge, value),))
