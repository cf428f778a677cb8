"""For tests with a real engine: where vLLM is not installed they are skipped, and `make vllm-test` installs it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny
from room import Room

HERE = Path(__file__).parent
MARKS = (
    pytest.mark.vllm,
    # An engine takes a minute to start on a small machine that does other things, and is started within a test.
    pytest.mark.timeout(900),
    # What other packages warn of is not ours to mend.
    pytest.mark.filterwarnings("default"),
)


def pytest_configure(config: pytest.Config) -> None:
    # vLLM leaves contexts of zmq to be collected, some of them after the last test.
    config.addinivalue_line("filterwarnings", "ignore:Unclosed context:ResourceWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            for mark in MARKS:
                item.add_marker(mark)


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    pytest.importorskip("vllm", reason="vllm is not installed; see `make vllm-test`")
    ours = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine that died leaves to be read is not left behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.policy(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture(scope="module")
def room(environment: None) -> Iterator[Room]:
    with asyncio.Runner() as runner:
        made = Room(runner)
        yield made
        made.close()
