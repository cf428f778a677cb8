"""The law of the limit, in simulated time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from synthpref.core.errors import BackendError
from synthpref.models.limiter import WINDOW_S, Limit, Limiter

Latency = Callable[[int], float]
"""Seconds an answer takes when so many are in flight; negative for a 429."""


def simulate(
    limit: Limit, latency: Latency, seconds: float, seed: int = 0
) -> tuple[list[float], list[float], int]:
    """(times of answers, limits seen at them, number of 429s) of a client that always has more to ask."""
    rng = random.Random(seed)
    now, order = 0.0, itertools.count()
    ends: list[tuple[float, int, list[float], bool]] = []
    answers: list[float] = []
    limits: list[float] = []
    refused = 0
    while now < seconds:
        while (pause := limit.wait(now, 1)) == 0:
            ticket = limit.start(now, 1)
            takes = latency(limit.in_flight)
            jitter = rng.lognormvariate(0, 0.2)
            heapq.heappush(
                ends, (now + (0.01 if takes < 0 else takes * jitter), next(order), ticket, takes >= 0)
            )
        if pause is not None and (not ends or now + pause < ends[0][0]):
            now += pause
            continue
        now, _, ticket, good = heapq.heappop(ends)
        if good:
            limit.answered(now, ticket)
            answers.append(now)
            limits.append(limit.value)
        else:
            limit.suffered(now, ticket)
            refused += 1
        limit.end(now, ticket)
    return answers, limits, refused


def rate(answers: list[float], start: float, end: float) -> float:
    return sum(start <= t < end for t in answers) / (end - start)


def test_it_grows_to_the_most_where_nothing_suffers() -> None:
    limit = Limit(most=200)
    answers, limits, _ = simulate(limit, lambda n: 0.5, 20)
    assert max(limits) == 200
    assert rate(answers, 15, 20) > 0.9 * 200 / 0.5 / 1.02


@pytest.mark.parametrize("capacity", [16, 64])
def test_it_finds_the_capacity_of_a_server_that_refuses(capacity: int) -> None:
    limit = Limit(most=1000)
    answers, _, refused = simulate(limit, lambda n: 0.2 if n <= capacity else -1, 120)
    best = capacity / 0.2 / 1.02
    assert rate(answers, 60, 120) > 0.9 * best
    assert refused < 0.1 * len(answers)


@pytest.mark.parametrize("capacity", [16, 64])
def test_it_finds_the_capacity_of_a_server_that_only_slows_down(capacity: int) -> None:
    limit = Limit(most=4000)
    answers, limits, _ = simulate(limit, lambda n: 0.2 * max(1.0, n / capacity), 180)
    best = capacity / 0.2 / 1.02
    assert rate(answers, 60, 180) > 0.9 * best
    late = [v for t, v in zip(answers, limits, strict=True) if t > 90]
    assert max(late) < 8 * capacity, "it must not queue without bound where the server never refuses"


def test_sustained_refusal_neither_stalls_nor_hammers() -> None:
    limit = Limit(most=500)
    open_again = 60.0
    clock = {"now": 0.0}
    rng = random.Random(1)
    refusals = answers = 0
    now = 0.0
    while now < 120:
        if limit.wait(now, 1) == 0:
            ticket = limit.start(now, 1)
            now += 0.05 * rng.lognormvariate(0, 0.1)
            if now < open_again:
                limit.suffered(now, ticket, retry_after=1.0)
                refusals += 1
            else:
                limit.answered(now, ticket)
                answers += 1
            limit.end(now, ticket)
        else:
            now += limit.wait(now, 1) or 0.01
        clock["now"] = now
    assert refusals <= 61
    assert answers > 500


def test_one_burst_of_refusals_is_one_cut() -> None:
    limit = Limit(most=100, value=100)
    tickets = [limit.start(0.0, 1) for _ in range(100)]
    for ticket in tickets:
        limit.suffered(0.1, ticket)
        limit.end(0.1, ticket)
    assert limit.value == pytest.approx(80)


@pytest.mark.parametrize("latency", [0.001, 0.4])
def test_rpm_is_never_exceeded_in_any_window_and_is_used(latency: float) -> None:
    limit = Limit(most=500, rpm=300)
    answers, _, _ = simulate(limit, lambda n: latency, 300)
    starts = sorted(answers)
    for i, at in enumerate(starts):
        # Answers come at most 2.5 latencies after their start; windows of starts are what is limited.
        inside = sum(at <= t < at + WINDOW_S - 3 * latency for t in starts[i : i + 400])
        assert inside <= 300
    assert len(starts) >= 0.95 * 300 * 300 / 60


def test_tpm_counts_estimates_first_and_real_tokens_after() -> None:
    limit = Limit(tpm=1000)
    first = limit.start(0.0, 600)
    assert limit.wait(0.0, 600) == pytest.approx(60.0)
    limit.end(1.0, first, 100)
    assert limit.wait(1.0, 600) == 0
    limit.start(1.0, 600)
    assert limit.wait(2.0, 900) == pytest.approx(59.0)
    assert limit.wait(2.0, 2000) == pytest.approx(59.0), "a call larger than the limit goes alone, not never"
    assert limit.wait(61.5, 2000) == 0


def test_retry_after_pauses_the_endpoint() -> None:
    limit = Limit()
    ticket = limit.start(0.0, 1)
    limit.suffered(0.5, ticket, retry_after=4.0)
    limit.end(0.5, ticket)
    assert limit.wait(1.0, 1) == pytest.approx(3.5)
    assert limit.wait(4.5, 1) == 0


def test_waiting_calls_go_by_priority_then_arrival() -> None:
    async def go() -> list[int]:
        limiter = Limiter(Limit(most=1))
        gate, done = asyncio.Event(), list[int]()

        async def call(priority: int) -> None:
            async with limiter.slot(priority, 1):
                if priority == 0:
                    await gate.wait()
                done.append(priority)

        tasks = [asyncio.create_task(call(p)) for p in (0, 5, 3, 4)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*tasks)
        limiter.close()
        return done

    assert asyncio.run(go()) == [0, 3, 4, 5]


def test_stopping_turns_waiting_calls_away_and_lets_those_in_flight_end() -> None:
    async def go() -> list[str]:
        stop = asyncio.Event()
        limiter = Limiter(Limit(most=1), stop)
        gate = asyncio.Event()

        async def call() -> str:
            try:
                async with limiter.slot(0, 1):
                    await gate.wait()
                    return "answered"
            except BackendError as error:
                return error.kind

        tasks = [asyncio.create_task(call()) for _ in range(3)]
        await asyncio.sleep(0)
        stop.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gate.set()
        made = await asyncio.gather(*tasks)
        limiter.close()
        return made

    assert asyncio.run(go()) == ["answered", "rate_limit", "rate_limit"], (
        "a kind for which the engine leaves the row to the next start; after another it would be rejected for good"
    )


def test_a_cancelled_call_gives_its_place_back() -> None:
    async def go() -> int:
        limiter = Limiter(Limit(most=1))

        async def hold() -> None:
            async with limiter.slot(0, 1):
                await asyncio.sleep(3600)

        tasks = [asyncio.create_task(hold()) for _ in range(3)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with limiter.slot(0, 1):
            held = limiter.limit.in_flight
        limiter.close()
        return held

    assert asyncio.run(go()) == 1
