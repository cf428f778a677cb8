"""Votes become a score by a named rule, whatever their order."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpref.core.types import Vote
from synthpref.core.votes import NOT_ASKED, AnyTie, Reducer, Rule, TieRule, ballots, pool, too_few


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
        ([7, 7, 3, 2], "majority", "abstain", None),
        ([7, 7, 3, 2], "majority", "lowest", 2),
        ([7, 7, 3, 2], "majority", "highest", 7),
        ([7, 7, 3, 2], "majority", "mean", 4),
        ([7, 7, 7, 3, 2], "majority", "abstain", 7),
        ([7, 7, 3, 2], "multimode", "abstain", 7),
        ([7, 7, 3, 2], "multimode", "lowest", 7),
        ([7, 7, 3, 3, 9], "multimode", "abstain", None),
        ([7, 7, 3, 3, 9], "multimode", "lowest", 3),
        ([7, 7, 3, 3, 9], "multimode", "highest", 7),
        ([7, 7, 3, 3, 9], "multimode", "mean", 5),
        ([1, 1, 0, 0, 0.5], "multimode", "abstain", None),
        ([1, 1, 0, 0.5, 0.5], "multimode", "abstain", None),
        ([1, 1, 0, 0.5], "multimode", "abstain", 1),
        ([2, 4, 9], "minimum", "abstain", 2),
        ([4, 4], "minimum", "highest", 4),
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
    st.sampled_from(get_args(Reducer)),
)
def test_order_never_shows(values: list[float], random: object, reducer: Reducer) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for tie in ("abstain", "lowest", "highest", "mean"):
        one, other = pool(votes(*values), reducer, tie=tie), pool(votes(*shuffled), reducer, tie=tie)  # type: ignore[arg-type]
        assert (one.value, one.why) == (other.value, other.why)
        assert one.value is None or min(values) <= one.value <= max(values)


# ---- ties that the order of the voters or of the verdicts settles


@pytest.mark.parametrize(
    ("values", "reducer", "tie", "score"),
    [
        ([0, 1], "majority", "first", 0),
        ([1, 0], "majority", "first", 1),
        ([3, 7, 7, 3], "multimode", "first", 3),
        ([9, 7, 3, 3, 7], "multimode", "first", 7),
        ([9, 7, 3, 3, 7], "majority", "first", 9),
        ([2, 9, 4, 5], "median", "first", 4),
        ([2, 9, 5, 4], "median", "first", 5),
        ([1, 0], "multimode", "tie", 0.5),
        ([1, 0.5], "majority", "tie", 0.5),
        ([1, 0.5], "majority", "mean", 0.75),
        ([1, 1, 0], "majority", "tie", 1),
    ],
)
def test_the_first_voter_or_a_tie(values: list[float], reducer: Reducer, tie: AnyTie, score: float) -> None:
    assert pool(votes(*values), reducer, tie=tie).value == score
    assert pool(votes(None, *values), reducer, tie=tie).value == score


# ---- a voter with several votes


def cast(*by_role: tuple[str, list[float | None]]) -> list[Vote]:
    return [
        Vote("model", v, None if v is not None else "empty reply", role=role)
        for role, values in by_role
        for v in values
    ]


def test_what_one_voter_says_several_times_is_one_ballot() -> None:
    said = cast(("a", [1, 1, 1, 1]), ("b", [0]), ("c", [0, None]))
    assert ballots(said) == [1, 0, 0]
    assert pool(said, "majority").value == 0
    assert pool(said).value == pytest.approx(1 / 3)
    assert pool(said, at_least=3).value is not None
    assert (
        pool(said, at_least=4).why == "too few votes: 3 of 3 have a value, 4 needed; the first: empty reply"
    )
    assert pool(cast(("", [1, 1, 1, 1]), ("", [0]), ("", [0]))).value == pytest.approx(4 / 6)


def test_a_voter_that_was_not_asked_is_no_failure() -> None:
    silent = Vote("model", None, NOT_ASKED, role="c", asked=False)
    assert not silent.failed
    assert pool([*cast(("a", [7]), ("b", [7])), silent], "majority").value == 7
    why = too_few([*cast(("a", [None]), ("b", [7])), silent], 2)
    assert why == "too few votes: 1 of 3 have a value, 2 needed; the first: empty reply"


# ---- when is a vote decided?

SCALE = (1.0, 3.0)
SAYS: list[float | None] = [1.0, 2.0, 3.0, None]
RULES = [
    Rule(reducer, tie, at_least)
    for reducer in get_args(Reducer)
    for tie in ("abstain", "lowest", "highest", "mean", "first", "tie")
    for at_least in (1, 3)
]


def outcome(rule: Rule, said: tuple[float | None, ...]) -> float | None:
    return rule.outcome([value for value in said if value is not None])


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.reducer}-{r.tie}-{r.at_least}")
@pytest.mark.parametrize("jurors", [2, 3, 4, 5])
def test_a_vote_is_decided_only_when_no_other_votes_could_change_it(rule: Rule, jurors: int) -> None:
    for heard in range(jurors):
        for said in product(SAYS, repeat=heard):
            left = jurors - heard
            values = [value for value in said if value is not None]
            if rule.decided(values, left, SCALE):
                possible = {outcome(rule, (*said, *rest)) for rest in product(SAYS, repeat=left)}
                assert possible == {outcome(rule, said)}


EXACT = [r for r in RULES if r.reducer in ("majority", "multimode") and r.tie in ("abstain", "tie")]
"""Where a tie is settled by the values themselves it may be certain sooner than is seen."""


@pytest.mark.parametrize("rule", EXACT, ids=lambda r: f"{r.reducer}-{r.tie}-{r.at_least}")
def test_a_vote_that_is_not_decided_could_still_turn(rule: Rule) -> None:
    """No juror is asked in vain."""
    for jurors in (3, 4, 5):
        for heard in range(1, jurors):
            for said in product(SAYS[:3], repeat=heard):
                values = [value for value in said if value is not None]
                if not rule.decided(values, jurors - heard, SCALE):
                    rest = product(SAYS, repeat=jurors - heard)
                    assert len({outcome(rule, (*said, *more)) for more in rest}) > 1


@given(st.data())
def test_asking_in_waves_ends_as_asking_everybody_does(data: Any) -> None:
    rule = data.draw(st.sampled_from([r for r in RULES if r.reducer != "mean"]))
    said = data.draw(st.lists(st.sampled_from(SAYS), min_size=2, max_size=9))
    asked = waves = 0
    while True:
        values = [value for value in said[:asked] if value is not None]
        left = len(said) - asked
        if rule.decided(values, left, SCALE):
            break
        more = rule.fewest(values, left, SCALE)
        assert 1 <= more <= left
        asked += more
        waves += 1
    assert outcome(rule, tuple(said[:asked])) == outcome(rule, tuple(said))
    assert waves <= len(said)


@pytest.mark.parametrize(
    ("rule", "jurors", "first"),
    [
        (Rule("majority"), 3, 2),
        (Rule("majority"), 5, 3),
        (Rule("multimode"), 5, 3),
        (Rule("median"), 5, 3),
        (Rule("minimum"), 5, 1),
        (Rule("majority", at_least=5), 5, 5),
        (Rule("mean"), 5, 5),
    ],
)
def test_the_first_wave_is_as_small_as_it_can_be(rule: Rule, jurors: int, first: int) -> None:
    assert rule.fewest([], jurors, SCALE) == first
