"""Verdicts on two responses become one outcome by a named rule."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpref.core.verdicts import Disagree, flipped, leaning, majority, outcome

W, L, T = 1.0, 0.0, 0.5


def test_what_a_share_leans_to() -> None:
    assert [leaning(share) for share in (1.0, 0.51, 0.5, 0.49, 0.0)] == [W, W, T, L, L]


@pytest.mark.parametrize(
    ("shares", "most"),
    [
        ([W], W),
        ([W, W, L], W),
        ([W, L, L], L),
        ([W, L], T),
        ([T, T, W], T),
        ([W, W, T, T], T),
        ([W, L, T], T),
        ([0.9, 0.6, 0.0], W),
        ([0.2, 0.4, 1.0], L),
    ],
)
def test_the_majority_is_a_single_most_frequent_verdict_or_a_tie(shares: list[float], most: float) -> None:
    assert majority(shares) == most
    assert majority(shares[::-1]) == most
    assert majority([1 - share for share in shares]) == 1 - most


@pytest.mark.parametrize(
    ("sides", "is_flip"),
    [
        ([[W], [W]], False),
        ([[W], [L]], True),
        ([[W], [T]], False),
        ([[T], [T]], False),
        ([[W], []], False),
        ([[W]], False),
        ([[W, W, L], [L, L, W]], True),
        ([[W, L], [L]], False),
        ([[0.7], [0.4]], True),
    ],
)
def test_what_is_a_flip(sides: list[list[float]], is_flip: bool) -> None:
    assert flipped(sides) is is_flip
    assert flipped(sides[::-1]) is is_flip


TABLE: list[tuple[list[list[float]], Disagree, bool, float | None]] = [
    # One verdict an order: what the average and the tie rule make of it.
    ([[W], [W]], "average", False, 1.0),
    ([[W], [W]], "tie", False, 1.0),
    ([[L], [L]], "tie", False, 0.0),
    ([[W], [L]], "average", False, 0.5),
    ([[W], [L]], "tie", False, 0.5),
    ([[W], [T]], "average", False, 0.75),
    ([[W], [T]], "tie", False, 0.5),
    ([[T], [T]], "tie", False, 0.5),
    # An order without a verdict is no tie.
    ([[W], []], "average", False, 1.0),
    ([[W], []], "tie", False, None),
    ([[], []], "average", False, None),
    ([[], []], "tie", False, None),
    ([[], []], "reask", False, None),
    ([], "average", False, None),
    # Repeats: their mean, or each order's majority.
    ([[W, W, L], [W, L, L]], "average", False, 0.5),
    ([[W, W, W], [W, L, L]], "average", False, 4 / 6),
    ([[W, W, W], [W, L, L]], "average", True, 0.5),
    ([[W, W, L], [W, W, L]], "average", False, 4 / 6),
    ([[W, W, L], [W, W, L]], "average", True, 1.0),
    ([[W, W, L], [W, W, L]], "tie", True, 1.0),
    ([[W, W, L], [W, T, T]], "tie", True, 0.5),
    ([[W, L], [W, W]], "tie", True, 0.5),
    # Where repeats are averaged, the tie rule looks at which way the average leans.
    ([[W, W, L], [W, T, T]], "tie", False, 1.0),
    # Probabilities.
    ([[0.8], [0.6]], "average", False, 0.7),
    ([[0.8], [0.6]], "tie", False, 1.0),
    ([[0.8], [0.4]], "tie", False, 0.5),
    # Nothing was asked again.
    ([[W], [W]], "reask", False, 1.0),
    ([[W], [T]], "reask", False, 0.75),
]


@pytest.mark.parametrize(("sides", "disagree", "by_majority", "p"), TABLE)
def test_the_outcome(
    sides: list[list[float]], disagree: Disagree, by_majority: bool, p: float | None
) -> None:
    assert outcome(sides, disagree=disagree, by_majority=by_majority) == (
        p if p is None else pytest.approx(p)
    )


@pytest.mark.parametrize(
    ("more", "p"),
    [
        ([[W], [W]], 1.0),
        ([[L], [L]], 0.0),
        ([[W], [L]], 0.5),
        ([[T], [T]], 0.5),
        ([[W], [T]], 1.0),
        ([[W], []], 1.0),
        ([[], []], 0.5),
        ([[W], [L], [W], [W]], 1.0),
    ],
)
def test_the_majority_of_all_decides_what_was_asked_again(more: list[list[float]], p: float) -> None:
    assert outcome([[W], [L]], more, disagree="reask") == p


SIDE = st.lists(st.sampled_from([W, L, T, 0.3, 0.9]), max_size=5)


@given(
    st.lists(SIDE, min_size=2, max_size=2),
    st.sampled_from(["average", "tie", "reask"]),
    st.booleans(),
    st.booleans(),
)
def test_neither_the_names_nor_the_order_matter(
    sides: list[list[float]], disagree: Disagree, by_majority: bool, again: bool
) -> None:
    more = sides if again and disagree == "reask" else []
    p = outcome(sides, more, disagree=disagree, by_majority=by_majority)
    mixed = [random.Random(1).sample(side, len(side)) for side in reversed(sides)]
    turned = [[1 - share for share in side] for side in sides]
    assert outcome(mixed, more, disagree=disagree, by_majority=by_majority) == p
    other = outcome(
        turned, [[1 - s for s in side] for side in more], disagree=disagree, by_majority=by_majority
    )
    if p is None:
        assert other is None
        assert not all(sides)
    else:
        assert 0 <= p <= 1
        assert other == pytest.approx(1 - p)
