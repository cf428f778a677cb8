"""What judges have in common: criteria, the form of a verdict, and votes made of replies."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from synthpref.core.expected import MIN_MASS, NO_TOKENS, TOP, expected_score, spoken
from synthpref.core.parse import Parsed, Scale, parse_score
from synthpref.core.seam import Ask, Capability, Completion
from synthpref.core.settings import Settings
from synthpref.core.stage import PROMPT, Made, PromptName, RowStage
from synthpref.core.types import Row, Sample, Score, Vote
from synthpref.core.votes import TieRule, pool
from synthpref.stages.asking import Question, Reply

RUBRICS = "judge/rubrics/"
EMPTY = Score(None, why="empty response")
NO_REFERENCE = Score(None, why="no reference on the row")
NO_RUBRIC = Score(None, why="no rubric on the row")
REASONING = ("reasoning", "two or three sentences")

Place = Literal["before", "after", "none"]


class Column(Settings):
    """A text that each row brings along."""

    column: str = Field(min_length=1)
    """The source's column that holds it."""

    def of(self, row: Row) -> str | None:
        """The row's text; None where it has none."""
        text = row.meta.get(self.column)
        return text if isinstance(text, str) and text.strip() else None


@dataclass(frozen=True, slots=True)
class Shown:
    """What tells a judge's verdict from one in a text that it saw: the fields of the form that it was asked for, and
    the texts, which others wrote."""

    asked: Sequence[str]
    others: Sequence[str]


class Judging(RowStage):
    """Base of the stages that ask a judge about the samples of a row."""

    reference: bool = False
    """Show the judge the row's reference answer as one known to be good. A row without one gets no scores."""
    reasoning: Place = "before"
    """Where the judge gives its reasons: "before" the verdict, which then follows from them; "after" it, so that
    the verdict is the first thing said; or "none"."""
    reask: PromptName = "judge/reask"
    """The template that follows a reply which could not be parsed."""
    again: int = Field(default=1, ge=0)
    """How often such a reply is followed up before the score is given up."""

    def needs(self) -> set[str]:
        return {"samples", "reference"} if self.reference else {"samples"}

    def criteria(self) -> list[tuple[str, str]]:
        """(path, text) of each field that holds a criterion."""
        return []

    def marked(self, mark: str) -> Iterator[tuple[str, str]]:
        yield from super().marked(mark)
        if mark == PROMPT:
            yield from ((path, RUBRICS + text) for path, text in self.criteria() if is_name(text))

    def asked(self, row: Row) -> list[int]:
        """The indices of the samples that can be judged."""
        return [] if self.lacking(row) else present(row.samples)

    def lacking(self, row: Row) -> Score | None:
        """What all samples get where the row lacks what its judge is to be shown."""
        return NO_REFERENCE if self.reference and row.reference is None else None

    def every(self, row: Row, made: Mapping[int, Score]) -> list[Score]:
        """A Score for each sample: those made, by index, and the reason for each that was not asked about."""
        left = self.lacking(row) or EMPTY
        return [made.get(i, EMPTY if sample.empty else left) for i, sample in enumerate(row.samples)]

    def shared(self, row: Row) -> dict[str, Any]:
        """The template values that any judge prompt has."""
        reference = row.reference if self.reference else None
        return {"prompt": row.prompt_text, "reference": reference, "reasoning": self.reasoning}

    def shown(self, row: Row, fields: Sequence[str], texts: Sequence[str]) -> Shown:
        """What a judge was asked for in its verdict, these fields and its reasons, and what it was shown: these texts,
        the prompt, and the reference."""
        reasons = [] if self.reasoning == "none" else [REASONING[0]]
        reference = [row.reference] if self.reference and row.reference else []
        return Shown([*fields, *reasons], [*texts, row.prompt_text, *reference])

    def form(self, properties: Mapping[str, Any], words: Mapping[str, str]) -> tuple[dict[str, Any], str]:
        """`verdict_form` with the reasons where this judge gives them."""
        return verdict_form(properties, words, self.reasoning)


class Judged(Judging):
    """Base of the judges that go by one criterion."""

    rubric: Annotated[str, Field(min_length=1)] | Column = "helpfulness"
    """What to judge by: the name of a rubric in prompts/judge/rubrics, the criterion in your own words, or
    {column: NAME} for a criterion of each row's own, from that column of the source. A row that has none there
    gets no scores."""

    def needs(self) -> set[str]:
        own = {f"meta:{self.rubric.column}"} if isinstance(self.rubric, Column) else set()
        return super().needs() | own

    def criteria(self) -> list[tuple[str, str]]:
        return [("rubric", self.rubric)] if isinstance(self.rubric, str) else []

    def lacking(self, row: Row) -> Score | None:
        missing = isinstance(self.rubric, Column) and self.rubric.of(row) is None
        return NO_RUBRIC if missing else super().lacking(row)

    def criterion(self, row: Row, ask: Ask) -> dict[str, Any]:
        """The template values that tell the criterion. `own` says that it came with the row: others wrote it."""
        if isinstance(self.rubric, Column):
            return {"rubric": self.rubric.of(row), "own": True}
        return {"rubric": criterion(self.rubric, ask), "own": False}


class Numbered(Judging):
    """Base of the judges that give numbers."""

    scale: Scale = (1.0, 10.0)
    """Lowest and highest score, both included. A score off the scale is asked for again, never clamped."""
    integer: bool = True
    """Ask for whole numbers, and accept nothing else."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        low, high = self.scale
        if not (low < high and math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"scale: the lowest score must be below the highest, not [{low:g}, {high:g}]")
        if self.integer and not (low.is_integer() and high.is_integer()):
            raise ValueError(f"scale: [{low:g}, {high:g}] has ends that are not whole; set integer: false")
        return self

    def limits(self) -> dict[str, str]:
        """The template values that tell the scale."""
        return {"low": f"{self.scale[0]:g}", "high": f"{self.scale[1]:g}"}

    def levels(self) -> int | None:
        """How many scores there are on the scale; None where they need not be whole."""
        return round(self.scale[1] - self.scale[0]) + 1 if self.integer else None

    def number(self) -> tuple[dict[str, Any], str]:
        """The JSON Schema of a score, and the same in words."""
        low, high = (int(end) if end.is_integer() else end for end in self.scale)
        kind = "integer" if self.integer else "number"
        return {"type": kind, "minimum": low, "maximum": high}, f"<{kind} from {low} to {high}>"


class Scaled(Judged, Numbered):
    """Base of the judges that give a number by one criterion."""

    def point_question(
        self,
        row: Row,
        sample: Sample,
        ask: Ask,
        prompt: str,
        model: str,
        n: int = 1,
        *,
        min_mass: float | None = None,
    ) -> Question[float]:
        """What to ask about one sample, for one score a reply. With `min_mass` it is the expectation over the
        verdict's tokens, where the scale has so much probability."""
        values = {**self.shared(row), **self.limits(), **self.criterion(row, ask)}
        schema, words = self.number()
        response_format, shape = self.form({"score": schema}, {"score": words})

        shown = self.shown(row, ["score"], [sample.text])

        def read(text: str) -> Parsed[float]:
            return parse_score(text, self.scale, integer=self.integer, asked=shown.asked, others=shown.others)

        def parse(completion: Completion) -> Parsed[float]:
            if min_mass is None:
                return read(completion.text)
            tokens = completion.logprobs or ()
            said = read(spoken(tokens)) if tokens else NO_TOKENS
            return expected_score(tokens, said, self.scale, min_mass=min_mass)

        messages = ask.prompt(prompt, response=sample.text, shape=shape, **values)
        logprobs = None if min_mass is None else TOP
        return Question(messages, parse, model, shape, n, response_format, logprobs)


class Extracting(Numbered):
    """Base of the judges whose verdicts can be taken in several ways."""

    repeats: int = Field(default=1, ge=1, le=100_000)
    """Replies to each question."""
    extract: Literal["sampled", "majority", "expected"] = "sampled"
    """How replies become a verdict: the mean of what they say ("sampled"), what most of the repeats say
    ("majority"), or the mean of what each might have said, weighted by the probabilities of the alternatives at
    the verdict's token ("expected", needs logprobs)."""
    min_mass: float = Field(default=MIN_MASS, gt=0, le=1)
    """For extract: expected: the least probability that the allowed verdicts must have between them."""

    @model_validator(mode="after")
    def _extracted(self) -> Self:
        if self.extract == "majority" and self.repeats < 2:
            raise ValueError("extract: majority counts the repeats' verdicts; set repeats to 2 or more")
        if self.extract == "expected" and not self.integer:
            raise ValueError("extract: expected works on whole numbers; leave integer: true")
        if self.extract == "expected" and self.scale[0] < 0:
            raise ValueError("extract: expected works on scales from 0 up; shift the scale")
        if self.extract != "expected" and "min_mass" in self.model_fields_set:
            raise ValueError("min_mass is for extract: expected; remove it, or set that")
        return self

    @property
    def expects(self) -> float | None:
        """The least mass for an expectation over tokens; None where verdicts are taken as they were written."""
        return self.min_mass if self.extract == "expected" else None

    def made(self, judge: str) -> Made:
        """How a score comes about that is made of one judge's repeats."""
        levels = None if self.extract == "expected" else self.levels()
        return Made((judge,), levels, 1 if self.extract == "majority" else self.repeats)

    def abilities(self) -> set[Capability]:
        """What a role must be able to do to judge."""
        return {"chat", "logprobs"} if self.extract == "expected" else {"chat"}


class Extracted(Scaled, Extracting):
    """Base of those that go by one criterion."""


class Tallying(Extracting):
    """Base of the judges whose verdict on a response is a number, made of several where there are repeats."""

    tie: TieRule = "abstain"
    """For extract: majority: where several scores are named most often, "abstain" (no score), or the "lowest",
    "highest" or "mean" of those."""

    @model_validator(mode="after")
    def _tallied(self) -> Self:
        if self.extract != "majority" and "tie" in self.model_fields_set:
            raise ValueError("tie is for extract: majority; remove it, or set that")
        return self

    def tally(self, votes: Sequence[Vote]) -> Score:
        """The votes' one Score."""
        return pool(votes, "multimode" if self.extract == "majority" else "mean", tie=self.tie)


class Tallied(Extracted, Tallying):
    """Base of those that go by one criterion."""


def is_name(rubric: str) -> bool:
    """True for the name of a rubric, such as "instruction-following" or "cpm/intent"; a sentence is a rubric
    itself."""
    return re.fullmatch(r"([a-z0-9]+/)?[a-z0-9]+([-_][a-z0-9]+)*", rubric) is not None


def criterion(rubric: str, ask: Ask) -> str:
    """The text of a rubric that is given by name or in words."""
    return ask.prompt(RUBRICS + rubric)[0]["content"] if is_name(rubric) else rubric


def verdict_form(
    properties: Mapping[str, Any], words: Mapping[str, str], reasoning: Place = "before"
) -> tuple[dict[str, Any], str]:
    """The response_format for a verdict with these properties and its reasoning, and the JSON in words."""
    name, length = REASONING
    given = {name: {"type": "string"}}
    before, after = (given if reasoning == place else {} for place in ("before", "after"))
    body = {**before, **properties, **after}
    schema = {"type": "object", "properties": body, "required": list(body), "additionalProperties": False}
    said = {name: f'"<{length}>"', **words}
    shape = "{" + ", ".join(f'"{key}": {said[key]}' for key in body) + "}"
    return {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "strict": True, "schema": schema},
    }, shape


def present(samples: Sequence[Sample]) -> list[int]:
    """The indices of the samples that hold a text."""
    return [i for i, sample in enumerate(samples) if not sample.empty]


def vote(
    judge: str, reply: Reply[Any], parsed: Parsed[float], shown: str | None = None, *, keep_reply: bool = True
) -> Vote:
    """The vote that a reply casts. `parsed` is what it says about one candidate."""
    rationale = parsed.rationale or reply.parsed.rationale
    text = reply.completion.text if keep_reply else ""
    return Vote(judge, parsed.value, parsed.why, text, rationale if keep_reply else None, shown)
