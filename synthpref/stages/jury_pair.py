"""jury.pair: several judges compare responses two at a time, and their votes make one winner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator

from synthpref.core.schedule import Meeting
from synthpref.core.seam import Ask
from synthpref.core.stage import Load, Made, Stage
from synthpref.core.types import Comparison, Row, Vote
from synthpref.core.verdicts import leaning
from synthpref.core.votes import Rule
from synthpref.stages.asking import ask_all
from synthpref.stages.comparing import comparison, pair_vote
from synthpref.stages.jurors import WEIGHED, Bench, Wave
from synthpref.stages.tournament import Tournament
from synthpref.stages.weighing import WeighComparisons, juror_verdict


class JuryPair(Bench, Tournament):
    """Several judges compare responses two at a time, each in both orders; the jury's winner follows from their
    votes, and each response gets a score from its wins.

    A juror's two verdicts make its one vote, and every reply is kept. With `dawid_skene` votes are weighed by how
    reliable each juror is, as estimated from all votes of the run (Dawid and Skene, 1979); it takes some hundred
    comparisons to tell, and pip install 'synthpref[jury]'. It trusts those who agree among themselves, also where they
    are wrong in the same way.
    """

    name: str = Field(default="voted", min_length=1)
    """The name of the comparisons and of the score."""
    disagree: Literal["tie", "average"] = "tie"
    """What a juror's vote is whose two orders differ: a "tie" (MT-Bench, arXiv:2306.05685), or the "average" of
    its verdicts, which for majority and multimode is the side that it leans to."""
    reducer: Literal["majority", "multimode", "mean", "dawid_skene"] = "majority"
    """How votes become an outcome: "majority" (more than half of the votes), "multimode" (the verdict given most
    often, as the juries of arXiv:2408.08688), "mean" (the share of the votes, a tie as half), or "dawid_skene" (the
    probability that the one is better, jurors weighted by their reliability over the whole run)."""
    tie: Literal["tie", "abstain", "first"] = "tie"
    """Where there is no majority, or no single mode: a "tie", no outcome ("abstain"), or the verdict of the "first"
    juror that named one of the tied ones."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.reducer == WEIGHED and self.schedule == "swiss":
            raise ValueError("schedule: swiss goes by outcomes, and dawid_skene has none before the end")
        if self.reducer in ("mean", WEIGHED) and "tie" in self.model_fields_set:
            raise ValueError("tie is for reducer: majority or multimode; remove it, or set one of these")
        return self

    def load(self, samples: int) -> Load:
        """All jurors, also where some may not be asked."""
        return Load(samples, self.calls(self.questions(samples), reads=2 + self.reference))

    def makes(self, samples: int) -> dict[str, Made]:
        met = self.met([juror.model for juror in self.judges])
        # A majority is a win, a tie or a loss; a share or a probability is finer.
        fine = self.reducer in ("mean", WEIGHED)
        return {self.name: replace(met, levels=None if fine else met.levels, votes=1)}

    def expand(self) -> Sequence[Stage]:
        if self.reducer != WEIGHED:
            return [self]
        weigh = WeighComparisons(
            name=self.name,
            at_least=self.at_least,
            disagree=self.disagree,
            by_majority=self.extract == "majority",
            score=self.score,
            prior=self.prior,
        )
        return [self, weigh]

    async def run(self, row: Row, ask: Ask) -> Row:
        made: list[Comparison] = []
        for wave in self.waves(self.asked(row), made, ask):
            made += await self._meet(row, wave, ask)
        row = replace(row, comparisons=(*row.comparisons, *made))
        return row.scored(self.name, self.scored(row, made))

    async def _meet(self, row: Row, pairs: Sequence[Meeting], ask: Ask) -> list[Comparison]:
        orders = {(pair, juror.title): self.orders(pair, ask) for pair in pairs for juror in self.judges}

        async def hear(wave: Wave[Meeting]) -> list[list[Vote]]:
            questions = [
                self.told(j).pair_question(
                    row, first, second, ask, j.prompt or self.prompt, j.model, self.replies(j)
                )
                for pair, j in wave
                for first, second in orders[pair, j.title]
            ]
            replies = iter(await ask_all(ask, questions, again=self.again, reask=self.reask))
            return [
                [
                    j.named(pair_vote(ask.info(j.model).name, reply, swapped=first != pair[0]))
                    for first, _ in orders[pair, j.title]
                    for reply in next(replies)
                ]
                for pair, j in wave
            ]

        heard = await self.poll(pairs, hear, self._ballot, self._rule(), (0.0, 1.0))
        return [self._settled(pair, cast, ask) for pair, cast in heard.items()]

    def _ballot(self, votes: Sequence[Vote]) -> float | None:
        said = juror_verdict(votes, self.disagree, by_majority=self.extract == "majority")
        return said if said is None or self.reducer == "mean" else leaning(said)

    def _rule(self) -> Rule:
        return Rule("mean" if self.reducer == WEIGHED else self.reducer, self.tie, self.at_least)

    def _settled(self, pair: Meeting, cast: Sequence[Sequence[Vote]], ask: Ask) -> Comparison:
        """The jury's outcome; none yet where the votes are still to be weighed."""
        values = [value for votes in cast if (value := self._ballot(votes)) is not None]
        p = None if self.reducer == WEIGHED else self._rule().outcome(values)
        votes = [vote for mine in cast for vote in mine]
        sides = [[vote for vote in votes if vote.shown == order] for order in ("ab", "ba")]
        orders = 2 if self.swap else 1
        silent = [v for j in self.judges[len(cast) :] for v in j.silent(ask, self.replies(j) * orders)]
        return replace(comparison(self.name, *pair, sides), p=p, votes=(*votes, *silent))
