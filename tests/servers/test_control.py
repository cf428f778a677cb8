"""The expectations see what a server does: each is put to one that does all right, and to one that does not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from control import (
    Change,
    answered,
    asker,
    refused,
    right,
    to_choices,
    to_prompt,
    to_text,
    to_tokens,
    to_usage,
)
from expectations import EXPECTATIONS

from replay import Replay
from wire import running

RIGHT = {
    "n = 4 gives": "4 of 4",
    "n = 9 gives": "9 of 9",
    "the answers to n differ": "yes",
    "usage for n = 4 counts": "all choices",
    "the prompt of n = 4 is counted": "once",
    "the same seed gives": "same text; another seed: another text",
    "the second answer of n has the seed": "seed + 1",
    "finish_reason at the token limit": "length",
    "completion_tokens at the token limit": "as many as max_tokens",
    "finish_reason where the context is full": "length",
    "finish_reason of JSON at the token limit": "length",
    "half a letter at the token limit is": "left out",
    "finish_reason at the model's own end": "stop",
    "finish_reason of an empty answer": "stop",
    "a model that ends at once gives": "stop, 1 token counted",
    "the stop text is": "left out",
    "letters of several tokens arrive": "whole",
    "answered of 16 requests at once": "16 of 16",
    "in pieces (stream) the answer is": "the same",
    "the beginning of an answer (prefill) is": "left out",
    "logprobs": "3 of 3 alternatives; tokens spell the text",
    "logprobs of letters of several tokens spell": "the text",
    "logprobs without alternatives are": "given",
    "logprobs under a schema are": "among what is allowed",
    "logprobs of the prompt are": "given",
    "thinking stands": "in the text",
    "thinking without an end stands": "in the text",
    "thinking that the template opens stands": "in the text, without its opening tag",
    "with a parser for it, thinking stands": "apart",
    "with a parser, thinking without an end stands": "apart, and the text is empty",
    "with a parser, logprobs are of": "the thinking and the answer",
    "with a parser, logprobs without an end are of": "the thinking",
    "response_format with a JSON schema is": "heeded",
    "a schema where the template opens the thinking is": "heeded",
    "a schema that is none is": "refused",
    "a response_format that is none is": "refused",
    "a prompt that is too long is refused as": "context_length",
    "a model that is not there is": "refused",
    "embeddings of a chat server are": "refused with HTTP 404",
}
FAILS = None
"""The expectation fails, because the product would make something wrong of it."""
OTHERWISE: list[tuple[str, Change, str | None]] = [
    ("n = 4 gives", lambda body, made, number: right({**body, "n": 1}), "1 of 4"),
    ("n = 9 gives", refused(400, "Field 'n': Value must be between 1 <= value <= 4"), "refused: `many: false` helps"),
    ("n = 9 gives", refused(400, "no"), FAILS),
    ("the answers to n differ", to_text(lambda text, body, number: "one"), "no"),
    ("usage for n = 4 counts", to_usage(lambda usage, body: {"completion_tokens": 12}), "one choice"),
    (
        "the prompt of n = 4 is counted",
        to_usage(lambda usage, body: {"prompt_tokens": usage["prompt_tokens"] * body.get("n", 1)}),
        "once for each",
    ),
    (
        "the same seed gives",
        to_text(lambda text, body, number: f"{number}"),
        "another text; another seed: another text",
    ),
    ("the same seed gives", to_text(lambda text, body, number: "one"), "same text; another seed: same text"),
    ("the second answer of n has the seed", to_text(lambda text, body, number: f"{number}"), "its own"),
    ("finish_reason at the token limit", to_choices(finish_reason="max_tokens"), "max_tokens"),
    ("finish_reason at the token limit", to_choices(finish_reason=None), "None"),
    ("finish_reason at the token limit", to_choices(finish_reason="stop"), FAILS),
    ("completion_tokens at the token limit", to_usage(lambda usage, body: {"completion_tokens": 13}), "13 for 12"),
    ("finish_reason where the context is full", to_choices(finish_reason="stop"), FAILS),
    ("finish_reason of JSON at the token limit", to_choices(finish_reason="stop"), FAILS),
    (
        "half a letter at the token limit is",
        to_text(lambda text, body, number: text + "\ufffd"),
        "given as U+FFFD",
    ),
    ("half a letter at the token limit is", to_choices(finish_reason="stop"), FAILS),
    ("finish_reason at the model's own end", to_choices(finish_reason="end_turn"), "end_turn"),
    ("finish_reason at the model's own end", to_choices(finish_reason="length"), FAILS),
    ("finish_reason of an empty answer", to_text(lambda text, body, number: "one"), FAILS),
    ("a model that ends at once gives", to_choices(finish_reason="length"), FAILS),
    (
        "a model that ends at once gives",
        to_usage(lambda usage, body: {"completion_tokens": 0}),
        "stop, 0 token counted",
    ),
    ("the stop text is", to_text(lambda text, body, number: "one two"), "kept"),
    ("the stop text is", to_text(lambda text, body, number: "one two three"), FAILS),
    ("letters of several tokens arrive", to_text(lambda text, body, number: text.replace("🙂", "\ufffd")), FAILS),
    ("answered of 16 requests at once", to_text(lambda text, body, number: text * (1 + number % 2)), FAILS),
    (
        "in pieces (stream) the answer is",
        to_usage(lambda usage, body: {"completion_tokens": 1} if "stream" in body else {}),
        "the same but for usage",
    ),
    (
        "in pieces (stream) the answer is",
        to_text(lambda text, body, number: text[1:] if "stream" in body else text),
        FAILS,
    ),
    ("the beginning of an answer (prefill) is", to_text(lambda text, body, number: "The capital" + text), "repeated"),
    ("the beginning of an answer (prefill) is", to_text(lambda text, body, number: "Hello."), FAILS),
    ("logprobs", to_tokens(lambda tokens: tokens[1:]), "3 of 3 alternatives; tokens spell another text"),
    ("logprobs", to_tokens(lambda tokens: []), FAILS),
    ("logprobs of letters of several tokens spell", to_tokens(lambda tokens: tokens[1:]), FAILS),
    ("logprobs of letters of several tokens spell", to_tokens(lambda tokens: tokens + tokens[-1:]), "the text and !"),
    ("a schema where the template opens the thinking is", to_text(lambda text, body, number: "so"), "not heeded"),
    ("a schema where the template opens the thinking is", refused(400, "Failed to initialize samplers"), "refused"),
    ("a schema where the template opens the thinking is", refused(400, "no"), FAILS),
    ("logprobs without alternatives are", to_choices(logprobs=None), "left out"),
    (
        "logprobs under a schema are",
        to_tokens(lambda tokens: [{**token, "logprob": -5.0} for token in tokens]),
        "as if all were allowed",
    ),
    ("logprobs of the prompt are", to_prompt(None), "left out"),
    ("logprobs of the prompt are", to_prompt([None]), FAILS),
    ("thinking stands", to_text(lambda text, body, number: "yes", "so"), "apart"),
    ("thinking stands", to_text(lambda text, body, number: "yes"), FAILS),
    ("thinking without an end stands", to_text(lambda text, body, number: "", "so", finish_reason="length"), "apart"),
    ("thinking without an end stands", to_text(lambda text, body, number: "the score is 7"), FAILS),
    (
        "thinking that the template opens stands",
        to_text(lambda text, body, number: "<think>" + text),
        "in the text, with its opening tag",
    ),
    ("thinking that the template opens stands", to_text(lambda text, body, number: "so yes"), FAILS),
    (
        "with a parser for it, thinking stands",
        to_text(lambda text, body, number: f"<think>so</think>{text}", ""),
        "in the text",
    ),
    ("with a parser for it, thinking stands", to_text(lambda text, body, number: text, ""), FAILS),
    (
        "with a parser, thinking without an end stands",
        to_text(lambda text, body, number: "<think>so", ""),
        "apart, and the text is not empty",
    ),
    ("with a parser, thinking without an end stands", to_text(lambda text, body, number: "so"), FAILS),
    ("with a parser, logprobs are of", to_tokens(lambda tokens: tokens[-3:]), "the answer alone"),
    ("with a parser, logprobs are of", to_tokens(lambda tokens: tokens[:-1]), FAILS),
    ("with a parser, logprobs without an end are of", to_tokens(lambda tokens: []), "nothing"),
    ("response_format with a JSON schema is", to_text(lambda text, body, number: "Score: 5"), "not heeded"),
    ("response_format with a JSON schema is", to_text(lambda text, body, number: '{"score": 12}'), "not heeded"),
    *(
        (name, change, words)
        for name in ("a schema that is none is", "a response_format that is none is")
        for change, words in ((answered, "answered all the same"), (refused(400, "no"), FAILS))
    ),
    ("a prompt that is too long is refused as", refused(400, "no"), FAILS),
    ("a prompt that is too long is refused as", answered, FAILS),
    ("a model that is not there is", answered, "answered all the same"),
    ("a model that is not there is", refused(400, "no"), FAILS),
    ("embeddings of a chat server are", refused(501, "not supported"), "refused with HTTP 501"),
    ("embeddings of a chat server are", refused(503, "later"), FAILS),
]  # fmt: skip


@pytest.fixture
def server() -> Iterator[Replay]:
    with running(Replay()) as server:
        yield server


@pytest.mark.parametrize("name", EXPECTATIONS)
def test_a_server_that_does_all_right(name: str, server: Replay) -> None:
    assert asyncio.run(EXPECTATIONS[name](asker(server))) == RIGHT[name]


@pytest.mark.parametrize(("name", "change", "words"), OTHERWISE)
def test_a_server_that_does_otherwise_is_seen(
    name: str, change: Change, words: str | None, server: Replay
) -> None:
    asked = EXPECTATIONS[name](asker(server, change))
    if words is FAILS:
        with pytest.raises(AssertionError):
            asyncio.run(asked)
    else:
        assert words != RIGHT[name]
        assert asyncio.run(asked) == words


def test_each_expectation_is_seen_to_be_met_otherwise() -> None:
    assert {name for name, _, _ in OTHERWISE} == set(EXPECTATIONS) == set(RIGHT)
