"""Responses checked by a rule instead of a judge."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self, cast

from pydantic import Field, computed_field, model_validator

from synthpref.core.answer import NumericAnswer, clauses, final_answer, numeric_answer
from synthpref.core.json_parts import json_spans
from synthpref.core.reply import quoted
from synthpref.core.seam import Ask
from synthpref.core.stage import Load, RowStage
from synthpref.core.types import Row, Sample, Score
from synthpref.stages.judging import EMPTY, NO_REFERENCE
from synthpref.stages.mathematics import equal, need_math

NOT_FOUND = "no answer found"
COMPARED = ("exact", "numeric", "math")
"""Kinds that compare an answer with the row's reference."""
WANTED = {"regex": "pattern", "json_schema": "json_schema", "python": "function"}


class Verify(RowStage):
    r"""A rule scores each response: 1 for right, 0 for wrong.

    - exact: the answer is the row's reference, but for white space at its ends and doubled within.
    - numeric: the answer is a plain number, and the reference's within `tolerance`. Read are 1,234, 1\,234, 3/4, 10^3,
      6e23, $5, 5%, 5 cm, 18 eggs a day and x = 18; units are left aside. An answer of which a number is only a part, such as
      2\sqrt{3}, 10(x-1), 18 or 19, 2x = 18, has no score.
    - math: the answer and the reference are the same mathematical object, read by Hugging Face's math-verify (extra
      `math`): numbers, roots, polynomials, equations, intervals, sets, tuples, matrices, numbers in a base, letters of a
      multiple choice, words. 50% is right for 50 and for 0.5; a unit may be missing, but cm are not m. There is no score
      where one of them cannot be read, where it may be meant in two ways (3,5 and 3.5; 12 for the choice C), or where it is
      too large to compute.
    - regex: `pattern` is found in the response.
    - json_schema: the response holds JSON (all of it, or the last value in it) that fits `json_schema`.
    - python: `function` says so.

    For exact, numeric and math, the answer is what follows the last answer mark: `####`, `A:` or `Answer:` at the
    start of a line, or `\boxed{}`; where there is none of these, "the answer is". Without any mark it is the
    last number (numeric), the whole text (exact) or not to be found (math). `answer` finds it by a pattern of your own.
    """

    kind: Literal["exact", "numeric", "math", "regex", "json_schema", "python"]
    """The rule."""
    name: str = Field(default="verified", min_length=1)
    """The score's name."""
    answer: str | None = None
    """For exact, numeric and math: a regular expression with one group that takes the answer out of a response; its
    last match binds."""
    ignore_case: bool = False
    """For exact and regex: do not tell capitals from small letters."""
    tolerance: float = Field(default=1e-6, ge=0)
    """For numeric: the largest difference between numbers that are the same."""
    pattern: str | None = None
    """For regex: the regular expression."""
    json_schema: dict[str, Any] | None = None
    """For json_schema: the schema, draft 2020-12 unless it says otherwise. It fetches nothing."""
    function: str | None = None
    """For python: "path.py:name" or "module:name", called as name(response, row); it returns true, false,
    a number, or None where it finds no answer. It may be async. A path is taken from where the run starts."""
    missing: Literal["none", "wrong"] = "none"
    """A response without any answer: no score ("none"), or 0 ("wrong")."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        for kind, field in WANTED.items():
            if (self.kind == kind) != (getattr(self, field) is not None):
                fix = f"give {field}" if self.kind == kind else f"leave {field} out, or set kind: {kind}"
                raise ValueError(f"kind: {self.kind} and {field} do not go together; {fix}")
        if self.answer is not None and self.kind not in COMPARED:
            raise ValueError(f"answer is for exact, numeric and math, not for kind: {self.kind}")
        for field, text in (("answer", self.answer), ("pattern", self.pattern)):
            _compiled(field, text)
        if self.answer is not None and re.compile(self.answer).groups != 1:
            raise ValueError("answer: the expression needs exactly one group, around the answer")
        if self.json_schema is not None:
            schema_validator(json.dumps(self.json_schema))
        if self.function is not None:
            load_function(self.function)
        if self.kind == "math":
            need_math()
        return self

    @computed_field  # type: ignore[prop-decorator]
    @property
    def function_digest(self) -> str:
        """A hash of the function's file: an edited rule is another rule."""
        path = Path((self.function or "").rpartition(":")[0])
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.suffix == ".py" else ""

    def needs(self) -> set[str]:
        return {"samples", "reference"} if self.kind in COMPARED else {"samples"}

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    def load(self, samples: int) -> Load:
        return Load(samples)

    async def run(self, row: Row, ask: Ask) -> Row:
        return row.scored(self.name, [await self._score(sample, row) for sample in row.samples])

    async def _score(self, sample: Sample, row: Row) -> Score:
        if sample.empty:
            return EMPTY
        if self.kind == "math" and row.reference is not None:
            # Computer algebra takes its time; in a thread it holds up nobody.
            return await asyncio.to_thread(self._as_mathematics, self._taken(sample.text), row.reference)
        if self.kind in COMPARED:
            return self._compared(sample.text, row.reference)
        if self.kind == "regex":
            flags = re.IGNORECASE if self.ignore_case else 0
            return Score(float(re.search(self.pattern or "", sample.text, flags) is not None))
        if self.kind == "json_schema":
            found = last_json(sample.text)
            if not found:
                return self._none("no JSON in the response")
            return Score(float(schema_validator(json.dumps(self.json_schema))(found[0])))
        return await self._called(sample.text, row)

    def _none(self, detail: str = "") -> Score:
        why = f"{NOT_FOUND}: {detail}" if detail else NOT_FOUND
        return Score(None, why) if self.missing == "none" else Score(0.0)

    def _taken(self, text: str) -> str | None:
        """The part of a response that the answer is read from."""
        if self.answer is None:
            return text
        matches = list(re.finditer(self.answer, text))
        return (matches[-1][1] or "") if matches else None

    def _compared(self, text: str, reference: str | None) -> Score:
        if reference is None:
            return NO_REFERENCE
        taken = self._taken(text)
        if self.kind == "numeric":
            right = numeric_answer(reference).value
            if right is None:
                return Score(None, f"no number in the reference: {quoted(reference)}")
            made = numeric_answer(taken) if taken is not None else NumericAnswer(None)
            if made.value is not None:
                return Score(float(abs(made.value - right) <= self.tolerance))
            if made.found:
                # It may be right in another form, or wrong: that is for kind: math to say.
                return Score(None, f"the answer is not a plain number (for kind: math): {quoted(made.found)}")
            return self._none()
        if taken is not None and self.answer is None:
            marked = final_answer(taken)
            taken = taken if marked is None else marked
        gold = final_answer(reference) or reference
        if not (taken or "").strip():
            return self._none()
        return Score(float(self._plain(taken or "") == self._plain(gold)))

    def _as_mathematics(self, taken: str | None, reference: str) -> Score:
        gold = final_answer(reference) or reference
        answer = taken if taken is None or self.answer is not None else final_answer(taken)
        if not (answer or "").strip():
            return self._none()
        # What the answer's sentence goes on with is no part of a list.
        made = equal(clauses(answer or "")[-1], gold)
        return Score(None, made.why) if made.value is None else Score(float(made.value))

    def _plain(self, text: str) -> str:
        plain = " ".join(text.split())
        return plain.casefold() if self.ignore_case else plain

    async def _called(self, text: str, row: Row) -> Score:
        function = load_function(self.function or "")
        # A rule of the user's may take its time; in a thread it holds up nobody.
        result = await asyncio.to_thread(function, text, row)
        if inspect.isawaitable(result):
            result = await result
        if hasattr(result, "item"):
            result = result.item()
        if result is None:
            return self._none(f"{self.function} returned None")
        if not isinstance(result, bool | int | float):
            raise TypeError(
                f"{self.function} returned {quoted(repr(result))}; return a bool, a number or None"
            )
        if not math.isfinite(result):
            return Score(None, f"not a finite number: {self.function} returned {result}")
        return Score(float(result))


def _compiled(field: str, pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"{field}: not a regular expression: {error}") from error


def last_json(text: str) -> list[Any]:
    """The JSON that a response holds, in a list of one: the whole text, or the last object or array in it.
    Empty where there is none."""
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError):
        return [span.value for span in json_spans(text)][-1:]


@lru_cache(maxsize=32)
def schema_validator(schema: str) -> Callable[[Any], bool]:
    """A check of values by a JSON Schema (given as JSON). Raises ValueError where the schema is none, or the
    package that reads it is missing."""
    try:
        from jsonschema import exceptions, validators
        from referencing import Registry
    except ImportError as error:
        raise ValueError("kind: json_schema needs a package: pip install jsonschema") from error
    content = json.loads(schema)
    kind = validators.validator_for(content, default=validators.validator_for({}))
    try:
        kind.check_schema(content)
    except exceptions.SchemaError as error:
        raise ValueError(f"json_schema: not a JSON Schema: {error.message}") from error
    # An empty registry: what a schema refers to is not fetched.
    validator = kind(content, registry=Registry())
    return lambda value: bool(validator.is_valid(value))


@lru_cache(maxsize=32)
def load_function(name: str) -> Callable[..., Any]:
    """The function called "path.py:name" or "module:name". Raises ValueError when it cannot be had."""
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise ValueError(f"function: {name!r} is not of the form path.py:name or module:name")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:
        raise ValueError(f"function: {where} cannot be loaded: {type(error).__name__}: {error}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(f"function: {where} has no function {attribute!r}")
    return cast(Callable[..., Any], function)


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"synthpref_verify_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise FileNotFoundError(f"no such file in {Path.cwd()}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
