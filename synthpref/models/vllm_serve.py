"""`backend: vllm-serve`: a vLLM server that the run starts, asks over the wire, and ends. Its fields are those of
`backend: vllm`, so that a recipe changes between the two by one word."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from synthpref.core.errors import BackendError
from synthpref.core.seam import NEUTRAL, Backend, Completion, Request
from synthpref.models import vllm_args as arguments
from synthpref.models import vllm_child
from synthpref.models import vllm_lora as lora
from synthpref.models import vllm_places as places
from synthpref.models.local import labels
from synthpref.models.openai import OpenAI
from synthpref.models.pool import Pool
from synthpref.models.prefixes import Prefixes
from synthpref.models.reward_json import named_heads
from synthpref.models.turns import Turns
from synthpref.models.vllm import INSTALL, VLLM
from synthpref.models.vllm_engine import CLOSING_S, Engine, family
from synthpref.models.vllm_places import VISIBLE

HOST = "127.0.0.1"
LOOK_S = 0.25
ADAPTER = "adapter"
"""What the server calls a LoRA adapter that is alone."""


class VLLMServe(VLLM):
    """The same model behind a server of its own on this machine, started by the run and stopped at its end."""

    backend: Literal["vllm-serve"] = "vllm-serve"  # type: ignore[assignment]
    """A vLLM server that the run starts; needs the extra `vllm`."""
    start_s: Annotated[float, NEUTRAL] = Field(default=1800.0, gt=0)
    """Seconds that the server may take until it is up."""

    def identity(self) -> dict[str, Any]:
        # The server between them changes nothing: what the one has answered is kept for the other.
        return super().identity() | {"backend": "vllm"}

    def alike(self) -> list[Any]:
        return [*super().alike(), self.template(), self._loras()]

    def open(self, shared: dict[str, Any]) -> Backend:
        if find_spec("vllm") is None:
            raise BackendError("unsupported", INSTALL)
        template = self.template()
        started_with = self.start_arguments()
        fleet = f"vllm-serve {arguments.signature(started_with, *self.alike())}"
        if fleet not in shared:
            groups = places.of(self)
            ports = free_ports(len(groups))
            shared[fleet] = (
                ports,
                [
                    Engine(
                        name,
                        partial(_launch, self._words(started_with, template), port, devices, self.start_s),
                        shared.get("stop"),
                    )
                    for port, (name, devices) in zip(ports, groups, strict=True)
                ],
            )
        ports, engines = shared[fleet]
        for engine in engines:
            engine.use()
        wire = self._wire(ports).open(shared)
        assert isinstance(wire, Pool)
        wire = Pool(wire.endpoints, prefixes=Prefixes())
        served = _Served(engines, wire, self.head_names)
        return Turns.before(served, shared, fleet, engines) if self.placement == "in_turn" else served

    def head_names(self) -> dict[int, str]:
        """The names that the model has for its heads: the server does not tell them, and the engine does."""
        which = {name: self.engine[name] for name in ("revision", "trust_remote_code") if name in self.engine}
        return labels(self.model, which)

    def _words(self, started_with: Mapping[str, Any], template: str | None) -> list[str]:
        """What the server is started with, on its command line."""
        words = flags(started_with)
        if template is not None:
            words += ["--chat-template", template]
        if loras := self._loras():
            words += ["--lora-modules", *(f"{name}={path}" for name, path in loras.items())]
        return words

    def _loras(self) -> dict[str, str]:
        return lora.paths(self.lora, self.loras, ADAPTER)

    def _wire(self, ports: tuple[int, ...]) -> OpenAI:
        extra = dict(self.sampling)
        if self.chat_template_kwargs:
            extra["chat_template_kwargs"] = dict(self.chat_template_kwargs)
        return OpenAI(
            model=(self.lora if self.loras else ADAPTER) if self.lora else self.model,
            base_url=tuple(f"http://{HOST}:{port}/v1" for port in ports),
            serves=self.serves,
            structured_output=self.structured_output,
            prompt_logprobs=True,
            prefill=True,
            extra_body=extra,
            concurrency=round(self.slots() / self.engines * arguments.AHEAD),
        )


def flags(given: Mapping[str, Any]) -> list[str]:
    """Engine arguments as the command line has them."""
    words: list[str] = []
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, Mapping):
            words += [f"--{flag}", json.dumps(dict(value))]
        elif isinstance(value, list | tuple):
            words += [f"--{flag}", *map(str, value)]
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return words


def free_ports(count: int) -> tuple[int, ...]:
    """Ports that nobody listens at just now."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind((HOST, 0))
        return tuple(one.getsockname()[1] for one in held)
    finally:
        for one in held:
            one.close()


class Server:
    """A server's process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    @property
    def gone(self) -> bool:
        return self.process.poll() is not None

    def shutdown(self, timeout: float) -> None:
        """End it as a terminal would, and by force if it does not."""
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _launch(
    words: list[str],
    port: int,
    devices: str | None,
    within_s: float,
    log_file: Path,
    given_up: threading.Event,
) -> tuple[Server, dict[int, str]]:
    """Start a server and wait until it answers."""
    environment = {"VLLM_NO_USAGE_STATS": "1", **os.environ, vllm_child.LOG: str(log_file)}
    if devices is not None:
        environment[VISIBLE] = devices
    command = [
        sys.executable,
        "-m",
        "synthpref.models.vllm_child",
        "--host",
        HOST,
        "--port",
        str(port),
        *words,
    ]
    with log_file.open("ab") as file:
        # In a session of its own, so that Ctrl-C is for the run, which ends it when the last answers are there.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )
    server, until = Server(process), time.monotonic() + within_s
    while not server.gone:
        if _healthy(port):
            return server, family({process.pid})
        if given_up.is_set() or time.monotonic() > until:
            server.shutdown(CLOSING_S)
            raise TimeoutError(f"the server was not up in {within_s:g} s (start_s)")
        time.sleep(LOOK_S)
    raise RuntimeError(f"the server ended with status {process.returncode}")


def _healthy(port: int) -> bool:
    try:
        # Not through a proxy: it is here.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{HOST}:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


class _Served:
    """Servers, and the pool of their addresses."""

    def __init__(self, engines: list[Engine], wire: Backend, names: Callable[[], dict[int, str]]) -> None:
        self.engines, self.wire, self._names = engines, wire, names
        self._heads: dict[int, str] | None = None

    async def complete(self, request: Request) -> list[Completion]:
        while True:
            servers = await asyncio.gather(*(engine.ready() for engine in self.engines))
            try:
                answers = await self.wire.complete(request)
                return await self._named(answers) if request.kind == "reward" else answers
            except BackendError as error:
                gone = [(e, s) for e, s in zip(self.engines, servers, strict=True) if s.gone]
                if not gone:
                    raise
                for engine, server in gone:
                    await engine.died(server, error)

    async def _named(self, answers: list[Completion]) -> list[Completion]:
        """The answers with the heads by their names."""
        if self._heads is None:
            self._heads = await asyncio.to_thread(self._names)
        values = [list((one.values or {}).values()) for one in answers]
        return [
            replace(one, values=named_heads(v, self._heads)) for one, v in zip(answers, values, strict=True)
        ]

    async def aclose(self) -> None:
        await self.wire.aclose()
        for engine in self.engines:
            await engine.aclose()
