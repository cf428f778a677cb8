"""What an OpenAI-compatible server does, and what synthpref makes of it, each as one question to a real server.

An expectation asks through our own client, asserts what the product needs whatever the server does, and returns in a few
words what the server did. docs/servers.md has these words in a table.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request
from synthpref.core.thinking import read_completion
from synthpref.models.openai import OpenAI

LIMIT = 12
LONG = "Count from one to two hundred in words, with commas."
SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["score"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA}}


@dataclass
class Asker:
    """Asks one server. `forced` gives the extra fields that make it answer with a given text."""

    url: str
    model: str
    forced: Callable[[str], Mapping[str, Any]]
    context: int
    role: Mapping[str, Any] = field(default_factory=dict)

    async def __call__(
        self, prompt: str, *, say: str | None = None, role: Mapping[str, Any] = {}, **fields: Any
    ) -> list[Completion]:
        """The completions as the backend gives them."""
        extra = {"extra_body": dict(self.forced(say))} if say is not None else {}
        spec = OpenAI.model_validate(
            {"model": self.model, "base_url": self.url, "timeout_s": 300, **self.role, **extra, **role}
        )
        backend = spec.open({})
        try:
            messages = ({"role": "user", "content": prompt},)
            return await backend.complete(Request(messages=messages, **{"max_tokens": 64, **fields}))
        finally:
            await backend.aclose()

    async def one(self, prompt: str, **fields: Any) -> Completion:
        """One completion, as stages see it."""
        (answer,) = await self(prompt, **fields)
        return read_completion(answer, fields.get("max_tokens", 64))

    async def error(self, prompt: str, **fields: Any) -> str:
        """The kind of the error that the question meets; "none" where it is answered."""
        try:
            await self(prompt, **fields)
        except BackendError as error:
            return error.kind
        return "none"


async def n_answers(ask: Asker) -> str:
    answers = await ask("Tell me a word.", n=4, seed=5, temperature=1.0, max_tokens=LIMIT)
    assert 1 <= len(answers) <= 4
    return f"{len(answers)} of 4"


async def n_differ(ask: Asker) -> str:
    answers = await ask("Write any sentence.", n=4, seed=5, temperature=1.5, max_tokens=24)
    return "yes" if len({answer.text for answer in answers}) > 1 else "no"


async def usage_of_n(ask: Asker) -> str:
    answers = await ask(LONG, n=4, seed=5, temperature=1.0, max_tokens=LIMIT)
    usage = answers[0].usage
    assert all(answer.usage is None for answer in answers[1:])
    if usage is None:
        return "none"
    if any(answer.ended != "cut" for answer in answers):
        return "not seen: an answer ended by itself"
    return {LIMIT: "one choice", 4 * LIMIT: "all choices"}.get(
        usage.completion_tokens, str(usage.completion_tokens)
    )


async def same_seed(ask: Asker) -> str:
    texts = [(await ask.one("Write any sentence.", seed=9, temperature=1.0)).text for _ in range(2)]
    other = (await ask.one("Write any sentence.", seed=10, temperature=1.0)).text
    return f"{'same' if texts[0] == texts[1] else 'another'} text; another seed: {'same' if other == texts[0] else 'another'} text"


async def seed_of_second(ask: Asker) -> str:
    both = await ask("Write any sentence.", n=2, seed=20, temperature=1.0)
    alone = await ask.one("Write any sentence.", seed=21, temperature=1.0)
    return "seed + 1" if len(both) == 2 and both[1].text == alone.text else "its own"


async def token_limit(ask: Asker) -> str:
    answer = await ask.one(LONG, max_tokens=LIMIT, seed=1)
    assert answer.ended == "cut", answer
    return str((await ask(LONG, max_tokens=LIMIT, seed=1))[0].finish_reason)


async def tokens_at_the_limit(ask: Asker) -> str:
    (answer,) = await ask(LONG, max_tokens=LIMIT, seed=1)
    counted = answer.usage.completion_tokens if answer.usage else None
    return {None: "not counted", LIMIT: "as many as max_tokens"}.get(counted, f"{counted} for {LIMIT}")


async def own_end(ask: Asker) -> str:
    answer = await ask.one("Say one.", say="one")
    assert (answer.text, answer.ended) == ("one", "whole")
    return str(answer.finish_reason)


async def stop_text(ask: Asker) -> str:
    answer = await ask.one("Say it.", say="one two three", role={"stop": ["two"]}, stop=("two",))
    assert answer.ended == "whole"
    assert answer.text.strip() in ("one", "one two")
    return "left out" if answer.text.strip() == "one" else "kept"


async def logprobs(ask: Asker) -> str:
    (answer,) = await ask("Say any word.", logprobs=3, max_tokens=LIMIT, seed=1)
    assert answer.logprobs
    assert all(token.logprob <= 1e-6 for token in answer.logprobs)
    joined = "".join(token.token for token in answer.logprobs)
    fits = (
        "the text"
        if joined == answer.text
        else "the text and more"
        if answer.text in joined
        else "another text"
    )
    return f"{len(answer.logprobs[0].top)} of 3 alternatives; tokens spell {fits}"


async def json_schema(ask: Asker) -> str:
    answer = await ask.one("Rate it with JSON.", response_format=FORMAT, seed=1)
    try:
        found = json.loads(answer.text)
    except ValueError:
        return "not heeded"
    return "heeded" if set(found) == {"score"} and 1 <= found["score"] <= 9 else "not heeded"


async def thinking(ask: Asker) -> str:
    (raw,) = await ask("Say it.", say="<think>so</think>yes")
    answer = read_completion(raw)
    assert (answer.text, answer.reasoning, answer.ended) == ("yes", "so", "whole")
    return "in the text" if "<think>" in raw.text else "apart"


async def unclosed_thinking(ask: Asker) -> str:
    (raw,) = await ask("Say it.", say="<think>so the score is 7")
    answer = read_completion(raw)
    assert (answer.text, answer.ended) == ("", "cut")
    return "in the text" if "<think>" in raw.text else "apart"


async def empty(ask: Asker) -> str:
    answer = await ask.one("Say it.", say="one", stop=("one",))
    assert answer.text.strip() == ""
    return str(answer.finish_reason)


async def other_letters(ask: Asker) -> str:
    answer = await ask.one("Say it.", say="Grüße, 世界 🙂!")
    assert answer.text == "Grüße, 世界 🙂!"
    return "whole"


async def many_at_once(ask: Asker) -> str:
    answers = await asyncio.gather(*(ask.one("Say one.", say="one") for _ in range(16)))
    assert {answer.text for answer in answers} == {"one"}
    return "16 of 16"


async def too_long(ask: Asker) -> str:
    kind = await ask.error("word " * 2 * ask.context)
    assert kind == "context_length"
    return kind


async def unknown_model(ask: Asker) -> str:
    kind = await ask.error("Say one.", role={"model": "no/such-model"})
    assert kind in ("not_found", "none")
    return "refused" if kind == "not_found" else "answered all the same"


async def odd_format(ask: Asker) -> str:
    kind = await ask.error(
        "Say one.",
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 7}}},
    )
    assert kind in ("bad_request", "unsupported", "none"), kind
    return {"none": "answered all the same"}.get(kind, "refused")


EXPECTATIONS: Mapping[str, Callable[[Asker], Awaitable[str]]] = {
    "n = 4 gives": n_answers,
    "the answers to n differ": n_differ,
    "usage for n = 4 counts": usage_of_n,
    "the same seed gives": same_seed,
    "the second answer of n has the seed": seed_of_second,
    "finish_reason at the token limit": token_limit,
    "completion_tokens at the token limit": tokens_at_the_limit,
    "finish_reason at the model's own end": own_end,
    "the stop text is": stop_text,
    "logprobs": logprobs,
    "response_format with a JSON schema is": json_schema,
    "thinking stands": thinking,
    "thinking without an end stands": unclosed_thinking,
    "finish_reason of an empty answer": empty,
    "letters of several tokens arrive": other_letters,
    "answered of 16 requests at once": many_at_once,
    "a prompt that is too long is refused as": too_long,
    "a model that is not there is": unknown_model,
    "a response_format that is none is": odd_format,
}  # fmt: skip
"""By what the table calls them."""
