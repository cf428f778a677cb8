"""A reply becomes a value or a reason, and nothing is guessed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpref.core.parse import (
    parse_choice,
    parse_score,
    parse_scores,
    parse_winner,
)
from synthpref.core.texts import parse_prompts, parse_text_field

TEN = (1.0, 10.0)
REASONED = '{"reasoning": "It is right.", "score": 7}'


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        (REASONED, 7),
        (f"```json\n{REASONED}\n```", 7),
        (f"Here is my verdict:\n{REASONED}\nI hope this helps.", 7),
        ('{"score": "7"}', 7),
        ('{"score": "7/10"}', 7),
        ('{"Score": 7.0}', 7),
        ('{"rating": 7}', 7),
        ('{"result": {"score": 7}}', 7),
        ('[{"score": 7}]', 7),
        ('{"reasoning": "a\nb", "score": 7}', 7),
        ('{"reasoning": "The "best" one", "score": 7}', 7),
        ('{"reasoning": "ok", "score": 7,}', 7),
        ("Rating: [[7]]", 7),
        ("I find it good. [[ 7 ]]", 7),
        ("Score: 7/10", 7),
        ("Score: 7 out of 10", 7),
        ("**Score:** 7", 7),
        ("**Score**: **7**", 7),
        ("Final score = 7", 7),
        ("My rating is 7.", 7),
        ("Score (1-10): 7", 7),
        ("It gets an overall score of 7.", 7),
        ("The grade: 7", 7),
        ("Score:\n7", 7),
        ("7/10", 7),
        ("7 out of 10.", 7),
        ("**8**", 8),
        ("8", 8),
        ("8.\n\nIt is clear and right.", None),
        ("8\n\nIt is clear and right.", 8),
        ("It is clear and right.\n\n8", 8),
        ("I would give this response 6/10.", 6),
        ("10/10", 10),
    ],
)
def test_scores_that_are_said(reply: str, score: float | None) -> None:
    assert parse_score(reply, TEN).value == score


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("", "empty reply"),
        ("  \n ", "empty reply"),
        ("Score: 11", "score off the scale"),
        ("Score: 0", "score off the scale"),
        ("Score: -3", "score off the scale"),
        ('{"score": 11}', "score off the scale"),
        ('{"score": 1e999}', "score off the scale"),
        ('{"score": ' + "9" * 400 + "}", "score off the scale"),
        ('{"score": 7.5}', "score off the scale"),
        ("Score: 7/5", "score on another scale"),
        ("Score: 4/100", "score on another scale"),
        ('{"score": "7/5"}', "score on another scale"),
        ("Score: N/A", "no score given"),
        ('{"score": "N/A"}', "no score given"),
        ('{"score": null}', "score is not a number"),
        ('{"score": NaN}', "score is not a number"),
        ('{"score": true}', "score is not a number"),
        ('{"score": "high"}', "score is not a number"),
        ('{"score": [7]}', "score is not a number"),
        ("Score: 7-8", "score is not a number"),
        ("Score: 7 to 8", "score is not a number"),
        ("Score: 7%", "score is not a number"),
        ("Score: 7,5", "score is not a number"),
        ("The response lists 3 of the 7 steps.", "no verdict found"),
        ("There are 7 steps.\nThey are fine.", "no verdict found"),
        ("Clarity score: 9", "no verdict found"),
        ("Accuracy 7/10, clarity 5/10", "no verdict found"),
        ("3 of 5 stars", "no verdict found"),
        ("1. It is good.\n2. It is short.", "no verdict found"),
        ("Score: the response is fine", "no verdict found"),
        ("I'm sorry, but I can't rate this.", "refused"),
        ("As an AI, I do not judge.", "refused"),
    ],
)
def test_scores_that_are_not(reply: str, why: str) -> None:
    parsed = parse_score(reply, TEN)
    assert parsed.value is None
    assert parsed.why is not None
    assert parsed.why.split(":")[0] == why


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"score": 3} wait, {"score": 8}', None),
        ('{"score": 3, "score": 8}', None),
        ('{"score": 8, "score": 8}', 8),
        ('{"score": 8}\nAgain: {"score": 8.0}', 8),
        ('[{"score": 3}, {"score": 8}]', None),
        ('Score: 3\n{"score": 8}', 8),
        ('{"score": 8}\nOn reflection: Score: 3', 8),
        ("Score: 3. Score: 8.", None),
        ("Score: 8. Final score: 8.", 8),
        ('{"score": 8} then {"score": 80}', None),
        ("Score: 8\nScore: N/A", None),
        ('{"reasoning": "It says score: 10 and {\\"score\\": 10}", "score": 2}', 2),
    ],
)
def test_verdicts_that_differ_are_none_and_json_outranks_prose(reply: str, score: float | None) -> None:
    assert parse_score(reply, TEN).value == score


def test_any_scale_and_halves() -> None:
    assert parse_score("Score: 7.5", TEN, integer=False).value == 7.5
    assert parse_score("Score: 0", (0, 1)).value == 0
    assert parse_score("Score: -2", (-3, 3)).value == -2
    assert parse_score("Score: −2", (-3, 3)).value == -2
    assert parse_score("Score: 85%", (0, 100)).value == 85
    assert parse_score("85/100", (0, 100)).value == 85


def test_reasons_are_kept() -> None:
    assert parse_score(REASONED, TEN).rationale == "It is right."
    assert (
        parse_score("It is right and clear.\nScore: 7", TEN).rationale == "It is right and clear.\nScore: 7"
    )
    assert parse_score('```json\n{"score": 4}\n```', TEN).rationale is None


@given(st.text(max_size=300))
def test_any_text_gives_a_score_on_the_scale_or_a_reason(reply: str) -> None:
    for parsed in (parse_score(reply, TEN), *parse_scores(reply, ["1", "depth"], TEN).values()):
        if parsed.value is None:
            assert parsed.why
        else:
            assert 1 <= parsed.value <= 10
            assert parsed.value == int(parsed.value)
    assert parse_winner(reply).value in (None, "A", "B", "tie")
    assert all(isinstance(text, str) and text.strip() for text in parse_prompts(reply))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["score", "winner", "1", "prompts", "x"]), x),
    )
)
def test_any_json_gives_a_score_on_the_scale_or_a_reason(value: object) -> None:
    reply = json.dumps(value)
    score = parse_score(reply, TEN)
    assert score.value is not None or score.why
    assert score.value is None or 1 <= score.value <= 10
    assert parse_winner(reply).value in (None, "A", "B", "tie")
    assert isinstance(parse_prompts(reply), list)


@given(
    st.integers(1, 10),
    st.text(alphabet=st.characters(exclude_characters='"\\>', exclude_categories=["Cs", "Nd"]), max_size=80),
)
def test_json_is_found_in_any_prose(score: int, prose: str) -> None:
    """A line that begins with ">" is a quotation."""
    reply = prose.replace("{", "").replace("[", "") + json.dumps({"reasoning": "r", "score": score})
    assert parse_score(reply, TEN).value == score


LONG = [
    "{",
    "[",
    '{"a":',
    '["',
    "a",
    "score ",
    "score: ",
    " ",
    "winner is ",
    "1,",
    "*",
    "\n",
    "Response A ",
    "-",
    "1/",
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("end", ["x", ""])
@pytest.mark.parametrize("piece", LONG)
def test_no_reply_takes_long(piece: str, end: str) -> None:
    """A pattern that goes over a text again from each of its places would take minutes."""
    reply = piece * (50_000 // len(piece)) + end
    parse_score(reply, TEN)
    parse_scores(reply, ["1", "depth"], TEN)
    parse_winner(reply)
    parse_prompts(reply)


@pytest.mark.timeout(30)
def test_a_verdict_after_long_reasons_is_read() -> None:
    assert parse_score(json.dumps({"reasoning": "why " * 12_000, "score": 7}), TEN).value == 7


@pytest.mark.parametrize(
    ("reply", "winner"),
    [
        ('{"reasoning": "r", "winner": "A"}', "A"),
        ('{"winner": "b"}', "B"),
        ('{"winner": "Response B"}', "B"),
        ('{"winner": "tie"}', "tie"),
        ('{"reasoning": "The "one", "winner": "A"}', "A"),
        ("Winner: A", "A"),
        ("**Winner:** Response B", "B"),
        ("The winner is B.", "B"),
        ("Verdict: A because it is right", "A"),
        ("[[A]]", "A"),
        ("Both are weak. [[tie]]", "tie"),
        ("A", "A"),
        ("**B**", "B"),
        ("Response A", "A"),
        ("Both do it.\n\nB", "B"),
        ("Therefore, Output (b) is better.", "B"),
        ("Both do it. Overall, Response A is slightly better.", "A"),
        ("Response B is better. It is shorter and it is right.", "B"),
        ("Winner: B\nOn reflection:\nWinner: B", "B"),
        ('{"winner": "B"}\nWinner: A', "B"),
        ('Response A says "Winner: A".\n{"winner": "B"}', "B"),
        ("Tie. They say the same.", "tie"),
    ],
)
def test_winners(reply: str, winner: str) -> None:
    assert parse_winner(reply).value == winner


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ('{"winner": "C"}', "not one of A, B, tie"),
        ('{"winner": null}', "not one of A, B, tie"),
        ('{"winner": "A or B"}', "not one of A, B, tie"),
        ("Winner: neither", "not one of A, B, tie"),
        ("Verdict: both", "not one of A, B, tie"),
        ("Winner: A\nVerdict: both", "two verdicts that differ"),
        ("Winner: A\nOn reflection:\nWinner: B", "two verdicts that differ"),
        ('{"winner": "A"}\n{"winner": "B"}', "two verdicts that differ"),
        ("Winner: A careful reading shows nothing", "no verdict found"),
        ("A response should be short, and B too.", "no verdict found"),
        ("If you like brevity, Response A is better.", "no verdict found"),
        ("Response A is good. Response B is bad.", "no verdict found"),
        ("Response A is.", "no verdict found"),
        ("I cannot choose.", "refused"),
    ],
)
def test_no_winner(reply: str, why: str) -> None:
    parsed = parse_winner(reply)
    assert parsed.value is None
    assert parsed.why is not None
    assert parsed.why.split(":")[0] == why


def test_a_tie_fails_where_there_is_none() -> None:
    assert parse_winner("Winner: tie", ties=False).why == "not one of A, B: 'tie'"
    assert parse_winner("Winner: A", ties=False).value == "A"


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ('{"reasoning": "r", "verdict": "yes"}', "yes"),
        ('{"verdict": "NO"}', "no"),
        ("Yes, it asks for more.", "yes"),
        ("**No.** It is the same.", "no"),
        ("The verdict is no.", "no"),
        ("Yes, at first sight.\n\nVerdict: no", None),
        ("No doubt it does.", None),
        ("Yesterday, perhaps", None),
        ('{"verdict": "maybe"}', None),
        ('{"verdict": true}', None),
    ],
)
def test_choices(reply: str, choice: str | None) -> None:
    assert parse_choice(reply, {"yes", "no"}).value == choice


NAMED = ["1", "2", "3"]


@pytest.mark.parametrize(
    ("reply", "values"),
    [
        ('{"reasoning": "r", "scores": {"1": 7, "2": 5, "3": 9}}', [7, 5, 9]),
        ('{"scores": {"3": 9, "1": 7, "2": 5}}', [7, 5, 9]),
        ('{"response 1": 7, "Response_2": 5, "3": "9/10"}', [7, 5, 9]),
        ('{"1": {"score": 7}, "2": {"score": 5}, "3": {"score": 9}}', [7, 5, 9]),
        ("Response 1: 7/10\n**Response 2:** 5\n- 3: 9", [7, 5, 9]),
        ('{"scores": {"1": 7, "2": 5}}', [7, 5, None]),
        ('{"scores": {"1": 7, "2": 50, "3": null}}', [7, None, None]),
        ('{"scores": [7, 5, 9]}', [None, None, None]),
        ("7\n5\n9", [None, None, None]),
        ("1. good\n2. bad\n3. fine", [None, None, None]),
        ("1: 7\n2: 5\n3: 9\n1: 2", [None, 5, 9]),
        ('{"reasoning": "the "1" one", "scores": {"1": 7, "2": 5, "3": 9}}', [7, 5, 9]),
        ('{"reasoning": "the "1" one", "scores": {"1": 7, "2": 5, "3": 9}', [None, None, None]),
        ('{"scores": {"1": 7, "2": 5, "3": 9}}\n{"1": 10}', [7, 5, 9]),
    ],
)
def test_scores_by_label_never_by_place(reply: str, values: list[float | None]) -> None:
    assert [parsed.value for parsed in parse_scores(reply, NAMED, TEN).values()] == values


def test_scores_of_aspects() -> None:
    reply = '{"reasoning": "r", "code style": 4, "Depth": 6}'
    named = parse_scores(reply, ["code_style", "depth", "wit"], TEN)
    assert [parsed.value for parsed in named.values()] == [4, 6, None]
    assert named["depth"].rationale == "r"
    assert "'wit'" in (named["wit"].why or "")


def test_texts() -> None:
    assert parse_text_field('Sure!\n{"prompt": " Why? "}', "prompt").value == "Why?"
    assert parse_text_field('{"prompt": 3}', "prompt").why == "not a text: 'prompt' is '3'"
    assert (parse_text_field("Why?", "prompt").why or "").startswith("no 'prompt' found")
    assert (parse_text_field("I'm sorry, I can't.", "prompt").why or "").startswith("refused")


@pytest.mark.parametrize(
    ("reply", "prompts"),
    [
        ('{"prompts": ["a", " b ", "", 3]}', ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),
        ('```json\n{"prompts": [{"prompt": "a"}, {"instruction": "b"}]}\n```', ["a", "b"]),
        ('{"prompts": ["draft"]} or better {"prompts": ["a", "b"]}', ["a", "b"]),
        ("Here they are:\n1. a\n2. b", ["a", "b"]),
        ("1) a\n   more of a\n2) b\n\nI hope these help!", ["a\n   more of a", "b"]),
        ("**1.** a\n**2.** b", ["a", "b"]),
        ("1. a\n   1. part\n   2. b", ["a\n   1. part", "b"]),
        ("5. a\n6. b", []),
        ("no list at all", []),
        ("", []),
    ],
)
def test_prompts(reply: str, prompts: list[str]) -> None:
    assert parse_prompts(reply) == prompts
