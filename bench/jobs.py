"""The one job that is measured, written twice: as a bare loop, and as a recipe.

For each prompt one request for four answers, then one that judges them all. The bare loop is aiohttp, orjson and a
semaphore: no journal, no retries, no adaptive limit, no check of what came back, no dataset. It reads just what the
second request needs of the first answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SAMPLES = 4
REQUESTS = 2
"""Requests for one row."""

JUDGE = '''
import json
from synthpref import Role, RowStage, Score


class Judge(RowStage):
    """One call for all samples of a row."""

    model: Role

    def gives(self):
        return {"score:s"}

    async def run(self, row, ask):
        texts = "\\n".join(s.text for s in row.samples)
        await ask([{"role": "user", "content": f"{row.prompt_text}\\n{texts}"}], model=self.model)
        return row.scored("s", [Score(float(json.loads(s.text)["score"])) for s in row.samples])


STAGES = {"bench.judge": Judge}
'''
"""The stage that judges: a plugin, because each judge that ships asks once for each sample or each pair."""


def prompts(count: int) -> Iterator[str]:
    """Different prompts, each on a line of its own, so that the endpoint can tell the rows apart."""
    return (f"Question {i}: what follows from the number {i * 7919 % 10007}?" for i in range(count))


def write_source(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": text}) + "\n" for text in prompts(count))


def write_recipe(
    folder: Path, url: str, rows: int, *, slots: int, pair: dict[str, Any] | None = None, name: str = "bench"
) -> Path:
    """The job as a recipe in `folder`, with its source and its stage; the path of the recipe."""
    folder.mkdir(exist_ok=True)
    tree = {
        "name": "bench",
        "plugins": ["stage.py"],
        "models": {"m": {"backend": "openai", "model": "m", "base_url": url, "concurrency": slots}},
        "source": {"path": "prompts.jsonl"},
        "stages": [
            {"sample.n": {"model": "m", "n": SAMPLES}},
            {"bench.judge": {"model": "m"}},
            pair or {"pair.extremes": {"score": "s"}},
        ],
    }
    (folder / "stage.py").write_text(JUDGE, encoding="utf-8")
    write_source(folder / "prompts.jsonl", rows)
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def bare(url: str, rows: int, slots: int) -> None:
    """The bare loop."""
    asyncio.run(_bare(url, rows, slots))


async def _bare(url: str, rows: int, slots: int) -> None:
    # Imported here: the processes that only start others stay small, and what they start is what is measured.
    import aiohttp
    import orjson

    gate = asyncio.Semaphore(slots)
    headers = {"Content-Type": "application/json"}

    async def post(session: aiohttp.ClientSession, body: dict[str, Any]) -> Any:
        data = orjson.dumps(body)
        async with gate, session.post(f"{url}/chat/completions", data=data, headers=headers) as answer:
            return orjson.loads(await answer.read())

    async def row(session: aiohttp.ClientSession, prompt: str) -> None:
        made = await post(
            session, {"model": "m", "n": SAMPLES, "messages": [{"role": "user", "content": prompt}]}
        )
        texts = "\n".join(choice["message"]["content"] for choice in made["choices"])
        await post(session, {"model": "m", "messages": [{"role": "user", "content": f"{prompt}\n{texts}"}]})

    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(row(session, prompt) for prompt in prompts(rows)))


def ours(recipe: Path) -> int:
    """The same by synthpref: check the recipe, run it, write the dataset. The records written."""
    from synthpref import job

    result = job.run(job.load(recipe), recipe.parent / "run")
    if result.stopped or not result.records:
        raise RuntimeError(f"the run did not come through: {result}")
    return result.records
