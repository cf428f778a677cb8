"""judge.pair: responses are set against each other, two at a time."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Literal

from pydantic import Field

from synthpref.core.ranking import bradley_terry, win_rate
from synthpref.core.seam import Ask
from synthpref.core.stage import Calls, Load, PromptName, Role
from synthpref.core.types import Comparison, Row, Score
from synthpref.stages.asking import ask_all
from synthpref.stages.comparing import Comparing, comparison, pair_vote


class Pair(Comparing):
    """A judge compares responses two at a time, in both orders, and each gets a score from its wins.

    Every reply is kept as a vote for or against the sample that it is about, whatever letter it was shown
    under. Where the two orders name different winners, the comparison is marked as flipped.
    """

    model: Role
    """The role that judges."""
    name: str = Field(default="compared", min_length=1)
    """The name of the comparisons and of the score."""
    against: int | None = Field(default=None, ge=0)
    """Compare each response with the one at this index only, in place of all with all."""
    swap: bool = True
    """Ask in both orders. Without it, one order is drawn by lot for each two responses."""
    repeats: int = Field(default=1, ge=1)
    """Replies for each two responses and order."""
    score: Literal["bradley_terry", "win_rate"] = "bradley_terry"
    """How wins become a score: strengths in log-odds (0 is the row's average), or the share of wins with
    a tie as half."""
    prior: float = Field(default=0.1, gt=0)
    """For bradley_terry: how many drawn games against an average response each one starts with. The larger,
    the further in are pulled the strengths of those that won or lost everything."""
    prompt: PromptName = "judge/pair"
    """The template."""

    def gives(self) -> set[str]:
        return {f"score:{self.name}", f"comparisons:{self.name}"}

    def load(self, samples: int) -> Load:
        pairs = samples * (samples - 1) / 2 if self.against is None else max(0, samples - 1)
        requests = pairs * (2 if self.swap else 1)
        return Load(samples, (Calls(self.model, requests, n=self.repeats, reads=2 + self.reference),))

    async def run(self, row: Row, ask: Ask) -> Row:
        pairs = self._schedule(row)
        orders = [
            [(a, b), (b, a)] if self.swap else [(a, b) if ask.rng.random() < 0.5 else (b, a)]
            for a, b in pairs
        ]
        questions = [
            self.pair_question(row, first, second, ask, self.prompt, self.model, self.repeats)
            for order in orders
            for first, second in order
        ]
        replies = iter(await ask_all(ask, questions, again=self.again, reask=self.reask))
        judge = ask.info(self.model).name
        made = []
        for (a, b), order in zip(pairs, orders, strict=True):
            sides = [
                [pair_vote(judge, reply, swapped=first != a) for reply in next(replies)] for first, _ in order
            ]
            made.append(comparison(self.name, a, b, sides))
        row = replace(row, comparisons=(*row.comparisons, *made))
        return row.scored(self.name, self._scores(row, made))

    def _schedule(self, row: Row) -> list[tuple[int, int]]:
        there = self.asked(row)
        if self.against is None:
            return list(combinations(there, 2))
        return [(i, self.against) for i in there if i != self.against] if self.against in there else []

    def _scores(self, row: Row, made: list[Comparison]) -> list[Score]:
        outcomes = [(c.a, c.b, c.p) for c in made if c.p is not None]
        rate = bradley_terry(len(row.samples), outcomes, prior=self.prior)
        values = rate if self.score == "bradley_terry" else win_rate(len(row.samples), outcomes)
        whys = [vote.why for c in made for vote in c.votes if vote.why]
        why = f"no verdict on it: {whys[0]}" if whys else "nothing to compare with"
        scores = {i: Score(values[i], why if values[i] is None else None) for i in self.asked(row)}
        return self.every(row, scores)
