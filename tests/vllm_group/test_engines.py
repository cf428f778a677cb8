"""Several engines as one endpoint. On a CPU they have no devices of their own, but are as many."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from room import QUESTION, SMALL, Room
from synthpref.core.seam import Request
from synthpref.models import vllm_read
from synthpref.models.pool import Pool
from synthpref.models.vllm import VLLM

# A block of its cache has 128 tokens on a CPU.
ENGINE = SMALL | {"max_model_len": 512, "enable_prefix_caching": True}


def test_two_engines_serve_as_one(room: Room, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("there are devices, of which each engine wants its own")
    backend = room.open(VLLM(model=policy, engine=ENGINE, engines=2))
    requests = [Request(messages=QUESTION, n=4, seed=i, temperature=1.0, max_tokens=20) for i in range(24)]
    busy = [0, 0]

    async def crowd() -> list[str]:
        asked = asyncio.gather(*map(backend.complete, requests))
        while not asked.done():
            for i, engine in enumerate(room.engines()):
                if engine._running is not None:
                    busy[i] = max(busy[i], engine._running.get_num_unfinished_requests())
            await asyncio.sleep(0.002)
        return [answer.text for answers in await asked for answer in answers]

    together = room.run(crowd())
    assert min(busy) >= 4, "both were at work"
    one = room.run(room.opened[0].complete(requests[7]))
    assert [a.text for a in one] == together[28:32], "whichever of them answers"
    hits = {name: cached(room, pool, marks) for name, pool, marks in (
        ("without", Pool(backend.endpoints), "abcdefgh"), ("with", backend, "ijklmnop"),
    )}  # fmt: skip
    print(f"tokens of prompts that were in a cache: {hits}")
    assert hits["with"] > hits["without"], hits
    room.close()


def cached(room: Room, pool: Any, marks: str) -> float:
    """The share of the prompts' tokens that an engine has read before, of requests with eight beginnings."""
    seen = list[tuple[int, int]]()
    plain = vllm_read.completions

    def noted(output: Any, *words: Any) -> Any:
        seen.append((output.num_cached_tokens or 0, len(output.prompt_token_ids)))
        return plain(output, *words)

    def request(mark: str, i: int) -> Request:
        said = {"role": "user", "content": f"{mark}{i % 4}"}
        return Request(
            messages=({"role": "system", "content": f"{mark} the sky is blue because " * 40}, said),
            n=1, seed=i, temperature=1.0, max_tokens=2,
        )  # fmt: skip

    async def crowd() -> None:
        # As many at once as the engines take, and each time another order.
        for i in range(6):
            order = random.Random(i).sample(marks, len(marks))
            await asyncio.gather(*(pool.complete(request(mark, i)) for mark in order))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_read, "completions", noted)
        room.run(crowd())
    assert len(seen) == 6 * len(marks)
    return sum(hit for hit, _ in seen) / sum(of for _, of in seen)
