"""A local OpenAI-compatible server for tests, with the simulated world behind it and faults on request.

    with serving() as server:
        ... base_url=server.url ...
        assert server.requests == 3

Also a program: python tests/wire.py --port 8000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from synthpref.core.seam import Completion, Request
from synthpref.models.simulated import Simulated

Fault = Callable[[web.Request, int], "web.StreamResponse | str | None"]
"""Given the request and its number (from 0): a response to send instead, the name of a fault, or None.

Names: "reset", "hang", "slow", "half", "not json", "no choices", "fewer", "odd shape".
"""


@dataclass
class Call:
    """A request as the server saw it. Times are of time.monotonic, which all processes of a machine share."""

    identity: str
    """A hash of the path and the body, seed included: who asks the same again has the same."""
    model: str
    arrived: float
    answered: float | None = None
    """When the last byte of its answer was handed to the system; None while there was none, or no good one."""


@dataclass
class Server:
    """What the server does and what it saw. Change the fields at any time."""

    worlds: dict[str, Simulated] = field(default_factory=dict)
    """Simulated models by name; a name that is not here gets an average one."""
    fault: Fault = lambda request, number: None
    latency_s: float = 0.0
    pace: Callable[[int], float] = lambda number: 0.0
    """Seconds more that the answer to the request of this number takes."""
    port: int = 0
    requests: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    numbered: dict[int, Call] = field(default_factory=dict)
    """The same by their numbers."""
    hold: Callable[[Call], bool] = lambda call: False
    """Whether this answer has to wait; asked again and again until it may leave. Faults do not wait."""
    leave: Callable[[float], None] = lambda seconds: None
    """Drop all connections and refuse new ones for so long. To be called in the server's own thread, by a fault."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**28, middlewares=[self._around])
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embed)
        for path in ("/classify", "/pooling", "/score", "/v1/rewards"):
            app.router.add_post(path, self._reward)
        app.router.add_get("/v1/models", self._models)
        return app

    @web.middleware
    async def _around(self, request: web.Request, handler: Any) -> web.StreamResponse:
        number, self.requests = self.requests, self.requests + 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            self.headers.append(dict(request.headers))
            call = await self._note(request)
            if call:
                self.numbered[number] = call
            if wait := self.latency_s + self.pace(number):
                await asyncio.sleep(wait)
            fault = self.fault(request, number)
            if isinstance(fault, web.StreamResponse):
                return fault
            if fault == "slow":
                await asyncio.sleep(0.2)
            if fault == "hang":
                await asyncio.sleep(3600)
            if fault == "reset" and request.transport:
                request.transport.abort()
            if fault in ("not json", "half"):
                whole: web.Response = await handler(request)
                body = whole.body if isinstance(whole.body, bytes) else b""
                if fault == "not json":
                    return web.Response(body=body[: len(body) // 2], content_type="application/json")
                cut = web.StreamResponse(headers={"Content-Length": str(len(body))})
                await cut.prepare(request)
                await cut.write(body[: len(body) // 2])
                if request.transport:
                    request.transport.abort()
                return cut
            if fault == "odd shape":
                return web.json_response({"surprise": True})
            while call and self.hold(call):  # noqa: ASYNC110  what it hangs on is in another thread
                await asyncio.sleep(0.001)
            response: web.StreamResponse = await handler(request)
            if fault in ("no choices", "fewer") and isinstance(response, web.Response):
                answer = json.loads(response.body)  # type: ignore[arg-type]
                answer["choices"] = [] if fault == "no choices" else answer["choices"][:1]
                return web.json_response(answer)
            if call and not fault:
                # Sent here and not by who called, so that it is known when; not at all where who asked is gone.
                with contextlib.suppress(ConnectionResetError):
                    await response.prepare(request)
                    await response.write_eof()
                    call.answered = time.monotonic()
            return response
        finally:
            self.in_flight -= 1

    async def _note(self, request: web.Request) -> Call | None:
        arrived = time.monotonic()
        if not request.can_read_body:
            return None
        raw = await request.read()
        body = json.loads(raw)
        self.bodies.append(body)
        identity = hashlib.sha256(request.path.encode() + raw).hexdigest()
        self.calls.append(Call(identity, body.get("model", "") if isinstance(body, dict) else "", arrived))
        return self.calls[-1]

    def _world(self, name: str) -> Simulated:
        return self.worlds.get(name) or Simulated(model=name)

    async def _answers(self, body: dict[str, Any], request: Request) -> list[Completion]:
        return await self._world(body["model"]).open({}).complete(request)

    async def _chat(self, request: web.Request) -> web.Response:
        return web.json_response(await self.chat(json.loads(await request.read())))

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to the body of a request for completions."""
        asked = Request(
            messages=tuple(body["messages"]),
            n=body.get("n", 1),
            temperature=body.get("temperature"),
            max_tokens=body.get("max_completion_tokens", body.get("max_tokens")),
            stop=tuple(body.get("stop") or ()),
            seed=body.get("seed"),
            logprobs=body.get("top_logprobs") if body.get("logprobs") else None,
            prompt_logprobs=body.get("prompt_logprobs"),
            response_format=body.get("response_format"),
        )
        answers = await self._answers(body, asked)
        choices = []
        for i, answer in enumerate(answers):
            tokens = None
            if answer.logprobs is not None:
                content = [
                    {
                        "token": t.token,
                        "logprob": t.logprob,
                        "top_logprobs": [{"token": a, "logprob": p} for a, p in t.top],
                    }
                    for t in answer.logprobs
                ]
                tokens = {"content": content}
            message = {"role": "assistant", "content": answer.text}
            choices.append(
                {"index": i, "message": message, "finish_reason": answer.finish_reason, "logprobs": tokens}
            )
        whole: dict[str, Any] = {"model": body["model"], "choices": choices, "usage": self._usage(answers)}
        if (prompt := answers[0].prompt_logprobs) is not None:
            whole["prompt_logprobs"] = [
                t and {str(i): {"decoded_token": t.token, "logprob": t.logprob, "rank": 7}}
                for i, t in enumerate(prompt)
            ]
        return whole

    async def _embed(self, request: web.Request) -> web.Response:
        return web.json_response(await self.embed(json.loads(await request.read())))

    async def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to the body of a request for an embedding."""
        asked = Request(messages=({"role": "user", "content": body["input"]},), kind="embed")
        answers = await self._answers(body, asked)
        data = [{"index": 0, "embedding": list(answers[0].vector or ())}]
        return {"model": body["model"], "data": data, "usage": self._usage(answers)}

    async def _reward(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        if request.path == "/score":
            body["messages"] = [
                {"role": role, "content": body[text]}
                for role, text in (("user", "text_1"), ("assistant", "text_2"))
            ]
        pair = "response_b" in body.get("chat_template_kwargs", {})
        asked = Request(messages=tuple(body["messages"]), kind="compare" if pair else "reward")
        values = dict((await self._answers(body, asked))[0].values or {})
        if request.path == "/score":
            (score,) = values.values()
            return web.json_response({"model": body["model"], "data": [{"index": 0, "score": score}]})
        if request.path == "/v1/rewards":
            return web.json_response({"model": body["model"], "scores": values})
        named = "probs" if request.path == "/classify" else "data"
        return web.json_response(
            {"model": body["model"], "data": [{"index": 0, named: list(values.values())}]}
        )

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.worlds]})

    @staticmethod
    def _usage(answers: list[Completion]) -> dict[str, int]:
        usage = answers[0].usage
        assert usage
        return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}


def status(code: int, error: dict[str, Any] | str | None = None, **headers: str) -> web.Response:
    """An error answer as OpenAI forms it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(error, str):
        error = {"message": error}
    return web.json_response({"error": error or {"message": f"status {code}"}}, status=code, headers=named)


S = TypeVar("S", bound=Server)


@contextmanager
def serving(**fields: Any) -> Iterator[Server]:
    """A server on a free port of 127.0.0.1, in a thread of its own, until the block ends."""
    with running(Server(**fields)) as server:
        yield server


@contextmanager
def running(server: S) -> Iterator[S]:
    """The same of a server that is there."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=0.1)

    async def listen() -> web.TCPSite:
        site = web.TCPSite(runner, "127.0.0.1", server.port, reuse_port=True)
        await site.start()
        return site

    async def away(seconds: float) -> None:
        nonlocal site
        await site.stop()
        assert runner.server
        for connection in runner.server.connections:
            connection.force_close()
        await asyncio.sleep(seconds)
        site = await listen()

    def leave(seconds: float) -> None:
        leaving.append(loop.create_task(away(seconds)))

    async def start() -> None:
        nonlocal site
        await runner.setup()
        site = await listen()
        server.leave = leave

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        # Not before: a test that is quick would stop what is not yet to run for ever.
        loop.call_soon(ready.set)
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        # A handler that hangs outlives its connection.
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    site: web.TCPSite
    leaving: list[asyncio.Task[None]] = []
    # Bound for as long as the server lives, so that no one else gets the port while it is away.
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        server.port = held.getsockname()[1]
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert ready.wait(10)
        try:
            yield server
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)


@contextmanager
def nobody() -> Iterator[str]:
    """The URL of a port that is held, so that no other test gets it, and at which nobody answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--latency", type=float, default=0.0)
    options = parser.parse_args()
    web.run_app(Server(latency_s=options.latency).app(), host="127.0.0.1", port=options.port)
