"""The limits against servers of many kinds: the real pool and limiter, minutes long, in virtual time.

All scenarios, with figures: `python tests/limits_table.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

import virtual_time
from limits_table import Quota, Scenario, quotas, scenarios
from simulated_servers import Seen, Server, Work, drive, lognormal
from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request
from synthpref.models.caps import Caps
from synthpref.models.limit import Limit
from synthpref.models.limiter import Limiter
from synthpref.models.pool import Endpoint, Pool

BY_NAME = {scenario.name: scenario for scenario in scenarios()}
CAPS = {quota.name: quota for quota in quotas()}

SHOWN = [
    "4 slots x 1 s",
    "16 slots x 5 s, lengths very mixed",
    "64 slots x 1 s",
    "64 slots x 20 s",
    "64 slots x 1 s, 1 % of answers 50 times as long",
    "1024 slots x 20 s",
    "batch to 256, 1 s alone, 4 times that when full",
    "batch to 256, 1 s alone, 10 times that when full",
    "batch to 1024, 4 s alone, 5 times that when full",
    "does 70 % at twice its best load of 128, 0.5 s",
    "429 beyond 4 x 0.5 s",
    "429 beyond 64 x 1 s, Retry-After: 1",
    "429 beyond 256 x 2 s, Retry-After: 1",
    "64 slots x 1 s, then 256",
    "64 slots x 1 s, then 256, 429 beyond",
    "256 slots x 1 s, then 64, 429 beyond",
]


@pytest.mark.parametrize("scenario", [BY_NAME[name] for name in SHOWN], ids=lambda s: s.name)
def test_capacity_is_found_within_a_minute_and_used(scenario: Scenario) -> None:
    found = scenario.run()
    assert found.reached_s <= 60
    assert found.share >= 0.9
    assert found.refused_a_minute < 90


@pytest.mark.parametrize("slots", [4, 64])
def test_a_server_that_only_slows_down_is_not_flooded(slots: int) -> None:
    found = BY_NAME[f"{slots} slots x 1 s"].run()
    late = found.limits[len(found.limits) // 2 :]
    assert max(found.limits) <= max(80, 5 * slots), "while it looks for the capacity"
    assert max(late) <= max(32, 2.5 * slots), "once it has found it"


@pytest.mark.parametrize(
    "quota",
    [
        quota
        for quota in CAPS.values()
        if quota.cap not in (3000, 1_000_000)
        or (quota.mean == 4 and quota.sigma < 1 and not quota.slow_share)
    ],
    ids=lambda q: q.name,
)
def test_no_minute_at_the_server_holds_more_than_the_cap(quota: Quota) -> None:
    fullest, used = quota.run()
    assert fullest <= 1
    # Where a call takes long, or is a good part of the cap, more is kept free for what is not known of it.
    few = bool(quota.tokens) and (quota.mean > 4 or quota.cap < 100_000)
    assert used >= (0.9 if few else 0.95)


def outage(retry_after: float | None) -> Seen:
    server = Server(128, lognormal(0.5), retry_after=retry_after)

    def later(loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(60, setattr, server, "down", True)
        loop.call_later(360, setattr, server, "down", False)

    return drive(server, 420, callers=1000, later=later)


@pytest.mark.parametrize("retry_after", [None, 2.0])
def test_five_minutes_of_refusals_are_sat_out_quietly_and_left_quickly(retry_after: float | None) -> None:
    seen = outage(retry_after)
    refused = seen.server.refused
    assert seen.share(40, 60) > 0.9
    assert all(60 <= at < 362 for at in refused)
    # At the start those under way are refused, and callers that came for the places of those that were served.
    assert sum(at < 65 for at in refused) <= 256
    for minute in range(70, 350, 60):
        assert 6 <= sum(minute <= at < minute + 60 for at in refused) <= 30, (
            "asking on, but no more than that"
        )
    assert next(at for at in seen.server.answered if at > 362) < 368
    assert seen.share(370, 420) > 0.9


class Minute(Server):
    """A server with a cap that nobody told the role."""

    cap = 300

    def __init__(self, slots: int, work: Work) -> None:
        super().__init__(slots, work)
        self.served: deque[float] = deque()

    def over(self, now: float) -> bool:
        while self.served and self.served[0] <= now - 60:
            self.served.popleft()
        if len(self.served) >= self.cap:
            return True
        self.served.append(now)
        return False


@pytest.mark.parametrize("mean", [0.5, 5.0])
def test_a_cap_that_the_role_does_not_name_is_met_by_refusals_and_still_used(mean: float) -> None:
    server = Minute(4096, lognormal(mean))
    drive(server, 600)
    assert len(server.answered) > 0.75 * 10 * Minute.cap
    assert len(server.refused) < 0.3 * len(server.answered)


def test_where_calls_are_few_the_limit_stays() -> None:
    seen = drive(Server(4096, lognormal(0.5)), 120, callers=8)
    assert {limit for _, limit, _ in seen.samples} == {16.0}, (
        "it was never reached, so nothing is known of more"
    )
    assert seen.server.most == 8


def test_timeouts_lower_the_limit_once_for_those_under_way_together() -> None:
    class Late(Server):
        async def complete(self, request: Request) -> list[Completion]:
            await asyncio.sleep(10)
            raise BackendError("transient", "no answer in 10 s", status=408)

    seen = drive(Late(1, lognormal(1)), 25, callers=100)
    limits = [limit for _, limit, _ in seen.samples]
    assert [limits[0], limits[500], limits[-1]] == pytest.approx([16, 14.4, 12.96])


def test_one_endpoint_of_two_is_slower_and_both_are_filled() -> None:
    async def go() -> list[float]:
        loop = asyncio.get_running_loop()
        servers = [Server(32, lognormal(0.5)), Server(128, lognormal(1.0), seed=1)]
        pool = Pool(
            [
                Endpoint(str(i), s, Limiter(Limit(1000), Caps(), clock=loop.time))
                for i, s in enumerate(servers)
            ],
            clock=loop.time,
        )

        async def call() -> None:
            while True:
                await pool.complete(Request(messages=({"role": "user", "content": "Why?"},)))

        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(call()) for _ in range(1000)]
        await asyncio.sleep(30)
        before = [server.worked() for server in servers]
        await asyncio.sleep(60)
        shares = [(s.worked() - b) / 60 / s.best() for s, b in zip(servers, before, strict=True)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await pool.aclose()
        return shares

    assert min(virtual_time.run(go())) > 0.9
