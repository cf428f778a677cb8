"""Who meets whom, and who stands where. Pure: what is drawn by lot is drawn from the `rng` given.

A pair of players is met at most once, and is written with the earlier of the two first.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Literal, TypeVar

T = TypeVar("T")

Schedule = Literal["all", "round_robin", "swiss", "anchor"]
Meeting = tuple[int, int]


def all_pairs(players: Sequence[int]) -> list[Meeting]:
    """Each with each."""
    return list(combinations(players, 2))


def meetings(players: int, rounds: int) -> int:
    """How many pairs meet in so many rounds in which no pair meets again."""
    most = players - 1 + players % 2
    return max(0, min(rounds, most)) * (players // 2)


def round_robin(players: Sequence[int], rounds: int, rng: random.Random) -> list[list[Meeting]]:
    """The first `rounds` rounds of a tournament of each with each, by the circle method (Kirkman, 1847), with
    places drawn by lot: everyone plays once in a round, one sits out where the number is odd. Two rounds or more
    leave nobody apart, so that every two players can be compared by way of others.

    There are no more rounds than it takes for each to meet each.
    """
    circle: list[int | None] = list(rng.sample(list(players), len(players)))
    if len(circle) % 2:
        circle.append(None)
    made = []
    for _ in range(min(rounds, len(circle) - 1)):
        half = len(circle) // 2
        facing = zip(circle[:half], reversed(circle[half:]), strict=True)
        made.append(sorted(_meeting(a, b) for a, b in facing if a is not None and b is not None))
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return made


def swiss_round(
    players: Sequence[int], points: Mapping[int, float], met: Collection[Meeting], rng: random.Random
) -> list[Meeting]:
    """The next round of a Swiss tournament: those with about equal points meet, nobody meets the same again, and
    who is level is ordered by lot. Where the number is odd, one of those who have played most sits out, the last
    by points.

    All play as long as each has half of the others left to meet, so for half as many rounds as there are players.
    Later some may have to sit out, and none is left to play when all have met.
    """
    games = Counter(player for pair in met for player in pair)
    order = sorted(rng.sample(list(players), len(players)), key=lambda p: -points.get(p, 0.0))
    if len(order) % 2 == 0:
        return sorted(_paired(order, met))
    last_first = sorted(order, key=lambda p: (games[p], order.index(p)), reverse=True)
    rounds = (_paired([p for p in order if p != out], met) for out in last_first)
    best: list[Meeting] = []
    for found in rounds:
        best = max(best, found, key=len)
        if len(best) == len(order) // 2:
            break
    return sorted(best)


def _paired(order: Sequence[int], met: Collection[Meeting]) -> list[Meeting]:
    """Everyone with the nearest below whom they have not met; then, for each two that are left over, one pair is
    parted to go with them. By the argument of Dirac (1952) there is such a pair where each of the two could still
    meet half of the others."""
    left, made, over = list(order), list[Meeting](), list[int]()
    while left:
        first = left.pop(0)
        partner = next((p for p in left if _meeting(first, p) not in met), None)
        if partner is None:
            over.append(first)
        else:
            left.remove(partner)
            made.append(_meeting(first, partner))
    for a, b in combinations(over, 2):
        if a in over and b in over and (parted := _to_part(a, b, made, met)):
            at, added = parted
            made[at : at + 1] = added
            over = [p for p in over if p not in (a, b)]
    return made


def _to_part(
    a: int, b: int, made: Sequence[Meeting], met: Collection[Meeting]
) -> tuple[int, list[Meeting]] | None:
    """Which pair to part so that its two can go with `a` and `b`, the one made last first; and who meets then."""
    for at in reversed(range(len(made))):
        for x, y in (made[at], made[at][::-1]):
            added = [_meeting(a, x), _meeting(b, y)]
            if not any(pair in met for pair in added):
                return at, added
    return None


def _meeting(a: int, b: int) -> Meeting:
    return (a, b) if a < b else (b, a)


def balanced_orders(items: Sequence[T], count: int, rng: random.Random) -> list[list[T]]:
    """`count` orders of the items, the first drawn by lot, the next ones rotations of it: in each run of as many
    orders as there are items, each item stands once in each place.

    The places are those of Williams' design (1949): with an even number of items each also follows each other one
    once, and every second order is the one before it backwards, so that two orders already even out a judge's
    liking for the top.
    """
    size = len(items)
    zigzag = [j // 2 if j % 2 == 0 else size - (j + 1) // 2 for j in range(size)]
    if size % 2:
        turns = [k * (size // 2) % size for k in range(size)]
    else:
        turns = [k // 2 + k % 2 * (size // 2) for k in range(size)]
    made: list[list[T]] = []
    while len(made) < count and size:
        first = rng.sample(list(items), size)
        ring = [first[zigzag.index(k)] for k in range(size)]
        made += [[ring[(place + turn) % size] for place in zigzag] for turn in turns]
    return made[:count]
