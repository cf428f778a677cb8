"""A barrier by itself: `python bench/barrier.py exact|minhash|diversity ROWS.jsonl` prints how many rows it keeps.

Rows are streamed from the file on each pass, as a run streams them from its journal.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson

from synthpref import Barrier, Row
from synthpref.stages.filter import Dedup, Diversity

KEEP = 0.5
"""The share of the rows that diversity keeps."""


class Streamed:
    """The rows of a file, read anew by each pass."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passes = 0

    def __iter__(self) -> Iterator[Row]:
        self.passes += 1
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                message = {"role": "user", "content": orjson.loads(line)["prompt"]}
                yield Row(id=f"{number:08}", prompt=(message,))


def barrier(name: str) -> Barrier:
    stage = (
        Diversity(keep=KEEP).expand()[0] if name == "diversity" else Dedup.model_validate({"method": name})
    )
    assert isinstance(stage, Barrier)
    return stage


def main(name: str, path: str) -> None:
    rows = Streamed(Path(path))
    kept = sum(isinstance(made, Row) for made in barrier(name).run(rows, random.Random(0)))
    print(kept, rows.passes)


if __name__ == "__main__":
    main(*sys.argv[1:])
