"""The final answer of a worked solution, and the number in it. Pure."""

from __future__ import annotations

import re

_MARK = re.compile(
    r"####[ \t]*(?P<hashes>[^\n]*)"
    r"|^[ \t*_]*(?:final )?(?:A|answer)[*_]*[ \t]*:[*_]*[ \t]*(?P<line>[^\n]*)"
    r"|\b(?:final )?answer(?: is|:)[*_]*:?[ \t]*(?P<said>[^\n]*)"
    r"|\\boxed[ \t]*\{",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-−+])?\s?[$€£]?\s?(?P<minus>[-−])?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?![\d,])|\d+)?(?P<fraction>\.\d+)?(?P<power>[eE][-+]?\d+)?(?!\w)"
)
_RATIO = re.compile(r"\s*(?P<sign>[-−+])?\s*(?:\\[dt]?frac\{(\d+)\}\{(\d+)\}|(\d+)\s*/\s*(\d+))\s*\.?\s*")


def final_answer(text: str) -> str | None:
    r"""What stands after the last answer mark: `####`, `A:` or `Answer:` at the start of a line, "the answer is",
    or the inside of the last `\boxed{}`. None without any. The last mark binds, even with nothing after it."""
    marks = list(_MARK.finditer(text))
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
    """The numbers in `text`: 1,234 is one number, $ and % are passed over, so is a full stop after a number."""
    found = []
    for match in _NUMBER.finditer(text.replace("\\$", "$").replace("\\%", "%").replace("{,}", ",")):
        if match["digits"] or match["fraction"]:
            raw = f"{match['digits'] or ''}{match['fraction'] or ''}{match['power'] or ''}".replace(",", "")
            negative = "-" in (sign := f"{match['sign']}{match['minus']}") or "−" in sign
            found.append(-float(raw) if negative else float(raw))
    return found


def numeric_answer(text: str) -> float | None:
    """The number that `text` ends up with. None when there is none.

    With an answer mark (see `final_answer`): in what follows the last one, the number after the last "=" if there
    is one, else the first number; a lone fraction (3/4) is its value. Without a mark: the last number of the
    text. An answer mark without a number gives None, and never an earlier number.
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
