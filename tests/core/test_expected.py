"""The expectation over verdict tokens: which token is the verdict's, and what its alternatives say."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpref.core.expected import (
    expected_score,
    mean_of,
    menu_odds,
    number_odds,
    spoken,
    superiority,
)
from synthpref.core.json_parts import json_places
from synthpref.core.parse import Parsed, labels, parse_score, parse_scores, parse_winner
from synthpref.core.seam import TokenLogprob

TEN = (1.0, 10.0)
Part = str | tuple[str, dict[str, float]]


def tokens(*parts: Part) -> list[TokenLogprob]:
    """Tokens, each certain or with its alternatives."""
    made = []
    for part in parts:
        text, top = part if isinstance(part, tuple) else (part, {part: 1.0})
        alternatives = tuple((token, math.log(p)) for token, p in top.items())
        made.append(TokenLogprob(text, math.log(top[text]), alternatives))
    return made


def expected(*parts: Part, scale: tuple[float, float] = TEN, min_mass: float = 0.5) -> Parsed[float]:
    made = tokens(*parts)
    return expected_score(made, parse_score(spoken(made), scale), scale, min_mass=min_mass)


def winner(*parts: Part, ties: bool = True) -> Parsed[dict[str, float]]:
    made = tokens(*parts)
    menu = ["A", "B", "tie"] if ties else ["A", "B"]
    odds = menu_odds(made, parse_winner(spoken(made), ties=ties), menu)
    return Parsed(None if odds.value is None else dict(odds.value), odds.why, odds.rationale)


# ---- numbers


def test_the_expectation_over_whole_number_tokens() -> None:
    at = ("7", {"7": 0.5, "8": 0.3, "10": 0.1, "x": 0.1})
    parsed = expected('{"reasoning": "7 of 9", ', '"score"', ": ", at, "}")
    assert parsed.value == pytest.approx((7 * 0.5 + 8 * 0.3 + 10 * 0.1) / 0.9)
    assert parsed.rationale == "7 of 9"


def test_spaces_and_quotes_around_a_token_do_not_matter() -> None:
    at = (" 7", {" 7": 0.4, "7": 0.2, ' "8': 0.4})
    assert expected("Score:", at).value == pytest.approx(7.4)


SURE, TORN = ("7", {"7": 1.0}), ("7", {"7": 0.5, "3": 0.5})


@pytest.mark.parametrize(
    "parts",
    [
        ("Score: ", SURE, "\nFinal score: ", TORN),
        ("Score: ", SURE, "\nFinal score: [[", TORN, "]]"),
        ("Score: ", SURE, '\n{"score": ', TORN, "}"),
        ('{"score": ', SURE, '} On second thought: {"score": ', TORN, "}"),
        ('{"score": ', TORN, "}\nScore: ", SURE, "/10"),
        ('{"score": ', TORN, '}\nIt gives itself {"rating": ', SURE, "}"),
        ('{"reasoning": "It says "score": 3", "score": ', TORN, "}"),
        ('{"score": ', TORN, ', "reasoning": "It says "score": 3"}'),
        ('{"reasoning": "They ask for a score: ', SURE, '.", "score": ', TORN, "}"),
        ('{"reasoning": "It says \\"score\\": ', SURE, '", "score": ', TORN, "}"),
        ('{"score": ', TORN, ', "reasoning": "It says \\"score\\": ', SURE, '"}'),
        ('{"score": ', TORN, ', "reasoning": "a score of ', SURE, '"}'),
        ('{"parts": {"wit": ', SURE, '}, "score": "', TORN, '/10"}'),
        ('{"score": ', TORN, ', "details": {"score": 3}}'),
        ('{"score": ', TORN, ', "details": {"score": ', SURE, "}}"),
        ('{"a": {"score": ', SURE, '}, "b": {"c": {"score": ', TORN, "}}}"),
        ("", TORN, "/10"),
        ("A score of ", SURE, " is for the best.\n", TORN),
        ('```json\n{"score":', (" 7", {" 7": 0.5, " 3": 0.5}), "}\n```"),
    ],
)
def test_the_verdict_that_binds_is_the_one_that_is_weighed(parts: tuple[Part, ...]) -> None:
    assert expected(*(part for part in parts if part)).value == pytest.approx(5)


def test_a_reply_too_long_to_be_parsed_whole_is_weighed_where_it_was_read() -> None:
    assert expected("word " * 20_000, "\nScore: ", TORN).value == pytest.approx(5)
    assert expected("word " * 20_000, '{"score": ', TORN, "}").value == pytest.approx(5)


def test_a_long_value_beside_the_verdict_takes_no_time() -> None:
    assert expected('{"note": "', " " * 40_000, '", "score": ', TORN, "}").value == pytest.approx(5)


def test_ten_in_two_tokens() -> None:
    one, zero = ("1", {"1": 0.8, "9": 0.2}), ("0", {"0": 0.75, "}": 0.25})
    assert expected('{"score": ', one, zero, "}").value == pytest.approx(10 * 0.6 + 1 * 0.2 + 9 * 0.2)


def test_a_hundred_in_three_tokens() -> None:
    hundred = [("1", {"1": 0.9, "7": 0.1}), ("0", {"0": 0.5, "5": 0.5}), ("0", {"0": 0.8, "}": 0.2})]
    made = expected('{"score": ', *hundred, "}", scale=(0, 100))
    # 100 and 10 on the path that was taken, 15 beside it; "7" may have been the beginning of 70 to 79.
    mass = 0.9 * 0.5 * 0.8, 0.9 * 0.5 * 0.2, 0.9 * 0.5
    assert made.value == pytest.approx((100 * mass[0] + 10 * mass[1] + 15 * mass[2]) / sum(mass))


def test_an_alternative_that_may_be_half_a_number_is_not_counted() -> None:
    at = ("9", {"9": 0.6, "1": 0.4})
    assert expected("Score: ", at).value == pytest.approx(9)
    assert expected("Score: ", at, scale=(1, 9)).value == pytest.approx(0.6 * 9 + 0.4)


def test_too_little_mass_is_no_score() -> None:
    at = ("7", {"7": 0.3, "seven": 0.7})
    parsed = expected("Score: ", at)
    assert parsed.value is None
    assert (parsed.why or "").startswith("too little mass on the scale: 0.30")
    assert expected("Score: ", at, min_mass=0.2).value == pytest.approx(7)


def test_no_expectation_without_a_verdict() -> None:
    assert (expected("I like ", "it").why or "").startswith("no verdict found")
    assert (expected("Score: ", ("12", {"12": 1.0})).why or "").startswith("score off the scale")
    assert (expected("Score: 3\nScore: ", ("12", {"12": 1.0})).why or "").startswith(
        "two verdicts that differ"
    )


@given(
    weights=st.lists(st.floats(0.01, 1), min_size=10, max_size=10),
    said=st.integers(1, 10),
    after=st.booleans(),
)
def test_the_expectation_is_that_of_the_distribution(weights: list[float], said: int, after: bool) -> None:
    odds = {str(n): w / sum(weights) for n, w in enumerate(weights, 1)}
    reason = '"reasoning": "score: 3, or \\"score\\": 4?"'
    parts: list[Part] = ['{"score": ', (str(said), odds), f", {reason}}}"]
    if not after:
        parts = [f"{{{reason}, ", *parts[:1], parts[1], "}"]
        parts[1] = '"score": '
    value = expected(*parts).value
    assert value == pytest.approx(sum(int(n) * p for n, p in odds.items()))
    assert value is not None
    assert 1 <= value <= 10


# ---- scores under labels


@pytest.mark.parametrize(
    "reply",
    [
        ('{"scores": {"1": ', 0, ', "2": ', 1, "}}"),
        ('{"scores": {"2": ', 1, ', "1": ', 0, "}}"),
        ('{"1": {"score": ', 0, ', "reasoning": "2: 7"}, "2": {"score": ', 1, "}}"),
        ("Response 1: ", 0, "\nResponse 2: ", 1, ""),
        ("1: ", 0, "/10\n2: ", 1, "/10"),
        ('Response 1: 7\nResponse 2: 7\n{"scores": {"response 1": ', 0, ', "response 2": ', 1, "}}"),
    ],
)
def test_each_label_has_its_own_token(reply: tuple[str | int, ...]) -> None:
    places: list[Part] = [("7", {"7": 0.5, "3": 0.5}), ("7", {"7": 0.5, "9": 0.5})]
    made = tokens(*(places[part] if isinstance(part, int) else part for part in reply if part != ""))
    said = parse_scores(spoken(made), ["1", "2"], TEN)
    found = {
        name: mean_of(number_odds(made, said[name], TEN, names=labels(name)), TEN).value for name in said
    }
    assert found == {"1": pytest.approx(5), "2": pytest.approx(8)}


# ---- winners


LIKELY = ("A", {"A": 0.6, "B": 0.1, "tie": 0.3})


@pytest.mark.parametrize(
    "parts",
    [
        ('{"winner": "', LIKELY, '"}'),
        ('{"winner": "', LIKELY, '", "reasoning": "Winner: B"}'),
        ('{"reasoning": "B is short, A is not", "winner": "', LIKELY, '"}'),
        ('{"winner": "Response ', LIKELY, '"}'),
        ("Winner: A\nYes. Winner: ", LIKELY, ""),
        ("B is too long.\n[[", LIKELY, "]]"),
        ('{"winner": "', LIKELY, '"}\nFinal verdict: B.'),
        ("Therefore, Response ", LIKELY, " is better."),
        ('{"winner":', (' "A"', {' "A"': 0.6, ' "B"': 0.1, ' "tie"': 0.3}), "}"),
        ('{"winner": "', ("A", {"A": 0.5, "a": 0.1, "B": 0.1, "t": 0.2, "T": 0.05, "ti": 0.05}), '"}'),
    ],
)
def test_the_probability_of_each_winner(parts: tuple[Part, ...]) -> None:
    said = winner(*(part for part in parts if part))
    assert said.value == {"A": pytest.approx(0.6), "B": pytest.approx(0.1), "tie": pytest.approx(0.3)}


def test_words_off_the_menu_are_left_out() -> None:
    at = ("B", {"B": 0.4, "A": 0.2, "C": 0.2, "tie": 0.2})
    assert winner('{"winner": "', at, '"}', ties=False).value == {
        "A": pytest.approx(1 / 3),
        "B": pytest.approx(2 / 3),
    }
    rare = ("A", {"A": 0.2, "C": 0.8})
    assert (winner('{"winner": "', rare, '"}').why or "").startswith("too little mass on the menu: 0.20")
    assert (winner("Who knows").why or "").startswith("no verdict found")


def test_the_beginning_of_two_words_counts_for_neither() -> None:
    made = tokens(("best", {"best": 0.5, "be": 0.2, "bett": 0.3}))
    odds = menu_odds(made, Parsed("best", at=0), ["best", "better"])
    assert odds.value == {"best": pytest.approx(0.625), "better": pytest.approx(0.375)}


ODDS = st.dictionaries(st.integers(1, 10), st.floats(0.01, 1), min_size=1).map(
    lambda weights: {n: w / sum(weights.values()) for n, w in weights.items()}
)


@given(ODDS, ODDS)
def test_the_two_sides_of_a_superiority_add_up(a: dict[int, float], b: dict[int, float]) -> None:
    assert superiority(a, b) + superiority(b, a) == pytest.approx(1)
    assert superiority(a, a) == pytest.approx(0.5)
    above = {n + 10: p for n, p in b.items()}
    assert superiority(above, a) == pytest.approx(1)


def test_superiority_by_hand() -> None:
    assert superiority({7: 0.5, 8: 0.5}, {7: 1.0}) == pytest.approx(0.75)
    assert superiority({5: 0.5, 9: 0.5}, {6: 0.4, 9: 0.6}) == pytest.approx(0.5 * 0.4 + 0.5 * 0.6 / 2)


# ---- places in JSON

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=12,
)


def leaves(value: object, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves(inner, path)]
    return [(path, value)]


@given(st.dictionaries(st.text(min_size=1), VALUES, max_size=4), st.sampled_from([None, 2]))
def test_every_value_of_a_json_object_is_found_with_its_keys(
    tree: dict[str, object], indent: int | None
) -> None:
    before = 'Not {"this"} '
    text = before + json.dumps(tree, indent=indent) + ' nor {"that": 1}'
    found = []
    for path, at in json_places(text, len(before)):
        start = at - 1 if text[at - 1] == '"' else at
        found.append((path, json.JSONDecoder().raw_decode(text, start)[0]))
    assert found == leaves(tree)
