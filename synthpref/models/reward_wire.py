"""Reward models over HTTP: which path they are at, and services that take several conversations in one request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request
from synthpref.models import reward_json
from synthpref.models.reward_form import RewardForm, body, read

VLLM_PATHS = ("/classify", "/pooling", "/score")
GATHER_S = 0.005
"""How long the first of a batch waits for others."""


class Spec(Protocol):
    """What a role says of its reward model."""

    @property
    def model(self) -> str: ...
    @property
    def extra_body(self) -> Mapping[str, Any]: ...
    @property
    def reward_path(self) -> str: ...
    @property
    def reward_form(self) -> RewardForm | None: ...


class Post(Protocol):
    """Sends a body to a URL; the JSON that comes back. Raises BackendError."""

    async def __call__(self, url: str, body: Any) -> Any: ...


class Grader:
    """What a role says of conversations, or of two answers."""

    def __init__(self, spec: Spec, root: str, post: Post) -> None:
        self.spec, self.root, self._post = spec, root, post
        self._paths = list(VLLM_PATHS) if spec.reward_path == "auto" else [spec.reward_path]
        form = spec.reward_form
        self._formed = _Formed(form, self) if form else None

    async def complete(self, request: Request) -> list[Completion]:
        found = await (self._formed.ask(request) if self._formed else self._plain(request))
        if request.kind == "reward":
            return found
        return [replace(one, values=reward_json.preference(one.values or {})) for one in found]

    async def send(self, asked: Any) -> Any:
        if self.spec.extra_body and isinstance(asked, dict):
            asked = {**self.spec.extra_body, **asked}
        return await self._post(self.root + self._paths[0], asked)

    async def _plain(self, request: Request) -> list[Completion]:
        """Of vLLM, or a service that speaks as it does."""
        while True:
            path = self._paths[0]
            try:
                asked = reward_json.reward_body(request, self.spec.model, self.spec.extra_body, path)
                return reward_json.reward_answer(await self.send(asked))
            except BackendError as error:
                if error.status != 404 or path == self._paths[-1]:
                    raise
                # Of calls that were under way together the first takes the path away.
                self._paths = self._paths[path == self._paths[0] :]


Waiting = tuple[Request, asyncio.Future[list[Completion]]]
ONES_OWN = ("bad_request", "context_length", "content_filter", "unsupported")
"""Kinds of errors that one item of a batch can bring on all."""


class _Formed:
    """A service with a JSON of its own: calls that are under way together are few requests."""

    def __init__(self, form: RewardForm, grader: Grader) -> None:
        self.form, self.grader = form, grader
        self._waiting: list[Waiting] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def ask(self, request: Request) -> list[Completion]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Completion]] = loop.create_future()
        self._waiting.append((request, future))
        if len(self._waiting) >= self.form.batch:
            self._leave()
        elif len(self._waiting) == 1:
            loop.call_later(GATHER_S, self._leave)
        return await future

    def _leave(self) -> None:
        batch, self._waiting = self._waiting, []
        if batch := [(request, future) for request, future in batch if not future.done()]:
            task = asyncio.create_task(self._send(batch))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _send(self, batch: Sequence[Waiting]) -> None:
        scores, failed, came = list[dict[str, float | None]](), None, False
        try:
            asked = body(self.form, self.grader.spec.model, [request for request, _ in batch])
            reply = await self.grader.send(asked)
            came = True
            scores = read(self.form, reply, len(batch))
        except BackendError as error:
            failed = error
        except Exception as error:  # noqa: BLE001
            # Whatever it is, those who wait must hear of it.
            failed = BackendError("bad_request", f"{type(error).__name__}: {error}")
        if failed and len(batch) > 1 and (came or failed.kind in ONES_OWN):
            # Each by itself, so that an item that cannot be scored costs no other its score.
            await asyncio.gather(*(self._send([one]) for one in batch))
            return
        for i, (_, future) in enumerate(batch):
            if future.done():
                continue
            if not failed:
                future.set_result([Completion(values=scores[i])])
            else:
                # One of its own for each, because who raises it writes into it.
                again, status = failed.retry_after, failed.status
                future.set_exception(BackendError(failed.kind, str(failed), status=status, retry_after=again))
