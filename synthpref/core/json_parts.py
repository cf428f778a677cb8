"""The JSON in a reply: objects and arrays that are whole, and what is left of an object that is not."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class JsonSpan:
    """A JSON object or array and where it stands in the text. `places` is where the values of a broken object stand,
    by key; for a whole one `json_places` finds them."""

    start: int
    end: int
    value: Any
    broken: bool = False
    places: Mapping[str, int] = field(default_factory=dict)


class Twice(dict[str, Any]):
    """A JSON object in which a key stands more than once with different values. `values_of` has them all; as a dict it
    keeps the last one, as JSON parsers do."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    return whole if len(whole) == len(pairs) else Twice(pairs)


_DECODER = json.JSONDecoder(strict=False, parse_constant=lambda _: None, object_pairs_hook=_object)
_OPENING = re.compile(r"[{\[]")
_BEGINS = re.compile(r"\{\s*(?:\"[^\"\n]{0,80}\"|'[^'\n]{0,80}'|\w{1,40})\s*:|\{\s*(?:\"[^\"\n]{0,80})?\Z")
"""The beginning of an object, whether or not the rest of it can be read."""


def json_spans(text: str) -> Iterator[JsonSpan]:
    """The JSON objects and arrays in `text`, outermost ones only, in order."""
    at = 0
    while found := _OPENING.search(text, at):
        try:
            value, at = _DECODER.raw_decode(text, found.start())
        except ValueError:
            at = found.end()
        except RecursionError:
            # About a thousand openings deep, so at least as many characters on it is still inside.
            at = found.start() + 900
        else:
            yield JsonSpan(found.start(), at, value)


def json_parts(text: str) -> Iterator[JsonSpan]:
    """Like `json_spans`, but with what stands inside an object that cannot be read left alone: a verdict in there may
    be part of a text that the object quotes. Of such an object, where its braces are closed, there are the properties
    that it begins with and those that it ends with, which are outside of any quotation in between; where they are
    not, there is nothing up to the end of the text.
    """
    at = 0
    while found := _OPENING.search(text, at):
        start = found.start()
        try:
            value, at = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            if _BEGINS.match(text, start):
                end = _closed(text, start)
                at = len(text) if end is None else end
                yield JsonSpan(start, at, None, broken=True)
                if end is not None:
                    yield from _outermost(text, start, end)
            else:
                at = found.start() + 900 if isinstance(error, RecursionError) else found.end()
        else:
            yield JsonSpan(start, at, value)


def _closed(text: str, start: int) -> int | None:
    """Where the braces that open at `start` are closed, all of them counted; None where they are not."""
    depth = 0
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return brace.end()
    return None


_KEY = r"(?P<key>\"[^\"\n:]{1,80}\"|'[^'\n:]{1,80}'|[A-Za-z_][\w -]{0,40})\s*:\s*"
_SCALAR = (
    r"(?P<value>-?\d+(?:\.\d+)?|\"[^\"{}\n]{0,60}\"|'[^'{}\n]{0,60}'|[A-Za-z]{1,12}(?=\s*[,}])|\{[^{}]*\})"
)
_PROPERTY = re.compile(rf"{_KEY}{_SCALAR}\s*(?P<end>,\s*\}}|[,}}])\s*")
_NEAR = 4000
"""Characters at either end of a broken object that may hold its properties."""


def _outermost(text: str, start: int, end: int) -> Iterator[JsonSpan]:
    first: list[re.Match[str]] = []
    at = re.compile(r"\{\s*").match(text, start)
    place = at.end() if at else start
    while (match := _PROPERTY.match(text, place, min(end, start + _NEAR))) and "}" not in match["end"]:
        first.append(match)
        place = match.end()
    last: list[re.Match[str]] = []
    for match in _PROPERTY.finditer(text, max(start, end - _NEAR), end):
        if last and last[-1].end() != match.start():
            last = []
        # What comes before must end a value: a quotation that is cut may run on into a property.
        last = [*last, match] if last or text[: match.start()].rstrip().endswith((",", "{")) else []
    if not last or last[-1].end() < end:
        last = []
    for run in (first, last):
        if run:
            yield _span(run, start, end)


def _span(run: list[re.Match[str]], start: int, end: int) -> JsonSpan:
    places: dict[str, int] = {}
    pairs = []
    for match in run:
        key = match["key"].strip("\"' ")
        value, inner = _value(match["value"], match.start("value"))
        places |= inner or {key: match.start("value") + match["value"].startswith(('"', "'"))}
        pairs.append((key, value))
    return JsonSpan(start, end, _object(pairs), broken=True, places=places)


def _value(raw: str, at: int) -> tuple[Any, dict[str, int]]:
    if not raw.startswith("{"):
        return (raw[1:-1] if raw[0] in "\"'" else json.loads(raw) if raw[-1].isdigit() else raw), {}
    run = list(_PROPERTY.finditer(raw))
    span = _span(run, 0, len(raw)) if run else None
    return (span.value, {k: at + place for k, place in span.places.items()}) if span else ({}, {})


def json_places(text: str, start: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """The numbers, words and strings in the JSON object that begins at `start`: the keys that lead to each, and
    where it stands (a string after its quotation mark), in order. Items of an array have its keys."""
    keys: list[str] = [""]
    inside: list[str] = []
    for token in _JSON_TOKEN.finditer(text, start):
        said = token[0]
        if said in "{[":
            inside.append(said)
            keys.append("")
        elif said in "}]":
            inside.pop()
            keys.pop()
            if not inside:
                return
        elif token["colon"]:
            keys[-1] = json.loads(token["string"], strict=False)
        elif said not in ":,":
            yield tuple(key for key in keys if key), token.start() + said.startswith('"')


_JSON_TOKEN = re.compile(
    r"(?P<string>\"(?:[^\"\\]|\\.)*\")(?P<colon>\s*:)?|[{}\[\],:]|[^\s{}\[\],:\"]+", re.DOTALL
)


def any_dict(value: Any) -> bool:
    """True for an array that holds an object at its first level."""
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def holders_in(value: Any, names: Collection[str], depth: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects that have a property with one of the names, and how deep each stands in `value`. Nothing is looked
    for inside of one."""
    if depth > 5:
        return
    if isinstance(value, dict) and any(plain(key) in names for key in value):
        yield depth, value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from holders_in(inner, names, depth + 1)


def plain(name: str) -> str:
    """A property name as names are compared: "Code_Style" is "code style"."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def values_under(holder: Mapping[str, Any], names: Collection[str]) -> list[Any]:
    """The values of the holder under one of the names; more than one where a key stands twice."""
    pairs = holder.pairs if isinstance(holder, Twice) else list(holder.items())
    return [value for key, value in pairs if plain(key) in names]


def get(holder: Mapping[str, Any], names: Collection[str]) -> Any:
    """The last value of the holder under one of the names."""
    return values_under(holder, names)[-1]
