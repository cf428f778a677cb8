"""The nouns of the project: a Row and what hangs on it.

All are frozen: a stage makes a new Row with more on it (`dataclasses.replace`), and never edits a text in
place, so every pair can be traced to the calls that made it. Indices in `pairs` and `comparisons` point
into `Row.samples`, which only grows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from synthpref.core.finish import Ending, ending_of

Message = dict[str, str]
"""A chat message as on the OpenAI wire: {"role": "system" | "user" | "assistant", "content": text}."""


def _finite(value: float | None, what: str) -> None:
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{what} must be a finite number or None, not {value}")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as the endpoint counted them, or of several."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    """Whether they were estimated from the texts, because the endpoint did not count all of them."""
    live: bool = False
    """Whether they were asked for live, at the full price, by a role that asks in batches."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated or other.estimated,
            self.live and other.live,
        )


@dataclass(frozen=True, slots=True)
class Vote:
    """One reply of one judge. `value` is None when the reply held no verdict, and `why` then says so."""

    judge: str
    value: float | None = None
    why: str | None = None
    reply: str = ""
    rationale: str | None = None
    shown: str | None = None
    """In which order the candidates were shown ("ab", "ba", "2,0,1"), where order matters."""
    role: str = ""
    """Who cast it, where several sit together: the juror's or the persona's name in the recipe. All that one of
    them says of the same thing counts as one ballot (core/votes.py). Without a role, each vote is its own."""
    asked: bool = True
    """False where the judge was not asked, because the outcome was certain already. That is no failure."""
    reliability: float | None = None
    """The share of this juror's votes that are right, as estimated where the reducer weighs votes by it."""
    scores: tuple[float, float] | None = None
    """Of a vote on two samples, a and b: the score of each, where the reply gave both one."""

    def __post_init__(self) -> None:
        _finite(self.value, "a vote")
        if self.value is None and not self.why:
            raise ValueError("a vote without a value needs a reason")

    @property
    def failed(self) -> bool:
        """Whether the judge was asked and gave no verdict."""
        return self.asked and self.value is None


@dataclass(frozen=True, slots=True)
class Score:
    """A number on a sample, or the reason why there is none. A failure is never turned into a number."""

    value: float | None = None
    why: str | None = None
    votes: tuple[Vote, ...] = ()

    def __post_init__(self) -> None:
        _finite(self.value, "a score")
        if self.value is None and not self.why:
            raise ValueError("a score without a value needs a reason")


@dataclass(frozen=True, slots=True)
class Sample:
    """One candidate response to the row's prompt, with all that is needed to ask for it again."""

    text: str
    model: str = ""
    finish_reason: str | None = None
    """The endpoint's own word for how the text ended, such as "stop", "length" or "content_filter"; None where it gave
    none, or where the source provided the sample."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """The sampling parameters in effect (temperature, top_p, max_tokens, system, ...)."""
    seed: int | None = None
    reasoning: str | None = None
    parent: int | None = None
    """Index of the sample that this one was made from, for revisions."""
    scores: Mapping[str, Score] = field(default_factory=dict)

    @property
    def ended(self) -> Ending:
        return ending_of(self.finish_reason)

    @property
    def truncated(self) -> bool:
        """Whether the end of the text is missing: the endpoint cut it off, or broke down."""
        return self.ended in ("cut", "failed")

    @property
    def filtered(self) -> bool:
        """Whether the endpoint's filter took the text away, or what came after it."""
        return self.ended == "filtered"

    @property
    def empty(self) -> bool:
        return not self.text.strip()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two samples set against each other by a judge, in one or both orders.

    Each vote's value is 1.0 where `a` won, 0.0 where `b` won and 0.5 for a tie, whatever order was shown; or the
    probability that `a` wins, where the judge's tokens told it.
    """

    name: str
    a: int
    b: int
    p: float | None
    """How far `a` won: the mean of the votes that have a value, unless the stage goes by another rule, as a jury does
    by its reducer; None if no vote has one, or the rule gives none."""
    flipped: bool = False
    """True when the two orders named different winners, before anything was asked again."""
    votes: tuple[Vote, ...] = ()

    def __post_init__(self) -> None:
        _finite(self.p, "the outcome of a comparison")
        if self.a == self.b:
            raise ValueError("a comparison needs two different samples")


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference: `samples[chosen]` over `samples[rejected]`, and the rule that said so."""

    chosen: int
    rejected: int
    rule: str
    margin: float | None = None
    """Score of chosen minus score of rejected; None where the rule used no score."""
    p: float | None = None
    """Probability that chosen is preferred, where votes give one (core/doubt.py)."""
    rationale: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the rule did, for the report: e.g. {"target": -1.2, "was_min": True, "fallback": "min"}."""
    p_low: float | None = None
    """Lower end of the 95 % interval of `p`."""
    p_high: float | None = None
    """Upper end of it."""
    agreement: float | None = None
    """Share of the votes on the two that are on the label's side; a tie is not."""
    votes: int | None = None
    """How many votes `p` rests on: ballots of jurors, or replies of one judge."""

    def __post_init__(self) -> None:
        _finite(self.margin, "a margin")
        for share in (self.p, self.p_low, self.p_high, self.agreement):
            _finite(share, "a share of votes")
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are the same sample")


@dataclass(frozen=True, slots=True)
class Origin:
    """One step in the making of a prompt: which stage made it from which row, by which model."""

    stage: str
    parent: str
    model: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A prompt and everything known about it. `id` is its name in the journal and in every report."""

    id: str
    prompt: tuple[Message, ...]
    samples: tuple[Sample, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    pairs: tuple[Pair, ...] = ()
    reference: str | None = None
    """A gold answer, where the source has one."""
    licence: str | None = None
    trail: tuple[Origin, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The source's other columns, carried through to the canonical rows."""
    scratch: Mapping[str, Any] = field(default_factory=dict)
    """What one part of a stage leaves for a later part (a vector, in-context examples); never exported."""

    @property
    def prompt_text(self) -> str:
        """The prompt as one text: the user's words alone, or each turn under its role."""
        if len(self.prompt) == 1:
            return self.prompt[0]["content"]
        return "\n\n".join(f"{m['role']}: {m['content']}" for m in self.prompt)

    def values(self, score: str) -> list[float | None]:
        """The score called `score` of each sample, None where it is missing or has no value."""
        scores = (sample.scores.get(score) for sample in self.samples)
        return [None if s is None else s.value for s in scores]

    def scored(self, name: str, scores: Iterable[Score]) -> Row:
        """This row with one Score a sample, in order, under `name`. Raises ValueError on a wrong count."""
        added = zip(self.samples, scores, strict=True)
        return replace(
            self, samples=tuple(replace(s, scores={**s.scores, name: score}) for s, score in added)
        )

    def child(self, number: int, prompt: str, origin: Origin) -> Row:
        """A new row made from this one: same licence and meta, its own id, nothing else carried over."""
        return Row(
            id=f"{self.id}.{origin.stage}-{number}",
            prompt=({"role": "user", "content": prompt},),
            licence=self.licence,
            trail=(*self.trail, origin),
            meta=self.meta,
        )


@dataclass(frozen=True, slots=True)
class Note:
    """What a barrier found out about all rows, for the report: plain JSON values by name. A mapping from names to
    numbers becomes a column of a table."""

    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Drop:
    """A stage decided that this row leaves. `reason` is a short fixed phrase (it is counted); the
    particulars go into `detail`."""

    reason: str
    detail: str = ""
