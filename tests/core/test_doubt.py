"""How sure a pair is: where p comes from, and whether its interval covers what it says."""

from __future__ import annotations

import math
import random
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpref.core.doubt import doubted
from synthpref.core.intervals import wilson
from synthpref.core.ranking import probabilities
from synthpref.core.types import Comparison, Pair, Row, Sample, Score, Vote

PAIR = Pair(0, 1, "extremes", margin=1.0)


def vote(value: float | None, role: str = "", judge: str = "j", **fields: Any) -> Vote:
    return Vote(judge, value, None if value is not None else "empty reply", role=role, **fields)


def compared(*votes: Vote, a: int = 0, b: int = 1, name: str = "s", p: float | None = None) -> Comparison:
    values = [v.value for v in votes if v.value is not None]
    return Comparison(
        name, a, b, (sum(values) / len(values) if values else None) if p is None else p, votes=votes
    )


def judged(*sides: list[Vote]) -> Row:
    samples = tuple(Sample(f"t{i}", scores={"s": Score(1.0, votes=tuple(s))}) for i, s in enumerate(sides))
    return Row(id="r", prompt=({"role": "user", "content": "Q"},), samples=samples)


def met(*comparisons: Comparison, samples: int = 2) -> Row:
    made = tuple(Sample(f"t{i}", scores={"s": Score(float(i))}) for i in range(samples))
    return Row(id="r", prompt=({"role": "user", "content": "Q"},), samples=made, comparisons=comparisons)


def told(row: Row, pair: Pair = PAIR) -> tuple[Any, ...]:
    (found,) = doubted(row, [pair], "s")
    return found.p, found.agreement, found.votes


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # One judge: each reply is a ballot; a tie is half of p, and on nobody's side.
        (met(compared(vote(1), vote(1))), (1, 1, 2)),
        (met(compared(vote(1), vote(0))), (0.5, 0.5, 2)),
        (met(compared(vote(1), vote(0.5), vote(0.5), vote(1))), (0.75, 0.5, 4)),
        (met(compared(vote(1), vote(None))), (1, 1, 1)),
        (met(compared(vote(1), vote(1), a=1, b=0)), (0, 0, 2)),
        (met(compared(vote(1), vote(1)), compared(vote(1), a=1, b=0)), (2 / 3, 2 / 3, 3)),
        (met(compared(vote(0.9), vote(0.6))), (0.75, 1, 2)),
        # Several jurors: all that one of them said is one ballot.
        (met(compared(vote(1, "a"), vote(1, "a"), vote(0, "b"), vote(1, "b"))), (0.75, 0.5, 2)),
        (met(compared(*[vote(1, "a")] * 9, vote(0, "b"))), (0.5, 0.5, 2)),
        (met(compared(vote(1, "a"), vote(None, "b", asked=False))), (1, 1, 1)),
        # The outcome of a jury's reducer is not the probability.
        (met(compared(vote(1, "a"), vote(1, "b"), vote(0, "c"), p=1.0)), (2 / 3, 2 / 3, 3)),
        # Unless it weighed them.
        (met(compared(vote(1, "a", reliability=0.6), vote(0, "b", reliability=0.9), p=0.2)), (0.2, 0.5, 2)),
        # No vote has a value, or none is kept.
        (met(compared(vote(None), vote(None))), (None, None, None)),
        (met(compared(p=0.75)), (0.75, None, None)),
        (met(compared(vote(1), name="other")), (None, None, None)),
        # Votes on each by itself: judge by judge, and repeat by repeat.
        (judged([vote(8)], [vote(3)]), (1, 1, 1)),
        (judged([vote(8), vote(3)], [vote(7), vote(3)]), (0.75, 0.5, 2)),
        (judged([vote(8), vote(None), vote(9)], [vote(3), vote(2), vote(10)]), (0.5, 0.5, 2)),
        (judged([vote(8, judge="x"), vote(2, judge="y")], [vote(5, judge="y"), vote(3, judge="x")]), (0.5, 0.5, 2)),
        (judged([vote(8, "a"), vote(9, "a"), vote(1, "b")], [vote(3, "a"), vote(9, "a"), vote(0, "b")]), (0.875, 1, 2)),
        (judged([vote(8, judge="x")], [vote(3, judge="y")]), (None, None, None)),
        (judged([], []), (None, None, None)),
    ],
)  # fmt: skip
def test_where_p_and_agreement_come_from(row: Row, expected: tuple[Any, ...]) -> None:
    assert told(row) == pytest.approx(expected)
    (found,) = doubted(row, [PAIR], "s")
    if found.votes:
        interval = wilson(found.p * found.votes, found.votes)
        assert (found.p_low, found.p_high) == pytest.approx((interval.low, interval.high))
    else:
        assert found.p_low is None
    assert (found.chosen, found.rejected, found.rule, found.margin) == (0, 1, "extremes", 1.0)


def test_one_vote_says_little_and_says_so() -> None:
    (found,) = doubted(met(compared(vote(1))), [PAIR], "s")
    assert found.p == 1
    assert found.p_low == pytest.approx(0.2065, abs=1e-4)
    assert found.votes == 1


def test_two_that_did_not_meet_are_told_by_their_strengths() -> None:
    games = [compared(vote(1), a=0, b=2), compared(vote(0.5), a=2, b=3), compared(vote(0), a=1, b=3)]
    (found, other) = doubted(met(*games, samples=5), [PAIR, Pair(4, 1, "x")], "s")
    expected = probabilities(5, [(c.a, c.b, c.p or 0.0) for c in games], [(0, 1)])[0]
    assert expected is not None
    assert (found.p, found.p_low, found.p_high) == pytest.approx(expected)
    assert (found.agreement, found.votes) == (None, None)
    assert (found.p or 0) > 0.5 > (found.p_low or 1)
    assert other.p is None, "response 4 met nobody"


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=8), st.integers(0, 3))
def test_turned_round_all_is_turned_round(values: list[float], unread: int) -> None:
    row = met(compared(*[vote(v) for v in values], *[vote(None)] * unread))
    (one,), (other,) = doubted(row, [PAIR], "s"), doubted(row, [Pair(1, 0, "x")], "s")
    assert one.p == pytest.approx(1 - (other.p or 0))
    assert one.p_low == pytest.approx(1 - (other.p_high or 0))
    assert (one.agreement or 0) + (other.agreement or 0) <= 1 + 1e-9
    assert (one.p_low or 0) <= (one.p or 0) <= (one.p_high or 0)


# ---- does the interval cover?


def covered(p: float, n: int, seeds: int, ties: float = 0.0) -> int:
    """In how many of `seeds` worlds, in each of which n jurors prefer the first response with probability p, the
    interval holds p."""
    held = 0
    for seed in range(seeds):
        rng = random.Random(f"{p}|{n}|{seed}")
        votes = []
        for juror in range(n):
            tie, wins = rng.random() < ties, rng.random() < p
            votes.append(vote(0.5 if tie else float(wins), f"j{juror}"))
        (found,) = doubted(met(compared(*votes)), [PAIR], "s")
        expected = (1 - ties) * p + ties / 2
        held += (found.p_low or 0) <= expected <= (found.p_high or 1)
    return held


@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_the_interval_covers_at_its_rate_over_all_p(n: int) -> None:
    """Taken over p from 0.05 to 0.95, 400 worlds each: 95 %, within three standard errors."""
    shares = [i / 20 for i in range(1, 20)]
    held, worlds = sum(covered(p, n, 400) for p in shares), 400 * len(shares)
    error = math.sqrt(0.95 * 0.05 / worlds)
    assert 0.95 - 3 * error < held / worlds < 0.98


def test_with_ties_it_is_wider_than_it_has_to_be() -> None:
    assert covered(0.7, 10, 400, ties=0.4) / 400 > 0.97


@pytest.mark.parametrize(("players", "games"), [(4, 5), (8, 2)])
def test_the_interval_by_strengths_covers_too(players: int, games: int) -> None:
    """All but the two in question met; 300 worlds. With few games it is wider than it has to be."""
    held = 0
    for seed in range(300):
        rng = random.Random(seed)
        strength = [rng.gauss(0, 1) for _ in range(players)]
        met_ = []
        for a, b in combinations(range(players), 2):
            if (a, b) != (0, 1):
                p = 1 / (1 + math.exp(strength[b] - strength[a]))
                met_ += [compared(vote(float(rng.random() < p)), a=a, b=b) for _ in range(games)]
        (found,) = doubted(met(*met_, samples=players), [PAIR], "s")
        expected = 1 / (1 + math.exp(strength[1] - strength[0]))
        held += (found.p_low or 0) <= expected <= (found.p_high or 1)
    assert held / 300 > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 300)


def test_a_pair_picked_as_the_extremes_of_many_looks_surer_than_it_is() -> None:
    """Eight responses of about the same quality, each scored by five jurors. New jurors side with chosen less often
    than those who picked the pair by the same votes; two responses taken at random show no such thing."""
    gap: dict[str, list[float]] = {"extremes": [], "random": []}
    for seed in range(200):
        rng = random.Random(seed)
        quality = [rng.gauss(0, 0.3) for _ in range(8)]

        def scores(of: list[float], rng: random.Random = rng) -> list[list[Vote]]:
            return [[vote(q + rng.gauss(0, 1), f"j{j}") for j in range(5)] for q in of]

        said, anew = scores(quality), scores(quality)
        means = [sum(v.value or 0 for v in votes) / 5 for votes in said]
        best, worst = means.index(max(means)), means.index(min(means))
        for rule, (a, b) in {"extremes": (best, worst), "random": rng.sample(range(8), 2)}.items():  # type: ignore[dict-item]
            (seen,) = doubted(judged(*said), [Pair(a, b, rule)], "s")
            (new,) = doubted(judged(*anew), [Pair(a, b, rule)], "s")
            gap[rule].append((seen.p or 0) - (new.p or 0))
    optimism = {rule: sum(found) / len(found) for rule, found in gap.items()}
    assert optimism["extremes"] > 0.1
    assert abs(optimism["random"]) < 0.05
