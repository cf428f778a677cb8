"""judge.principles: two responses at a time are set against principles that were drawn for the row."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from synthpref.core.principles import deciding, lean, log_odds, share_won
from synthpref.core.schedule import all_pairs, meetings
from synthpref.core.seam import Ask, Capability
from synthpref.core.settings import Settings
from synthpref.core.stage import PROMPT, Calls, Load, Made, PromptName, Role
from synthpref.core.types import Comparison, Row, Vote
from synthpref.stages.asking import ask_all
from synthpref.stages.comparing import Comparing, comparison, pair_vote
from synthpref.stages.judging import Extracting, is_name
from synthpref.stages.tournament import rated

FOLDER = "judge/principles/"
SHIPPED = (
    *("balanced", "candid", "concise", "factual", "harmless", "inventive", "obedient", "orderly", "plain"),
    *("practical", "reasoned", "relevant", "specific", "teaching", "thorough", "warm"),
)


class Principle(Settings):
    """A principle in your own words."""

    definition: str = Field(min_length=1)
    """What a response does that keeps to it, as a sentence."""
    negated: str | None = None
    """What a response does that goes against it, for rows that ask for that. Without it the principle is never
    negated."""


class Draw(Settings):
    """How many principles a row gets: `min`, and one more for as long as chance has it, up to `max`."""

    min: int = Field(default=1, ge=1)
    """The fewest."""
    max: int = Field(default=8, ge=1)
    """The most."""
    p: float = Field(default=0.2, gt=0, le=1)
    """The probability to stop at each, once there are `min`: a geometric distribution, cut at `max`."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"draw: max {self.max} is below min {self.min}")
        return self

    def count(self, rng: random.Random) -> int:
        """A number of principles."""
        n = self.min
        while n < self.max and rng.random() >= self.p:
            n += 1
        return n

    @property
    def mean(self) -> float:
        """How many there are on average."""
        return self.min + sum((1 - self.p) ** k for k in range(1, self.max - self.min + 1))


def _by_name(given: Any) -> Any:
    listed = isinstance(given, list | tuple) and all(isinstance(name, str) for name in given)
    return {name: name for name in given} if listed else given


Bank = Annotated[
    dict[str, Principle | str],
    BeforeValidator(_by_name, json_schema_input_type=dict[str, Principle | str] | list[str]),
]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A principle of a row: what the judge is asked by, and what counts, which is the opposite if `negated`."""

    name: str
    definition: str
    counts: str
    negated: bool

    @property
    def label(self) -> str:
        return f"not {self.name}" if self.negated else self.name


class Principles(Extracting):
    """A judge compares responses two at a time by a few principles that are drawn for the row, some of them negated.

    Each principle is asked about by itself, in both orders; where these disagree it says nothing. The principle
    with the largest difference decides, as in SALMON (arXiv:2310.05910); a negated one decides for the response
    that keeps less to it. Which principles counted is kept with the row: their sentences in the column `name`, for
    the prompt of a reward model (see the exporters' `meta`), and their names in `name.drawn`.
    """

    model: Role
    """The role that judges."""
    name: str = Field(default="principles", min_length=1)
    """The name of the comparisons, of the score, and of the column with the principles. What was found by a single
    principle is in comparisons called `name.principle`, as it was asked: not negated."""
    principles: Bank = Field(default=SHIPPED, validate_default=True, min_length=1)
    """The principles to draw from: names of templates in prompts/judge/principles, or a mapping from a name to
    {definition, negated} in your own words."""
    draw: int | Draw = Draw()
    """How many principles a row gets: a number, or {min, max, p} for a number drawn by lot, by default as in
    SALMON from 1 to 8, where fewer are likelier."""
    negate: float = Field(default=0.5, ge=0, le=1)
    """The probability with which a principle is negated. For a dataset whose readers are not told the principles,
    such as one for DPO, set it to 0."""
    verdict: Literal["scores", "winner"] = "scores"
    """What the judge says: how far each response keeps to the principle, on `scale` ("scores"), or which does so more
    ("winner"). With "winner" all differences are equally large, unless extract: expected tells the odds."""
    ties: bool = True
    """Let the judge see no difference."""
    score: Literal["bradley_terry", "win_rate"] = "bradley_terry"
    """How comparisons become a score: strengths in log-odds (0 is the row's average), or the share of wins with a tie
    as half."""
    prior: float = Field(default=0.1, gt=0)
    """For score: bradley_terry: how many drawn games against an average response each one starts with."""
    prompt: PromptName = "judge/principle"
    """The template (judge/principle_winner where the verdict is a winner)."""

    @model_validator(mode="before")
    @classmethod
    def _template(cls, data: Any) -> Any:
        winner = isinstance(data, dict) and data.get("verdict") == "winner"
        return {"prompt": "judge/principle_winner", **data} if winner else data

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        given = self.model_fields_set
        least = self.draw if isinstance(self.draw, int) else self.draw.min
        if least < 1:
            raise ValueError(f"draw: at least 1 principle is needed, not {least}")
        if least > len(self.principles):
            raise ValueError(f"draw: {least} principles cannot be drawn from {len(self.principles)}")
        if self.extract == "majority":
            raise ValueError("extract: majority loses how large a difference is; use sampled or expected")
        if self.verdict == "winner" and (unused := sorted({"scale", "integer"} & given)):
            raise ValueError(f"{unused[0]} is for verdict: scores; remove it, or set that")
        if self.score != "bradley_terry" and "prior" in given:
            raise ValueError("prior is for score: bradley_terry; remove it, or set that")
        for name, principle in self.principles.items():
            if isinstance(principle, Principle) and is_name(principle.definition):
                raise ValueError(f"principles.{name}: give the definition as a sentence")
        return self

    def marked(self, mark: str) -> Iterator[tuple[str, str]]:
        yield from super().marked(mark)
        if mark == PROMPT:
            for name, text in self.principles.items():
                if isinstance(text, str) and is_name(text):
                    yield f"principles.{name}", FOLDER + text

    def gives(self) -> set[str]:
        return {
            f"score:{self.name}",
            f"comparisons:{self.name}",
            f"meta:{self.name}",
            f"meta:{self.name}.drawn",
        }

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: self.abilities()}

    def load(self, samples: int) -> Load:
        drawn = self.draw if isinstance(self.draw, int) else self.draw.mean
        requests = 2 * meetings(samples, samples) * min(drawn, len(self.principles))
        return Load(samples, (Calls(self.model, requests, n=self.repeats, reads=2 + self.reference),))

    def makes(self, samples: int) -> dict[str, Made]:
        return {self.name: Made((self.model,), votes=2 * self.repeats)}

    async def run(self, row: Row, ask: Ask) -> Row:
        if taken := {self.name, f"{self.name}.drawn"} & set(row.meta):
            raise ValueError(f"the row has a column {min(taken)!r} already; give the stage another name")
        drawn, pairs = self._drawn(ask), all_pairs(self.asked(row))
        orders = [order for a, b in pairs for order in ((a, b), (b, a))]
        questions = [
            judge.pair_question(row, first, second, ask, self.prompt, self.model, self.repeats)
            for judge in (self._judge(principle) for principle in drawn)
            for first, second in orders
        ]
        replies = iter(await ask_all(ask, questions, again=self.again, reask=self.reask))
        judge_name = ask.info(self.model).name
        by_principle: dict[str, list[Comparison]] = {}
        for principle in drawn:
            by_principle[principle.name] = []
            for a, b in pairs:
                sides = [[pair_vote(judge_name, r, swapped=s) for r in next(replies)] for s in (False, True)]
                made = comparison(f"{self.name}.{principle.name}", a, b, sides)
                by_principle[principle.name].append(made)
        together = [
            self._decided(a, b, {p: by_principle[p.name][i] for p in drawn}) for i, (a, b) in enumerate(pairs)
        ]
        singly = [made for several in by_principle.values() for made in several]
        sentences = "\n".join(f"- {principle.counts}" for principle in drawn)
        names = [principle.label for principle in drawn]
        row = replace(
            row,
            comparisons=(*row.comparisons, *together, *singly),
            meta={**row.meta, self.name: sentences, f"{self.name}.drawn": names},
        )
        scores = rated(row, self.asked(row), together, self.score, self.prior)
        return row.scored(self.name, self.every(row, scores))

    def _drawn(self, ask: Ask) -> list[Drawn]:
        """The row's principles."""
        rng, names = ask.rng, list(self.principles)
        count = self.draw if isinstance(self.draw, int) else self.draw.count(rng)
        chosen = rng.sample(names, min(count, len(names)))
        # One draw for each, whatever `negate` is: to change it asks nothing new.
        lots = [rng.random() for _ in chosen]
        drawn = []
        for name, lot in zip(chosen, lots, strict=True):
            definition, opposite = self._texts(self.principles[name], ask)
            negated = bool(opposite) and lot < self.negate
            drawn.append(Drawn(name, definition, opposite if negated and opposite else definition, negated))
        return drawn

    def _texts(self, principle: Principle | str, ask: Ask) -> tuple[str, str | None]:
        """A principle's definition and its negated one."""
        if isinstance(principle, Principle):
            return principle.definition, principle.negated
        if not is_name(principle):
            return principle, None
        texts = [ask.prompt(FOLDER + principle, negated=negated) for negated in (False, True)]
        return texts[0][0]["content"], texts[1][0]["content"] or None

    def _judge(self, principle: Drawn) -> Comparing:
        """Who compares by this principle alone."""
        shared = {name: getattr(self, name) for name in self.model_fields_set & set(Comparing.model_fields)}
        return Comparing(
            **{**shared, "verdict": self.verdict, "ties": self.ties, "rubric": principle.definition}
        )

    def _decided(self, a: int, b: int, by: Mapping[Drawn, Comparison]) -> Comparison:
        """What all principles say together: what the one with the largest difference says."""
        leans = {p.label: self._lean(made, p) for p, made in by.items()}
        known = {label: value for label, value in leans.items() if value is not None}
        strongest = deciding(known)
        heard = {p: made for p, made in by.items() if p.label in (strongest or known or leans)}
        votes = tuple(_counted(vote, p) for p, made in heard.items() for vote in made.votes)
        p_a = share_won([known[label] for label in strongest]) if strongest else 0.5 if known else None
        flipped = not strongest and any(made.flipped for made in heard.values())
        return Comparison(self.name, a, b, p_a, flipped, votes)

    def _lean(self, made: Comparison, principle: Drawn) -> float | None:
        """How far the principle, as it counts, speaks for `a`; not at all where most replies say otherwise than
        their mean difference does."""
        sides = [
            [self._difference(vote) for vote in made.votes if vote.shown == shown and vote.value is not None]
            for shown in ("ab", "ba")
        ]
        found = lean(sides)
        if found and made.p is not None and (found > 0) != (made.p > 0.5):
            found = 0.0
        return -found if found is not None and principle.negated else found

    def _difference(self, vote: Vote) -> float:
        if vote.scores:
            return vote.scores[0] - vote.scores[1]
        share = 0.5 if vote.value is None else vote.value
        return log_odds(share) if self.extract == "expected" else 2 * share - 1


def _counted(vote: Vote, principle: Drawn) -> Vote:
    """The vote as it counts: turned around by a negated principle. The reply itself is kept with the principle's own
    comparison."""
    value = 1 - vote.value if principle.negated and vote.value is not None else vote.value
    rationale = f"{principle.label}: {vote.rationale}" if vote.rationale else None
    scores = None if principle.negated else vote.scores
    return replace(vote, value=value, reply="", rationale=rationale, scores=scores)
