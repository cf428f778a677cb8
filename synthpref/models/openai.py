"""`backend: openai`: any OpenAI-compatible endpoint, or several as one.

Speaks the wire by itself, with aiohttp and orjson: the official client costs more than ten times the CPU a request.
`transport: sdk` uses the official client where its credentials are needed.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from synthpref.core.errors import BackendError
from synthpref.core.seam import NEUTRAL, SERVES, Backend, Capability, Completion, ModelSpec, Price, Request
from synthpref.models import wire, wire_decode, wire_errors
from synthpref.models.batch_settings import Batching
from synthpref.models.http import Http, connections, proxy_for
from synthpref.models.pool import Endpoint, Pool, limiter_for
from synthpref.models.reward_form import RewardForm
from synthpref.models.reward_wire import Grader

OPENAI = "https://api.openai.com/v1"
LONG = 8
_GRADERS = ("reward", "comparisons")
_CREDENTIAL = re.compile(r"key|token|secret|auth|passw|cookie|session", re.I)


class OpenAI(ModelSpec):
    """A model behind an OpenAI-compatible endpoint: vLLM, SGLang, Ollama, llama.cpp, OpenAI, most providers."""

    backend: Literal["openai"] = "openai"
    """This backend."""
    base_url: Annotated[str | tuple[str, ...], NEUTRAL] = OPENAI
    """Where it is, up to and with /v1; a list of addresses serves as one."""
    api_key: Annotated[SecretStr | None, NEUTRAL] = None
    """The key, as "${NAME}"; for api.openai.com OPENAI_API_KEY is used where none is given."""
    headers: Annotated[Mapping[str, SecretStr], NEUTRAL] = {}
    """More HTTP headers; their values are kept secret."""
    serves: Literal["chat", "embeddings", "reward", "comparisons"] = "chat"
    """What the endpoint is for; "comparisons" of two answers are what a pairwise reward model gives."""
    structured_output: bool = True
    """Whether it takes response_format with a JSON schema."""
    logprobs: Annotated[bool, NEUTRAL] = True
    """Whether it gives log-probabilities."""
    prompt_logprobs: Annotated[bool, NEUTRAL] = False
    """Whether it gives those of the prompt, as vLLM does."""
    prefill: bool = False
    """Whether it goes on with a last message that is the assistant's when asked as vLLM and SGLang are."""
    many: Annotated[bool, NEUTRAL] = True
    """Whether n answers may be asked for in one request; else they are asked for one by one."""
    fold_system: bool = False
    """Whether to put a system message into the user's turn, for models that know no system role or want user and
    assistant in turns."""
    stream: Annotated[bool, NEUTRAL] = False
    """Whether to ask for answers in pieces, for endpoints that give no others."""
    send_seed: bool = True
    """Whether to send `seed`."""
    max_tokens_as: Annotated[Literal["auto", "max_tokens", "max_completion_tokens"], NEUTRAL] = "auto"
    """What the endpoint calls max_tokens; auto is max_completion_tokens for api.openai.com alone."""
    extra_body: Mapping[str, Any] = {}
    """More fields for each request's body, such as top_k or chat_template_kwargs."""
    reward_path: str = "/classify"
    """Path of a reward model, from the root of the server: /classify, /pooling or (for a cross-encoder, which reads
    prompt and response as two texts) /score for vLLM, "auto" for the first of these that is there, or one of your own
    that answers {"reward": x} or {"scores": {name: x}}."""
    reward_form: RewardForm | None = None
    """For a reward service with a JSON of its own: {request, scores}, and {item, batch} where it takes several
    conversations at once. docs/reward-models.md has examples."""
    concurrency: Annotated[int, NEUTRAL] = Field(default=256, ge=1)
    """The most requests at once to one address; fewer are used while the endpoint takes no more."""
    rpm: Annotated[int | None, NEUTRAL] = Field(default=None, ge=1)
    """The most requests in any minute to one address."""
    tpm: Annotated[int | None, NEUTRAL] = Field(default=None, ge=1)
    """The most tokens in any minute to one address."""
    timeout_s: Annotated[float, NEUTRAL] = Field(default=600.0, gt=0)
    """Seconds after which a request counts as failed."""
    transport: Annotated[Literal["http", "sdk"], NEUTRAL] = "http"
    """"sdk" sends through the openai package (extra `sdk`), for credentials that only it knows."""
    mode: Annotated[Literal["live", "batch"], NEUTRAL] = "live"
    """"batch" gathers requests into files for the provider's batch service (/v1/files and /v1/batches), which answers
    within hours, at the share of the price that `price.batch` says."""
    batch: Annotated[Batching, NEUTRAL] = Batching()
    """Limits and patience of `mode: batch`: max_requests, max_bytes, min_requests, wait_s, quiet_s, poll_s, window,
    rows, live_below, on_stop."""

    @field_validator("base_url")
    @classmethod
    def _addresses(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for url in [value] if isinstance(value, str) else value:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("an address such as http://localhost:8000/v1 was expected")
        if not value:
            raise ValueError("at least one address was expected")
        return value

    @model_validator(mode="after")
    def _for_batches(self) -> OpenAI:
        if self.mode == "batch":
            if len(self.addresses) > 1:
                raise ValueError("mode: batch takes one base_url, because a batch is at one address")
            if self.serves in _GRADERS:
                raise ValueError("mode: batch serves chat and embeddings; reward models are asked live")
            if self.transport == "sdk":
                raise ValueError("mode: batch needs transport: http")
        return self

    @model_validator(mode="after")
    def _graded(self) -> OpenAI:
        if self.reward_form is not None:
            self.reward_form.check(self.serves)
            if self.reward_path == "auto":
                raise ValueError("reward_form needs a reward_path of its own, not auto")
        return self

    @property
    def addresses(self) -> tuple[str, ...]:
        urls = (self.base_url,) if isinstance(self.base_url, str) else self.base_url
        return tuple(url.rstrip("/") for url in urls)

    def able(self) -> frozenset[Capability]:
        if self.serves != "chat":
            return frozenset({SERVES[self.serves]})
        has: dict[Capability, bool] = {
            "json_schema": self.structured_output,
            "logprobs": self.logprobs,
            "prompt_logprobs": self.prompt_logprobs,
            "prefill": self.prefill,
            "n": self.many,
        }
        return frozenset({"chat", *(name for name, there in has.items() if there)})

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        if not self.prefill:
            # Younger than journals that are to stay valid.
            del identity["prefill"]
        if not self.fold_system:
            del identity["fold_system"]
        if self.reward_form is None:
            del identity["reward_form"]
        else:
            # How many are asked about at once changes no score.
            del identity["reward_form"]["batch"]
        return identity

    def place(self) -> str:
        return " ".join(self.addresses)

    def slots(self) -> int:
        return self.concurrency * len(self.addresses)

    def gathers(self) -> int:
        return self.batch.rows if self.mode == "batch" else 0

    def pays(self) -> Price | None:
        if self.price is None or self.mode == "live":
            return self.price
        share = self.price.batch
        return Price(input=self.price.input * share, output=self.price.output * share)

    def pays_at_most(self) -> Price | None:
        return self.price if self.mode == "batch" and self.batch.live_below else self.pays()

    def secrets(self) -> list[str]:
        words = [w or "" for url in self.addresses for w in (urlsplit(url).username, urlsplit(url).password)]
        logins = [_login(url) for url in self.addresses]
        found = [*super().secrets(), *words, *map(unquote, words), *logins, self.key(OPENAI) or ""]
        # As a gateway may write them that turns one kind of login into another.
        users = {unquote(urlsplit(url).username or "") for url in self.addresses}
        found += [_basic(user, secret) for user in users for secret in found if secret]
        # Longest first, so that no part of one is left where another is its beginning.
        return sorted({s for s in found if s}, key=lambda s: (-len(s), s))

    def credentials(self) -> list[str]:
        """The secrets that open a door, long enough to be told from other words: not each header's value, which may
        be a word that an answer is right to use."""
        passwords = [urlsplit(url).password or "" for url in self.addresses]
        named = [v.get_secret_value() for name, v in self.headers.items() if _CREDENTIAL.search(name)]
        bare = [word for value in named for word in value.split()]
        keys = [self.key(url) or "" for url in self.addresses]
        found = {*passwords, *map(unquote, passwords), *map(_login, self.addresses), *named, *bare, *keys}
        return sorted((s for s in found if len(s) >= LONG), key=lambda s: (-len(s), s))

    def key(self, url: str) -> str | None:
        """The API key for an address: OpenAI's own is taken from the environment, and goes nowhere else."""
        if self.api_key:
            # A key read from a file often ends in a line break, which no header may hold.
            return self.api_key.get_secret_value().strip()
        return (
            os.environ.get("OPENAI_API_KEY") if urlsplit(url).hostname == urlsplit(OPENAI).hostname else None
        )

    def max_tokens_name(self, url: str) -> str:
        if self.max_tokens_as != "auto":
            return self.max_tokens_as
        ours = urlsplit(url).hostname == urlsplit(OPENAI).hostname
        return "max_completion_tokens" if ours else "max_tokens"

    def open(self, shared: dict[str, Any]) -> Backend:
        live = partial(self._live, shared)
        if self.mode == "live":
            return live()
        from synthpref.models.batch import Batches

        (url,) = self.addresses
        transport = self._transport(url, shared)
        assert isinstance(transport, Http)
        door = Wire(self, shown(url), transport)
        return Batches.shared_by(shared, self.identity(), door, transport, self.batch, live)

    def _live(self, shared: dict[str, Any]) -> Backend:
        endpoints = []
        most = min(self.concurrency, connections(self.slots(), shared) // len(self.addresses))
        for url in self.addresses:
            transport = self._transport(url, shared)
            limiter = limiter_for(shared, url, most, self.rpm, self.tpm)
            endpoints.append(Endpoint(shown(url), Wire(self, shown(url), transport), limiter))
        return Pool(endpoints)

    def _transport(self, url: str, shared: dict[str, Any]) -> Transport:
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        parts, key = urlsplit(url), self.key(url)
        if parts.username and not key:
            headers.setdefault("Authorization", f"Basic {_login(url)}")
        if self.transport == "sdk":
            try:
                from synthpref.models.openai_sdk import Sdk
            except ImportError as error:
                fix = "pip install 'synthpref[sdk]', or leave transport out of the role"
                raise BackendError(
                    "unsupported", f"transport: sdk needs the openai package; {fix}"
                ) from error

            return Sdk(shown(url), key, headers, self.timeout_s)
        if key:
            headers.setdefault("Authorization", f"Bearer {key}")
        return Http(shared, headers, self.timeout_s, proxy_for(url))


def _forms(secrets: Iterable[str]) -> list[bytes]:
    """The secrets as they may stand in a body: as they are, and as JSON and a URL write them."""
    written = {form for s in secrets for form in (s, json.dumps(s)[1:-1], quote(s, safe=""))}
    return sorted((form.encode() for form in written), key=lambda form: (-len(form), form))


def _without(body: bytes, secrets: Iterable[bytes]) -> bytes:
    """A body without secrets: what a server says is kept, and may be published."""
    for secret in secrets:
        if secret in body:
            body = body.replace(secret, b"[secret]")
    return body


def _login(url: str) -> str:
    """The user and password of a URL as a header holds them; "" where there are none."""
    parts = urlsplit(url)
    return _basic(unquote(parts.username), unquote(parts.password or "")) if parts.username else ""


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


class Transport(Protocol):
    """Carries a JSON body to a URL. Raises BackendError for connections; returns (status, headers, body)."""

    async def post(self, url: str, body: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]: ...

    async def aclose(self) -> None: ...


class Wire:
    """One address of one role."""

    def __init__(self, spec: OpenAI, url: str, transport: Transport) -> None:
        self.spec, self.url, self.transport = spec, url, transport
        self.root = url.removesuffix("/v1")
        self.max_tokens_as = spec.max_tokens_name(url)
        self._hidden = _forms(spec.credentials())
        self._grader = Grader(spec, self.root, self._post)

    async def complete(self, request: Request) -> list[Completion]:
        try:
            if request.kind in ("reward", "compare"):
                return await self._grader.complete(request)
            path, asked = self.asked(request)
            return self.answered(request, await self._post(self.url + path, asked))
        except BackendError as error:
            raise self.told(error) from None

    def told(self, error: BackendError) -> BackendError:
        """The error with the address before it, and no secret in it."""
        message = str(error)
        for secret in self.spec.secrets():
            message = message.replace(secret, "[secret]")
        again = error.retry_after
        return BackendError(error.kind, message, status=error.status, retry_after=again, where=self.url)

    def failed(self, status: int, headers: Mapping[str, str], body: bytes) -> BackendError:
        """What an HTTP status means."""
        # Before a message is cut short: the beginning of a key is a part of it.
        return wire_errors.http_error(status, headers, _without(body, _forms(self.spec.secrets())))

    def clean(self, body: bytes) -> bytes:
        """What came, without keys: it is kept, and may be published."""
        return _without(body, self._hidden)

    def asked(self, request: Request) -> tuple[str, dict[str, Any]]:
        """Where a request goes, and its body."""
        spec = self.spec
        if request.kind == "embed":
            return "/embeddings", wire.embed_body(request, spec.model, spec.extra_body)
        return "/chat/completions", wire.chat_body(
            request,
            spec.model,
            seed=spec.send_seed,
            max_tokens_as=self.max_tokens_as,
            extra=spec.extra_body,
            prefill=spec.prefill,
            fold=spec.fold_system,
            stream=spec.stream,
        )

    def answered(self, request: Request, answer: Any) -> list[Completion]:
        """What an answer to the request says. Raises BackendError."""
        if request.kind == "embed":
            return wire.embed_answer(answer)
        answers = wire.chat_answer(answer, request.seed, request.prompt_logprobs or 0)
        fix = "choose another model, or a stage that does not need them"
        if request.logprobs is not None and any(a.logprobs is None for a in answers):
            raise BackendError("unsupported", f"no logprobs were given; {fix}")
        if request.prompt_logprobs is not None and answers and answers[0].prompt_logprobs is None:
            raise BackendError("unsupported", f"no logprobs of the prompt were given; {fix}")
        return answers

    async def _post(self, url: str, body: Any) -> Any:
        try:
            status, headers, answer = await self.transport.post(url, body)
        except (TypeError, ValueError) as error:
            # A lone surrogate in a text, or a line break in a header: nothing was sent.
            message = f"the request cannot be sent: {type(error).__name__}: {str(error)[: wire_errors.SHOWN]}"
            raise BackendError("bad_request", message) from error
        if status >= 300:
            raise self.failed(status, headers, answer)
        return wire_decode.decode(self.clean(answer))

    async def aclose(self) -> None:
        await self.transport.aclose()


def shown(url: str) -> str:
    """The URL without a user or a password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
