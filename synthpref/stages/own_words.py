"""A judge that quotes a candidate says nothing by what it quotes: the verdict is read from its own words."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

from synthpref.core.parse import Parsed
from synthpref.core.reply import json_spans

T = TypeVar("T")

QUOTED = "quoted: the only verdict in the reply is the response's own"
_SHORTEST = 5
"""Characters of a quotation. What is shorter is in any text."""
_MARKED = [
    re.compile(pattern, re.S)
    for pattern in (
        r"```.*?```",
        r"<<[^<>\n]+>>\n.*?\n<</[^<>\n]+>>",
        r"`[^`]*`",
        r"[^\n]+",
        r"\"[^\"]*\"",
        r"“[^”]*”|«[^»]*»",
        r"'[^'\n]*'",
    )
]
"""What may be a quotation: a block, a whole line, a text in quotation marks."""
_MARKS = "`\"“”«»'> \t\n"


def own_verdict(
    reply: str, candidates: Sequence[str], read: Callable[[str], Mapping[str, Parsed[T]]]
) -> dict[str, Parsed[T]]:
    """What `read` finds in the reply, quotations of the candidates left out.

    A reply that says nothing but one verdict is taken at its word, also where a candidate has the same words.
    """
    whole = dict(read(reply))
    if _alone(reply) or (bare := without_quotations(reply, candidates)) == reply:
        return whole
    own = read(bare)
    return {name: _choose(parsed, own[name]) for name, parsed in whole.items()}


def _choose(whole: Parsed[T], own: Parsed[T]) -> Parsed[T]:
    if own.value is not None:
        return replace(own, rationale=whole.rationale or own.rationale)
    if whole.value is None:
        return whole
    return Parsed(None, QUOTED, whole.rationale)


def without_quotations(reply: str, candidates: Sequence[str]) -> str:
    """The reply with blanks where it repeats, marked as a quotation or on a line of its own, what a candidate says.
    The judge's own JSON stays as it is."""
    spans = list(json_spans(reply))
    own = [(span.start, span.end) for span in spans if not _in(reply[span.start : span.end], candidates)]
    reply = _without_lines(reply, own, candidates)
    parts, at = [], 0
    for span in spans:
        text = reply[span.start : span.end]
        mine = (span.start, span.end) in own
        parts += [_prose(reply[at : span.start], candidates), text if mine else _blank(text)]
        at = span.end
    return "".join([*parts, _prose(reply[at:], candidates)])


def _prose(text: str, candidates: Sequence[str]) -> str:
    for pattern in _MARKED:
        text = pattern.sub(lambda m: _blank(m[0]) if _in(m[0], candidates) else m[0], text)
    return text


def _without_lines(reply: str, own: Sequence[tuple[int, int]], candidates: Sequence[str]) -> str:
    """The reply with blanks for lines that follow one another in a candidate too, however short they are: a line "A"
    would else be left over from a quotation, as if it were the judge's last word. Lines within `own` stay."""
    before = defaultdict[str, set[str]](set)
    for candidate in candidates:
        for first, second in pairwise(line for _, line in _lines(candidate)):
            before[second].add(first)
    gone: set[int] = set()
    for (i, first), (j, second) in pairwise(_lines(reply)):
        if first in before[second]:
            gone |= {i, j}
        elif any(first.endswith(line) for line in before[second]):
            gone.add(j)
    lines, at = reply.split("\n"), 0
    for i, line in enumerate(lines):
        if i in gone and not any(start < at + len(line) and at < end for start, end in own):
            lines[i] = _blank(line)
        at += len(line) + 1
    return "\n".join(lines)


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines that are not empty, without the marks of a quotation, and where each stands."""
    bare = ((i, line.strip(_MARKS)) for i, line in enumerate(text.split("\n")))
    return [(i, line) for i, line in bare if line]


def _in(text: str, candidates: Sequence[str]) -> bool:
    said = re.sub(r"^<<[^\n]*>>\n|\n<<[^\n]*>>$|^```\w*|^\s*>\s?", "", text).strip(_MARKS)
    return len(said) >= _SHORTEST and any(said in candidate for candidate in candidates)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _alone(reply: str) -> bool:
    text = re.sub(r"^```\w*\n|\n```$", "", reply.strip()).strip()
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return "\n" not in text and len(text.split()) <= 4
