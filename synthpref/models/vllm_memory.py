"""Which engine argument to change when memory was too little: by what vLLM or torch said, and what it was doing then.

The texts are those of vLLM 0.32 and of torch 2.13.
"""

from __future__ import annotations

import re

_SAID: tuple[tuple[str, str], ...] = (
    (
        r"Free memory on device|Available memory on node .* on startup",
        "something else holds the memory: lower engine.gpu_memory_utilization, end the other program, or, where it is "
        "another model of the recipe, give both `placement: in_turn`",
    ),
    (
        r"Available memory on node .* kv cache allocation",
        "lower engine.kv_cache_memory_bytes, or VLLM_CPU_KVCACHE_SPACE in the environment",
    ),
    (
        r"No available memory for the cache blocks",
        "the weights leave no room: raise engine.gpu_memory_utilization (engine.kv_cache_memory_bytes where that is "
        "given; on a CPU VLLM_CPU_KVCACHE_SPACE) or engine.tensor_parallel_size, or take a quantized model",
    ),
    (
        r"KV cache is needed|larger than the (?:available|maximum number of tokens)",
        "lower engine.max_model_len{most}, or raise engine.gpu_memory_utilization, engine.kv_cache_memory_bytes or "
        "engine.tensor_parallel_size (on a CPU: VLLM_CPU_KVCACHE_SPACE)",
    ),
    (r"warming up (?:sampler|pooler)", "lower engine.max_num_seqs or engine.gpu_memory_utilization"),
)
"""What is said, and what helps."""

_DOING: tuple[tuple[str, str], ...] = (
    (
        r"initialize_kv_cache|allocate_kv_cache",
        "lower engine.gpu_memory_utilization, which leaves more beside the cache (on a CPU: VLLM_CPU_KVCACHE_SPACE)",
    ),
    (
        r"capture_model|cuda_?graph",
        "lower engine.gpu_memory_utilization or engine.max_num_seqs, or set engine.enforce_eager: true",
    ),
    (r"profile_run|_dummy_run", "lower engine.max_num_batched_tokens or engine.max_num_seqs"),
    (
        r"load_model|create_weights|load_weights",
        "the weights do not fit: raise engine.tensor_parallel_size, take a quantized model (engine.quantization), or "
        "set engine.cpu_offload_gb",
    ),
    (r"execute_model|sample_tokens", "lower engine.gpu_memory_utilization or engine.max_num_batched_tokens"),
)
"""The innermost of these in a traceback that ends in one of _OUT, and what helps."""

_OUT = re.compile(
    r"OutOfMemoryError|out of memory|MemoryError|can't allocate memory|not enough memory|Cannot allocate memory",
    re.I,
)
_MOST = re.compile(r"estimated maximum model length is (\d+)")
ELSE = "lower engine.max_model_len or engine.max_num_seqs, or take a smaller or a quantized model"


def advice(cause: str, log: str = "") -> str:
    """What helps, where `cause` says that memory was too little, else "". `log` has the traceback."""
    for pattern, fix in _SAID:
        if re.search(pattern, cause, re.I):
            most = _MOST.search(cause)
            return fix.format(most=f" to {most[1]} or less" if most else "")
    if not _OUT.search(cause):
        return ""
    # Up to where it was raised: what comes after it in the log are tracebacks of those who waited.
    before = log[: found.start()] if (found := _OUT.search(log)) else log
    last = {fix: [m.start() for m in re.finditer(pattern, before)] for pattern, fix in _DOING}
    placed = {places[-1]: fix for fix, places in last.items() if places}
    return placed[max(placed)] if placed else ELSE
