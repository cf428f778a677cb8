"""Reward models in JSON, as plain functions: Request -> body, answer -> heads by name, two answers -> one number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request
from synthpref.core.types import Message
from synthpref.models.wire import UNREADABLE, usage_of
from synthpref.models.wire_errors import no_error_inside, odd


def reward_body(request: Request, model: str, extra: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The body of a reward model's endpoint: the conversation, and the raw logit asked for (vLLM). A cross-encoder's
    /score reads the prompt and the response as two texts; of two answers a template finds each under its own name."""
    body: dict[str, Any] = {"model": model, "use_activation": False}
    *before, last = request.messages
    if request.kind == "compare":
        template = {**two_answers(request), **(extra.get("chat_template_kwargs") or {})}
        return {**body, "messages": request.messages, **extra, "chat_template_kwargs": template}
    if path.endswith("/score"):
        return {**body, "text_1": as_text(before), "text_2": last["content"], **extra}
    return {**body, "messages": request.messages, **extra}


def two_answers(request: Request) -> dict[str, str]:
    """The two that are to be compared, as chat templates call them."""
    first, second = (message["content"] for message in request.messages[-2:])
    return {"response_a": first, "response_b": second}


def as_text(messages: Sequence[Message]) -> str:
    """A conversation as one text: the words alone of a single message, else each under its role."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)


def reward_answer(answer: Any) -> list[Completion]:
    """Heads by name from any of these: {"reward": x}, {"score": x}, {"scores": {name: x}}, and vLLM's /classify
    ({"data": [{"probs": [x, ...]}]}), /pooling ({"data": [{"data": [x, ...]}]}) and /score."""
    no_error_inside(answer)
    try:
        item = answer
        if isinstance(answer.get("data"), list):
            (item,) = answer["data"]
        there = [
            item[key] for key in ("rewards", "reward", "scores", "score", "probs", "data") if key in item
        ]
        found = next((value for value in there if value is not None), there[0])
        return [Completion(values=heads_of(found), usage=usage_of(answer))]
    except UNREADABLE as error:
        raise odd(answer, error) from error


def heads_of(found: Any) -> dict[str, float | None]:
    """Heads from what stands for them in JSON: a number, a list of them, or a mapping from name to number. Null and
    what is not finite is a head without a value; anything else that is no number is an error (one of UNREADABLE)."""
    if isinstance(found, Mapping):
        values = {str(name): _head(value) for name, value in found.items()}
    elif isinstance(found, list):
        nested = len(found) == 1 and isinstance(found[0], list)
        values = named_heads([_head(value) for value in (found[0] if nested else found)])
    else:
        values = {"reward": _head(found)}
    if not values:
        raise ValueError("no head")
    return values


def _head(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        # A number in quotation marks is none: who writes one may as well write "high".
        raise TypeError(f"{value!r} is no number")
    try:
        return float(value) if value is not None and math.isfinite(value) else None
    except OverflowError:
        return None


def head_names(labels: Mapping[Any, str] | None) -> dict[int, str]:
    """The names that a model's configuration (id2label) has for its outputs, by their place."""
    return {int(i): str(name) for i, name in (labels or {}).items()}


def named_heads(values: Sequence[float | None], names: Mapping[int, str] = {}) -> dict[str, float | None]:
    """A reward model's outputs by name: its own names where it has some, else "head_0" and so on; a single one is the
    "reward"."""
    finite = [value if value is not None and math.isfinite(value) else None for value in values]
    if len(finite) == 1:
        return {"reward": finite[0]}
    plain = [f"head_{i}" for i in range(len(finite))]
    own = [head if names.get(i) in (None, f"LABEL_{i}") else names[i] for i, head in enumerate(plain)]
    # Two heads of one name would be one.
    return dict(zip(own if len(set(own)) == len(own) else plain, finite, strict=True))


def preference(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """The log-odds for the first of two answers, from what a pairwise model gives: that number, or a logit for each of
    the two. Raises BackendError."""
    given = list(values.values())
    if len(given) == 1:
        return {"reward": given[0]}
    if len(given) == 2:
        first, second = given
        return {"reward": None if first is None or second is None else first - second}
    fix = "a model that compares two answers has one output, or one for each of the two"
    raise BackendError("unsupported", f"{len(given)} outputs ({', '.join(values)}); {fix}")
