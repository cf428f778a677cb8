"""Judges that look at one response at a time, or at all of a row's at once. (judge.pair: judge_pair.py.)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from synthpref.core.expected import TOP
from synthpref.core.parse import Parsed
from synthpref.core.schedule import balanced_orders
from synthpref.core.seam import Ask, Capability, Completion
from synthpref.core.stage import Calls, Load, Made, PromptName, Role
from synthpref.core.types import Row, Vote
from synthpref.stages.asking import Question, ask_all
from synthpref.stages.judge_pair import Pair
from synthpref.stages.judging import Shown, Tallied, vote
from synthpref.stages.named import (
    Named,
    all_named,
    expected_named,
    named_form,
    read_named,
    without_ties,
)

__all__ = ["List", "Pair", "Point"]


class Point(Tallied):
    """A judge scores each response by itself.

    Every repeat is a reply of its own at the role's temperature; the score is the mean of their votes.
    """

    model: Role
    """The role that judges."""
    name: str = Field(default="judge", min_length=1)
    """The score's name."""
    prompt: PromptName = "judge/point"
    """The template."""

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: self.abilities()}

    def load(self, samples: int) -> Load:
        return Load(samples, (Calls(self.model, samples, n=self.repeats, reads=1 + self.reference),))

    def makes(self, samples: int) -> dict[str, Made]:
        return {self.name: self.made(self.model)}

    async def run(self, row: Row, ask: Ask) -> Row:
        asked = self.asked(row)
        questions = [
            self.point_question(
                row, row.samples[i], ask, self.prompt, self.model, self.repeats, min_mass=self.expects
            )
            for i in asked
        ]
        replies = await ask_all(ask, questions, again=self.again, reask=self.reask)
        judge = ask.info(self.model).name
        scores = {
            i: self.tally([vote(judge, r, r.parsed) for r in rs])
            for i, rs in zip(asked, replies, strict=True)
        }
        return row.scored(self.name, self.every(row, scores))


class List(Tallied):
    """A judge scores all responses of a row in one call, in an order drawn by lot.

    Each repeat has an order of its own, and over as many repeats as there are responses each response stands once
    in each place, so that a judge's liking for a place evens out; the score is the mean of the votes. Scores are
    mapped back by the label that a response was shown under.
    """

    model: Role
    """The role that judges."""
    name: str = Field(default="listed", min_length=1)
    """The score's name."""
    repeats: int = Field(default=1, ge=1, le=100_000)
    """Calls for each row, each with an order of its own."""
    ties: bool = True
    """Let responses have the same score. Without it, a reply that gives two the same is asked for again."""
    prompt: PromptName = "judge/list"
    """The template."""

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: self.abilities()}

    def load(self, samples: int) -> Load:
        return Load(
            samples, (Calls(self.model, self.repeats if samples else 0, reads=samples + self.reference),)
        )

    def makes(self, samples: int) -> dict[str, Made]:
        return {self.name: replace(self.made(self.model), one_order=self.repeats == 1)}

    async def run(self, row: Row, ask: Ask) -> Row:
        asked = self.asked(row)
        if not asked:
            return row.scored(self.name, self.every(row, {}))
        orders = balanced_orders(asked, self.repeats, ask.rng)
        questions = [self._question(row, order, ask) for order in orders]
        replies = await ask_all(ask, questions, again=self.again, reask=self.reask)
        judge = ask.info(self.model).name
        votes: dict[int, list[Vote]] = {i: [] for i in asked}
        for order, [reply] in zip(orders, replies, strict=True):
            shown = ",".join(str(i) for i in order)
            named = self._read(reply.completion, order, self._seen(row, order))
            for i, said in zip(order, named.values(), strict=True):
                votes[i].append(vote(judge, reply, said, shown))
        return row.scored(self.name, self.every(row, {i: self.tally(cast) for i, cast in votes.items()}))

    def _question(self, row: Row, order: list[int], ask: Ask) -> Question[Named]:
        schema, words = self.number()
        texts = [row.samples[i].text for i in order]
        inner, in_words = named_form(numbers(order), schema, words)
        response_format, shape = self.form({"scores": inner}, {"scores": in_words})
        messages = ask.prompt(
            self.prompt,
            responses=texts,
            ties=self.ties,
            shape=shape,
            **self.criterion(row, ask),
            **self.shared(row),
            **self.limits(),
        )

        def parse(completion: Completion) -> Parsed[Named]:
            return all_named(self._read(completion, order, self._seen(row, order)))

        logprobs = None if self.expects is None else TOP
        return Question(messages, parse, self.model, shape, 1, response_format, logprobs)

    def _seen(self, row: Row, order: Sequence[int]) -> Shown:
        return self.shown(row, ["scores"], [row.samples[i].text for i in order])

    def _read(self, completion: Completion, order: Sequence[int], shown: Shown) -> Named:
        """What the reply says of each response, by the label that it was shown under."""
        names = numbers(order)
        if self.expects is not None:
            return expected_named(completion, names, self.scale, shown, self.expects)
        named = read_named(completion, names, self.scale, self.integer, shown)
        return named if self.ties else without_ties(named)


def numbers(order: Sequence[int]) -> list[str]:
    """The labels of responses in a list: 1, 2, 3, ..."""
    return [str(n) for n in range(1, len(order) + 1)]
