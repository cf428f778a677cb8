"""The final answer of a worked solution, and the number in it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from synthpref.core.numerals import plain_number

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
        return _boxes(text, marks)
    return last[last.lastgroup].strip()


def _boxes(text: str, marks: list[re.Match[str]]) -> str:
    r"""What the last box holds; where it goes on the list of the one before (\boxed{3} or \boxed{4}), what both hold."""
    answer, start = _braced(text, marks[-1].end()), marks[-1].start()
    for mark in reversed(marks[:-1]):
        if mark.lastgroup is not None:
            break
        earlier = _braced(text, mark.end())
        between = text[text.index(earlier, mark.end()) + len(earlier) : start]
        if not answer or not _ALSO.fullmatch(between):
            break
        answer, start = f"{earlier}, {answer}", mark.start()
    return answer


_ALSO = re.compile(
    r"\s*\}[\s$]*(?:\\text\{)?\s*(?:,|,?\s*(?:and|or))\s*\}?\s*(?:[a-zA-Z]\s*=\s*)?[\s$]*(?:[a-zA-Z]\s*=\s*)?"
)


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


_SENTENCE = re.compile(
    r"\.\s|;\s+[a-z]{3,}|,\s+(?!and\b|or\b|sin\b|cos\b|tan\b|log\b)[a-z]{3,}\b"
    r"|,?\s(?:because|since|as|which|so)\s|\s—\s",
    re.IGNORECASE,
)
"""Where the clause of an answer ends. A hyphen or a bare comma does not end it: 3 - 4i, and x = 3, y = 4, are one answer; a condition (x if x > 0) is a part of it."""


def clauses(answer: str) -> list[str]:
    """The answer, and its first clause where it has more."""
    first = _SENTENCE.split(answer, maxsplit=1)[0]
    return [answer] if first == answer else [answer, first]


@dataclass(frozen=True, slots=True)
class NumericAnswer:
    """The number that a text ends up with; without one, `found` is the answer that is no plain number, or None."""

    value: float | None
    found: str | None = None


def numeric_answer(text: str) -> NumericAnswer:
    r"""The number that `text` ends up with.

    With an answer mark (see `final_answer`) what follows it must be a plain number as a whole: of "2\sqrt{3}" the 2 is no
    answer. Of a sentence it is the part up to its end. Without a mark: the last number of the text; but where it stands
    in a formula ($2\sqrt{3}$, \(x^2\)), the formula must be a plain number.
    """
    answer = final_answer(text)
    if answer is None:
        found = numbers(text)
        if found and not re.search(r"[^\W\d_]{2}", text):
            # No sentence, and so all of it is the answer.
            return _numeric([text], text.strip())
        formulas = list(_FORMULA.finditer(text))
        if (
            formulas
            and not re.search(r"\d", text[formulas[-1].end() :])
            and re.search(r"\d", formulas[-1][0])
        ):
            return _numeric([formulas[-1][0]], formulas[-1][0])
        last = (re.findall(r"\S*\d\S*", text) or [""])[-1].strip(".,;:!?()[]\"'*")
        if "\\" in last or "^" in last:
            # Part of a formula, of which the last number is as good as any.
            return _numeric([last], last)
        return NumericAnswer(found[-1] if found else None)
    return _numeric(clauses(answer), answer)


_FORMULA = re.compile(
    r"(?<!\\)\$\$?(?![\d.,]+\s+[a-z]{2})[^$\n]+(?<!\\)\$\$?|\\\([^\n]+?\\\)|\\\[.+?\\\]", re.DOTALL
)


def _numeric(parts: Sequence[str], answer: str) -> NumericAnswer:
    number = next(filter(None, map(plain_number, parts)), None)
    try:
        return NumericAnswer(None, answer) if number is None else NumericAnswer(float(number.value))
    except OverflowError:
        return NumericAnswer(None, answer)
