"""Requests and tokens a minute, call by call, and what a call is expected to use."""

from __future__ import annotations

import random
from collections import deque
from math import inf
from typing import Any

import pytest

from synthpref.core.seam import Completion, Request
from synthpref.core.types import Usage
from synthpref.models.caps import WINDOW_S, Caps, CountedTicket
from synthpref.models.lengths import Lengths


def call(caps: Caps, now: float, tokens: float = 0.0) -> CountedTicket:
    ticket = CountedTicket()
    ticket.started = now
    caps.start(now, ticket, tokens)
    return ticket


def end(caps: Caps, now: float, ticket: CountedTicket, used: float | None) -> None:
    ticket.used = used
    caps.end(now, ticket)


def test_without_caps_nothing_waits() -> None:
    assert not Caps().any
    assert (Caps(rpm=1).any, Caps(tpm=1).any) == (True, True)


@pytest.mark.parametrize("rpm", [1, 2, 7, 60, 1000])
def test_no_window_holds_more_requests_than_the_cap_and_it_is_used(rpm: int) -> None:
    caps, now, times = Caps(rpm=rpm), 0.0, []
    while now < 10 * WINDOW_S:
        pause = caps.wait(now, 0)
        if pause == 0:
            call(caps, now)
            times.append(now)
        now += pause
    assert all(later - first >= WINDOW_S - 1e-6 for first, later in zip(times, times[rpm:], strict=False))
    assert len(times) == 10 * rpm


def test_a_quota_is_used_evenly_but_for_a_little_at_once() -> None:
    caps, now, times = Caps(rpm=600), 0.0, []
    while now < 30:
        pause = caps.wait(now, 0)
        if pause == 0:
            call(caps, now)
            times.append(now)
        now += pause
    at_once = sum(t == 0 for t in times)
    assert 1 < at_once < 40
    assert len(times) == pytest.approx(330, abs=15)


def test_tokens_count_as_expected_first_and_as_used_from_the_end_on() -> None:
    caps = Caps(tpm=1000)
    first = call(caps, 0.0, 600)
    assert caps.wait(50.0, 600) == inf, "it fits once the first has ended, whenever that is"
    end(caps, 50.0, first, 100)
    assert caps.tokens == 100
    assert caps.wait(50.0, 600) == 0


def test_what_ended_is_forgotten_a_minute_later_less_the_time_that_a_call_takes() -> None:
    caps = Caps(tpm=1000)
    end(caps, 10.0, call(caps, 0.0, 900), 900)
    assert caps.wait(60.0, 900) == pytest.approx(WINDOW_S - 60)
    assert caps.wait(WINDOW_S, 900) == 0
    assert caps.tokens == 0


def test_a_call_larger_than_the_cap_goes_alone_and_not_never() -> None:
    caps = Caps(tpm=1000)
    large = call(caps, 0.0, inf)
    assert caps.tokens == 1000
    assert caps.wait(1.0, 1) == inf
    end(caps, 1.0, large, 5000)
    assert caps.wait(1.0, 1) > WINDOW_S - 2
    # What is over the quota is made up for by a pause.
    assert caps.wait(400.0, inf) == 0


def test_a_failed_call_of_unknown_length_does_not_block_the_minute() -> None:
    caps = Caps(tpm=1000)
    end(caps, 0.1, call(caps, 0.0, inf), None)
    assert caps.tokens == 0
    assert caps.wait(0.1, 300) == 0


def test_a_cap_may_come_while_calls_are_under_way() -> None:
    caps = Caps()
    before = call(caps, 0.0, 500)
    caps.tpm = 1000
    during = call(caps, 1.0, 500)
    end(caps, 2.0, before, 500)
    assert caps.tokens == 500
    end(caps, 3.0, during, 400)
    assert caps.tokens == 400
    assert caps.wait(30.0, 100) == 0


def test_the_tokens_add_up_whatever_order_calls_end_in() -> None:
    rng = random.Random(3)
    caps, now, open_calls = Caps(rpm=5000, tpm=200_000), 0.0, list[CountedTicket]()
    for _ in range(20_000):
        now += rng.random() * 0.05
        if open_calls and rng.random() < 0.5:
            end(caps, now, open_calls.pop(rng.randrange(len(open_calls))), rng.choice([None, 50.0, 400.0]))
        elif caps.wait(now, 200) == 0:
            open_calls.append(call(caps, now, 200))
    for ticket in open_calls:
        end(caps, now, ticket, 10.0)
    assert caps.wait(now + 10 * WINDOW_S, 1) == 0
    assert caps.tokens == pytest.approx(0, abs=1e-6)


class Watched(deque[Any]):
    """Counts the looks at its items, and forbids looking at all of them."""

    looks = 0

    def __getitem__(self, at: Any) -> Any:
        self.looks += 1
        return super().__getitem__(at)

    def __iter__(self) -> Any:
        raise AssertionError("all calls of the minute were looked at")


def test_a_step_does_not_look_at_every_call_of_the_minute() -> None:
    caps = Caps(rpm=30_000, tpm=10**9)
    caps._sent, caps._ended = Watched(), Watched()
    for i in range(29_000):
        caps.wait(i / 1000, 100)
        end(caps, i / 1000, call(caps, i / 1000, 100), 100.0)
    assert caps._sent.looks + caps._ended.looks <= 6 * 29_000


# ---- lengths


def request(chars: int = 400, n: int = 1, max_tokens: int | None = None) -> Request:
    return Request(messages=({"role": "user", "content": "w" * chars},), n=n, max_tokens=max_tokens)


def answers(prompt: int, written: int, n: int = 1) -> list[Completion]:
    return [Completion(text="x", usage=Usage(prompt, written)), *(Completion(text="x") for _ in range(n - 1))]


def test_before_any_answer_only_max_tokens_bounds_it() -> None:
    assert Lengths().expected(request()) == inf
    assert Lengths().expected(request(max_tokens=50, n=4)) == pytest.approx(100 + 200)


def test_lengths_are_learnt_per_character_and_per_answer() -> None:
    lengths = Lengths()
    for _ in range(2000):
        assert lengths.learn(request(400, n=4), answers(200, 1200, 4)) == 1400
    assert lengths.expected(request(400, n=4)) == pytest.approx(1400, rel=0.1)
    assert lengths.expected(request(800, n=1)) == pytest.approx(700, rel=0.1)
    assert lengths.expected(request(800, n=1, max_tokens=10)) == pytest.approx(410, rel=0.01)


def test_a_few_answers_are_not_trusted_to_be_the_usual_ones() -> None:
    lengths = Lengths()
    lengths.learn(request(), answers(100, 50))
    assert lengths.expected(request()) >= 100 + 3 * 50


def test_answers_without_usage_are_estimated() -> None:
    lengths = Lengths()
    used = lengths.learn(request(400), [Completion(text="y" * 80), Completion(text="y" * 120)])
    assert used == pytest.approx(100 + 50)
    assert lengths.expected(request(400)) < inf


def test_an_embedding_uses_its_text_alone() -> None:
    assert Lengths().expected(Request(messages=({"role": "user", "content": "w" * 40},), kind="embed")) == 10
