"""A server that answers by path: under /NAME/v1 as the function NAME says, under /ok/v1 as a good policy or judge.

A good policy gives "An answer with quality=Q and id X.", with Q drawn by the request's seed; a good judge reads Q.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from wire import Server

Body = dict[str, Any]
Script = Callable[[Body, int], "web.StreamResponse | Body"]
"""Given the request's body and its number under this name: the response, or the JSON of one with status 200."""


def completion(*texts: str, finish: Any = "stop", **more: Any) -> Body:
    """An answer to /chat/completions with a choice for each text."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 10, "completion_tokens": 8 * len(texts), "total_tokens": 10 + 8 * len(texts)}
    return {
        "id": "c",
        "object": "chat.completion",
        "model": "m-test",
        "choices": choices,
        "usage": usage,
        **more,
    }


def quality(text: str) -> int:
    """The quality that the last answer in a text has."""
    return int(re.findall(r"quality=(\d+)", text)[-1])


def good(body: Body, number: int = 0) -> Body:
    """What a good endpoint answers to the request."""
    asked = "\n".join(str(message["content"]) for message in body["messages"])
    if "quality=" in asked:
        # A judge of one answer, or of two that are told apart by their labels.
        both = re.findall(r"quality=(\d+)", asked)
        if "winner" in asked and len(both) > 1:
            first, second = map(int, both[-2:])
            verdict: Body = {"reasoning": "seen", "winner": "A" if first > second else "B"}
        elif "paragraph" in asked:
            return completion("The first is of a higher quality.")
        else:
            verdict = {"reasoning": "seen", "score": quality(asked)}
        return completion(*[json.dumps(verdict)] * body.get("n", 1))
    # By the seed, so that answers with neighbouring seeds are of different quality.
    seeds = [body.get("seed", 0) + i for i in range(body.get("n", 1))]
    return completion(*(f"An answer with quality={seed % 10 + 1} and id {seed}." for seed in seeds))


@dataclass
class Replay(Server):
    """The server. `asked` holds the bodies of the requests by name."""

    scripts: dict[str, Script] = field(default_factory=dict)
    asked: defaultdict[str, list[Body]] = field(default_factory=lambda: defaultdict(list))

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/{name}/v1/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        body = json.loads(await request.read())
        number = len(self.asked[name])
        self.asked[name].append(body)
        self.requests += 1
        made = self.scripts.get(name, good)(body, number)
        return made if isinstance(made, web.StreamResponse) else web.json_response(made)
