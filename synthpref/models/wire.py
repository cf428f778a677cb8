"""The OpenAI wire as plain functions: Request -> JSON body, JSON answer -> Completions, HTTP error -> BackendError.

Both transports go through here, so that they cannot differ.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import takewhile
from typing import Any

import orjson

from synthpref.core.errors import BackendError, ErrorKind
from synthpref.core.finish import ending_of, finish_word
from synthpref.core.seam import Completion, Request, TokenLogprob
from synthpref.core.types import Usage

SHOWN = 300
LEAST = -9999.0
"""A log-probability for what cannot be; JSON has no infinity. vLLM sends the same."""
MOST_TOKENS = 10**9
"""In one answer. An endpoint that counts more, or less than none, does not count."""
NO_NUMBERS = "the model gave no numbers; another dtype may help (float16 overflows in some)"
_HINTS = {
    "response_format": "set structured_output: false on the role",
    "prompt_logprobs": "set prompt_logprobs: false on the role",
    "logprobs": "set logprobs: false on the role",
    "seed": "set send_seed: false on the role",
    "max_completion_tokens": "set max_tokens_as: max_tokens on the role",
    "max_tokens": "set max_tokens_as: max_completion_tokens on the role",
    "continue_final_message": "set prefill: false on the role",
    "temperature": "leave temperature out of the role",
}
_UNKNOWN = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|extra (fields|inputs)|not (permitted|allowed)", re.I
)
_TOO_LONG = re.compile(
    r"context.{0,10}(length|window)|maximum.{0,20}tokens|prompt is too long|too many tokens", re.I
)
UNREADABLE = (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError)
"""What reading a JSON value of another shape raises."""
_FILTERED = re.compile(r"content.?(filter|policy)|safety system", re.I)


def chat_body(
    request: Request,
    model: str,
    *,
    seed: bool,
    max_tokens_as: str,
    extra: Mapping[str, Any],
    prefill: bool = False,
) -> dict[str, Any]:
    """The body of POST /chat/completions. `prefill` asks for more of a last message that is the assistant's, in
    vLLM's and SGLang's words; others do so unasked, or never."""
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
    body = {"model": model, "messages": request.messages}
    return body | {key: value for key, value in optional.items() if value is not None} | dict(extra)


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
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    tokens = (choice.get("logprobs") or {}).get("content")
    return Completion(
        text=_text(message.get("content")) or _text(message.get("refusal")),
        finish_reason=finish_word(choice.get("finish_reason")),
        reasoning=reasoning if isinstance(reasoning, str) else None,
        logprobs=None if tokens is None else tuple(map(_token, tokens)),
        usage=usage,
        model=model,
        seed=seed,
    )


def _text(content: Any) -> str:
    """The text of a message: a string, nothing, or a list of parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError("content is not a text")
    return content or ""


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
    return Usage(*map(int, counts))


def no_error_inside(answer: Any) -> None:
    """Some gateways send an upstream's error with status 200."""
    inside = answer.get("error") if isinstance(answer, Mapping) else None
    if inside:
        code = inside.get("code") if isinstance(inside, Mapping) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 502
        raise http_error(status, {}, orjson.dumps({"error": inside}))


def odd(answer: Any, error: Exception | str) -> BackendError:
    why = error if isinstance(error, str) else type(error).__name__
    text = repr(answer)[:SHOWN]
    return BackendError("transient", f"the answer has an unknown shape ({why}): {text}")


def decode(body: bytes, *, lenient: bool = False) -> Any:
    """The JSON of an answer; with `lenient`, NaN and Infinity too, which JSON does not know and some servers write.
    Raises BackendError (transient) when it is cut short or not JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if lenient:
            with suppress(ValueError):
                return json.loads(body)
        shown = body[:SHOWN].decode("utf-8", "replace")
        raise BackendError("transient", f"the answer is not JSON ({error}): {shown!r}") from error


def http_error(status: int, headers: Mapping[str, str], body: bytes) -> BackendError:
    """What an HTTP status of 400 or more means. Told by status and error code; by the text only where a server
    gives nothing else."""
    detail = _detail(body)
    code, parameter, text = (
        str(detail.get("code") or ""),
        str(detail.get("param") or ""),
        str(detail["message"]),
    )
    # vLLM repeats the status as the code, which tells nothing; only then does the text decide.
    wordless = not code or code.isdigit()
    kind: ErrorKind = "bad_request"
    shown = f"HTTP {status}: {text[:SHOWN]}"
    if status in (401, 403):
        kind, shown = "auth", f"{shown}; check api_key"
    elif status == 404:
        kind, shown = "not_found", f"{shown}; check model and base_url"
    elif status == 429:
        kind = "rate_limit"
        if "insufficient_quota" in (code, detail.get("type")):
            kind, shown = "auth", f"{shown}; the account has no credit left"
    elif status in (408, 409, 425) or status >= 500:
        kind = "transient"
    elif code == "context_length_exceeded" or (wordless and _TOO_LONG.search(text)):
        kind = "context_length"
    elif code in ("content_filter", "content_policy_violation") or (wordless and _FILTERED.search(text)):
        kind = "content_filter"
    elif named := _unsupported(code, parameter, text):
        kind, shown = "unsupported", f"{shown}; {_HINTS[named]}"
    return BackendError(kind, shown, status=status, retry_after=retry_after(headers))


def _unsupported(code: str, parameter: str, text: str) -> str | None:
    """The parameter that the endpoint does not know, if that is what it says."""
    if not (code.startswith(("unsupported", "unknown")) or _UNKNOWN.search(text)):
        return None
    if parameter:
        return next((name for name in _HINTS if parameter.split(".")[0].endswith(name)), None)
    return next((name for name in _HINTS if name in text), None)


def _detail(body: bytes) -> dict[str, Any]:
    """The error object of a body, whatever its form; its text under "message"."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"message": body[:SHOWN].decode("utf-8", "replace").strip() or "no message"}
    for key in ("error", "detail", "message"):
        if isinstance(found, Mapping) and found.get(key):
            found = found[key]
            break
    if isinstance(found, Mapping):
        return {**found, "message": found.get("message") or str(dict(found))}
    return {"message": str(found)}


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds to wait, from retry-after-ms or Retry-After (seconds or an HTTP date)."""
    lower = {key.lower(): value for key, value in headers.items()}
    try:
        if "retry-after-ms" in lower:
            return max(0.0, float(lower["retry-after-ms"]) / 1000)
        text = lower.get("retry-after", "")
        if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
            return float(text)
        when = parsedate_to_datetime(text) if text else None
    except (ValueError, TypeError):
        return None
    if when is None:
        return None
    return max(0.0, (when.astimezone(UTC) - (now or datetime.now(UTC))).total_seconds())
