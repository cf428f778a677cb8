"""score.perplexity, score.density_ratio, score.implicit, score.reference: scores that are made of how probable models
hold texts to be, without a word of a judge."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator

from synthpref.core.logprob import Span, implicit_reward, log_ratio, perplexity
from synthpref.core.parse import parse_choice
from synthpref.core.reply import Parsed
from synthpref.core.seam import Ask, Capability
from synthpref.core.stage import PROMPT, ROLE, Calls, Load, Made, PromptName, Role, RowStage
from synthpref.core.types import Message, Row, Score
from synthpref.stages.asking import Question, ask_parsed
from synthpref.stages.judging import EMPTY, NO_REFERENCE, Column, present, verdict_form
from synthpref.stages.sample import under
from synthpref.stages.spans import ANSWERS, answers, of, says, score

PREFIXES = "score/prefixes/"


class Probable(RowStage):
    """Base of the scores that are made of the probability of the responses themselves.

    The end of a response's turn is not counted, only its words. A response whose tokens cannot be told from what the
    chat template puts around it gets no score, and the reason.
    """

    def needs(self) -> set[str]:
        return {"samples"}

    def requires(self) -> dict[str, set[Capability]]:
        return {role: set(ANSWERS) for _, role in self.marked(ROLE)}

    def load(self, samples: int) -> Load:
        each = [
            Calls(role, samples + 1 if samples else 0, reads=1, writes=1) for _, role in self.marked(ROLE)
        ]
        return Load(samples, tuple(each))

    async def spans(
        self, row: Row, ask: Ask, *asked: tuple[str, Sequence[Message]]
    ) -> dict[int, tuple[Parsed[Span], ...]]:
        """Of each response that holds a text, by its index: its tokens, to each (role, what it answers)."""
        there = present(row.samples)
        texts = [row.samples[i].text for i in there]
        read = await asyncio.gather(*(answers(ask, role, context, texts) for role, context in asked))
        return dict(zip(there, zip(*read, strict=True), strict=True))


class Perplexity(Probable):
    """How probable a model holds each response to be, given the prompt. Nothing is written by it: one request for each
    response, and one for the prompt.

    A perplexity is the lower the more probable the response; the other two forms are the higher.
    """

    model: Role
    """The role whose log-probabilities count."""
    form: Literal["perplexity", "mean", "sum"] = "perplexity"
    """The perplexity (1 where each token is foretold), the mean log-probability of a token, or the response's own
    log-probability, which is the lower the longer it is."""
    name: str = Field(default="perplexity", min_length=1)
    """The score's name."""

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def makes(self, samples: int) -> dict[str, Made]:
        lower = self.form == "perplexity"
        return {name: replace(made, lower_is_better=lower) for name, made in super().makes(samples).items()}

    async def run(self, row: Row, ask: Ask) -> Row:
        formulas = {"perplexity": perplexity, "mean": lambda s: s.mean, "sum": lambda s: s.total}
        spans = await self.spans(row, ask, (self.model, row.prompt))
        made = {i: of(span, formulas[self.form]) for i, (span,) in spans.items()}
        return _scored(row, self.name, ask.info(self.model).name, made)


class Implicit(Probable):
    """The reward that a policy has learned: beta times how much more probable it holds a response to be than the model
    it was trained from, as in DPO (arXiv:2305.18290) and in labels by a policy itself (SPA, arXiv:2406.04412)."""

    policy: Role
    """The role of the trained model."""
    reference: Role
    """The role of the model that it was trained from."""
    beta: float = Field(default=0.1, gt=0)
    """The beta that it was trained with."""
    name: str = Field(default="implicit", min_length=1)
    """The score's name."""

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    async def run(self, row: Row, ask: Ask) -> Row:
        spans = await self.spans(row, ask, (self.policy, row.prompt), (self.reference, row.prompt))
        made = {i: _both(a, b, beta=self.beta) for i, (a, b) in spans.items()}
        return _scored(row, self.name, ask.info(self.policy).name, made)


class DensityRatio(Probable):
    """How much more probable a better aligned model holds a response to be than a worse aligned one of the same family,
    for instance after preference training and before it (CDR, arXiv:2411.02481).

    The prompt's kind may choose an instruction that the strong model sees before it (`prefixes`): what it asks for,
    such as safety, then weighs more in the score.
    """

    strong: Role
    """The role of the better aligned model."""
    weak: Role
    """The role of the other; it must cut texts into the same tokens."""
    per_token: bool = False
    """Divide by the number of tokens, so that length has no say."""
    prefixes: tuple[str, ...] = Field(default=(), examples=[["chat", "safety", "reasoning"]])
    """Kinds of prompts, each with an instruction for the strong model in prompts/score/prefixes/. Of several the
    router chooses for each row; a single one holds for all."""
    router: Role | Column | None = None
    """Who says which of the prefixes a row's prompt calls for: a role that is asked, or {column: NAME} of the source.
    A row for which none is named gets no scores."""
    prompt_route: PromptName = "score/route"
    """The template that asks a role for the kind."""
    reask: PromptName = "score/reask"
    """The template that follows a reply of the router that names no kind."""
    name: str = Field(default="density_ratio", min_length=1)
    """The score's name."""

    @model_validator(mode="after")
    def _routed(self) -> Self:
        if (len(self.prefixes) > 1) != (self.router is not None):
            raise ValueError("a router goes with two prefixes or more, and those with a router")
        return self

    def marked(self, mark: str) -> Iterator[tuple[str, str]]:
        for path, name in super().marked(mark):
            if isinstance(self.router, str) or path not in ("prompt_route", "reask"):
                yield path, name
        if mark == PROMPT:
            yield from ((f"prefixes[{i}]", PREFIXES + kind) for i, kind in enumerate(self.prefixes))

    def needs(self) -> set[str]:
        own = {f"meta:{self.router.column}"} if isinstance(self.router, Column) else set()
        return super().needs() | own

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def requires(self) -> dict[str, set[Capability]]:
        needed: dict[str, set[Capability]] = {self.strong: set(ANSWERS), self.weak: set(ANSWERS)}
        if isinstance(self.router, str):
            needed.setdefault(self.router, set()).add("chat")
        return needed

    def load(self, samples: int) -> Load:
        calls = [
            Calls(role, samples + 1 if samples else 0, reads=1, writes=1) for role in (self.strong, self.weak)
        ]
        return Load(samples, (*calls, *([Calls(self.router, 1)] if isinstance(self.router, str) else [])))

    async def run(self, row: Row, ask: Ask) -> Row:
        judge = ask.info(self.strong).name
        if not present(row.samples):
            return _scored(row, self.name, judge, {})
        kind = await self._kind(row, ask)
        if kind.value is None:
            lost: Parsed[float] = Parsed(None, f"no kind of prompt: {kind.why}")
            return _scored(row, self.name, judge, dict.fromkeys(present(row.samples), lost))
        prefix = ask.prompt(PREFIXES + kind.value)[0]["content"] if kind.value else None
        spans = await self.spans(row, ask, (self.strong, under(prefix, row.prompt)), (self.weak, row.prompt))
        made = {i: _both(a, b, per_token=self.per_token) for i, (a, b) in spans.items()}
        return _scored(row, self.name, judge, made)

    async def _kind(self, row: Row, ask: Ask) -> Parsed[str]:
        """The prefix for this row; "" for none."""
        if self.router is None:
            return Parsed(self.prefixes[0] if self.prefixes else "")
        if isinstance(self.router, Column):
            named = self.router.of(row)
            return Parsed(named if named in self.prefixes else None, f"the column says {named!r}")
        form, shape = verdict_form(
            {"kind": {"type": "string", "enum": list(self.prefixes)}},
            {"kind": f'"<{" or ".join(self.prefixes)}>"'},
            "none",
        )
        messages = ask.prompt(
            self.prompt_route, prompt=row.prompt_text, kinds=list(self.prefixes), shape=shape
        )
        question = Question(
            messages,
            lambda reply: parse_choice(
                reply.text, self.prefixes, "kind", asked=["kind"], others=[row.prompt_text]
            ),
            self.router,
            shape,
            1,
            form,
        )
        return (await ask_parsed(ask, question, reask=self.reask))[0].parsed


class Reference(RowStage):
    """How probable a model holds the row's reference answer to be once it has read a response: what the response is
    worth as a step towards it, for instance as a question that draws out what matters (STaR-GATE, arXiv:2403.19154).

    The model reads the prompt, the response, and a request for the final answer; the reference's log-probability as
    that answer is the score. A row without a reference gets no scores.
    """

    model: Role
    """The role whose log-probabilities count."""
    per_token: bool = False
    """Divide by the number of the reference's tokens. Within a row that changes nothing but the scale; it makes scores
    of several rows comparable."""
    prompt: PromptName = "score/final"
    """The template of the request for the final answer."""
    name: str = Field(default="reference", min_length=1)
    """The score's name."""

    def needs(self) -> set[str]:
        return {"samples", "reference"}

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: set(ANSWERS)}

    def load(self, samples: int) -> Load:
        return Load(samples, (Calls(self.model, 2 * samples, reads=1.5, writes=1),))

    async def run(self, row: Row, ask: Ask) -> Row:
        there = present(row.samples)
        if row.reference is None:
            return row.scored(self.name, [EMPTY if s.empty else NO_REFERENCE for s in row.samples])
        request = ask.prompt(self.prompt)
        contexts = [[*row.prompt, says("assistant", row.samples[i].text), *request] for i in there]
        read = await asyncio.gather(*(answers(ask, self.model, c, [row.reference]) for c in contexts))
        made = {
            i: of(span, lambda s: s.mean if self.per_token else s.total)
            for i, (span,) in zip(there, read, strict=True)
        }
        return _scored(row, self.name, ask.info(self.model).name, made)


def _both(
    over: Parsed[Span], under: Parsed[Span], *, beta: float | None = None, per_token: bool = False
) -> Parsed[float]:
    for span in (over, under):
        if span.value is None:
            return Parsed(None, span.why)
    assert over.value is not None
    assert under.value is not None
    if beta is None:
        return log_ratio(over.value, under.value, per_token=per_token)
    return implicit_reward(over.value, under.value, beta)


def _scored(row: Row, name: str, judge: str, made: Mapping[int, Parsed[float]]) -> Row:
    """The row with a Score on each response: what was made, by index, and the reason for an empty one."""
    scores: list[Score] = [score(judge, made[i]) if i in made else EMPTY for i in range(len(row.samples))]
    return row.scored(name, scores)
