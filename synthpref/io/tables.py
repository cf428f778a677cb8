"""Gathered cells -> the arrays of a Table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthpref.core.errors import Problem, RecipeError
from synthpref.core.judged import (
    TIE,
    Floats,
    JudgeTable,
    Table,
    codes,
    majority,
    mean_mark,
)
from synthpref.core.labelled import Labelled
from synthpref.core.sides import NONE, PLAIN, is_number, word
from synthpref.io.answers import Reader, model_of
from synthpref.io.files import short
from synthpref.io.labels import Gathered, Item, gather


def table(mapping: Labelled, base: Path) -> Table:
    """The labelled data as a Table. Raises RecipeError with all that is not understood."""
    return table_of(mapping, gather(mapping, base))


def table_of(mapping: Labelled, found: Gathered) -> Table:
    """What was gathered, read."""
    items = list(found.items.values())
    pairs = kind_of(mapping, items) == "pairs"
    reader = Reader(mapping, items, pairs)
    marks = reader.marks(list(found.annotators))
    judges = [reader.judge(name, judge) for name, judge in found.judges.items()]
    for name in mapping.costs:
        if name not in found.judges:
            there = ", ".join(found.judges) or "none"
            reader.problems.append(Problem("costs", f"no judge {name!r}", f"there is: {there}"))
    if reader.problems:
        raise RecipeError(reader.problems)
    words = np.array([[_words(item.facts.get(side)) for side in ("a", "b")] for item in items], float)
    if pairs:
        gold = majority(marks, mapping.no_majority)
    else:
        gold = mean_mark(marks)
    return Table(
        pairs,
        [item.id for item in items],
        [str(item.facts.get("prompt", f"\0{item.id}")) for item in items],
        words.reshape(len(items), 2),
        [(model_of(item, "model_a"), model_of(item, "model_b")) for item in items],
        list(found.annotators),
        marks,
        gold,
        judges,
        None if np.isnan(reader.gold_scores).all() else reader.gold_scores,
        [*reader.notes, *reader.about_minus(), *_order_notes(judges, mapping, gold), *constant_texts(items)],
    )


def kind_of(mapping: Labelled, items: Sequence[Item]) -> str:
    """Whether the items are pairs or single responses to be scored, by the mapping or else by the values."""
    if mapping.kind:
        return mapping.kind
    said = [*mapping.labels, *mapping.judges.values(), *([mapping.says] if mapping.says else [])]
    if mapping.b or mapping.model_b or mapping.first or mapping.order or any(s.of_pairs for s in said):
        return "pairs"
    values = {
        word(raw)
        for item in items
        for cells in (*item.marks.values(), *item.answers.values())
        for cell in cells
        for raw in cell.raw
    } - NONE
    numbers = {value for value in values if is_number(value)}
    given = mapping.values.given()
    if any(value in given or value in PLAIN for value in values - numbers):
        return "pairs"
    if values == numbers and numbers and not numbers <= {"-1", "0", "0.5", "1", "2", "3"}:
        return "scores"
    if numbers and numbers <= set(given):
        return "pairs"
    shown = ", ".join(short(value) for value in sorted(values)[:8]) or "none"
    fix = "say --kind pairs (with --values a=1 --values b=2 where they need it) or --kind scores"
    raise RecipeError([Problem("kind", f"verdicts on pairs, or scores? The values are {shown}", fix)])


def _order_notes(judges: Sequence[JudgeTable], mapping: Labelled, gold: Floats) -> list[str]:
    """A warning where the answers with b shown first make more sense when read the other way. Two orders that
    disagree may also be a judge that goes by the place; with labels, which of the two it is can be seen."""
    notes = []
    label = codes(gold)
    for judge in judges:
        if mapping.first or set(judge.shares) != {"ab", "ba"}:
            continue
        one, other = codes(judge.shares["ab"]), codes(judge.shares["ba"])
        both = (one >= 0) & (other >= 0) & (one < TIE) & (other < TIE)
        same = float((one == other)[both].mean()) if both.any() else 0.5
        known = both & (label >= 0) & (label < TIE)
        right = [float((order == label)[known].mean()) for order in (one, other)] if known.sum() >= 10 else []
        if (same < 0.35 and not right) or (right and right[1] < 0.4 and right[0] > 0.5):
            read = {"unswapped": "shown", "shown": "unswapped"}[mapping.orders]
            notes.append(
                f"{judge.name}: its two orders name the same winner for only {same:.0%} of the pairs. Either it goes by "
                f"the place, or its answers are not {mapping.orders}: then say --orders {read}."
            )
    return notes


SAME_TEXT = 5
"""Prompts from which on it is no chance that a model gives one text to all of them."""
FEW_WORDS = 3
"""A text of fewer words may be the right answer to many prompts."""


def constant_texts(items: Sequence[Item]) -> list[str]:
    """A note for each model that gave one text to several prompts: judges can be taken in by such texts, and no figure
    says so (Cheating Automatic LLM Benchmarks, arXiv:2410.07137)."""
    by_model: dict[str, dict[str, set[str]]] = {}
    for item in items:
        for side in ("a", "b"):
            text = item.facts.get(side)
            if isinstance(text, str) and len(text.split()) >= FEW_WORDS:
                who = model_of(item, f"model_{side}") or f"response {side}"
                texts = by_model.setdefault(who, {})
                texts.setdefault(" ".join(text.split()), set()).add(str(item.facts.get("prompt", item.id)))
    notes = []
    for who, texts in by_model.items():
        prompts = len(set().union(*texts.values()))
        for text, given in sorted(texts.items(), key=lambda entry: (-len(entry[1]), entry[0])):
            if len(given) < SAME_TEXT:
                break
            notes.append(f"{who}: one text answers {len(given):,} of {prompts:,} prompts: {short(text)}.")
    return notes


def _words(value: Any) -> float:
    """Words of a response; a list of messages is counted by its contents."""
    if isinstance(value, str):
        return float(len(value.split()))
    if isinstance(value, Mapping):
        return _words(value.get("content", value.get("text")))
    if isinstance(value, list):
        return float(np.nansum([_words(item) for item in value])) if value else math.nan
    return math.nan
