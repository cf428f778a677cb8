"""A reward service that speaks a JSON of its own: its request as a template, its scores by their place in the reply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from synthpref.core.errors import BackendError
from synthpref.core.seam import Request
from synthpref.core.settings import Settings
from synthpref.core.types import Message
from synthpref.models import reward_json, wire, wire_errors

TEXTS = ("prompt", "response", "a", "b", "model")
LISTS = ("messages", "context", "items")
_NAMED = re.compile(r"\{\{|\}\}|\{(\w+)\}")


class RewardForm(Settings):
    """How a reward service is asked, and where its scores stand."""

    request: Any
    """The request's JSON, with "{prompt}" and "{response}" (texts), "{messages}" (the conversation with the response)
    or "{context}" (without it), and "{model}" in their places; "{a}" and "{b}" for the two answers of a comparison. A
    brace as such is doubled."""
    scores: str | dict[str, str] = Field(min_length=1)
    """Where the reply has the score, as a path such as `result.0.score`: to a number, a list of them, or a mapping from
    head to number. Or a path for each head, as {head: path}."""
    item: Any = None
    """For `batch`: what stands for one conversation; "{items}" in the request is the list of them, and "*" in the paths
    the place of each."""
    batch: int = Field(default=1, ge=1)
    """The most conversations in one request."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        paths = [self.scores] if isinstance(self.scores, str) else list(self.scores.values())
        in_request, in_item = _names(self.request), _names(self.item)
        if unknown := sorted((in_request | in_item) - {*TEXTS, *LISTS}):
            known = ", ".join(f"{{{name}}}" for name in (*TEXTS, *LISTS))
            raise ValueError(f"there is no {{{unknown[0]}}}; there is: {known}")
        if (self.item is not None) != ("items" in in_request):
            raise ValueError('item, what stands for one conversation, goes with "{items}" in the request')
        if self.batch > 1 and self.item is None:
            raise ValueError('a batch needs item, and "{items}" in the request')
        if "items" in in_item or (self.item is not None and in_request - {"items", "model"}):
            raise ValueError(
                "what differs between conversations belongs into item, and {items} into the request"
            )
        if any((self.item is not None) != path.split(".").count("*") for path in paths):
            raise ValueError('one "*" in each path of scores, the place of an item, goes with item')
        return self

    def check(self, serves: str) -> None:
        """Raise ValueError unless it shows what a role that serves this asks about."""
        named = _names(self.request if self.item is None else self.item)
        if serves not in ("reward", "comparisons"):
            raise ValueError("reward_form is for serves: reward or comparisons")
        if serves == "reward" and not {"response", "messages"} & named:
            raise ValueError('reward_form shows no response: put "{response}" or "{messages}" into it')
        if serves == "comparisons" and not {"a", "b"} <= named:
            raise ValueError('reward_form shows no two answers: put "{a}" and "{b}" into it')
        if other := sorted(named & ({"a", "b"} if serves == "reward" else {"messages"})):
            raise ValueError(f"reward_form: there is no {{{other[0]}}} where the role serves {serves}")


def _names(template: Any) -> set[str]:
    if isinstance(template, str):
        return {match[1] for match in _NAMED.finditer(template) if match[1]}
    inner = (
        template.values() if isinstance(template, Mapping) else template if isinstance(template, list) else ()
    )
    return set().union(*map(_names, inner))


def body(form: RewardForm, model: str, requests: Sequence[Request]) -> Any:
    """The JSON that asks for the scores of these."""
    if form.item is None:
        (request,) = requests
        return _filled(form.request, {"model": model, **_shown(request)})
    items = [_filled(form.item, {"model": model, **_shown(request)}) for request in requests]
    return _filled(form.request, {"model": model, "items": items})


def _shown(request: Request) -> dict[str, Any]:
    *before, last = request.messages
    context: list[Message] = before[:-1] if request.kind == "compare" else before
    shown: dict[str, Any] = {
        "prompt": reward_json.as_text(context),
        "context": context,
        "response": last["content"],
    }
    if request.kind == "compare":
        return {**shown, "a": before[-1]["content"], "b": last["content"]}
    return {**shown, "messages": list(request.messages)}


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    """The template with values in their places. What a value says is never taken for a place."""
    if isinstance(template, Mapping):
        return {key: _filled(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, values) for value in template]
    if not isinstance(template, str):
        return template
    if (whole := _NAMED.fullmatch(template)) and whole[1]:
        return values[whole[1]]
    return _NAMED.sub(lambda m: str(values[m[1]]) if m[1] else m[0][0], template)


def read(form: RewardForm, answer: Any, count: int) -> list[dict[str, float | None]]:
    """The heads of each of the `count` conversations that were asked about. Raises BackendError where the reply has
    another shape or another number of them."""
    wire_errors.no_error_inside(answer)
    try:
        if form.item is None:
            return [_heads(form.scores, answer, 0)]
        paths = [form.scores] if isinstance(form.scores, str) else form.scores.values()
        for path in paths:
            before, _, _ = path.partition("*")
            listed = _at(answer, before.strip("."))
            if not isinstance(listed, list) or len(listed) != count:
                raise ValueError(f"{count} items were expected at {path!r}")
        return [_heads(form.scores, answer, i) for i in range(count)]
    except wire.UNREADABLE as error:
        raise BackendError("unreadable", _odd(answer, error), status=200) from error


def _heads(scores: str | Mapping[str, str], answer: Any, item: int) -> dict[str, float | None]:
    if isinstance(scores, str):
        return reward_json.heads_of(_at(answer, scores, item))
    made: dict[str, float | None] = {}
    for head, path in scores.items():
        found = _at(answer, path, item)
        if isinstance(found, list | Mapping):
            raise TypeError(f"no number at {path!r}")
        made |= {head: reward_json.heads_of(found)["reward"]}
    return made


def _at(value: Any, path: str, item: int = 0) -> Any:
    for step in path.split(".") if path else ():
        value = value[item if step == "*" else int(step)] if isinstance(value, list) else value[step]
    return value


def _odd(answer: Any, error: Exception) -> str:
    said = f"{type(error).__name__}: {error}"
    return (
        f"the reply has no score where reward_form.scores says ({said}): {repr(answer)[: wire_errors.SHOWN]}"
    )
