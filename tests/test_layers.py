"""The star: core imports nothing of ours, the other rooms import core only, and heavy packages have one door."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "synthpref"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = ("core", "models", "stages", "engine", "io")
ONE_DOOR = (
    *("openai", "datasets", "torch", "transformers", "vllm", "ray", "rensa", "huggingface_hub", "jsonschema"),
    *("crowdkit", "pandas", "sklearn", "scipy", "fsspec"),
)


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.parent.name in ROOMS], ids=lambda f: f"{f.parent.name}/{f.name}"
)
def test_a_room_imports_itself_and_core_only(file: Path) -> None:
    ours = {name for name in imports(file) if name.startswith("synthpref.") and name.count(".") > 1}
    allowed = {f"synthpref.{file.parent.name}", "synthpref.core"}
    assert {".".join(name.split(".")[:2]) for name in ours} <= allowed


def test_who_sees_several_rooms_is_named_where_the_invariant_stands() -> None:
    text = (PACKAGE.parent / "AGENTS.md").read_text(encoding="utf-8")
    named = re.search(r"Only (`cli`.*?) see several rooms", text, re.S)
    assert named
    outside = {f.stem for f in FILES if f.parent == PACKAGE}
    assert set(re.findall(r"`(\w+)`", named[1])) == outside


@pytest.mark.parametrize("package", ONE_DOOR)
def test_a_heavy_package_is_imported_in_one_module_at_most(package: str) -> None:
    doors = [f for f in FILES if any(name.split(".")[0] == package for name in imports(f))]
    assert len(doors) <= 1, doors


def loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted(m.split('.')[0] for m in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_what_the_command_line_loads_before_it_knows_the_command() -> None:
    heavy = {"pydantic", "aiohttp", "numpy", "pyarrow", "datasets", "jinja2", "openai", "torch", "yaml"}
    assert not loaded("import synthpref.cli") & heavy


def test_what_the_core_loads() -> None:
    heavy = {
        "aiohttp",
        "pyarrow",
        "datasets",
        "openai",
        "torch",
        "sqlite3",
        "crowdkit",
        "pandas",
        "sklearn",
        "scipy",
    }
    modules = ", ".join(
        f"synthpref.core.{f.stem}" for f in (PACKAGE / "core").glob("*.py") if f.stem != "__init__"
    )
    assert not loaded(f"import {modules}") & heavy
