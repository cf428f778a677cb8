"""What judges have in common: criteria, the form of a verdict, and votes made of replies."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from synthpref.core.parse import Parsed, Scale, parse_score
from synthpref.core.seam import Ask, Completion
from synthpref.core.stage import PROMPT, PromptName, RowStage
from synthpref.core.types import Row, Sample, Score, Vote
from synthpref.stages.asking import Question, Reply
from synthpref.stages.own_words import own_verdict

RUBRICS = "judge/rubrics/"
EMPTY = Score(None, why="empty response")
NO_REFERENCE = Score(None, why="no reference on the row")
REASONING = ("reasoning", "two or three sentences")


class Judging(RowStage):
    """Base of the stages that ask a judge about the samples of a row."""

    reference: bool = False
    """Show the judge the row's reference answer as one known to be good. A row without one gets no scores."""
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
        return [] if self.reference and row.reference is None else present(row.samples)

    def every(self, row: Row, made: Mapping[int, Score]) -> list[Score]:
        """A Score for each sample: those made, by index, and the reason for each that was not asked about."""
        return [made.get(i, EMPTY if sample.empty else NO_REFERENCE) for i, sample in enumerate(row.samples)]

    def shared(self, row: Row) -> dict[str, Any]:
        """The template values that any judge prompt has."""
        return {"prompt": row.prompt_text, "reference": row.reference if self.reference else None}


class Judged(Judging):
    """Base of the judges that go by one criterion."""

    rubric: str = Field(default="helpfulness", min_length=1)
    """What to judge by: the name of a rubric in prompts/judge/rubrics, or the criterion in your own words."""

    def criteria(self) -> list[tuple[str, str]]:
        return [("rubric", self.rubric)]


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

    def number(self) -> tuple[dict[str, Any], str]:
        """The JSON Schema of a score, and the same in words."""
        low, high = (int(end) if end.is_integer() else end for end in self.scale)
        kind = "integer" if self.integer else "number"
        return {"type": kind, "minimum": low, "maximum": high}, f"<{kind} from {low} to {high}>"


class Scaled(Judged, Numbered):
    """Base of the judges that give a number by one criterion."""

    def point_question(
        self, row: Row, sample: Sample, ask: Ask, prompt: str, model: str, n: int = 1
    ) -> Question[float]:
        """What to ask about one sample, for one score a reply."""
        values = {**self.shared(row), **self.limits(), "rubric": criterion(self.rubric, ask)}
        schema, words = self.number()
        response_format, shape = verdict_form({"score": schema}, {"score": words})

        def parse(completion: Completion) -> Parsed[float]:
            def read(text: str) -> dict[str, Parsed[float]]:
                return {"": parse_score(text, self.scale, integer=self.integer)}

            return own_verdict(completion.text, [sample.text], read)[""]

        messages = ask.prompt(prompt, response=sample.text, shape=shape, **values)
        return Question(messages, parse, model, shape, n, response_format)


def is_name(rubric: str) -> bool:
    """True for the name of a rubric, such as "instruction-following"; a sentence is a rubric itself."""
    return re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", rubric) is not None


def criterion(rubric: str, ask: Ask) -> str:
    """The text of a rubric that is given by name or in words."""
    return ask.prompt(RUBRICS + rubric)[0]["content"] if is_name(rubric) else rubric


def verdict_form(properties: Mapping[str, Any], words: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """The response_format for a verdict with these properties after its reasoning, and the JSON in words."""
    body = {REASONING[0]: {"type": "string"}, **properties}
    schema = {"type": "object", "properties": body, "required": list(body), "additionalProperties": False}
    shown = ", ".join(f'"{key}": {text}' for key, text in words.items())
    shape = f'{{"{REASONING[0]}": "<{REASONING[1]}>", {shown}}}'
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
