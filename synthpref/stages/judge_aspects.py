"""judge.aspects: each response gets a score for each of several aspects."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from synthpref.core.parse import Parsed
from synthpref.core.seam import Ask, Completion
from synthpref.core.stage import Calls, Load, PromptName, Role
from synthpref.core.stats import mean
from synthpref.core.types import Row, Sample, Score
from synthpref.core.votes import pool
from synthpref.stages.asking import Question, Reply, ask_all
from synthpref.stages.judging import Numbered, criterion, vote
from synthpref.stages.named import Named, all_named, read_named

PRESETS: dict[str, tuple[str, ...]] = {
    # UltraFeedback (arXiv:2310.01377), section 2.3.
    "ultrafeedback": ("instruction-following", "truthfulness", "honesty", "helpfulness"),
}


def _by_name(aspects: Any) -> Any:
    """A preset, or a list of rubric names, as a mapping from each name to itself."""
    if isinstance(aspects, str):
        if aspects not in PRESETS:
            known = ", ".join(sorted(PRESETS))
            raise ValueError(f"no set of aspects is called {aspects!r}; there is: {known}; or give a list")
        aspects = PRESETS[aspects]
    listed = isinstance(aspects, list | tuple) and all(isinstance(name, str) for name in aspects)
    return {name: name for name in aspects} if listed else aspects


AspectSet = Annotated[
    dict[str, str], BeforeValidator(_by_name, json_schema_input_type=str | list[str] | dict[str, str])
]


class Aspects(Numbered):
    """A judge scores each response on several aspects, each by itself.

    Each aspect's score is kept as `name.aspect`, and their mean as `name`. A response that lacks a score for
    one aspect has no mean, and keeps the others.
    """

    model: Role
    """The role that judges."""
    name: str = Field(default="aspects", min_length=1)
    """The name of the scores."""
    aspects: AspectSet = Field(default="ultrafeedback", validate_default=True, min_length=1)
    """What to judge by: "ultrafeedback" (instruction-following, truthfulness, honesty, helpfulness), a list of
    names of rubrics in prompts/judge/rubrics, or a mapping from an aspect's name to its criterion."""
    repeats: int = Field(default=1, ge=1)
    """Replies for each response."""
    prompt: PromptName = "judge/aspects"
    """The template."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if taken := {"reasoning", "score", "rating", "scores"} & {a.casefold() for a in self.aspects}:
            raise ValueError(f"aspects: {min(taken)!r} has a meaning of its own in a reply; rename it")
        return self

    def criteria(self) -> list[tuple[str, str]]:
        return [(f"aspects.{aspect}", text) for aspect, text in self.aspects.items()]

    def gives(self) -> set[str]:
        return {f"score:{self.name}", *(f"score:{self.name}.{aspect}" for aspect in self.aspects)}

    def load(self, samples: int) -> Load:
        return Load(samples, (Calls(self.model, samples, n=self.repeats, reads=1 + self.reference),))

    async def run(self, row: Row, ask: Ask) -> Row:
        asked, names = self.asked(row), list(self.aspects)
        schema, words = self.number()
        response_format, shape = self.form(dict.fromkeys(names, schema), dict.fromkeys(names, words))
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
