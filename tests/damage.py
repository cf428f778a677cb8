"""Runs whose journal is damaged on the disk, and what comes of them by the same command."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

import forked
from synthpref import job
from synthpref.core.errors import JournalDamaged

PAGE = 4096
RUN, JOURNAL, DATA = "runs/disk", "runs/disk/journal.sqlite", "runs/disk/dataset/data/train.parquet"


def write(folder: Path, rows: int = 24, latency_s: float = 0.0) -> Path:
    role = {"backend": "simulated", "length": 40, "latency_s": latency_s}
    tree = {
        "name": "disk",
        "seed": 5,
        "models": {
            "policy": {**role, "model": "policy", "empty": 0.1},
            "judge": {**role, "model": "judge", "malformed": 0.1},
        },
        "source": {"rows": [f"Question number {i} about heat pumps?" for i in range(rows)]},
        "stages": [
            {"synth.evolve": {"model": "policy"}},
            {"sample.n": {"model": "policy", "n": 3}},
            {"judge.point": {"model": "judge", "name": "good"}},
            {"pair.extremes": {"score": "good"}},
            "filter.dedup",
            {"enrich.rationale": {"model": "judge"}},
        ],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def start(folder: Path) -> subprocess.Popen[str]:
    return forked.start("run", "recipe.yaml", cwd=folder, env={**os.environ, "HOME": str(folder)})


def run(folder: Path) -> tuple[int, str]:
    process = start(folder)
    out, _ = process.communicate(timeout=90)
    return process.returncode, out


def requests(folder: Path) -> int:
    summary = json.loads((folder / RUN / "summary.json").read_text(encoding="utf-8"))
    return sum(model["requests"] for model in summary["models"].values())


@dataclass
class Done:
    """A run that nothing disturbed, and one of the same recipe that was killed half-way."""

    whole: Path
    killed: Path
    data: bytes
    requests: int


def undisturbed(whole: Path, killed: Path) -> Done:
    """Make both runs in these folders."""
    write(whole)
    code, out = run(whole)
    assert code == 0, out
    write(killed, latency_s=0.3)
    process = start(killed)
    log = killed / f"{JOURNAL}-wal"
    while not (log.exists() and log.stat().st_size > 60 * PAGE):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    write(killed)
    return Done(whole, killed, (whole / DATA).read_bytes(), requests(whole))


# ---- what was written is changed


def zeros(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) // PAGE) * PAGE
    data[at : at + PAGE] = bytes(PAGE)


def noise(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) // PAGE) * PAGE
    data[at : at + PAGE] = rng.randbytes(PAGE)


def another_page(data: bytearray, rng: random.Random) -> None:
    at, other = (n * PAGE for n in rng.sample(range(len(data) // PAGE), 2))
    data[at : at + PAGE] = data[other : other + PAGE]


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def one_bit(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def a_sector(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) // 512) * 512
    data[at : at + 512] = bytes(512)


Damage = Callable[[bytearray, random.Random], None]
DAMAGE: list[Damage] = [zeros, noise, another_page, cut, one_bit, a_sector]


def goes_on(folder: Path, done: Done) -> list[str]:
    """Start the run again, a second time where the first says that the journal is damaged. What was said."""
    said = []
    for _ in range(2):
        err = io.StringIO()
        try:
            with contextlib.redirect_stderr(err):
                result = job.run(job.load(folder / "recipe.yaml"), folder / RUN)
        except JournalDamaged as error:
            said.append(str(error))
            continue
        said.append(err.getvalue())
        assert not result.stopped
        assert (folder / DATA).read_bytes() == done.data, "never another dataset"
        return said
    raise AssertionError(f"once has to be enough: {said}")


def damaged(
    done: Done, which: str, folder: Path, how: Damage, rng: random.Random, *, main: bool = False
) -> str | None:
    """Damage a copy of a run, `main` for the file itself and else for its log where that is longer, and let it go
    on; what was said, None where there was too little to damage."""
    shutil.copytree(getattr(done, which), folder)
    files = [folder / JOURNAL]
    log = folder / f"{JOURNAL}-wal"
    if log.exists() and not main:
        files.append(log)
    file = max(files, key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    if len(data) < 2 * PAGE and how is another_page:
        return None
    how(data, rng)
    file.write_bytes(data)
    return " ".join(goes_on(folder, done))
