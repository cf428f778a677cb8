"""What plugin authors test with: run one stage on rows, with answers from a plain function.

def answer(request: Request) -> list[str]:
    return ["SCORE: 7"] * request.n

rows = run_stage(MyJudge(model="judge"), [row("What is 2+2?", "4", "5")], answer)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, get_args

from synthpref.core.seam import Capability, Completion, ModelInfo, Request, RequestAsk
from synthpref.core.stage import Barrier, RowStage, Stage
from synthpref.core.template import Prompts
from synthpref.core.thinking import read_completion
from synthpref.core.types import Drop, Message, Note, Row, Sample
from synthpref.engine.kept import kept_rows
from synthpref.engine.prompts import prompt_source

Answer = Callable[[Request], Sequence[str | Completion]]
EVERYTHING: frozenset[Capability] = frozenset(get_args(Capability))


@cache
def _shipped() -> Prompts:
    """The templates that come with the package, read and compiled once."""
    return Prompts(prompt_source())


def row(prompt: str, *responses: str, id: str = "row-1", **fields: Any) -> Row:
    """A row with one user message and a sample for each response."""
    samples = tuple(Sample(text, model="test", finish_reason="stop") for text in responses)
    return Row(id=id, prompt=({"role": "user", "content": prompt},), samples=samples, **fields)


class FunctionAsk(RequestAsk):
    """An Ask that a function answers. `requests` keeps what was asked, in order."""

    def __init__(
        self, answer: Answer, row_id: str = "row-1", able: frozenset[Capability] = EVERYTHING
    ) -> None:
        self.rng = random.Random(row_id)
        self.requests: list[tuple[str, Request]] = []
        self._answer = answer
        self._able = able
        self._prompts = _shipped()

    async def _send(self, model: str, request: Request) -> list[Completion]:
        self.requests.append((model, request))
        replies = self._answer(request)
        made = [Completion(text=r, finish_reason="stop") if isinstance(r, str) else r for r in replies]
        return [read_completion(completion) for completion in made]

    def prompt(self, name: str, **values: Any) -> list[Message]:
        return self._prompts.render(name, values)

    def info(self, model: str) -> ModelInfo:
        return ModelInfo(name=model, able=self._able)


def run_stage(
    stage: Stage,
    rows: Sequence[Row],
    answer: Answer | None = None,
    *,
    able: frozenset[Capability] = EVERYTHING,
) -> list[Row | Drop]:
    """What the stage makes of the rows, all its parts one after the other; a Drop stands for a row that left.

    `answer` gets each Request and returns its texts (or Completions). Errors of the stage are raised.
    """

    def refuse(request: Request) -> Sequence[str]:
        raise AssertionError(f"the stage asked a model, but no answer was given: {request.messages[-1]}")

    going, left = list(rows), list[Row | Drop]()
    for part in stage.expand():
        out: list[Row | tuple[Row, Drop] | Drop] = []
        if isinstance(part, RowStage):
            for one in going:
                came = kept_rows(asyncio.run(part.run(one, FunctionAsk(answer or refuse, one.id, able))))
                out += came if isinstance(came, list) else [came]
        elif isinstance(part, Barrier):
            made = part.run(sorted(going, key=lambda r: r.id), random.Random(0))
            out += [item for item in made if not isinstance(item, Note)]
        going = [item for item in out if isinstance(item, Row)]
        left += [item[1] if isinstance(item, tuple) else item for item in out if not isinstance(item, Row)]
    return [*going, *left]
