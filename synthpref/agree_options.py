"""Options of `synthpref agree` -> the plain values of a mapping."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthpref.core.errors import Problem, RecipeError
from synthpref.core.jury_votes import RULES
from synthpref.engine.registry import did_you_mean


def usage(message: str, fix: str = "see synthpref agree --help") -> Exception:
    return RecipeError([Problem("agree", message, fix)])


def listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def whole(text: str | None) -> list[int]:
    try:
        return [int(part) for part in listed(text)]
    except ValueError:
        raise usage(f"--sizes {text}: whole numbers were expected", "write --sizes 2,3") from None


def number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _split(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise usage(f"{option} {text}: no value", f"write {option} NAME=VALUE")
    return name.strip(), value.strip()


def grouped(tree: dict[str, Any], key: str, pairs: Sequence[str], option: str) -> dict[str, Any]:
    """The tree with NAME=VALUE options added as NAME: [VALUE, ...] under `key`."""
    found = {name: list(v) if isinstance(v, list) else [v] for name, v in (tree.get(key) or {}).items()}
    for pair in pairs:
        name, value = _split(pair, option)
        found.setdefault(name, []).append(value)
    return {**tree, key: found} if found else tree


def with_judges(
    tree: dict[str, Any], judges: Sequence[str], costs: Sequence[str], families: Sequence[str]
) -> dict[str, Any]:
    """The tree with --judge, --cost and --family added."""
    known: dict[str, Any] = dict(tree.get("judges") or {})
    for text in judges:
        name, equals, columns = text.partition("=")
        if name in known:
            raise usage(f"--judge {name}: named twice", "give each judge a name of its own")
        known[name] = columns if equals else name
    prices = dict(tree.get("costs") or {})
    for pair in costs:
        name, value = _split(pair, "--cost")
        if name not in known:
            prices[name] = value
            continue
        said = known[name]
        known[name] = {**({"columns": said} if isinstance(said, str) else said), "cost": number(value)}
    extra = dict(tree.get("families") or {})
    for pair in families:
        name, value = _split(pair, "--family")
        extra[name] = value
    added = {"judges": known, "families": extra, "costs": prices}
    return {**tree, **{name: value for name, value in added.items() if value}}


def check_names(rule: str, choice: Any, mapping: Any, recipe: Path | None) -> None:
    """Raise RecipeError on a rule or juror that is not there."""
    if rule not in RULES:
        raise usage(f"--rule: no rule {rule!r}", did_you_mean(rule, list(RULES)))
    if recipe is None and not mapping.by:
        for name in choice.judges:
            if name not in mapping.judges:
                raise usage(f"--jurors: no judge {name!r}", did_you_mean(name, list(mapping.judges)))
