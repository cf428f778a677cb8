"""Several engines as one endpoint. On a CPU they have no devices of their own, but are as many."""

from __future__ import annotations

import asyncio
import os

import pytest

from room import QUESTION, SMALL, Room
from synthpref.core.seam import Request
from synthpref.models.vllm import VLLM


def test_two_engines_serve_as_one(room: Room, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("there are devices, of which each engine wants its own")
    backend = room.open(VLLM(model=policy, engine=SMALL, engines=2))
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
    room.close()
