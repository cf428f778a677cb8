"""What the values of verdict columns mean: "a", "b", "tie", or none. What is not plain is refused, not guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

A = {
    "a", "left", "first", "a wins", "model_a", "model a", "response_a", "response a", "answer a", "answer_a",
    "assistant_a", "assistant a", "output_a", "output a", "option a", "a>b", "a>>b", "a > b", "response_1",
    "response 1", "model_1", "model 1", "answer_1", "answer 1", "output_1", "output 1", "assistant 1", "1st",
    "output (a)", "response (a)", "a is better", "choose a",
}  # fmt: skip
_ONE_TO_TWO = {"a": "b", "left": "right", "first": "second", "1": "2", "1st": "2nd"}
TIE = {
    "tie", "tied", "ties", "draw", "equal", "equally good", "same", "both", "neither", "c", "tie (both bad)",
    "tie (bothbad)", "bothbad", "both bad", "both_bad", "both good", "no preference", "a=b", "a = b", "=",
}  # fmt: skip
NONE = {
    "", "none", "null", "nan", "n/a", "na", "invalid", "error", "unparsed", "unparsable", "failed", "unknown",
    "no verdict", "missing", "?", "-",
}  # fmt: skip


def _other(word: str) -> str:
    """The word that says of b what `word` says of a."""
    if ">" in word:
        return word.replace(">", "<")
    return re.sub(
        r"[a-z]+|\d(?:st)?", lambda m: _ONE_TO_TWO.get(m[0], m[0]), word.replace("_", " _ ")
    ).replace(" _ ", "_")


B = {_other(word) for word in A} | {"<", "b>a", "b>>a", "b > a"}
A |= {">", "b<a", "b<<a", "b < a"}
PLAIN = {word: side for side, words in (("a", A), ("b", B), ("tie", TIE), ("none", NONE)) for word in words}
CODES: dict[frozenset[str], dict[str, str]] = {
    frozenset("12"): {"1": "a", "2": "b"},
    frozenset("012"): {"1": "a", "2": "b", "0": "tie"},
    frozenset("123"): {"1": "a", "2": "b", "3": "tie"},
    frozenset({"0", "0.5", "1"}): {"1": "a", "0": "b", "0.5": "tie"},
}
"""Sets of numbers that can be read in one way only, and that way."""


@dataclass(frozen=True)
class Reading:
    """How the values of one column are read."""

    sides: Mapping[str, str]
    """Value (see `word`) to "a", "b", "tie" or "none"."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Value to the probability that a is better, where the column holds such."""
    unread: tuple[str, ...] = ()
    """Values that are none of them."""
    note: str = ""
    """What was taken for granted."""


_CLOSES = {"[": "]", "(": ")", "{": "}", "<": ">", "*": "*", '"': '"', "'": "'"}


def word(value: Any) -> str:
    """A value as one looks it up: small letters, no brackets, 1.0 as 1."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip().casefold().rstrip(". ")
    while len(text) > 2 and _CLOSES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    return text.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", text) else text


def is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d{1,3})?", text, re.IGNORECASE) is not None


def read_values(values: Iterable[str], given: Mapping[str, str], codes: Mapping[str, str]) -> Reading:
    """How a column with these values (see `word`) is read: as `given` by the user, else by plain words, else by
    numbers where they can mean one thing only. `codes` is how another column of the same data, of which this one
    may use a part, has them."""
    left = sorted({value for value in values if value not in given})
    sides = {value: given[value] for value in values if value in given}
    sides |= {value: PLAIN[value] for value in left if value in PLAIN}
    numbers = {value for value in left if value not in PLAIN and is_number(value)}
    counted = numbers - {"-1"} if numbers != {"-1"} else numbers
    code = CODES.get(frozenset(counted)) or (codes if counted and counted <= set(codes) else {})
    note = ""
    if code:
        sides |= {value: code[value] for value in counted}
        if "-1" in numbers:
            sides["-1"] = "none"
        note = ", ".join(f"{value} as {sides[value]}" for value in sorted(numbers))
    shares = {}
    if not code and _probable(numbers):
        shares = {value: float(value) for value in numbers}
        note = "numbers from 0 to 1 as the probability that a is better"
    unread = tuple(value for value in left if value not in sides and value not in shares)
    return Reading(sides, shares, unread, note)


def _probable(numbers: Collection[str]) -> bool:
    """Whether these can be probabilities and nothing else: several of them, and most of them fractions."""
    found = [float(value) for value in numbers]
    fractions = sum(not value.is_integer() for value in found)
    return all(0 <= value <= 1 for value in found) and fractions > 2
