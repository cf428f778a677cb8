"""How figures of `synthpref agree` are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """A titled table, with a sentence on how to read it."""

    title: str
    header: tuple[str, ...]
    lines: Sequence[tuple[str, ...]]
    note: str = ""


def number(figure: Any, digits: int = 2) -> str:
    """0.56 (0.49 to 0.63); a figure that is not defined is a dash."""
    if not isinstance(figure, Mapping):
        return "–" if figure is None else f"{figure:.{digits}f}"
    if figure.get("value") is None:
        return "–"
    value = f"{figure['value']:.{digits}f}"
    if figure.get("low") is None:
        return value
    return f"{value} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"


def percent(figure: Any) -> str:
    """78 % (74 to 82)."""
    if not isinstance(figure, Mapping):
        return "–" if figure is None else f"{100 * figure:.0f} %"
    if figure.get("value") is None:
        return "–"
    text = f"{100 * figure['value']:.0f} %"
    if figure.get("low") is None:
        return text
    return f"{text} ({100 * figure['low']:.0f} to {100 * figure['high']:.0f})"


def chance(p: float | None) -> str:
    """A p value: < 0.001, 0.034."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def money(cost: float | None) -> str:
    """$0.000075, $0.0042, $1.20: to two digits."""
    if cost is None:
        return "–"
    digits = 2 if cost >= 1 or cost <= 0 else 1 - math.floor(math.log10(cost))
    return f"${cost:.{digits}f}"


def get(tree: Any, *way: str, default: Any = None) -> Any:
    for step in way:
        tree = tree.get(step) if isinstance(tree, Mapping) else None
    return default if tree is None else tree


def signed(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.0f} points"


def small_share(share: float) -> str:
    return "0 %" if not share else "< 1 %" if share < 0.01 else f"{100 * share:.0f} %"
