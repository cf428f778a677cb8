"""Ask, parse, and ask again those that could not be parsed; then give up with a reason.

Second questions go out only after all first replies of a group are in. Equal requests are told apart by
their order, so an order that hung on which reply came first would differ from run to run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from synthpref.core.errors import BackendError
from synthpref.core.finish import is_known
from synthpref.core.parse import Parsed
from synthpref.core.seam import Ask, Completion, refusal
from synthpref.core.types import Message

T = TypeVar("T")
R = TypeVar("R")


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
    ask: Ask,
    questions: Sequence[Question[T]],
    *,
    again: int = 1,
    reask: str = "judge/reask",
    needed: bool = True,
) -> list[list[Reply[T]]]:
    """For each question its n replies, in order. A reply that cannot be parsed is followed up to `again`
    times, by the template `reask`.

    A question that the endpoint refuses costs its own replies only: they hold nothing, and the reason. Where some reply
    is `needed` to go on and every question was refused, raises the first BackendError.
    """
    first = await asyncio.gather(*(_ask(ask, q, q.messages, q.n) for q in questions))
    refusals = [made for made in first if isinstance(made, BackendError)]
    if needed and refusals and len(refusals) == len(questions):
        raise refusals[0]
    replies = [
        [
            Reply(_read(question, completion), completion)
            for completion in ([refusal(made)] * question.n if isinstance(made, BackendError) else made)
        ]
        for question, made in zip(questions, first, strict=True)
    ]
    for tries in range(2, again + 2):
        failed = [
            (i, j)
            for i, row in enumerate(replies)
            for j, r in enumerate(row)
            if r.parsed.value is None and r.completion.refused is None
        ]
        seconds = await asyncio.gather(
            *(
                _ask(ask, questions[i], _follow_up(ask, questions[i], replies[i][j], reask), 1)
                for i, j in failed
            )
        )
        for (i, j), completions in zip(failed, seconds, strict=True):
            if isinstance(completions, BackendError):
                # What was wrong with the reply itself says more than why nobody would hear of it again.
                continue
            parsed = _read(questions[i], completions[0])
            kept = parsed.rationale or replies[i][j].parsed.rationale
            replies[i][j] = Reply(Parsed(parsed.value, parsed.why, kept), completions[0], tries)
    return replies


async def ask_parsed(
    ask: Ask, question: Question[T], *, again: int = 1, reask: str = "judge/reask"
) -> list[Reply[T]]:
    """`ask_all` for one question."""
    return (await ask_all(ask, [question], again=again, reask=reask))[0]


async def _ask(
    ask: Ask, question: Question[T], messages: Sequence[Message], n: int
) -> list[Completion] | BackendError:
    return await attempt(
        ask(
            messages,
            model=question.model,
            n=n,
            logprobs=question.logprobs,
            response_format=question.response_format,
        )
    )


async def attempt(call: Awaitable[R]) -> R | BackendError:
    """What the call gives, or the error with which it failed for good: it may be one of several."""
    try:
        return await call
    except BackendError as error:
        return error


async def attempt_each(calls: Iterable[Awaitable[R]]) -> list[R | BackendError]:
    """`attempt` for calls of which each serves a part of the row. Raises the first error where all have failed."""
    made = await asyncio.gather(*map(attempt, calls))
    errors = [one for one in made if isinstance(one, BackendError)]
    if errors and len(errors) == len(made):
        raise errors[0]
    return made


def why_refused(error: BackendError) -> str:
    """The reason of a part that is missing: a phrase that can be counted, then what the endpoint said."""
    return refusal(error).refused or error.kind


def _read(question: Question[T], completion: Completion) -> Parsed[T]:
    why = unusable(completion)
    return Parsed(None, why, completion.text.strip() or None) if why else question.parse(completion)


def unusable(completion: Completion) -> str | None:
    """Why nothing may be read from a reply, however it looks; None for one that is whole.

    In a reply that was cut off the verdict may have been still to come, and "1" may be the beginning of "10".
    """
    if completion.refused is not None:
        return completion.refused
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
