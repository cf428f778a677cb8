"""What a request asks for, read from its messages: the candidates between fences, and the JSON that is wanted,
as a JSON Schema, from `response_format` or from the shape in words at the end of the last message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from synthpref.core.seam import Request
from synthpref.core.template import fenced

_PLACE = re.compile(r'"<[^<>"]*>"|<[^<>]*>')
_RANGE = re.compile(r"from (-?\d+(?:\.\d+)?) to (-?\d+(?:\.\d+)?)")
_COUNT = re.compile(r"\bexactly (\d+)\b")
_TAIL = 20_000
_ONE_WORD = "one word: yes or no"
_MENU = frozenset({"a", "b", "tie", "yes", "no"})


@dataclass(frozen=True)
class Asked:
    """A request, taken apart."""

    schema: Mapping[str, Any] | None
    """Of the JSON object that is wanted; None where a text is wanted."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """What stands between fences, by label; the first of each label."""
    last: str = ""
    """The last message of the user."""

    @property
    def prompt(self) -> str:
        """What the candidates answer, or what is to be answered."""
        return self.texts.get("prompt", self.last)


def read(request: Request) -> Asked:
    """What the request wants."""
    said = [m["content"] for m in request.messages if m["role"] != "assistant"]
    last = next((m["content"] for m in reversed(request.messages) if m["role"] == "user"), "")
    texts: dict[str, str] = {}
    for content in said:
        for label, text in fenced(content):
            texts.setdefault(label, text)
    given = request.response_format or {}
    if given.get("type") == "json_schema":
        return Asked(given["json_schema"].get("schema"), texts, last)
    return Asked(shape(last), texts, last)


def shape(text: str) -> dict[str, Any] | None:
    """The JSON Schema of the shape in words that a text ends with, such as {"score": <integer from 1 to 10>}, or of
    the one word that it asks for; None if it ends with neither."""
    tail = text[-_TAIL:].rstrip().rstrip(".`")
    if tail.endswith(_ONE_WORD):
        return {"type": "string", "enum": ["yes", "no"]}
    if not tail.endswith("}") or "<" not in tail:
        return None
    for start in re.finditer(r"\{", tail):
        quoted = _PLACE.sub(_as_string, tail[start.start() :])
        try:
            tree = orjson.loads(quoted)
        except orjson.JSONDecodeError:
            continue
        return _schema(tree) if "<" in quoted else None
    return None


def _as_string(match: re.Match[str]) -> str:
    return match[0] if match[0].startswith('"') else orjson.dumps(match[0]).decode()


def _schema(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        properties = {key: _schema(inner) for key, inner in value.items()}
        return {"type": "object", "properties": properties, "required": list(properties)}
    if isinstance(value, list):
        words = str(value[0]) if value else ""
        found = _COUNT.search(words)
        count = {"minItems": int(found[1]), "maxItems": int(found[1])} if found else {}
        return {"type": "array", "items": {"type": "string"}, **count}
    words = str(value).strip("<>")
    if limits := _RANGE.search(words):
        kind = "integer" if re.search(r"integer|whole", words) else "number"
        return {"type": kind, "minimum": float(limits[1]), "maximum": float(limits[2])}
    menu = re.split(r",\s*|\s+or\s+|\s*\|\s*", words)
    if len(menu) > 1 and {choice.lower() for choice in menu} <= _MENU:
        return {"type": "string", "enum": menu}
    return {"type": "string"}


def count(asked: Asked, schema: Mapping[str, Any], default: int = 3) -> int:
    """How many items an array is to have: as its schema says, else as the message says ("exactly 5")."""
    if "minItems" in schema:
        return int(schema["minItems"])
    found = _COUNT.search(asked.last)
    return int(found[1]) if found else default
