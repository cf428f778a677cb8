"""The OpenAI wire as plain functions: Request -> JSON body, JSON answer -> Completions.

Both transports go through here, so that they cannot differ. Bytes become JSON in wire_decode.py, failures become errors
in wire_errors.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from synthpref.core.errors import BackendError
from synthpref.core.finish import ending_of, finish_word
from synthpref.core.seam import Completion, Request, TokenLogprob
from synthpref.core.types import Message, Usage
from synthpref.models.wire_errors import SHOWN, no_error_inside, odd

LEAST = -9999.0
"""A log-probability for what cannot be; JSON has no infinity. vLLM sends the same."""
MOST_TOKENS = 10**9
"""In one answer. An endpoint that counts more, or less than none, does not count."""
NO_NUMBERS = "the model gave no numbers; another dtype may help (float16 overflows in some)"
UNREADABLE = (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError)
"""What reading a JSON value of another shape raises."""


def chat_body(
    request: Request,
    model: str,
    *,
    seed: bool,
    max_tokens_as: str,
    extra: Mapping[str, Any],
    prefill: bool = False,
    fold: bool = False,
    stream: bool = False,
) -> dict[str, Any]:
    """The body of POST /chat/completions. `prefill` asks for more of a last message that is the assistant's, in
    vLLM's and SGLang's words; others do so unasked, or never. `fold` puts system messages into the user's turn, and
    `stream` asks for the answer in pieces."""
    optional = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        max_tokens_as: request.max_tokens,
        "stop": request.stop or None,
        "n": request.n if request.n > 1 else None,
        "seed": request.seed if seed else None,
        "response_format": request.response_format,
        "prompt_logprobs": request.prompt_logprobs,
    }
    if prefill and request.prefill:
        optional |= {"continue_final_message": True, "add_generation_prompt": False}
    if request.logprobs is not None:
        optional |= {"logprobs": True, "top_logprobs": request.logprobs}
    if stream:
        optional |= {"stream": True, "stream_options": {"include_usage": True}}
    body = {"model": model, "messages": folded(request.messages) if fold else request.messages}
    return body | {key: value for key, value in optional.items() if value is not None} | dict(extra)


def folded(messages: Sequence[Message]) -> list[Message]:
    """The messages for a model that knows no system role and wants user and assistant in turns: a system message opens
    the user's turn after it, and neighbours of one role are one message."""
    made: list[Message] = []
    for message in messages:
        role = "user" if message["role"] in ("system", "developer") else message["role"]
        if made and made[-1]["role"] == role:
            made[-1] = {"role": role, "content": f"{made[-1]['content']}\n\n{message['content']}"}
        else:
            made.append({"role": role, "content": message["content"]})
    return made


def chat_answer(answer: Any, seed: int | None = None, prompt_top: int = 0) -> list[Completion]:
    """The Completions of an answer to /chat/completions; `seed` is that of its first choice, `prompt_top` how many
    alternatives the tokens of the prompt have.

    Choices from the first one on that failed at the endpoint are left out, and the caller asks for them again: each has
    the seed of its place. Raises BackendError when the answer has another shape, or none of its choices came through.
    """
    no_error_inside(answer)
    try:
        model, usage = str(answer.get("model") or ""), usage_of(answer)
        choices = list(answer["choices"])
        good = list(takewhile(lambda choice: not _failure(choice), choices))
        if choices and not good:
            raise BackendError(
                "transient", f"the endpoint gave the answer up ({_failure(choices[0])})", status=200
            )
        made = [
            _choice(choice, model, None if i else usage, None if seed is None else seed + i)
            for i, choice in enumerate(good)
        ]
        if made and (prompt := answer.get("prompt_logprobs")) is not None:
            made[0] = replace(made[0], prompt_logprobs=tuple(_prompt_token(p, prompt_top) for p in prompt))
        return made
    except UNREADABLE as error:
        raise odd(answer, error) from error


def _failure(choice: Any) -> str:
    """Why a choice is no answer: the endpoint broke down over it. "" for one that is."""
    if error := choice.get("error"):
        return repr(error)[:SHOWN]
    word = finish_word(choice.get("finish_reason"))
    return f"finish_reason: {word}" if ending_of(word) == "failed" else ""


def _choice(choice: Any, model: str, usage: Usage | None, seed: int | None) -> Completion:
    message = choice["message"]
    text, thought = _content(message.get("content"))
    reasoning = message.get("reasoning_content") or message.get("reasoning") or thought
    tokens = (choice.get("logprobs") or {}).get("content")
    return Completion(
        text=text or _content(message.get("refusal"))[0],
        finish_reason=finish_word(choice.get("finish_reason")),
        reasoning=reasoning if isinstance(reasoning, str) and reasoning else None,
        logprobs=None if tokens is None else tuple(map(_token, tokens)),
        usage=usage,
        model=model,
        seed=seed,
    )


_THOUGHT = ("thinking", "reasoning", "reasoning_text", "thought")
_PLAIN = ("text", "output_text", "refusal", None)


def _content(content: Any) -> tuple[str, str]:
    """(the text, the thinking) of a message's content: a string, nothing, a part, or a list of parts such as
    {"type": "text", "text": ...} and, of Mistral, {"type": "thinking", "thinking": [parts]}. Raises TypeError for what
    holds no text."""
    if content is None or isinstance(content, str):
        return content or "", ""
    parts = content if isinstance(content, list) else [content]
    texts: list[str] = []
    thoughts: list[str] = []
    known = not parts
    for part in parts:
        if isinstance(part, str):
            part = {"text": part}
        kind = part.get("type")
        for key in (kind, "text", "content", "value"):
            inner = part.get(key) if isinstance(key, str) else None
            if isinstance(inner, str | list) and (kind in _THOUGHT or kind in _PLAIN):
                (thoughts if kind in _THOUGHT else texts).append(_content(inner)[0])
                known = True
                break
    if not known:
        raise TypeError("content is not a text")
    return "".join(texts), "".join(thoughts)


def _token(token: Any) -> TokenLogprob:
    top = tuple((str(t["token"]), _logprob(t["logprob"])) for t in token.get("top_logprobs") or ())
    return TokenLogprob(str(token["token"]), _logprob(token["logprob"]), top)


def _logprob(value: Any) -> float:
    """Raises ValueError for what is no log-probability: no score may rest on it."""
    number = float(value)
    if math.isnan(number) or number == math.inf:
        raise ValueError(NO_NUMBERS)
    return max(number, LEAST)


def position(entries: Sequence[tuple[str, float, int]], top: int) -> TokenLogprob:
    """A token and its `top` alternatives, from vLLM's (token, logprob, rank) of a position: its own comes first, and
    once more among the others only by its rank. Raises ValueError where one is no number: a model that overflows has
    no verdict, and no probability either."""
    if any(math.isnan(logprob) for _, logprob, _ in entries):
        raise ValueError(NO_NUMBERS)
    ranked = sorted(entries, key=lambda entry: entry[2])
    own, logprob, _ = entries[0]
    return TokenLogprob(own, max(logprob, LEAST), tuple((t, max(p, LEAST)) for t, p, r in ranked if r <= top))


def _prompt_token(alternatives: Any, top: int) -> TokenLogprob | None:
    """Of {token id: {"decoded_token", "logprob", "rank"}}."""
    if alternatives is None:
        return None
    entries = [(str(t["decoded_token"]), float(t["logprob"]), int(t["rank"])) for t in alternatives.values()]
    return position(entries, top)


def embed_body(request: Request, model: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The body of POST /embeddings."""
    return {"model": model, "input": request.messages[-1]["content"], **extra}


def embed_answer(answer: Any) -> list[Completion]:
    no_error_inside(answer)
    try:
        vector = tuple(float(x) for x in answer["data"][0]["embedding"])
        return [Completion(vector=vector, usage=usage_of(answer))]
    except UNREADABLE as error:
        raise odd(answer, error) from error


def usage_of(answer: Any) -> Usage | None:
    """The tokens that the endpoint counted; None where it gives no such numbers."""
    usage = answer.get("usage")
    if not isinstance(usage, Mapping):
        return None
    counts = [usage.get(key) or 0 for key in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(n, int | float) and 0 <= n <= MOST_TOKENS for n in counts):
        return None
    prompt, completion = map(int, counts)
    return Usage(prompt, completion)
