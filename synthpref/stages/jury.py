"""jury: several judges score each response by itself, and their votes make one score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from synthpref.core.seam import Ask
from synthpref.core.stage import Load, Made, PromptName, Stage
from synthpref.core.types import Row, Score, Vote
from synthpref.core.votes import Reducer, Rule, ballots, pool
from synthpref.stages.asking import ask_all
from synthpref.stages.judging import vote
from synthpref.stages.jurors import NOT_WEIGHED, WEIGHED, Bench, Wave
from synthpref.stages.weighing import MOST_LABELS, WeighScores


class Jury(Bench):
    """Several judges score each response on one scale, each by itself, and their votes make one score.

    A juror whose reply cannot be parsed casts no vote: it is counted neither low nor as a tie. With
    `dawid_skene` votes are weighed by how reliable each juror is, as estimated from all votes of the run (Dawid and
    Skene, 1979); it takes some hundred responses to tell, a coarse scale, and pip install 'synthpref[jury]'. It trusts
    those who agree among themselves, also where they are wrong in the same way.
    """

    name: str = Field(default="jury", min_length=1)
    """The score's name."""
    reducer: Reducer | Literal["dawid_skene"] = "mean"
    """How votes become a score: "mean", "median", "minimum" (the lowest: what no juror objects to), "majority" (the
    score that more than half of the votes name), "multimode" (the score named most often), or "dawid_skene" (the
    mean of the scale's numbers by their probability, jurors weighted by their reliability over the whole run)."""
    tie: Literal["abstain", "lowest", "highest", "mean", "first"] = "abstain"
    """Where the median, the majority or the mode leaves several scores (the two in the middle, all that were named,
    all that were named most often): "abstain" (no score), the "lowest", "highest" or "mean" of these, or the one
    that the "first" juror named who named any of them."""
    prompt: PromptName = "judge/point"
    """The template, the same for all jurors that have none of their own."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.extract == "majority":
            raise ValueError("extract: majority is for one judge's repeats; a juror's are averaged")
        if self.extract == "expected" and self.reducer in ("majority", "multimode", WEIGHED):
            raise ValueError(f"reducer: {self.reducer} counts equal scores, and expectations hardly ever are")
        few = self.integer and self.scale[1] - self.scale[0] < MOST_LABELS
        if self.reducer == WEIGHED and not (few and all(self.replies(j) == 1 for j in self.judges)):
            raise ValueError(
                f"reducer: dawid_skene takes whole numbers, at most {MOST_LABELS} on the scale, and one reply of "
                "each juror; scale: [1, 5] suits it"
            )
        return self

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def load(self, samples: int) -> Load:
        """All jurors, also where some may not be asked."""
        return Load(samples, self.calls(samples, reads=1 + self.reference))

    def expand(self) -> Sequence[Stage]:
        weigh = WeighScores(name=self.name, at_least=self.at_least)
        return [self, weigh] if self.reducer == WEIGHED else [self]

    def makes(self, samples: int) -> dict[str, Made]:
        replies = max(self.replies(juror) for juror in self.judges)
        votes = replies * (len(self.judges) if self.reducer == "mean" else 1)
        levels = None if self.extract == "expected" or self.reducer == WEIGHED else self.levels()
        return {self.name: Made(tuple(juror.model for juror in self.judges), levels, votes)}

    async def run(self, row: Row, ask: Ask) -> Row:
        async def hear(wave: Wave[int]) -> list[list[Vote]]:
            questions = [
                self.told(juror).point_question(
                    row,
                    row.samples[i],
                    ask,
                    juror.prompt or self.prompt,
                    juror.model,
                    self.replies(juror),
                    min_mass=self.expects,
                )
                for i, juror in wave
            ]
            replies = await ask_all(ask, questions, again=self.again, reask=self.reask)
            return [
                [juror.named(vote(ask.info(juror.model).name, r, r.parsed)) for r in mine]
                for (_, juror), mine in zip(wave, replies, strict=True)
            ]

        asked = self.asked(row)
        heard = await self.poll(asked, hear, lambda votes: ballots(votes)[0], self._rule(), self.scale)
        scores = {i: self._score(self.all_votes(cast, ask)) for i, cast in heard.items()}
        return row.scored(self.name, self.every(row, scores))

    def all_votes(self, cast: Sequence[Sequence[Vote]], ask: Ask) -> list[Vote]:
        """The votes on one response, those of jurors that were not asked among them."""
        votes = [vote for mine in cast for vote in mine]
        return [
            *votes,
            *(v for juror in self.judges[len(cast) :] for v in juror.silent(ask, self.replies(juror))),
        ]

    def _rule(self) -> Rule:
        return Rule("mean" if self.reducer == WEIGHED else self.reducer, self.tie, self.at_least)

    def _score(self, votes: Sequence[Vote]) -> Score:
        if self.reducer == WEIGHED:
            return Score(None, NOT_WEIGHED, tuple(votes))
        return pool(votes, self.reducer, tie=self.tie, at_least=self.at_least)
