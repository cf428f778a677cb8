"""Responses checked by a rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synthpref.core.answer import final_answer, numbers, numeric_answer
from synthpref.core.types import Row
from synthpref.stages.verify import Verify
from synthpref.testing import row, run_stage


def verified(text: str, reference: str | None = None, **fields: Any) -> float | str | None:
    """The score of one response, or why it has none."""
    [made] = run_stage(Verify.model_validate(fields), [row("Q?", text, reference=reference)])
    assert isinstance(made, Row)
    score = made.samples[0].scores[fields.get("name", "verified")]
    return score.why if score.value is None else score.value


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7\n#### 7", 7),
        ("#### 1,234", 1234),
        ("#### $1,234.50.", 1234.5),
        ("A: 18", 18),
        ("A: 18 eggs a day", 18),
        ("A: 9 * 2 = $18", 18),
        ("Answer: 12%", 12),
        ("**Final answer:** 42.", 42),
        ("The answer is **8**.", 8),
        (r"\boxed{42}", 42),
        (r"so \boxed{x = -\$1{,}200} follows", -1200),
        (r"\boxed{\frac{3}{4}}", 0.75),
        ("A: -3/4", -0.75),
        ("A: 1e3", 1000),
        ("Answer:\n42", 42),
        ("A: 5\nno, A: 6\nA: 7", 7),
        ("First 5, then 12.", 12),
        ("It is .5", 0.5),
        ("between 3-4", 4),
        ("from $-5", -5),
        ("#### 18\n\nI hope this answer is helpful.", 18),
        ("A: 3\nA: none", None),
        ("A: 1 / 0", None),
        ("no number here", None),
        ("v1.x and B2", None),
        ("", None),
    ],
)
def test_the_number_that_a_text_ends_up_with(text: str, number: float | None) -> None:
    assert numeric_answer(text).value == number


@given(st.integers(-(10**9), 10**9))
def test_a_number_is_read_however_it_is_written(n: int) -> None:
    for shape in ("#### {}", "A: {}.", "so it is {}", "A: **{}**", "A: {:,}", r"\boxed{{{}}}"):
        assert numeric_answer(shape.format(n)).value == n


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    numeric_answer(text)
    final_answer(text)
    assert all(isinstance(n, float) for n in numbers(text))


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("A: 18", "18", 1),
        ("A: 18", "So 9 * 2.\n#### 18", 1),
        ("A: 1,800.00", "1800", 1),
        ("A: 19", "18", 0),
        ("I had 18, A: 17", "18", 0),
        ("nothing", "18", "no answer found"),
        ("A: 18", "eighteen", "no number in the reference: 'eighteen'"),
        ("A: 18", None, "no reference on the row"),
        ("  ", "18", "empty response"),
    ],
)
def test_numeric(text: str, reference: str | None, score: float | str) -> None:
    assert verified(text, reference, kind="numeric") == score


def test_tolerance_and_missing() -> None:
    assert verified("A: 3.14", "3.14159", kind="numeric") == 0
    assert verified("A: 3.14", "3.14159", kind="numeric", tolerance=0.01) == 1
    assert verified("nothing", "18", kind="numeric", missing="wrong") == 0
    assert verified("  ", "18", kind="numeric", missing="wrong") == "empty response"
    assert verified("A: 18", None, kind="numeric", missing="wrong") == "no reference on the row"


def test_an_own_pattern_for_the_answer() -> None:
    fields = {"kind": "numeric", "answer": r"<ans>(.*?)</ans>"}
    assert verified("<ans>3</ans> no, <ans>4</ans> as 5 > 4", "4", **fields) == 1
    assert verified("A: 4", "4", **fields) == "no answer found"
    fields = {"kind": "exact", "answer": r"Choice: (\w)"}
    assert verified("Choice: B. Not Choice: C", "C", **fields) == 1
    assert verified("B", "B", **fields) == "no answer found"


@pytest.mark.parametrize(
    ("text", "reference", "fields", "score"),
    [
        ("Paris", "Paris", {}, 1),
        ("  New \n York ", "New York", {}, 1),
        ("paris", "Paris", {}, 0),
        ("paris", "Paris", {"ignore_case": True}, 1),
        ("I think so.\nAnswer: Paris", "Paris", {}, 1),
        ("Paris is a town.", "Paris", {}, 0),
        ("Answer:", "Paris", {}, "no answer found"),
    ],
)
def test_exact(text: str, reference: str, fields: dict[str, Any], score: float | str) -> None:
    assert verified(text, reference, kind="exact", **fields) == score


def test_regex() -> None:
    assert verified("call 555-1234 now", kind="regex", pattern=r"\d{3}-\d{4}") == 1
    assert verified("call me", kind="regex", pattern=r"\d{3}-\d{4}") == 0
    assert verified("HELLO", kind="regex", pattern="hello", ignore_case=True) == 1


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"n": 3}', 1),
        ('Here you are:\n```json\n{"n": 4}\n```', 1),
        ('{"n": 1} no, {"n": 5}', 1),
        ('{"n": 2}', 0),
        ('{"m": 3}', 0),
        ("[3]", 0),
        ("3", 0),
        ('{"n": ', "no answer found: no JSON in the response"),
        ("sorry", "no answer found: no JSON in the response"),
    ],
)
def test_json_schema(text: str, score: float | str) -> None:
    pytest.importorskip("jsonschema")
    assert verified(text, kind="json_schema", json_schema=SCHEMA) == score


def test_a_schema_is_checked_before_any_row_and_fetches_nothing() -> None:
    pytest.importorskip("jsonschema")
    with pytest.raises(ValidationError, match="not a JSON Schema"):
        Verify(kind="json_schema", json_schema={"type": "objekt"})
    stage = Verify(kind="json_schema", json_schema={"$ref": "https://example.org/schema.json"})
    with pytest.raises(Exception, match=r"example\.org"):
        run_stage(stage, [row("Q?", '{"n": 3}')])


RULES = """
def long_enough(response, row):
    return len(response) >= len(row.prompt_text)

def share(response, row):
    return response.count("a") / len(response)

def unsure(response, row):
    return None

async def later(response, row):
    return True

def text(response, row):
    return "yes"

def endless(response, row):
    return float("inf")

def broken(response, row):
    raise KeyError("gone")

number = 3
"""


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "rules.py"
    path.write_text(RULES, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "text", "score"),
    [
        ("long_enough", "abc", 1),
        ("long_enough", "a", 0),
        ("share", "aab!", 0.5),
        ("later", "x", 1),
        ("endless", "x", "not a finite number"),
        ("unsure", "x", "no answer found"),
    ],
)
def test_python(rules: str, name: str, text: str, score: float | str) -> None:
    made = verified(text, kind="python", function=f"{rules}:{name}")
    assert made == score or str(made).startswith(f"{score}: ")


def test_python_by_module_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rules_for_a_test.py").write_text(RULES, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert verified("aab!", kind="python", function="my_rules_for_a_test:share") == 0.5


def test_python_that_fails_says_so(rules: str) -> None:
    with pytest.raises(KeyError, match="gone"):
        verified("x", kind="python", function=f"{rules}:broken")
    with pytest.raises(TypeError, match="return a bool, a number or None"):
        verified("x", kind="python", function=f"{rules}:text")


@pytest.mark.parametrize("name", ["nothing.py:f", "json:nothing", "no.such.module:f", "plain", ":f", "json:"])
def test_a_function_that_cannot_be_had_is_seen_before_any_row(name: str) -> None:
    with pytest.raises(ValidationError, match="function"):
        Verify(kind="python", function=name)


def test_an_edited_function_is_another_rule(rules: str) -> None:
    stage = Verify(kind="python", function=f"{rules}:share")
    before = stage.model_dump()
    with pytest.raises(ValidationError, match="no function 'number'"):
        Verify(kind="python", function=f"{rules}:number")
    Path(rules).write_text(RULES + "\n# changed\n", encoding="utf-8")
    assert stage.model_dump() != before


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "regex"},
        {"kind": "regex", "pattern": "("},
        {"kind": "numeric", "pattern": "x"},
        {"kind": "exact", "answer": "no group"},
        {"kind": "exact", "answer": "(a)(b)"},
        {"kind": "regex", "pattern": "x", "answer": "(a)"},
        {"kind": "json_schema"},
        {"kind": "python"},
        {"kind": "guess"},
        {"kind": "numeric", "tolerance": -1},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Verify.model_validate(wrong)


def test_needs_and_gives() -> None:
    assert Verify(kind="exact").needs() == {"samples", "reference"}
    assert Verify(kind="regex", pattern="x").needs() == {"samples"}
    assert Verify(kind="exact", name="right").gives() == {"score:right"}
    assert Verify(kind="exact").requires() == {}
    assert Verify(kind="exact").load(4).calls == ()
