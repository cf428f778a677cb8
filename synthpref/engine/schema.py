"""The JSON Schema of a recipe, so that editors complete and check it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from synthpref.core.source import Source
from synthpref.engine.recipe import RecipeHead
from synthpref.engine.registry import Kind, Registry


def recipe_schema(registry: Registry) -> dict[str, Any]:
    """JSON Schema (2020-12) of all that the registry knows."""
    definitions: dict[str, Any] = {}

    def add(kind: type[BaseModel], name: str, constants: dict[str, str] | None = None) -> dict[str, str]:
        schema = kind.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(schema.pop("$defs", {}))
        for field, value in (constants or {}).items():
            schema["properties"][field] = {"const": value}
            schema["required"] = sorted({*schema.get("required", []), field})
        definitions[name] = schema
        return {"$ref": f"#/$defs/{name}"}

    def one_of(kind: Kind, field: str) -> dict[str, Any]:
        return {"oneOf": [add(thing, f"{kind}.{name}", {field: name}) for name, thing in registry.all(kind)]}

    stages: list[dict[str, Any]] = []
    bare = []
    for word, stage in registry.all("stages"):
        fields = add(stage, f"stages.{word}")
        about = (stage.__doc__ or "").strip().split("\n")[0]
        item = {"type": "object", "properties": {word: fields}, "required": [word], "description": about}
        stages.append({**item, "additionalProperties": False})
        if not definitions[f"stages.{word}"].get("required"):
            bare.append(word)
    head = RecipeHead.model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(head.pop("$defs", {}))
    properties = {
        **head["properties"],
        "models": {"type": "object", "additionalProperties": one_of("backends", "backend")},
        "source": add(Source, "source"),
        "stages": {"type": "array", "minItems": 1, "items": {"anyOf": [*stages, {"enum": bare}]}},
        "export": one_of("exporters", "format"),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "synthpref recipe",
        "type": "object",
        "properties": properties,
        "required": ["name", "source", "stages"],
        "additionalProperties": False,
        "$defs": definitions,
    }
