"""Answers that are the same mathematical object, and answers that only look so."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synthpref.core.reply import Parsed
from synthpref.stages.mathematics import _package, equal
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
    ("x = 3 or x = 4", "3, 4"), ("x=3 \\text{ or } x=4", "x=4, x=3"), ("\\{3,4\\}", "x=3 or x=4"),
    ("x>3", "(3,\\infty)"), ("1 \\le x < 2", "[1,2)"), ("x \\in [1,2)", "[1,2)"), ("3 < x", "x > 3"),
    ("x<1 or x>3", "(-\\infty,1)\\cup(3,\\infty)"),
    ("(3,\\infty)\\cup(-\\infty,1)", "(-\\infty,1) \\cup (3,\\infty)"), ("\\pm 2", "2,-2"),
    ("x=\\pm 2", "\\{-2,2\\}"), ("1\\pm\\sqrt{2}", "1+\\sqrt2, 1-\\sqrt2"), ("(a,b)=(3,4)", "(3,4)"),
    ("x=3, y=4", "(3,4)"), ("x=3,y=4", "y=4, x=3"), ("3, 4", "x=3, y=4"), ("AB=5", "5"), ("y=2x+3", "y-2x=3"),
    ("2x-y+3=0", "y=2x+3"), ("f(x)=2x+3", "2x+3"), ("x^2+y^2=4", "4=y^2+x^2"), ("1.6\\times10^{-19}", "1.6e-19"),
    ("3.141593", "\\pi"), ("0.\\overline{3}", "\\frac13"), ("0.1\\overline{6}", "1/6"),
    ("5\\text{ cm}", "5\\text{ centimeters}"), ("500\\text{ cm}", "5\\text{ m}"), ("25\\pi\\text{ cm}^2", "25\\pi"),
    ("5\\sqrt2\\text{ cm}", "5\\sqrt{2}"), ("50 cents", "\\$0.50"), ("30^\\circ", "30\\text{ degrees}"),
    ("\\text{(C) }12", "\\textbf{(C)}"), ("\\mathrm{(C)}", "C"), ("C", "\\text{C}"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}"),
    ("\\begin{pmatrix}1/2\\\\0\\end{pmatrix}", "\\begin{pmatrix}\\frac12\\\\0.0\\end{pmatrix}"),
    ("\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", "-2"), ("\\langle 1,2\\rangle", "(1,2)"), ("[1,2,3]", "(1,2,3)"),
    ("(1,2),(3,4)", "(3,4),(1,2)"), ("\\varnothing", "\\emptyset"), ("\\mathbb{R}", "(-\\infty,\\infty)"),
    ("all real numbers", "\\mathbb{R}"), ("\\{\\}", "\\emptyset"), ("(x-1)(x+1)", "x^2-1"),
    ("\\frac{x^2-1}{x-1}", "x+1"), ("x^{1/2}", "\\sqrt x"), ("n(n+1)/2", "\\frac{n^2+n}{2}"), ("(1+i)^2", "2i"),
    ("3+4i", "4i+3"), ("1\\frac12 x", "\\frac{3x}{2}"), ("1.5x", "\\frac{3}{2}x"), ("0.1x", "x/10"),
    ("2^{10}", "1024"), ("5!", "120"), ("\\binom{5}{2}", "10"), ("\\sqrt[3]{8}", "2"), ("\\tan^{-1} x", "\\arctan x"),
    ("101_2", "5_{10}"), ("1A_{16}", "26_{10}"), ("1,000", "1 000"), ("1.000.000", "1,000,000"),
    ("12,34,567", "1234567"), ("1'234", '1234'), ("EVELYN", "\\mathrm{Evelyn}"), ("\\text{three}", "3"), ("xy", "yx"),
    ("x^2y^2", "y^2x^2"), ("e^{x^2}", "e^{x^2}+0"), ("e^{-x^2/2}", "\\frac{1}{e^{x^2/2}}"),
    ("\\frac{1}{3}", "0.333333"), ("33\\frac13\\%", "33.\\overline{3}\\%"), ("x = \\pi \\approx 3.14", "\\pi"),
    ("\\approx 3.14", "3.14"), ("x \\ne 3", "x\\neq 3"), ("3:4", "\\frac34"), ("x**2+1", "x^2+1"),
    ("sqrt(3)", "\\sqrt{3}"), ("2*sqrt(3)", "2\\sqrt3"), ("2√3", "2\\sqrt{3}"),
    ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt2}"), ("\\ln 4", "2\\ln 2"), ("\\log_{10} 100", "2"),
    ("x+y<3", "3>x+y"), ("2x+2y<6", "x+y<3"), ("\\text{Yes}", "yes"), ("0.50", "\\$0.5"), ("(18)", "18"),
    ("\\left(\\frac12,3\\right)", "(0.5, 3)"), ("[0,1] \\cup \\{2\\}", "\\{2\\}\\cup[0,1]"),
    ("6\\text{ and }7", "6,7"), ("p-q", "-q+p"), ("x_1+x_2", "x_2+x_1"), ("\\theta", "\\theta"), ("2\\cdot 3", "6"),
    ("\\cos 60^\\circ", "\\frac12"), ("24\\text{ hours}", "1 day"), ("5:30", "5:30"), ("10\\%", "0.1"),
    ("\\$1,000", "1000 dollars"), ("\\text{odd}", "odd"), ("2\\mathbf{i}+3\\mathbf{j}", "3\\mathbf{j}+2\\mathbf{i}"),
    ("-\\frac{1}{2}", "\\frac{-1}{2}"), ("2 \\frac{1}{2}", "2.5"), ("y = x^2 + C", "x^2 + C"),
    ("x^3 - 3x", "x(x^2-3)"),
]  # fmt: skip
OTHER = [
    ("2", "2\\sqrt{3}"), ("10(x-1)", "10(x+1)"), ("12", "1,2"), ("1,2", "12"), ("2", "\\frac{1}{2}"), ("x", "x+1"),
    ("Bob", "\\text{Evelyn}"), ("Levyne", "\\text{Evelyn}"), ("neveley", "Evelyn"), ("odd", "even"), ("D", "\\text{(C)}"),
    ("49", "50\\%"), ("5", "0.5"), ("[1,2]", "[1,2)"), ("(1,2)", "[1,2)"), ("(1,2)", "\\{1,2\\}"), ("\\{1,2\\}", "(1,2)"),
    ("(2,1)", "(1,2)"), ("x=4", "3"), ("-3", "3"), ("2", "\\pm 2"), ("101_3", "101_2"), ("0.33", "\\frac13"), ("0.3333", "\\frac13"),
    ("3.14", "\\pi"), ("\\frac{22}{7}", "\\pi"), ("7x", "7"), ("6.02e22", "6.02\\times 10^{23}"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"), ("x^2+1", "x^2-1"), ("y", "x"),
    ("10^4", "1000"), ("1/3", "\\frac12"), ("18.5", "18"), ("18 or 19", "18"), ("\\infty", "-\\infty"), ("2^{10}", "1025"),
    ("three", "four"), ("yes", "no"), ("0", "1"), ("1000000000000001", "1000000000000002"), ("(1,2,3)", "(1,2)"),
    ("[0,1]", "[0,1)"), ("\\frac{\\pi}{3}", "\\frac{\\pi}{2}"), ("3:4", "4:3"),
    ("3", "x=3 or x=4"), ("18 or 19", "18"), ("x \\ge 3", "x > 3"), ("y>3", "x>3"), ("x<3", "x>3"), ("2", "\\pm 2"),
    ("1+\\sqrt2", "1\\pm\\sqrt2"), ("x=4,y=3", "(3,4)"), ("x=4,y=3", "x=3,y=4"), ("4,3", "x=3, y=4"), ("x=3", "y=3"),
    ("y=2x-3", "y=2x+3"), ("1.6 \\times 10^{-19}", "1.7\\times 10^{-19}"),
    ("1.60 \\times 10^{-19}", "1.70\\times 10^{-19}"), ("10^{-20}\\sqrt2", "10^{-20}\\sqrt3"), ("3.14159", "\\pi"),
    ("3.141592", "\\pi"), ("5 cm", "5 m"), ("7d", "7"), ("2m", "2"), ("B", "C"), ("\\text{(B)}", "\\text{(C)}"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&2\\\\4&3\\end{pmatrix}"),
    ("(1,2,3)", "\\{1,2,3\\}"), ("(2,1,3)", "(1,2,3)"), ("(2,1),(3,4)", "(3,4),(1,2)"), ("0", "\\emptyset"),
    ("|x|", "x"), ("\\sqrt{x^2}", "x"), ("3-4i", "3+4i"), ("101_3", "101_2"), ("110_2", "101_2"), ("1,2", "12"),
    ("Bob", "Evelyn"), ("four", "3"), ("x+y", "xy"), ("0.33", "1/3"), ("x=3", "x \\ne 3"), ("x+y<3", "x+y>3"),
    ("No", "Yes"), ("x_1", "x_2"), ("\\infty", "-\\infty"), ("n^2", "2^n"), ("-5", "5"), ("1000 grams", "1000 kg"),
    ("\\text{even}", "\\text{odd}"), ("10^{10}+1", "10^{10}"), ("1+10^{-30}", "1"), ("x+10^{-30}", "x"),
    ("\\sqrt{3}", "1.732"),
]  # fmt: skip
UNSURE = [
    ("1000", "1.000"),
    ("2x=3", "3"), ("X", "x"), ("x^2+1=0", "x^2+4=0"), ("xy=6", "6"), ("5 kg", "5 cm"), ("12", "(C)"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "(1,2)"), ("101", "101_2"), ("5", "101_2"), ("3,5", "3.5"),
    ("Evelyn Smith", "Evelyn"), ("5", "\\text{Evelyn}"), ("Evelyn", "5"), ("\\int_0^1 x dx", "\\frac12"),
    ("\\frac{", "x"), ("abcd", "dcba"), ("2!x}9\\frac{2+", "x"), ("x}", "x+1"), ("yes", "5"), ("(1,2)", "\\text{left}"),
]  # fmt: skip
UNKNOWN = ["9^{9^{9}}", "9^{99999}", "1000!", "5!!", "\\sum_{k=1}^{100000} k", "x" * 500, "\\frac{", "9" * 80]


@pytest.mark.parametrize(("answer", "reference"), SAME)
def test_the_same_in_another_form_is_right(answer: str, reference: str) -> None:
    assert equal(answer, reference).value is True
    assert equal(reference, answer).value is True


@pytest.mark.parametrize(("answer", "reference"), OTHER)
def test_what_only_looks_alike_is_not_right(answer: str, reference: str) -> None:
    assert equal(answer, reference).value is False
    assert equal(reference, answer).value is False


@pytest.mark.parametrize(("answer", "reference"), UNSURE)
def test_what_may_be_meant_in_two_ways_has_no_value_but_a_reason(answer: str, reference: str) -> None:
    for one, other in ((answer, reference), (reference, answer)):
        made = equal(one, other)
        assert made.value is None
        assert made.why


@given(st.text(st.sampled_from("0123456789xyzi+-*/^_=<>,.;()[]{}\\| $%!abc"), max_size=25))
def test_any_text_is_compared_or_has_a_reason(text: str) -> None:
    made = equal(text, "x+1")
    assert (made.value is None) == bool(made.why)
    assert equal("x+1", text).value is made.value
    assert equal(text, text).value is not False


@pytest.mark.parametrize(
    "text",
    [
        "(" * 15 + "x" + ")" * 15 + "^{99}",
        "\\frac{1}{" * 12 + "x" + "}" * 12,
        "+".join(f"x^{{{n}}}y^{{{99 - n}}}" for n in range(1, 28)),
        "\\sqrt{x+" * 14 + "1" + "}" * 14,
        "(999^{999})^{999}",
        "x^{999^{2}}",
        "\\binom{9999}{5000}",
        "999!999!999!",
        "\\exp(\\exp(99))",
        "e^{e^{99}}",
        "2^{2^{99}}",
        "|" * 50,
        "$" * 99,
        ",".join("123456789" * 10),
    ],
)
def test_an_odd_expression_takes_no_time(text: str) -> None:
    began = time.process_time()
    equal(text, "7x+1")
    equal("7x^2+y", text)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("n", range(50, 55))
def test_an_equation_or_a_list_is_no_number(n: int) -> None:
    """Each had a score of 1 when a number at the start or the end of the answer counted."""
    wrong = (
        f"x = 3 or x = {n}",
        f"2x = {n}",
        f"{n} - x",
        f"{n} - 4i",
        f"x = 3, y = {n}",
        f"{n}(x - 1)",
        f"{n}!",
        f"{n}m",
        f"{n}_{{8}}",
    )
    assert scores("numeric", str(n), *(f"\\boxed{{{text}}}" for text in wrong)) == [None] * len(wrong)
    assert (
        scores("numeric", str(n), f"So $2 + {n}x$", f"We get $3$ or \\boxed{{3}} or \\boxed{{{n}}}")
        == [None] * 2
    )


@pytest.mark.parametrize("reference", ["10(x+1)", "x^2 + 1", "3 - 4i", "18, 19", "2x"])
def test_a_reference_that_is_more_than_a_number_gives_no_score(reference: str) -> None:
    assert scores("numeric", reference, "#### 1", "#### 19", "#### 2") == [None] * 3


def test_boxes_in_a_row_are_one_answer() -> None:
    responses = (
        "$x = \\boxed{3}$ or $x = \\boxed{4}$",
        "\\boxed{4} and \\boxed{3}",
        "First \\boxed{5}. So \\boxed{3, 4}",
        "\\boxed{4}",
    )
    assert scores("math", "3, 4", *responses) == [1.0, 1.0, 1.0, 0.0]


def test_a_clause_after_the_answer_is_left_aside() -> None:
    responses = (
        "The answer is $2\\sqrt{3}$, because it is so.",
        "The answer is $x = 3$, $y = 4$.",
        "The answer is 2√3. Done.",
    )
    assert scores("math", "2\\sqrt3", *responses) == [1.0, 0.0, 1.0]


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


def test_a_missing_package_is_seen_by_the_check_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _package.cache_clear()
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ValidationError, match=r"pip install 'synthpref\[math\]'"):
        Verify(kind="math")
    Verify(kind="numeric")
    _package.cache_clear()


def test_comparisons_leave_the_event_loop_free() -> None:
    """Computer algebra runs in other threads than the one that talks to the endpoints."""
    seen = set[int]()

    def look(answer: str, reference: str) -> Parsed[bool]:
        seen.add(threading.get_ident())
        return equal(answer, reference)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synthpref.stages.verify.equal", look)
        assert scores("math", "\\sqrt{8}", "#### 2\\sqrt2", "#### \\sqrt7") == [1.0, 0.0]
    assert seen
    assert threading.get_ident() not in seen
