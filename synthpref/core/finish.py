"""How an answer ended, whatever word the endpoint has for it. Pure."""

from __future__ import annotations

import re
from typing import Any, Literal

Ending = Literal["whole", "cut", "filtered", "failed"]
"""whole: the model came to its end. cut: something is missing at the end of the text. filtered: a content filter took
the text away, or what came after it. failed: the endpoint broke down, and may succeed when asked again."""

_ENDINGS: tuple[tuple[Ending, re.Pattern[str]], ...] = (
    # A limit of time or rate is no limit of length.
    ("failed", re.compile(r"(rate|time)_?(limit|out)")),
    (
        "filtered",
        re.compile(
            r"filter|safety|sensitive|moderat|prohibit|block|recitation|spii|guardrail|toxic|harm|refus|polic"
            r"|violat|censor|copyright|^language$"
        ),
    ),
    (
        "cut",
        re.compile(
            r"length|max|limit|budget|window|truncat|exceed|context|^cut|repet|repeat|partial|incomplete"
        ),
    ),
    (
        "failed",
        re.compile(
            r"error|abort|fail|network|insufficient|resource|cancel|interrupt|unavailable|overload|disconnect"
            r"|preempt|exception|malformed|shutdown|unload"
        ),
    ),
    (
        "whole",
        re.compile(
            r"^(stop|eos|eot|end|complete|done|finish|success|normal|natural|ok$|tool|function|matched|pause_turn)"
        ),
    ),
)
_PREFIX = re.compile(r"^(finish_?reason|stop_?reason)_+(?=\w)")


def finish_word(given: Any) -> str | None:
    """The finish reason as a word: endpoints give text, null, or an object such as {"type": "stop", "matched": 2}."""
    if isinstance(given, dict):
        texts = [given.get(key) for key in ("type", "reason", "finish_reason", "name", "value")]
        given = next((text for text in texts if isinstance(text, str)), None)
    return given.strip() or None if isinstance(given, str) else None


def ending_of(word: str | None) -> Ending:
    """How an answer with this finish reason ended.

    No word counts as whole: many servers give none. A word that is not known counts as cut, because an answer of which
    nobody knows whether it is complete may not become a label.

    >>> ending_of("MAX_TOKENS"), ending_of("end_turn"), ending_of("sensitive"), ending_of("network_error")
    ('cut', 'whole', 'filtered', 'failed')
    """
    if word is None:
        return "whole"
    return next((ending for ending, pattern in _ENDINGS if pattern.search(_plain(word))), "cut")


def is_known(word: str | None) -> bool:
    """Whether `ending_of` knows the word. One that it does not know is reported."""
    return word is None or any(pattern.search(_plain(word)) for _, pattern in _ENDINGS)


def _plain(word: str) -> str:
    """The word as words are compared: "FinishReason.MAX_TOKENS" and "finishReasonMaxTokens" are "max_tokens"."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word.rpartition(".")[2])
    return _PREFIX.sub("", re.sub(r"\W+", "_", snake).strip("_").casefold())
