"""Stages asked of simulated models in one process: what the tests of calibration run their hundreds of rows with."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from synthpref.core.seam import Completion, Request
from synthpref.core.stage import RowStage
from synthpref.core.template import Prompts
from synthpref.core.types import Row, Sample
from synthpref.engine.prompts import prompt_source
from synthpref.models import world
from synthpref.models.simulated import Simulated, answers
from synthpref.testing import FunctionAsk

PROMPTS = Prompts(prompt_source())


class Bench(FunctionAsk):
    """An Ask whose roles are simulated models; draws differ from row to row, as they do in a run."""

    def __init__(self, roles: Mapping[str, Simulated], row_id: str, seed: int) -> None:
        super().__init__(lambda _: [], row_id)
        self.rng = random.Random(f"{row_id} {seed}")
        self._prompts = PROMPTS
        self.roles, self.seed = roles, seed
        self.asked: Counter[str] = Counter()

    async def _send(self, model: str, request: Request) -> list[Completion]:
        self.requests.append((model, request))
        known = f"{model} {request.messages}"
        before = self.asked[known]
        self.asked[known] += request.n
        return answers(self.roles[model], replace(request, seed=1_000_003 * self.seed + before))


def pairs(count: int, spread: float = 0.5, seed: int = 0, samples: int = 2) -> list[Row]:
    """Rows whose samples have qualities drawn from a normal distribution with this spread, cut at 1.5."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        prompt = f"What should somebody new to it know about trade number {number}?"
        wanted = [max(-1.5, min(1.5, rng.gauss(0, spread))) for _ in range(samples)]
        texts = [world.compose(prompt, target, 100, rng) for target in wanted]
        made = tuple(Sample(text, model=f"policy-{i}", finish_reason="stop") for i, text in enumerate(texts))
        rows.append(Row(id=f"{number:05}", prompt=({"role": "user", "content": prompt},), samples=made))
    return rows


def asked(stage: RowStage, rows: Sequence[Row], roles: Mapping[str, Simulated], seed: int = 0) -> list[Row]:
    """The rows after the stage."""

    async def every() -> list[Row]:
        made = [await stage.run(row, Bench(roles, row.id, seed)) for row in rows]
        assert all(isinstance(row, Row) for row in made)
        return [row for row in made if isinstance(row, Row)]

    return asyncio.run(every())


def quality(row: Row) -> list[float]:
    """The true quality of each sample."""
    return [world.quality(sample.text) for sample in row.samples]
