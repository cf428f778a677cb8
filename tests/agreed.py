"""Labelled sets made for tests of `synthpref agree`, and the figures of them by other means."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthpref.agreeing import Asked, agree, mapping_of
from synthpref.core.juries import Choice
from synthpref.core.measure import Settings

FEW = Settings(resamples=100)


def write_csv(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


def write_jsonl(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def found(tmp_path: Path, files: Path | Sequence[Path], choice: Choice | None = None, **mapping: Any) -> Any:
    """The figures of files under a mapping, as agreement.json holds them."""
    paths = [files] if isinstance(files, Path) else files
    tree = {"files": [str(path) for path in paths], **mapping}
    settings = Settings(swap=mapping.get("swap", "average"), resamples=100)
    agree(Asked(mapping_of(tree), Path(), settings, choice or Choice(splits=20), out=tmp_path / "out"))
    text = (tmp_path / "out" / "agreement.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=_no_number)


def _no_number(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def fellowship(n: int = 300, seed: int = 5) -> list[dict[str, Any]]:
    """Six judges with a score of 1 to 10 for each of two responses, three annotators, and -1 where a reply could not
    be read: the form of the study of arXiv:2408.08688."""
    rng = random.Random(seed)
    records = []
    for i in range(n):
        gap = rng.gauss(0, 1)
        record: dict[str, Any] = {"id": i, "prompt": f"p{i // 2}"}
        for who in (1, 2, 3):
            seen = gap + rng.gauss(0, 0.6)
            record[f"annotator{who}"] = "A" if seen > 0.4 else "B" if seen < -0.4 else "Tie"
        for judge in range(6):
            sides = [
                max(1, min(10, round(5.5 + sign * gap + rng.gauss(0, 0.6 + 0.3 * judge)))) for sign in (1, -1)
            ]
            if rng.random() < 0.05:
                sides[rng.randrange(2)] = -1
            record |= {f"judge{judge}_a": sides[0], f"judge{judge}_b": sides[1]}
        records.append(record)
    return records


def mode(labels: Sequence[str], otherwise: str | None) -> str | None:
    """The label given most often, or `otherwise` where that is not one label."""
    counts = {label: labels.count(label) for label in labels}
    best = [label for label, count in counts.items() if count == max(counts.values())]
    return best[0] if len(best) == 1 else otherwise
