"""What can go wrong at the wire, each done to a whole run. The run has to finish as if nothing had been."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import rough
from wire import Server, nobody, serving, status

SHARE = 0.2
"""Of the requests, how many fail."""
HANG_S = 0.5
"""The time-out where requests hang; answers take a hundredth of it."""
LATENCY_S = 0.005

UNREADABLE = ("not json", "odd shape", "no choices")

Make = Callable[[], Any]
Do = Callable[[Sequence[Server], random.Random, float], None]


@dataclass(frozen=True)
class Trouble:
    """One kind of it. `do` gets the servers, luck, and how long an outage takes."""

    name: str
    often: str
    do: Do
    servers: int = 1
    dead: int = 0
    """Addresses at which nobody ever answers, beside the servers."""
    role: dict[str, Any] = field(default_factory=dict)


def some(*makes: Make, share: float = SHARE) -> Do:
    """A share of the requests gets one of these instead of an answer. What came and cannot be read is asked again twice
    and no more, so that a call meets it twice at the most."""

    def do(servers: Sequence[Server], luck: random.Random, outage_s: float) -> None:
        met: Counter[str] = Counter()

        def fault(server: Server, number: int) -> Any:
            made = luck.choice(makes)() if luck.random() < share else None
            if made in UNREADABLE:
                who = server.numbered[number].identity
                met[who] += 1
                return made if met[who] <= 2 else None
            return made

        for server in servers:
            server.fault = partial(lambda server, request, number: fault(server, number), server)

    return do


def away(servers: Sequence[Server], luck: random.Random, outage_s: float) -> None:
    """The first server goes away once, when the run is well under way: connections break, new ones are refused."""
    first, at = servers[0], luck.randint(30, 60)

    def fault(request: Any, number: int) -> Any:
        if number == at:
            first.leave(outage_s)
        return None

    first.fault = fault


def failing(make: Make) -> Do:
    """For the length of an outage, every request gets this."""

    def do(servers: Sequence[Server], luck: random.Random, outage_s: float) -> None:
        server, at, until = servers[0], luck.randint(30, 60), [float("inf")]

        def fault(request: Any, number: int) -> Any:
            now = time.monotonic()
            if number >= at and until[0] == float("inf"):
                until[0] = now + outage_s
            return make() if until[0] != float("inf") and now < until[0] else None

        server.fault = fault

    return do


def too_many() -> Any:
    return status(429)


def too_many_until() -> Any:
    return status(429, Retry_After="0.2")


def server_error() -> Any:
    return status(500)


def unavailable() -> Any:
    return status(503)


def named(fault: str) -> Make:
    """One of the faults that tests/wire.py knows by name."""
    return lambda: fault


NAMED = [named(fault) for fault in ("reset", "half", "not json", "odd shape", "no choices", "fewer")]
TROUBLES = (
    Trouble("status 500", "20 % of the requests", some(server_error)),
    Trouble("the connection is reset", "20 %", some(named("reset"))),
    Trouble("429 without Retry-After", "20 %", some(too_many)),
    Trouble("429 with Retry-After", "20 %", some(too_many_until)),
    Trouble("the answer is cut in half", "20 %", some(named("half"))),
    Trouble(
        "not JSON, JSON of another shape, no choices",
        "20 %",
        some(named("not json"), named("odd shape"), named("no choices")),
    ),
    Trouble("fewer choices than asked for", "20 %", some(named("fewer"))),
    Trouble(
        "no answer before the time-out",
        "20 %",
        some(named("hang")),
        role={"timeout_s": HANG_S, "retries": 12},
    ),
    Trouble(
        "all of these at once",
        "40 %",
        some(server_error, unavailable, too_many, too_many_until, *NAMED, share=0.4),
        role={"retries": 12},
    ),
    Trouble("the endpoint is gone, and comes back", "once", away),
    Trouble("every request gets 503, as behind a proxy", "once", failing(unavailable)),
    Trouble("every request gets 429", "once", failing(too_many)),
    Trouble("one endpoint of three is dead from the start", "always", some(share=0), servers=2, dead=1),
    Trouble("one endpoint of three is gone, and comes back", "once", away, servers=3),
)


def troubled(
    folder: Path, trouble: Trouble, rows: int, seed: str, outage_s: float, go: Callable[[Path], None]
) -> tuple[dict[str, bytes], int]:
    """Do it to a run of so many rows; (what came out, how many requests it took)."""
    shutil.rmtree(folder, ignore_errors=True)
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(latency_s=LATENCY_S)) for _ in range(trouble.servers)]
        urls = [stack.enter_context(nobody()) for _ in range(trouble.dead)] + [s.url for s in servers]
        trouble.do(servers, random.Random(seed), outage_s)
        rough.write(folder, urls, rows, **{"concurrency": 32, **trouble.role})
        go(folder)
        return rough.outcome(folder), sum(server.requests for server in servers)
