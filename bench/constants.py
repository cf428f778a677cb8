"""What a sample costs synthpref itself: `python bench/constants.py --rows N --tokens T` prints it as JSON.

A run with a barrier, on answers that cost nothing (bench/prose.py), is timed phase by phase; then its journal is
merged into an empty one, as a shard's is. A process of its own for each length of answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

PROMPT_TOKENS = 250
COMMITS = 200


def measure(*, rows: int, samples: int, tokens: int, source_rows: int) -> dict[str, float]:
    """Run `_measured` in a fresh process."""
    words = {"--rows": rows, "--samples": samples, "--tokens": tokens, "--source-rows": source_rows}
    command = [sys.executable, __file__, *(str(w) for pair in words.items() for w in pair)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_recipe(folder: Path, rows: int, samples: int, tokens: int) -> Path:
    """Samples, a reward for each, pairs, and a barrier that keeps all rows."""
    import prose

    luck = random.Random(7)
    with (folder / "prompts.jsonl").open("w", encoding="utf-8") as file:
        for i in range(rows):
            text = f"{i}: {prose.piece(luck, round(PROMPT_TOKENS * prose.CHARS_PER_TOKEN))}"
            file.write(json.dumps({"prompt": text}) + "\n")
    # Not prose.py itself, which would be loaded anew, and write its text anew, within what is timed.
    (folder / "plugin.py").write_text("from prose import BACKENDS\n", encoding="utf-8")
    chars = round(tokens * prose.CHARS_PER_TOKEN)
    tree = {
        "name": "sizing",
        "plugins": ["plugin.py"],
        "models": {
            "policy": {"backend": "prose", "model": "policy", "chars": chars},
            "reward": {"backend": "prose", "model": "reward"},
        },
        "source": {"path": "prompts.jsonl"},
        "stages": [
            {"sample.n": {"model": "policy", "n": samples}},
            {"reward": {"model": "reward"}},
            {"pair.extremes": {"score": "reward"}},
            {"filter.dedup": {"method": "exact"}},
        ],
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def _measured(rows: int, samples: int, tokens: int, source_rows: int) -> dict[str, float]:
    from synthpref import job

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "warm").mkdir()
        job.run(job.load(write_recipe(folder / "warm", 4, samples, tokens)), folder / "warm" / "run")
        recipe = write_recipe(folder, rows, samples, tokens)
        found = _phases(lambda: job.run(job.load(recipe), folder / "run"), rows, samples)
        journal = folder / "run" / "journal.sqlite"
        made = sum(f.stat().st_size for f in (folder / "run" / "dataset").rglob("*") if f.is_file())
        found["journal_bytes"] = journal.stat().st_size / (rows * samples)
        found["rows_parquet_bytes"] = (folder / "run" / "rows.parquet").stat().st_size / (rows * samples)
        found["dataset_bytes_row"] = made / rows
        found |= _merged(journal, folder / "whole.sqlite", rows * samples)
        with closing(sqlite3.connect(journal)) as db:
            most, page = (
                db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("max_page_count", "page_size")
            )
        found["largest_bytes"] = most * page
        found["commits_per_s"] = _commits(folder / "commits.sqlite")
        (folder / "source").mkdir()
        source = job.load(write_recipe(folder / "source", source_rows, samples, tokens))
        begun = time.process_time()
        assert sum(1 for _ in job.source(source)) == source_rows
        found["read_us_row"] = (time.process_time() - begun) / source_rows * 1e6
    return found


def _phases(run: Callable[[], Any], rows: int, samples: int) -> dict[str, float]:
    """Run, and note what each phase took of CPU time, which is most of it, and the same on a busy machine."""
    from synthpref import job
    from synthpref.engine.journal import Journal
    from synthpref.engine.runner import Runner

    took: dict[str, float] = {}
    walk, barrier, finish = Runner.walk, Runner._barrier, job.finish

    async def timed_walk(self: Runner, step: Any) -> None:
        cpu = time.process_time()
        await walk(self, step)
        await self.journal.settle()
        took["walk_cpu"] = time.process_time() - cpu
        took["segment_bytes"] = _folded(self.journal)
        begun = time.process_time()
        await self.journal.indexed()
        took["index"] = time.process_time() - begun

    async def timed_barrier(self: Runner, step: Any) -> None:
        begun = time.process_time()
        await barrier(self, step)
        took["barrier"] = time.process_time() - begun

    def timed_finish(*args: Any) -> int:
        begun = time.process_time()
        records = finish(*args)
        took["export"] = time.process_time() - begun
        return records

    def _folded(journal: Journal) -> int:
        with closing(sqlite3.connect(journal.path)) as db:
            db.execute("PRAGMA wal_checkpoint(FULL)")
        return journal.path.stat().st_size

    Runner.walk, Runner._barrier, job.finish = timed_walk, timed_barrier, timed_finish  # type: ignore[method-assign, assignment]
    result = run()
    Runner.walk, Runner._barrier, job.finish = walk, barrier, finish  # type: ignore[method-assign]
    assert not result.stopped, result.stopped
    made = rows * samples
    return {
        "walk_us_call": took["walk_cpu"] / (rows * (samples + 1)) * 1e6,
        "segment_bytes": took["segment_bytes"] / made,
        "index_us": took["index"] / made * 1e6,
        "barrier_us": took["barrier"] / made * 1e6,
        "export_us": took["export"] / made * 1e6,
    }


def _merged(shard: Path, into: Path, samples: int) -> dict[str, float]:
    """What it takes to bring a shard's journal into the run's."""
    from synthpref.engine.journal import Journal
    from synthpref.engine.merge import absorb

    size = shard.stat().st_size
    main = Journal(into)
    begun = time.perf_counter()
    absorb(main, shard)
    took = time.perf_counter() - begun
    main.close()
    return {"merge_us": took / samples * 1e6, "merge_mb_s": size / 2**20 / took}


def _commits(path: Path) -> float:
    """How many commits a second this disk takes, each of one answer."""
    from synthpref.core.seam import Completion
    from synthpref.engine.journal import Journal

    async def go() -> float:
        journal = Journal(path)
        begun = time.perf_counter()
        for i in range(COMMITS):
            journal.put(f"row {i}", b"key", 0, "m", "s", "m", None, [Completion(text="a")])
            await journal.settle()
        took = time.perf_counter() - begun
        journal.close()
        return COMMITS / took

    return asyncio.run(go())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--source-rows", type=int, default=50_000)
    options = parser.parse_args()
    print(json.dumps(_measured(options.rows, options.samples, options.tokens, options.source_rows)))


if __name__ == "__main__":
    main()
