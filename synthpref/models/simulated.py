"""Models that are made up: policies, judges and reward models with set skill and faults, in a world where the
true quality of every text is known (models/world.py). Nothing is sent anywhere.

What a role does follows from what it is asked: a verdict on texts between fences, prompts, a rationale, or an
answer. An answer depends on the model's name, its fields, the messages and the seed, and on nothing else; the
same draws are made whatever the fields say, so that two settings can be compared on equal luck.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from synthpref.core.errors import BackendError
from synthpref.core.seam import NEUTRAL, Backend, Capability, Completion, ModelSpec, Request, TokenLogprob
from synthpref.core.types import Usage
from synthpref.models import phrases, world
from synthpref.models.asked import Asked, read
from synthpref.models.judged import Judge, Reply

Share = Annotated[float, Field(ge=0, le=1)]
TOKENS_PER_WORD = 1.3
VECTOR_SIZE = 256


class Simulated(ModelSpec):
    """A made-up model. Its qualities and biases are in units of the world's quality, where an ordinary policy's
    answers have mean 0 and spread 1, and the best there is has 3."""

    backend: Literal["simulated"] = "simulated"
    """A seeded world with latent quality; nothing is sent anywhere."""
    model: str = "simulated"
    """A name; another one draws other answers."""
    skill: float = Field(default=0.0, ge=-3, le=3)
    """Of a policy: the mean quality of its answers."""
    spread: float = Field(default=1.0, ge=0)
    """Of a policy: how much the quality of its answers varies (standard deviation)."""
    length: float = Field(default=120.0, ge=4)
    """Of a policy: the mean number of words in an answer; none has fewer than one sentence of about 20."""
    noise: float = Field(default=0.5, ge=0)
    """Of a judge or reward model: the spread of its error. A judge's is drawn anew in each reply, a reward
    model's is fixed for each text."""
    taste: float = Field(default=0.0, ge=0)
    """Of a judge: the spread of its lasting opinion of a text, which repeats do not average out; several judges do."""
    position_bias: float = 0.0
    """Of a judge: how much better the first of the shown candidates seems than the last."""
    length_bias: float = 0.0
    """Of a judge or reward model: how much better an answer seems for each 100 words more."""
    susceptibility: Share = 0.0
    """Of a judge: how often it follows a verdict that a candidate puts into its own text."""
    heads: tuple[str, ...] = ()
    """Of a reward model: the names of its heads, if it has some beside the "reward", each with an error of its own."""
    malformed: Share = 0.0
    """Share of the replies to a question of form that hold no verdict."""
    chatty: Share = 0.0
    """Share of the replies to a question of form that have prose around the JSON; none with structured output."""
    refuse: Share = 0.0
    """Share of the replies that are refusals."""
    empty: Share = 0.0
    """Share of the replies that are empty."""
    truncate: Share = 0.0
    """Share of the replies that break off (finish_reason "length")."""
    error: Annotated[Share, NEUTRAL] = 0.0
    """Share of the calls that fail in passing, as those to a busy server do."""
    structured_output: bool = True
    """Whether it takes a JSON schema and keeps to it."""
    logprobs: bool = True
    """Whether it returns log-probabilities."""
    latency_s: Annotated[float, NEUTRAL] = Field(default=0.0, ge=0)
    """Mean seconds for an answer; they vary as those of a real server do."""
    concurrency: Annotated[int, NEUTRAL] = Field(default=256, ge=1)
    """Calls under way at once; the others wait."""

    def able(self) -> frozenset[Capability]:
        optional: set[Capability] = set()
        if self.structured_output:
            optional.add("json_schema")
        if self.logprobs:
            optional |= {"logprobs", "prompt_logprobs"}
        return frozenset({"chat", "n", "embed", "reward", "compare", "prefill", *optional})

    def slots(self) -> int:
        return self.concurrency

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        if not self.heads:
            # Younger than journals that are to stay valid.
            del identity["heads"]
        return identity

    def open(self, shared: dict[str, Any]) -> Backend:
        return SimulatedBackend(self)


def quality(text: str) -> float:
    """The true quality of a text: what a judge without noise and bias sees."""
    return world.quality(text)


class SimulatedBackend:
    """A Backend without a wire."""

    def __init__(self, spec: Simulated) -> None:
        self.spec = spec
        self._slots = asyncio.Semaphore(spec.concurrency)
        self._failures: dict[str, int] = {}

    async def complete(self, request: Request) -> list[Completion]:
        async with self._slots:
            await asyncio.sleep(self._pace(request) if self.spec.latency_s else 0)
            if self.spec.error:
                self._fail(request)
        return answers(self.spec, request)

    def _pace(self, request: Request) -> float:
        luck = random.Random(f"pace|{self._key(request)}")
        return self.spec.latency_s * luck.lognormvariate(-0.125, 0.5)

    def _key(self, request: Request) -> str:
        return repr((self.spec.model, _shown(request), request.seed))

    def _fail(self, request: Request) -> None:
        """Raise for the spec's share of the calls; a call asked again has a new chance."""
        key = self._key(request)
        tries = self._failures.pop(key, 0)
        if world.uniform("error", tries, key) < self.spec.error:
            self._failures[key] = tries + 1
            raise BackendError("transient", "simulated failure: the server was busy", status=503)

    async def aclose(self) -> None:
        self._failures.clear()


def answers(spec: Simulated, request: Request) -> list[Completion]:
    """The completions of a request, without waiting."""
    tokens = tokens_of("".join(message["content"] for message in request.messages))
    if request.kind == "embed":
        made = [Completion(vector=world.vector(request.messages[-1]["content"], VECTOR_SIZE))]
    elif request.kind == "reward":
        heads = {head: _reward(spec, request, head) for head in spec.heads}
        made = [Completion(values={**heads, "reward": _reward(spec, request)})]
    elif request.kind == "compare":
        made = [Completion(values={"reward": _preference(spec, request)})]
    else:
        asked = read(request)
        made = [_answer(spec, request, asked, i) for i in range(request.n)]
    written = sum(tokens_of(completion.text) for completion in made)
    named = [replace(completion, model=spec.model) for completion in made]
    if request.prompt_logprobs is not None:
        named[0] = replace(named[0], prompt_logprobs=_of_prompt(spec, request))
    return [replace(named[0], usage=Usage(tokens, written)), *named[1:]]


def tokens_of(text: str) -> int:
    """Tokens of a text, as this world counts them."""
    return round(len(text.split()) * TOKENS_PER_WORD)


def _reward(spec: Simulated, request: Request, *head: str) -> float:
    text = request.messages[-1]["content"]
    error = world.normal("reward", spec.model, request.messages, *head)
    return world.quality(text) + spec.noise * error + Judge(spec).by_length(text)


def _preference(spec: Simulated, request: Request) -> float:
    """How much better the first of two answers seems than the second, as log-odds."""
    first, second = (message["content"] for message in request.messages[-2:])
    error = world.normal("compare", spec.model, request.messages)
    by_length = Judge(spec).by_length(first) - Judge(spec).by_length(second)
    return world.quality(first) - world.quality(second) + spec.noise * error + by_length + spec.position_bias


def _answer(spec: Simulated, request: Request, asked: Asked, i: int) -> Completion:
    seed = None if request.seed is None else request.seed + i
    draw = seed if seed is not None else f"unseeded {i}"
    rng = random.Random(repr((spec.model, _shown(request), draw)))
    reply = _faulty(spec, request, asked, rng) or _sound(spec, request, asked, rng)
    begun = request.messages[-1]["content"] if request.prefill else ""
    if begun and reply.text.startswith(begun):
        left = [(at - len(begun), said, menu) for at, said, menu in reply.verdicts if at >= len(begun)]
        reply = Reply(reply.text[len(begun) :], tuple(left))
    text, finish = _ended(spec, request, reply.text, rng)
    logprobs = None
    if request.logprobs is not None:
        logprobs = _logprobs(text, reply if text == reply.text else Reply(text), request.logprobs)
    return Completion(text=text, finish_reason=finish, logprobs=logprobs, seed=seed)


def _shown(request: Request) -> tuple[dict[str, str], ...]:
    """The messages, in one order of their parts: those of a row that comes from the journal stand in another."""
    return tuple({"role": m["role"], "content": m["content"]} for m in request.messages)


def _faulty(spec: Simulated, request: Request, asked: Asked, rng: random.Random) -> Reply | None:
    luck, choice = rng.random(), rng.random()
    for share, texts in ((spec.refuse, phrases.REFUSALS), (spec.empty, ("",))):
        if luck < share:
            return Reply(texts[int(choice * len(texts))])
        luck -= share
    if asked.schema is not None and luck < spec.malformed:
        return Reply(phrases.NO_VERDICT[int(choice * len(phrases.NO_VERDICT))])
    return None


def _sound(spec: Simulated, request: Request, asked: Asked, rng: random.Random) -> Reply:
    if asked.schema is not None:
        reply = Judge(spec).reply(asked, asked.schema, rng)
        chatty = rng.random() < spec.chatty and request.response_format is None
        return (
            reply.within(rng.choice(phrases.BEFORE_JSON), rng.choice(phrases.AFTER_JSON)) if chatty else reply
        )
    preferred, other = asked.texts.get("response A"), asked.texts.get("response B")
    if preferred is not None and other is not None:
        return Reply(world.rationale(asked.prompt, preferred, other, rng))
    length = spec.length * rng.lognormvariate(-0.045, 0.3)
    return Reply(world.compose(asked.last, spec.skill + spec.spread * rng.gauss(0, 1), length, rng))


def _ended(spec: Simulated, request: Request, text: str, rng: random.Random) -> tuple[str, str]:
    """The text as it is returned, and its finish_reason."""
    words = [len(part) for part in text.split(" ")]
    allowed = len(words)
    if rng.random() < spec.truncate and allowed > 1:
        allowed = rng.randrange(1, allowed)
    if request.max_tokens is not None:
        allowed = min(allowed, max(1, int(request.max_tokens / TOKENS_PER_WORD)))
    cut = allowed < len(words)
    if cut:
        text = text[: sum(words[:allowed]) + allowed - 1]
    ends = [text.find(stop) for stop in request.stop if stop and stop in text]
    if ends:
        return text[: min(ends)], "stop"
    return text, "length" if cut else "stop"


def _logprobs(text: str, reply: Reply, top: int) -> tuple[TokenLogprob, ...]:
    """A token for each word. Where the verdict stands, the alternatives are what the judge might have said."""
    tokens: list[TokenLogprob] = []
    at = 0
    for start, said, menu in reply.verdicts:
        tokens += _plain(text[at:start])
        ranked = sorted(menu.items(), key=lambda item: (-item[1], item[0]))
        tokens.append(TokenLogprob(said, menu[said], tuple(ranked[:top])))
        at = start + len(said)
    return (*tokens, *_plain(text[at:]))


def _of_prompt(spec: Simulated, request: Request) -> tuple[TokenLogprob | None, ...]:
    """A token for each word of the messages; the model is surer of what it would rather have said, the more skilled
    the surer. After a good answer it expects pleased words, and another good answer."""
    tokens: list[TokenLogprob | None] = [None]
    before = 0.0
    for message in request.messages:
        if not (content := message["content"]):
            continue
        own = world.quality(content)
        surer = 0.1 * own * (1 + 0.3 * spec.skill) + 0.02 * world.normal("wont", spec.model, content)
        answer = message["role"] == "assistant"
        surer += 0.1 * before * (1 if answer else phrases.mood(content))
        tokens += [replace(t, logprob=min(t.logprob - 1 + surer, -0.001)) for t in _plain(f" {content}")]
        before = own if answer else before
    return tuple(tokens)


def _plain(text: str) -> list[TokenLogprob]:
    words = text.split(" ")
    parts = [word if i == 0 else f" {word}" for i, word in enumerate(words)]
    return [TokenLogprob(part, -0.1 - world.uniform(part), ()) for part in parts if part]
