r"""A plain number: digits in any usual notation, with or without a unit, and nothing else. Pure.

A text of which a number is only a part (2\sqrt{3}, 10(x-1), 18 or 19, 2x = 18) is no plain number: its first number says
nothing about its value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST_NUMBER = 200
"""Characters of an answer that may be a number."""
_SPACE = re.compile(r"(?<!\\)\\[,;:> ]|~|[\u00a0\u2009\u202f]|\\q?quad(?![a-zA-Z])")
_LAYOUT = re.compile(
    r"\\!|(?<!\\)\\[()\[\]]|\\(?:left|right)(?=[(){}\[\]|.\\])|\\(?:displaystyle|big|Big)(?![a-zA-Z])|\\boxed(?=\s*\{)"
)
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it)|mbox|operatorname)\s*\{([^{}]*)\}")
_MARK = "\x01"
"""Stands before words that LaTeX marks as text: there m is metre, and elsewhere perhaps a variable."""
_GROUPED = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?"
_DIGITS = (
    rf"(?:{_GROUPED}|\d{{1,3}}(?: \d{{3}})+(?:\.\d+)?(?!\d)|\d{{1,3}}(?:['’]\d{{3}})+(?:\.\d+)?"
    r"|\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}|\d+\.\d*|\.\d+|\d+)"
)
_PART = rf"(?:\{{\s*[-−]?{_DIGITS}\s*\}}|\d)"
_NUMBER = re.compile(
    r"(?P<sign>[-−+])?\s*(?:(?:[$€£¥₹]|\x01\s*Rs\.?)\s*(?P<inner>[-−])?\s*)?(?:"
    r"(?P<base>\d{1,6}(?:\.\d{1,6})?)\s*\^\s*(?:\{\s*(?P<power>[-−]?\d{1,3})\s*\}|(?P<power1>[-−]?\d{1,3}))"
    rf"|(?:(?P<mixed>\d+)\s*)?\\[dtc]?frac\s*(?P<above>{_PART})\s*(?P<below>{_PART})"
    rf"|(?:(?P<whole>\d+)\s+)?(?P<over>{_GROUPED}|\d+(?:\.\d+)?)\s*[/⁄]\s*(?P<under>{_GROUPED}|\d+(?:\.\d+)?)(?![\d.])"
    r"|(?P<before>\d*\.\d*)\\(?:overline|bar|dot)\s*\{\s*(?P<again>\d+)\s*\}"
    rf"|(?P<digits>{_DIGITS})(?:[eE](?P<exponent>[-+−]?\d{{1,3}})(?!\d)"
    r"|\s*(?:\\times|\\cdot|[x×*·⋅])\s*10\s*\^\s*(?:\{\s*(?P<tens>[-−+]?\d{1,3})\s*\}|(?P<tens1>[-−]?\d{1,3})))?)"
)
_MANY = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# Words after a number that make it another one.
_NO_UNIT = frozenset(
    [
        "and",
        "or",
        "plus",
        "minus",
        "times",
        "half",
        "halves",
        "quarter",
        "quarters",
        "third",
        "thirds",
        "dozen",
        "dozens",
        "score",
        "more",
        "less",
        "fewer",
        "greater",
        "than",
        "not",
        "no",
        "between",
        "at",
        "about",
        "around",
        "over",
        "under",
        "above",
        "below",
        "root",
        "squared",
        "cubed",
        "factorial",
        "choose",
        "mod",
        "modulo",
        "to",
        "but",
        "pi",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "log",
        "ln",
        "exp",
        "base",
        "if",
        "hundred",
        "thousand",
        "million",
        "billion",
        "trillion",
        "point",
        "divided",
        "multiplied",
        "either",
        "maybe",
    ]
)
_LETTERS = frozenset(["m", "g", "s", "h", "l", "L", "W", "V", "A", "N", "J", "K", "C", "F"])
_SHORT = frozenset(
    [
        "mm",
        "cm",
        "dm",
        "km",
        "in",
        "ft",
        "yd",
        "mi",
        "mg",
        "kg",
        "lb",
        "oz",
        "ms",
        "min",
        "hr",
        "mL",
        "ml",
        "cl",
        "kW",
        "kJ",
        "Hz",
        "mph",
        "kph",
    ]
)
"""Units of two letters and more that may stand right behind the digits: 5cm is no product of variables."""
_SAME = {
    word: name
    for name, words in {
        "%": "percent percentage pct",
        "°": "degree degrees deg",
        "$": "dollar dollars usd bucks",
        "¢": "cent cents",
        "€": "euro euros eur",
        "£": "gbp",
        "mm": "millimeter millimeters millimetre millimetres",
        "cm": "centimeter centimeters centimetre centimetres",
        "m": "meter meters metre metres",
        "km": "kilometer kilometers kilometre kilometres kms",
        "in": "inch inches",
        "ft": "foot feet",
        "yd": "yard yards",
        "mi": "mile miles",
        "g": "gram grams",
        "mg": "milligram milligrams",
        "kg": "kilogram kilograms kgs",
        "lb": "pound pounds lbs",
        "oz": "ounce ounces",
        "s": "second seconds sec secs",
        "min": "minute minutes mins",
        "h": "hour hours hr hrs",
        "day": "days",
        "L": "l liter liters litre litres",
        "mL": "ml milliliter milliliters",
    }.items()
    for word in words.split()
}
SIZES = {
    "mm": ("length", Fraction(1, 1000)), "cm": ("length", Fraction(1, 100)), "m": ("length", Fraction(1)),
    "km": ("length", Fraction(1000)), "in": ("length", Fraction(254, 10000)), "ft": ("length", Fraction(3048, 10000)),
    "yd": ("length", Fraction(9144, 10000)), "mi": ("length", Fraction(1609344, 1000)), "mg": ("mass", Fraction(1, 1000)),
    "g": ("mass", Fraction(1)), "kg": ("mass", Fraction(1000)), "s": ("time", Fraction(1)), "min": ("time", Fraction(60)),
    "h": ("time", Fraction(3600)), "day": ("time", Fraction(86400)), "$": ("money", Fraction(1)),
    "¢": ("money", Fraction(1, 100)), "€": ("euros", Fraction(1)), "°": ("angle", Fraction(1)), "L": ("volume", Fraction(1)),
    "mL": ("volume", Fraction(1, 1000)),
}  # fmt: skip
"""What a unit measures, and its size."""


@dataclass(frozen=True, slots=True)
class PlainNumber:
    """A number that is a whole answer. `percent` where a sign or word says so; the value is not divided by 100. `unit` is
    a name in `SIZES`, or "" where there is none or another one."""

    value: Fraction
    percent: bool = False
    unit: str = ""
    digits: int = 0
    """Significant digits, where it is written with six decimal places or more."""


def simplify(text: str) -> str:
    """LaTeX without layout: thin spaces, \\left, \\text{...}, dollar signs around all of it or within."""
    plain = _LAYOUT.sub("", _SPACE.sub(" ", text.replace(",\\!", ",")))
    plain = plain.replace("\\%", "%").replace("{,}", ",")
    while (inner := _TEXT.sub(lambda m: f" {_MARK}{m[1]} ", plain)) != plain:
        plain = inner
    # An even number of dollar signs encloses mathematics; one alone is money.
    bare = plain.replace("\\$", "\x02")
    if bare.count("$") % 2 == 0:
        bare = bare.replace("$", " ")
    plain = bare.replace("\x02", "$").strip('*_`" \t\n:≈~').strip()
    plain = re.sub(r"(?<!\.)\.$", "", plain).strip("*_` ")
    while len(plain) > 1 and plain[0] == "{" and plain[-1] == "}" and plain.count("{") == 1:
        plain = plain[1:-1].strip()
    return plain


def plain_number(text: str) -> PlainNumber | None:
    r"""The number that `text` is as a whole, with or without a unit; None where it is more, or something else.

    Read are 1,234, 1 234, 1\,234, 1{,}234, 1'234, 12,34,567, 1.234.567, 1.234,5 (but 1.234 has decimals), -5, .5, 3/4,
    \frac{3}{4}, \dfrac34, 1\frac12, 1 1/2, 0.\overline{3}, 10^3, 6e23, 6 \times 10^{23}, 5%, $5, 5\text{ cm}, 18 eggs a
    day, 5 million. What stands before the last "=" may be a name (x, f(2), the total) or a calculation (9 * 2 = 18).
    A letter right behind a number (2m) may be a variable, so it is no unit.

    >>> plain_number("18 dollars").value, plain_number(r"\frac{3}{4}").value, plain_number(r"2\sqrt{3}")
    (Fraction(18, 1), Fraction(3, 4), None)
    """
    if len(text) > LONGEST_NUMBER:
        return None
    *before, plain = simplify(text).split("=")
    if not all(map(_names, before)):
        return None
    plain = plain.strip('*_`" \t\n:≈~').replace("½", " 1/2").replace("¼", " 1/4").replace("¾", " 3/4").strip()
    found = _NUMBER.match(plain)
    if not found or not (rest := _unit(plain[found.end() :])):
        return None
    value = _value(found)
    if value is None:
        return None
    many, percent, unit = rest
    negative = (found["sign"] or "") in ("-", "−") or (found["inner"] or "") in ("-", "−")
    digits = found["digits"] or ""
    point = re.fullmatch(r"(\d*)\.(\d{6,})", digits)
    precise = len((point[1] + point[2]).lstrip("0")) if point else 0
    sign = plain[: found.end()].lstrip("-−+ ")[:1]
    if not unit and sign in "$€£":
        unit = sign
    return PlainNumber((-value if negative else value) * many, percent, unit, precise)


def _names(text: str) -> bool:
    """Whether what stands before "=" names or works out the number after it: "2x" and "x = 3 or x" do not."""
    plain = text.strip().replace(_MARK, "")
    if re.fullmatch(r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?'*(?:\s*\([\w, ]*\))?|", plain):
        return True
    words = re.findall(r"[^\W\d_]+", re.sub(r"\\(?:times|cdot|div|[dtc]?frac)(?![a-zA-Z])", " ", plain))
    return (
        not re.search(r"[;<>\\]|,\s", plain)
        and all(len(word) > 1 or word in "aAx" for word in words)
        and not re.search(r"\d[a-zA-Z]|[a-zA-Z]\s*\^|[a-zA-Z]\(", plain)
        and not {"and", "or"} & set(words)
    )


def _value(found: re.Match[str]) -> Fraction | None:
    def part(text: str | None) -> Fraction:
        plain = re.sub(r"[\s'’{}]", "", text or "0").replace("−", "-")
        if re.fullmatch(r"-?\d{1,3}(?:\.\d{3})+(?:,\d+)", plain) or plain.count(".") > 1:
            plain = plain.replace(".", "").replace(",", ".")
        return Fraction(plain.replace(",", "").rstrip(".") or "0")

    if found["base"]:
        base, power = Fraction(found["base"]), int((found["power"] or found["power1"]).replace("−", "-"))
        return base**power if base or power > 0 else None
    if found["above"]:
        below = part(found["below"])
        return part(found["mixed"]) + part(found["above"]) / below if below else None
    if found["over"]:
        under = part(found["under"])
        return part(found["whole"]) + part(found["over"]) / under if under else None
    if found["again"]:
        start, again = found["before"], found["again"]
        places = len(start.partition(".")[2])
        return part(start) + Fraction(int(again), (10 ** len(again) - 1) * 10**places)
    power = int((found["exponent"] or found["tens"] or found["tens1"] or "0").replace("−", "-"))
    return part(found["digits"]) * Fraction(10) ** power


_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\^\s*\\circ|\\circ|\\degree|°)\s*\x01?\s*[CF]?\s*")
_WORD = re.compile(r"(?P<mark>\x01?)(?P<word>[^\W\d_]+)\.?(?P<power>\s*\^\s*\{?\s*[23]\s*\}?|[²³])?")


def _unit(rest: str) -> tuple[int, bool, str] | None:
    """What follows a number: by how much it is multiplied, whether it is a percentage, and its unit. None where it is no
    unit."""
    plain = re.sub(r"\([^()\d\\+*/^=-]*\)\s*$", "", rest).rstrip(" .")
    if not plain:
        return 1, False, ""
    if _DEGREES.fullmatch(plain):
        return 1, False, "°"
    if found := re.match(r"\s*(?:\x01\s*)?(?:%|per\s?cent(?:age)?\b|pct\b)", plain):
        more = _unit(plain[found.end() :]) if plain[found.end() :].strip() else (1, False, "")
        return more and (1, True, "")
    if plain.strip() in ("¢", "€", "£", "$"):
        return 1, False, plain.strip()
    spaced, at, many, units, apart = plain[0] in (" ", _MARK), 0, 1, list[str](), False
    text = plain.replace(_MARK + " ", " " + _MARK)
    while at < len(text):
        if text[at] in " /-·" or text.startswith("\\cdot", at):
            apart = apart or text[at] in "/·\\"
            at += 5 if text[at] == "\\" else 1
            continue
        word = _WORD.match(text, at)
        if not word:
            return None
        at, name, low = word.end(), word["word"], word["word"].lower()
        if low in _MANY and not units:
            many *= _MANY[low]
        elif (
            low in _NO_UNIT
            or (
                len(name) == 1
                and not ((low == "a" and units) or (name in _LETTERS and (word["mark"] or spaced or units)))
            )
            or (not spaced and not word["mark"] and not units and name not in _SHORT and low not in _SAME)
        ):
            return None
        else:
            power = re.sub(r"\D", "", (word["power"] or "").replace("²", "2").replace("³", "3"))
            units.append(_SAME.get(low, name) + power)
    if len(units) > 8:
        return None
    return many, False, units[0] if len(units) == 1 and not apart and units[0] in SIZES else ""
