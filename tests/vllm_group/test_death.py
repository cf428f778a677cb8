"""Engines that are killed, and runs that are."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from room import QUESTION, SMALL, Room
from synthpref.core.errors import BackendError
from synthpref.core.seam import Request
from synthpref.models.vllm import VLLM
from synthpref.models.vllm_child import is_engine
from synthpref.models.vllm_engine import family


def engine_process() -> Any:
    (found,) = [p for p in multiprocessing.active_children() if is_engine(p.name)]
    return found


def alive(pid: int) -> bool:
    """Whether there is such a process; one that nobody has waited for is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, within_s: float = 60) -> bool:
    until = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pid)


def test_an_engine_that_is_killed_is_started_again_and_asked_again_once(room: Room, policy: str) -> None:
    backend = room.open(VLLM(model=policy, engine=SMALL))

    def request(seed: int) -> Request:
        return Request(messages=QUESTION, n=4, seed=seed, temperature=1.0, max_tokens=200)

    async def killed_under_way() -> list[Any]:
        (engine,) = [e._running for e in room.engines()]
        calls = [asyncio.create_task(backend.complete(request(seed))) for seed in (1, 9, 20)]
        while not engine.get_num_unfinished_requests():  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0.001)
        os.kill(engine_process().pid, signal.SIGKILL)
        return await asyncio.gather(*calls, return_exceptions=True)

    before = room.run(backend.complete(request(1)))
    first = engine_process().pid
    blocked = int(Path(f"/proc/{first}/status").read_text("utf-8").split("SigBlk:")[1].split()[0], 16)
    assert blocked & 1 << signal.SIGINT - 1, "Ctrl-C is for the run"
    family_before = family({first})
    assert first in family_before
    assert len(family_before) > 1, "it has a worker"
    after = room.run(killed_under_way())
    assert [a.text for a in after[0]] == [a.text for a in before]
    assert all(len(answers) == 4 for answers in after)
    assert not any(alive(pid) for pid in family_before), "its workers are gone before the next one starts"
    second = engine_process().pid
    assert second != first
    ended = room.run(killed_under_way())
    assert all(isinstance(e, BackendError) and e.kind == "unsupported" for e in ended), ended
    assert "died again" in str(ended[0])
    room.close()
    assert gone(first, 1)
    assert gone(second, 1)


ABANDON = """
import asyncio, multiprocessing, sys, time
from synthpref.core.seam import Request
from synthpref.models.vllm import VLLM

async def main():
    backend = VLLM(model=sys.argv[1], engine={engine!r}).open({{}})
    await backend.complete(Request(messages=({{"role": "user", "content": "hi"}},), max_tokens=2))
    print(*(p.pid for p in multiprocessing.active_children()), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_run_that_is_killed_leaves_no_engine_behind(policy: str, tmp_path: Path) -> None:
    script = tmp_path / "abandon.py"
    script.write_text(ABANDON.format(engine=SMALL), encoding="utf-8")
    with subprocess.Popen([sys.executable, script, policy], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = next(text for text in process.stdout if text.split() and text.split()[0].isdigit())
        pids = [int(word) for word in line.split()]
        assert all(alive(pid) for pid in pids)
        process.kill()
    assert pids
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize(
    ("fields", "cache", "said"),
    [
        ({"max_model_len": 100_000_000}, "1", "max_model_len"),
        (
            {"kv_cache_memory_bytes": 4096},
            None,
            r"raise engine\.gpu_memory_utilization \(engine\.kv_cache_mem",
        ),
        ({"max_num_seqs": 3}, "100000", r"lower engine\.kv_cache_memory_bytes, or VLLM_CPU_KVCACHE_SPACE"),
        ({"model": "/nowhere/at/all"}, "1", "did not start"),
    ],
)
def test_an_engine_that_cannot_start_says_what_to_change(
    room: Room,
    policy: str,
    fields: dict[str, Any],
    cache: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It counts more than the argument.
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    if cache:
        monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", cache)
    model, rest = fields.get("model", policy), {k: v for k, v in fields.items() if k != "model"}
    backend = room.open(VLLM(model=model, engine=SMALL | rest))
    with pytest.raises(BackendError, match=said) as caught:
        room.ask(backend)
    assert caught.value.kind == "unsupported", "the run stops"
    room.close()
