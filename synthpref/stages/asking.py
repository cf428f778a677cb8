"""Ask, parse, and ask again those that could not be parsed; then give up with a reason.

Second questions go out only after all first replies of a group are in. Equal requests are told apart by
their order, so an order that hung on which reply came first would differ from run to run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from synthpref.core.finish import is_known
from synthpref.core.parse import Parsed
from synthpref.core.seam import Ask, Completion
from synthpref.core.types import Message

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """What to ask which role, and how to read a reply. `shape` is the JSON wanted, in words, for a second
    question that shows the reply and asks for that JSON alone."""

    messages: Sequence[Message]
    parse: Callable[[Completion], Parsed[T]]
    model: str
    shape: str
    n: int = 1
    response_format: Mapping[str, Any] | None = None
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """One reply and what it said. `parsed` and `completion` are of the last try."""

    parsed: Parsed[T]
    completion: Completion
    tries: int = 1


async def ask_all(
    ask: Ask, questions: Sequence[Question[T]], *, again: int = 1, reask: str = "judge/reask"
) -> list[list[Reply[T]]]:
    """For each question its n replies, in order. A reply that cannot be parsed is followed up to `again`
    times, by the template `reask`. Raises BackendError."""
    first = await asyncio.gather(*(_ask(ask, q, q.messages, q.n) for q in questions))
    replies = [
        [Reply(_read(question, completion), completion) for completion in completions]
        for question, completions in zip(questions, first, strict=True)
    ]
    for tries in range(2, again + 2):
        failed = [
            (i, j) for i, row in enumerate(replies) for j, r in enumerate(row) if r.parsed.value is None
        ]
        seconds = await asyncio.gather(
            *(
                _ask(ask, questions[i], _follow_up(ask, questions[i], replies[i][j], reask), 1)
                for i, j in failed
            )
        )
        for (i, j), completions in zip(failed, seconds, strict=True):
            parsed = _read(questions[i], completions[0])
            kept = parsed.rationale or replies[i][j].parsed.rationale
            replies[i][j] = Reply(Parsed(parsed.value, parsed.why, kept), completions[0], tries)
    return replies


async def ask_parsed(
    ask: Ask, question: Question[T], *, again: int = 1, reask: str = "judge/reask"
) -> list[Reply[T]]:
    """`ask_all` for one question."""
    return (await ask_all(ask, [question], again=again, reask=reask))[0]


async def _ask(ask: Ask, question: Question[T], messages: Sequence[Message], n: int) -> list[Completion]:
    return await ask(
        messages,
        model=question.model,
        n=n,
        logprobs=question.logprobs,
        response_format=question.response_format,
    )


def _read(question: Question[T], completion: Completion) -> Parsed[T]:
    why = unusable(completion)
    return Parsed(None, why, completion.text.strip() or None) if why else question.parse(completion)


def unusable(completion: Completion) -> str | None:
    """Why nothing may be read from a reply, however it looks; None for one that is whole.

    In a reply that was cut off the verdict may have been still to come, and "1" may be the beginning of "10".
    """
    word = completion.finish_reason
    if completion.ended == "cut":
        known = "the reply reached the token limit" if is_known(word) else f"unknown finish_reason {word!r}"
        return f"cut off: {known}"
    if completion.ended == "filtered":
        return "filtered"
    if completion.ended == "failed":
        return f"failed at the endpoint: {word}"
    if not completion.text.strip():
        if word in ("tool_calls", "function_call", "tool_use"):
            return f"the reply is a tool call: finish_reason {word}, and no text"
        if completion.reasoning:
            return "the reply is reasoning alone: switch thinking off for the role, or set structured_output: false"
    return None


def _follow_up(ask: Ask, question: Question[T], reply: Reply[T], reask: str) -> list[Message]:
    if not reply.completion.text.strip():
        return list(question.messages)
    why = (reply.parsed.why or "").split(":")[0]
    shown: Message = {"role": "assistant", "content": reply.completion.text}
    return [*question.messages, shown, *ask.prompt(reask, why=why, shape=question.shape)]
