"""What the first records of a source show of its mapping: mistakes that would make wrong labels, and what may be one.

A number that is read is not yet the score that was meant. A rank of which 1 is the best is turned into the opposite of a
score; a column of words gives no score at all; a column that is the same for both sides decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from synthpref.core.errors import Problem
from synthpref.core.source import Remark, Samples, Source
from synthpref.io.columns import MISSING, number_of, pick
from synthpref.io.files import Record, short

_RANK = re.compile(r"(?:^|[\W_])(?:rank(?:ing|ed)?s?|place(?:ment)?|position)(?:$|[\W_])", re.IGNORECASE)
_DOWN = re.compile(
    r"(?:^|[\W_])(?:loss|error|errors|perplexity|ppl|distance|wer|cer|toxicity|cost|penalty)(?:$|[\W_])", re.I
)
ENOUGH = 3
"""Records from which on it is no chance that all are alike."""


def wrong_scores(source: Source, records: Sequence[Record]) -> list[Problem]:
    """Scores that are mapped, and cannot be what the recipe takes them for."""
    found: dict[str, Problem] = {}
    for where, samples, items in _lists(source, records):
        for name in samples.scores:
            path = f"{where}.scores.{name}"
            for column in samples.columns_of(name):
                said = [[pick(item, column) for item in group] for group in items]
                if problem := _not_numbers(path, column, said, source) or _rank(
                    path, column, samples, name, said
                ):
                    found.setdefault(path, problem)
    for name, columns in _by_name(source).items():
        if len(columns) > 1 and len(set(columns)) == 1 and columns[0] is not None:
            fix = "name the column that holds this side's own score"
            found.setdefault(
                name,
                Problem(f"source.samples.scores.{name}", f"both sides have the score in {columns[0]!r}", fix),
            )
    return list(found.values())


def remarks(source: Source, records: Sequence[Record]) -> list[Remark]:
    """What may be a mistake, and may be meant."""
    return [*_alike(source, records), *_fixed_places(source, records)]


def _lists(source: Source, records: Sequence[Record]) -> Iterator[tuple[str, Samples, list[list[Any]]]]:
    """Each mapping of samples, with the things of each record that hold a sample."""
    for i, samples in enumerate(source.brought):
        where = "source.samples" if isinstance(source.samples, Samples) else f"source.samples[{i}]"
        groups: list[list[Any]] = []
        for record in records:
            items: Any = [record] if samples.column is None else pick(record, samples.column)
            groups.append(
                [item for item in items if not isinstance(item, str)] if isinstance(items, list) else []
            )
        yield where, samples, groups


def _by_name(source: Source) -> dict[str, list[str | None]]:
    """For each score, the column that holds it in each mapping of single samples."""
    names: dict[str, list[str | None]] = {}
    for samples in source.brought:
        if samples.column is None:
            for name in samples.scores:
                columns = samples.columns_of(name)
                names.setdefault(name, []).append(columns[0] if len(columns) == 1 else None)
    return names


def _not_numbers(path: str, column: str, said: list[list[Any]], source: Source) -> Problem | None:
    there = [value for group in said for value in group if value not in (MISSING, None, "")]
    if not there or any(number_of(value, column, source)[0] is not None for value in there):
        return None
    if all(value in source.invalid for value in there):
        return None
    count = f"in the first {len(said)} records" if len(said) > 1 else "in the first record"
    return Problem(path, f"{column!r} holds no number {count}: {short(there[0])}", "name a column of numbers")


def _rank(path: str, column: str, samples: Samples, name: str, said: list[list[Any]]) -> Problem | None:
    if samples.is_declared(name):
        return None
    groups = [[float(v) for v in group if _is_number(v)] for group in said]
    groups = [group for group in groups if group]
    values = [value for group in groups for value in group]
    if not values:
        return None
    whole = all(value == int(value) and value >= 0 for value in values) and min(values) in (0, 1)
    permuted = [
        sorted(group) == [float(n) for n in range(1, len(group) + 1)] for group in groups if len(group) > 2
    ]
    named = bool(_RANK.search(column) or _RANK.search(name))
    if (named and whole) or (len(permuted) >= ENOUGH and all(permuted)):
        span = f"{min(values):g} to {max(values):g}"
        shown = f"{column!r} looks like a rank ({span}), of which the lowest is the best"
    elif _DOWN.search(column) or _DOWN.search(name):
        shown = f"{column!r} is named like something of which less is better"
    else:
        return None
    fix = f"say which is better: {{column: {column}, lower_is_better: true}}, or false"
    return Problem(path, shown, fix)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _alike(source: Source, records: Sequence[Record]) -> Iterator[Remark]:
    """Scores that are the same for all responses of every record."""
    by_score: dict[str, list[list[float]]] = {}
    for _, samples, items in _lists(source, records):
        for name in samples.scores:
            rows = by_score.setdefault(name, [[] for _ in records])
            for row, group in zip(rows, items, strict=True):
                for column in samples.columns_of(name):
                    row += [
                        v
                        for item in group
                        if (v := number_of(pick(item, column), column, source)[0]) is not None
                    ]
    for name, rows in by_score.items():
        full = [row for row in rows if len(row) > 1]
        if len(full) >= ENOUGH and all(len(set(row)) == 1 for row in full):
            yield Remark(
                "same_score",
                f"source.samples.scores.{name}",
                f"in each of the first {len(full)} records all responses have the same score",
                "no pair can be made by a score that does not differ",
                "name the column that holds each response's own score",
            )


def _fixed_places(source: Source, records: Sequence[Record]) -> Iterator[Remark]:
    """Responses that are taken from one place of dialogues that are not equally long."""
    for where, samples, items in _lists(source, records):
        parts = samples.text.split(".")
        for at, part in enumerate(parts):
            if not part.isdigit() or not at:
                continue
            before = ".".join(parts[:at])
            lists = [pick(item, before) for group in items for item in group]
            lengths = {len(found) for found in lists if isinstance(found, list)}
            if len(lengths) > 1:
                last = ".".join([*parts[:at], "-1", *parts[at + 1 :]])
                yield Remark(
                    "fixed_turn",
                    f"{where}.text",
                    f"{samples.text!r} is one turn of dialogues of {min(lengths)} to {max(lengths)} messages",
                    "a label is mostly about the last turn, and an earlier one may be the same in both dialogues",
                    f"name the last one: {last}",
                )
                break
