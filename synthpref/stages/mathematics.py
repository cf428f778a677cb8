r"""Whether two answers are the same mathematical object (extra `math`).

Hugging Face's math-verify reads expressions. Its own comparison is generous: it takes a tuple for a set, 2x = 3 for 3, two
equations without a real solution for the same, every number below 10^-6 for 0, and x for X. So brackets and relations are
compared as they are written (see `core/mathform.py`), and expressions by their values: two of them are the same where they
agree to 60 digits at three points or more, which is exact for what is rational, and never a matter of time. Nothing is simplified.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from synthpref.core.mathform import Form, is_words, read_form
from synthpref.core.numerals import SIZES, PlainNumber, plain_number, simplify
from synthpref.core.reply import Parsed, quoted

LONGEST = 400
"""Characters of an expression. Longer ones are not compared."""
DEEPEST = 16
"""Brackets within brackets."""
_HUGE = re.compile(
    r"\^\s*\{?\s*[-+]?\s*\d{4,}|\d{4,}\s*!|!\s*!|!\s*\)+\s*!|\d{60,}|(?:\\exp\b.*){3}"
    r"|\^\s*\{[^a-zA-Z]*\^|\^\s*\d\s*\^|(?:\^\s*\{[^}]*){3}|\\binom.*\d{5}"
)
"""Powers of powers, factorials and the like that nobody can wait for."""
_UNDONE = re.compile(r"\\(?:prod|sum|i*int|oint|lim)(?![a-zA-Z])")
_WORDED = re.compile(
    r"\x01\s*[^\W\d_]+(?:\s*\^\s*\{?[23]\}?)?|(?<=[\s}\d])(?:mm|cm|km|kg|°)(?:\s*\^\s*\{?[23]\}?)?|\^\s*\{?\s*\\circ\s*\}?"
)
_NUMERALS = "zero one two three four five six seven eight nine ten eleven twelve"
_SMALL = {word: str(n) for n, word in enumerate(_NUMERALS.split())}
_DIGITS = 100
_LOCK = threading.Lock()


class Unsure(Exception):
    """No label: the reason."""


def need_math() -> None:
    """Raises ValueError where math-verify is not installed."""
    _package()


@lru_cache(maxsize=1)
def _package() -> Any:
    try:
        import math_verify
    except ImportError as error:
        raise ValueError("kind: math needs a package: pip install 'synthpref[math]'") from error
    # It warns that it sets no time limit; the sizes are limited here.
    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return math_verify


@lru_cache(maxsize=4096)
def equal(answer: str, reference: str) -> Parsed[bool]:
    r"""Whether the answer is the reference; no value where one of them cannot be read.

    >>> equal(r"\dfrac12", "0.5").value, equal("2", r"2\sqrt{3}").value, equal("Evelyn", r"\text{Evelyn}").value
    (True, False, True)
    """
    for what, text in (("answer", answer), ("reference", reference)):
        if len(text) > LONGEST or _HUGE.search(text) or _nested(text) > DEEPEST:
            return Parsed(None, f"the {what} is too large to compare: {quoted(text)}")
    if _tidy(answer) == _tidy(reference):
        return Parsed(True)
    # One at a time: what math-verify builds on keeps settings for all threads.
    with _LOCK:
        try:
            return Parsed(_worded(answer, reference))
        except Unsure as why:
            return Parsed(None, str(why))
        except Exception as error:  # noqa: BLE001  whatever an expression does to a computer algebra system
            return Parsed(None, f"cannot be compared: {type(error).__name__}")


def _nested(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _tidy(text: str) -> str:
    return re.sub(r"\s+", "", simplify(text)).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


def _plain_words(text: str) -> str:
    plain = unicodedata.normalize("NFKC", simplify(text).replace("\x01", " ")).strip("*_`.!\"' \t\n")
    return " ".join(plain.split())


def _choice(text: str) -> tuple[str, bool] | None:
    """The letter of a multiple choice, and whether it is marked as one: (C), C., \\text{C}."""
    plain = _plain_words(text)
    found = re.match(
        r"(?:option|choice)?\s*(\()?([A-Ha-h])(?:(?(1)\))|(?(1)(?!)))(?(1)|[).:])(?=\s|$)",
        plain,
        re.IGNORECASE,
    )
    if found:
        return found[2].upper(), True
    if re.fullmatch(r"[A-Ha-h]", plain):
        return (plain.upper(), True) if "\\text" in text or "\\mathrm" in text else (plain, False)
    return None


def _worded(answer: str, reference: str) -> bool:
    mine, right = _choice(answer), _choice(reference)
    if right and mine and (right[1] or mine[1]):
        return right[0].upper() == mine[0].upper()
    if (right and right[1]) or (mine and mine[1]):
        # 12 may be what stands behind (C).
        raise Unsure(f"a letter and an answer cannot be compared: {quoted(answer)} and {quoted(reference)}")
    one, other = _plain_words(answer), _plain_words(reference)
    one, other = _SMALL.get(one.casefold(), one), _SMALL.get(other.casefold(), other)
    if is_words(other.replace(",", "")) and _is_prose(reference, other):
        if not is_words(one.replace(",", "")):
            forms = read_form(one), read_form(other)
            if forms[1].kind == "leaf":
                raise Unsure(
                    f"words and mathematics cannot be compared: {quoted(answer)} and {quoted(reference)}"
                )
            return same(*forms)
        words, wanted = (re.findall(r"\w+", text.casefold()) for text in (one, other))
        if one != other and sorted(one) == sorted(other) and (one + other).islower() and one.isalpha():
            raise Unsure(f"words or products of variables: {quoted(answer)} and {quoted(reference)}")
        if words != wanted and (set(words) < set(wanted) or set(wanted) < set(words)):
            raise Unsure(f"one answer is a part of the other: {quoted(answer)} and {quoted(reference)}")
        return words == wanted
    if is_words(one.replace(",", "")) and _is_prose(answer, one) and read_form(one).kind == "leaf":
        raise Unsure(f"words and mathematics cannot be compared: {quoted(answer)} and {quoted(reference)}")
    if one != _plain_words(answer) or other != _plain_words(reference):
        answer, reference = one, other
    _alike(answer, reference)
    return same(read_form(answer), read_form(reference))


def _is_prose(text: str, plain: str) -> bool:
    """xy and abc are products of variables, where no \\text says otherwise."""
    return (
        "\\text" in text
        or "\\math" in text
        or not re.fullmatch(r"[a-z]{2,3}", plain)
        or plain in ("yes", "no", "odd")
    )


def _alike(answer: str, reference: str) -> None:
    """Raises where a comma may be a decimal one or a list's, or one letter stands for two variables."""
    one, other = (re.sub(r"\s+", "", simplify(text)) for text in (answer, reference))
    for comma, point in ((one, other), (other, one)):
        if re.fullmatch(r"-?\d+,\d+", comma) and point.replace(".", ",") == comma:
            raise Unsure(f"a decimal comma or a list: {quoted(answer)} and {quoted(reference)}")
        dotted = re.fullmatch(r"-?\d{1,3}\.\d{3}", comma)
        if dotted and point.replace(",", "") == comma.replace(".", ""):
            raise Unsure(f"a decimal point or thousands: {quoted(answer)} and {quoted(reference)}")
    letters = set(
        re.findall(
            r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])", re.sub(r"\\[a-zA-Z]+|\x01\s*\w+", " ", one + " " + other)
        )
    )
    if len({letter.casefold() for letter in letters}) < len(letters):
        raise Unsure(f"small and capital letters: {quoted(answer)} and {quoted(reference)}")


def same(one: Form, other: Form) -> bool:
    """Whether two forms are the same; raises Unsure where that cannot be known."""
    if "approx" in (one.kind, other.kind):
        pairs = [(a, b) for a in _ways(one) for b in _ways(other)]
        return any(same(a, b) for a, b in pairs)
    if one.kind == other.kind == "relation":
        return _same_relation(one, other)
    if "relation" in (one.kind, other.kind):
        equation, value = (one, other) if one.kind == "relation" else (other, one)
        return same(_value_of(equation), value)
    if one.name and other.name and re.sub(r"\s", "", one.name) != re.sub(r"\s", "", other.name):
        return False
    kinds = {one.kind, other.kind}
    if kinds == {"leaf"}:
        return _same_leaf(one.text, other.text)
    if kinds == {"matrix"} or kinds == {"group"}:
        alike = one.how == other.how or len(one.items) != len(other.items)
        return alike and _in_order(one.items, other.items)
    if kinds <= {"list", "set", "union"}:
        return _same_collection(one, other)
    if kinds == {"list", "group"}:
        bare, group = (one, other) if one.kind == "list" else (other, one)
        if not _in_order([_value_of(item) for item in bare.items], group.items):
            return False
        if group.how != "()":
            raise Unsure(f"a list and an interval: {quoted(one.text)} and {quoted(other.text)}")
        return True
    if kinds == {"leaf", "set"} or kinds == {"leaf", "list"}:
        many, single = (one, other) if other.kind == "leaf" else (other, one)
        return len(many.items) == 1 and same(many.items[0], single)
    if "matrix" in kinds and kinds & {"group", "list"}:
        raise Unsure(f"a matrix and a list: {quoted(one.text)} and {quoted(other.text)}")
    if "leaf" in kinds:
        _expression((one if one.kind == "leaf" else other).text)
    return False


def _ways(form: Form) -> Sequence[Form]:
    return form.items if form.kind == "approx" else (form,)


def _in_order(one: Sequence[Form], other: Sequence[Form]) -> bool:
    return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))


def _same_collection(one: Form, other: Form) -> bool:
    kinds = {one.kind, other.kind}
    if kinds == {"list"}:
        named = [{item.name for item in form.items if item.kind == "relation"} for form in (one, other)]
        if max(map(len, named)) > 1 and min(map(len, named)) == 0:
            # x = 3, y = 4 and 3, 4: what the numbers are of is known by their order only.
            return _in_order([_value_of(i) for i in one.items], [_value_of(i) for i in other.items])
    if kinds == {"list"} or kinds == {"union"}:
        left = list(other.items)
        for item in one.items:
            found = next((other_item for other_item in left if same(item, other_item)), None)
            if found is None:
                return False
            left.remove(found)
        return not left
    if "union" in kinds and kinds != {"union"}:
        return False
    return all(any(same(a, b) for b in other.items) for a in one.items) and all(
        any(same(a, b) for a in one.items) for b in other.items
    )


def _value_of(form: Form) -> Form:
    """What an equation gives its name: 3 for x = 3."""
    if form.kind != "relation":
        return form
    left, right = form.items
    if form.how == "=" and (form.name or left.kind == "group"):
        return right
    if form.how == "=" and left.kind == right.kind == "leaf" and not _free(left.text) and same(left, right):
        return right
    raise Unsure(f"an equation or inequality and a value: {quoted(form.text)}")


def _same_relation(one: Form, other: Form) -> bool:
    names = [re.sub(r"[\s\x01]", "", form.name) for form in (one, other)]
    if one.how == other.how and same(one.items[0], other.items[0]) and same(one.items[1], other.items[1]):
        return True
    if "list" in {item.kind for form in (one, other) for item in form.items}:
        return False
    if any(item.kind != "leaf" for form in (one, other) for item in form.items):
        return False
    mirror = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
    if other.how not in (one.how, mirror.get(one.how)):
        return False
    ratios = list[Any]()
    for (a, b), (c, d) in zip(*(_values([i.text for i in form.items]) for form in (one, other)), strict=True):
        first, second = a - b, c - d
        if not first or not second:
            raise Unsure(f"equations of all numbers: {quoted(one.text)} and {quoted(other.text)}")
        ratios.append(first / second)
    if one.how in mirror:
        sign = 1 if one.how == other.how else -1
        if any(not ratio.is_real or ratio * sign <= 0 for ratio in ratios):
            return False
    constant = all(_close(ratio, ratios[0]) for ratio in ratios)
    if not constant and one.how == "=" and not all(names) and _names(one) == _names(other):
        # x/y = 2 and x = 2y, or x^2 = 9 and (x - 3)(x + 3)^2 = 0: more than a factor lies between them.
        raise Unsure(
            f"equations that differ by more than a factor: {quoted(one.text)} and {quoted(other.text)}"
        )
    return constant


def _same_leaf(one: str, other: str) -> bool:
    if _tidy(one) == _tidy(other):
        return True
    mine, right = plain_number(one), plain_number(other)
    if mine and right:
        return _same_number(mine, right)
    based = [
        re.fullmatch(r"\s*\(?([0-9A-Fa-f]+)\)?\s*_\s*\{?\s*(\d{1,2})\s*\}?", text) for text in (one, other)
    ]
    if any(based):
        return _same_in_base(based, (mine, right), (one, other))
    plain = [text.replace("\x01", "").strip() for text in (one, other)]
    if all(
        is_words(text) and _is_prose(marked.replace("\x01", "\\text"), text)
        for text, marked in zip(plain, (one, other), strict=True)
    ):
        if sorted(plain[0]) == sorted(plain[1]) and "\x01" not in one + other:
            raise Unsure(f"words or products of variables: {quoted(one)} and {quoted(other)}")
        return [re.findall(r"\w+", text.casefold()) for text in plain[:1]] == [
            re.findall(r"\w+", plain[1].casefold())
        ]
    for decimal, exact in ((mine, other), (right, one)):
        if decimal and decimal.digits >= 6 and not _free(exact):
            (value,) = _values([exact])[0]
            return _rounds(decimal, value)
    return all(_close(a, b) for a, b in _values([one, other]))


def _same_number(mine: PlainNumber, right: PlainNumber) -> bool:
    one, other = mine.value, right.value
    if mine.unit != right.unit and mine.unit in SIZES and right.unit in SIZES:
        if SIZES[mine.unit][0] != SIZES[right.unit][0]:
            raise Unsure(f"units of different kinds: {mine.unit} and {right.unit}")
        one, other = one * SIZES[mine.unit][1], other * SIZES[right.unit][1]
    if mine.percent != right.percent:
        # 50 % may be meant by 50 and by 0.5.
        return one == other or (one == other / 100 if right.percent else one / 100 == other)
    return one == other or _rounded(mine, right) or _rounded(right, mine)


def _rounded(decimal: PlainNumber, exact: PlainNumber) -> bool:
    """Whether a decimal of six digits or more is a number without finite decimals, rounded."""
    below = exact.value.denominator
    while below % 2 == 0 or below % 5 == 0:
        below //= 2 if below % 2 == 0 else 5
    return bool(decimal.digits >= 6 and below > 1 and _rounds(decimal, exact.value))


def _rounds(decimal: PlainNumber, exact: Any) -> bool:
    size = abs(float(decimal.value))
    if not size or not decimal.digits:
        return False
    exponent = len(str(int(size))) if size >= 1 else 0
    step = Fraction(10) ** (exponent - decimal.digits)
    return bool(abs(exact - decimal.value.numerator / _number(decimal.value.denominator)) <= float(step) / 2)


def _number(value: int) -> Any:
    import sympy

    return sympy.Integer(value)


def _same_in_base(
    based: list[re.Match[str] | None], plain: tuple[PlainNumber | None, ...], texts: tuple[str, str]
) -> bool:
    values = list[Fraction | None]()
    for found, number in zip(based, plain, strict=True):
        try:
            values.append(
                Fraction(int(found[1], int(found[2]))) if found else number.value if number else None
            )
        except ValueError:
            raise Unsure(f"no number in that base: {quoted(texts[0])}") from None
    if not all(based) and (
        values[0] == values[1] or any(f and f[1] == _tidy(t) for f, t in zip(based, texts[::-1], strict=True))
    ):
        raise Unsure(f"a number without its base: {quoted(texts[0])} and {quoted(texts[1])}")
    return None not in values and values[0] == values[1]


def _close(one: Any, other: Any) -> bool:
    import sympy

    gap, size = abs(one - other), max(abs(one), abs(other))
    return bool(gap <= sympy.Float("1e-90") or gap <= size * sympy.Float("1e-60"))


def _free(text: str) -> set[str]:
    return {symbol.name for symbol in _expression(text).free_symbols}


def _names(form: Form) -> set[str]:
    return set[str]().union(*(_free(item.text) for item in form.items))


def _values(texts: Sequence[str]) -> list[tuple[Any, ...]]:
    """The values of expressions at the same points, at those where all have one. Raises Unsure where there are too few."""
    import sympy

    expressions = [_expression(text) for text in texts]
    symbols = sorted({symbol.name for made in expressions for symbol in made.free_symbols})
    rows = list[tuple[Any, ...]]()
    for point in range(9 if symbols else 1):
        at = {name: sympy.I if name == "i" else _at(name, point) for name in symbols}
        row = []
        for made in expressions:
            try:
                value = (
                    made.xreplace({symbol: at[symbol.name] for symbol in made.free_symbols})
                    .doit()
                    .evalf(_DIGITS)
                )
            except Exception as error:
                raise Unsure(f"cannot be computed: {type(error).__name__}") from error
            row.append(value)
        if all(value.is_number and value.is_finite and not value.free_symbols for value in row):
            rows.append(tuple(row))
        elif (
            not symbols
            and all(value in (sympy.oo, -sympy.oo) or value.is_finite for value in row)
            and len(row) == 2
        ):
            return [(sympy.Integer(int(row[0] == row[1])), sympy.Integer(1))]
    if len(rows) < (3 if symbols else 1):
        raise Unsure(f"cannot be computed: {quoted(' and '.join(texts))}")
    return rows


def _at(name: str, point: int) -> Any:
    """A value of a variable: of either sign from the fourth point on, and between 0.1 and 4."""
    import sympy

    drawn = int.from_bytes(hashlib.sha256(f"{name} {point}".encode()).digest()[:6], "big")
    value = sympy.Float(drawn, _DIGITS) / 2**48 * sympy.Float("3.9", _DIGITS) + sympy.Float("0.1", _DIGITS)
    return -value if point > 3 and drawn % 3 else value


@lru_cache(maxsize=1024)
def _expression(text: str) -> Any:
    """The expression that math-verify reads. Decimals become fractions first: it would round them to 53 bits."""
    import sympy

    bare = re.sub(r"\\[{}]|[^{}]", "", text)
    while "{}" in bare:
        bare = bare.replace("{}", "")
    if bare:
        # math-verify reads what is before the mistake.
        raise Unsure(f"cannot be read as mathematics: {quoted(text)}")
    if _UNDONE.search(text):
        raise Unsure(f"a sum, an integral or a limit is left to be worked out: {quoted(text)}")
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])", text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?", r"(\\frac{\1\\pi}{180})", text)
    plain = _WORDED.sub(" ", text).replace("\x01", " ")
    plain = re.sub(
        r"(\d*)\.(\d*)\\(?:overline|bar)\{(\d+)\}",
        lambda m: "(" + _as_fraction(plain_number(m[0])) + ")" if plain_number(m[0]) else m[0],
        plain,
    )
    plain = re.sub(r"\d*\.\d+", lambda m: f"({_as_fraction(plain_number(m[0]))})", plain)
    plain = re.sub(r"(?<![\d^_.}])(\d+)\s*\\frac\s*(\d|\{\d+\})\s*(\d|\{\d+\})", r"(\1+\\frac\2\3)", plain)
    plain = re.sub(r"(\d)[eE]([-+]?\d{1,3})\b", r"\1\\cdot 10^{\2}", plain)
    package = _package()
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig

    # Its units are letters such as m, h and t, which may be variables.
    normal = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="last"
    )
    found = package.parse(
        f"$\\boxed{{{plain.strip()}}}$",
        extraction_config=[
            package.LatexExtractionConfig(boxed_match_priority=0, normalization_config=normal)
        ],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    if not found or not isinstance(found[0], sympy.Expr) or found[0].has(sympy.nan, sympy.zoo):
        raise Unsure(f"cannot be read as mathematics: {quoted(text)}")
    return found[0]


def _as_fraction(number: PlainNumber | None) -> str:
    return f"\\frac{{{number.value.numerator}}}{{{number.value.denominator}}}" if number else ""
