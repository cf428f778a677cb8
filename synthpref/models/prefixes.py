"""Which of several engines has read the beginning of a request already, as far as the requests before it tell."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from synthpref.core.seam import Request

CHUNK = 256
"""Characters, about as many as four blocks of an engine's cache hold."""
CHUNKS = 32
"""Chunks that are looked at: what lies behind them is hardly ever shared."""
MOST = 50_000
"""Chunks that are remembered; an engine forgets too."""


class Prefixes:
    """Remembers by chunks of the text, each with all before it, which engines were given it."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._given: OrderedDict[int, int] = OrderedDict()

    @staticmethod
    def marks(request: Request) -> list[int]:
        """One for each chunk with which the request begins."""
        text = "\0".join(f"{m['role']}\0{m['content']}" for m in request.messages)
        marks, before = [], 0
        for start in range(0, min(len(text) - CHUNK + 1, CHUNK * CHUNKS), CHUNK):
            before = hash((before, text[start : start + CHUNK]))
            marks.append(before)
        return marks

    def longest(self, marks: Sequence[int], among: Sequence[int]) -> list[int]:
        """Those of the engines that have read the most of it; all of them where none has read any."""
        left = list(among)
        for mark in marks:
            given = self._given.get(mark, 0)
            if not (having := [i for i in left if given >> i & 1]):
                break
            left = having
        return left

    def note(self, marks: Sequence[int], engine: int) -> None:
        """The engine is given the request."""
        for mark in marks:
            self._given[mark] = self._given.pop(mark, 0) | 1 << engine
        while len(self._given) > self._most:
            self._given.popitem(last=False)
