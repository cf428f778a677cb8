"""A server that does all as it should, and as many that each do one thing otherwise: what the expectations have to see.

A letter is a token. The extra field `say` is the text to answer with, `parsed` a parser for reasoning.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from aiohttp import web
from asker import Asker, Thinker

from replay import Body, Replay
from wire import status

CONTEXT = 512
Made = Body | web.Response
Change = Callable[[Body, Made, int], Made]
"""Given a request's body, the right answer and the request's number: another answer."""


def asker(server: Replay, change: Change = lambda body, made, number: made) -> Asker:
    def script(body: Body, number: int) -> Made:
        made = change(body, right(body), number)
        return in_pieces(made) if body.get("stream") and isinstance(made, dict) else made

    server.scripts["control"] = script
    ask = Asker(f"{server.root}/control/v1", "control", lambda text: {"say": text}, CONTEXT, {"say": ""})
    parsed = {"parsed": True}
    ask.thinker = lambda: Thinker(
        ask,
        lambda text: {**parsed, "say": f"A draft: 3.</think>{text}"},
        {**parsed, "say": "A draft: 3. " * 9},
    )
    ask.opened = lambda: ask
    return ask


def right(body: Body) -> Made:
    """What a server without a fault answers."""
    form = body.get("response_format")
    prompt = sum(len(message["content"]) for message in body.get("messages", ()))
    if "input" in body:
        return status(404, "Not Found")
    if body["model"] != "control":
        return status(404, "no such model")
    if form and (form["type"] != "json_schema" or form["json_schema"]["schema"]["type"] != "object"):
        return status(400, "response_format is not valid")
    if prompt >= CONTEXT:
        return status(400, {"code": "context_length_exceeded", "message": "too long"})
    limit, choices, used = min(body["max_tokens"], CONTEXT - prompt), [], 0
    for i in range(body.get("n", 1)):
        written = body.get("say", '{"score": 5}' if form else _letters(body.get("seed", 0) + i))
        cut = len(written) > limit
        text, stops = written[:limit], body.get("stop") or []
        at = min((text.find(stop) for stop in stops if stop in text), default=None)
        if at is not None:
            text, cut = text[:at], False
        used += len(text) + (not cut)
        choices.append(_choice(i, text, "length" if cut else "stop", body))
    usage = {"prompt_tokens": prompt, "completion_tokens": used}
    made: Body = {"model": "control", "choices": choices, "usage": usage}
    if "prompt_logprobs" in body:
        token = {"1": {"decoded_token": "w", "logprob": -1.0, "rank": 1}}
        made["prompt_logprobs"] = [None, *[token] * (prompt - 1)]
    return made


def _letters(seed: int) -> str:
    return "".join(random.Random(seed).choices("abcdefgh ", k=2 * CONTEXT))


def _choice(index: int, text: str, finish: str, body: Body) -> Body:
    message: Body = {"role": "assistant", "content": text}
    if body.get("parsed"):
        thought, closed, answer = text.partition("</think>")
        message |= {"content": answer if closed else None, "reasoning_content": thought}
    choice: Body = {"index": index, "message": message, "finish_reason": finish}
    if body.get("logprobs"):
        others = [{"token": chr(97 + i), "logprob": -9.0 - i} for i in range(body["top_logprobs"])]
        tokens = [{"token": letter, "logprob": -0.001, "top_logprobs": others} for letter in text]
        choice["logprobs"] = {"content": tokens}
    return choice


def in_pieces(made: Body) -> web.Response:
    parts = [
        {"choices": [{**choice, "message": None, "delta": choice["message"]}]} for choice in made["choices"]
    ]
    events: list[Any] = [*parts, {"choices": [], "usage": made["usage"]}]
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return web.Response(text=text, content_type="text/event-stream")


# ---- what else a server may do


def to_choices(**fields: Any) -> Change:
    """Fields of each choice."""

    def change(body: Body, made: Made, number: int) -> Made:
        assert isinstance(made, dict)
        return {**made, "choices": [{**choice, **fields} for choice in made["choices"]]}

    return change


def to_text(write: Callable[[str, Body, int], Any], reasoning: str | None = None, **fields: Any) -> Change:
    """The text, from what is right, the request and its number; and fields of each choice."""

    def change(body: Body, made: Made, number: int) -> Made:
        assert isinstance(made, dict)
        for choice in made["choices"]:
            message = choice["message"]
            message["content"] = write(message["content"], body, number)
            if reasoning is not None:
                message["reasoning_content"] = reasoning
        return to_choices(**fields)(body, made, number)

    return change


def to_usage(count: Callable[[Body, Body], Body]) -> Change:
    def change(body: Body, made: Made, number: int) -> Made:
        assert isinstance(made, dict)
        return {**made, "usage": {**made["usage"], **count(made["usage"], body)}}

    return change


def to_tokens(write: Callable[[list[Body]], list[Body]]) -> Change:
    def change(body: Body, made: Made, number: int) -> Made:
        assert isinstance(made, dict)
        for choice in made["choices"]:
            choice["logprobs"] = {"content": write(choice["logprobs"]["content"])}
        return made

    return change


def to_prompt(tokens: Any) -> Change:
    """The log-probabilities of the prompt."""

    def change(body: Body, made: Made, number: int) -> Made:
        assert isinstance(made, dict)
        return {**made, "prompt_logprobs": tokens}

    return change


def refused(code: int, message: str) -> Change:
    return lambda body, made, number: status(code, message)


def answered(body: Body, made: Made, number: int) -> Made:
    """Whatever is asked."""
    return right({"model": "control", "messages": [], "max_tokens": 8, "say": "yes"})
