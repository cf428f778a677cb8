"""How many tokens a call is going to use, learnt from those before it."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt

from synthpref.core.seam import Completion, Request

CHARS_PER_TOKEN = 4
MEMORY = 500
"""Answers that the means look back on."""
CAUTION = 3.0
"""How much is added while few answers are known: the first to come are the shortest."""


class Lengths:
    """The lengths of one role's prompts and answers."""

    def __init__(self) -> None:
        self._per_char = 1 / CHARS_PER_TOKEN
        self._per_answer = 0.0
        self._seen = 0

    def expected(self, request: Request) -> float:
        """Tokens that the request may use: inf where nothing bounds an answer and none was seen."""
        bound = inf if request.max_tokens is None else float(request.max_tokens)
        each = inf
        if request.kind != "chat":
            each = 0.0
        elif self._seen:
            each = self._per_answer * (1 + CAUTION / sqrt(self._seen))
        return _chars(request) * self._per_char + request.n * min(each, bound)

    def learn(self, request: Request, answers: Sequence[Completion]) -> float:
        """Tokens that the answers used; estimated where the endpoint did not count them."""
        chars = max(_chars(request), 1)
        usage = answers[0].usage if answers else None
        asked = float(usage.prompt_tokens) if usage else chars * self._per_char
        written = (
            float(usage.completion_tokens) if usage else sum(len(a.text) for a in answers) / CHARS_PER_TOKEN
        )
        self._seen += 1
        weight = 1 / min(self._seen, MEMORY)
        if usage:
            self._per_char += (asked / chars - self._per_char) * weight
        self._per_answer += (written / max(len(answers), 1) - self._per_answer) * weight
        return asked + written


def _chars(request: Request) -> int:
    return sum(len(message["content"]) for message in request.messages)
