"""The one seam to models: a Request goes out, Completions come back.

Stages see only `Ask`. Backends see only `Request`. What lies between (journal, retries, limits, seeds) is
the engine's. Names are those of the OpenAI API and of vLLM.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field, SecretStr

from synthpref.core.errors import BackendError, Problem
from synthpref.core.finish import Ending, ending_of
from synthpref.core.settings import Settings
from synthpref.core.types import Message, Usage

Capability = Literal[
    "chat", "n", "logprobs", "json_schema", "embed", "reward", "compare", "prompt_logprobs", "prefill"
]

NOTHING = Usage()

SERVES: Mapping[str, Capability] = {"embeddings": "embed", "reward": "reward", "comparisons": "compare"}
"""What a role can do whose `serves` is not "chat"."""

NEUTRAL = "neutral"
"""Marks a model field that cannot change an answer (endpoint, time-outs, limits, prices). A field without
the mark is part of the call key: a new field is safe by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call. `n`, `seed` and `priority` are not part of the call key: each of the n answers has its own
    place in the journal."""

    messages: tuple[Message, ...]
    """For kind "embed", one message holding the text; for "reward", a conversation to be scored; for "compare", a
    conversation and two answers to it, as its last two messages. A chat that ends with the assistant's message asks
    for more of that message (prefill), where the role has that."""
    kind: Literal["chat", "embed", "reward", "compare"] = "chat"
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """How many alternatives to return for each token; None for no logprobs."""
    prompt_logprobs: int | None = None
    """The same for each token of the prompt; 0 for those tokens alone."""
    response_format: Mapping[str, Any] | None = None
    """{"type": "json_schema", "json_schema": {...}} as on the OpenAI wire."""
    seed: int | None = None
    """Answer i of the n is drawn with seed + i, as vLLM does."""
    priority: int = 0
    """Lower goes first when the endpoint is full."""

    @property
    def prefill(self) -> bool:
        """Whether the last message is one to go on with."""
        return self.kind == "chat" and bool(self.messages) and self.messages[-1]["role"] == "assistant"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and its alternatives, as (token, natural log-probability)."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer. Which field is filled depends on Request.kind: text, vector or values."""

    text: str = ""
    finish_reason: str | None = None
    """The endpoint's own word; `ended` says what it means."""
    reasoning: str | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """Of the prompt as the model saw it, template and all; None for its first token, which nothing foretells. Only
    the first completion of a request carries it."""
    vector: tuple[float, ...] | None = None
    values: Mapping[str, float | None] | None = None
    """Reward heads by name, None for one that gave no finite number; a model with one head calls it "reward". For kind
    "compare" it is the log-odds that the first of the two answers is the better one."""
    usage: Usage | None = None
    """Of the whole request; only its first completion carries it."""
    model: str = ""
    """The model as the endpoint named it."""
    seed: int | None = None
    refused: str | None = None
    """Why there is no answer, where one of several could not be had. It is in no journal: what was not answered is asked
    again by whoever asks for it."""

    @property
    def ended(self) -> Ending:
        """How the text ended, whatever the endpoint's word for it."""
        return ending_of(self.finish_reason)


def refusal(error: BackendError) -> Completion:
    """What stands in the place of an answer that could not be had."""
    finish = "content_filter" if error.kind == "content_filter" else "error"
    return Completion(finish_reason=finish, refused=f"{error.kind}: {error.message}")


class Backend(Protocol):
    """An open connection to one model. Raises BackendError and nothing else."""

    async def complete(self, request: Request) -> list[Completion]:
        """`request.n` completions. Fewer is an answer cut short: the rest is asked for again."""
        ...

    async def aclose(self) -> None: ...


class Price(Settings):
    """US dollars per million tokens; `batch` is the share of them that a provider asks for what it answers in a
    batch."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    batch: float = Field(default=0.5, ge=0, le=1)

    def cost(self, usage: Usage) -> float:
        return (usage.prompt_tokens * self.input + usage.completion_tokens * self.output) / 1e6


class ModelSpec(Settings):
    """A role in a recipe's `models`: which model answers, with which defaults. Backends subclass it.

    Every field is part of the call key unless it is marked NEUTRAL.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"chat"})

    backend: str
    """Which backend serves this role."""
    model: str
    """The model's name, as the backend knows it."""
    temperature: float | None = Field(default=None, ge=0)
    """Sampling temperature; the backend's own default where it is not given."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling mass."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer, in tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    price: Annotated[Price | None, NEUTRAL] = None
    """US dollars per million tokens, {input, output}; needed for cost figures and `max_cost_usd`. With `batch`, the
    share of both that a batch costs."""
    licence: Annotated[str | None, NEUTRAL] = None
    """Licence of the model's outputs, named in the dataset card."""
    family: Annotated[str | None, NEUTRAL] = Field(default=None, min_length=1)
    """The model's family, for warnings and figures on judges that favour their own; by default it is told from
    the model's name, where that is well known."""
    context_length: Annotated[int | None, NEUTRAL] = Field(default=None, ge=1)
    """How many tokens a request and its answer may have together, so that `check` can say what will not fit."""
    retries: Annotated[int, NEUTRAL] = Field(default=6, ge=0)
    """How often a call that failed for a passing reason is asked again."""

    def able(self) -> frozenset[Capability]:
        """What this role can do, known without a call."""
        return self.capabilities

    def slots(self) -> int:
        """How many calls may be under way at once, at the most."""
        return 256

    def accelerators(self) -> frozenset[str]:
        """The accelerators that it holds on the machine that asks; roles that name the same one share it."""
        return frozenset()

    def gathers(self) -> int:
        """How many rows are to be under way at once, where requests are gathered before they are sent; else 0."""
        return 0

    def turn(self) -> str:
        """Which model is awake when this role is asked, where some do not fit together; "" for one that always is."""
        return ""

    def pays(self) -> Price | None:
        """What a million tokens cost in the way that this role asks."""
        return self.price

    def pays_at_most(self) -> Price | None:
        """The same for the dearest of its calls."""
        return self.pays()

    def cost(self, prompt: float, completion: float, live: Usage = NOTHING) -> float | None:
        """US dollars of so many tokens, of which `live` ones were asked for at the full price; None without a price."""
        price = self.pays()
        if price is None or self.price is None:
            return None
        batched = (prompt - live.prompt_tokens) * price.input + (
            completion - live.completion_tokens
        ) * price.output
        return batched / 1e6 + self.price.cost(live)

    def identity(self) -> dict[str, Any]:
        """What of this spec can change an answer, as plain JSON values."""
        fields = type(self).model_fields
        return self.model_dump(
            mode="json", include={k for k, f in fields.items() if NEUTRAL not in f.metadata}
        )

    def place(self) -> str:
        """Where it is: roles at one place are there, and away, together."""
        return f"{self.backend} {self.model}"

    @staticmethod
    def beside(roles: Mapping[str, ModelSpec]) -> list[Problem]:
        """What is wrong with the roles of a recipe beside each other. Asked once of all that share the method; `roles`
        are those of all backends."""
        return []

    def secrets(self) -> list[str]:
        """Values that may never be written anywhere."""
        found = []
        for value in dict(self).values():
            inner = value.values() if isinstance(value, Mapping) else [value]
            found += [v.get_secret_value() for v in inner if isinstance(v, SecretStr)]
        return found

    def open(self, shared: dict[str, Any]) -> Backend:
        """Connect. `shared` lives as long as the run: roles on one endpoint meet there to share its limits. There are
        "stop" (an event), "folder" (of the run) and "asking" (how many calls of all roles are under way); where the
        folder is copied elsewhere, "noted" (waits until databases in it are there as they are now)."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a stage may know of a role."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    able: frozenset[Capability] = frozenset()


class Ask(Protocol):
    """What a stage gets instead of a client; bound to one row and one stage.

    Equal requests of one row are told apart by order: the k-th of them always gets the k-th answer, on
    every run. So start concurrent calls in a fixed order (`asyncio.gather` does).
    """

    @property
    def rng(self) -> random.Random:
        """Seeded by the run's seed, the row and the stage: the same on every run."""
        ...

    async def __call__(
        self,
        messages: Sequence[Message],
        *,
        model: str,
        n: int = 1,
        temperature: float | None = None,
        max_tokens: int | None = None,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> list[Completion]:
        """n answers of the model role. Parameters not given are the role's. `response_format` is left out
        where the role has no structured output. One of several that could not be had is `refused`. Raises BackendError
        where none could."""
        ...

    async def embed(self, text: str, *, model: str) -> tuple[float, ...]:
        """The embedding of one text."""
        ...

    async def reward(self, messages: Sequence[Message], *, model: str) -> Mapping[str, float | None]:
        """A reward model's heads for a conversation that ends with the assistant."""
        ...

    async def compare(self, messages: Sequence[Message], a: str, b: str, *, model: str) -> float | None:
        """By a model that reads two answers together, the log-odds that `a` is better than `b`."""
        ...

    def prompt(self, name: str, **values: Any) -> list[Message]:
        """The messages of the prompt template `name`, filled in. A missing variable is an error."""
        ...

    def info(self, model: str) -> ModelInfo: ...


class RequestAsk:
    """The part of an Ask that makes Requests of what a stage says. Who derives from it sends them."""

    async def _send(self, model: str, request: Request) -> list[Completion]:
        raise NotImplementedError

    def info(self, model: str) -> ModelInfo:
        raise NotImplementedError

    async def __call__(
        self,
        messages: Sequence[Message],
        *,
        model: str,
        n: int = 1,
        temperature: float | None = None,
        max_tokens: int | None = None,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> list[Completion]:
        for i, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
                raise TypeError(f"message {i} is {message!r:.80}, where {{role, content: a text}} belongs")
        request = Request(
            messages=tuple(messages),
            n=n,
            temperature=temperature,
            max_tokens=max_tokens,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            response_format=response_format if "json_schema" in self.info(model).able else None,
        )
        return await self._send(model, request)

    async def embed(self, text: str, *, model: str) -> tuple[float, ...]:
        request = Request(messages=({"role": "user", "content": text},), kind="embed")
        return (await self._send(model, request))[0].vector or ()

    async def reward(self, messages: Sequence[Message], *, model: str) -> Mapping[str, float | None]:
        return (await self._send(model, Request(messages=tuple(messages), kind="reward")))[0].values or {}

    async def compare(self, messages: Sequence[Message], a: str, b: str, *, model: str) -> float | None:
        answers: list[Message] = [{"role": "assistant", "content": text} for text in (a, b)]
        request = Request(messages=(*messages, *answers), kind="compare")
        return ((await self._send(model, request))[0].values or {}).get("reward")
