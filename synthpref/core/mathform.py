r"""How an answer in LaTeX or plain text is put together: lists, tuples, intervals, sets, unions, relations, matrices. Pure.

The brackets decide, before any computer algebra: it takes (1, 2) for an interval, 1, 2 for a set and \{1, 2\} for the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from synthpref.core.numerals import plain_number, simplify

Kind = Literal["leaf", "list", "group", "set", "union", "relation", "approx", "matrix"]


@dataclass(frozen=True, slots=True)
class Form:
    """An answer or a part of one. `how` is the brackets of a group ("()", "[)") or the sign of a relation. `name` is the
    variable that it is the value or the range of."""

    kind: Kind
    text: str
    items: tuple[Form, ...] = ()
    how: str = ""
    name: str = ""


_SIGNS = [
    (r"\\(?:leqslant|leq)(?![a-z])|≤|<=", r"\\le "), (r"\\(?:geqslant|geq)(?![a-z])|≥|>=", r"\\ge "),
    (r"\\neq(?![a-z])|≠|\\not\s*=|!=", r"\\ne "), (r"\\lt(?![a-z])", "<"), (r"\\gt(?![a-z])", ">"),
    (r"\\lbrace(?![a-z])", r"\\{"), (r"\\rbrace(?![a-z])", r"\\}"), (r"\\langle(?![a-z])", "("), (r"\\rangle(?![a-z])", ")"),
    (r"∪|(?<=[)\]}])\s*U\s*(?=[(\[\\])", r"\\cup "), (r"∞|\binfinity\b", r"\\infty "), (r"π", r"\\pi "), (r"−|–", "-"),
    (r"×", r"\\times "), (r"·|⋅|(?<!\*)\*(?!\*)", r"\\cdot "), (r"\*\*", "^"), (r"÷", r"\\div "), (r"²", "^2"), (r"³", "^3"),
    (r"±|\+/-|\+-", r"\\pm "), (r"∅|\\varnothing(?![a-z])|\\phi(?=\s*$)", r"\\emptyset "), (r"ℝ|\\R(?![a-z])", r"\\mathbb{R}"),
    (r"∈", r"\\in "), (r"\\simeq(?![a-z])|≈", r"\\approx "), (r"\\[dtc]frac(?![a-z])", r"\\frac"), (r"√\s*(\d+|[a-z])", r"\\sqrt{\1}"),
    (r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"), (r"(?<![\\a-zA-Z])(pi|sin|cos|tan|log|ln|exp)(?![a-zA-Z])", r"\\\1 "),
]  # fmt: skip
_NUMBERS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_COMMA = re.compile(r",\s*(?:\x01?\s*(?:and|or)\b)?|;|\x01?\s*(?<![a-zA-Z\\])(?:and|or)\b")
_RELATION = re.compile(r"\\(?:le|ge|ne|in|approx)(?![a-z])|[<>=]")
_CUP = re.compile(r"\\cup(?![a-z])")
_NAME = re.compile(
    r"\s*(?:(?:[a-zA-Z]|[A-Z]{2,4}|\\[a-zA-Z]+)(?:_\{?\w+\}?)?'*(?:\s*\(\s*\\?[a-zA-Z0-9, ]+\s*\))?"
    r"|(?:\x01?\s*[^\W\d_]{3,}\s*)+)\s*"
)
"""What an equation may give a value to: x, x_1, f(2), AB, the total; and not 2x or xy."""
_MATRIX = re.compile(r"\\begin\{([pbB]?matrix|array)\}(?:\{[lcr|]*\})?(.*?)\\end\{\1\}")
_OPEN, _CLOSE = "([{", ")]}"
WORDS_FOR = {
    r"\mathbb{R}": "all real numbers|all reals|real numbers|the real numbers|the set of real numbers|any real number",
    r"\emptyset": "empty set|the empty set|null set",
}
_REALS = r"(-\infty,\infty)"


def read_form(text: str) -> Form:
    """The parts of an answer."""
    plain = simplify(text)
    for sign, words in WORDS_FOR.items():
        if re.fullmatch(words, plain.replace("\x01", "").strip().casefold()):
            plain = sign
    for found, instead in _SIGNS:
        plain = re.sub(found, instead, plain)
    if "=" not in plain and plain_number(plain):
        return Form("leaf", plain)
    return _form(_NUMBERS.sub(lambda m: m[0].replace(",", ""), plain) if _depth(plain) == 0 else plain)


def is_words(text: str) -> bool:
    """Whether a text is words and no mathematics."""
    return not re.search(r"[\\^_=<>+*/{}\d|()\[\]]", text) and bool(re.search(r"[^\W\d_]{2}", text))


def _depth(text: str) -> int:
    return sum(char in _OPEN for char in text)


def _split(text: str, at: re.Pattern[str]) -> list[tuple[str, str]]:
    """The parts between matches outside all brackets, each with the match before it ("" for the first)."""
    parts, start, sign, depth, i = list[tuple[str, str]](), 0, "", 0, 0
    while i < len(text):
        found = at.match(text, i) if not depth else None
        if found and found.end() > i:
            parts.append((sign, text[start:i].strip()))
            sign, start, i = found[0].strip(), found.end(), found.end()
            continue
        if text.startswith("\\begin{", i):
            end = text.find("\\end{", i)
            i = len(text) if end < 0 else text.find("}", end) + 1 or len(text)
            continue
        depth = max(0, depth + (text[i] in _OPEN) - (text[i] in _CLOSE))
        i += 1
    return [*parts, (sign, text[start:].strip())]


def _form(text: str) -> Form:
    if is_words(text.replace("\x01", "").replace(",", "")):
        return Form("leaf", text)
    parts = [part for _, part in _split(text, _COMMA) if part]
    if len(parts) > 1:
        items = tuple(_flat(map(_form, parts)))
        bounds = all(item.kind in ("union", "group") and item.name for item in items)
        return Form(
            "union" if bounds and " or" in f" {text}" else "list",
            text,
            items,
            name=items[0].name if bounds else "",
        )
    text = parts[0] if parts else text
    if len(re.findall(r"\\(?:pm|mp)(?![a-z])", text)) == 1:
        plus, minus = (re.sub(r"\\(?:pm|mp)(?![a-z])\s*", sign, text) for sign in "+-")
        return Form("list", text, tuple(_flat(map(_form, (plus, minus)))))
    if len(related := _split(text, _RELATION)) > 1:
        return _related(text, related)
    if len(union := _split(text, _CUP)) > 1:
        return Form("union", text, tuple(_form(part) for _, part in union))
    if text == r"\mathbb{R}":
        return _form(_REALS)
    if text == r"\emptyset":
        return Form("set", text)
    if matrix := _MATRIX.fullmatch(text):
        rows = [row for row in matrix[2].split("\\\\") if row.strip()]
        made = tuple(
            Form("group", row, tuple(_form(cell.strip()) for cell in row.split("&")), "()") for row in rows
        )
        return Form("matrix", text, made)
    return _bracketed(text)


def _flat(forms: Iterator[Form]) -> Iterator[Form]:
    for form in forms:
        yield from form.items if form.kind == "list" else (form,)


def _bracketed(text: str) -> Form:
    braces = text.startswith("\\{") and text.endswith("\\}")
    inner = text[2:-2] if braces else text[1:-1]
    opened = len(text) > 1 and (braces or (text[0] in "([" and text[-1] in ")]"))
    if not opened or not _whole(inner):
        return Form("leaf", text)
    parts = [part for _, part in _split(inner, _COMMA)]
    if braces and not re.search(r"\\mid|\||:", inner):
        return Form("set", text, tuple(_flat(_form(part) for part in parts if part)))
    if len(parts) > 1 and not braces and all(parts):
        how = text[0] + text[-1]
        return Form("group", text, tuple(map(_form, parts)), "()" if len(parts) > 2 and how == "[]" else how)
    return _form(inner) if text[0] == "(" and text[-1] == ")" else Form("leaf", text)


def _whole(inner: str) -> bool:
    """Whether no bracket in it closes one that stands before it."""
    depth = 0
    for char in inner.replace("\\{", "{").replace("\\}", "}"):
        depth += (char in _OPEN) - (char in _CLOSE)
        if depth < 0:
            return False
    return depth == 0


def _related(text: str, parts: list[tuple[str, str]]) -> Form:
    signs, sides = [sign for sign, _ in parts[1:]], [side for _, side in parts]
    if set(signs) <= {"=", "\\approx"} and "\\approx" in signs:
        at = signs.index("\\approx") + 1
        exact = " = ".join(sides[:at])
        return Form("approx", text, (*([_form(exact)] if exact else []), *map(_form, sides[at:])))
    if set(signs) == {"="}:
        left, right = sides[0], _form(sides[-1])
        if not left:
            return right
        return Form("relation", text, (_form(left), right), "=", left if _NAME.fullmatch(left) else "")
    named = [
        i for i, side in enumerate(sides) if re.fullmatch(r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?|[a-z]\([a-z]\)", side)
    ]
    if signs == ["\\in"] and named[:1] == [0]:
        return replace(_form(sides[1]), name=sides[0])
    ranged = {"<", "\\le"}, {">", "\\ge"}
    for less in ranged:
        if set(signs) <= less:
            ends = sides if less is ranged[0] else sides[::-1]
            how = [sign in ("<", ">") for sign in (signs if less is ranged[0] else signs[::-1])]
            if len(ends) == 3 and 1 in named:
                name, low_end, high_end, opens = ends[1], ends[0], ends[2], how
            elif len(ends) == 2 and len(named) == 1 and ends.index(sides[named[0]]) == 0:
                name, low_end, high_end, opens = ends[0], r"-\infty", ends[1], [True, *how]
            elif len(ends) == 2 and len(named) == 1:
                name, low_end, high_end, opens = ends[1], ends[0], r"\infty", [*how, True]
            else:
                break
            brackets = ("(" if opens[0] else "[") + (")" if opens[1] else "]")
            return Form("group", text, (_form(low_end), _form(high_end)), brackets, name)
    if len(sides) == 2:
        return Form("relation", text, tuple(map(_form, sides)), signs[0])
    return Form("leaf", text)
