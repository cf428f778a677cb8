"""The final answer of a worked solution, and the number in it. Pure."""

from __future__ import annotations

import re

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
_RATIO = re.compile(r"(?P<sign>[-−+])?\s*(?:\\[dt]?frac\{(\d+)\}\{(\d+)\}|(\d+)\s*/\s*(\d+))\s*\.?")


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


def numeric_answer(text: str) -> float | None:
    """The number that `text` ends up with; None when there is none.

    With an answer mark (see `final_answer`): the number after the last "=" of what follows it, or the first
    number where there is no "="; a lone fraction (3/4) is its value. Without a mark: the last number of the
    text. A mark without a number gives None, and never an earlier number.
    """
    answer = final_answer(text)
    if answer is None:
        found = numbers(text)
        return found[-1] if found else None
    if ratio := _RATIO.fullmatch(answer.strip("$*_ ")):
        above, below = (int(part) for part in ratio.groups()[1:] if part is not None)
        signed = -above if ratio["sign"] in ("-", "−") else above
        return signed / below if below else None
    found = numbers(answer.rsplit("=", 1)[-1])
    return found[0] if found else None
