"""Judges that look at one response at a time, or at all of a row's at once. (judge.pair: judge_pair.py.)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from synthpref.core.expected import MIN_MASS, expected_score
from synthpref.core.parse import Parsed, parse_scores
from synthpref.core.seam import Ask, Capability, Completion
from synthpref.core.stage import Calls, Load, PromptName, Role
from synthpref.core.stats import mean
from synthpref.core.types import Row, Sample, Score, Vote
from synthpref.core.votes import pool
from synthpref.stages.asking import Question, Reply, ask_all
from synthpref.stages.judge_pair import Pair
from synthpref.stages.judging import Scaled, criterion, verdict_form, vote
from synthpref.stages.own_words import own_verdict

__all__ = ["List", "Pair", "Point"]

Named = dict[str, Parsed[float]]


def _by_name(aspects: Any) -> Any:
    """A list of rubric names as a mapping from each to itself."""
    listed = isinstance(aspects, list | tuple) and all(isinstance(name, str) for name in aspects)
    return {name: name for name in aspects} if listed else aspects


Aspects = Annotated[
    dict[str, str], BeforeValidator(_by_name, json_schema_input_type=dict[str, str] | list[str])
]


def read_named(
    completion: Completion, names: list[str], scale: tuple[float, float], integer: bool, texts: Sequence[str]
) -> Named:
    """What a reply about `texts` says under each name; nothing where it was cut off at the token limit."""
    if completion.finish_reason == "length":
        return dict.fromkeys(names, Parsed(None, "cut off: the reply reached the token limit"))
    return own_verdict(completion.text, texts, lambda text: parse_scores(text, names, scale, integer=integer))


def all_named(named: Named) -> Parsed[Named]:
    """`named` if every name has a score; else the first reason, so that the reply is followed up."""
    whys = [f"{parsed.why}" for parsed in named.values() if parsed.value is None]
    rationale = next((parsed.rationale for parsed in named.values()), None)
    return Parsed(None, whys[0], rationale) if whys else Parsed(named, None, rationale)


class Point(Scaled):
    """A judge scores each response by itself, by a rubric or by several aspects.

    Every repeat is a reply of its own at the role's temperature; the score is the mean of their votes.
    """

    model: Role
    """The role that judges."""
    name: str = Field(default="judge", min_length=1)
    """The score's name."""
    aspects: Aspects = Field(default_factory=dict)
    """Several criteria in one call, in place of `rubric`: a mapping from an aspect's name to its criterion,
    or a list of rubric names. Each is kept as `name.aspect`, and their mean as `name`."""
    repeats: int = Field(default=1, ge=1)
    """Replies for each response."""
    extract: Literal["sampled", "expected"] = "sampled"
    """Which number to take: the one that the judge wrote ("sampled"), or the mean of the scale's numbers
    weighted by their probabilities at that place ("expected", needs logprobs)."""
    min_mass: float = Field(default=MIN_MASS, gt=0, le=1)
    """For "expected": the least probability that the scale's numbers must have between them."""
    prompt: PromptName = "judge/point"
    """The template (judge/aspects where there are aspects)."""

    @model_validator(mode="before")
    @classmethod
    def _template(cls, data: Any) -> Any:
        return {"prompt": "judge/aspects", **data} if isinstance(data, dict) and data.get("aspects") else data

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.extract == "expected" and not self.integer:
            raise ValueError("extract: expected works on whole numbers; leave integer: true")
        if self.extract == "expected" and self.aspects:
            raise ValueError("extract: expected reads one score a reply; use a rubric in place of aspects")
        if self.aspects and "rubric" in self.model_fields_set:
            raise ValueError("give rubric or aspects, not both")
        if taken := {"reasoning", "score", "rating", "scores"} & {a.casefold() for a in self.aspects}:
            raise ValueError(f"aspects: {min(taken)!r} has a meaning of its own in a reply; rename it")
        return self

    def criteria(self) -> list[tuple[str, str]]:
        aspects = [(f"aspects.{aspect}", text) for aspect, text in self.aspects.items()]
        return aspects or super().criteria()

    def gives(self) -> set[str]:
        return {f"score:{self.name}", *(f"score:{self.name}.{aspect}" for aspect in self.aspects)}

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: {"chat", "logprobs"} if self.extract == "expected" else {"chat"}}

    def load(self, samples: int) -> Load:
        return Load(samples, (Calls(self.model, samples, n=self.repeats, reads=1 + self.reference),))

    async def run(self, row: Row, ask: Ask) -> Row:
        asked = self.asked(row)
        if self.aspects:
            return await self._by_aspects(row, ask, asked)
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

    async def _by_aspects(self, row: Row, ask: Ask, asked: list[int]) -> Row:
        names = list(self.aspects)
        schema, words = self.number()
        response_format, shape = verdict_form(dict.fromkeys(names, schema), dict.fromkeys(names, words))
        values = {**self.shared(row), **self.limits(), "shape": shape}
        values["aspects"] = {aspect: criterion(text, ask) for aspect, text in self.aspects.items()}

        def read(completion: Completion, sample: Sample) -> Named:
            return read_named(completion, names, self.scale, self.integer, [sample.text])

        def question(sample: Sample) -> Question[Named]:
            def whole(completion: Completion) -> Parsed[Named]:
                return all_named(read(completion, sample))

            messages = ask.prompt(self.prompt, response=sample.text, **values)
            return Question(messages, whole, self.model, shape, self.repeats, response_format)

        replies = await ask_all(
            ask, [question(row.samples[i]) for i in asked], again=self.again, reask=self.reask
        )
        judge = ask.info(self.model).name
        scores: dict[int, dict[str, Score]] = {}
        for i, mine in zip(asked, replies, strict=True):
            read_all = [read(reply.completion, row.samples[i]) for reply in mine]
            scores[i] = {
                aspect: pool(
                    [vote(judge, r, n[aspect], keep_reply=False) for r, n in zip(mine, read_all, strict=True)]
                )
                for aspect in names
            }
            scores[i][""] = self._overall(judge, mine, read_all, scores[i])
        for aspect in names:
            made = {i: by_aspect[aspect] for i, by_aspect in scores.items()}
            row = row.scored(f"{self.name}.{aspect}", self.every(row, made))
        return row.scored(self.name, self.every(row, {i: by_aspect[""] for i, by_aspect in scores.items()}))

    def _overall(
        self, judge: str, replies: list[Reply[Named]], named: list[Named], aspects: dict[str, Score]
    ) -> Score:
        """The mean of the aspects, if each has a score. Its votes are the replies, each with its own mean."""
        votes = []
        for reply, one in zip(replies, named, strict=True):
            values = [parsed.value for parsed in one.values() if parsed.value is not None]
            whole = mean(values) if len(values) == len(one) else None
            votes.append(vote(judge, reply, Parsed(whole, all_named(one).why)))
        missing = [f"{aspect}: {score.why}" for aspect, score in aspects.items() if score.value is None]
        if missing:
            return Score(None, f"no score for aspect {missing[0]}", tuple(votes))
        return Score(mean([s.value for s in aspects.values() if s.value is not None]), votes=tuple(votes))


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
