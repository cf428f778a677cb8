"""Scores from reward models: of one response, or of two together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator

from synthpref.core.errors import BackendError
from synthpref.core.seam import Ask, Capability
from synthpref.core.stage import Calls, Load, Made, Role, RowStage
from synthpref.core.types import Comparison, Row, Sample, Score, Vote
from synthpref.stages.asking import attempt_each, why_refused
from synthpref.stages.comparing import comparison
from synthpref.stages.judging import EMPTY, present
from synthpref.stages.tournament import Scheduled, rated


class Reward(RowStage):
    """A reward model scores the conversation that ends with the response.

    A model with several heads (helpfulness, verbosity, ...) has each kept as `name.head`. To use one in a later stage,
    name them in `heads`.
    """

    model: Role
    """The role of the reward model."""
    head: str | None = Field(default=None, min_length=1)
    """The head that makes the score; not needed where the model has one, or one that is called "reward". With `heads`
    and without it there is one score for each head the model gives, a "reward" among them too, and none besides."""
    heads: tuple[str, ...] = ()
    """The model's heads in its own order, each then a score `name.head` for later stages. An endpoint that sends numbers
    without names, as vLLM's server does, has them named so; one that names them must have these."""
    name: str = Field(default="reward", min_length=1)
    """The score's name."""

    def needs(self) -> set[str]:
        return {"samples"}

    def gives(self) -> set[str]:
        own = {f"score:{self.name}"} if self.total else set()
        return own | {f"score:{self.name}.{head}" for head in self.heads}

    @property
    def total(self) -> bool:
        """Whether one head, or the only one, makes a score of its own."""
        return self.head is not None or not self.heads

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.heads)) < len(self.heads):
            raise ValueError("heads: name each once")
        return self

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: {"reward"}}

    def load(self, samples: int) -> Load:
        return Load(samples, (Calls(self.model, samples, reads=1, writes=1),))

    async def run(self, row: Row, ask: Ask) -> Row:
        asked = present(row.samples)
        answers = await attempt_each(self._heads(row, row.samples[i], ask) for i in asked)
        heads = {
            i: made for i, made in zip(asked, answers, strict=True) if not isinstance(made, BackendError)
        }
        judge = ask.info(self.model).name
        every = range(len(row.samples))
        missing = {
            i: Score(None, why := why_refused(made), (Vote(judge, None, why),))
            for i, made in zip(asked, answers, strict=True)
            if isinstance(made, BackendError)
        }
        chosen = {i: self._chosen(values) for i, values in heads.items()} if self.total else {}
        found = dict.fromkeys(head for values in heads.values() for head in values)
        names = list(dict.fromkeys((*self.heads, *found)))
        for head in names if len(names) > 1 or self.heads else []:
            kept = [
                _score(judge, heads[i].get(head), head) if i in heads else missing.get(i, EMPTY)
                for i in every
            ]
            row = row.scored(f"{self.name}.{head}", kept)
        if not self.total:
            return row
        scores = [
            _score(judge, heads[i][chosen[i]], chosen[i]) if i in heads else missing.get(i, EMPTY)
            for i in every
        ]
        return row.scored(self.name, scores)

    async def _heads(self, row: Row, sample: Sample, ask: Ask) -> Mapping[str, float | None]:
        conversation = [*row.prompt, {"role": "assistant", "content": sample.text}]
        return self._named(await ask.reward(conversation, model=self.model))

    def _named(self, found: Mapping[str, float | None]) -> Mapping[str, float | None]:
        """The heads by the names they are to have. Raises ValueError when they are others, or not as many."""
        if set(self.heads) <= set(found):
            return found
        plain = ["reward"] if set(found) == {"reward"} else [f"head_{i}" for i in range(len(found))]
        unnamed = bool(found) and set(found) == set(plain)
        if unnamed and len(found) == len(self.heads):
            # By name: what comes from the journal is in the order of the alphabet, head_10 before head_2.
            return {own: found[head] for own, head in zip(self.heads, plain, strict=True)}
        if unnamed or not found:
            there = f"{len(found)} without names" if unnamed else "no head at all"
            raise ValueError(f"heads names {len(self.heads)}, and the reward model gave {there}")
        lacking = next(head for head in self.heads if head not in found)
        raise ValueError(
            f"heads names {lacking!r}, and the reward model gave {', '.join(found)}; take the names from these"
        )

    def _chosen(self, heads: Mapping[str, float | None]) -> str:
        """The head that makes the score. Raises ValueError when it is not to be had or not clear."""
        if self.head is not None and self.head in heads:
            return self.head
        there = ", ".join(heads) or "no head at all"
        if self.head is not None:
            raise ValueError(
                f"the reward model gave no head {self.head!r} but {there}; name one of these in head"
            )
        if len(heads) == 1:
            return next(iter(heads))
        if "reward" in heads:
            return "reward"
        raise ValueError(f"the reward model gave {there}; say in head which one makes the score")


def _score(judge: str, value: float | None, head: str) -> Score:
    if value is None or not math.isfinite(value):
        why = f"no reward: head {head!r} gave no number"
        return Score(None, why, (Vote(judge, None, why),))
    return Score(value, votes=(Vote(judge, value),))


class RewardPair(Scheduled):
    """A reward model that reads two responses together, as PairRM does (arXiv:2306.02561), compares them two at a time,
    in both orders, and each gets a score from its wins.

    A vote is the probability that the comparison's first response is the better one. Where the two orders name
    different winners, the comparison is marked as flipped.
    """

    model: Role
    """The role of the pairwise reward model."""
    score: Literal["bradley_terry", "elo", "win_rate"] = "bradley_terry"
    """How comparisons become a score: by how far each was won, as strengths in log-odds ("bradley_terry", 0 is the
    row's average), ratings ("elo", 1500 is the average), or the share of wins ("win_rate")."""

    def needs(self) -> set[str]:
        return {"samples"}

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: {"compare"}}

    def load(self, samples: int) -> Load:
        return Load(samples, (Calls(self.model, self.questions(samples), reads=2, writes=1),))

    def makes(self, samples: int) -> dict[str, Made]:
        return {self.name: Made((self.model,), None, 2 if self.swap else 1, one_order=not self.swap)}

    async def run(self, row: Row, ask: Ask) -> Row:
        there = present(row.samples)
        made: list[Comparison] = []
        for wave in self.waves(there, made, ask):
            orders = [self.orders(pair, ask) for pair in wave]
            shown = [order for both in orders for order in both]
            said = iter(await attempt_each(self._leaning(row, a, b, ask) for a, b in shown))
            judge = ask.info(self.model).name
            for (a, b), both in zip(wave, orders, strict=True):
                sides = [[_vote(judge, next(said), swapped=first != a)] for first, _ in both]
                made.append(comparison(self.name, a, b, sides))
        found = rated(row, there, made, self.score, self.prior)
        scores = [found.get(i, EMPTY) for i in range(len(row.samples))]
        return replace(row, comparisons=(*row.comparisons, *made)).scored(self.name, scores)

    async def _leaning(self, row: Row, first: int, second: int, ask: Ask) -> float | None:
        texts = row.samples[first].text, row.samples[second].text
        return await ask.compare(row.prompt, *texts, model=self.model)


def _vote(judge: str, logit: float | BackendError | None, *, swapped: bool) -> Vote:
    """On the comparison's `a`, which was shown second if `swapped`."""
    shown = "ba" if swapped else "ab"
    if isinstance(logit, BackendError):
        return Vote(judge, None, why_refused(logit), shown=shown)
    if logit is None or not math.isfinite(logit):
        return Vote(judge, None, "no comparison: the model gave no number", shown=shown)
    # 1 / (1 + exp(-x)), which overflows nowhere in this form.
    return Vote(judge, (1 + math.tanh((-logit if swapped else logit) / 2)) / 2, shown=shown)
