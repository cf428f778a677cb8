"""Asks one real server through synthpref's own client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request
from synthpref.core.thinking import read_completion
from synthpref.core.types import Message
from synthpref.models.openai import OpenAI

LIMIT = 12
LONG = "Count from one to two hundred in words, with commas."


@dataclass
class Asker:
    """Asks one server. `forced` gives the extra fields that make it answer with a given text."""

    url: str
    model: str
    forced: Callable[[str], Mapping[str, Any]]
    context: int
    """Tokens of a prompt and its answer together."""
    silent: Mapping[str, Any] = field(default_factory=dict)
    """Extra fields that make the model end its answer at once."""
    thinker: Callable[[], Thinker] | None = None
    """Starts the same server with a parser for reasoning."""
    opened: Callable[[], Asker] | None = None
    """The same server without a parser, with a chat template that opens the thinking itself."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields that each request has."""
    version: str = ""

    async def __call__(
        self,
        prompt: str,
        *,
        say: str | None = None,
        begun: str | None = None,
        role: Mapping[str, Any] = {},
        **fields: Any,
    ) -> list[Completion]:
        """The completions as the backend gives them. `begun` is the beginning of the answer (prefill)."""
        extra = {} if say is None else dict(self.forced(say))
        body = {**self.extra, **extra, **role.get("extra_body", {})}
        spec = OpenAI.model_validate(
            {"model": self.model, "base_url": self.url, "timeout_s": 300, **role, "extra_body": body}
        )
        backend = spec.open({})
        messages: tuple[Message, ...] = ({"role": "user", "content": prompt},)
        if begun is not None:
            messages = (*messages, {"role": "assistant", "content": begun})
        try:
            return await backend.complete(
                Request(**{"messages": messages, "kind": "chat", "max_tokens": 64, **fields})
            )
        finally:
            await backend.aclose()

    async def one(self, prompt: str, **fields: Any) -> Completion:
        """One completion, as stages see it."""
        (answer,) = await self(prompt, **fields)
        return read_completion(answer, fields.get("max_tokens", 64))

    async def error(self, prompt: str, **fields: Any) -> BackendError | None:
        """The error that the question meets; None where it is answered."""
        try:
            await self(prompt, **fields)
        except BackendError as error:
            return error
        return None


@dataclass
class Thinker:
    """A server with a parser for reasoning. `thinking` gives the extra fields that make it think, and then answer with a
    given text; `unclosed` those that make it think and never answer."""

    ask: Asker
    thinking: Callable[[str], Mapping[str, Any]]
    unclosed: Mapping[str, Any]
