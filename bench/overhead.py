"""How much longer a run takes than a bare loop that sends the same requests: ratios, measured in turn.

The endpoint runs in a process of its own: SLOTS answers at once, log-normal latency. The bare loop is aiohttp and a
semaphore: no journal, no retries, no parsing, no dataset. Each round times the bare loop, then synthpref, journal
and export included.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

SLOTS, LATENCY_S, SPREAD = 64, 0.05, 0.4


def serve(port: int) -> None:
    """The endpoint. An answer depends on what is asked; how long it takes does not."""
    slots = asyncio.Semaphore(SLOTS)
    luck = random.Random(0)
    busy = {"s": 0.0}

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        async with slots:
            takes = luck.lognormvariate(math.log(LATENCY_S) - SPREAD**2 / 2, SPREAD)
            busy["s"] += takes
            await asyncio.sleep(takes)
        last = body["messages"][-1]["content"]
        choices = []
        for i in range(body.get("n", 1)):
            draw = hashlib.sha256(f"{last}{body.get('seed')}{i}".encode()).hexdigest()
            text = json.dumps({"reasoning": draw, "score": 1 + int(draw, 16) % 100})
            choices.append(
                {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            )
        return web.json_response({"choices": choices, "usage": {"prompt_tokens": 9, "completion_tokens": 9}})

    async def spent(request: web.Request) -> web.Response:
        return web.json_response(busy)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/busy", spent)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


def prompts(count: int) -> list[str]:
    return [f"Question {i}: what follows from the number {i * 7919 % 10007}?" for i in range(count)]


async def bare(url: str, count: int) -> None:
    """For each prompt one request for 4 answers and one that judges them all, as the recipe's."""
    gate = asyncio.Semaphore(SLOTS)

    async def post(session: aiohttp.ClientSession, body: dict[str, Any]) -> Any:
        async with gate, session.post(f"{url}/chat/completions", json=body) as answer:
            return await answer.json()

    async def row(session: aiohttp.ClientSession, prompt: str) -> None:
        made = await post(session, {"model": "m", "n": 4, "messages": [{"role": "user", "content": prompt}]})
        texts = "\n".join(choice["message"]["content"] for choice in made["choices"])
        await post(session, {"model": "m", "messages": [{"role": "user", "content": f"{prompt}\n{texts}"}]})

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(row(session, prompt) for prompt in prompts(count)))


STAGE = '''
import json
from synthpref import Role, RowStage, Score


class Judge(RowStage):
    """One call for all samples of a row."""

    model: Role

    def gives(self):
        return {"score:s"}

    async def run(self, row, ask):
        texts = "\\n".join(s.text for s in row.samples)
        (reply,) = await ask([{"role": "user", "content": f"{row.prompt_text}\\n{texts}"}], model=self.model)
        return row.scored("s", [Score(float(json.loads(s.text)["score"])) for s in row.samples])


STAGES = {"bench.judge": Judge}
'''


def ours(url: str, count: int, folder: Path) -> None:
    from synthpref import job

    tree = {
        "name": "bench",
        "plugins": ["stage.py"],
        "models": {"m": {"backend": "openai", "model": "m", "base_url": url, "concurrency": SLOTS}},
        "source": {"rows": prompts(count)},
        "stages": [
            {"sample.n": {"model": "m", "n": 4}},
            {"bench.judge": {"model": "m"}},
            {"pair.extremes": {"score": "s"}},
        ],
    }
    (folder / "stage.py").write_text(STAGE, encoding="utf-8")
    (folder / "recipe.yaml").write_text(json.dumps(tree), encoding="utf-8")
    result = job.run(job.load(folder / "recipe.yaml"), folder / "run")
    assert result.books.exported == count, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=int)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(port)])
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(100):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        ratios = []
        for number in range(options.rounds):
            start = time.perf_counter()
            asyncio.run(bare(url, options.rows))
            middle = time.perf_counter()
            folder = Path(tempfile.mkdtemp())
            ours(url, options.rows, folder)
            end = time.perf_counter()
            shutil.rmtree(folder)
            ratios.append((end - middle) / (middle - start))
            print(
                f"round {number + 1}: bare {middle - start:.2f} s, synthpref {end - middle:.2f} s, ratio {ratios[-1]:.2f}"
            )
        floor = options.rows * 2 * LATENCY_S / SLOTS
        print(f"{options.rows} rows x 2 requests at {SLOTS} slots x {LATENCY_S:g} s (at least {floor:.1f} s)")
        print(f"synthpref / bare loop: median {statistics.median(ratios):.2f} of {options.rounds} rounds")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
