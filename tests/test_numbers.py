"""Every number of a recipe has bounds: no stage, role, limit or format takes NaN, infinity or an absurd count."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from synthpref.core.source import Source
from synthpref.engine.recipe import RecipeHead
from synthpref.engine.registry import Registry

REGISTRY = Registry()


def kinds(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        for inner in get_args(annotation):
            yield from kinds(inner)
    elif get_origin(annotation) is not None and hasattr(annotation, "__metadata__"):
        yield from kinds(get_args(annotation)[0])
    else:
        yield annotation


def numbers() -> Iterator[tuple[type[BaseModel], str, type]]:
    classes = [cls for kind in ("stages", "backends", "exporters") for _, cls in REGISTRY.all(kind)]  # type: ignore[arg-type]
    for cls in (*classes, RecipeHead, Source):
        for name, field in cls.model_fields.items():
            for kind in kinds(field.annotation):
                if kind in (int, float):
                    yield cls, name, kind
                elif isinstance(kind, type) and issubclass(kind, BaseModel):
                    for inner, more in kind.model_fields.items():
                        if any(k in (int, float) for k in kinds(more.annotation)):
                            yield kind, inner, float if float in list(kinds(more.annotation)) else int


FIELDS = sorted(
    {(cls.__name__, name): (cls, name, kind) for cls, name, kind in numbers()}.items(),
    key=lambda item: item[0],
)


def refused(cls: type[BaseModel], name: str, value: Any) -> bool:
    """Whether the value is refused for its own sake, whatever else the class wants."""
    try:
        cls.model_validate({name: value})
    except ValidationError as error:
        return any(problem["loc"][:1] == (name,) for problem in error.errors())
    return False


def test_there_are_numbers() -> None:
    assert len(FIELDS) > 60


@pytest.mark.parametrize(
    ("cls", "name", "kind"), [value for _, value in FIELDS], ids=[".".join(key) for key, _ in FIELDS]
)
def test_no_number_is_taken_that_is_none(cls: type[BaseModel], name: str, kind: type) -> None:
    assert refused(cls, name, math.nan)
    assert refused(cls, name, math.inf)
    assert refused(cls, name, -math.inf)
    if kind is int:
        assert refused(cls, name, 10**19)
        assert refused(cls, name, 1e19)


@pytest.mark.parametrize(
    ("word", "fields"),
    [
        ("pair.mu_sigma", {"score": "s", "k": -2}),
        ("pair.mu_sigma", {"score": "s", "k": math.nan}),
        ("sample.n", {"model": "m", "n": 1e12}),
        ("sample.n", {"model": "m", "temperature": math.inf}),
        ("sample.n", {"model": "m", "n": 10**6}),
        ("judge.point", {"model": "m", "repeats": 10**7}),
    ],
)
def test_named_cases(word: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        REGISTRY.get("stages", word).model_validate(fields)
