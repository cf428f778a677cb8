"""The law of the limit, call by call, and the line before it. Whole minutes are in test_limits_simulated.py."""

from __future__ import annotations

import asyncio

import pytest

import virtual_time
from synthpref.core.errors import BackendError, ErrorKind
from synthpref.models.caps import Caps
from synthpref.models.limit import BREATH_S, CEILING_S, CUT, LONGEST_BREATH_S, START, Limit, Ticket
from synthpref.models.limiter import Limiter


def one() -> float:
    return 1.0


def started(limit: Limit, now: float, count: int) -> list[Ticket]:
    tickets = [Ticket() for _ in range(count)]
    for ticket in tickets:
        limit.start(now, ticket)
    return tickets


def refuse(limit: Limit, now: float, tickets: list[Ticket]) -> None:
    for ticket in tickets:
        limit.suffered(now, ticket)
        limit.end(now, ticket)


def answer(limit: Limit, now: float, tickets: list[Ticket]) -> None:
    for ticket in tickets:
        limit.answered(now, ticket)
        limit.end(now, ticket)


def test_at_the_start_each_good_answer_lets_more_in() -> None:
    limit = Limit(most=256)
    answer(limit, 1.0, started(limit, 0.0, 16)[:4])
    # Only the first of them found the limit in use.
    assert (limit.value, limit.in_flight) == (START + 3, 12)


def test_a_limit_that_is_not_in_use_stays() -> None:
    limit = Limit(most=256)
    for second in range(100):
        answer(limit, second + 0.5, started(limit, second, 15))
    assert limit.value == START


def test_the_most_holds_also_when_it_is_lowered() -> None:
    limit = Limit(most=20, value=50)
    assert limit.places == 20
    limit.most = 7
    assert (limit.value, limit.places) == (7, 7)
    limit.most = 30
    assert limit.value == 7, "more is found by trying"


def test_a_burst_of_refusals_leaves_what_the_endpoint_holds() -> None:
    limit = Limit(most=200, value=100)
    tickets = started(limit, 0.0, 100)
    refuse(limit, 0.1, tickets[64:])
    assert (limit.in_flight, limit.places) == (64, 64)
    assert limit.paused_until < 0.2, "the others are served, so there is nothing to wait for"


def test_one_refusal_is_a_small_cut() -> None:
    limit = Limit(most=200, value=100)
    tickets = started(limit, 0.0, 100)
    refuse(limit, 0.1, tickets[:1])
    assert limit.value == pytest.approx(100 * CUT)


def test_a_load_that_was_refused_is_left_alone_for_a_while() -> None:
    limit = Limit(most=200, value=100)
    held = started(limit, 0.0, 100)
    refuse(limit, 0.1, held[50:])
    held = held[:50]

    def turns(start: float, end: float) -> float:
        """Answers of half a second, always with all places in use; the most that was allowed meanwhile."""
        nonlocal held
        now, most = start, 0.0
        while now < end:
            for ticket in held:
                limit.answered(now, ticket)
                limit.end(now, ticket)
                most = max(most, limit.value)
                again = Ticket()
                limit.start(now, again)
                held = [*held[1:], again]
            held += started(limit, now, limit.places - limit.in_flight)
            now += 0.5
        return most

    assert turns(0.6, CEILING_S) == 50
    assert turns(CEILING_S + 0.5, CEILING_S + 30) > 55


def test_where_nothing_is_served_single_calls_ask_in_growing_pauses_and_one_answer_ends_it() -> None:
    limit = Limit(most=200, value=100)
    refuse(limit, 0.1, started(limit, 0.0, 100))
    assert (limit.places, limit.in_flight) == (1, 0)
    now, pauses = 0.2, []
    for _ in range(8):
        refuse(limit, now, started(limit, now, 1))
        pauses.append(limit.paused_until - now)
        now = limit.paused_until
    assert pauses[:3] == pytest.approx([BREATH_S, 2 * BREATH_S, 4 * BREATH_S])
    assert max(pauses) == pauses[-1] == pytest.approx(LONGEST_BREATH_S)
    answer(limit, now + 1, started(limit, now, 1))
    for _ in range(12):
        now += 1
        answer_all = started(limit, now, limit.places)
        for ticket in answer_all:
            limit.answered(now + 0.5, ticket)
            limit.end(now + 0.5, ticket)
            started(limit, now + 0.5, 1)
        limit.in_flight = 0
    assert limit.value > 30


def test_retry_after_pauses_the_endpoint() -> None:
    limit = Limit()
    (ticket,) = started(limit, 0.0, 1)
    limit.suffered(0.5, ticket, retry_after=4.0)
    assert limit.paused_until == pytest.approx(4.5)
    limit.suffered(0.6, ticket, retry_after=1.0)
    assert limit.paused_until == pytest.approx(4.5), "the longest holds"


def test_calls_that_time_out_together_are_one_cut_and_no_refusal() -> None:
    limit = Limit(most=100, value=100)
    for ticket in started(limit, 0.0, 100):
        limit.suffered(600.0, ticket, refused=False)
        limit.end(600.0, ticket)
    assert limit.value == pytest.approx(90)
    assert limit.paused_until < 600


@pytest.mark.parametrize(
    ("kind", "status", "retry_after", "lower"),
    [
        ("rate_limit", 429, None, True),
        ("transient", 408, None, True),
        ("transient", 503, None, True),
        ("transient", 529, None, True),
        ("transient", 500, 1.0, True),
        ("transient", 500, None, False),
        ("bad_request", 400, None, False),
        ("unreachable", None, None, False),
    ],
)
def test_only_what_speaks_of_load_lowers_the_limit(
    kind: ErrorKind, status: int | None, retry_after: float | None, lower: bool
) -> None:
    async def go() -> float:
        limiter = Limiter(Limit(most=100, value=20))
        with pytest.raises(BackendError):
            async with limiter.slot(0, one):
                raise BackendError(kind, "no", status=status, retry_after=retry_after)
        assert limiter.limit.in_flight == 0
        return limiter.limit.value

    assert (asyncio.run(go()) < 20) == lower


def test_a_pause_ends_by_itself() -> None:
    async def go() -> list[float]:
        loop = asyncio.get_running_loop()
        limiter = Limiter(Limit(), Caps(rpm=60), clock=loop.time)
        limiter.limit.paused_until = 5.0
        times = []

        async def call() -> None:
            async with limiter.slot(0, one):
                times.append(loop.time())

        await asyncio.gather(*(call() for _ in range(70)))
        limiter.close()
        return times

    times = virtual_time.run(go())
    assert times[0] == pytest.approx(5)
    assert len([t for t in times if t < 66]) == 60
    assert times[-1] < 80


def test_tokens_are_asked_for_when_the_turn_has_come() -> None:
    async def go() -> list[float]:
        limiter = Limiter(Limit(most=1), Caps(tpm=10_000))
        known, counted = [500.0], []

        async def call() -> None:
            async with limiter.slot(0, lambda: known[0]) as slot:
                counted.append(slot.expected)
                known[0] = slot.used = 100.0

        await asyncio.gather(*(call() for _ in range(3)))
        limiter.close()
        return counted

    assert asyncio.run(go()) == [500, 100, 100]


def test_waiting_calls_go_by_priority_then_arrival() -> None:
    async def go() -> list[int]:
        limiter = Limiter(Limit(most=1))
        gate, done = asyncio.Event(), list[int]()

        async def call(priority: int) -> None:
            async with limiter.slot(priority, one):
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
        limiter = Limiter(Limit(most=1), stop=stop)
        gate = asyncio.Event()

        async def call() -> str:
            try:
                async with limiter.slot(0, one):
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
            async with limiter.slot(0, one):
                await asyncio.sleep(3600)

        tasks = [asyncio.create_task(hold()) for _ in range(3)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with limiter.slot(0, one):
            held = limiter.limit.in_flight
        limiter.close()
        return held

    assert asyncio.run(go()) == 1
