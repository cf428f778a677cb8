"""Votes become a score by a named rule, whatever their order."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpref.core.types import Vote
from synthpref.core.votes import Reducer, TieRule, pool


def votes(*values: float | None) -> list[Vote]:
    return [Vote(f"j{i}", v, None if v is not None else "refused: no") for i, v in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "reducer", "tie", "score"),
    [
        ([2, 4, 9], "mean", "abstain", 5),
        ([2, 4, 9], "median", "abstain", 4),
        ([2, 4, 5, 9], "median", "abstain", None),
        ([2, 4, 5, 9], "median", "lowest", 4),
        ([2, 4, 5, 9], "median", "highest", 5),
        ([2, 4, 5, 9], "median", "mean", 4.5),
        ([2, 4, 4, 9], "median", "abstain", 4),
        ([7, 7, 3], "majority", "abstain", 7),
        ([7, 7, 3, 3], "majority", "abstain", None),
        ([7, 7, 3, 3], "majority", "lowest", 3),
        ([7, 7, 3, 3], "majority", "highest", 7),
        ([7, 7, 3, 3], "majority", "mean", 5),
        ([1, 2, 3], "majority", "abstain", None),
        ([1, 0, 0.5], "majority", "mean", 0.5),
        ([6], "majority", "abstain", 6),
    ],
)
def test_reducers_and_ties_in_every_order(
    values: list[float], reducer: Reducer, tie: TieRule, score: float | None
) -> None:
    for order in permutations(values):
        pooled = pool(votes(*order), reducer, tie=tie)
        assert pooled.value == score
        assert score is not None or (pooled.why or "").startswith("tied votes: ")
        assert len(pooled.votes) == len(values)


def test_a_tie_rule_does_not_touch_a_clear_result() -> None:
    for tie in ("abstain", "lowest", "highest", "mean"):
        assert pool(votes(7, 7, 3), "majority", tie=tie).value == 7  # type: ignore[arg-type]
        assert pool(votes(2, 4, 9), "median", tie=tie).value == 4  # type: ignore[arg-type]


def test_a_vote_without_a_value_is_not_counted_as_anything() -> None:
    assert pool(votes(8, None, 6)).value == 7
    assert pool(votes(8, None, None), "majority").value == 8
    assert pool(votes(4, None, 8), "median", tie="lowest").value == 4
    assert len(pool(votes(8, None, 6)).votes) == 3


def test_too_few_votes_make_no_score() -> None:
    assert pool(votes(8, None), at_least=2).value is None
    why = "too few votes: 1 of 2 have a value, 2 needed; the first: refused: no"
    assert pool(votes(8, None), at_least=2).why == why
    assert pool(votes(8, 6), at_least=2).value == 7
    assert pool(votes(None)).why == "refused: no"
    assert pool([]).why == "too few votes: 0 of 0 have a value, 1 needed"


@given(
    st.lists(st.floats(1, 10), min_size=1, max_size=7),
    st.randoms(),
    st.sampled_from(["mean", "median", "majority"]),
)
def test_order_never_shows(values: list[float], random: object, reducer: Reducer) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for tie in ("abstain", "lowest", "highest", "mean"):
        one, other = pool(votes(*values), reducer, tie=tie), pool(votes(*shuffled), reducer, tie=tie)  # type: ignore[arg-type]
        assert (one.value, one.why) == (other.value, other.why)
        assert one.value is None or min(values) <= one.value <= max(values)
