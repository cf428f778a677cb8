"""`backend: local`: a model that runs in the process of the run, through transformers, on CPU, CUDA or MPS. The one
module that loads torch and transformers.

For people without a server or a key, and for small models. One thread runs the model (models/local_line.py), on a
batch at a time; large models and many GPUs are for `vllm`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from synthpref.core.errors import BackendError, Problem
from synthpref.core.seam import NEUTRAL, SERVES, Backend, Capability, Completion, ModelSpec, Request
from synthpref.models.local_batch import Batches, Task
from synthpref.models.local_line import Line
from synthpref.models.local_loaded import Loaded
from synthpref.models.local_text import template_text
from synthpref.models.reward_json import head_names
from synthpref.models.turns import Placed, Turns, at_odds

_importing = threading.Lock()
INSTALL = 'backend: local needs torch and transformers: pip install "synthpref[local]"'
AHEAD = 4
"""Batches' worth of calls that may be under way, so that there is a choice of like lengths."""


class Local(Placed):
    """A model that runs in the process of the run, through transformers: no server, no key, no GPU needed."""

    backend: Literal["local"] = "local"
    """This backend; needs the extra `local`."""
    model: str = "Qwen/Qwen2.5-0.5B-Instruct"
    """A folder, or a name on the Hub, from where it is fetched once. A small instruction model by default."""
    revision: str | None = None
    """Which version of it on the Hub."""
    serves: Literal["chat", "reward", "comparisons"] = "chat"
    """What the model is for. A reward model (a sequence classifier) gives the raw logits of its heads. One for
    comparisons reads two answers together, by a chat template in which they are `response_a` and `response_b`, or else
    as two texts: the prompt, and both answers with the tokenizer's separator between them. It has one output, the
    log-odds for the first, or one for each."""
    trust_remote_code: bool = False
    """Run the code that comes with the model, which an architecture of its own needs (as ArmoRM's). Read it first: it
    can do anything that you can. Outputs called `rewards` are then heads beside the `reward`."""
    device: Annotated[str, NEUTRAL] = "auto"
    """cpu, cuda, cuda:1, mps, ...; by default a GPU where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; by default float32 on a CPU, and what they were saved as elsewhere."""
    top_k: int | None = Field(default=None, ge=0)
    """Draw among so many of the most probable tokens; 0 for all, by default the model's own setting."""
    chat_template: str | None = None
    """A chat template instead of the model's own, or a file that holds one, from the folder where the run is started."""
    chat_template_kwargs: Mapping[str, Any] = {}
    """What the chat template is given besides, such as enable_thinking: false."""
    batch: Annotated[int, NEUTRAL] = Field(default=8, ge=1)
    """Answers that are written at once. More are faster and need more memory; but a number that is worked out beside
    others is the same to about the seventh digit only, so that with 1 alone a run made again has the same bytes."""

    @model_validator(mode="after")
    def _there(self, info: ValidationInfo) -> Self:
        # Of a recipe; what is made in Python may be looked at without the packages, and needs them when it is opened.
        if info.context is not None and not installed():
            raise ValueError(INSTALL)
        try:
            self.template()
        except OSError as error:
            raise ValueError(
                f"chat_template: {self.chat_template} cannot be read ({error.strerror})"
            ) from None
        return self

    def accelerators(self) -> frozenset[str]:
        return frozenset({self.device.partition(":")[2] or "0"} if self.device.startswith("cuda") else ())

    def able(self) -> frozenset[Capability]:
        if self.serves != "chat":
            return frozenset({SERVES[self.serves]})
        return frozenset({"chat", "n", "logprobs", "prompt_logprobs", "prefill"})

    def identity(self) -> dict[str, Any]:
        identity = super().identity() | {"chat_template": self.template()}
        if not self.trust_remote_code:
            # Younger than journals that are to stay valid.
            del identity["trust_remote_code"]
        return identity

    def template(self) -> str | None:
        """The text of the chat template that is given."""
        return template_text(self.chat_template)

    def slots(self) -> int:
        return self.batch * AHEAD

    def weights(self) -> str:
        """What roles share that name the same."""
        return f"local {(self.model, self.revision, self.serves, self.device, self.dtype, self.trust_remote_code)}"

    @staticmethod
    def beside(roles: Mapping[str, ModelSpec]) -> list[Problem]:
        here = {role: spec for role, spec in roles.items() if isinstance(spec, Local)}
        return at_odds({role: spec.weights() for role, spec in here.items()}, here)

    def open(self, shared: dict[str, Any]) -> Backend:
        if not installed():
            raise BackendError("unsupported", INSTALL)
        name = self.weights()
        if name not in shared:
            batches = Batches(self.model, lambda: _load(self))
            shared[name] = Line(name, batches.load, batches.work, batches.drop)
        door = _Door(self, shared[name].use())
        return Turns.before(door, shared, name, [shared[name]]) if self.placement == "in_turn" else door


def installed() -> bool:
    return all(find_spec(package) is not None for package in ("torch", "transformers"))


class _Door:
    """The model, as one role asks it."""

    def __init__(self, spec: Local, line: Line[Task, list[Completion]]) -> None:
        self.spec, self.line, self.template = spec, line, spec.template()

    async def complete(self, request: Request) -> list[Completion]:
        if request.response_format is not None or request.kind == "embed":
            raise BackendError("unsupported", f"{self.spec.model}: backend: local has no such thing")
        kind = "reads" if request.prompt_logprobs is not None else request.kind
        return await self.line.ask(
            Task(request, self.spec.top_k, self.template, self.spec.chat_template_kwargs),
            kind=kind,
            length=sum(len(message["content"]) for message in request.messages),
            weight=request.n,
            places=self.spec.batch,
            priority=request.priority,
        )

    async def aclose(self) -> None:
        await self.line.aclose()


def _load(spec: Local) -> Loaded:
    """The weights and the tokenizer. Raises BackendError."""
    import torch

    graded = spec.serves != "chat"
    kind, a_tokenizer = _parts(
        "AutoModelForSequenceClassification" if graded else "AutoModelForCausalLM", "AutoTokenizer"
    )
    which = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    _parts("utils")[0].logging.disable_progress_bar()
    try:
        device = torch.device(_device(torch) if spec.device == "auto" else spec.device)
        dtype = "float32" if spec.dtype == "auto" and device.type == "cpu" else spec.dtype
        tokenizer = a_tokenizer.from_pretrained(spec.model, **which)
        model, told = kind.from_pretrained(spec.model, dtype=dtype, output_loading_info=True, **which)
        # Which transformers fills with chance, and says so in a warning.
        if lost := sorted(set(told["missing_keys"]) & {name for name, _ in model.named_parameters()}):
            fix = "is it a model for that?"
            said = f"serves: {spec.serves} needs weights that it does not have ({', '.join(lost[:3])}); {fix}"
            raise BackendError("unsupported", f"{spec.model}: {said}")
        return Loaded(torch, model.to(device).eval(), tokenizer, device)
    except BackendError:
        raise
    except OSError as error:
        said = " ".join(str(error).split())
        raise BackendError(
            "not_found", f"{spec.model}: {said}; name a folder, or a model on the Hub"
        ) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        fix = "set dtype: bfloat16, or choose a smaller model, or device: cpu"
        raise BackendError("unsupported", f"{spec.model} does not fit into memory; {fix}") from error
    except Exception as error:
        said = f"{spec.model} cannot be loaded: {type(error).__name__}: {error}"
        raise BackendError("unsupported", said) from error


def _parts(*names: str) -> list[Any]:
    """Parts of transformers, which loads each when it is first named, and fails where two threads do so at once."""
    with _importing:
        import transformers

        return [getattr(transformers, name) for name in names]


def labels(model: str, which: Mapping[str, Any]) -> dict[int, str]:
    """The names that a model's configuration has for its outputs, by their place; none where there is no such file."""
    (a_config,) = _parts("AutoConfig")
    try:
        found = a_config.from_pretrained(model, **which).id2label
    except (OSError, ValueError):
        return {}
    return head_names(found)


def _device(torch: Any) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
