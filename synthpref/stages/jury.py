"""Several judges, one score."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from synthpref.core.seam import Ask
from synthpref.core.stage import Calls, Load, Made, PromptName, Role
from synthpref.core.types import Row
from synthpref.core.votes import Reducer, TieRule, pool
from synthpref.stages.asking import ask_all
from synthpref.stages.judging import Scaled, vote


class Jury(Scaled):
    """Several judges score each response by the same rubric, and their votes make one score.

    A juror whose reply cannot be parsed casts no vote: it is counted neither low nor as a tie.
    """

    judges: tuple[Role, ...] = Field(min_length=2)
    """The roles that judge."""
    name: str = Field(default="jury", min_length=1)
    """The score's name."""
    reducer: Reducer = "mean"
    """How votes become a score: "mean", "median", or "majority" (the score given most often)."""
    tie: TieRule = "abstain"
    """Where the median or the majority is tied between scores: "abstain" (no score), or the "lowest",
    "highest" or "mean" of those."""
    at_least: int = Field(default=1, ge=1)
    """Votes that must have a value, or the response gets no score."""
    prompt: PromptName = "judge/point"
    """The template, the same for all jurors."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        twice = [judge for judge in self.judges if self.judges.count(judge) > 1]
        if twice:
            raise ValueError(f"judges: {twice[0]!r} sits on the jury twice; each role has one vote")
        if self.at_least > len(self.judges):
            raise ValueError(f"at_least: {self.at_least} votes cannot come from {len(self.judges)} judges")
        return self

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def load(self, samples: int) -> Load:
        return Load(samples, tuple(Calls(judge, samples, reads=1 + self.reference) for judge in self.judges))

    def makes(self, samples: int) -> dict[str, Made]:
        votes = len(self.judges) if self.reducer == "mean" else 1
        return {self.name: Made(self.judges, self.levels(), votes)}

    async def run(self, row: Row, ask: Ask) -> Row:
        asked = self.asked(row)
        questions = [
            self.point_question(row, row.samples[i], ask, self.prompt, judge)
            for i in asked
            for judge in self.judges
        ]
        replies = iter(await ask_all(ask, questions, again=self.again, reask=self.reask))
        names = [ask.info(judge).name for judge in self.judges]
        scores = {}
        for i in asked:
            votes = [vote(name, reply, reply.parsed) for name in names for reply in next(replies)]
            scores[i] = pool(votes, self.reducer, tie=self.tie, at_least=self.at_least)
        return row.scored(self.name, self.every(row, scores))
