"""Canonical rows in Parquet: all that is known of a row, typed, so that any later tool can audit a label.

Free mappings (`params`, `facts`, `meta`) are JSON texts, scores a list with their names. `scratch` is not kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from synthpref.core.types import Comparison, Origin, Pair, Row, Sample, Score, Vote
from synthpref.io import parquet

_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()


def _structs(**fields: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct([pa.field(name, kind) for name, kind in fields.items()]))


_VOTES = _structs(
    judge=_TEXT,
    value=_FLOAT,
    why=_TEXT,
    reply=_TEXT,
    rationale=_TEXT,
    shown=_TEXT,
    role=_TEXT,
    asked=pa.bool_(),
    reliability=_FLOAT,
    scores=pa.list_(_FLOAT),
)
_VOTE_FIELDS = tuple(field.name for field in fields(Vote))
_SCORES = _structs(name=_TEXT, value=_FLOAT, why=_TEXT, votes=_VOTES)
SCHEMA = pa.schema(
    {
        "id": _TEXT,
        "prompt": _structs(role=_TEXT, content=_TEXT),
        "samples": _structs(
            text=_TEXT,
            model=_TEXT,
            finish_reason=_TEXT,
            params=_TEXT,
            seed=_INT,
            reasoning=_TEXT,
            parent=_INT,
            scores=_SCORES,
        ),
        "comparisons": _structs(name=_TEXT, a=_INT, b=_INT, p=_FLOAT, flipped=pa.bool_(), votes=_VOTES),
        "pairs": _structs(
            chosen=_INT,
            rejected=_INT,
            rule=_TEXT,
            margin=_FLOAT,
            p=_FLOAT,
            rationale=_TEXT,
            facts=_TEXT,
            p_low=_FLOAT,
            p_high=_FLOAT,
            agreement=_FLOAT,
            votes=_INT,
        ),
        "reference": _TEXT,
        "licence": _TEXT,
        "trail": _structs(stage=_TEXT, parent=_TEXT, model=_TEXT, note=_TEXT),
        "meta": _TEXT,
    }
)


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Write the rows, streamed; `path` appears whole or not at all. Returns how many there were."""
    return parquet.write(path, SCHEMA, map(_record, rows))


def written(path: Path, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows as they come by, each written on its way: what takes them to the end has the file then."""
    with parquet.writing(path, SCHEMA) as add:
        for row in rows:
            add(_record(row))
            yield row


def read_rows(path: Path) -> Iterator[Row]:
    """The rows as they were written, a batch in memory at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64):
            yield from map(_row, batch.to_pylist())


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _vote(vote: Vote) -> dict[str, Any]:
    return {name: getattr(vote, name) for name in _VOTE_FIELDS}


def _scored(votes: tuple[Vote, ...]) -> list[dict[str, Any]]:
    return [_vote(vote) for vote in votes]


def _record(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "prompt": row.prompt,
        "samples": [
            {
                "text": s.text,
                "model": s.model,
                "finish_reason": s.finish_reason,
                "params": _json(s.params),
                "seed": s.seed,
                "reasoning": s.reasoning,
                "parent": s.parent,
                "scores": [
                    {"name": name, "value": score.value, "why": score.why, "votes": _scored(score.votes)}
                    for name, score in s.scores.items()
                ],
            }
            for s in row.samples
        ],
        "comparisons": [
            {"name": c.name, "a": c.a, "b": c.b, "p": c.p, "flipped": c.flipped, "votes": _scored(c.votes)}
            for c in row.comparisons
        ],
        "pairs": [
            {
                "chosen": p.chosen,
                "rejected": p.rejected,
                "rule": p.rule,
                "margin": p.margin,
                "p": p.p,
                "rationale": p.rationale,
                "facts": _json(p.facts),
                "p_low": p.p_low,
                "p_high": p.p_high,
                "agreement": p.agreement,
                "votes": p.votes,
            }
            for p in row.pairs
        ],
        "reference": row.reference,
        "licence": row.licence,
        "trail": [
            {"stage": o.stage, "parent": o.parent, "model": o.model, "note": o.note} for o in row.trail
        ],
        "meta": _json(row.meta),
    }


def _votes(records: list[dict[str, Any]]) -> tuple[Vote, ...]:
    # A file that was written before there were scores has none.
    return tuple(
        Vote(**{**record, "scores": tuple(record["scores"]) if record.get("scores") else None})
        for record in records
    )


def _row(record: dict[str, Any]) -> Row:
    samples = [
        Sample(
            **{**s, "params": orjson.loads(s["params"])}
            | {"scores": {r["name"]: Score(r["value"], r["why"], _votes(r["votes"])) for r in s["scores"]}}
        )
        for s in record["samples"]
    ]
    comparisons = [Comparison(**{**c, "votes": _votes(c["votes"])}) for c in record["comparisons"]]
    pairs = [Pair(**{**p, "facts": orjson.loads(p["facts"])}) for p in record["pairs"]]
    return Row(
        id=record["id"],
        prompt=tuple(record["prompt"]),
        samples=tuple(samples),
        comparisons=tuple(comparisons),
        pairs=tuple(pairs),
        reference=record["reference"],
        licence=record["licence"],
        trail=tuple(Origin(**o) for o in record["trail"]),
        meta=orjson.loads(record["meta"]),
    )
