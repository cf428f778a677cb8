"""The official `openai` client as a transport. Its own retries are off: one retry policy rules, the engine's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import openai

from synthpref.core.errors import BackendError

OPENAI_HOST = "api.openai.com"


class Sdk:
    """Carries a body through openai.AsyncOpenAI. See models.openai.Transport."""

    def __init__(self, base_url: str, key: str | None, headers: Mapping[str, str], timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key or "none",
            default_headers=dict(headers),
            timeout=timeout_s,
            max_retries=0,
            # As over plain HTTP: a redirect would carry headers with keys to another host.
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )
        if urlsplit(base_url).hostname != OPENAI_HOST:
            # The client reads these from the environment; they are no business of other hosts.
            self._client.organization = self._client.project = None

    async def post(self, url: str, body: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        try:
            raw = await self._client.post(url, body=body, cast_to=openai.HttpxBinaryResponseContent)
        except openai.APIStatusError as error:
            return error.response.status_code, error.response.headers, error.response.content
        except openai.APITimeoutError as error:
            raise BackendError("transient", f"no answer in {self._timeout_s:g} s", status=408) from error
        except openai.APIConnectionError as error:
            refused = "Connect" in type(error.__cause__).__name__
            message = f"{type(error.__cause__).__name__}: {error.__cause__ or error}"
            raise BackendError("unreachable" if refused else "transient", message) from error
        return raw.response.status_code, raw.response.headers, raw.content

    async def aclose(self) -> None:
        await self._client.close()
