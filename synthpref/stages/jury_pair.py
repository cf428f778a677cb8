"""jury.pair: several judges compare responses two at a time, and their votes make one winner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

from pydantic import Field

from synthpref.core.seam import Ask
from synthpref.core.stage import Calls, Load, PromptName, Stage
from synthpref.core.types import Comparison, Row, Vote
from synthpref.core.votes import Disagreement, Rule, verdict, winner
from synthpref.stages.asking import ask_all
from synthpref.stages.comparing import Comparing, comparison, pair_vote
from synthpref.stages.jurors import WEIGHED, Bench, Wave
from synthpref.stages.rating import Method, rated
from synthpref.stages.weighing import WeighComparisons

Duo = tuple[int, int]


class JuryPair(Bench, Comparing):
    """Several judges compare responses two at a time, each in both orders; the jury's winner follows from their
    votes, and each response gets a score from its wins.

    A juror's two verdicts make its one vote, and every reply is kept. With `dawid_skene` votes are weighed by how
    reliable each juror is, as estimated from all votes of the run (Dawid and Skene, 1979); it takes some hundred
    comparisons to tell, and pip install 'synthpref[jury]'.
    """

    name: str = Field(default="voted", min_length=1)
    """The name of the comparisons and of the score."""
    against: int | None = Field(default=None, ge=0)
    """Compare each response with the one at this index only, in place of all with all."""
    swap: bool = True
    """Each juror is asked in both orders. Without it, one order is drawn by lot for each juror and two responses."""
    disagree: Disagreement = "tie"
    """What a juror's vote is whose two orders differ: a "tie" (MT-Bench, arXiv:2306.05685), or the "average" of
    its verdicts, which for majority and multimode is the side that it leans to."""
    reducer: Literal["majority", "multimode", "mean", "dawid_skene"] = "majority"
    """How votes become an outcome: "majority" (more than half of the votes), "multimode" (the verdict given most
    often, as the juries of arXiv:2408.08688), "mean" (the share of the votes, a tie as half), or "dawid_skene" (the
    probability that the one is better, jurors weighted by their reliability over the whole run)."""
    tie: Literal["tie", "abstain", "first"] = "tie"
    """Where there is no majority, or no single mode: a "tie", no outcome ("abstain"), or the verdict of the "first"
    juror that named one of the tied ones."""
    score: Method = "bradley_terry"
    """How outcomes become a score: strengths in log-odds (0 is the row's average), the share of wins with a tie as
    half, or Elo ratings."""
    prior: float = Field(default=0.1, gt=0)
    """For bradley_terry: how many drawn games against an average response each one starts with."""
    prompt: PromptName = "judge/pair"
    """The template, the same for all jurors that have none of their own."""

    def gives(self) -> set[str]:
        return {f"score:{self.name}", f"comparisons:{self.name}"}

    def load(self, samples: int) -> Load:
        """All jurors, also where some may not be asked."""
        pairs = samples * (samples - 1) / 2 if self.against is None else max(0, samples - 1)
        requests = pairs * (2 if self.swap else 1)
        reads = 2 + self.reference
        return Load(samples, tuple(Calls(j.model, requests, n=j.n, reads=reads) for j in self.judges))

    def expand(self) -> Sequence[Stage]:
        weigh = WeighComparisons(
            name=self.name, at_least=self.at_least, disagree=self.disagree, score=self.score, prior=self.prior
        )
        return [self, weigh] if self.reducer == WEIGHED else [self]

    async def run(self, row: Row, ask: Ask) -> Row:
        pairs = self._schedule(row)
        orders = {(duo, j.title): self._orders(duo, ask) for duo in pairs for j in self.judges}

        async def hear(wave: Wave[Duo]) -> list[list[Vote]]:
            questions = [
                self.told(j).pair_question(row, first, second, ask, j.prompt or self.prompt, j.model, j.n)
                for duo, j in wave
                for first, second in orders[duo, j.title]
            ]
            replies = iter(await ask_all(ask, questions, again=self.again, reask=self.reask))
            return [
                [
                    j.named(pair_vote(ask.info(j.model).name, reply, swapped=first != duo[0]))
                    for first, _ in orders[duo, j.title]
                    for reply in next(replies)
                ]
                for duo, j in wave
            ]

        heard = await self.poll(pairs, hear, self._ballot, self._rule(), (0.0, 1.0))
        made = [self._outcome(duo, cast, ask) for duo, cast in heard.items()]
        row = replace(row, comparisons=(*row.comparisons, *made))
        return row.scored(
            self.name, self.every(row, rated(row, self.asked(row), made, self.score, self.prior))
        )

    def _schedule(self, row: Row) -> list[Duo]:
        there = self.asked(row)
        if self.against is None:
            return list(combinations(there, 2))
        return [(i, self.against) for i in there if i != self.against] if self.against in there else []

    def _orders(self, duo: Duo, ask: Ask) -> list[Duo]:
        a, b = duo
        if self.swap:
            return [(a, b), (b, a)]
        return [(a, b) if ask.rng.random() < 0.5 else (b, a)]

    def _ballot(self, votes: Sequence[Vote]) -> float | None:
        said = verdict(votes, self.disagree)
        return said if said is None or self.reducer == "mean" else winner(said)

    def _rule(self) -> Rule:
        return Rule("mean" if self.reducer == WEIGHED else self.reducer, self.tie, self.at_least)

    def _outcome(self, duo: Duo, cast: Sequence[Sequence[Vote]], ask: Ask) -> Comparison:
        """The jury's outcome; without one yet where the votes are still to be weighed."""
        values = [value for votes in cast if (value := self._ballot(votes)) is not None]
        p = None if self.reducer == WEIGHED else self._rule().outcome(values)
        votes = [vote for mine in cast for vote in mine]
        sides = [[vote for vote in votes if vote.shown == order] for order in ("ab", "ba")]
        silent = [v for j in self.judges[len(cast) :] for v in j.silent(ask, j.n * (2 if self.swap else 1))]
        return replace(comparison(self.name, *duo, sides), p=p, votes=(*votes, *silent))
