"""One recipe in three ways: on a server that is there, on an engine in the process of the run, and on the nodes of a Ray
cluster. For the test that they give the same, and for the benchmark that sets their figures side by side.

The setting is deterministic: temperature 0, three lengths of answer for three samples, a score that is computed. What a
sample is worth is made up.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ray_nodes import ENV, nodes
from synthpref import job
from synthpref.models.vllm_serve import flags, free_ports

LENGTHS = (8, 16, 24)
"""Tokens of a row's samples, each of a role of its own on the one model."""
UP_S = 600.0
STAGES = '''
import hashlib
import os
import time
from pathlib import Path

from synthpref import RowStage, Score


class Worth(RowStage):
    """A value for each text, and the time for each row in a file of this process."""

    stamps: str

    def gives(self):
        return {"score:worth"}

    async def run(self, row, ask):
        with Path(self.stamps, str(os.getpid())).open("a") as file:
            file.write(f"{time.time()}\\n")
        drawn = [int.from_bytes(hashlib.sha256(s.text.encode()).digest()[:4]) for s in row.samples]
        return row.scored("worth", [Score(float(value)) for value in drawn])


STAGES = {"bench.worth": Worth}
'''


def recipe(folder: Path, role: dict[str, Any], rows: int) -> Path:
    """The recipe on this backend, in a folder of its own."""
    (folder / "stamps").mkdir(parents=True)
    (folder / "stage.py").write_text(STAGES, encoding="utf-8")
    cold = {f"cold-{n}": {**role, "temperature": 0.0, "max_tokens": n} for n in LENGTHS}
    tree = {
        "name": "ways",
        "plugins": ["stage.py"],
        "models": cold,
        "source": {
            "rows": [f"Question {i}: why is the sky blue, and what of the light?" for i in range(rows)]
        },
        "stages": [
            {"sample.n": {"models": [{"model": name} for name in cold]}},
            {"bench.worth": {"stamps": str(folder / "stamps")}},
            {"pair.extremes": {"score": "worth", "truncated": "keep"}},
        ],
        "limits": {"max_reject_rate": 0},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def run(recipe: Path, *words: str) -> float:
    """Run it from the command line; seconds from the start to the end."""
    command = [sys.executable, "-m", "synthpref.cli", "run", str(recipe), "--out", "run", *words]
    begun = time.monotonic()
    done = subprocess.run(
        command,
        cwd=recipe.parent,
        env={**os.environ, **ENV},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - begun


def made(recipe: Path) -> list[Any]:
    """What came of each row, as far as it does not depend on where it was made."""
    return [
        (
            row.id,
            [(sample.text, sample.finish_reason) for sample in row.samples],
            [(pair.chosen, pair.rejected, pair.margin) for pair in row.pairs],
        )
        for row in job.rows.read_rows(recipe.parent / "run" / "rows.parquet")
    ]


def rows_a_second(recipe: Path, skip: float = 0.1) -> float:
    """From when a tenth of the rows had their answers: by then all engines are up and warm."""
    stamps = sorted(
        float(line) for file in (recipe.parent / "stamps").iterdir() for line in file.read_text().split()
    )
    first = int(skip * len(stamps))
    return (len(stamps) - 1 - first) / (stamps[-1] - stamps[first])


@contextmanager
def server(model: str, engine: dict[str, Any], log: Path) -> Iterator[str]:
    """vLLM's own server, as anybody would start it; its base URL."""
    (port,) = free_ports(1)
    entry = "vllm.entrypoints.openai.api_server"
    words = [sys.executable, "-m", entry, "--host", "127.0.0.1", "--port", str(port), "--model", model]
    with (
        log.open("wb") as file,
        subprocess.Popen([*words, *flags(engine)], stdout=file, stderr=file) as process,
    ):
        try:
            until = time.monotonic() + UP_S
            while not _up(port):
                assert process.poll() is None, log.read_text(encoding="utf-8")[-4000:]
                assert time.monotonic() < until, f"no server after {UP_S:g} s"
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def _up(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@contextmanager
def cluster() -> Iterator[str]:
    """A Ray cluster with two nodes on this machine, each for one worker; its address."""
    with nodes() as made:
        for _ in range(2):
            made.add(1)
        yield made.address
