"""A record -> a Row, as the source's mapping of columns says. A label is never made up: a score that is not
there, or stands for none, is a Score without a value."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time
from difflib import get_close_matches
from typing import Any

from synthpref.core.errors import Problem
from synthpref.core.source import Column, Constant, Mapped, Samples, Source
from synthpref.core.types import Message, Row, Sample, Score, Vote
from synthpref.io.files import Record, broken, short

MISSING: Any = object()
_INDEX = re.compile(r"-?\d{1,9}")
_ROLES = ("system", "user", "assistant")


def pick(record: Any, column: str) -> Any:
    """The value of a column, which may be named with dots; MISSING where there is none. A number is a place in a list,
    counted from its end where it is negative: "chosen.-1.content"."""
    if isinstance(record, Mapping) and column in record:
        return record[column]
    head, dot, rest = column.partition(".")
    if not dot:
        if isinstance(record, list) and _INDEX.fullmatch(head) and -len(record) <= int(head) < len(record):
            return record[int(head)]
        return MISSING
    inner = pick(record, head)
    return MISSING if inner is MISSING else pick(inner, rest)


def missing_columns(source: Source, records: list[Record]) -> list[Problem]:
    found = []
    for column, field in source.columns.items():
        if all(pick(record, column) is MISSING for record in records):
            there = list(dict.fromkeys(str(key) for record in records for key in record))
            found.append(_no_column(f"source.{field}", column, there))
    for i, samples in enumerate(source.brought):
        if samples.column is None:
            continue
        lists = [pick(record, samples.column) for record in records]
        items = [
            item for items in lists if isinstance(items, list) for item in items if isinstance(item, Mapping)
        ]
        where = "source.samples" if isinstance(source.samples, Samples) else f"source.samples[{i}]"
        for column, field in samples.named(where).items() if items else ():
            if all(pick(item, column) is MISSING for item in items):
                there = list(dict.fromkeys(str(key) for item in items for key in item))
                found.append(_no_column(field, column, there))
    return found


def _no_column(where: str, column: str, there: list[str]) -> Problem:
    close = get_close_matches(column, there, n=1, cutoff=0.5)
    listed = f"there is: {', '.join(sorted(there))}"
    return Problem(
        where, f"no column {column!r}", f"did you mean {close[0]!r}? {listed}" if close else listed
    )


def row_of(source: Source, name: str, record: Record, where: str) -> Row:
    reference = pick(record, source.reference) if source.reference else None
    licence = source.licence
    return Row(
        id=name,
        prompt=tuple(_prompt(source, record, where)),
        samples=tuple(
            sample for brought in source.brought for sample in _samples(brought, source, record, where)
        ),
        reference=None if reference in (None, MISSING, "") else str(reference),
        licence=_text(pick(record, licence.column)) if isinstance(licence, Column) else licence,
        meta=_meta(source, record),
    )


def _text(value: Any) -> str | None:
    return None if value in (None, MISSING) else str(value)


def _prompt(source: Source, record: Record, where: str) -> list[Message]:
    messages: list[Message]
    if source.messages is not None:
        messages = _messages(pick(record, source.messages), source.messages, where)
    else:
        value = pick(record, source.prompt)
        if not isinstance(value, str):
            found = "is missing" if value is MISSING else f"holds {short(value)}"
            fix = f"use messages: {source.prompt}" if isinstance(value, list) else "mend or remove the record"
            raise broken(
                where, f"the prompt column {source.prompt!r} {found}, where a text was expected", fix
            )
        if not value.strip():
            raise broken(where, f"the prompt (column {source.prompt!r}) is empty", "remove the record")
        messages = [{"role": "user", "content": value}]
    system = source.system
    text = _text(pick(record, system.column)) if isinstance(system, Column) else system
    if not text:
        return messages
    if messages[0]["role"] == "system":
        raise broken(
            where, "the messages begin with a system message, and `system` adds one", "drop one of them"
        )
    return [{"role": "system", "content": text}, *messages]


def _messages(value: Any, column: str, where: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        found = "is missing" if value is MISSING else f"holds {short(value)}"
        raise broken(
            where, f"the messages column {column!r} {found}", "a list of {role, content} was expected"
        )
    messages = []
    for i, item in enumerate(value):
        role, content = (item.get("role"), item.get("content")) if isinstance(item, Mapping) else (None, None)
        if role not in _ROLES or not isinstance(content, str) or not content.strip():
            found = f"message {i} of {column!r} is {short(item)}"
            raise broken(where, found, f"a message is {{role: one of {', '.join(_ROLES)}; content: text}}")
        messages.append({"role": role, "content": content})
    if messages[-1]["role"] != "user":
        found = f"{column!r} ends with the {messages[-1]['role']}"
        raise broken(where, found, "a prompt ends with the user; responses go into `samples`")
    return messages


def _samples(brought: Samples, source: Source, record: Record, where: str) -> Iterator[Sample]:
    items: Iterable[Any] = [record]
    if brought.column is not None:
        items = pick(record, brought.column)
        if items is MISSING or items is None:
            return
        if not isinstance(items, list):
            raise broken(where, f"{brought.column!r} holds {short(items)}, where a list was expected")
    for i, item in enumerate(items):
        text = item if isinstance(item, str) else pick(item, brought.text)
        if text is MISSING or text is None:
            continue
        if not isinstance(text, str):
            inner = f"{brought.column}.{i}.{brought.text}" if brought.column else brought.text
            raise broken(where, f"the response in {inner!r} is {short(text)}", "a text was expected")
        model = brought.model
        named = model.constant if isinstance(model, Constant) else _text(pick(item, model)) if model else None
        reason = _text(pick(item, brought.finish_reason)) if brought.finish_reason else None
        yield Sample(
            text,
            model=named or "",
            finish_reason=reason,
            scores={name: _score(item, brought, name, source) for name in brought.scores},
        )


def _score(item: Any, brought: Samples, name: str, source: Source) -> Score:
    """The score in one column, or the mean of several; without a value unless every column has one. One of which the
    lower is the better is turned round: rank 1 is -1, and rank 7 is -7."""
    columns, sign = brought.columns_of(name), -1.0 if brought.is_turned(name) else 1.0
    votes = []
    for column in columns:
        value, why = number_of(pick(item, column), column, source)
        votes.append(Vote(judge=column, value=None if value is None else sign * value, why=why))
    if not isinstance(brought.scores[name], str | Mapped) or len(columns) > 1:
        return _mean(votes)
    return Score(votes[0].value, why=votes[0].why)


def _mean(votes: list[Vote]) -> Score:
    values = [vote.value for vote in votes if vote.value is not None]
    if not votes or len(values) < len(votes):
        why = "; ".join(vote.why for vote in votes if vote.why) or "no columns"
        return Score(None, why=why, votes=tuple(votes))
    return Score(math.fsum(values) / len(values), votes=tuple(votes))


def number_of(value: Any, column: str, source: Source) -> tuple[float | None, str | None]:
    """(number, None), or (None, why there is none)."""
    if value is MISSING or value is None or value == "":
        return None, f"{column}: no value"
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
        if not isinstance(value, float) and value not in source.invalid:
            return None, f"{column}: {short(value)} is not a number"
    if value in source.invalid or number in source.invalid:
        return None, f"{column}: {short(value)} means no score"
    if not math.isfinite(number):
        return None, f"{column}: {short(value)} is not a finite number"
    return number, None


def _meta(source: Source, record: Record) -> dict[str, Any]:
    if source.meta == "*":
        used = {column.partition(".")[0] if column not in record else column for column in source.columns}
        return {str(k): plain(v) for k, v in record.items() if k not in used}
    picked = ((column, pick(record, column)) for column in source.meta)
    return {column: plain(value) for column, value in picked if value is not MISSING}


def plain(value: Any) -> Any:
    """The value in JSON's terms: dates and other kinds as text, bytes as base64, NaN as null."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.isoformat() if isinstance(value, datetime | date | time) else str(value)
