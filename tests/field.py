"""Where the real data lies that the field tests read. None of it is part of this repository."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[1]


def data_dir() -> Path:
    """The folder of real data, by SYNTHPREF_DATA. Skips the test that asks where there is none; but where CI is
    "true" it fails it, because there the field tests have to run."""
    folder = Path(os.environ.get("SYNTHPREF_DATA") or REPO.parent / "shared" / "data").resolve()
    return _there(folder, folder.is_dir())


def data_file(name: str) -> Path:
    """A file in that folder; skips or fails like `data_dir` where it is absent."""
    path = data_dir() / name
    return _there(path, path.is_file())


def case_file(name: str) -> Path:
    """A recorded behaviour of an endpoint, a judge or a dataset, which lies beside that folder; likewise."""
    path = data_dir().parent / "cases" / name
    return _there(path, path.is_file())


def records(name: str) -> list[dict[str, Any]]:
    """The records of a gzipped JSONL file in that folder."""
    with gzip.open(data_file(name), "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _there(path: Path, found: bool) -> Path:
    if not found:
        reason = f"the real data is not here: {path} is missing; set SYNTHPREF_DATA to its folder"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return path
