"""Reservations: what is spent and reserved never passes a cap, everybody gets a turn or the run stops."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Scripted

import virtual_time
from synthpref.core.seam import Completion, Price, Request
from synthpref.core.tokens import counted, prompt_tokens_of
from synthpref.core.types import Usage
from synthpref.engine.budget import NONE, PROBE_TOKENS, Amount, Budget, caps_of
from synthpref.engine.recipe import Limits
from synthpref.engine.shares import Shares, State, share_of

SPEC = Scripted(model="m", price=Price(input=1e6, output=1e6))


def request(n: int = 1, max_tokens: int | None = None, priority: int = 0, text: str = "q") -> Request:
    messages = ({"role": "user", "content": text},)
    return Request(messages=messages, n=n, max_tokens=max_tokens, priority=priority)


@dataclass
class Job:
    """A call: what it may use and what it does use."""

    n: int
    bound: int | None
    prompt: int
    each: int
    seconds: int
    role: str
    outcome: str = "answered"


JOBS = st.builds(
    Job,
    n=st.integers(1, 4),
    bound=st.none() | st.integers(1, 50),
    prompt=st.integers(0, 60),
    each=st.integers(0, 50),
    seconds=st.integers(1, 5),
    role=st.sampled_from(["policy", "judge"]),
    outcome=st.sampled_from(["answered"] * 4 + ["failed", "lost", "cancelled"]),
)


async def work(budget: Budget, jobs: list[Job], over: list[float]) -> list[str]:
    """What became of each job. `over` notes what calls used beyond their reservation."""

    async def one(i: int, job: Job) -> str:
        asked = request(job.n, job.bound, i)
        hold = await budget.hold(job.role, "s", SPEC, asked)
        if hold is None:
            return "stopped"
        within(budget, over)
        try:
            await asyncio.sleep(job.seconds)
            each = job.each if job.bound is None else min(job.each, job.bound)
            usage = Usage(job.prompt, job.n * each)
            took = usage.prompt_tokens + usage.completion_tokens
            if job.outcome == "lost":
                over.append(max(0.0, took - hold.reserved.usd))
                budget.lost(hold, usage)
                if not await budget.take(hold):
                    return "stopped"
            if job.outcome != "failed":
                over.append(max(0.0, took - hold.reserved.usd))
                budget.used(hold, job.n, usage)
        finally:
            budget.release(hold)
        within(budget, over)
        return job.outcome

    tasks = [asyncio.create_task(one(i, job)) for i, job in enumerate(jobs)]
    await asyncio.sleep(1.5)
    for task, job in zip(tasks, jobs, strict=True):
        if job.outcome == "cancelled":
            task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return ["cancelled" if isinstance(made, asyncio.CancelledError) else str(made) for made in found]


def within(budget: Budget, over: list[float]) -> None:
    for cap, spent, reserved in zip(budget.caps, budget.spent, budget.reserved, strict=True):
        # The last call without a bound reserves no margin, and so may be one of those that use more.
        assert spent + reserved <= cap + sum(over) + 1e-6


@given(st.lists(JOBS, max_size=30), st.integers(1, 3000))
def test_a_cap_is_passed_only_by_what_calls_use_beyond_their_reservation(jobs: list[Job], cap: int) -> None:
    stopped: list[str] = []
    budget = Budget(Amount(cap, inf), NONE, lambda why: (stopped.append(why), budget.close()))
    over: list[float] = []
    # In virtual time a deadlock is an error: everything waits, and no timer is set.
    found = virtual_time.run(work(budget, jobs, over))
    assert all(how in ("stopped", job.outcome, "answered") for how, job in zip(found, jobs, strict=True))
    assert bool(stopped) == ("stopped" in found)
    assert (budget.held, budget.reserved, budget.waiting) == (0, NONE, 0)


def test_where_all_bounds_hold_a_cap_is_never_passed() -> None:
    jobs = [Job(4, 50, 60, 50, 1 + i % 3, "policy" if i % 2 else "judge") for i in range(200)]
    budget = Budget(Amount(inf, 10_000), NONE, lambda why: budget.close())
    virtual_time.run(work(budget, jobs, []))
    assert 10_000 - 2 * 260 <= budget.spent.tokens <= 10_000


def test_without_a_bound_one_call_goes_until_the_first_answer() -> None:
    async def go() -> None:
        budget = Budget(Amount(1e6, inf), NONE, lambda why: None)
        waiting = [
            asyncio.create_task(budget.hold("policy", "s", SPEC, request(priority=i))) for i in range(9)
        ]
        other = asyncio.create_task(budget.hold("judge", "s", SPEC, request()))
        await asyncio.sleep(1)
        assert [task.done() for task in waiting] == [True] + [False] * 8
        assert other.done(), "another role has its own"
        first = waiting[0].result()
        assert first
        assert first.reserved.usd == PROBE_TOKENS + 65
        budget.used(first, 1, Usage(10, 100))
        budget.release(first)
        await asyncio.sleep(1)
        assert all(task.done() for task in waiting)
        second = waiting[1].result()
        assert second
        assert second.reserved.usd == pytest.approx(12.5 + 400), "four times the one answer"

    virtual_time.run(go())


def test_the_oldest_row_goes_first_and_one_that_never_fits_is_passed_by() -> None:
    async def go() -> None:
        stopped: list[str] = []
        budget = Budget(Amount(inf, 1000), NONE, stopped.append)
        account = budget.account("m", "s", SPEC)
        account.learn(request(), 1, Usage(1, 1))
        first = await budget.hold("m", "s", SPEC, request(9, max_tokens=100))
        assert first
        late = asyncio.create_task(budget.hold("m", "s", SPEC, request(max_tokens=100, priority=9)))
        old = asyncio.create_task(budget.hold("m", "s", SPEC, request(max_tokens=500, priority=1)))
        huge = asyncio.create_task(budget.hold("m", "s", SPEC, request(max_tokens=5000, priority=0)))
        await asyncio.sleep(1)
        assert not late.done()
        budget.used(first, 9, Usage(0, 300))
        budget.release(first)
        await asyncio.sleep(1)
        assert old.done()
        assert not huge.done()
        for task in (old, late):
            budget.release(task.result())  # type: ignore[arg-type]
        assert "max_tokens 5,000) may take 5,001 tokens" in stopped[0]
        budget.close()
        assert await huge is None

    virtual_time.run(go())


def test_a_stop_wakes_all_who_wait() -> None:
    async def go() -> list[Any]:
        budget = Budget(Amount(inf, 100), NONE, lambda why: None)
        held = await budget.hold("m", "s", SPEC, request(max_tokens=20))
        assert held
        waiting = [
            asyncio.create_task(budget.hold("m", "s", SPEC, request(max_tokens=20, priority=i)))
            for i in range(5)
        ]
        await asyncio.sleep(1)
        budget.close()
        return [*await asyncio.gather(*waiting), await budget.hold("m", "s", SPEC, request())]

    assert virtual_time.run(go()) == [None] * 6


def test_which_limits_make_a_budget() -> None:
    assert caps_of(Limits()) is None
    assert caps_of(Limits(max_tokens=5)) == (inf, 5)
    assert caps_of(Limits(max_cost_usd=2)) == (2, inf)


# ---- shares


class Sharer:
    """A worker with calls of its own."""

    def __init__(self) -> None:
        self.budget = Budget(Amount(0.0, inf), NONE, lambda why: None)

    async def share(self, more: tuple[float, float] | None) -> State:
        await asyncio.sleep(0.01)
        return share_of(self.budget, more)


@given(
    st.lists(st.lists(JOBS, max_size=12), min_size=1, max_size=4),
    st.integers(1, 3000),
    st.none() | st.integers(0, 3),
)
def test_workers_together_keep_the_cap(jobs: list[list[Job]], cap: int, lost: int | None) -> None:
    async def go() -> None:
        stopped: list[str] = []
        workers = {seat: Sharer() for seat in range(len(jobs))}
        shares = Shares(Amount(cap, inf), NONE, stopped.append)
        overs: dict[int, list[float]] = {seat: [] for seat in workers}
        walks = {
            seat: asyncio.create_task(work(worker.budget, jobs[seat], overs[seat]))
            for seat, worker in workers.items()
        }
        gone = 0.0
        for look in range(2000):
            await asyncio.sleep(0.5)
            await shares.tend(dict(workers))
            spent = gone + sum(worker.budget.spent.usd for worker in workers.values())
            assert spent <= cap + sum(sum(over) for over in overs.values()) + 1e-6
            if look == 3 and lost in workers:
                gone += workers[lost].budget.spent.usd
                workers.pop(lost).budget.close()
                shares.lost(lost)
            if stopped:
                for worker in workers.values():
                    worker.budget.close()
            if all(walk.done() for walk in walks.values()):
                break
        else:
            raise AssertionError("somebody waits for ever")
        await asyncio.gather(*walks.values())

    virtual_time.run(go())


# ---- usage


ENGLISH = "The heat pump in the cellar draws warmth from the ground and gives it to the house. "


@pytest.mark.parametrize(
    ("n", "usage", "written", "estimated"),
    [
        (1, Usage(9, 20), 20, False),
        (1, None, 21, True),
        (1, Usage(0, 0), 21, True),
        (8, Usage(9, 150), 150, False),
        (8, Usage(9, 18), 8 * 18, True),
        (3, Usage(9, 18), 3 * 18, True),
        (8, None, 8 * 21, True),
    ],
    ids=["counted", "missing", "zero", "all of eight", "one of eight", "one of three", "eight, missing"],
)
def test_what_an_endpoint_does_not_count_is_estimated(
    n: int, usage: Usage | None, written: int, estimated: bool
) -> None:
    answers = [Completion(text=ENGLISH, usage=None if i else usage) for i in range(n)]
    made, total = counted(request(n), answers)
    assert (total.completion_tokens, total.estimated) == (written, estimated)
    assert total.prompt_tokens == (usage.prompt_tokens if usage and usage.prompt_tokens else 5)
    assert made[0].usage == total
    if not estimated:
        assert made is answers


def test_answers_of_several_calls_are_counted_each() -> None:
    answers = [
        Completion(text=ENGLISH, usage=usage) for usage in (Usage(5, 20), None, Usage(5, 9), Usage(5, 0))
    ]
    made, total = counted(request(4), answers)
    assert [a.usage.completion_tokens if a.usage else None for a in made] == [40, None, 9, 21]
    assert (total.prompt_tokens, total.completion_tokens) == (15, 70)


def test_an_estimate_is_no_longer_than_an_answer_may_be() -> None:
    _, total = counted(request(2, max_tokens=10), [Completion(text=ENGLISH)] * 2)
    assert total.completion_tokens == 20


@given(st.text(), st.text())
def test_an_estimate_is_made_of_any_text(prompt: str, answer: str) -> None:
    asked = request(text=prompt)
    _, total = counted(asked, [Completion(text=answer, reasoning="\ud800")])
    assert total.estimated
    assert total.prompt_tokens == prompt_tokens_of(asked.messages) > 0
    assert total.completion_tokens > 0
