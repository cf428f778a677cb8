"""HTTP by aiohttp: one session for all roles of a run, and what the system has to give for it."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson

from synthpref.core.errors import BackendError

LARGE = 2**20
MOST_BYTES = 2**27
"""Of an answer, unpacked. 64 answers of 2,000 tokens with 20 alternatives each have about as many; what has more is no
answer, and would take the machine's memory."""
CHUNK = 2**18
IDLE_S = 4.0
"""How long a connection that nobody uses is kept. Servers of uvicorn, such as vLLM's, close theirs after 5 seconds, and
a request that goes out at that moment is lost."""
OTHER_FILES = 128
"""Files that a process has open beside its connections, with some to spare."""

log = logging.getLogger("synthpref")


class Http:
    """aiohttp, with one session for all roles of a run."""

    def __init__(
        self, shared: dict[str, Any], headers: Mapping[str, str], timeout_s: float, proxy: str | None
    ) -> None:
        self._shared, self._proxy, self._open = shared, proxy, True
        self._headers = {"Accept-Encoding": "gzip", **headers, "Content-Type": "application/json"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(timeout_s, 30.0))
        shared["http users"] = shared.get("http users", 0) + 1

    def _session(self) -> aiohttp.ClientSession:
        session = self._shared.get("http")
        if not isinstance(session, aiohttp.ClientSession):
            # The limiter decides how many requests there are, so the connector must not.
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=IDLE_S)
            # Not trust_env: it looks into .netrc in a thread for each request, and fails beside a key.
            session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )
            self._shared["http"] = session
        return session

    async def post(self, url: str, body: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        data = orjson.dumps(body)
        try:
            # aiohttp warns about large bodies that are not files.
            sent = data if len(data) < LARGE else io.BytesIO(data)
            async with self._session().post(
                url,
                data=sent,
                headers=self._headers,
                timeout=self._timeout,
                proxy=self._proxy,
                # Headers hold keys, and another host's answer is no answer.
                allow_redirects=False,
            ) as answer:
                return answer.status, answer.headers, await _body(answer)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise _failure(error, self._timeout.total) from error

    async def send(
        self,
        method: str,
        url: str,
        data: aiohttp.FormData | bytes | None = None,
        headers: Mapping[str, str] = {},
        take: Callable[[bytes], object] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """For what is not a call of a model, such as a file: there may be much of it, so that only silence counts
        as a failure. A body that is no error goes to `take` as it comes, where there is one."""
        silence = aiohttp.ClientTimeout(total=None, sock_connect=30.0, sock_read=self._timeout.total)
        own = {name: value for name, value in self._headers.items() if name != "Content-Type"}
        try:
            async with self._session().request(
                method,
                url,
                data=data,
                headers={**own, **headers},
                timeout=silence,
                proxy=self._proxy,
                allow_redirects=False,
            ) as answer:
                if take is None or answer.status >= 300:
                    return answer.status, answer.headers, await _body(answer)
                async for piece in _unpacked(answer):
                    take(piece)
                return answer.status, answer.headers, b""
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise _failure(error, self._timeout.total) from error

    async def aclose(self) -> None:
        if not self._open:
            return
        self._open = False
        self._shared["http users"] -= 1
        if not self._shared["http users"] and (session := self._shared.pop("http", None)):
            await session.close()
            # Lets the transports close, so that no warning about them is raised at exit.
            await asyncio.sleep(0)


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """The body, which has to come to an end. Raises BackendError."""
    if not answer.headers.get("Content-Encoding") and (answer.content_length or MOST_BYTES + 1) <= MOST_BYTES:
        return await answer.read()
    parts, size = [], 0
    async for piece in _unpacked(answer):
        size += len(piece)
        if size > MOST_BYTES:
            message = f"the answer is longer than {MOST_BYTES >> 20} MiB"
            raise BackendError("unreadable", message, status=answer.status)
        parts.append(piece)
    return b"".join(parts)


async def _unpacked(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body as it comes, unpacked here and piece by piece: aiohttp unpacks all that has arrived at once, which may be
    a thousand times as much. Raises BackendError."""
    packing = answer.headers.get("Content-Encoding", "identity").lower()
    if packing not in ("identity", "gzip", "x-gzip"):
        raise BackendError("unreadable", f"an answer packed as {packing!r}, unasked", status=answer.status)
    unpacker = None if packing == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 16)
    async for chunk in answer.content.iter_chunked(CHUNK):
        while chunk and unpacker:
            try:
                piece = unpacker.decompress(chunk, CHUNK)
            except zlib.error as error:
                raise BackendError("unreadable", f"not gzip: {error}", status=answer.status) from error
            yield piece
            chunk = unpacker.unconsumed_tail
        if not unpacker:
            yield chunk


def _failure(error: Exception, timeout_s: float | None) -> BackendError:
    """What it means that there was no answer."""
    if isinstance(error, aiohttp.ConnectionTimeoutError | aiohttp.ClientConnectorError):
        number = getattr(error, "errno", None)
        why = os.strerror(number) if isinstance(number, int) and number > 0 else str(error)
        return BackendError("unreachable", f"cannot be reached: {why}; is it up?")
    if isinstance(error, TimeoutError):
        return BackendError("transient", f"no answer in {timeout_s:g} s", status=408)
    return BackendError("transient", f"{type(error).__name__}: {error}")


def connections(wanted: int, shared: dict[str, Any]) -> int:
    """How many of the wanted connections may be open at once: each is a file to the system, whose limit for a
    process is often 1,024 and can be raised by it."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    total: int = shared.get("connections", OTHER_FILES) + wanted
    shared["connections"] = total
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if total > soft != resource.RLIM_INFINITY:
        soft = total if hard == resource.RLIM_INFINITY else min(total, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if total <= soft or soft == resource.RLIM_INFINITY:
        return wanted
    least = max(1, wanted - (total - soft))
    log.warning("%d connections were wanted, and the system allows %d; see ulimit -n", wanted, least)
    return least


def proxy_for(url: str) -> str | None:
    """The proxy that the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY) names for an address."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
