"""The import budget: which packages may be loaded before the help is shown, and before the first request is sent.

Seconds depend on the machine and on what else it does; which modules are loaded does not. `make bench` has the
seconds.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from wire import serving

IMPORTS = [sys.executable, "-X", "importtime", "-m", "synthpref.cli"]
"""Says on stderr which modules are imported by a statement, each as soon as it is there."""

NEVER = {
    "datasets", "fsspec", "huggingface_hub", "httpx", "jsonschema", "openai", "pandas", "pyarrow.dataset", "ray", "rensa",
    "requests", "s3fs", "scipy", "sklearn", "torch", "transformers", "trl", "vllm",
}  # fmt: skip
"""What no start pays for. Each is loaded where it is used, if it ever is."""
NOT_FOR_HELP = NEVER | {
    "aiohttp", "asyncio", "jinja2", "numpy", "orjson", "pyarrow", "pydantic", "sqlite3", "tenacity", "yaml",
    "synthpref.job", "synthpref.core", "synthpref.engine", "synthpref.io", "synthpref.models", "synthpref.stages",
}  # fmt: skip


def modules(log: str) -> set[str]:
    """The modules in what -X importtime wrote, and the packages they are in."""
    names = [line.split("|")[-1].strip() for line in log.splitlines() if line.startswith("import time:")]
    return {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}


def test_the_help_loads_nothing_but_the_parser() -> None:
    done = subprocess.run([*IMPORTS, "--help"], capture_output=True, text=True, check=True)
    loaded = modules(done.stderr)
    assert "typer" in loaded
    assert loaded & NOT_FOR_HELP == set()
    assert "by recipe" in done.stdout


def test_a_run_sends_its_first_request_before_it_loads_what_it_needs_later(tmp_path: Path) -> None:
    log, at_first = tmp_path / "imports.txt", list[str]()

    def look(request: Any, number: int) -> None:
        if number == 0:
            at_first.append(log.read_text(encoding="utf-8"))

    with serving() as server, log.open("w", encoding="utf-8") as file:
        server.fault = look
        tree = {
            "name": "imports",
            "models": {"m": {"backend": "openai", "model": "m", "base_url": server.url}},
            "source": {"rows": ["Why is the sky blue?"]},
            "stages": [
                {"sample.n": {"model": "m", "n": 2}},
                {"judge.point": {"model": "m", "name": "helpful"}},
                {"pair.extremes": {"score": "helpful"}},
            ],
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        subprocess.run(
            [*IMPORTS, "run", "recipe.yaml"], cwd=tmp_path, stdout=file, stderr=file, check=True, timeout=90
        )
    loaded = modules(at_first[0])
    assert {"aiohttp", "synthpref.engine.runner", "synthpref.models.wire"} <= loaded
    assert loaded & NEVER == set()
