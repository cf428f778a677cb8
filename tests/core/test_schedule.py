"""Schedules: nobody meets the same twice, everyone plays about as often, and places are shared out."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpref.core.schedule import Meeting, all_pairs, balanced_orders, meetings, round_robin, swiss_round

PLAYERS = st.integers(0, 17).map(lambda n: list(range(3, 3 + n)))
SEEDS = st.integers(0, 1000)


def games(pairs: list[Meeting], players: list[int]) -> list[int]:
    played = Counter(player for pair in pairs for player in pair)
    return [played[player] for player in players]


def tournament(players: list[int], rounds: int, seed: int, strength: dict[int, float]) -> list[list[Meeting]]:
    """A Swiss tournament that the stronger always wins."""
    rng, points, met = random.Random(seed), dict[int, float](), list[Meeting]()
    made = []
    for _ in range(rounds):
        made.append(swiss_round(players, points, met, rng))
        met += made[-1]
        for a, b in made[-1]:
            winner = a if strength[a] > strength[b] else b
            points[winner] = points.get(winner, 0.0) + 1
    return made


# ---- each with each, and round robin


def test_all_meet_all() -> None:
    assert all_pairs([4, 2, 9]) == [(4, 2), (4, 9), (2, 9)]
    assert all_pairs([1]) == all_pairs([]) == []


@given(PLAYERS, st.integers(1, 20), SEEDS)
def test_a_round_robin_is_fair(players: list[int], rounds: int, seed: int) -> None:
    made = round_robin(players, rounds, random.Random(seed))
    pairs = [pair for part in made for pair in part]
    assert len(set(pairs)) == len(pairs) == meetings(len(players), rounds)
    assert all(a < b and {a, b} <= set(players) for a, b in pairs)
    for part in made:
        assert max(games(part, players), default=0) <= 1
        assert len(part) == len(players) // 2
    played = games(pairs, players)
    assert max(played, default=0) - min(played, default=0) <= 1
    if len(players) > 1:
        most = len(players) - 1
        assert max(played) == min(rounds, most)
    assert made == round_robin(players, rounds, random.Random(seed))


@given(PLAYERS, SEEDS)
def test_a_whole_round_robin_is_each_with_each(players: list[int], seed: int) -> None:
    made = round_robin(players, len(players), random.Random(seed))
    assert sorted(pair for part in made for pair in part) == all_pairs(players)
    assert meetings(len(players), len(players)) == len(all_pairs(players))


@given(st.integers(2, 17), st.integers(2, 5), SEEDS)
def test_after_two_rounds_all_can_be_compared_by_way_of_others(n: int, rounds: int, seed: int) -> None:
    together, todo = {0}, [0]
    pairs = [pair for part in round_robin(range(n), rounds, random.Random(seed)) for pair in part]
    while todo:
        at = todo.pop()
        near = {b if a == at else a for a, b in pairs if at in (a, b)} - together
        together |= near
        todo += near
    assert together == set(range(n))


def test_who_meets_whom_is_drawn_by_lot() -> None:
    first = Counter(pair for seed in range(300) for pair in round_robin(range(4), 1, random.Random(seed))[0])
    assert set(first) == set(combinations(range(4), 2))
    assert min(first.values()) > 60


# ---- Swiss


@given(PLAYERS, st.integers(1, 18), SEEDS)
def test_a_swiss_tournament_has_no_rematch(players: list[int], rounds: int, seed: int) -> None:
    strength = {player: random.Random(f"{seed} {player}").random() for player in players}
    made = tournament(players, rounds, seed, strength)
    pairs = [pair for part in made for pair in part]
    assert len(set(pairs)) == len(pairs) <= meetings(len(players), rounds)
    assert all(a < b and {a, b} <= set(players) for a, b in pairs)
    assert all(max(games(part, players), default=0) <= 1 for part in made)
    assert made == tournament(players, rounds, seed, strength)


@given(st.integers(2, 33), SEEDS)
def test_all_play_in_each_of_the_first_rounds(n: int, seed: int) -> None:
    players = list(range(n))
    strength = {player: random.Random(f"{seed} {player}").random() for player in players}
    rounds = max(1, n // 2)
    made = tournament(players, rounds, seed, strength)
    assert [len(part) for part in made] == [n // 2] * rounds
    played = games([pair for part in made for pair in part], players)
    assert max(played) - min(played) <= 1


def test_equals_meet() -> None:
    points = {0: 2.0, 1: 1.0, 2: 0.0, 3: 2.0, 4: 1.0, 5: 0.0}
    assert swiss_round(range(6), points, [], random.Random(0)) == [(0, 3), (1, 4), (2, 5)]
    # The nearest below is met already: 0 and 3 go on to the next.
    assert swiss_round(range(6), points, [(0, 3), (1, 4)], random.Random(0))[0] in {(0, 1), (0, 4)}


def test_the_last_of_those_who_played_most_sits_out() -> None:
    points = {0: 3.0, 1: 2.0, 2: 1.0}
    assert swiss_round(range(3), points, [], random.Random(0)) == [(0, 1)]
    assert swiss_round(range(3), points, [(0, 1)], random.Random(0)) == [(0, 2)]
    assert swiss_round(range(3), points, [(0, 1), (0, 2)], random.Random(0)) == [(1, 2)]
    assert swiss_round(range(3), points, [(0, 1), (0, 2), (1, 2)], random.Random(0)) == []


def test_a_pair_is_parted_where_two_would_be_left_over() -> None:
    # In order of points 0 goes with 1, which leaves 2 and 3, who have met.
    points = {0: 3.0, 1: 2.0, 2: 1.0, 3: 0.0}
    assert swiss_round(range(4), points, [(2, 3)], random.Random(0)) in ([(0, 2), (1, 3)], [(0, 3), (1, 2)])


def test_a_swiss_tournament_of_few_rounds_finds_the_best() -> None:
    for seed in range(50):
        strength = {player: random.Random(f"{seed} {player}").random() for player in range(16)}
        made = tournament(list(range(16)), 4, seed, strength)
        wins = Counter(a if strength[a] > strength[b] else b for part in made for a, b in part)
        assert wins[max(strength, key=lambda p: strength[p])] == 4
        assert max(Counter(wins.values()).items())[1] == 1


# ---- orders


@given(st.integers(1, 12), st.integers(0, 30), SEEDS)
def test_each_stands_once_in_each_place(n: int, count: int, seed: int) -> None:
    items = [f"item {i}" for i in range(n)]
    made = balanced_orders(items, count, random.Random(seed))
    assert len(made) == count
    assert all(sorted(order) == sorted(items) for order in made)
    for start in range(0, count - n + 1, n):
        for place in range(n):
            assert {order[place] for order in made[start : start + n]} == set(items)
    assert made == balanced_orders(items, count + 3, random.Random(seed))[:count], (
        "more repeats keep the first"
    )
    if made:
        assert made[0] == random.Random(seed).sample(items, n)


@pytest.mark.parametrize("n", [2, 4, 6, 8, 10])
def test_each_follows_each_other_one_once_where_their_number_is_even(n: int) -> None:
    made = balanced_orders(range(n), n, random.Random(1))
    follows = Counter(two for order in made for two in pairwise(order))
    assert len(follows) == n * (n - 1)
    assert set(follows.values()) == {1}
    for one, other in zip(made[::2], made[1::2], strict=True):
        assert one == other[::-1]


@pytest.mark.parametrize("n", [3, 5, 7, 9])
def test_two_orders_of_an_odd_number_come_close_to_even(n: int) -> None:
    for seed in range(20):
        one, other = balanced_orders(range(n), 2, random.Random(seed))
        assert all(abs(one.index(i) + other.index(i) - (n - 1)) <= 1 for i in range(n))


def test_nothing_to_order() -> None:
    assert balanced_orders([], 3, random.Random(0)) == []
