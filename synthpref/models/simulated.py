"""`backend: simulated`: policies, judges, reward models, embedders and prompt writers of a made-up world.

What a role does follows from what it is asked. A chat prompt gets an answer; a prompt that ends with a JSON shape
(as all judge and synth templates do), or comes with a JSON schema, gets that shape filled in, and the candidates to
judge are found by their fences. Every answer depends on the model, the messages and the seed alone, so it is the
same on every run and under any concurrency.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from synthpref.core.errors import BackendError
from synthpref.core.seam import (
    NEUTRAL,
    Backend,
    Capability,
    Completion,
    ModelSpec,
    Request,
    TokenLogprob,
)
from synthpref.core.template import fenced
from synthpref.core.types import Usage
from synthpref.models.world import compose, draw, embed, invent, quality

SHARE = Field(default=0.0, ge=0, le=1)
TOKENS_PER_WORD = 1.3
TIE = 0.15
"""A pairwise judge that may say so calls two answers a tie when it sees less than this between them."""
STRETCH = 1.3
"""Standard deviation of the qualities that fill a judge's scale evenly."""
_NORMAL = NormalDist()
_BLANK = re.compile(r'"(?P<key>[^"]+)":\s*(?P<blank>"?<[^<>]*>"?|\[<[^<>]*>\])')
_RANGE = re.compile(r"<(integer|number) from (-?[\d.]+) to (-?[\d.]+)>")
_VERDICT_INSIDE = re.compile(
    r'"(score|winner|verdict)"\s*:|\b(score|rating|winner)\s*[:=]|ignore (all|any|the|previous)|10/10', re.I
)


class Simulated(ModelSpec):
    """A model of the simulated world: no network, no key, and a true quality behind every text."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {"chat", "n", "logprobs", "json_schema", "embed", "reward"}
    )

    backend: Literal["simulated"] = "simulated"
    """This backend."""
    skill: float = 0.0
    """Mean quality of a policy's answers, in standard deviations of the average policy's."""
    spread: float = Field(default=1.0, ge=0)
    """Standard deviation of a policy's answers to one prompt."""
    length: float = Field(default=140.0, gt=0)
    """Mean words of an answer."""
    noise: float = Field(default=0.5, ge=0)
    """Standard deviation of what a judge or reward model adds to the true quality."""
    position_bias: float = 0.0
    """What a judge adds to the response that it is shown first."""
    length_bias: float = 0.0
    """What a judge or reward model adds for each doubling of the length over 140 words."""
    susceptibility: float = SHARE
    """Share of responses holding a verdict or an order to the judge that a judge falls for."""
    malformed: float = SHARE
    """Share of replies to a JSON question that hold no verdict."""
    chatty: float = SHARE
    """Share of replies to a JSON question that wrap the JSON in prose."""
    refuse: float = SHARE
    """Share of answers that are a refusal."""
    empty: float = SHARE
    """Share of answers that are empty."""
    truncate: float = SHARE
    """Share of answers that stop in the middle, with finish_reason "length"."""
    error: Annotated[float, NEUTRAL] = SHARE
    """Share of requests that fail for a passing reason."""
    latency_s: Annotated[float, NEUTRAL] = Field(default=0.0, ge=0)
    """Mean seconds an answer takes, log-normally distributed."""

    def open(self, shared: dict[str, Any]) -> Backend:
        return _World(self)


class _World:
    def __init__(self, spec: Simulated) -> None:
        self.spec = spec
        self._identity = json.dumps(spec.identity(), sort_keys=True)
        self._requests = 0

    async def complete(self, request: Request) -> list[Completion]:
        spec = self.spec
        self._requests += 1
        luck = draw("luck", spec.model, self._requests, request.messages[-1]["content"])
        await asyncio.sleep(luck.lognormvariate(math.log(spec.latency_s), 0.4) if spec.latency_s else 0)
        if luck.random() < spec.error:
            raise BackendError("transient", "the simulated endpoint failed", status=500)
        answers = [self._answer(request, i) for i in range(request.n)]
        read = _tokens(" ".join(m["content"] for m in request.messages))
        usage = Usage(read, sum(_tokens(a.text) for a in answers))
        return [replace(answers[0], usage=usage), *answers[1:]]

    async def aclose(self) -> None:
        return None

    def _answer(self, request: Request, i: int) -> Completion:
        fixed = request.kind == "chat" and request.temperature == 0
        seed = 0 if fixed else (request.seed or 0) + i
        rng = draw(self._identity, request.kind, request.messages, seed)
        text = request.messages[-1]["content"]
        if request.kind == "embed":
            return Completion(vector=embed(text), model=self.spec.model)
        if request.kind == "reward":
            return Completion(values={"reward": self._sees(text, rng)}, model=self.spec.model)
        shape = shape_in(text) or schema_shape(request.response_format)
        if shape:
            return self._verdict(request, shape, rng)
        candidates = dict(fenced(text))
        if "response A" in candidates:
            return self._done(request, _rationale(candidates, rng))
        return self._policy(request, rng)

    def _policy(self, request: Request, rng: random.Random) -> Completion:
        spec = self.spec
        fate = rng.random()
        words = spec.length * rng.lognormvariate(0.0, 0.25)
        text = compose(request.messages[-1]["content"], rng.gauss(spec.skill, spec.spread), words, rng)
        if fate < spec.refuse:
            text = "I'm sorry, but I can't help with that."
        elif fate < spec.refuse + spec.empty:
            text = ""
        elif fate < spec.refuse + spec.empty + spec.truncate:
            return Completion(text=text[: len(text) // 2], finish_reason="length", model=spec.model)
        return self._done(request, text)

    def _done(self, request: Request, text: str) -> Completion:
        """The text, cut where max_tokens cuts it."""
        words = text.split(" ")
        most = int(request.max_tokens / TOKENS_PER_WORD) if request.max_tokens else len(words)
        cut = len(words) > max(most, 1)
        kept = " ".join(words[: max(most, 1)]) if cut else text
        return Completion(text=kept, finish_reason="length" if cut else "stop", model=self.spec.model)

    def _sees(self, text: str, rng: random.Random, *, first: bool = False) -> float:
        """The quality that a judge sees in a candidate: the true one, its biases, and noise."""
        return self._expects(text, rng, first=first) + rng.gauss(0.0, self.spec.noise)

    def _expects(self, text: str, rng: random.Random, *, first: bool = False) -> float:
        spec = self.spec
        if _VERDICT_INSIDE.search(text) and rng.random() < spec.susceptibility:
            return 4.0
        length = math.log2(max(len(text.split()), 1) / 140)
        return quality(text) + spec.length_bias * length + (spec.position_bias if first else 0.0)

    def _verdict(self, request: Request, shape: str, rng: random.Random) -> Completion:
        spec = self.spec
        if rng.random() < spec.malformed:
            return Completion(
                text="I would rather not put a number on this.", finish_reason="stop", model=spec.model
            )
        text = "\n".join(m["content"] for m in request.messages if m["role"] == "user")
        candidates = {label: body for label, body in fenced(text) if label.startswith("response")}
        tokens: list[TokenLogprob] = []
        reply, last = "", 0
        for blank in _BLANK.finditer(shape):
            filled, top = self._fill(blank["key"], blank["blank"], candidates, text, rng)
            before = shape[last : blank.start("blank")]
            reply += before + filled
            tokens += [TokenLogprob(before, 0.0), TokenLogprob(filled, dict(top).get(filled, 0.0), top)]
            last = blank.end("blank")
        reply += shape[last:]
        if rng.random() < spec.chatty:
            reply = f"Let me think about this.\n\n```json\n{reply}\n```\n\nI hope that helps."
        kept = tuple(tokens) if request.logprobs else None
        return Completion(text=reply, finish_reason="stop", model=spec.model, logprobs=kept)

    def _fill(
        self, key: str, blank: str, candidates: Mapping[str, str], text: str, rng: random.Random
    ) -> tuple[str, tuple[tuple[str, float], ...]]:
        """(what goes in place of the blank, its log-probability and those of its alternatives)."""
        if number := _RANGE.search(blank):
            label = f"response {key}" if f"response {key}" in candidates else "response"
            candidate = candidates.get(label, text)
            first = len(candidates) > 1 and label == next(iter(candidates), "")
            return self._number(
                candidate, first, number[1] == "integer", float(number[2]), float(number[3]), rng
            )
        if blank.startswith("["):
            count = int(found[0]) if (found := re.search(r"\d+", blank)) else 1
            return json.dumps([invent(_subject(text), rng) for _ in range(count)], ensure_ascii=False), ()
        options = re.split(r", | or ", blank.strip('"<>'))
        if options[0] == "A" and len(candidates) >= 2:
            gap = self._sees(candidates["response A"], rng, first=True) - self._sees(
                candidates["response B"], rng
            )
            tied = "tie" in options and abs(gap) < TIE
            return json.dumps("tie" if tied else "A" if gap > 0 else "B"), ()
        if options == ["yes", "no"]:
            return json.dumps("yes" if rng.random() < 0.85 else "no"), ()
        if key == "prompt":
            return json.dumps(invent(_subject(text), rng), ensure_ascii=False), ()
        return json.dumps(_reason(candidates, rng), ensure_ascii=False), ()

    def _number(
        self, text: str, first: bool, whole: bool, low: float, high: float, rng: random.Random
    ) -> tuple[str, tuple[tuple[str, float], ...]]:
        mean, noise = self._expects(text, rng, first=first), self.spec.noise
        seen = _NORMAL.cdf((mean + rng.gauss(0.0, noise)) / STRETCH)
        if not whole:
            return f"{low + (high - low) * seen:.2f}", ()
        levels = int(high - low) + 1
        value = str(int(low) + min(int(seen * levels), levels - 1))
        ends = [-math.inf, *(STRETCH * _NORMAL.inv_cdf(k / levels) for k in range(1, levels)), math.inf]
        law = NormalDist(mean, max(noise, 1e-3))
        masses = [(str(int(low) + k), law.cdf(ends[k + 1]) - law.cdf(ends[k])) for k in range(levels)]
        return value, tuple((token, math.log(mass)) for token, mass in masses if mass > 1e-6)


def shape_in(prompt: str) -> str:
    """The JSON shape with blanks that a prompt ends with, after its last fence; "" where there is none."""
    tail = prompt.rsplit("<</", 1)[-1]
    start = tail.find('{"')
    shape = tail[start : tail.rfind("}") + 1] if start >= 0 else ""
    return shape if _BLANK.search(shape) else ""


def schema_shape(response_format: Mapping[str, Any] | None) -> str:
    """The same for a response_format with a JSON schema, for prompts that do not say the shape in words."""
    if not response_format or response_format.get("type") != "json_schema":
        return ""

    def shape(schema: Mapping[str, Any]) -> str:
        if "properties" in schema:
            return "{" + ", ".join(f'"{k}": {shape(v)}' for k, v in schema["properties"].items()) + "}"
        if "enum" in schema:
            return f'"<{" or ".join(map(str, schema["enum"]))}>"'
        if schema.get("type") in ("integer", "number"):
            return f"<{schema['type']} from {schema.get('minimum', 1)} to {schema.get('maximum', 10)}>"
        return (
            f"[<exactly {schema.get('minItems', 1)} strings>]"
            if schema.get("type") == "array"
            else '"<text>"'
        )

    return shape(response_format["json_schema"]["schema"])


def _subject(text: str) -> str:
    """What a new prompt is to be about: the fenced texts, or all of it."""
    return " ".join(body for _, body in fenced(text)) or text


def _reason(candidates: Mapping[str, str], rng: random.Random) -> str:
    strong = (
        "answers the question",
        "gives reasons",
        "is concrete",
        "is easy to follow",
        "keeps to the point",
    )
    weak = ("stays vague in places", "repeats itself", "skips a step", "claims more than it shows")
    who = "It" if len(candidates) < 2 else f"The {'first' if rng.random() < 0.5 else 'other'} one"
    return f"{who} {rng.choice(strong)} and {rng.choice(strong)}, but {rng.choice(weak)}."


def _rationale(candidates: Mapping[str, str], rng: random.Random) -> str:
    return (
        f"The preferred response {rng.choice(('is more concrete', 'gives its reasons', 'keeps to the point'))} and "
        f"{rng.choice(('says where its advice ends', 'names a case', 'puts first what matters most'))}. "
        f"The other response {rng.choice(('stays vague', 'repeats itself', 'leaves the question open'))}."
    )


def _tokens(text: str) -> int:
    return math.ceil(len(text.split()) * TOKENS_PER_WORD)
