"""Rows for the tests of this folder."""

from __future__ import annotations

from typing import Any

from synthpref.core.types import Comparison, Origin, Pair, Row, Sample, Score, Vote


def paired(number: int = 1, **fields: Any) -> Row:
    """A row with three scored samples and one pair."""
    scores = (8.0, 2.0, None)
    samples = tuple(
        Sample(
            f"answer {i} to question {number}",
            model=f"m{i % 2}",
            finish_reason="stop",
            params={"temperature": 1.0},
            seed=number + i,
            scores={"good": Score(v, None if v is not None else "not on the scale: 11")},
        )
        for i, v in enumerate(scores)
    )
    pair = Pair(0, 1, "extremes", margin=6.0, rationale="the first is right", facts={"n": 2})
    made: dict[str, Any] = {
        "id": f"row-{number:03}",
        "prompt": ({"role": "user", "content": f"question {number}?"},),
        "samples": samples,
        "pairs": (pair,),
    }
    return Row(**(made | fields))


def full() -> Row:
    """A row with something in every field."""
    votes = (
        Vote("j1", 1.0, reply="A", rationale="clear", shown="ab"),
        Vote("j1", 0.0, reply="A", shown="ba"),
        Vote("j2", None, why="no verdict in the reply", reply="hm \x1b[31m"),
    )
    return paired(
        7,
        comparisons=(Comparison("compared", 0, 1, 0.5, flipped=True, votes=votes),),
        reference="42",
        licence="cc-by-4.0",
        trail=(Origin("synth.evolve", "seed-1", "writer", "made deeper"),),
        meta={"topic": "sums", "tags": ["a", 1, None], "deep": {"x": 0.5}},
    )
