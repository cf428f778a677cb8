"""Files with labels and verdicts -> a Table, as a mapping of columns says.

An answer that cannot be read as a verdict is told to the user with its column before anything is computed; one
that stands for "no verdict" is counted as such.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from synthpref.core.errors import Problem, RecipeError
from synthpref.core.judged import FLIP
from synthpref.core.labelled import Judge, Labelled, Said
from synthpref.core.sides import word
from synthpref.core.source import ENDINGS
from synthpref.io.columns import MISSING, pick
from synthpref.io.files import READERS, Record, broken, short

_ORDERS = {
    **dict.fromkeys(("ab", "1", "a", "first", "left", "a_first", "false", "unswapped"), "ab"),
    **dict.fromkeys(("normal", "original", "forward"), "ab"),
    **dict.fromkeys(("ba", "2", "b", "second", "right", "b_first", "true", "swapped"), "ba"),
    **dict.fromkeys(("swap", "reverse", "reversed", "backward"), "ba"),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One answer as it stands in the file: a verdict or score in `raw`, or two scores. `turned` says that it
    speaks of the places, and that a was shown second."""

    order: str
    raw: tuple[Any, ...]
    column: str
    turned: bool = False


@dataclass
class Item:
    """One item, as gathered from all records that speak of it."""

    id: str
    where: str
    facts: dict[str, Any] = field(default_factory=dict)
    record: Record | None = None
    """The first record that speaks of it, where records are kept."""
    marks: dict[str, list[Cell]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[str, list[Cell]] = field(default_factory=lambda: defaultdict(list))
    costs: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class Gathered:
    """All items, and how the columns that were looked for were found."""

    items: dict[Any, Item] = field(default_factory=dict)
    annotators: dict[str, None] = field(default_factory=dict)
    judges: dict[str, Judge] = field(default_factory=dict)
    columns: dict[str, None] = field(default_factory=dict)
    records: int = 0
    keep: bool = False


def records(path: Path) -> Iterator[tuple[str, Record]]:
    """The records of a file, by the reader that its ending names. Raises RecipeError."""
    endings = [ending.lower() for ending in PurePath(path).suffixes if ending.lower() != ".gz"]
    name = ENDINGS.get(endings[-1]) if endings else None
    if name in (None, "txt"):
        known = ", ".join(ending for ending in ENDINGS if ending != ".txt")
        raise broken(path, "cannot tell the format from the ending", f"one of {known} was expected")
    if not path.is_file():
        raise broken(path, "there is no such file", "check the path")
    yield from READERS[name or ""](path)


def gather(mapping: Labelled, base: Path, *, keep: bool = False) -> Gathered:
    """Every record of the files, by item; `keep` the first of each. Raises RecipeError with what is missing or
    twice."""
    found = Gathered(keep=keep)
    used: set[str] = set()
    passed: dict[str, set[Any]] = {column: set() for column in mapping.where}
    for name in mapping.files:
        path = base / Path(name).expanduser()
        seen: set[Any] = set()
        for where, record in _each(records(path), mapping.each):
            found.columns.update(dict.fromkeys(map(str, record)))
            if all(_passes(record, column, allowed, used) for column, allowed in mapping.where.items()):
                found.records += 1
                key = _take(found, mapping, where, record, seen, used)
                for column in mapping.where:
                    if pick(record, column) is not MISSING:
                        passed[column].add(key)
    for column in used & passed.keys():
        # What another file says of an item that was left out is left out with it.
        found.items = {key: item for key, item in found.items.items() if key in passed[column]}
    if found.items or not mapping.where:
        _missing(found, mapping, used)
    if not found.items:
        why = "no record passes `where`" if mapping.where else "they hold no records"
        raise broken(", ".join(mapping.files), why, "check the files")
    return found


def _each(there: Iterable[tuple[str, Record]], column: str | None) -> Iterator[tuple[str, Record]]:
    """The records, or those in the list that a column of theirs holds."""
    for where, record in there:
        items = pick(record, column) if column else MISSING
        if items is MISSING:
            yield where, record
            continue
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise broken(where, f"{column!r} holds {short(items)}", "a list of mappings was expected")
        rest = {name: value for name, value in record.items() if name != column}
        for i, item in enumerate(items):
            yield f"{where} {column}[{i}]", {**rest, **item}


def known_columns(files: Iterable[Path], each: str | None = None) -> set[str]:
    """The columns of the files' first records."""
    return {
        str(name)
        for path in files
        for _, record in islice(_each(records(path), each), 200)
        for name in record
    }


def _passes(record: Record, column: str, allowed: Sequence[str], used: set[str]) -> bool:
    """Whether the record has one of the values. One that lacks the column is not filtered by it; its item is, where
    another file has the column."""
    value = pick(record, column)
    if value is MISSING:
        return True
    used.add(column)
    return _text(value) in allowed


def _take(
    found: Gathered, mapping: Labelled, where: str, record: Record, seen: set[Any], used: set[str]
) -> Any:
    """Note what the record says; the key of its item."""

    def get(column: str | None) -> Any:
        value = MISSING if column is None else pick(record, column)
        if value is not MISSING:
            used.add(str(column))
        return value

    key, order, places = _key(mapping, where, get, len(found.items))
    worker = _text(get(mapping.worker))
    speaker = _speaker(mapping, get)
    if key in seen and not (worker or speaker or order):
        fix = "name what tells its records apart: by, worker, order, or first and second"
        raise broken(where, f"the id {_shown(key)} comes a second time", fix)
    seen.add(key)
    item = found.items.setdefault(key, Item(_shown(key), where))
    if found.keep and item.record is None:
        item.record = record
    turned = order == "ba"
    _facts(item, mapping, get, swapped=places and turned, where=where)
    spoken = turned and (places or (mapping.orders == "shown" and mapping.order is not None))
    for said in mapping.labels:
        name = worker or "+".join(said.named)
        cells = list(_cells(said, get, order, spoken, places or mapping.orders == "shown"))
        _marked(found, item, name, cells, worker)
    answers = dict(mapping.judges)
    if speaker and mapping.says is not None:
        names = speaker.split("/")
        if {speaker, *names} & set(mapping.people):
            cells = list(_cells(mapping.says, get, order, spoken, places or mapping.orders == "shown"))
            name = worker or f"{speaker} {1 + sum(map(len, item.marks.values()))}"
            _marked(found, item, name, cells, worker or speaker)
        else:
            answers[speaker] = mapping.says
    for name, judge in answers.items():
        cells = list(_cells(judge, get, order, spoken, places or mapping.orders == "shown"))
        if not cells:
            continue
        found.judges.setdefault(name, judge)
        there = item.answers[name]
        # A judge's answer that every annotator's line repeats is one answer.
        there += [cell for cell in cells if not (worker and cell in there)]
        if (cost := _cost(judge, get)) is not None:
            item.costs[name].append(cost)
    return key


def _key(mapping: Labelled, where: str, get: Any, number: int) -> tuple[Any, str | None, bool]:
    """(the item's key, which response was shown first where the record says it, whether answers speak of places)."""
    parts = []
    for column in mapping.id:
        value = get(column)
        if value is MISSING or value is None or isinstance(value, dict | list):
            found = "is missing" if value is MISSING else f"holds {short(value)}"
            raise broken(where, f"the id column {column!r} {found}", "name the columns that every record has")
        # A column of whole numbers with gaps comes as 1.0 from some files and as 1 from others.
        parts.append(str(int(value)) if isinstance(value, float) and value.is_integer() else str(value))
    if mapping.first:
        places = [get(mapping.first), get(mapping.second)]
        if MISSING in places and mapping.model_a:
            places = [get(mapping.model_a), get(mapping.model_b)]
        if MISSING not in places:
            one, other = map(str, places)
            if one == other:
                raise broken(where, f"first and second are both {one!r}", "an item is of two responses")
            return (*parts, *sorted((one, other))), "ab" if one < other else "ba", True
        return (*parts,), None, False
    raw = get(mapping.order)
    order = None
    if raw is not MISSING and raw is not None:
        order = _ORDERS.get(word(raw))
        if order is None:
            fix = '"ab" or "ba", or the place of a, 1 or 2, was expected'
            raise broken(where, f"the order column {mapping.order!r} holds {short(raw)}", fix)
    if not parts:
        if mapping.worker or mapping.by or mapping.order or len(mapping.files) > 1:
            raise broken(where, "no id: several records belong to an item", "name its columns with --id")
        return (str(number),), order, False
    return (*parts,), order, False


def _shown(key: tuple[str, ...]) -> str:
    return "/".join(key)


def _speaker(mapping: Labelled, get: Any) -> str | None:
    """The name of who speaks in a long file's line; None in a file that has no such column."""
    if not mapping.by:
        return None
    parts = [_text(get(column)) for column in mapping.by]
    return "/".join(part for part in parts if part) if parts[0] else None


def _facts(item: Item, mapping: Labelled, get: Any, *, swapped: bool, where: str) -> None:
    sides = {"a": mapping.a, "b": mapping.b, "model_a": mapping.model_a, "model_b": mapping.model_b}
    if mapping.first and not mapping.model_a:
        sides |= {"model_a": mapping.first, "model_b": mapping.second}
    if swapped:
        sides = {"a": sides["b"], "b": sides["a"], "model_a": sides["model_b"], "model_b": sides["model_a"]}
    for name, column in {**sides, "prompt": mapping.prompt, "reference": mapping.reference}.items():
        value = get(column)
        if value is MISSING or value is None:
            continue
        if item.facts.setdefault(name, value) != value:
            raise broken(
                where,
                f"{column!r} is not what it was for the item {item.id!r}, in {item.where}",
                "an item has one pair of responses; name the columns that tell items apart with --id",
            )


def _marked(found: Gathered, item: Item, name: str, cells: list[Cell], many: str | None) -> None:
    """Note what an annotator said. A cell with a list is of several annotators."""
    for cell in cells:
        lists = len(cell.raw) > 1
        for i, raw in enumerate(cell.raw):
            own = f"{name} {i + 1}" if lists else name
            mark = Cell(cell.order, (raw,), cell.column, cell.turned)
            found.annotators.setdefault(own)
            if mark not in item.marks[own] or many:
                item.marks[own].append(mark)


def _cells(said: Said, get: Any, order: str | None, turned: bool, places: bool) -> Iterator[Cell]:
    """The answers that stand in the columns. A column that a record lacks was not asked for."""
    plain = order or "ab"
    for way, verdicts, a, b in (
        (plain, said.verdict, said.score_a, said.score_b),
        (FLIP[plain], said.swapped, said.swapped_a, said.swapped_b),
    ):
        turn = turned if way == plain else places and way == "ba"
        values = [(get(column), column) for column in verdicts]
        raws = tuple(raw for value, _ in values if value is not MISSING for raw in listed(value))
        if raws:
            yield Cell(way, raws, "+".join(verdicts), turn)
        scores: list[Any] = []
        for column_a, column_b in zip(a, b, strict=True):
            sides = get(column_a), get(column_b)
            if MISSING in sides:
                continue
            one, other = listed(sides[0]), listed(sides[1])
            if len(one) != len(other):
                one, other = [sides[0]], [sides[1]]
            scores += zip(one, other, strict=True)
        if scores:
            yield Cell(way, tuple(scores), f"{'+'.join(a)},{'+'.join(b)}", turn)


def listed(value: Any) -> list[Any]:
    """The repeats in a cell: the items of a list (also of one that is written as JSON), else the value alone."""
    if isinstance(value, str) and value[:1] == "[" and value[-1:] == "]" and value[:2] != "[[":
        try:
            value = ast.literal_eval(value)  # as JSON writes it, or Python
        except (ValueError, SyntaxError):
            return [value]
    if isinstance(value, list | tuple):
        return list(value) or [None]
    return [value]


def _cost(judge: Judge, get: Any) -> float | None:
    """USD of the judgment in a record, where its columns say so."""
    numbers = []
    for column in [judge.cost] if isinstance(judge.cost, str) else judge.tokens or ():
        try:
            numbers.append(float(get(column)))
        except (TypeError, ValueError):
            return None
    if isinstance(judge.cost, str):
        return numbers[0]
    if len(numbers) == 2 and judge.price:
        return (numbers[0] * judge.price.input + numbers[1] * judge.price.output) / 1e6
    return None


def _text(value: Any) -> str | None:
    return None if value is MISSING or value is None else str(value)


def _missing(found: Gathered, mapping: Labelled, used: set[str]) -> None:
    """Raise RecipeError for each column that no record has."""
    from difflib import get_close_matches

    named: dict[str, str] = {}
    for what in ("prompt", "reference", "a", "b", "model_a", "model_b", "worker", "order", "first", "second"):
        if getattr(mapping, what):
            named[getattr(mapping, what)] = what
    named |= dict.fromkeys(mapping.id, "id") | dict.fromkeys(mapping.by, "by")
    named |= dict.fromkeys(mapping.where, "where")
    places: Mapping[str, Sequence[Said]] = {
        "label": mapping.labels,
        "says": [mapping.says] if mapping.says else [],
    }
    named |= {column: what for what, said in places.items() for s in said for column in s.named}
    for name, judge in mapping.judges.items():
        extra = (*(judge.tokens or ()), *([judge.cost] if isinstance(judge.cost, str) else []))
        named |= dict.fromkeys((*judge.named, *extra), f"judge {name}")
    problems = []
    for column, what in named.items():
        if column not in used:
            close = get_close_matches(column, list(found.columns), n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}? " if close else ""
            problems.append(
                Problem(what, f"no column {column!r}", f"{hint}there is: {', '.join(sorted(found.columns))}")
            )
    if problems:
        raise RecipeError(problems)


def unreadable(column: str, values: Counter[str], example: str) -> Problem:
    """The problem with values that are neither a, b nor a tie."""
    listed_ = ", ".join(f"{short(value)} ({n:,} times)" for value, n in values.most_common(6))
    more = f" and {len(values) - 6} more" if len(values) > 6 else ""
    return Problem(column, f"not understood: {listed_}{more}", example)
