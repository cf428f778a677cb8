"""The bare loop: aiohttp and a semaphore; no journal, no retries, no reading of what comes back, no dataset."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

import aiohttp


async def loop(url: str, slots: int, prompts: list[str]) -> None:
    gate = asyncio.Semaphore(slots)

    async def post(session: aiohttp.ClientSession, content: str, **fields: Any) -> list[str]:
        body = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
        async with gate, session.post(f"{url}/chat/completions", json=body) as answer:
            return [choice["message"]["content"] for choice in (await answer.json())["choices"]]

    async def row(session: aiohttp.ClientSession, prompt: str) -> None:
        texts = await post(session, prompt, n=4)
        await post(session, "\n".join([prompt, *texts]))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(row(session, prompt) for prompt in prompts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--slots", type=int)
    options = parser.parse_args()
    asyncio.run(loop(options.url, options.slots, options.prompts.read_text(encoding="utf-8").splitlines()))


if __name__ == "__main__":
    main()
