"""judge.pair: responses are set against each other, two at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

from pydantic import Field, model_validator

from synthpref.core.schedule import Meeting
from synthpref.core.seam import Ask, Capability
from synthpref.core.stage import Calls, Load, Made, Role
from synthpref.core.types import Comparison, Row, Vote
from synthpref.core.verdicts import Disagree, flipped
from synthpref.stages.asking import ask_all
from synthpref.stages.comparing import comparison, pair_vote, values_of
from synthpref.stages.tournament import Tournament

Sides = list[list[Vote]]


class Pair(Tournament):
    """A judge compares responses two at a time, in both orders, and each gets a score from its wins.

    Every reply is kept as a vote for or against the sample that it is about, whatever letter it was shown
    under. Where the two orders name different winners, the comparison is marked as flipped.
    """

    model: Role
    """The role that judges."""
    disagree: Disagree = "average"
    """Where the orders disagree: the "average" of all verdicts; a "tie" unless both orders name the same winner;
    or "reask", both orders are asked again, and the majority of all verdicts decides. The latter helps with a
    judge that is unsure, at a temperature above 0; one that goes by the place says the same again."""
    reasks: int = Field(default=1, ge=1)
    """For disagree: reask: how often, at the most, both orders are asked again."""
    repeats: int = Field(default=1, ge=1, le=100_000)
    """Replies for each two responses and order. With extract: majority, the winner named most often in an order is
    its verdict, and a tie where no single one is."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.disagree != "average" and not self.swap:
            raise ValueError(f"disagree: {self.disagree} compares the two orders; leave swap: true")
        if self.disagree != "reask" and "reasks" in self.model_fields_set:
            raise ValueError("reasks is for disagree: reask; remove it, or set that")
        return self

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: self.abilities()}

    def load(self, samples: int) -> Load:
        requests = self.questions(samples)
        return Load(samples, (Calls(self.model, requests, n=self.repeats, reads=2 + self.reference),))

    def makes(self, samples: int) -> dict[str, Made]:
        met = self.met([self.model])
        many = self.repeats if self.disagree == "average" and self.extract == "sampled" else 1
        return {self.name: replace(met, votes=met.votes * many)}

    async def run(self, row: Row, ask: Ask) -> Row:
        made: list[Comparison] = []
        for wave in self.waves(self.asked(row), made, ask):
            made += await self._compare(row, wave, ask)
        row = replace(row, comparisons=(*row.comparisons, *made))
        return row.scored(self.name, self.scored(row, made))

    async def _compare(self, row: Row, pairs: list[Meeting], ask: Ask) -> list[Comparison]:
        first = await self._ask(row, pairs, [self.orders(pair, ask) for pair in pairs], ask)
        more: list[Sides] = [[] for _ in pairs]
        for _ in range(self.reasks if self.disagree == "reask" else 0):
            open_ = [i for i in range(len(pairs)) if flipped(values_of(_by_order([*first[i], *more[i]])))]
            again = [pairs[i] for i in open_]
            replies = await self._ask(row, again, [[(a, b), (b, a)] for a, b in again], ask)
            for i, sides in zip(open_, replies, strict=True):
                more[i] += sides
        rules: dict[str, Any] = {"disagree": self.disagree, "by_majority": self.extract == "majority"}
        return [comparison(self.name, a, b, first[i], more[i], **rules) for i, (a, b) in enumerate(pairs)]

    async def _ask(
        self, row: Row, pairs: list[Meeting], orders: list[list[Meeting]], ask: Ask
    ) -> list[Sides]:
        """For each pair the votes on it, order by order."""
        questions = [
            self.pair_question(row, first, second, ask, self.prompt, self.model, self.repeats)
            for order in orders
            for first, second in order
        ]
        replies = iter(await ask_all(ask, questions, again=self.again, reask=self.reask))
        judge = ask.info(self.model).name
        return [
            [[pair_vote(judge, reply, swapped=first != a) for reply in next(replies)] for first, _ in order]
            for (a, _), order in zip(pairs, orders, strict=True)
        ]


def _by_order(sides: Sides) -> Sides:
    """The votes of several rounds of asking, by the order of showing."""
    return [[vote for side in sides for vote in side if vote.shown == shown] for shown in ("ab", "ba")]
