"""Stages that put candidate responses on a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from synthpref.core.errors import BackendError
from synthpref.core.seam import Ask, Completion, refusal
from synthpref.core.settings import Settings
from synthpref.core.stage import Calls, Load, PromptName, Role, RowStage
from synthpref.core.types import Drop, Message, Row, Sample
from synthpref.stages.asking import attempt_each


class Member(Settings):
    """One voice of an ensemble: a model role, how many responses it gives, and under which conditions."""

    model: Role
    """The role that answers."""
    n: int = Field(default=1, ge=1, le=100_000)
    """How many responses it gives to each prompt."""
    temperature: float | None = Field(default=None, ge=0)
    """Sampling temperature; the role's own where it is not given."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest response, in tokens; the role's own where it is not given."""
    system: str | None = Field(default=None, min_length=1)
    """A system prompt for this member alone. It shapes the responses and is kept in their `params`; the row's
    prompt stays as it is, so the training data does not hold it."""
    system_prompt: PromptName | None = None
    """The same as `system`, taken from a template such as sample/truthful."""

    @model_validator(mode="after")
    def _one_system(self) -> Self:
        if self.system and self.system_prompt:
            raise ValueError("give system (a text) or system_prompt (a template), not both")
        return self

    async def samples(self, row: Row, ask: Ask) -> list[Sample]:
        """The member's responses to the row's prompt, in the order of the endpoint's choices."""
        system = self._system(ask)
        answers = await ask(
            under(system, row.prompt),
            model=self.model,
            n=self.n,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
        )
        return self._made(answers, system, ask)

    def missing(self, error: BackendError, ask: Ask) -> list[Sample]:
        """What stands in the place of the responses where the endpoint gave none."""
        return self._made([refusal(error)] * self.n, self._system(ask), ask)

    def _made(self, answers: Sequence[Completion], system: str | None, ask: Ask) -> list[Sample]:
        info = ask.info(self.model)
        own = {"temperature": self.temperature, "max_tokens": self.max_tokens, "system": system}
        params: dict[str, Any] = {**info.params, **{k: v for k, v in own.items() if v is not None}}
        return [
            Sample(
                text=answer.text,
                model=info.name,
                finish_reason=answer.finish_reason,
                params=params | _facts(answer, info.name),
                seed=answer.seed,
                reasoning=answer.reasoning,
            )
            for answer in answers
        ]

    def _system(self, ask: Ask) -> str | None:
        if self.system_prompt is None:
            return self.system
        return "\n\n".join(message["content"] for message in ask.prompt(self.system_prompt))


def _facts(answer: Completion, model: str) -> dict[str, Any]:
    """What else is to be known of an answer: why there is none, or the endpoint's own name for the model, where it was
    asked for by an alias such as "latest"."""
    if answer.refused is not None:
        return {"refused": answer.refused}
    return {} if answer.model in ("", model) else {"served_as": answer.model}


def under(system: str | None, prompt: tuple[Message, ...]) -> list[Message]:
    """The prompt with `system` before it. A system message of the prompt's own is joined to it, because many
    chat templates take one only."""
    if system is None:
        return list(prompt)
    if prompt[0]["role"] == "system":
        return [{"role": "system", "content": f"{system}\n\n{prompt[0]['content']}"}, *prompt[1:]]
    return [{"role": "system", "content": system}, *prompt]


class N(RowStage):
    """Asks for responses to each prompt: n from one model, or from each member of an ensemble.

    All choices are kept, with model, parameters, seed and finish_reason, in the order of the members and not
    of their arrival. Empty, truncated and filtered responses are kept too: later stages see what they are,
    and pair none that is empty. A row of which no response has any text is dropped ("no usable response").
    """

    model: Role | None = None
    """The role that answers; or give `models`."""
    n: int = Field(default=1, ge=1, le=100_000)
    """How many responses `model` gives to each prompt."""
    temperature: float | None = Field(default=None, ge=0)
    """Sampling temperature; the role's own where it is not given."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest response, in tokens; the role's own where it is not given."""
    system: str | None = Field(default=None, min_length=1)
    """A system prompt under which the responses are written. It is kept in their `params`; the row's prompt
    stays as it is, so the training data does not hold it."""
    system_prompt: PromptName | None = None
    """The same as `system`, taken from a template such as sample/truthful."""
    models: tuple[Member, ...] = ()
    """An ensemble, instead of `model`: a list of members, each {model, n, temperature, max_tokens, system or
    system_prompt}."""
    when: Literal["missing", "always"] = "missing"
    """`missing`: a row that brought responses is left alone, however many they are. `always`: new responses
    are added after those that are there."""

    @model_validator(mode="after")
    def _model_or_models(self) -> Self:
        if (self.model is None) == (not self.models):
            raise ValueError("give model (one role) or models (a list of members): one of the two")
        mixed = sorted(set(Member.model_fields) & self.model_fields_set) if self.models else []
        if mixed:
            raise ValueError(f"{', '.join(mixed)}: with models, each member of the list has its own")
        _ = self.members  # their checks are this stage's
        return self

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """Who answers, in the order in which the responses stand on the row."""
        if self.models or self.model is None:
            return self.models
        given = {name: getattr(self, name) for name in Member.model_fields}
        return (Member(**given),)

    def gives(self) -> set[str]:
        return {"samples"}

    def load(self, samples: int) -> Load:
        if samples and self.when == "missing":
            return Load(samples)
        calls = tuple(Calls(member.model, 1, member.n) for member in self.members)
        return Load(samples + sum(member.n for member in self.members), calls)

    async def run(self, row: Row, ask: Ask) -> Row | Drop:
        if row.samples and self.when == "missing":
            made: list[list[Sample]] = []
        elif len(self.members) == 1:
            made = [await self.members[0].samples(row, ask)]
        else:
            # Each member by itself: who is refused costs the others nothing.
            answers = await attempt_each(member.samples(row, ask) for member in self.members)
            made = [
                member.missing(answer, ask) if isinstance(answer, BackendError) else answer
                for member, answer in zip(self.members, answers, strict=True)
            ]
        samples = (*row.samples, *(sample for group in made for sample in group))
        if all(sample.empty for sample in samples):
            ends = Counter(sample.finish_reason or "unknown" for sample in samples)
            detail = ", ".join(f"{count} x {reason}" for reason, count in sorted(ends.items()))
            return Drop("no usable response", f"{len(samples)} without text; finish_reason: {detail}")
        return replace(row, samples=samples)
