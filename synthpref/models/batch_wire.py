"""Files and batches on the OpenAI wire: what is uploaded, how a batch is made, found again and read."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import AsyncIterable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, Protocol

import aiohttp
import orjson
from aiohttp.abc import AbstractStreamWriter

from synthpref.core.errors import BackendError, JournalError
from synthpref.core.seam import Completion, Request
from synthpref.models import wire, wire_decode, wire_errors
from synthpref.models.http import CHUNK, Http

TOKEN = "synthpref"
"""Under this name a batch carries its token in its metadata."""
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
ABSENT = frozenset({404, 405, 501})
"""HTTP statuses of a route that is not there."""
OF_A_ROW = frozenset({"bad_request", "context_length", "content_filter"})
"""Kinds of errors that a row is rejected for."""
PAGE, PAGES = 100, 50
"""Batches looked through for one that may have been made."""
EARLIER_S = 3600.0
"""How far the provider's clock may be behind ours."""
AGAIN = frozenset({"batch_expired", "batch_cancelled", "server_error", "rate_limit_exceeded"})
"""Codes of a line that was not answered through no fault of its own."""

log = logging.getLogger("synthpref")


@dataclass(frozen=True)
class State:
    """A batch as the provider tells of it."""

    id: str
    status: str
    output: str | None
    failures: str | None
    """The file with what came of lines that failed."""
    completed: int
    """Lines that were answered, by the provider's count."""
    errors: tuple[Mapping[str, Any], ...]
    """Why the batch as a whole was refused."""

    @property
    def ended(self) -> bool:
        return self.status in ENDED


def written(custom: str, path: str, body: Mapping[str, Any]) -> bytes:
    """A line of a batch's file."""
    return orjson.dumps({"custom_id": custom, "method": "POST", "url": f"/v1{path}", "body": body}) + b"\n"


def read(line: bytes) -> tuple[str, bytes | BackendError] | None:
    """(custom_id, the body of the answer or what went wrong) of a line that came back; None for one that cannot
    be read."""
    try:
        found = orjson.loads(line)
        custom, response, error = str(found["custom_id"]), found.get("response"), found.get("error")
        if response is None:
            return custom, _failed(error or {})
        body = response.get("body")
        if response["status_code"] == 200 and body and not error:
            return custom, orjson.dumps(body)
        code, told = int(response["status_code"]), orjson.dumps(body or {"error": error})
    except wire.UNREADABLE as error:
        log.warning("a line of a batch's answers cannot be read (%s): %r", error, line[: wire_errors.SHOWN])
        return None
    failure = wire_errors.http_error(code if code >= 400 else 502, {}, told)
    if failure.kind == "rate_limit":
        # To be told so hours later is a failure of this line; it says nothing about calls to come.
        failure = BackendError("transient", str(failure), status=failure.status)
    return custom, failure


def _failed(error: Mapping[str, Any]) -> BackendError:
    code = str(error.get("code") or "")
    if not code or code in AGAIN:
        return BackendError("transient", f"not answered: {error.get('message') or code or 'no reason given'}")
    return wire_errors.http_error(400, {}, orjson.dumps({"error": error}))


class Door(Protocol):
    """What is asked of a model on the wire, and what was answered. See models.openai.Wire."""

    url: str

    def asked(self, request: Request) -> tuple[str, dict[str, Any]]: ...

    def answered(self, request: Request, answer: Any) -> list[Completion]: ...

    def told(self, error: BackendError) -> BackendError: ...

    def failed(self, status: int, headers: Mapping[str, str], body: bytes) -> BackendError: ...

    def clean(self, body: bytes) -> bytes: ...


class Provider:
    """The files and batches of one address. Raises BackendError."""

    def __init__(self, door: Door, http: Http) -> None:
        self.url, self._door, self._http = door.url, door, http

    async def _send(self, method: str, path: str, **options: Any) -> bytes:
        status, headers, body = await self._http.send(method, f"{self.url}{path}", **options)
        if status >= 300:
            raise self._door.failed(status, headers, body)
        return self._door.clean(body)

    async def upload(self, lines: AsyncIterable[bytes]) -> str:
        """Upload the requests; the id of the file. Raises JournalError when there is no room to write them down."""
        with await _on_disk(lines) as file:
            form = aiohttp.FormData()
            form.add_field("purpose", "batch")
            form.add_field(
                "file", _Requests(file), filename="requests.jsonl", content_type="application/jsonl"
            )
            try:
                answer = wire_decode.decode(await self._send("POST", "/files", data=form))
            except BackendError as error:
                raise as_a_whole(error) from error
        return str(_of(answer, "id"))

    async def create(self, file: str, path: str, window: str, token: str) -> State:
        """Make a batch of an uploaded file."""
        asked = {
            "input_file_id": file,
            "endpoint": f"/v1{path}",
            "completion_window": window,
            "metadata": {TOKEN: token},
        }
        headers = {"Content-Type": "application/json", "Idempotency-Key": token}
        try:
            return _state(
                wire_decode.decode(
                    await self._send("POST", "/batches", data=orjson.dumps(asked), headers=headers)
                )
            )
        except BackendError as error:
            raise as_a_whole(error) from error

    async def find(self, file: str, token: str, made: float) -> State | None:
        """The batch that was made of the file, if one was; `made` says when it was about to be."""
        after = ""
        for _ in range(PAGES):
            try:
                page = wire_decode.decode(await self._send("GET", f"/batches?limit={PAGE}{after}"))
            except BackendError as error:
                if error.status not in ABSENT:
                    raise
                fix = "see there whether it was, and delete batches.sqlite to ask for it anew"
                message = f"batches are not listed there ({error}), so it is not known whether one was made of {file}; {fix}"
                raise BackendError("unsupported", message, status=error.status) from error
            listed = _of(page, "data")
            for batch in listed:
                metadata = batch.get("metadata") or {}
                if metadata.get(TOKEN) == token or batch.get("input_file_id") == file:
                    return _state(batch)
            if not listed or not page.get("has_more"):
                return None
            with suppress(*wire.UNREADABLE):  # a time of another form says nothing
                if float(listed[-1]["created_at"]) < made - EARLIER_S:
                    return None
            after = f"&after={listed[-1]['id']}"
        return None

    async def get(self, id: str) -> State:
        return _state(wire_decode.decode(await self._send("GET", f"/batches/{id}")))

    async def cancel(self, id: str) -> None:
        await self._send("POST", f"/batches/{id}/cancel", data=b"")

    async def content(self, file: str, take: Callable[[bytes], object]) -> None:
        """Give each line of a file to `take`, as they come."""
        rest = b""

        def cut(chunk: bytes) -> None:
            nonlocal rest
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    take(self._door.clean(line))

        await self._send("GET", f"/files/{file}/content", take=cut)
        if rest.strip():
            take(self._door.clean(rest))


class _Requests(aiohttp.Payload):
    """A file as a part of a form. aiohttp's own kind closes it in a thread, at the same time as who opened it does
    where the request fails."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, content_type="application/jsonl")

    @property
    def size(self) -> int:
        return os.fstat(self._value.fileno()).st_size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a file of requests is only ever sent")

    async def write(self, writer: AbstractStreamWriter) -> None:
        while not self._value.closed and (chunk := self._value.read(CHUNK)):
            await writer.write(chunk)


async def _on_disk(lines: AsyncIterable[bytes]) -> IO[bytes]:
    """A file that goes when it is closed: it may be as large as the memory that all else takes."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  closed by who reads it
    try:
        async for line in lines:
            file.write(line)
        file.seek(0)
    except OSError as error:
        with suppress(OSError):  # closing tries to write once more
            file.close()
        where, fix = tempfile.gettempdir(), "make room, then run the same command again"
        raise JournalError(f"{where}: a batch cannot be written there ({error.strerror}); {fix}") from error
    return file


def as_a_whole(error: BackendError) -> BackendError:
    """An error about a whole file or batch, which no row is to be rejected for."""
    if error.status in ABSENT:
        fix = "set mode: live on the role, or give it the base_url of an endpoint that has both"
        message = f"no /files and /batches there ({error}); {fix}"
    elif error.kind in OF_A_ROW:
        message = f"the batch as a whole was refused ({error}); see the limits in batch, or set mode: live"
    else:
        return error
    return BackendError("unsupported", message, status=error.status)


def _of(answer: Any, key: str) -> Any:
    try:
        return answer[key]
    except wire.UNREADABLE as error:
        raise wire_errors.odd(answer, f"no {key!r}") from error


def _state(answer: Any) -> State:
    id, status = str(_of(answer, "id")), str(_of(answer, "status"))
    try:
        counts = answer.get("request_counts") or {}
        errors = answer.get("errors") or ()
        if isinstance(errors, Mapping):
            errors = errors.get("data") or ()
        # Not all providers have OpenAI's way of saying why.
        listed = [errors] if isinstance(errors, str) else errors
        return State(
            id,
            status,
            answer.get("output_file_id"),
            answer.get("error_file_id"),
            int(counts.get("completed") or 0),
            tuple(error if isinstance(error, Mapping) else {"message": str(error)} for error in listed),
        )
    except wire.UNREADABLE as error:
        raise wire_errors.odd(answer, str(error)) from error
