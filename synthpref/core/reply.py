"""What every parser of a reply needs: the JSON in it, its prose, and the reason when there is nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

LONGEST = 50_000
"""Characters of a reply that are looked at: the last ones, where the verdict is."""
_REASONING = ("reasoning", "rationale", "explanation", "feedback")


@dataclass(frozen=True, slots=True)
class Parsed(Generic[T]):
    """What a reply said. `value` is None when it held no verdict, and `why` then says what was wrong.

    A reason starts with a fixed phrase, which can be counted; what was found follows after a colon.
    """

    value: T | None
    why: str | None = None
    rationale: str | None = None
    at: int | None = field(default=None, compare=False)
    """Where in the reply the value stands, or the JSON begins that holds it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A verdict in a reply: where it ends, its value or what is wrong with it, and where it, or the JSON that
    holds it, begins."""

    end: int
    value: Any
    why: str | None = None
    rationale: str | None = None
    start: int | None = None


@dataclass(frozen=True, slots=True)
class JsonSpan:
    """A JSON object or array and where it stands in the text."""

    start: int
    end: int
    value: Any


def json_spans(text: str) -> Iterator[JsonSpan]:
    """The JSON objects and arrays in `text`, outermost ones only, in order."""
    decoder = json.JSONDecoder(strict=False, parse_constant=lambda _: None)
    opening = re.compile(r"[{\[]")
    at = 0
    while found := opening.search(text, at):
        try:
            value, at = decoder.raw_decode(text, found.start())
        except ValueError:
            at = found.end()
        except RecursionError:
            # About a thousand openings deep, so at least as many characters on it is still inside.
            at = found.start() + 900
        else:
            yield JsonSpan(found.start(), at, value)


class Reply:
    """A reply taken apart: `text` as it came, the JSON `spans` that hold an object, and the `prose` around
    them (JSON blanked out, so that nothing is read twice and every offset stays)."""

    def __init__(self, reply: str) -> None:
        self.text = reply[-LONGEST:]
        self.left_out = len(reply) - len(self.text)
        self.spans = [s for s in json_spans(self.text) if isinstance(s.value, dict) or any_dict(s.value)]
        prose = self.text
        for span in self.spans:
            prose = prose[: span.start] + " " * (span.end - span.start) + prose[span.end :]
        self.prose = prose

    def holders(self, names: Collection[str]) -> Iterator[tuple[JsonSpan, dict[str, Any]]]:
        """The JSON objects that have a property with one of the names, with the span they are in."""
        for span in self.spans:
            for holder in _holders(span.value, names):
                yield span, holder

    def lines(self) -> list[re.Match[str]]:
        """The lines of the prose that are not blank."""
        # Bound to the line's start, so that the blanks where JSON stood are gone through once, not squared.
        return list(re.finditer(r"^[^\S\n]*\S[^\n]*", self.prose, re.MULTILINE))

    def ends(self) -> list[re.Match[str]]:
        """The first and the last line."""
        lines = self.lines()
        return [*lines[:1], *lines[-1:]] if len(lines) > 1 else lines

    def last(self, found: Sequence[Found], what: str = "verdict") -> Parsed[Any]:
        """The verdict that ends last, or the reason why there is none. `what` is looked for in vain."""
        if not found:
            return Parsed(None, self.nothing(what))
        last = sorted(found, key=lambda f: f.end)[-1]
        # A few words around a verdict are its label; more are the judge's reasons.
        prose = self.prose.strip()
        rationale = last.rationale or (prose if len(prose.split()) > 4 else None)
        at = None if last.start is None else self.left_out + last.start
        return Parsed(last.value, last.why, rationale, at)

    def nothing(self, what: str) -> str:
        if not self.text.strip():
            return "empty reply"
        if refusal := _REFUSAL.search(self.text):
            return f"refused: {quoted(self.text[refusal.start() :])}"
        return f"no {what} found: {quoted(self.text)}"


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


def _holders(value: Any, names: Collection[str], depth: int = 0) -> Iterator[dict[str, Any]]:
    if depth > 5:
        return
    if isinstance(value, dict) and any(plain(key) in names for key in value):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner, names, depth + 1)


def plain(name: str) -> str:
    """A property name as names are compared: "Code_Style" is "code style"."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def get(holder: Mapping[str, Any], names: Collection[str]) -> Any:
    """The last value of the holder under one of the names."""
    return [value for key, value in holder.items() if plain(key) in names][-1]


def reasoning(holder: Any) -> str | None:
    """The reasons that a JSON object gives beside its verdict."""
    texts = (holder.get(key) for key in _REASONING) if isinstance(holder, dict) else ()
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), None)


def quoted(found: Any, length: int = 60) -> str:
    """A short piece of what was found, for a message."""
    line = " ".join((found if isinstance(found, str) else json.dumps(found)).split())
    return repr(line if len(line) <= length else line[: length - 1] + "…")


_REFUSAL = re.compile(
    r"\b(?:I(?:['’]m| am) (?:sorry|unable|not able)|I (?:can(?:not|['’]t)|won['’]t|must decline|apologi[sz]e)"
    r"|as an AI\b|I(?:['’]d| would) (?:rather|prefer) not)",
    re.IGNORECASE,
)
