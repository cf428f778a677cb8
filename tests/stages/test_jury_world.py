"""Juries in a world where the truth is known: what weighing jurors, stopping early and a debate are worth. What more
jurors are worth is in test_calibration.py."""

from __future__ import annotations

import asyncio
import random
from functools import cache
from statistics import mean
from typing import Any

import pytest
from judges import Simulating

from synthpref.core.seam import Completion, Request
from synthpref.core.stage import Barrier
from synthpref.core.types import Row
from synthpref.models.simulated import Simulated, answers, quality
from synthpref.stages.debate import Debate
from synthpref.stages.jury_pair import JuryPair
from synthpref.testing import row

JURORS = tuple(f"juror {i}" for i in range(5))


@cache
def rows(count: int) -> list[Row]:
    """Rows with two responses by an ordinary policy."""
    policy = Simulated(model="policy", length=30)
    made = []
    for n in range(count):
        prompt = f"How does heat pump {n} work?"
        request = Request(messages=({"role": "user", "content": prompt},), n=2, seed=100 * n)
        texts = [c.text for c in answers(policy, request)]
        if abs(quality(texts[0]) - quality(texts[1])) > 1e-9:
            made.append(row(prompt, *texts, id=f"row-{n:04}"))
    return made


class Jurors(Simulating):
    """Each role is a simulated model of its own."""

    def __init__(self, specs: dict[str, Simulated], row_id: str) -> None:
        super().__init__(next(iter(specs.values())), row_id)
        self.specs = specs

    async def _send(self, model: str, request: Request) -> list[Completion]:
        self.spec = self.specs[model]
        return await super()._send(model, request)


def judged(stage: Any, specs: dict[str, Simulated], given: list[Row]) -> tuple[list[Row], int]:
    """The rows with their comparisons, and how many requests that took."""

    async def all_rows() -> tuple[list[Row], int]:
        made, requests = [], 0
        for one in given:
            ask = Jurors(specs, one.id)
            made.append(await stage.run(one, ask))
            requests += len(ask.requests)
        return made, requests

    made, requests = asyncio.run(all_rows())
    for part in stage.expand()[1:]:
        assert isinstance(part, Barrier)
        made = [one for one in part.run(made, random.Random(0)) if isinstance(one, Row)]
    return made, requests


def truth(one: Row) -> float:
    return float(quality(one.samples[0].text) > quality(one.samples[1].text))


def outcomes(made: list[Row], name: str = "voted") -> list[float]:
    return [next(c.p or 0.0 for c in one.comparisons if c.name == name) for one in made]


def alike(noise: float) -> dict[str, Simulated]:
    return {name: Simulated(model=name, noise=noise) for name in JURORS}


def test_weighing_jurors_by_their_votes_beats_counting_them() -> None:
    specs = {
        name: Simulated(model=name, noise=noise)
        for name, noise in zip(JURORS, (0.2, 0.4, 6, 6, 6), strict=True)
    }
    given = rows(160)
    right = {}
    for reducer in ("majority", "dawid_skene"):
        stage = JuryPair(judges=JURORS, swap=False, ties=False, reducer=reducer)  # type: ignore[arg-type]
        made, _ = judged(stage, specs, given)
        right[reducer] = mean((p > 0.5) == truth(one) for p, one in zip(outcomes(made), made, strict=True))
    trust = {v.role: v.reliability or 0.0 for v in made[0].comparisons[0].votes}
    assert min(trust[name] for name in JURORS[:2]) > max(trust[name] for name in JURORS[2:]) + 0.1
    assert right["dawid_skene"] > right["majority"] + 0.03, right


@pytest.mark.parametrize("reducer", ["majority", "multimode"])
def test_stopping_early_ends_the_same_and_costs_less(reducer: Any) -> None:
    given = rows(80)
    specs = alike(0.5)
    whole, all_asked = judged(JuryPair(judges=JURORS, reducer=reducer), specs, given)
    early, asked = judged(JuryPair(judges=JURORS, reducer=reducer, stop_early=True), specs, given)
    assert outcomes(early) == outcomes(whole)
    assert [one.values("voted") for one in early] == [one.values("voted") for one in whole]
    silent = sum(not v.asked for one in early for v in one.comparisons[0].votes)
    assert asked + silent == all_asked == 80 * 5 * 2
    assert asked < 0.8 * all_asked


def test_a_debate_is_right_more_often_than_one_of_those_who_debate() -> None:
    given = rows(100)
    made, _ = judged(
        Debate(judges=("m",), rounds=1, about="pair"), {"m": Simulated(model="m", noise=2)}, given
    )
    votes = [abs((v.value or 0.0) - truth(one)) for one in made for v in one.comparisons[0].votes]
    whole = [abs(p - truth(one)) for p, one in zip(outcomes(made, "debated"), made, strict=True)]
    assert mean(whole) < mean(votes) - 0.05, (mean(whole), mean(votes))
