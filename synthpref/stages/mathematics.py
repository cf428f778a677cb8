"""Whether two answers are the same mathematical object, by Hugging Face's math-verify (extra `math`).

math-verify reads generously: it takes a tuple for a set, letters of a word for factors, and a number without its base for
one in another. What it would so call equal without ground is decided here, before it is asked.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from functools import lru_cache
from typing import Any

from synthpref.core.answer import plain_number
from synthpref.core.reply import Parsed, quoted

LONGEST = 400
"""Characters of an expression. Longer ones are not compared: what a computer algebra system does with them has no end."""
_HUGE = re.compile(
    r"\^\s*\{?\s*-?\d{4,}|\^[^+\-=,]*\^|\d{3,}\s*!|!\s*!|\\(?:prod|sum|int|lim)\b.*\d{4,}|\d{60,}"
)
"""Powers of powers, factorials and the like that nobody can wait for."""
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|[,!;:]|quad|qquad)(?![a-zA-Z])")
_BASE = re.compile(r"^\s*[\dA-Fa-f,.]+\s*_\s*\{?\s*(?P<base>\d+)\s*\}?\s*$")
_NAMES = r"sqrt|frac|pi|sin|cos|tan|log|ln|exp|theta|alpha|infty"


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
        if len(text) > LONGEST or _HUGE.search(text):
            return Parsed(None, f"the {what} is too large to compare: {quoted(text)}")
    if _tidy(answer) == _tidy(reference):
        return Parsed(True)
    mine, right = plain_number(answer), plain_number(reference)
    if mine and right:
        values = {mine.value} if mine.percent == right.percent else _readings(mine.value, mine.percent)
        wanted = {right.value} if mine.percent == right.percent else _readings(right.value, right.percent)
        return Parsed(bool(values & wanted) or _rounded(answer, float(mine.value), float(right.value)))
    words, wanted_words = _words(answer), _words(reference)
    if wanted_words is not None:
        return Parsed(words == wanted_words)
    if words is not None and len(words) > 1:
        return Parsed(False)
    if _apart(answer, reference):
        return Parsed(False)
    return _by_algebra(answer, reference)


def _readings(value: Any, percent: bool) -> set[Any]:
    """50 % may be meant by 50 and by 0.5."""
    return {value, value / 100} if percent else {value}


def _rounded(text: str, mine: float, right: float) -> bool:
    """Whether a decimal of six places or more is the other number, rounded."""
    places = len(re.sub(r".*\.|\D", "", text)) if "." in text else 0
    return places >= 6 and round(mine, 6) == round(right, 6)


def _tidy(text: str) -> str:
    plain = _LAYOUT.sub("", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return re.sub(r"\s+", "", plain).strip("$.")


def _words(text: str) -> str | None:
    """The words of an answer that is in words, or a letter of a multiple choice; None for one that is mathematics."""
    inner = _TEXT.sub(r"\1", text)
    marked = inner != text
    plain = unicodedata.normalize("NFKC", inner).strip("$*_`. \t\n").replace("\\ ", " ")
    choice = re.fullmatch(r"\(?\s*([A-Ea-e])\s*[).:]?", plain)
    if choice and (marked or plain[0] == "(" or plain[-1] in ").:" or choice[1].isupper()):
        return choice[1].upper()
    if re.search(r"[\\^_=<>+*/{}\d|]", plain) or not re.search(r"[^\W\d_]{2}", plain):
        return None
    if re.fullmatch(rf"(?:{_NAMES})|[a-z]{{2,3}}", plain) and not marked:
        # xy, abc: products of variables.
        return None
    return " ".join(re.findall(r"\w+", plain.casefold())) or None


def _apart(answer: str, reference: str) -> bool:
    """Whether the two are written as things of different kinds, which math-verify would take for one."""
    mine, right = _BASE.match(answer), _BASE.match(reference)
    if mine and right and int(mine["base"]) != int(right["base"]):
        return True
    one, other = _brackets(answer), _brackets(reference)
    return one is not None and other is not None and one != other


def _brackets(text: str) -> str | None:
    """The brackets around a list: "()", "[)", "{}", ...; None where the whole is no list in brackets."""
    plain = (
        _tidy(text).replace("\\{", "{").replace("\\}", "}").replace("\\lbrace", "{").replace("\\rbrace", "}")
    )
    if len(plain) < 3 or plain[0] not in "([{" or plain[-1] not in ")]}" or "," not in plain:
        return None
    depth = 0
    for i, char in enumerate(plain):
        depth += (char in "([{") - (char in ")]}")
        if not depth and i < len(plain) - 1:
            return None
    return plain[0] + plain[-1]


def _by_algebra(answer: str, reference: str) -> Parsed[bool]:
    package = _package()
    gold, made = _parsed(package, reference), _parsed(package, answer)
    if not gold:
        return Parsed(None, f"the reference cannot be read as mathematics: {quoted(reference)}")
    if not made:
        return Parsed(None, f"the answer cannot be read as mathematics: {quoted(answer)}")
    try:
        same = package.verify(gold, made, timeout_seconds=None, raise_on_error=True)
    except Exception as error:  # noqa: BLE001  whatever an expression does to a computer algebra system
        return Parsed(None, f"cannot be compared: {type(error).__name__}")
    if (
        same
        and isinstance(_ordered(answer), tuple)
        and _ordered(answer) != _ordered(reference)
        and _brackets(answer) == "()"
    ):
        # (1, 2) and (2, 1) are one set, and two points.
        return Parsed(
            all(equal(a, b).value for a, b in zip(_ordered(answer), _ordered(reference), strict=False))
        )
    return Parsed(bool(same))


def _ordered(text: str) -> tuple[str, ...]:
    return tuple(_tidy(text).strip("()").split(","))


def _parsed(package: Any, text: str) -> list[Any]:
    number = re.sub(r"(?<=\d)(?:\\[,!;: ]|\{,\})(?=\d{3})", "", text)
    number = re.sub(r"(\d(?:\.\d+)?)[eE]([-+]?\d{1,3})\b", r"\1\\times 10^{\2}", number)
    found: list[Any] = package.parse(
        f"$\\boxed{{{number.strip().strip('$')}}}$",
        extraction_config=[
            package.LatexExtractionConfig(boxed_match_priority=0),
            package.ExprExtractionConfig(),
        ],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    return found
