from __future__ import annotations

from pathlib import Path

import pytest

from synthpref.core.errors import RecipeError
from synthpref.engine.registry import BUILT_IN, Registry, did_you_mean


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, names in BUILT_IN.items() for n in names])
def test_every_built_in_name_leads_to_something_documented(kind: str, name: str) -> None:
    thing = Registry().get(kind, name)  # type: ignore[arg-type]
    assert thing.__doc__


def test_a_name_that_is_not_there_brings_the_nearest_one() -> None:
    with pytest.raises(
        RecipeError, match=r"stages\[1\]: no stage named 'judge.pont'; did you mean 'judge.point'\?"
    ):
        Registry().get("stages", "judge.pont", "stages[1]")
    assert did_you_mean("zzz", ["b", "a"]) == "there is: a, b"


def plugin(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_local_file_adds_stages_and_its_content_has_a_digest(tmp_path: Path) -> None:
    path = plugin(tmp_path, "class A:\n    'Does a.'\nSTAGES = {'my.a': A}\n")
    registry = Registry([path])
    assert registry.get("stages", "my.a").__name__ == "A"
    assert registry.origin("stages", "my.a") == str(path)
    before = registry.digest("stages", "my.a")
    plugin(tmp_path, "class A:\n    'Does b.'\nSTAGES = {'my.a': A}\n")
    assert before != Registry([path]).digest("stages", "my.a") != ""
    assert registry.digest("stages", "judge.point") == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "class A: pass\nSTAGES = {'judge.point': A}",
            "adds 'judge.point' to stages, but synthpref itself has",
        ),
        ("x = 1", "holds no STAGES"),
        ("1 / 0", "ZeroDivisionError"),
        ("import not_installed_anywhere", "ModuleNotFoundError"),
    ],
)
def test_a_plugin_file_that_cannot_serve_is_refused(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        Registry([plugin(tmp_path, text)])


def test_a_plugin_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        Registry([tmp_path / "gone.py"])
