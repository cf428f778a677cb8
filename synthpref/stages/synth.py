"""Stages that make new prompts: from seeds (bootstrap), from a prompt (evolve), from a persona or a document.

A new prompt is a child of the row it was made from: its id begins with that row's, its trail says which
stage and model made it, and it carries nothing of the parent's responses or reference answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator

from synthpref.core.parse import parse_choice
from synthpref.core.seam import Ask
from synthpref.core.stage import Calls, Load, PromptName, Role
from synthpref.core.types import Drop, Message, Origin, Row
from synthpref.stages.asking import Question, ask_parsed
from synthpref.stages.judging import verdict_form
from synthpref.stages.synth_ask import Writer, born, remember, unfit
from synthpref.stages.synth_seeds import Bootstrap

__all__ = ["Bootstrap", "Corpus", "Evolve", "Persona"]

KINDS = (
    "a question whose answer takes two or more facts from the document",
    "a question about why or how something is so",
    "an explanation for someone who is new to the subject",
    "a comparison or a weighing of two things",
    "a piece of writing for a named reader and purpose, such as a letter, a notice or a plan",
    "a problem to be solved or a decision to be made with what the document says",
    "a claim to be checked, which may be right or wrong",
)


class Evolve(Writer):
    """Rewrites a prompt into a harder or a rarer one (Evol-Instruct, WizardLM, arXiv:2304.12244, section 3).

    Each round draws one operation by seed: in depth (constraints, deepen, concretise, reasoning) or in
    breadth. An evolution that failed is eliminated and the next round starts again from the last good prompt;
    the trail names the reason: "refused", "no words", "prompt leak", "unchanged", "no gain", "no verdict", or
    what was wrong with a reply that held no prompt. If every round fails, the row goes on as it was.

    The paper looks for refusals and empty talk in the response to the evolved prompt; here they are looked
    for in the evolved prompt itself, before any response is paid for. Of a conversation, the last turn evolves.
    """

    rounds: int = Field(default=1, ge=1)
    """How many evolutions, each of the last good prompt."""
    operations: tuple[PromptName, ...] = Field(
        default=(
            "synth/evolve_constraints",
            "synth/evolve_deepen",
            "synth/evolve_concretise",
            "synth/evolve_reasoning",
            "synth/evolve_breadth",
        ),
        min_length=1,
    )
    """The operations to draw from, each a template that gets `prompt`, `context` (earlier turns, or "") and
    `shape`; a template of your own is an operation of your own. One named twice is drawn twice as often."""
    check: bool = True
    """Ask after each evolution whether it brought anything new, and eliminate it if not."""
    checker: Role | None = None
    """The role that is asked; `model` where it is not given."""
    prompt_check: PromptName = "synth/gain"
    """The template of that question; it gets `prompt`, `evolved` and `shape`."""
    keep_original: bool = True
    """Whether the prompt that came in goes on beside the evolved one, as in the paper's pool."""
    keep_steps: bool = False
    """Whether the good prompts of earlier rounds go on too, as in the paper's pool."""

    def load(self, samples: int) -> Load:
        """Every evolution is counted as a good one; new prompts come without samples."""
        calls = [Calls(self.model, self.rounds)]
        if self.check:
            calls.append(Calls(self.checker or self.model, self.rounds, reads=1))
        rows = (self.rounds if self.keep_steps else 1) + self.keep_original
        return Load(0, tuple(calls), rows)

    async def run(self, row: Row, ask: Ask) -> Row | list[Row]:
        before, text = last_turn(row.prompt)
        moves = [ask.rng.choice(self.operations) for _ in range(self.rounds)]
        steps: list[Origin] = []
        good: list[tuple[int, str]] = []
        for number, move in enumerate(moves, 1):
            evolved, fault = await self._evolve(move, before, text, ask)
            note = f"round {number}: {move.rsplit('/')[-1].removeprefix('evolve_')}"
            note += f" failed: {fault}" if fault else ""
            steps.append(Origin("synth.evolve", row.id, ask.info(self.model).name, note))
            if not fault:
                text = evolved
                good.append((number, text))
        if not good:
            return replace(row, trail=(*row.trail, *steps))
        used = born(row, "synth.evolve")
        children = []
        for number, prompt in good if self.keep_steps else good[-1:]:
            child = row.child(used + number, prompt, steps[number - 1])
            trail = steps if (number, prompt) == good[-1] else steps[:number]
            children.append(replace(child, prompt=(*before, *child.prompt), trail=(*row.trail, *trail)))
        kept = [remember(row, "synth.evolve", used + self.rounds)] if self.keep_original else []
        return [*kept, *children]

    async def _evolve(self, move: str, before: Sequence[Message], text: str, ask: Ask) -> tuple[str, str]:
        """The evolved prompt and "", or the reason why the evolution failed."""
        context = "\n\n".join(f"{m['role']}: {m['content']}" for m in before)
        evolved, why = await self.write_one(ask, move, prompt=text, context=context)
        fault = why or unfit(evolved, given=text)
        if fault or not self.check:
            return evolved, fault
        return evolved, await self._no_gain(text, evolved, ask)

    async def _no_gain(self, text: str, evolved: str, ask: Ask) -> str:
        """Why the evolved prompt is not known to bring anything new; "" when it does."""
        menu = ("yes", "no")
        schema, shape = verdict_form(
            {"verdict": {"type": "string", "enum": list(menu)}}, {"verdict": '"<yes or no>"'}
        )
        question = Question(
            ask.prompt(self.prompt_check, prompt=text, evolved=evolved, shape=shape),
            lambda completion: parse_choice(
                completion.text, menu, asked=["verdict", "reasoning"], others=[text, evolved]
            ),
            self.checker or self.model,
            shape,
            response_format=schema,
        )
        [reply] = await ask_parsed(ask, question, reask=self.reask)
        return {"yes": "", "no": "no gain"}.get(reply.parsed.value or "", "no verdict")


class Persona(Writer):
    """Writes the prompts that a persona would ask (arXiv:2406.20094, where a persona in the request steers
    what is synthesised).

    The persona comes from `personas` (drawn by seed, one for each prompt as far as they go), from the meta
    column `column`, or else is the row's own prompt text. In the first two cases the row's prompt is the
    matter that the persona asks about. The new rows take the row's place and carry the persona as the meta
    column "persona"; a row that yields no prompt is dropped ("no prompts").
    """

    per_row: int = Field(default=1, ge=1)
    """Prompts for each row."""
    personas: tuple[str, ...] = ()
    """Descriptions of people to draw from, a sentence or two each."""
    column: str | None = None
    """The meta column that holds the row's persona."""
    prompt: PromptName = "synth/persona"
    """The template; it gets `persona`, `prompt` ("" where there is none) `count` and `shape`."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.personas and self.column:
            raise ValueError("give personas (a list) or column (a meta column), not both")
        return self

    def needs(self) -> set[str]:
        return {f"meta:{self.column}"} if self.column else set()

    def gives(self) -> set[str]:
        return {"meta:persona"}

    def load(self, samples: int) -> Load:
        requests = min(self.per_row, len(self.personas)) or 1
        return Load(0, (Calls(self.model, requests),), self.per_row)

    async def run(self, row: Row, ask: Ask) -> list[Row] | Drop:
        if self.personas:
            drawn = ask.rng.sample(self.personas, min(self.per_row, len(self.personas)))
        else:
            drawn = [_text(row, self.column)]
        if not all(persona.strip() for persona in drawn):
            return Drop("no persona", f"the meta column {self.column!r} has no text" if self.column else "")
        matter = row.prompt_text if self.personas or self.column else ""
        share, rest = divmod(self.per_row, len(drawn))
        counts = [share + (i < rest) for i in range(len(drawn))]
        jobs = [
            {"persona": persona, "prompt": matter, "count": count}
            for persona, count in zip(drawn, counts, strict=True)
        ]
        found = await self.write_many(ask, self.prompt, jobs, counts, row.prompt_text)
        children = []
        for i, (persona, prompts) in enumerate(zip(drawn, found, strict=True)):
            for number, prompt in enumerate(prompts, sum(counts[:i]) + 1):
                origin = Origin("synth.persona", row.id, ask.info(self.model).name)
                child = row.child(number, prompt, origin)
                children.append(replace(child, meta={**child.meta, "persona": persona}))
        return children or Drop("no prompts", f"asked as {len(drawn)} persona(s)")


class Corpus(Writer):
    """Turns a document into tasks. The document is the row's prompt text, or its meta column `column`.

    The kinds of task are drawn by seed. With `ground`, each task is followed by the document; without, it
    must make sense to someone who never saw it. The new rows take the document's place; a document that
    yields no task is dropped ("no prompts").
    """

    per_row: int = Field(default=1, ge=1)
    """Tasks for each document, asked for in one request."""
    column: str | None = None
    """The meta column that holds the document; the row's prompt where it is not given."""
    kinds: tuple[str, ...] = Field(default=KINDS, min_length=1)
    """Kinds of task to draw from, in words that the model reads."""
    ground: bool = False
    """Whether the document is part of each new prompt, after the task."""
    prompt: PromptName = "synth/corpus"
    """The template; it gets `document`, `kinds` (a list, one for each task), `ground` and `shape`."""

    def needs(self) -> set[str]:
        return {f"meta:{self.column}"} if self.column else set()

    def load(self, samples: int) -> Load:
        return Load(0, (Calls(self.model, 1),), self.per_row)

    async def run(self, row: Row, ask: Ask) -> list[Row] | Drop:
        document = _text(row, self.column)
        if not document.strip():
            return Drop("no document", f"the meta column {self.column!r} has no text" if self.column else "")
        kinds = draw(self.kinds, self.per_row, ask.rng)
        job = {"document": document, "kinds": kinds, "ground": self.ground}
        [tasks] = await self.write_many(ask, self.prompt, [job], [self.per_row], document)
        origin = Origin("synth.corpus", row.id, ask.info(self.model).name, "grounded" if self.ground else "")
        below = f"\n\n{document}" if self.ground else ""
        children = [row.child(number, task + below, origin) for number, task in enumerate(tasks, 1)]
        return children or Drop("no prompts")


def last_turn(prompt: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
    """What comes before the last turn of a conversation, and the text of that turn."""
    return prompt[:-1], prompt[-1]["content"]


def draw(kinds: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """`count` of the kinds, none of them again before all have come."""
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += rng.sample(kinds, min(len(kinds), count - len(drawn)))
    return drawn


def _text(row: Row, column: str | None) -> str:
    """The text that a row brings: its prompt's, or that of a meta column ("" where it holds none)."""
    value = row.prompt_text if column is None else row.meta.get(column)
    return value if isinstance(value, str) else ""
