"""judge.aspects: each response gets a score for each of several aspects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from synthpref.core.expected import TOP
from synthpref.core.json_parts import plain
from synthpref.core.parse import Parsed
from synthpref.core.seam import Ask, Capability, Completion
from synthpref.core.stage import Calls, Load, Made, PromptName, Role
from synthpref.core.stats import mean
from synthpref.core.types import Row, Sample, Score, Vote
from synthpref.stages.asking import Question, ask_all
from synthpref.stages.judging import Tallying, criterion, vote
from synthpref.stages.named import Named, all_named, expected_named, read_named

CPM = "cpm/"
"""Where the rubrics of CPM are: each names the ends of its own scale, and of some the high end is bad."""
CPM_FAULTS = (
    "biased",
    "fail-to-consider-individual-preferences",
    "repetitive",
    "fail-to-consider-context",
    "too-long",
)
PRESETS: dict[str, dict[str, str]] = {
    # UltraFeedback (arXiv:2310.01377).
    "ultrafeedback": {
        name: name for name in ("instruction-following", "truthfulness", "honesty", "helpfulness")
    },
    # Compositional preference models (arXiv:2310.13011): the thirteen features.
    "cpm": {
        name: CPM + name
        for name in (
            *("helpfulness", "specificity", "intent", "factuality", "easy-to-understand", "relevance"),
            *("readability", "enough-detail"),
            *CPM_FAULTS,
        )
    },
}
FAULTS = {CPM + name for name in CPM_FAULTS}


def _by_name(aspects: Any) -> Any:
    """A preset, or a list of rubric names, as a mapping from each aspect's name to its criterion."""
    if isinstance(aspects, str):
        if aspects not in PRESETS:
            known = ", ".join(PRESETS)
            raise ValueError(f"no set of aspects is called {aspects!r}; there is: {known}; or give a list")
        return PRESETS[aspects]
    listed = isinstance(aspects, list | tuple) and all(isinstance(name, str) for name in aspects)
    return {name.removeprefix(CPM): name for name in aspects} if listed else aspects


AspectSet = Annotated[
    dict[str, str], BeforeValidator(_by_name, json_schema_input_type=str | list[str] | dict[str, str])
]


class Aspects(Tallying):
    """A judge scores each response on several aspects, each by itself.

    Each aspect's score is kept as `name.aspect`, and their mean as `name`. A response that lacks a score for
    one aspect has no mean, and keeps the others. For another weighting put `score.combine` after it.
    """

    model: Role
    """The role that judges."""
    name: str = Field(default="aspects", min_length=1)
    """The name of the scores."""
    aspects: AspectSet = Field(default="ultrafeedback", validate_default=True, min_length=1)
    """What to judge by: "ultrafeedback" (four aspects) or "cpm" (thirteen), a list of names of rubrics in
    prompts/judge/rubrics, or a mapping from an aspect's name to its criterion."""
    faults: tuple[str, ...] = ()
    """Aspects of which a high score is bad. Each is kept as it was given, and counts in the mean turned
    around (lowest + highest - score). Those of "cpm" are known."""
    per_call: Literal["all", "one"] = "all"
    """Ask about all aspects in one call, or about each in a call of its own."""
    prompt: PromptName = "judge/aspects"
    """The template."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        names = Counter(plain(aspect) for aspect in self.aspects)
        if taken := {"reasoning", "score", "rating", "scores"} & set(names):
            raise ValueError(f"aspects: {min(taken)!r} has a meaning of its own in a reply; rename it")
        if twice := [name for name, n in names.items() if n > 1]:
            raise ValueError(f"aspects: two are called {twice[0]!r}; rename one")
        if unknown := set(self.faults) - set(self.aspects):
            raise ValueError(f"faults: {min(unknown)!r} is none of the aspects")
        return self

    def criteria(self) -> list[tuple[str, str]]:
        return [(f"aspects.{aspect}", text) for aspect, text in self.aspects.items()]

    def gives(self) -> set[str]:
        return {f"score:{self.name}", *(f"score:{self.name}.{aspect}" for aspect in self.aspects)}

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: self.abilities()}

    def load(self, samples: int) -> Load:
        requests = samples * len(self._groups())
        return Load(samples, (Calls(self.model, requests, n=self.repeats, reads=1 + self.reference),))

    def _groups(self) -> list[list[str]]:
        """The aspects of each call about a response."""
        return [list(self.aspects)] if self.per_call == "all" else [[aspect] for aspect in self.aspects]

    def makes(self, samples: int) -> dict[str, Made]:
        one = self.made(self.model)
        return {self.name: replace(one, votes=one.votes * len(self.aspects))} | {
            f"{self.name}.{aspect}": one for aspect in self.aspects
        }

    async def run(self, row: Row, ask: Ask) -> Row:
        asked, groups = self.asked(row), self._groups()
        questions = [self._question(row, row.samples[i], group, ask) for i in asked for group in groups]
        replies = iter(await ask_all(ask, questions, again=self.again, reask=self.reask))
        judge = ask.info(self.model).name
        scores: dict[int, dict[str, Score]] = {}
        for i in asked:
            votes: list[Vote] = []
            scores[i] = {}
            for group in groups:
                mine = next(replies)
                read = [self._read(reply.completion, group, row, row.samples[i]) for reply in mine]
                for aspect in group:
                    # A reply about all aspects is kept once, by the votes for their mean.
                    own = [
                        vote(judge, r, named[aspect], keep_reply=self.per_call == "one")
                        for r, named in zip(mine, read, strict=True)
                    ]
                    scores[i][aspect] = self.tally(own)
                if self.per_call == "all":
                    votes = [
                        vote(judge, r, self._mean_of(named)) for r, named in zip(mine, read, strict=True)
                    ]
            scores[i][""] = self._overall(scores[i], votes)
        for aspect in self.aspects:
            made = {i: by_aspect[aspect] for i, by_aspect in scores.items()}
            row = row.scored(f"{self.name}.{aspect}", self.every(row, made))
        return row.scored(self.name, self.every(row, {i: by_aspect[""] for i, by_aspect in scores.items()}))

    def _question(self, row: Row, sample: Sample, names: list[str], ask: Ask) -> Question[Named]:
        schema, words = self.number()
        response_format, shape = self.form(dict.fromkeys(names, schema), dict.fromkeys(names, words))
        aspects = {aspect: criterion(self.aspects[aspect], ask) for aspect in names}
        values = {**self.shared(row), **self.limits(), "aspects": aspects, "shape": shape}
        messages = ask.prompt(self.prompt, response=sample.text, **values)

        def whole(completion: Completion) -> Parsed[Named]:
            return all_named(self._read(completion, names, row, sample))

        logprobs = None if self.expects is None else TOP
        return Question(messages, whole, self.model, shape, self.repeats, response_format, logprobs)

    def _read(self, completion: Completion, names: list[str], row: Row, sample: Sample) -> Named:
        shown = self.shown(row, names, [sample.text])
        if self.expects is not None:
            return expected_named(completion, names, self.scale, shown, self.expects)
        return read_named(completion, names, self.scale, self.integer, shown)

    def _mean(self, values: Mapping[str, float]) -> float:
        """The mean over the aspects, with those turned around of which a high score is bad."""
        bad = {a for a, text in self.aspects.items() if a in self.faults or text in FAULTS}
        return mean([sum(self.scale) - value if a in bad else value for a, value in values.items()])

    def _mean_of(self, named: Named) -> Parsed[float]:
        """The mean of what one reply says, if it gives each aspect a score."""
        values = {aspect: parsed.value for aspect, parsed in named.items() if parsed.value is not None}
        whole = self._mean(values) if len(values) == len(named) else None
        return Parsed(whole, all_named(named).why)

    def _overall(self, aspects: Mapping[str, Score], votes: list[Vote]) -> Score:
        """The mean of the aspects' scores, if each has one."""
        missing = [f"{aspect}: {score.why}" for aspect, score in aspects.items() if score.value is None]
        if missing:
            return Score(None, f"no score for aspect {missing[0]}", tuple(votes))
        values = {aspect: score.value for aspect, score in aspects.items() if score.value is not None}
        return Score(self._mean(values), votes=tuple(votes))
