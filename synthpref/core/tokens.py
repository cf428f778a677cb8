"""How many tokens a text has, where nobody counted them, and which counts of an endpoint cannot be true.

Byte-level tokenizers (BPE of the GPT, Llama and Qwen families) make a token of four to five UTF-8 bytes of English prose,
of about three bytes of code, and of three to four of Chinese or Japanese. Four bytes a token is the middle; what rests on
it is called an estimate wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from synthpref.core.seam import Completion, Request
from synthpref.core.types import Message, Usage

BYTES_PER_TOKEN = 4
TEMPLATE_TOKENS = 4
"""What a chat template writes around each message."""
LONGEST_TOKEN = 7
"""More characters than this a token does not have on average, in no script; runs of white space count as one character.
An endpoint that counts fewer tokens has not counted all of the text."""
SHORTEST_TOKEN = 0.6
"""Fewer characters than this a token does not have on average; else a text is counted that is not shown."""


def size_of(text: str) -> int:
    """UTF-8 bytes of a text, lone surrogates too."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def tokens_of(text: str) -> int:
    """About how many tokens the text has."""
    return -(-size_of(text) // BYTES_PER_TOKEN)


def prompt_tokens_of(messages: Sequence[Message]) -> int:
    """About how many tokens a prompt has, with what its template adds."""
    return sum(tokens_of(message["content"]) + TEMPLATE_TOKENS for message in messages)


def written(answer: Completion) -> str:
    """All that the model wrote for the answer, as far as it is shown."""
    return f"{answer.reasoning}{answer.text}" if answer.reasoning else answer.text


def counted(request: Request, answers: list[Completion]) -> tuple[list[Completion], Usage]:
    """The answers to a request, the first of which has a usage now, and the sum of what they have. Where several have
    one, each counts the answers from there on: they came of several calls."""
    if (usage := answers[0].usage) is not None and _all_there(usage, answers):
        return answers, usage
    starts = [0, *(i for i in range(1, len(answers)) if answers[i].usage is not None)]
    total = Usage()
    for start, end in zip(starts, [*starts[1:], len(answers)], strict=True):
        usage = usage_of(request, answers[start:end])
        if usage is not answers[start].usage:
            answers = [*answers[:start], replace(answers[start], usage=usage), *answers[start + 1 :]]
        total = total + usage if start else usage
    return answers, total


def _all_there(usage: Usage, answers: Sequence[Completion]) -> bool:
    """Whether the usage of the first answer may well count all of them: the quick way for nearly every call."""
    left = LONGEST_TOKEN * usage.completion_tokens
    if not left:
        return False
    if len(answers) == 1:
        return True
    for answer in answers:
        left -= len(answer.text)
        if answer.reasoning:
            left -= len(answer.reasoning)
        if answer.usage is not None and answer is not answers[0]:
            return False
    return left >= 0


def usage_of(request: Request, answers: Sequence[Completion]) -> Usage:
    """The usage of a call: as the endpoint counted it, with an estimate from the texts for what it did not count.

    An endpoint may count nothing, or zero, or of n answers only one (llama.cpp's server does). The last is seen where the
    texts of all have more characters than so many tokens can hold; then the others are counted like the first.
    """
    usage = answers[0].usage or Usage()
    if request.kind != "chat":
        if usage.prompt_tokens or usage.completion_tokens:
            return usage
        return replace(usage, prompt_tokens=prompt_tokens_of(request.messages), estimated=True)
    prompt, completion = usage.prompt_tokens, float(usage.completion_tokens)
    texts = [written(answer) for answer in answers]
    if not completion and any(texts):
        completion = sum(min(tokens_of(text), request.max_tokens or inf) for text in texts)
        prompt = prompt or prompt_tokens_of(request.messages)
    elif not completion and not prompt:
        prompt = prompt_tokens_of(request.messages)
    elif len(texts) > 1 and _too_few(completion, texts):
        completion = min(completion + _others(completion, texts), len(texts) * (request.max_tokens or inf))
    if (prompt, completion) == (usage.prompt_tokens, usage.completion_tokens):
        return usage
    return replace(usage, prompt_tokens=prompt, completion_tokens=int(completion), estimated=True)


def _too_few(tokens: float, texts: Sequence[str]) -> bool:
    most = LONGEST_TOKEN * tokens
    return sum(map(len, texts)) > most and sum(len(" ".join(text.split())) for text in texts) > most


def _others(tokens: float, texts: Sequence[str]) -> int:
    """Tokens of all texts but one, where `tokens` counts one. Which one is not said: the first that they fit."""
    for i, text in enumerate(texts):
        if SHORTEST_TOKEN * tokens <= len(text) <= LONGEST_TOKEN * tokens:
            per_byte = tokens / size_of(text)
            return round(per_byte * sum(size_of(other) for j, other in enumerate(texts) if j != i))
    return max(0, sum(map(tokens_of, texts)) - int(tokens))
