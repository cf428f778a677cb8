"""The example plugin is a distribution of its own: installed beside synthpref, found by its entry point, tested by
its own test."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from synthpref.engine.registry import Registry

PLUGIN = Path(__file__).parents[1] / "examples" / "plugin"


@pytest.fixture(autouse=True)
def installed() -> None:
    try:
        distribution("synthpref-readability")
    except PackageNotFoundError:
        if os.environ.get("CI"):
            pytest.fail("the example plugin is not installed; `make test` does that")
        pytest.skip("the example plugin is not installed: pip install --no-deps -e examples/plugin")


def test_an_installed_plugin_is_found_by_its_word() -> None:
    registry = Registry()
    assert registry.origin("stages", "score.readability") == "synthpref-readability"
    assert registry.get("stages", "score.readability").__name__ == "Readability"


def test_the_plugins_own_tests_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PLUGIN / "tests")]
    done = subprocess.run(command, cwd=PLUGIN, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
