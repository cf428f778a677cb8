"""Answers that are the same mathematical object, and answers that only look so."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpref.stages.mathematics import equal
from synthpref.stages.verify import Verify
from synthpref.testing import row, run_stage

SAME = [
    ("2\\sqrt{3}", "2\\sqrt{3}"), ("2\\sqrt3", "2\\sqrt{3}"), ("\\sqrt{12}", "2\\sqrt{3}"), ("10(x+1)", "10x+10"),
    ("1\\,000", "1000"), ("1{,}000", "1000"), ("1,000", "1000"), ("1 000", "1000"), ("10^3", "1000"), ("10^{3}", "1000"),
    ("\\dfrac12", "\\frac{1}{2}"), ("0.5", "\\frac12"), ("1/2", "\\frac{1}{2}"), (".5", "\\tfrac{1}{2}"),
    ("1\\frac12", "\\frac32"), ("1.5", "\\frac{3}{2}"), ("\\text{Evelyn}", "Evelyn"), ("Evelyn", "\\text{Evelyn}"),
    ("evelyn", "\\text{Evelyn}"), ("\\textbf{even}", "even"), ("(C)", "\\text{(C)}"), ("C", "\\text{(C)}"), ("C.", "(C)"),
    ("50\\%", "50"), ("50", "50\\%"), ("0.5", "50\\%"), ("50\\%", "50\\%"), ("5\\text{ cm}", "5"), ("5 cm", "5"),
    ("30^\\circ", "30"), ("18 dollars", "18"), ("\\$18", "18"), ("$18", "18"), ("x+1", "1+x"), ("(x-1)(x+1)", "x^2-1"),
    ("x=3", "3"), ("3", "x=3"), ("[1, 2)", "[1,2)"), ("\\left[1,2\\right)", "[1,2)"), ("(1,2)", "(1, 2)"),
    ("\\{1,2\\}", "\\{2,1\\}"), ("1,2", "2, 1"), ("\\frac{\\pi}{2}", "\\dfrac{\\pi}{2}"), ("\\pi/2", "\\frac{\\pi}{2}"),
    ("6.02e23", "6.02 \\times 10^{23}"), ("602000000000000000000000", "6.02\\times10^{23}"), ("2.0", "2"), ("-3", "-3.0"),
    ("\\infty", "\\infty"), ("\\pm 2", "\\pm 2"), ("3:4", "3:4"), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
    ("0.333333", "\\frac13"), ("\\text{no solution}", "no solution"), ("2\\pi r", "2 \\pi r"), ("11,\\!111", "11111"),
    ("\\frac{x}{2}", "0.5x"), ("y=2x+3", "2x+3"), ("\\sin^2 x + \\cos^2 x", "1"), ("e^{2}", "e^2"), ("\\log_2 8", "3"),
    ("101_2", "101_2"), ("101_{2}", "101_2"), ("(3, \\frac{\\pi}{2})", "\\left( 3, \\frac{\\pi}{2} \\right)"),
]  # fmt: skip
OTHER = [
    ("2", "2\\sqrt{3}"), ("10(x-1)", "10(x+1)"), ("12", "1,2"), ("1,2", "12"), ("2", "\\frac{1}{2}"), ("x", "x+1"),
    ("Bob", "\\text{Evelyn}"), ("Levyne", "\\text{Evelyn}"), ("neveley", "Evelyn"), ("odd", "even"), ("D", "\\text{(C)}"),
    ("49", "50\\%"), ("5", "0.5"), ("[1,2]", "[1,2)"), ("(1,2)", "[1,2)"), ("(1,2)", "\\{1,2\\}"), ("\\{1,2\\}", "(1,2)"),
    ("(2,1)", "(1,2)"), ("x=4", "3"), ("-3", "3"), ("2", "\\pm 2"), ("101_3", "101_2"), ("0.33", "\\frac13"), ("0.3333", "\\frac13"),
    ("3.14", "\\pi"), ("\\frac{22}{7}", "\\pi"), ("7x", "7"), ("6.02e22", "6.02\\times 10^{23}"), ("1000", "1.000"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"), ("x^2+1", "x^2-1"), ("y", "x"),
    ("10^4", "1000"), ("1/3", "\\frac12"), ("18.5", "18"), ("18 or 19", "18"), ("\\infty", "-\\infty"), ("2^{10}", "1025"),
    ("three", "four"), ("yes", "no"), ("0", "1"), ("1000000000000001", "1000000000000002"), ("(1,2,3)", "(1,2)"),
    ("[0,1]", "[0,1)"), ("\\frac{\\pi}{3}", "\\frac{\\pi}{2}"), ("3:4", "4:3"),
]  # fmt: skip
UNKNOWN = ["9^{9^{9}}", "9^{99999}", "1000!", "5!!", "\\sum_{k=1}^{100000} k", "x" * 500, "\\frac{", "9" * 80]


@pytest.mark.parametrize(("answer", "reference"), SAME)
def test_the_same_in_another_form_is_right(answer: str, reference: str) -> None:
    assert equal(answer, reference).value is True


@pytest.mark.parametrize(("answer", "reference"), OTHER)
def test_what_only_looks_alike_is_not_right(answer: str, reference: str) -> None:
    assert equal(answer, reference).value is not True


@pytest.mark.parametrize("answer", UNKNOWN)
def test_what_cannot_be_compared_has_no_value_and_takes_no_time(answer: str) -> None:
    began = time.process_time()
    made = equal(answer, "7x+1")
    assert made.value is not True
    assert made.value is False or made.why
    assert time.process_time() - began < 5


@given(st.integers(-(10**12), 10**12), st.integers(-5, 5).filter(bool))
def test_another_whole_number_is_never_right(number: int, more: int) -> None:
    assert equal(str(number), str(number)).value
    assert equal(f"{number:,}", f"{number}").value
    assert equal(str(number + more), str(number)).value is False
    assert equal(f"{number + more}.0", str(number)).value is False


@given(st.fractions(max_denominator=999), st.fractions(max_denominator=999))
def test_fractions_are_equal_both_ways_or_neither(one: object, other: object) -> None:
    a, b = str(one), str(other)
    assert equal(a, b).value == equal(b, a).value == (one == other)


def scores(kind: str, reference: str, *responses: str, **fields: object) -> list[float | None]:
    stage = Verify(kind=kind, **fields)  # type: ignore[arg-type]
    (made,) = run_stage(stage, [row("?", *responses, reference=reference)])
    return made.values("verified")  # type: ignore[union-attr]


def test_the_answer_is_taken_out_of_the_response() -> None:
    reference = "So it is $\\boxed{\\frac{1}{2}}$."
    responses = (
        "Half. \\boxed{0.5}", "The answer is 1/2.", "#### \\dfrac12", "\\boxed{2}", "First \\boxed{0.5}, no: \\boxed{2}", "It is 0.5",
    )  # fmt: skip
    assert scores("math", reference, *responses) == [1.0, 1.0, 1.0, 0.0, 0.0, None]
    assert scores("math", reference, "It is 0.5", missing="wrong") == [0.0]
    assert scores("math", "3", "I say <3>", answer="<(.*)>") == [1.0]


def test_a_part_of_a_formula_is_no_number() -> None:
    """Each of these had a score of 1 when the first number of the answer counted."""
    assert scores("numeric", "2", "\\boxed{2\\sqrt{3}}", "The answer is 2x.", "#### 2 or 3", "\\boxed{2(x-1)}", "A: 2^{10}") == [
        *[None] * 4, 0.0,
    ]  # fmt: skip
    assert scores("numeric", "3", "So we have 2\\sqrt{3}", "so 3", "$x^3$") == [None, 1.0, None]


def test_a_plain_number_is_read_in_all_its_forms() -> None:
    said = ("The answer is 18.", "#### 18", "\\boxed{18\\text{ cm}}", "\\boxed{18.0}", "A: $18", "Answer: 18 dollars", "= 9 + 9 = 18",
            "The answer is 18 because 9+9=18.", "\\boxed{\\frac{36}{2}}", "The answer is **18**.", "#### 18%", "A: 1\\,8")  # fmt: skip
    assert scores("numeric", "18", *said)[:-1] == [1.0] * (len(said) - 1)
    assert (
        scores("numeric", "1000", "\\boxed{1\\,000}", "\\boxed{10^3}", "\\boxed{1{,}000}", "#### 1,000")
        == [1.0] * 4
    )


def test_the_package_is_loaded_where_a_recipe_asks_for_it_and_no_earlier() -> None:
    code = "import sys, synthpref.stages.verify; assert not {'sympy', 'math_verify'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
