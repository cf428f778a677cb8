"""score.followup and score.yesno: what a model holds probable to be said about a response."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from synthpref.core.errors import BackendError
from synthpref.core.expected import MIN_MASS, TOP
from synthpref.core.logprob import Span, followup_score, yes_share
from synthpref.core.reply import Parsed
from synthpref.core.seam import Ask, Capability
from synthpref.core.stage import PROMPT, Calls, Load, PromptName, Role, RowStage
from synthpref.core.types import Row, Sample, Score
from synthpref.stages.asking import attempt_each, why_refused
from synthpref.stages.judging import EMPTY, NO_RUBRIC, RUBRICS, Column, criterion, is_name, present
from synthpref.stages.spans import READS, remarks, says, score

FOLLOWUPS = "score/followups/"
VERDICT_TOKENS = 4
"""As many as marks and blanks before the verdict's word may take."""


class Followup(RowStage):
    """How much more probable a model holds it that the user is pleased with a response than that the user is not: the
    mean log-probability, a token, of what a pleased user would say next, less that of what a displeased one would
    (FLR, arXiv:2409.13948). Nothing is written by the model.

    With several aspects each is kept as a score of its own, `name.aspect`, and the score is their mean.
    """

    model: Role
    """The role whose log-probabilities count."""
    aspects: tuple[str, ...] = Field(default=("helpfulness",), min_length=1)
    """What the user's words are about: helpfulness, correctness, clarity, relevance, completeness, harmlessness; or
    files of your own, NAME_good.j2 and NAME_bad.j2 with a block for each of the words, in score/followups/ under one
    of the recipe's `prompts`. Each aspect takes a request for each follow-up, usually eight."""
    name: str = Field(default="followup", min_length=1)
    """The score's name."""

    def needs(self) -> set[str]:
        return {"samples"}

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: set(READS)}

    def marked(self, mark: str) -> Iterator[tuple[str, str]]:
        yield from super().marked(mark)
        if mark == PROMPT:
            for i, aspect in enumerate(self.aspects):
                yield from ((f"aspects[{i}]", name) for name in _templates(aspect))

    def load(self, samples: int) -> Load:
        return Load(samples, (Calls(self.model, samples * (1 + 8 * len(self.aspects)), reads=1, writes=1),))

    async def run(self, row: Row, ask: Ask) -> Row:
        said = {aspect: [_texts(ask, name) for name in _templates(aspect)] for aspect in self.aspects}
        there = present(row.samples)
        texts = [text for good, bad in said.values() for text in (*good, *bad)]
        read = await asyncio.gather(
            *(
                remarks(ask, self.model, [*row.prompt, says("assistant", row.samples[i].text)], texts)
                for i in there
            )
        )
        made: dict[int, dict[str, Parsed[float]]] = {}
        for i, spans in zip(there, read, strict=True):
            left = iter(spans)
            made[i] = {
                aspect: _aspect([next(left) for _ in good], [next(left) for _ in bad])
                for aspect, (good, bad) in said.items()
            }
        judge = ask.info(self.model).name
        for aspect in self.aspects if len(self.aspects) > 1 else ():
            kept = {i: score(judge, found[aspect]) for i, found in made.items()}
            row = row.scored(f"{self.name}.{aspect}", _every(row, kept))
        whole = {i: score(judge, _mean(list(found.values()))) for i, found in made.items()}
        return row.scored(self.name, _every(row, whole))


class YesNo(RowStage):
    """A judge is asked whether a response is a good one, and the score is how probable it holds "yes" to be, of "yes"
    and "no" together (arXiv:2502.16182). One token is written; ties are rare, which numbers on a scale have many of."""

    model: Role
    """The role that judges."""
    rubric: Annotated[str, Field(min_length=1)] | Column = "helpfulness"
    """What makes a response good: the name of a rubric in prompts/judge/rubrics, the criterion in your own words, or
    {column: NAME} for one of each row's own, so that each kind of prompt has its own question. A row that has none
    there gets no scores."""
    min_mass: float = Field(default=MIN_MASS, gt=0, le=1)
    """The least probability that "yes" and "no" must have between them."""
    prompt: PromptName = "score/yesno"
    """The template."""
    name: str = Field(default="yesno", min_length=1)
    """The score's name."""

    def needs(self) -> set[str]:
        own = {f"meta:{self.rubric.column}"} if isinstance(self.rubric, Column) else set()
        return {"samples"} | own

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: {"chat", "logprobs"}}

    def marked(self, mark: str) -> Iterator[tuple[str, str]]:
        yield from super().marked(mark)
        if mark == PROMPT and isinstance(self.rubric, str) and is_name(self.rubric):
            yield "rubric", RUBRICS + self.rubric

    def load(self, samples: int) -> Load:
        return Load(samples, (Calls(self.model, samples, reads=1, writes=VERDICT_TOKENS),))

    async def run(self, row: Row, ask: Ask) -> Row:
        own = isinstance(self.rubric, Column)
        rubric = self.rubric.of(row) if isinstance(self.rubric, Column) else criterion(self.rubric, ask)
        if rubric is None:
            return row.scored(self.name, [EMPTY if s.empty else NO_RUBRIC for s in row.samples])

        async def one(sample: Sample) -> Parsed[float]:
            messages = ask.prompt(
                self.prompt, prompt=row.prompt_text, response=sample.text, rubric=rubric, own=own
            )
            (answer, *_) = await ask(messages, model=self.model, max_tokens=VERDICT_TOKENS, logprobs=TOP)
            return yes_share(answer.logprobs, self.min_mass)

        there = present(row.samples)
        answers = await attempt_each(one(row.samples[i]) for i in there)
        made = [Parsed(None, why_refused(a)) if isinstance(a, BackendError) else a for a in answers]
        judge = ask.info(self.model).name
        return row.scored(
            self.name, _every(row, {i: score(judge, m) for i, m in zip(there, made, strict=True)})
        )


def _templates(aspect: str) -> tuple[str, str]:
    return f"{FOLLOWUPS}{aspect}_good", f"{FOLLOWUPS}{aspect}_bad"


def _texts(ask: Ask, name: str) -> list[str]:
    return [message["content"] for message in ask.prompt(name)]


def _aspect(good: list[Parsed[Span]], bad: list[Parsed[Span]]) -> Parsed[float]:
    lost = next((span for span in (*good, *bad) if span.value is None), None)
    if lost is not None:
        return Parsed(None, lost.why)
    return Parsed(followup_score(_values(good), _values(bad)))


def _values(spans: list[Parsed[Span]]) -> list[Span]:
    return [span.value for span in spans if span.value is not None]


def _mean(aspects: list[Parsed[float]]) -> Parsed[float]:
    """The mean over the aspects; there is none where one is missing, or rows would be measured by several rules."""
    known = [aspect.value for aspect in aspects if aspect.value is not None]
    if len(known) < len(aspects):
        return next(aspect for aspect in aspects if aspect.value is None)
    return Parsed(sum(known) / len(known))


def _every(row: Row, made: dict[int, Score]) -> list[Score]:
    return [made.get(i, EMPTY) for i in range(len(row.samples))]
