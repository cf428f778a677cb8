"""The final answer of a worked solution, and the number in it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

_MARK = re.compile(
    r"####\s*(?P<hashes>[^\n]*)"
    r"|^[ \t*_]*(?:final )?(?:A|answer)[*_]*[ \t]*:[*_]*\s*(?P<line>[^\n]*)"
    r"|\\boxed[ \t]*\{",
    re.IGNORECASE | re.MULTILINE,
)
_SAID = re.compile(r"\banswer(?: is)?[*_]*(?::|(?<=is)\b)[*_]*\s*(?P<said>[^\n]*)", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w.])(?:(?<![)])(?P<sign>[-−+]))?(?:[$€£](?P<inner>[-−])?)?"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?![\d,]|\.\d*,)|\d+)(?:\.\d+)?|\.\d+)(?P<power>[eE][-+]?\d{1,3})?(?!\w)"
)


def final_answer(text: str) -> str | None:
    r"""What stands after the last answer mark, to the end of its line; None without any.

    The marks are `####`, `A:` or `Answer:` at the start of a line, and `\boxed{...}`; only where there is
    none of these, "the answer is" in prose. The last mark binds, even with nothing after it.
    """
    marks = list(_MARK.finditer(text)) or list(_SAID.finditer(text))
    if not marks:
        return None
    last = marks[-1]
    if last.lastgroup is None:
        return _braced(text, last.end())
    return last[last.lastgroup].strip()


def _braced(text: str, start: int) -> str:
    depth = 1
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if not depth:
            return text[start:i].strip()
    return ""


def numbers(text: str) -> list[float]:
    """The numbers in `text`. 1,234 is one number; $ and % and a full stop after it are passed over."""
    found = []
    for match in _NUMBER.finditer(text.replace("\\$", "$").replace("\\%", "%").replace("{,}", ",")):
        value = float(match["digits"].replace(",", "") + (match["power"] or ""))
        negative = match["inner"] or match["sign"] in ("-", "−")
        found.append(-value if negative else value)
    return found


_WRAPPED = re.compile(
    r"\\(?:boxed|text|textbf|mathrm|mathbf|mbox|textit|operatorname)\s*\{([^{}]*)\}|\\[()\[\]]|\\(?:left|right|displaystyle)\b"
)
_SPACE = re.compile(r"\\[,!;:> ]|~|\u00a0|\u202f|\\q?quad")
_SENTENCE = re.compile(
    r"\.\s|;|,\s+(?=[a-z])|\s(?:because|since|as|which|so|where|when|if)\b|\s[-–—]\s", re.IGNORECASE
)
_UNITS = (
    r"(?:°\s*[CF]?|\^\s*\{?\s*\\circ\s*\}?\s*[CF]?|\\circ|\\degree|[¢€£$]|mm|cm|dm|m|km|in|ft|yd|mi|mg|g|kg|lb|lbs|oz|ms|s|sec|min|h|hr"
    r"|hrs|ml|mL|cl|l|L|W|kW|V|A|N|J|kJ|Hz|kHz|K|mph|kph|USD|EUR)"
)
_NO_UNIT = (
    r"and|or|plus|minus|to|times|half|quarter|third|hundred|thousand|million|billion|trillion|dozen|more|less|fewer|than"
    r"|not|between|at|about|over|under|above|below|percent of|squared root|factorial|choose|mod"
)
_WORDS = rf"(?:(?!(?:{_NO_UNIT})\b)[^\W\d_]{{2,}}\.?(?:\s*\^\s*\{{?[23]\}}?|[²³])?)"
_POWER = r"(?:[eE](?P<exponent>[-+]?\d{1,3})|\s*(?:\\times|\\cdot|[x×*·])\s*10\s*\^\s*\{?\s*(?P<tens>[-−]?\d{1,3})\s*\}?)?"
_DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+"
_FRACTION = r"\\[dtc]?frac\s*(?:\{\s*(?P<above>\d+)\s*\}|(?P<above1>\d))\s*(?:\{\s*(?P<below>\d+)\s*\}|(?P<below1>\d))"
_WHOLE = re.compile(
    rf"(?P<sign>[-−+])?\s*(?:[$€£]\s*(?P<inner>[-−])?)?\s*(?:"
    rf"(?P<base>\d{{1,6}})\s*\^\s*\{{?\s*(?P<power>\d{{1,3}})\s*\}}?"
    rf"|(?:(?P<mixed>\d+)\s*)?{_FRACTION}"
    rf"|(?:(?P<whole>\d+)\s+)?(?P<over>\d+(?:,\d{{3}})*)\s*/\s*(?P<under>\d+(?:,\d{{3}})*)"
    rf"|(?P<digits>{_DIGITS}){_POWER})"
    rf"\s*(?P<percent>%|percent\b)?\s*(?:{_UNITS}(?:\s*\^\s*\{{?[23]\}}?|[²³])?(?:\s*/\s*(?:{_UNITS}|{_WORDS}))?)?"
    rf"(?:\s+{_WORDS}|\s*/\s*{_WORDS}|\s+(?:a|an)\s+{_WORDS})*\s*(?:\([^()\d\\+*/^=-]*\))?\s*"
)
"""A number, alone or with a unit, and nothing else."""


@dataclass(frozen=True, slots=True)
class PlainNumber:
    """A number that is a whole answer; `percent` where a sign or the word says so, of which the value is not divided."""

    value: Fraction
    percent: bool = False


def plain_number(text: str) -> PlainNumber | None:
    r"""The number that `text` is as a whole, with or without a unit; None where it is more, or something else.

    After the last "=" of an equation. Read are 1,234, 1\,234, 1{,}234, -5, .5, 3/4, \frac{3}{4}, \dfrac34, 1\frac12,
    10^3, 6e23, 6 \times 10^{23}, 5%, $5, 5\text{ cm}. Not read are 2\sqrt{3}, 10(x-1), 18 or 19, 2x, 5 million.

    >>> plain_number("18 dollars").value, plain_number(r"\frac{3}{4}").value, plain_number(r"2\sqrt{3}")
    (Fraction(18, 1), Fraction(3, 4), None)
    """
    if len(text) > LONGEST_NUMBER:
        return None
    plain = _SPACE.sub(" ", text).replace("\\$", "$").replace("\\%", "%").replace("{,}", ",")
    while (inner := _WRAPPED.sub(lambda m: f" {m[1] or ''} ", plain)) != plain:
        plain = inner
    plain = plain.rsplit("=", 1)[-1].strip('*_`" \t\n:≈~').strip()
    if plain.count("$") % 2 == 0 and (plain.startswith("$") and plain.endswith("$")):
        plain = plain.strip("$").strip()
    plain = plain.rstrip(".").strip("*_` ")
    # A space between groups of three digits belongs to the number.
    plain = (
        re.sub(r"(?<=\d)[ ](?=\d{3}(?:\D|$))", "", plain)
        if re.match(r"\D{0,3}\d{1,3}(?: \d{3})+(?!\d)", plain)
        else plain
    )
    found = _WHOLE.fullmatch(plain)
    if not found:
        return None
    value = _value(found)
    if value is None:
        return None
    negative = (found["sign"] or "") in ("-", "−") or (found["inner"] or "") in ("-", "−")
    return PlainNumber(-value if negative else value, bool(found["percent"]))


LONGEST_NUMBER = 200
"""Characters of an answer that may be a number."""


def _value(found: re.Match[str]) -> Fraction | None:
    def whole(name: str) -> int:
        return int((found[name] or "0").replace(",", ""))

    if found["base"]:
        return Fraction(whole("base") ** whole("power"))
    if (above := found["above"] or found["above1"]) is not None:
        below = int(found["below"] or found["below1"])
        return Fraction(int(found["mixed"] or 0)) + Fraction(int(above), below) if below else None
    if found["over"]:
        return Fraction(whole("whole")) + Fraction(whole("over"), whole("under")) if whole("under") else None
    number = Fraction(found["digits"].replace(",", "").rstrip("."))
    power = int((found["exponent"] or found["tens"] or "0").replace("−", "-"))
    return number * Fraction(10) ** power


@dataclass(frozen=True, slots=True)
class NumericAnswer:
    """The number that a text ends up with; without one, `found` is the answer that is no plain number, or None."""

    value: float | None
    found: str | None = None


def numeric_answer(text: str) -> NumericAnswer:
    """The number that `text` ends up with.

    With an answer mark (see `final_answer`) what follows it must be a plain number as a whole: of "2\\sqrt{3}" the 2 is
    no answer. Of a sentence it is the part up to its end. Without a mark: the last number of the text.
    """
    answer = final_answer(text)
    if answer is None:
        last = (re.findall(r"\S*\d\S*", text) or [""])[-1].strip(".,;:!?()[]\"'*")
        if "\\" in last or "^" in last:
            # Part of a formula, of which the last number is as good as any.
            return _numeric([last], last)
        found = numbers(text)
        return NumericAnswer(found[-1] if found else None)
    return _numeric([answer, _SENTENCE.split(answer, maxsplit=1)[0]], answer)


def _numeric(parts: Sequence[str], answer: str) -> NumericAnswer:
    number = next(filter(None, map(plain_number, parts)), None)
    try:
        return NumericAnswer(None, answer) if number is None else NumericAnswer(float(number.value))
    except OverflowError:
        return NumericAnswer(None, answer)
