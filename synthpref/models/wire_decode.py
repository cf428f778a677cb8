"""The bytes of an answer -> its JSON, read leniently where the meaning is kept. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

from synthpref.core.errors import BackendError
from synthpref.models.wire_errors import SHOWN

_LONE = re.compile("[\ud800-\udfff]")
_EVENT = re.compile(rb"\s*(?::[^\n]*\n\s*)*(?:event:[^\n]*\n\s*|id:[^\n]*\n\s*|retry:[^\n]*\n\s*)*data:")


def decode(body: bytes) -> Any:
    """The JSON of an answer.

    A byte order mark is passed over; what is no UTF-8, and half of a surrogate pair, become U+FFFD; NaN and Infinity,
    which JSON does not know and some servers write, are read; of a stream that nobody asked for, the whole answer is
    put together. Raises BackendError (unreadable) for what is left.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        text = body.decode("utf-8-sig", "replace").strip()
        try:
            return joined_stream(text) if _EVENT.match(body.removeprefix(b"\xef\xbb\xbf")) else _loads(text)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            shown = text[:SHOWN]
            raise BackendError(
                "unreadable", f"the answer is not JSON ({error}): {shown!r}", status=200
            ) from error


def _loads(text: str) -> Any:
    return _whole(json.loads(text, strict=False))


def _whole(value: Any) -> Any:
    """The value with U+FFFD for each half of a surrogate pair: no file and no request can hold one."""
    if isinstance(value, str):
        return _LONE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


def joined_stream(text: str) -> dict[str, Any]:
    """The answer that the events of a stream of /chat/completions add up to. A stream that breaks off before its end
    leaves choices with the finish reason "network_error", so that they are asked for again. Raises ValueError."""
    choices: dict[int, dict[str, Any]] = {}
    whole: dict[str, Any] = {}
    done = False
    for line in text.splitlines():
        data = line.partition("data:")[2].strip() if line.lstrip().startswith("data:") else ""
        if data == "[DONE]":
            done = True
        if not data or data == "[DONE]":
            continue
        event = _loads(data)
        whole |= {key: event[key] for key in ("id", "model", "usage", "error") if event.get(key)}
        for part in event.get("choices") or ():
            index = int(part.get("index") or 0)
            _add(choices.setdefault(index, {"index": index, "message": {}}), part)
    if not choices and not whole.get("error"):
        raise ValueError("a stream without an answer")
    for choice in choices.values():
        if choice.get("finish_reason") is None and not done:
            choice["finish_reason"] = "network_error"
    return {**whole, "choices": [choices[index] for index in sorted(choices)]}


def _add(choice: dict[str, Any], part: Mapping[str, Any]) -> None:
    message, delta = choice["message"], part.get("delta") or part.get("message") or {}
    for key in ("content", "reasoning_content", "reasoning", "refusal"):
        if isinstance(piece := delta.get(key), str):
            message[key] = message.get(key, "") + piece
    if (tokens := (part.get("logprobs") or {}).get("content")) is not None:
        held = choice.setdefault("logprobs", {"content": []})
        held["content"] += tokens
    for key in ("finish_reason", "error"):
        if part.get(key):
            choice[key] = part[key]
