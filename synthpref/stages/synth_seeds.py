"""`synth.bootstrap`: from the prompts that are there to new ones, and its parts.

A round has three: a barrier that draws examples for each seed from all rows, the writing of new prompts, and
a barrier that refuses those too near to one that is there. Seeds and new prompts are told apart by a mark in
`Row.scratch`, which the last part takes away.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pydantic import Field

from synthpref.core.distance import rouge_l, words
from synthpref.core.seam import Ask
from synthpref.core.stage import Barrier, Calls, Load, PromptName, Role, RowStage, Stage
from synthpref.core.types import Drop, Origin, Row
from synthpref.stages.synth_ask import Writer, born, remember

WORD = "synth.bootstrap"
POOL = 10_000
"""Prompts from which examples are drawn. A larger pool is itself drawn from all rows."""


class Bootstrap(Stage):
    """Grows a set of seed prompts (Self-Instruct, arXiv:2212.10560, section 2.2 and its filter).

    For each seed and round a model sees the seed among other prompts as examples and writes `per_row` new
    ones. A new prompt whose ROUGE-L with a seed, or with a new prompt that came before it, reaches
    `threshold` is dropped ("near-duplicate"); a seed never is. From the second round on, `machine` of the
    examples are new prompts of earlier rounds. Only seeds are written from, so `rounds` grow the set in even
    steps.

    Prompts are compared one by one, so time grows with the square of their number: keep to some ten
    thousand.
    """

    model: Role
    """The role that writes."""
    per_row: int = Field(default=4, ge=1)
    """New prompts to ask for, for each seed and round, in one request."""
    examples: int = Field(default=8, ge=1)
    """Prompts shown as examples, the seed among them."""
    machine: int = Field(default=2, ge=0)
    """How many of the examples are new prompts of earlier rounds, once there are some."""
    longest: int = Field(default=4000, ge=1)
    """Prompts with more characters than this are no examples for others."""
    rounds: int = Field(default=1, ge=1)
    """How often each seed is written from."""
    threshold: float = Field(default=0.7, gt=0, le=1)
    """From which ROUGE-L on a new prompt is a near-duplicate."""
    keep_seeds: bool = True
    """Whether the seeds go on beside the new prompts. Otherwise each is dropped at the end ("seed not kept",
    or "no prompts" where nothing came of it)."""
    prompt: PromptName = "synth/bootstrap"
    """The template; it gets `examples` (texts), `count` and `shape`."""
    reask: PromptName = "synth/reask"
    """The template that asks once more for a reply that could not be used; it gets `why` and `shape`."""

    def load(self, samples: int) -> Load:
        """All new prompts are counted, as if none were refused; they come without samples."""
        return Load(0, (Calls(self.model, self.rounds),), self.per_row * self.rounds + self.keep_seeds)

    def expand(self) -> Sequence[Stage]:
        parts: list[Stage] = []
        for number in range(1, self.rounds + 1):
            parts += [
                DrawExamples(examples=self.examples, machine=self.machine, longest=self.longest),
                WriteNew(
                    model=self.model,
                    per_row=self.per_row,
                    round=number,
                    prompt=self.prompt,
                    reask=self.reask,
                ),
                RefuseNear(threshold=self.threshold),
            ]
        return [*parts, Settle(keep_seeds=self.keep_seeds)]


def _round(row: Row) -> int:
    """The round that wrote the row's prompt; 0 for a seed."""
    number: int = row.scratch.get(WORD, {}).get("round", 0)
    return number


class DrawExamples(Barrier):
    """Leaves examples on each seed. Memory: the texts of at most 20,000 prompts."""

    examples: int
    """Prompts to show, the seed among them."""
    machine: int
    """How many of them were written by a model, where there are such."""
    longest: int
    """Characters of the longest prompt that is shown to others."""

    def run(self, rows: Iterable[Row], rng: random.Random) -> Iterator[Row]:
        seeds = _drawn((row for row in rows if self._fits(row) and not _round(row)), rng)
        written = [text for _, text in _drawn((row for row in rows if self._fits(row) and _round(row)), rng)]
        for row in rows:
            if _round(row):
                yield row
            else:
                shown = self._shown(row, seeds, written, rng)
                yield replace(row, scratch={**row.scratch, WORD: {"examples": shown}})

    def _fits(self, row: Row) -> bool:
        return len(row.prompt_text) <= self.longest

    def _shown(
        self, row: Row, seeds: Sequence[tuple[str, str]], written: Sequence[str], rng: random.Random
    ) -> list[str]:
        free = self.examples - 1
        new = min(self.machine, len(written), free)
        # One more than wanted, in case the seed itself is among them.
        drawn = rng.sample(seeds, min(free - new + 1, len(seeds)))
        others = [text for id, text in drawn if id != row.id][: free - new]
        machine = rng.sample(written, min(free - len(others), len(written)))
        shown = [row.prompt_text, *others, *machine]
        rng.shuffle(shown)
        return shown


def _drawn(rows: Iterable[Row], rng: random.Random) -> list[tuple[str, str]]:
    """Id and prompt of at most POOL rows, each drawn with the same chance (reservoir sampling)."""
    pool: list[tuple[str, str]] = []
    for seen, row in enumerate(rows, 1):
        place = seen - 1 if seen <= POOL else rng.randrange(seen)
        if place < POOL:
            pool[place : place + 1] = [(row.id, row.prompt_text)]
    return pool


class WriteNew(Writer):
    """Asks for new prompts, once for each seed. They follow the seed, which goes on in any case."""

    per_row: int
    """New prompts to ask for."""
    round: int
    """The number of the round, from 1."""
    prompt: PromptName
    """The template; it gets `examples`, `count` and `shape`."""

    async def run(self, row: Row, ask: Ask) -> Row | list[Row]:
        if _round(row):
            return row
        job = {"examples": row.scratch[WORD]["examples"], "count": self.per_row}
        [prompts] = await self.write_many(ask, self.prompt, [job], [self.per_row], row.prompt_text)
        used = born(row, WORD)
        origin = Origin(WORD, row.id, ask.info(self.model).name, f"round {self.round}")
        children = [
            replace(row.child(number, prompt, origin), scratch={WORD: {"round": self.round}})
            for number, prompt in enumerate(prompts, used + 1)
        ]
        return [remember(row, WORD, used + len(prompts)), *children]


class RefuseNear(Barrier):
    """Drops new prompts that are near a seed or a new prompt that came before; seeds and prompts of earlier
    rounds stay, whatever their ids. Memory: some 100 bytes for each word of each prompt."""

    threshold: float
    """From which ROUGE-L on two prompts are near (Self-Instruct, arXiv:2212.10560: 0.7)."""

    def run(self, rows: Iterable[Row], rng: random.Random) -> Iterator[Row | tuple[Row, Drop]]:
        kept: list[_Known] = []
        newest = max((_round(row) for row in rows), default=0)
        for number in range(newest + 1):
            for row in rows:
                if _round(row) != number:
                    continue
                known = _Known(row)
                near = known.nearest(kept, self.threshold) if number == newest and number else None
                if near:
                    yield row, Drop("near-duplicate", near)
                else:
                    kept.append(known)
                    yield row


class _Known:
    """A prompt's words, and what tells without a comparison that two are far apart."""

    __slots__ = ("again", "distinct", "id", "tokens")

    def __init__(self, row: Row) -> None:
        self.id = row.id
        self.tokens = [sys.intern(word) for word in words(row.prompt_text)]
        self.distinct = frozenset(self.tokens)
        self.again = len(self.tokens) - len(self.distinct)

    def nearest(self, others: Iterable[_Known], threshold: float) -> str | None:
        """The first of the others that is near, in words for a report."""
        for other in others:
            # No common subsequence is longer than the shared words, each as often as the two can share it.
            shared = len(self.distinct & other.distinct) + min(self.again, other.again)
            if 2 * shared < threshold * (len(self.tokens) + len(other.tokens)):
                continue
            likeness = rouge_l(self.tokens, other.tokens)
            if likeness >= threshold:
                return f"of {other.id}, ROUGE-L {likeness:.2f}, prompt compared"
        return None


class Settle(RowStage):
    """Takes the marks away, and the seeds if they are not wanted."""

    keep_seeds: bool
    """Whether seeds go on."""

    async def run(self, row: Row, ask: Ask) -> Row | Drop:
        if not _round(row) and not self.keep_seeds:
            return Drop("seed not kept" if born(row, WORD) else "no prompts")
        return replace(row, scratch={k: v for k, v in row.scratch.items() if k != WORD})
