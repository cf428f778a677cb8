"""debate: several personas discuss a response, or two, and then each gives a score."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from pydantic import Field, model_validator

from synthpref.core.errors import BackendError
from synthpref.core.parse import Parsed
from synthpref.core.schedule import Meeting, all_pairs
from synthpref.core.seam import Ask, Capability, Completion
from synthpref.core.stage import Calls, Load, Made, PromptName, Role
from synthpref.core.stats import mean
from synthpref.core.types import Comparison, Row, Score, Vote
from synthpref.core.verdicts import flipped, leaning
from synthpref.core.votes import Reducer, Rule, TieRule, pool
from synthpref.stages.asking import Question, Reply, ask_all, attempt
from synthpref.stages.judging import Scaled, vote
from synthpref.stages.named import Named, all_named, named_form, read_named

PERSONAS = {
    "the reader": (
        "You are the one who asked, or someone like them: no specialist, short of time, and in need of an answer that "
        "can be used. You notice what helps, what confuses, and what was asked for and is missing."
    ),
    "the specialist": (
        "You know the subject from long practice. You check facts, figures, steps and terms, you see what an expert "
        "would have said, and you do not mistake a confident tone for knowledge."
    ),
    "the sceptic": (
        "You look for what is wrong: claims without support, padding, flattery, a question evaded, a demand of the "
        "prompt passed over. You also doubt the others' praise and their blame, and you say so when a fault is none."
    ),
}
"""Three ways of looking at an answer, after the roles of ChatEval (arXiv:2308.07201)."""


@dataclass
class _Debate:
    """One discussion: what it is about, in the order shown, and what was said, as (speaker, round, words)."""

    about: tuple[int, ...]
    said: list[tuple[str, int, str]] = field(default_factory=list)

    def of(self, speaker: str) -> list[str]:
        return [f"Round {number}: {words}" for who, number, words in self.said if who == speaker]


class Debate(Scaled):
    """Personas discuss each response, or each two, in turn and in several rounds; each sees all that was said
    before. Then each gives a score by itself, and these make one (ChatEval, arXiv:2308.07201, one-by-one talk; the
    debates of arXiv:2408.08688 have three personas and two rounds).

    A persona whose scores cannot be read counts as nothing. What each one said is kept with its vote. With n
    responses, `about: pair` holds n(n-1)/2 debates, twice with `swap`.
    """

    judges: tuple[Role, ...] = Field(min_length=1)
    """The roles that speak: the first persona is played by the first one, and so on, over again where there are
    fewer roles than personas."""
    name: str = Field(default="debated", min_length=1)
    """The name of the score, and of the comparisons."""
    about: Literal["point", "pair"] = "point"
    """What a debate is about: each response by itself ("point"), or two at a time ("pair"). In the latter each
    persona scores both, and the one with the higher score by all of them has won."""
    personas: dict[str, str] = Field(default=PERSONAS, min_length=2)
    """Who takes part, in the order in which they speak: a name, and in your own words who that is, told to the
    model as "You are ..."."""
    rounds: int = Field(default=2, ge=1)
    """How often each speaks before the scores."""
    words: int = Field(default=120, ge=10)
    """About how long each may speak."""
    swap: bool = True
    """For about: pair: hold each debate in both orders. Without it, one order is drawn by lot."""
    reducer: Reducer = "mean"
    """How the personas' scores become one: "mean", "median", "minimum", "majority" (the score that more than half
    name) or "multimode" (the score named most often)."""
    tie: TieRule = "abstain"
    """Where the median, the majority or the mode leaves several scores: "abstain" (no score), or the "lowest",
    "highest" or "mean" of these."""
    at_least: int = Field(default=1, ge=1)
    """Personas whose scores must be readable, or there is no score."""
    prompt: PromptName = "judge/debate"
    """The template of a turn to speak."""
    prompt_verdict: PromptName = "judge/debate_verdict"
    """The template that asks for the scores."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.at_least > len(self.personas):
            raise ValueError(f"at_least: {self.at_least} cannot come from {len(self.personas)} personas")
        if self.about == "point" and "swap" in self.model_fields_set:
            raise ValueError("swap is for about: pair; remove it, or set that")
        if any(not name.strip() or not text.strip() for name, text in self.personas.items()):
            raise ValueError("personas: each needs a name and a text that says who it is")
        return self

    def gives(self) -> set[str]:
        compared = {f"comparisons:{self.name}"} if self.about == "pair" else set()
        return {f"score:{self.name}", *compared}

    def requires(self) -> dict[str, set[Capability]]:
        return {role: {"chat"} for role in self.judges}

    def load(self, samples: int) -> Load:
        shown = 1 if self.about == "point" else 2
        debates = samples if shown == 1 else samples * (samples - 1) / 2 * (1 + self.swap)
        # Each turn shows what was said before, half of the turns in the mean.
        heard = 0.5 * self.rounds * len(self.personas) * self.words / 300
        calls = [
            Calls(role, debates * (self.rounds + 1), reads=shown + self.reference + heard)
            for role in self._cast().values()
        ]
        return Load(samples, tuple(calls))

    def makes(self, samples: int) -> dict[str, Made]:
        side_by_side = self.about == "pair" and not self.swap
        votes = len(self.personas) if self.reducer == "mean" else 1
        return {self.name: Made(tuple(self._cast().values()), self.levels(), votes, side_by_side)}

    def _cast(self) -> dict[str, str]:
        """The role that plays each persona."""
        return {name: self.judges[i % len(self.judges)] for i, name in enumerate(self.personas)}

    async def run(self, row: Row, ask: Ask) -> Row:
        debates = self._debates(row, ask)
        for number in range(1, self.rounds + 1):
            for name, role in self._cast().items():
                await self._speak(row, debates, name, role, number, ask)
        votes = await self._score(row, debates, ask)
        made: dict[int, Score] = {}
        for i in self.asked(row):
            cast = [v for debate, by in zip(debates, votes, strict=True) if i in debate.about for v in by[i]]
            made[i] = pool(cast, self.reducer, tie=self.tie, at_least=self.at_least)
        if self.about == "pair":
            row = replace(row, comparisons=(*row.comparisons, *self._compared(debates, votes)))
        return row.scored(self.name, self.every(row, made))

    def _debates(self, row: Row, ask: Ask) -> list[_Debate]:
        if self.about == "point":
            return [_Debate((i,)) for i in self.asked(row)]
        pairs = all_pairs(self.asked(row))
        if self.swap:
            return [_Debate(order) for a, b in pairs for order in ((a, b), (b, a))]
        return [_Debate((a, b) if ask.rng.random() < 0.5 else (b, a)) for a, b in pairs]

    async def _speak(
        self, row: Row, debates: Sequence[_Debate], name: str, role: str, number: int, ask: Ask
    ) -> None:
        """One turn of one persona, in all debates at once."""
        turn = {"round": str(number), "rounds": str(self.rounds), "words": str(self.words)}
        asked = [
            attempt(ask(ask.prompt(self.prompt, **self._shown(row, debate, name, ask), **turn), model=role))
            for debate in debates
        ]
        for debate, made in zip(debates, await asyncio.gather(*asked), strict=True):
            # Who is refused is not heard.
            if isinstance(made, BackendError):
                continue
            [speech] = made
            # Who says nothing is not heard; who was cut off is heard as far as it came. What a filter or a breakdown
            # left is nobody's argument.
            if speech.text.strip() and speech.ended in ("whole", "cut"):
                debate.said.append((name, number, speech.text.strip()))

    def _shown(self, row: Row, debate: _Debate, name: str, ask: Ask) -> dict[str, object]:
        return {
            **self.shared(row),
            **self.criterion(row, ask),
            "responses": [row.samples[i].text for i in debate.about],
            "speeches": [words for _, _, words in debate.said],
            "speakers": [f"{who[:1].upper()}{who[1:]}, round {number}" for who, number, _ in debate.said],
            "speaker": name,
            "character": self.personas[name],
        }

    async def _score(self, row: Row, debates: Sequence[_Debate], ask: Ask) -> list[dict[int, list[Vote]]]:
        """For each debate, the personas' votes on each response."""
        cast = self._cast()
        seats = [(debate, name) for debate in debates for name in cast]
        questions = [self._verdict(row, debate, name, cast[name], ask) for debate, name in seats]
        replies = await ask_all(ask, questions, again=self.again, reask=self.reask)
        votes: list[dict[int, list[Vote]]] = [{i: [] for i in debate.about} for debate in debates]
        place = {id(debate): n for n, debate in enumerate(debates)}
        for (debate, name), [reply] in zip(seats, replies, strict=True):
            named = self._read(reply.completion, row, debate, name)
            for label, i in zip(named, debate.about, strict=True):
                made = self._vote(ask.info(cast[name]).name, name, debate, reply, named[label])
                votes[place[id(debate)]][i].append(made)
        return votes

    def _verdict(self, row: Row, debate: _Debate, name: str, role: str, ask: Ask) -> Question[Named]:
        labels = _labels(debate)
        inner, in_words = named_form(labels, *self.number())
        response_format, shape = self.form({"scores": inner}, {"scores": in_words})
        shown = self._shown(row, debate, name, ask)
        messages = ask.prompt(self.prompt_verdict, shape=shape, **shown, **self.limits())

        def parse(completion: Completion) -> Parsed[Named]:
            return all_named(self._read(completion, row, debate, name))

        return Question(messages, parse, role, shape, 1, response_format)

    def _read(self, completion: Completion, row: Row, debate: _Debate, name: str) -> Named:
        # What a response or another speaker says is no verdict of the one who quotes it.
        others = [words for who, _, words in debate.said if who != name]
        texts = [*(row.samples[i].text for i in debate.about), *others]
        return read_named(
            completion, _labels(debate), self.scale, self.integer, self.shown(row, ["scores"], texts)
        )

    def _vote(self, judge: str, name: str, debate: _Debate, reply: Reply[Named], said: Parsed[float]) -> Vote:
        shown = ",".join(str(i) for i in debate.about) if len(debate.about) > 1 else None
        made = replace(vote(judge, reply, said, shown), role=name)
        return replace(made, reply="\n\n".join([*debate.of(name), made.reply]))

    def _compared(
        self, debates: Sequence[_Debate], votes: Sequence[dict[int, list[Vote]]]
    ) -> list[Comparison]:
        """What each two responses came to, over one debate or both."""
        held: dict[Meeting, list[tuple[_Debate, dict[int, list[Vote]]]]] = {}
        for debate, by in zip(debates, votes, strict=True):
            a, b = sorted(debate.about)
            held.setdefault((a, b), []).append((debate, by))
        rule = Rule(self.reducer, self.tie, self.at_least)
        made = []
        for (a, b), each in held.items():
            sides: list[list[float]] = []
            kept: list[Vote] = []
            for debate, by in each:
                order = "ab" if debate.about == (a, b) else "ba"
                kept += [_against(x, y, order) for x, y in zip(by[a], by[b], strict=True)]
                first, second = (
                    rule.outcome([v.value for v in by[i] if v.value is not None]) for i in (a, b)
                )
                sides.append([] if first is None or second is None else [leaning(0.5 + first - second)])
            heard = [share for side in sides for share in side]
            p = mean(heard) if heard else None
            made.append(Comparison(self.name, a, b, p, flipped(sides), tuple(kept)))
        return made


def _labels(debate: _Debate) -> list[str]:
    return [str(n) for n in range(1, len(debate.about) + 1)]


def _against(a: Vote, b: Vote, shown: str) -> Vote:
    """A persona's vote on two responses, from its scores of both."""
    if a.value is None or b.value is None:
        return replace(a, value=None, why=a.why or b.why, shown=shown)
    won = leaning(0.5 + a.value - b.value)
    return replace(a, value=won, why=None, shown=shown, scores=(a.value, b.value))
