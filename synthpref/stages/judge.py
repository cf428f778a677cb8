"""Judges that look at one response at a time, or at all of a row's at once. (judge.pair: judge_pair.py.)"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator

from synthpref.core.expected import MIN_MASS, expected_score
from synthpref.core.parse import Parsed
from synthpref.core.seam import Ask, Capability, Completion
from synthpref.core.stage import Calls, Load, PromptName, Role
from synthpref.core.types import Row, Sample, Vote
from synthpref.core.votes import pool
from synthpref.stages.asking import Question, ask_all
from synthpref.stages.judge_pair import Pair
from synthpref.stages.judging import Scaled, criterion, verdict_form, vote
from synthpref.stages.named import Named, all_named, read_named

__all__ = ["List", "Pair", "Point"]


class Point(Scaled):
    """A judge scores each response by itself.

    Every repeat is a reply of its own at the role's temperature; the score is the mean of their votes.
    """

    model: Role
    """The role that judges."""
    name: str = Field(default="judge", min_length=1)
    """The score's name."""
    repeats: int = Field(default=1, ge=1)
    """Replies for each response."""
    extract: Literal["sampled", "expected"] = "sampled"
    """Which number to take: the one that the judge wrote ("sampled"), or the mean of the scale's numbers
    weighted by their probabilities at that place ("expected", needs logprobs)."""
    min_mass: float = Field(default=MIN_MASS, gt=0, le=1)
    """For "expected": the least probability that the scale's numbers must have between them."""
    prompt: PromptName = "judge/point"
    """The template."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.extract == "expected" and not self.integer:
            raise ValueError("extract: expected works on whole numbers; leave integer: true")
        return self

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: {"chat", "logprobs"} if self.extract == "expected" else {"chat"}}

    def load(self, samples: int) -> Load:
        return Load(samples, (Calls(self.model, samples, n=self.repeats, reads=1 + self.reference),))

    async def run(self, row: Row, ask: Ask) -> Row:
        asked = self.asked(row)
        questions = [self._question(row, row.samples[i], ask) for i in asked]
        replies = await ask_all(ask, questions, again=self.again, reask=self.reask)
        judge = ask.info(self.model).name
        scores = {
            i: pool([vote(judge, r, r.parsed) for r in rs]) for i, rs in zip(asked, replies, strict=True)
        }
        return row.scored(self.name, self.every(row, scores))

    def _question(self, row: Row, sample: Sample, ask: Ask) -> Question[float]:
        question = self.point_question(row, sample, ask, self.prompt, self.model, self.repeats)
        if self.extract == "sampled":
            return question

        def parse(completion: Completion) -> Parsed[float]:
            return expected_score(completion.logprobs, self.scale, min_mass=self.min_mass)

        # 20 alternatives are as many as the OpenAI API and vLLM return by default.
        return replace(question, parse=parse, logprobs=20)


class List(Scaled):
    """A judge scores all responses of a row in one call, in an order drawn by lot.

    Each repeat draws its own order, so that a judge's liking for a place evens out; the score is the mean of
    the votes. Scores are mapped back by the label that a response was shown under.
    """

    model: Role
    """The role that judges."""
    name: str = Field(default="listed", min_length=1)
    """The score's name."""
    repeats: int = Field(default=1, ge=1)
    """Calls for each row, each with an order of its own."""
    prompt: PromptName = "judge/list"
    """The template."""

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def load(self, samples: int) -> Load:
        return Load(
            samples, (Calls(self.model, self.repeats if samples else 0, reads=samples + self.reference),)
        )

    async def run(self, row: Row, ask: Ask) -> Row:
        asked = self.asked(row)
        if not asked:
            return row.scored(self.name, self.every(row, {}))
        orders = [ask.rng.sample(asked, len(asked)) for _ in range(self.repeats)]
        labels = [str(n) for n in range(1, len(asked) + 1)]
        questions = [self._question(row, order, labels, ask) for order in orders]
        replies = await ask_all(ask, questions, again=self.again, reask=self.reask)
        judge = ask.info(self.model).name
        votes: dict[int, list[Vote]] = {i: [] for i in asked}
        for order, [reply] in zip(orders, replies, strict=True):
            shown = ",".join(str(i) for i in order)
            texts = [row.samples[i].text for i in order]
            named = read_named(reply.completion, labels, self.scale, self.integer, texts)
            for label, i in zip(labels, order, strict=True):
                votes[i].append(vote(judge, reply, named[label], shown))
        return row.scored(self.name, self.every(row, {i: pool(cast) for i, cast in votes.items()}))

    def _question(self, row: Row, order: list[int], labels: list[str], ask: Ask) -> Question[Named]:
        schema, words = self.number()
        inner = {
            "type": "object",
            "properties": dict.fromkeys(labels, schema),
            "required": labels,
            "additionalProperties": False,
        }
        texts = [row.samples[i].text for i in order]
        in_words = "{" + ", ".join(f'"{label}": {words}' for label in labels) + "}"
        response_format, shape = verdict_form({"scores": inner}, {"scores": in_words})
        messages = ask.prompt(
            self.prompt,
            responses=texts,
            rubric=criterion(self.rubric, ask),
            shape=shape,
            **self.shared(row),
            **self.limits(),
        )

        def parse(completion: Completion) -> Parsed[Named]:
            return all_named(read_named(completion, labels, self.scale, self.integer, texts))

        return Question(messages, parse, self.model, shape, 1, response_format)
