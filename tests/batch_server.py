"""The server of tests/wire.py with files and batches, as OpenAI has them, and what goes wrong with them.

with batching() as server:
    ... base_url=server.url, mode="batch" ...
    assert server.paid_twice == []
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from wire import Call, Server, running, status

Line = dict[str, Any]
Trouble = Callable[[str, int], "str | None"]
"""Given a step ("upload", "create", "list", "get", "content", "cancel") and how often it was asked for before: None,
or what goes wrong: "lost" (done, and the answer is lost), "stall" (done, and the answer never comes), "never" (not
done, and no answer comes), "half" (the answer breaks off in the middle), "half stall" (and the rest never comes), or a
status such as "500", which is sent with nothing done."""
RAN = {"/v1/chat/completions": "chat", "/v1/embeddings": "embed"}


@dataclass
class Made:
    """A batch at the provider."""

    id: str
    file: str
    path: str
    metadata: dict[str, str]
    lines: list[Line]
    created_at: int
    status: str = "validating"
    output: list[bytes] = field(default_factory=list)
    failures: list[bytes] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        ended = self.status in ("completed", "expired", "cancelled")
        return {
            "id": self.id, "object": "batch", "endpoint": self.path, "input_file_id": self.file,
            "status": self.status, "created_at": self.created_at, "metadata": self.metadata,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "output_file_id": f"out-{self.id}" if ended and self.output else None,
            "error_file_id": f"err-{self.id}" if ended and self.failures else None,
            "request_counts": {
                "total": len(self.lines), "completed": len(self.output), "failed": len(self.failures)
            },
        }  # fmt: skip


@dataclass
class BatchServer(Server):
    """What it does, and what it saw. Change the fields at any time."""

    delay_s: float = 0.0
    """How long a batch takes."""
    trouble: Trouble = lambda step, number: None
    bad_line: Callable[[Line, int], web.Response | str | None] = lambda body, seen: None
    """Given the body of a line, and how often that was seen before: a response it gets instead of an answer, the code
    of an error without one, "absent" for no line at all, or None."""
    expires_after: Callable[[int], int | None] = lambda number: None
    """Given the number of a batch: how many of its lines are answered before it expires; None for all."""
    refusals: Callable[[list[Line], int], list[dict[str, Any]]] = lambda lines, number: []
    """Why a batch as a whole is refused."""
    fails: bool = False
    """Whether batches fail without a reason."""
    stays: Callable[[int], bool] = lambda number: False
    """Whether the batch of this number goes on for ever."""
    most_requests: int = 50_000
    most_bytes: int = 200_000_000
    has_batches: bool = True
    made: list[Made] = field(default_factory=list)
    files: dict[str, list[bytes]] = field(default_factory=dict)
    steps: Counter[str] = field(default_factory=Counter)
    paid: Counter[str] = field(default_factory=Counter)
    """How often each body was answered, live or in a batch."""
    seen: Counter[str] = field(default_factory=Counter)
    cancelled: list[str] = field(default_factory=list)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def paid_twice(self) -> list[str]:
        return [body for body, times in self.paid.items() if times > 1]

    def app(self) -> web.Application:
        app = super().app()
        if self.has_batches:
            step = self._step
            app.router.add_post("/v1/files", step("upload", self._upload))
            app.router.add_get("/v1/files/{id}/content", step("content", self._content))
            app.router.add_post("/v1/batches", step("create", self._create))
            app.router.add_get("/v1/batches", step("list", self._list))
            app.router.add_get("/v1/batches/{id}", step("get", self._get))
            app.router.add_post("/v1/batches/{id}/cancel", step("cancel", self._cancel))
        return app

    async def _note(self, request: web.Request) -> Call | None:
        return await super()._note(request) if request.path in RAN else None

    def _step(self, name: str, handler: Any) -> Any:
        """The handler with its trouble."""

        async def around(request: web.Request) -> web.StreamResponse:
            number, self.steps[name] = self.steps[name], self.steps[name] + 1
            what = self.trouble(name, number)
            if what and what.isdigit():
                return status(int(what))
            if what == "never":
                await asyncio.sleep(3600)
            response: web.Response = await handler(request)
            if what == "stall":
                await asyncio.sleep(3600)
            if what in ("half", "half stall"):
                body = response.body if isinstance(response.body, bytes) else b""
                cut = web.StreamResponse(headers={"Content-Length": str(len(body))})
                await cut.prepare(request)
                await cut.write(body[: len(body) // 2])
                if what == "half stall":
                    await asyncio.sleep(3600)
            if what and request.transport:
                request.transport.abort()
            return response

        return around

    async def _upload(self, request: web.Request) -> web.Response:
        assert request.content_length, "providers want to know how much comes"
        raw = b""
        async for part in await request.multipart():
            if part.name == "purpose":  # type: ignore[union-attr]
                assert await part.read() == b"batch"  # type: ignore[union-attr]
            else:
                raw = bytes(await part.read())  # type: ignore[union-attr]
        if len(raw) > self.most_bytes:
            return status(400, "File is too large.")
        id = f"file-{len(self.files)}"
        self.files[id] = raw.splitlines()
        return web.json_response({"id": id, "object": "file", "bytes": len(raw)})

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]]]
        if len(lines) > self.most_requests:
            return status(400, "Too many requests in a batch.")
        number = len(self.made)
        made = Made(
            f"batch_{number}", asked["input_file_id"], asked["endpoint"], asked.get("metadata") or {}, lines,
            int(time.time()),
        )  # fmt: skip
        self.made.append(made)
        if not self.stays(number):
            task = asyncio.create_task(self._run(made, number))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return web.json_response(made.told())

    async def _run(self, made: Made, number: int) -> None:
        await asyncio.sleep(self.delay_s)
        errors = self.refusals(made.lines, number)
        if errors or self.fails:
            made.errors, made.status = errors, "failed"
            return
        customs = [line["custom_id"] for line in made.lines]
        assert len(customs) == len(set(customs))
        assert len({line["body"]["model"] for line in made.lines}) == 1
        made.status = "in_progress"
        limit = self.expires_after(number)
        for line in made.lines[:limit]:
            if made.status == "cancelling":
                break
            await self._answer(made, line)
        done = {json.loads(line)["custom_id"] for line in made.output + made.failures}
        left = [c for c in customs if c not in done] if limit is not None else []
        for custom in left:
            made.failures.append(_line(custom, None, {"code": "batch_expired", "message": "too late"}))
        # In no order that means anything.
        random.Random(number).shuffle(made.output)
        ended = {"cancelling": "cancelled"}.get(made.status, "expired" if limit is not None else "completed")
        made.status = ended

    async def _answer(self, made: Made, line: Line) -> None:
        body, custom = line["body"], line["custom_id"]
        identity = hashlib.sha256(json.dumps(body).encode()).hexdigest()
        bad, self.seen[identity] = self.bad_line(body, self.seen[identity]), self.seen[identity] + 1
        if bad == "absent":
            return
        if isinstance(bad, str):
            made.failures.append(_line(custom, None, {"code": bad, "message": f"said {bad}"}))
        elif bad is not None:
            assert isinstance(bad.body, bytes)
            made.failures.append(_line(custom, (bad.status, json.loads(bad.body)), None))
        else:
            self.paid[identity] += 1
            answer = await getattr(self, RAN[made.path])(body)
            made.output.append(_line(custom, (200, answer), None))

    async def _chat(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.paid[hashlib.sha256(json.dumps(json.loads(raw)).encode()).hexdigest()] += 1
        return await super()._chat(request)

    async def _list(self, request: web.Request) -> web.Response:
        newest = [made.told() for made in reversed(self.made)]
        after = request.query.get("after")
        if after:
            newest = list(itertools.dropwhile(lambda batch: batch["id"] != after, newest))[1:]
        size = min(int(request.query["limit"]), 2)  # so that pages are turned
        return web.json_response({"data": newest[:size], "has_more": len(newest) > size})

    def _of(self, request: web.Request) -> Made | None:
        return next((made for made in self.made if made.id == request.match_info["id"]), None)

    async def _get(self, request: web.Request) -> web.Response:
        made = self._of(request)
        return web.json_response(made.told()) if made else status(404, "No batch found")

    async def _cancel(self, request: web.Request) -> web.Response:
        made = self._of(request)
        assert made
        self.cancelled.append(made.id)
        if made.status in ("validating", "in_progress"):
            made.status = "cancelled" if self.stays(self.made.index(made)) else "cancelling"
        return web.json_response(made.told())

    async def _content(self, request: web.Request) -> web.Response:
        kind, _, id = request.match_info["id"].partition("-")
        made = next(made for made in self.made if made.id == id)
        lines = made.output if kind == "out" else made.failures
        return web.Response(body=b"\n".join(lines))


def _line(custom: str, response: tuple[int, Any] | None, error: dict[str, str] | None) -> bytes:
    told = None if response is None else {"status_code": response[0], "request_id": "r", "body": response[1]}
    return json.dumps({"id": "x", "custom_id": custom, "response": told, "error": error}).encode()


@contextmanager
def batching(**fields: Any) -> Iterator[BatchServer]:
    """A server on a free port of 127.0.0.1, until the block ends."""
    with running(BatchServer(**fields)) as server:
        yield server
