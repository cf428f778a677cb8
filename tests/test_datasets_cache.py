"""What `datasets` loads from a folder that we wrote is what is in it, also where one cache has seen another folder of the
same name, or the same folder before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset

import forked
from synthpref.engine.registry import Registry

FORMATS = sorted(Registry().names("exporters"))
RECIPE: dict[str, Any] = {
    "name": "cached",
    "models": {
        "policy": {"backend": "simulated", "model": "a"},
        "judge": {"backend": "simulated", "model": "b"},
    },
    "source": {"rows": [f"How does a heat pump number {i} work?" for i in range(4)]},
    "stages": [
        {"sample.n": {"model": "policy", "n": 4}},
        {"judge.point": {"model": "judge", "name": "s"}},
        {"pair.extremes": {"score": "s"}},
    ],
    "allow": ["one_judge", "same_family", "same_model", "coarse_scale"],
}


def synthpref(folder: Path, *args: str) -> None:
    done = forked.run(*args, cwd=folder, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr


def made(folder: Path, seed: int) -> Path:
    """A run folder called "out" with data of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "seed": seed}), encoding="utf-8")
    synthpref(folder, "run", "recipe.yaml", "--out", "out")
    return folder / "out"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs whose folders have the same names."""
    root = tmp_path_factory.mktemp("two")
    return made(root / "a", 1), made(root / "b", 2)


def loaded(folder: Path, cache: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = load_dataset(str(folder), split="train", cache_dir=str(cache)).to_list()
    return rows


def held(folder: Path) -> list[dict[str, Any]]:
    """The same, with a cache of its own."""
    return loaded(folder, folder.parent / "own cache" / str(os.urandom(4).hex()))


@pytest.mark.parametrize("jsonl", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_two_exports_of_one_name_are_told_apart(
    two: tuple[Path, Path], tmp_path: Path, format: str, jsonl: bool
) -> None:
    folders = []
    for run in two:
        out = tmp_path / run.parent.name / f"dataset-{format}"
        synthpref(
            tmp_path,
            "export",
            str(run),
            "--format",
            format,
            "--out",
            str(out),
            *(["--jsonl"] if jsonl else []),
        )
        folders.append(out)
    first, second = (loaded(folder, tmp_path / "cache") for folder in folders)
    assert first == held(folders[0])
    assert second == held(folders[1])
    # Prompts alone are those of the source.
    assert (first == second) == (format == "trl-prompt-only")


def test_the_folders_of_two_runs_are_told_apart(two: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = (loaded(run / "dataset", tmp_path / "cache") for run in two)
    assert first == held(two[0] / "dataset")
    assert second == held(two[1] / "dataset")
    assert first != second


def test_a_run_that_was_edited_is_loaded_anew(tmp_path: Path) -> None:
    before = loaded(made(tmp_path / "a", 1) / "dataset", tmp_path / "cache")
    folder = tmp_path / "a"
    shutil.rmtree(folder / "out")
    run = made(folder, 2)
    assert loaded(run / "dataset", tmp_path / "cache") == held(run / "dataset") != before


def test_a_copy_is_loaded_as_it_is(two: tuple[Path, Path], tmp_path: Path) -> None:
    """The same content may come from the cache; another one in the same place may not."""
    for run in two:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(run / "dataset", tmp_path / "copy")
        assert loaded(tmp_path / "copy", tmp_path / "cache") == held(run / "dataset")


def test_the_same_content_has_the_same_card(two: tuple[Path, Path], tmp_path: Path) -> None:
    again = made(tmp_path / "a", 1)
    for name in ("README.md", "data/train.parquet"):
        assert (again / "dataset" / name).read_bytes() == (two[0] / "dataset" / name).read_bytes()
