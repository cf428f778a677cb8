"""Counting in one pass, in memory that does not grow with the rows."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from zlib import crc32

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_REASONS = 200
OTHER = "other reasons"
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+")
_PARTICULARS = re.compile(r"""'[^']*'|"[^"]*"|(?<![\w.-])-?\d+(?:\.\d+)?(?![\w.])""")


class Spread:
    """How numbers are distributed. Values are kept to four significant digits, each once with its count."""

    def __init__(self) -> None:
        self.n = 0
        self.total = 0.0
        self.low = float("inf")
        self.high = float("-inf")
        self.counts: Counter[float] = Counter()
        self._mean = self._squares = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        self.total += value
        # Welford's way, which keeps its digits where values are large and near to each other.
        off = value - self._mean
        self._mean += off / self.n
        self._squares += off * (value - self._mean)
        if value < self.low:
            self.low = value
        if value > self.high:
            self.high = value
        whole = -10_000 < value < 10_000 and value == int(value)
        self.counts[float(value) if whole else float(f"{value:.4g}")] += 1

    def sd(self) -> float:
        """The standard deviation of the values, divided by n; 0 where there are none."""
        return math.sqrt(self._squares / self.n) if self.n else 0.0

    def facts(self) -> dict[str, Any] | None:
        """n, mean, min, max and quantiles (the smallest value that so many lie at or below); None if empty."""
        if not self.n:
            return None
        found: dict[str, Any] = {"n": self.n, "mean": self.total / self.n, "min": self.low, "max": self.high}
        wanted, below = list(QUANTILES), 0
        for value, count in sorted(self.counts.items()):
            below += count
            while wanted and below >= wanted[0] * self.n:
                found[f"q{wanted.pop(0) * 100:02.0f}"] = value
        return found

    def bins(self, most: int = 10) -> list[tuple[float, float, int]]:
        """(from, to, count) over equal widths; a bin a value where there are few enough of them."""
        values = sorted(self.counts.items())
        if len(values) <= most:
            return [(value, value, count) for value, count in values]
        low, width = values[0][0], (values[-1][0] - values[0][0]) / most
        counts: Counter[int] = Counter()
        for value, count in values:
            counts[min(int((value - low) / width), most - 1)] += count
        return [(low + i * width, low + (i + 1) * width, counts[i]) for i in range(most)]


class Reasons:
    """Why something failed, counted without the particulars: quoted texts and numbers are left out."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, why: str | None) -> None:
        reason = _PARTICULARS.sub("…", (why or "no reason given").split("\n")[0])[:100]
        if reason not in self.counts and len(self.counts) >= _REASONS:
            reason = OTHER
        self.counts[reason] += 1

    def facts(self) -> dict[str, int]:
        return dict(sorted(self.counts.items(), key=lambda item: (-item[1], item[0])))


class Values:
    """One fact of many pairs: truth values and texts are counted, numbers are spread."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.numbers = Spread()

    def add(self, value: Any) -> None:
        if isinstance(value, bool) or value is None:
            self.counts[{True: "yes", False: "no", None: "none"}[value]] += 1
        elif isinstance(value, int | float):
            self.numbers.add(value)
        elif isinstance(value, str):
            short = value if len(value) <= 60 else f"{value[:59]}…"
            self.counts[short if short in self.counts or len(self.counts) < _REASONS else OTHER] += 1

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = {"counts": ordered(self.counts)} if self.counts else {}
        return found | ({"numbers": self.numbers.facts()} if self.numbers.n else {})


class Frequent:
    """Texts that come again and again, whole or nearly so, found in memory that does not grow with their number.

    A text is known by the three smallest hashes of the runs of three words in its beginning, so a few words changed
    or put in leave it mostly the same, and a count is of at least so many. It is kept after Misra and Gries, who
    lose at most 1/(KEPT+1) of all texts.
    """

    KEPT = 500
    LOOKED_AT = 500
    FEWEST = 5
    """Texts of fewer than FEWEST words ("Yes.", "42") may well be right for many prompts, and are not counted."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int, ...], int] = {}
        self.shown: dict[tuple[int, ...], str] = {}

    def add(self, texts: Iterable[str]) -> None:
        """Count the texts of one row, each once."""
        for key, text in {self._key(text): text for text in texts}.items():
            if not key:
                continue
            if key in self.counts or len(self.counts) < self.KEPT:
                self.counts[key] = self.counts.get(key, 0) + 1
                self.shown[key] = min(self.shown.get(key, text), text)[:80]
            else:
                self.counts = {kept: n - 1 for kept, n in self.counts.items() if n > 1}
                self.shown = {kept: self.shown[kept] for kept in self.counts}

    def _key(self, text: str) -> tuple[int, ...]:
        words = _WORDS.findall(text[: self.LOOKED_AT].lower())
        if len(words) < self.FEWEST:
            return ()
        hashes = [crc32(word.encode("utf-8", "surrogatepass")) for word in words]
        runs = {
            (a * 31 + b) * 31 + c & 0xFFFFFFFF
            for a, b, c in zip(hashes, hashes[1:], hashes[2:], strict=False)
        }
        return tuple(sorted(runs)[:3])

    def most(self) -> dict[str, Any] | None:
        """The text that came in the most rows, and in how many; None if none came twice."""
        rows, text = max(((n, self.shown[key]) for key, n in self.counts.items()), default=(0, ""))
        return {"text": text, "rows": rows} if rows > 1 else None


def ordered(counts: Counter[str]) -> dict[str, int]:
    """The counts, most frequent first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table, numbers to the right."""
    right = [all(isinstance(line[i], int | float) for line in lines) for i in range(len(header))]
    rule = ["---:" if to_right else "---" for to_right in right]
    shown = [[_cell(value) for value in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(header), rule, *shown])


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).replace("|", "\\|").replace("\n", " ")
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
