"""The endpoint of the benchmarks: an OpenAI-compatible server with a set number of slots, in a process of its own.

    with running(slots=64, latency_s=0.05) as endpoint:
        ... base_url=endpoint.url ...
        print(endpoint.stats())

It speaks just enough HTTP by itself, so that it costs a tenth of what a client does and the client is what is
measured. How long an answer takes is drawn from a law with a seed; what it says follows from what is asked.
GET /stats tells what it has seen since the last POST /reset; with --log also when each request came and went.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import math
import random
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

TICK_S = 0.05
"""How often it is noted how many slots are busy."""
SPREAD = 0.4
"""Sigma of the log-normal law, as of a model server with answers of mixed lengths."""


@dataclass
class Law:
    """How long an answer takes, in seconds."""

    latency_s: float
    seed: int = 0
    slow_share: float = 0.0
    slow_factor: float = 50.0
    _luck: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._luck = random.Random(self.seed)

    def draw(self) -> float:
        """Log-normal with mean `latency_s`; a `slow_share` of the answers takes `slow_factor` times as long."""
        if not self.latency_s:
            return 0.0
        pace = self._luck.lognormvariate(-(SPREAD**2) / 2, SPREAD)
        slow = self._luck.random() < self.slow_share
        return self.latency_s * pace * (self.slow_factor if slow else 1.0)


class Slots:
    """So many answers at once; the others wait in line, as at vLLM."""

    def __init__(self, count: int, law: Law, *, log: bool = False) -> None:
        self.count, self.law, self.logs = count, law, log
        self._line: deque[tuple[Connection, bytes, float]] = deque()
        self.busy = 0
        self.reset()

    def reset(self) -> None:
        self.requests = self.answers = 0
        self.busy_s = 0.0
        self.most = self.busy + len(self._line)
        self.ticks: list[tuple[float, int]] = []
        self.first: float | None = None
        self.log: list[tuple[float, float, str]] = []
        self.law.restart()

    def ask(self, connection: Connection, body: bytes) -> None:
        now = time.monotonic()
        self.first = now if self.first is None else self.first
        self.requests += 1
        self._line.append((connection, body, now))
        self.most = max(self.most, self.busy + len(self._line))
        self._next()

    def _next(self) -> None:
        while self._line and self.busy < self.count:
            connection, body, came = self._line.popleft()
            self.busy += 1
            takes = self.law.draw()
            if takes:
                asyncio.get_running_loop().call_later(takes, self._end, connection, body, came, takes)
            else:
                self._end(connection, body, came, 0.0)

    def _end(self, connection: Connection, body: bytes, came: float, takes: float) -> None:
        self.busy -= 1
        self.busy_s += takes
        self.answers += 1
        asked = orjson.loads(body)
        connection.send(answer(asked))
        if self.logs:
            self.log.append((came, time.monotonic(), first_line(asked)))
        self._next()

    async def watch(self) -> None:
        while True:
            self.ticks.append((time.monotonic(), self.busy))
            await asyncio.sleep(TICK_S)

    def stats(self) -> dict[str, Any]:
        return {
            "slots": self.count,
            "requests": self.requests,
            "answers": self.answers,
            "busy_s": self.busy_s,
            "most_at_once": self.most,
            "ticks": self.ticks,
            "first": self.first,
            "log": self.log,
        }


def first_line(body: dict[str, Any]) -> str:
    """The first line of the last message: what the requests of one row have in common here."""
    return str(body["messages"][-1]["content"]).partition("\n")[0]


def answer(body: dict[str, Any]) -> bytes:
    """n choices, each a JSON text with a score from 1 to 100 that follows from the last message and the seed."""
    last = str(body["messages"][-1]["content"])
    choices = []
    for i in range(body.get("n") or 1):
        draw = hashlib.sha256(f"{last}|{body.get('seed')}|{i}".encode()).hexdigest()
        text = f'{{"reasoning": "{draw}", "score": {1 + int(draw[:8], 16) % 100}}}'
        message = {"role": "assistant", "content": text}
        choices.append({"index": i, "message": message, "finish_reason": "stop"})
    asked, written = len(last) // 4, 30 * len(choices)
    usage = {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}
    whole = {"id": "bench", "object": "chat.completion", "created": 0, "model": body.get("model")}
    return orjson.dumps({**whole, "choices": choices, "usage": usage})


class Connection(asyncio.Protocol):
    """One client's connection: HTTP/1.1 with Content-Length and keep-alive, one request after the other."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.held += data
        while (end := self.held.find(b"\r\n\r\n")) >= 0:
            head = self.held[:end].decode("latin-1")
            length = next(
                (
                    int(line.split(":")[1])
                    for line in head.split("\r\n")
                    if line[:15].lower() == "content-length:"
                ),
                0,
            )
            if len(self.held) < end + 4 + length:
                return
            body, self.held = self.held[end + 4 : end + 4 + length], self.held[end + 4 + length :]
            method, path, _ = head.split(" ", 2)
            self.answer(method, path, body)

    def answer(self, method: str, path: str, body: bytes) -> None:
        if path.endswith("/chat/completions") and b'"messages":[]' in body.replace(b" ", b""):
            # What a client sends only to see the headers; it takes no slot.
            self.send(b'{"error": {"message": "messages is empty"}}', "400 Bad Request")
        elif path.endswith("/chat/completions"):
            self.slots.ask(self, body)
        elif path == "/stats":
            self.send(orjson.dumps(self.slots.stats()))
        elif path == "/reset":
            self.slots.reset()
            self.send(b"{}")
        elif path.endswith("/models"):
            self.send(b'{"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "bench"}]}')
        else:
            self.send(b'{"error": {"message": "no such path"}}', "404 Not Found")

    def send(self, body: bytes, status: str = "200 OK") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)


async def serve(port: int, slots: Slots) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(slots), "127.0.0.1", port, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    watching = asyncio.create_task(slots.watch())
    try:
        await server.serve_forever()
    finally:
        watching.cancel()


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint, as its clients see it."""

    url: str

    def _open(self, path: str, data: bytes | None = None) -> Any:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + path, data) as answer:
            return orjson.loads(answer.read())

    def stats(self) -> dict[str, Any]:
        return dict(self._open("/stats"))

    def reset(self) -> None:
        self._open("/reset", b"{}")


def utilisation(stats: dict[str, Any], *, until: float = 0.9) -> float:
    """The share of the slots that was busy from the first moment at which 95 % of them were, until `until` of the
    requests' time had passed: without ramp-up and tail."""
    ticks = [(at, busy / stats["slots"]) for at, busy in stats["ticks"]]
    up = next((at for at, busy in ticks if busy >= 0.95), math.inf)
    active = [at for at, busy in ticks if busy > 0]
    end = active[0] + until * (active[-1] - active[0]) if active else 0.0
    inside = [busy for at, busy in ticks if up <= at <= end]
    return sum(inside) / len(inside) if inside else 0.0


@contextmanager
def running(
    *,
    slots: int,
    latency_s: float,
    slow_share: float = 0.0,
    slow_factor: float = 50.0,
    seed: int = 0,
    port: int = 0,
    log: bool = False,
) -> Iterator[Endpoint]:
    """An endpoint in a process of its own, until the block ends; port 0 takes a free one."""
    options = {"slots": slots, "latency": latency_s, "slow-share": slow_share, "slow-factor": slow_factor}
    flags = [f"--{name}={value}" for name, value in {**options, "seed": seed, "port": port}.items()]
    flags += ["--log"] if log else []
    process = subprocess.Popen([sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Endpoint(f"http://127.0.0.1:{int(process.stdout.readline())}/v1")
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one, which is printed")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.05, help="mean seconds for an answer")
    parser.add_argument("--slow-share", type=float, default=0.0)
    parser.add_argument("--slow-factor", type=float, default=50.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", action="store_true", help="keep when each request came and went")
    options = parser.parse_args()
    law = Law(options.latency, options.seed, options.slow_share, options.slow_factor)
    asyncio.run(serve(options.port, Slots(options.slots, law, log=options.log)))


if __name__ == "__main__":
    main()
