"""Several endpoints as one: who gets the call, what a dead one costs, and what is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from synthpref.core.errors import BackendError, ErrorKind
from synthpref.core.seam import Completion, Request
from synthpref.models.caps import Caps
from synthpref.models.limit import Limit
from synthpref.models.limiter import Limiter
from synthpref.models.pool import FAILURES_IN_A_ROW, LONGEST_ASIDE_S, Endpoint, Pool, limiter_for
from synthpref.models.prefixes import Prefixes

QUESTION: Request = Request(messages=({"role": "user", "content": "Why?"},), seed=5)
DOWN: ErrorKind = "unreachable"


class Fake:
    """A backend that is up or fails in one way, and may hold its answers back."""

    def __init__(self, fails: ErrorKind | None = None) -> None:
        self.fails = fails
        self.calls = 0
        self.seeds: list[int | None] = []
        self.gate: asyncio.Event | None = None

    async def complete(self, request: Request) -> list[Completion]:
        self.calls += 1
        self.seeds.append(request.seed)
        if self.gate:
            await self.gate.wait()
        if self.fails:
            raise BackendError(self.fails, f"it is {self.fails}")
        first = request.seed or 0
        return [Completion(text=f"answer {first + i}") for i in range(request.n)]

    async def aclose(self) -> None:
        return None


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def made(*fakes: Fake, most: int = 8, **fields: Any) -> tuple[Pool, Clock]:
    clock = Clock()
    endpoints = [Endpoint(f"e{i}", fake, Limiter(Limit(most, value=most))) for i, fake in enumerate(fakes)]
    return Pool(endpoints, clock=clock, **fields), clock


def run(steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(steps())


async def kind(pool: Pool, request: Request = QUESTION) -> str:
    try:
        await pool.complete(request)
    except BackendError as error:
        return error.kind
    return "ok"


def test_calls_go_where_the_most_room_is() -> None:
    async def go() -> None:
        a, b, c = Fake(), Fake(), Fake()
        pool, _ = made(a, b, c)
        gate = a.gate = b.gate = c.gate = asyncio.Event()
        tasks = [asyncio.create_task(pool.complete(QUESTION)) for _ in range(12)]
        await asyncio.sleep(0)
        assert (a.calls, b.calls, c.calls) == (4, 4, 4)
        gate.set()
        await asyncio.gather(*tasks)

    run(go)


def test_a_dead_endpoint_costs_its_calls_in_flight_and_no_more() -> None:
    async def go() -> None:
        dead, b, c = Fake(DOWN), Fake(), Fake()
        pool, _ = made(dead, b, c)
        kinds = [await kind(pool) for _ in range(60)]
        assert kinds == ["transient", *["ok"] * 59], "transient, so that the engine asks again elsewhere"
        assert dead.calls == 1

    run(go)


def test_calls_that_wait_at_an_endpoint_that_dies_move_to_another() -> None:
    async def go() -> None:
        dying, other = Fake(DOWN), Fake()
        pool, _ = made(dying, other, most=1)
        dying.gate = other.gate = asyncio.Event()
        tasks = [asyncio.create_task(kind(pool)) for _ in range(10)]
        for _ in range(5):
            await asyncio.sleep(0)
        dying.gate.set()
        kinds = await asyncio.gather(*tasks)
        assert sorted(kinds) == ["ok"] * 9 + ["transient"]
        assert dying.calls == 1
        assert all(e.limiter.limit.in_flight == 0 for e in pool.endpoints)

    run(go)


def test_it_is_tried_again_by_one_call_after_a_growing_time() -> None:
    async def go() -> None:
        dead, other = Fake(DOWN), Fake()
        pool, clock = made(dead, other)
        assert await kind(pool) == "transient"
        waits = []
        for _ in range(9):
            aside = pool.endpoints[0].aside_until
            waits.append(aside - clock.now)
            clock.now = aside - 0.01
            assert [await kind(pool) for _ in range(3)] == ["ok"] * 3
            clock.now = aside
            before = dead.calls
            # The dead one is idle, so it has the most room: all of these would go there.
            kinds = await asyncio.gather(*(kind(pool) for _ in range(6)))
            assert dead.calls == before + 1
            assert sorted(kinds) == ["ok"] * 5 + ["transient"]
        assert waits[:4] == pytest.approx([1, 2, 4, 8])
        assert max(waits) == pytest.approx(LONGEST_ASIDE_S)

    run(go)


def test_while_a_trial_is_under_way_nobody_else_goes_there() -> None:
    async def go() -> None:
        back, other = Fake(DOWN), Fake()
        pool, clock = made(back, other)
        await kind(pool)
        clock.now += 5
        back.fails, back.gate = None, asyncio.Event()
        tasks = [asyncio.create_task(kind(pool)) for _ in range(6)]
        for _ in range(4):
            await asyncio.sleep(0)
        assert (back.calls, other.calls) == (2, 5)
        back.gate.set()
        assert await asyncio.gather(*tasks) == ["ok"] * 6
        back.gate = other.gate = asyncio.Event()
        tasks = [asyncio.create_task(kind(pool)) for _ in range(6)]
        await asyncio.sleep(0)
        assert (back.calls, other.calls) == (5, 8), "it works again and gets its share"
        back.gate.set()
        await asyncio.gather(*tasks)

    run(go)


def test_a_burst_of_failures_is_one_failure() -> None:
    async def go() -> None:
        dead, other = Fake(DOWN), Fake()
        pool, clock = made(dead, other)
        dead.gate = other.gate = asyncio.Event()
        tasks = [asyncio.create_task(kind(pool)) for _ in range(16)]
        await asyncio.sleep(0)
        dead.gate.set()
        await asyncio.gather(*tasks)
        assert dead.calls == 8
        assert pool.endpoints[0].aside_until == clock.now + 1

    run(go)


def test_an_endpoint_that_only_fails_is_set_aside_after_some_in_a_row() -> None:
    async def go() -> None:
        failing, other = Fake("transient"), Fake()
        pool, _ = made(failing, other)
        kinds = [await kind(pool) for _ in range(40)]
        assert failing.calls == FAILURES_IN_A_ROW
        assert kinds.count("transient") == FAILURES_IN_A_ROW

    run(go)


@pytest.mark.parametrize("fault", ["bad_request", "context_length", "content_filter", "rate_limit", "auth"])
def test_faults_of_a_row_or_a_role_set_no_endpoint_aside(fault: ErrorKind) -> None:
    async def go() -> None:
        fake = Fake(fault)
        pool, _ = made(fake, Fake())
        kinds = {await kind(pool) for _ in range(10)}
        # After "too many requests" there is more room at the other.
        assert kinds == ({fault, "ok"} if fault == "rate_limit" else {fault})
        assert (pool.endpoints[0].failures, pool.endpoints[0].aside_until) == (0, 0)

    run(go)


@pytest.mark.parametrize("endpoints", [1, 3])
def test_all_dead_is_unreachable_and_over_once_one_is_back(endpoints: int) -> None:
    async def go() -> None:
        fakes = [Fake(DOWN) for _ in range(endpoints)]
        pool, _ = made(*fakes)
        kinds = [await kind(pool) for _ in range(12)]
        assert kinds == ["transient"] * (endpoints - 1) + [DOWN] * (13 - endpoints)
        for fake in fakes:
            fake.fails = None
        assert await kind(pool) == "ok"

    run(go)


def test_tokens_used_replace_the_estimate() -> None:
    async def go() -> None:
        from synthpref.core.types import Usage

        class Counting(Fake):
            async def complete(self, request: Request) -> list[Completion]:
                return [Completion(text="x", usage=Usage(30, 12))]

        caps = Caps(tpm=10_000)
        pool = Pool([Endpoint("e", Counting(), Limiter(Limit(), caps))])
        await pool.complete(Request(messages=({"role": "user", "content": "w" * 400},), max_tokens=500))
        assert caps.tokens == 42

    run(go)


def test_the_tightest_of_the_roles_limits_holds() -> None:
    shared: dict[str, Any] = {}
    first = limiter_for(shared, "here", 256, None, 900)
    second = limiter_for(shared, "here", 4, 60, 1000)
    assert first is second
    assert (first.limit.most, first.caps.rpm, first.caps.tpm) == (4, 60, 900)
    assert first.limit.value <= 4
    assert limiter_for(shared, "there", 256, None, None) is not first


# ---- equal beginnings


def begins(text: str, then: str = "") -> Request:
    return Request(messages=({"role": "user", "content": text * 300 + then},), seed=5)


def drive(pool: Pool, fakes: list[Fake], requests: list[Request]) -> list[int]:
    """Which endpoint got each, all of them under way at once."""

    async def go() -> list[int]:
        for fake in fakes:
            fake.gate = asyncio.Event()
        got, tasks = [], []
        for request in requests:
            before = [fake.calls for fake in fakes]
            tasks.append(asyncio.create_task(pool.complete(request)))
            await asyncio.sleep(0)
            got.append(next(i for i, fake in enumerate(fakes) if fake.calls > before[i]))
        for fake in fakes:
            assert fake.gate
            fake.gate.set()
        await asyncio.gather(*tasks)
        return got

    return asyncio.run(go())


def test_requests_that_begin_alike_go_where_their_beginning_was_read() -> None:
    fakes = [Fake(), Fake()]
    pool, _ = made(*fakes, most=40, prefixes=Prefixes())
    got = drive(pool, fakes, [begins(text, str(i)) for i in range(4) for text in "aabb"])
    assert [got[i] for i, text in enumerate("aabb" * 4) if text == "a"] == [got[0]] * 8
    assert [got[i] for i, text in enumerate("aabb" * 4) if text == "b"] == [got[2]] * 8
    assert got[0] != got[2], "a new one goes to the one with more room"


def test_one_that_is_much_fuller_is_not_chosen_for_what_it_has_read() -> None:
    fakes = [Fake(), Fake()]
    pool, _ = made(*fakes, most=16, prefixes=Prefixes())
    got = drive(pool, fakes, [begins("a", str(i)) for i in range(16)])
    # A quarter of 16; after that both have read it, and the emptier one is next.
    assert got[:6] == [0, 0, 0, 0, 0, 1]
    assert 6 <= got.count(1) <= 8


def test_one_that_is_away_is_not_chosen_for_what_it_has_read() -> None:
    fakes = [Fake(), Fake()]
    pool, clock = made(*fakes, prefixes=Prefixes())
    drive(pool, fakes, [begins("a")])
    pool.endpoints[0].aside_until = clock.now + 5
    assert drive(pool, fakes, [begins("a")]) == [1]


def test_what_is_remembered_has_an_end() -> None:
    prefixes = Prefixes(most=3)
    first = prefixes.marks(begins("abc"))
    assert len(first) == 3
    assert prefixes.marks(begins("abc", "more")) == first[:3]
    assert prefixes.marks(begins("x" * 100))[:1] != first[:1]
    assert len(prefixes.marks(begins("a" * 100))) == 32
    prefixes.note(first, 1)
    assert prefixes.longest(first, [0, 1]) == [1]
    assert prefixes.longest(first, [0, 2]) == [0, 2]
    prefixes.note(prefixes.marks(begins("xyz")), 0)
    assert prefixes.longest(first, [0, 1]) == [0, 1], "the oldest are forgotten"
