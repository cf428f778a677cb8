"""The reference of stages and fields, made from the classes: for `synthpref stages` and docs/."""

from __future__ import annotations

import inspect
import re
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from synthpref.core.errors import Problem, RecipeError
from synthpref.engine.registry import Registry, did_you_mean


def about(thing: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def stage_list(registry: Registry) -> str:
    """A line for each stage, by family."""
    lines, family = [], ""
    for word, stage in registry.all("stages"):
        if word.split(".")[0] != family:
            family = word.split(".")[0]
            lines.append("")
        origin = registry.origin("stages", word)
        first = re.split(r"(?<=[.:])\s", about(stage))[0].rstrip(":")
        lines.append(f"{word:18} {first}{f' [{origin}]' if origin else ''}")
    return "\n".join(lines).strip()


def stage_fields(registry: Registry, word: str) -> str:
    """The stage's documentation and its fields. Raises RecipeError for a word that is not known."""
    if word not in registry.names("stages"):
        fix = did_you_mean(word, registry.names("stages"))
        raise RecipeError([Problem("stages", f"no stage named {word!r}", fix)])
    stage = registry.get("stages", word)
    fields = "\n".join(
        f"  {name}: {kind}{default}\n      {text}" for name, kind, default, text in rows(stage)
    )
    return f"{word}\n\n{inspect.getdoc(stage)}\n\nFields:\n{fields}"


def rows(thing: type[BaseModel]) -> list[tuple[str, str, str, str]]:
    """(name, type, " = default" or " (required)", text) of each field."""
    return [
        (name, _kind(field.annotation), _default(field), " ".join((field.description or "").split()))
        for name, field in thing.model_fields.items()
    ]


def _kind(kind: Any) -> str:
    """A type as one reads it: without modules, and without what checks its values."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _kind(args[0])
    if origin is Literal:
        return f"one of {list(args)}"
    if origin in (Union, UnionType):
        return " | ".join(map(_kind, args))
    if args:
        return f"{_kind(origin)}[{', '.join(map(_kind, args))}]"
    named = {NoneType: "None", ...: "..."}.get(kind) or getattr(kind, "__name__", kind)
    return str(named)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return " (required)"
    value: Any = field.default
    if value is PydanticUndefined:
        value = field.get_default(call_default_factory=True)
    return " = null" if value is None else f" = {value!r}"
