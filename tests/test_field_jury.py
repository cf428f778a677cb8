"""Juries of six real judges, by their recorded verdicts on pairs with gold labels, in both orders."""

from __future__ import annotations

import asyncio
import random
from functools import cache
from itertools import combinations
from statistics import mean, multimode
from typing import Any

import pytest

import field
from synthpref.core.seam import Completion, Request
from synthpref.core.stage import Barrier
from synthpref.core.template import fenced
from synthpref.core.types import Row
from synthpref.core.verdicts import leaning
from synthpref.core.votes import Rule
from synthpref.stages.jury_pair import JuryPair
from synthpref.stages.weighing import juror_verdict
from synthpref.testing import FunctionAsk, row

pytestmark = pytest.mark.field

JUDGES = ("ChatGPT", "ChatGPT-0301", "Falcon", "GPT-4", "LLaMA2", "PaLM2")
SHARE = {"a": 1.0, "b": 0.0}


@cache
def pairs() -> dict[str, dict[str, Any]]:
    return {record["id"]: record for record in field.records("llmbar/pairs.jsonl.gz")}


@cache
def verdicts() -> dict[tuple[str, str], dict[str, Any]]:
    """What each judge said of each pair in the two orders, for the plainest way of asking."""
    found = field.records("llmbar/judgments.jsonl.gz")
    return {(r["id"], r["judge"]): r for r in found if r["strategy"] == "Vanilla"}


class Recorded(FunctionAsk):
    """Each role says what it said then: of the order in which the two are shown."""

    def __init__(self, record: dict[str, Any]) -> None:
        super().__init__(lambda _: [], record["id"])
        self.record = record

    async def _send(self, model: str, request: Request) -> list[Completion]:
        self.requests.append((model, request))
        first = dict(fenced(request.messages[-1]["content"]))["response A"]
        order = "ab" if first == self.record["response_a"] else "ba"
        winner = verdicts()[self.record["id"], model][order]
        letter = {None: "nobody", order[0]: "A", order[1]: "B"}[winner]
        return [Completion(text=f"Winner: {letter}", finish_reason="stop")]


def judged(only: str = "", **fields: Any) -> tuple[list[Row], int]:
    """All pairs, or those with `only` in their name, judged by the six; and how many questions that took."""
    stage = JuryPair.model_validate({"judges": JUDGES, "again": 0, **fields})
    asks = [Recorded(record) for record in pairs().values() if only in record["id"]]

    async def every() -> list[Row]:
        made = []
        for ask in asks:
            texts = [ask.record[name] for name in ("prompt", "response_a", "response_b")]
            made.append(await stage.run(row(*texts, id=ask.record["id"]), ask))
        return made

    made = asyncio.run(every())
    asked = sum(len(ask.requests) for ask in asks)
    for part in stage.expand()[1:]:
        assert isinstance(part, Barrier)
        made = [one for one in part.run(made, random.Random(0)) if isinstance(one, Row)]
    return made, asked


def outcomes(made: list[Row]) -> list[float | None]:
    return [one.comparisons[0].p for one in made]


def accuracy(made: list[Row]) -> float:
    """The share of the pairs with the gold label, a tie as half; a probability counts for its side."""
    found = []
    for one, p in zip(made, outcomes(made), strict=True):
        side = 0.5 if p is None else leaning(p)
        found.append(1 - abs(side - SHARE[pairs()[one.id]["label"]]))
    return mean(found)


def by_hand(record: dict[str, Any], jury: tuple[str, ...]) -> float | None:
    """The unique mode of the judges' winners, where both orders of a judge agree; else a tie."""
    said = []
    for judge in jury:
        both = [verdicts()[record["id"], judge][order] for order in ("ab", "ba")]
        if None not in both:
            said.append(SHARE[both[0]] if both[0] == both[1] else 0.5)
    most = multimode(said)
    return None if not said else most[0] if len(most) == 1 else 0.5


def test_every_jury_of_the_six_says_what_counting_by_hand_says() -> None:
    made, asked = judged(reducer="multimode")
    assert asked == 419 * 6 * 2
    assert outcomes(made) == [by_hand(record, JUDGES) for record in pairs().values()]
    rule = Rule("multimode", "tie")
    for size in range(2, 6):
        for jury in combinations(JUDGES, size):
            for one, record in zip(made, pairs().values(), strict=True):
                votes = one.comparisons[0].votes
                cast = (
                    juror_verdict([v for v in votes if v.role == judge], "tie", by_majority=False)
                    for judge in jury
                )
                assert rule.outcome([v for v in cast if v is not None]) == by_hand(record, jury)


@pytest.mark.parametrize(
    ("reducer", "tie"), [("multimode", "tie"), ("majority", "tie"), ("majority", "abstain")]
)
def test_stopping_early_says_the_same_of_every_pair_and_saves_calls(reducer: str, tie: str) -> None:
    whole, all_asked = judged(reducer=reducer, tie=tie)
    early, asked = judged(reducer=reducer, tie=tie, stop_early=True)
    assert outcomes(early) == outcomes(whole)
    silent = sum(not vote.asked for one in early for vote in one.comparisons[0].votes)
    assert asked + silent == all_asked
    assert 0.5 < asked / all_asked < 0.95


def test_weighing_helps_where_judges_err_apart_and_hurts_where_they_err_alike() -> None:
    """Dawid and Skene's jurors err independently. On the natural pairs the six do so well enough; the adversarial
    ones were made to fool judges, and four of six are wrong more often than not: the two that are right disagree
    with the others, and are taken for unreliable."""
    right, trust = {}, {}
    for part in ("Natural", "Adversarial"):
        for reducer in ("dawid_skene", "majority"):
            made, _ = judged(part, reducer=reducer)
            right[part, reducer] = accuracy(made)
            if reducer == "dawid_skene":
                trust[part] = {v.role: v.reliability or 0.0 for v in made[0].comparisons[0].votes}
    assert right["Natural", "dawid_skene"] >= right["Natural", "majority"] > 0.8
    assert right["Adversarial", "dawid_skene"] < right["Adversarial", "majority"] < 0.5
    assert min(trust["Natural"], key=trust["Natural"].__getitem__) == "Falcon"
    assert min(trust["Adversarial"], key=trust["Adversarial"].__getitem__) == "GPT-4"
