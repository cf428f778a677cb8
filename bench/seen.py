"""What an endpoint's statistics say about its client. Pure functions, so that they can be tested."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FULL = 0.95
"""The share of the slots from which on ramp-up is over; of the most that ever were busy, where it is less."""
TAIL = 0.9
"""The share of the time after which the tail begins, in which there may be too little work for all slots."""
SLOW = 10.0
"""How many times the mean an answer took that counts as slow. Of those that are not made slow, one in a thousand
million takes as long."""


@dataclass(frozen=True)
class Busy:
    """How well the slots were used."""

    middle: float
    """Mean share of the slots that was busy, ramp-up and tail left out."""
    whole: float
    """The same, with them."""
    ramp_s: float
    """Seconds from the first answer under way to the end of the ramp-up."""
    most: int
    """The most slots busy at once."""


def busy(stats: dict[str, Any]) -> Busy:
    """From the ticks of an endpoint that has seen one client."""
    shares = [(at, n / stats["slots"]) for at, n in stats["ticks"]]
    active = [(at, share) for at, share in shares if share > 0]
    if not active:
        return Busy(0.0, 0.0, 0.0, 0)
    (begin, _), (end, _) = active[0], active[-1]
    most = max(share for _, share in active)
    up = next(at for at, share in active if share >= FULL * min(1.0, most))
    inside = [(at, share) for at, share in shares if begin <= at <= end]
    middle = [share for at, share in inside if up <= at <= begin + TAIL * (end - begin)]
    return Busy(_mean(middle), _mean([s for _, s in inside]), up - begin, round(most * stats["slots"]))


@dataclass(frozen=True)
class Flow:
    """How rows left, in seconds."""

    rows: int
    slow: int
    """Answers that were slow."""
    pause: float
    """The longest time in which no row ended, before the tail."""
    age_p99: float
    """From a row's first request to its last answer, of rows that had no slow answer themselves: 99th percentile."""


def flow(stats: dict[str, Any], mean_s: float, requests: int) -> Flow:
    """From the log of an endpoint whose client asks `requests` times for each row; `mean_s` of its ordinary law."""
    rows: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for came, went, row in stats["log"]:
        rows[row].append((came, went))
    whole = [answers for answers in rows.values() if len(answers) == requests]
    slow = [[went - came > SLOW * mean_s for came, went in answers] for answers in whole]
    ages = [
        max(went for _, went in answers) - min(came for came, _ in answers)
        for answers, own in zip(whole, slow, strict=True)
        if not any(own)
    ]
    ends = sorted(max(went for _, went in answers) for answers in whole)
    before_tail = ends[: max(2, int(TAIL * len(ends)))]
    pauses = [b - a for a, b in itertools.pairwise(before_tail)]
    return Flow(len(whole), sum(map(sum, slow)), max(pauses, default=0.0), percentile(ages, 0.99))


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
