"""A model's reply -> a value, or the reason why there is none. Pure, tolerant of form, strict about content.

The rules, for every function here:
- JSON in the asked shape outranks other JSON, and that outranks prose: "Score: 7/10", "[[A]]", a number alone on the
  last line (`core.reply`). Verdicts of one rank that differ are none.
- What the reply quotes from, or reports about, a text that the judge was shown is not its verdict (`core.mentions`).
- A verdict off the scale or off the menu fails. Nothing is clamped, and a failed verdict does not fall back on another.
- Nothing is guessed: a number or a letter in running prose is not a verdict.

Everywhere `asked` are the fields of the shape that was asked for, and `others` the texts that the judge was shown.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from synthpref.core.json_parts import plain
from synthpref.core.reply import PART, WHOLE, Found, Parsed, Reply, quoted, reasoning, values_of

__all__ = [
    "Parsed",
    "Scale",
    "parse_choice",
    "parse_score",
    "parse_scores",
    "parse_winner",
]

Scale = tuple[float, float]
"""The lowest and the highest score, both included."""

LONG_LINE = 300
"""A line longer than this is prose, and its end is all that may hold an unmarked verdict."""

# ---- numbers

_NULL = r"n/?a\b|none\b|null\b|nan\b|unknown\b|unrated\b|unscor(?:ed|able)\b|not applicable\b"
_NUMBER = r"[-+−]?\d[\d.,]*"
_VALUE = (
    rf"(?:(?P<null>{_NULL})|(?P<number>{_NUMBER})(?!\w)(?:[\"'*_`\s]*(?:/|out of)\s*(?P<of>\d[\d.,]*))?"
    r"(?P<range>\s*(?:[-–—]|to\b|or\b)\s*\d)?(?P<percent>\s*%)?)"
)
_BEFORE, _AFTER = r"[\"'*_`\s\[(<#]*", r"[\"'*_` \t.,)\]]*"

_MARKED = re.compile(
    rf"\b(?:score|rating|grade|verdict)\b(?:\s*\([^()\n]{{0,40}}\))?[\"'*_`\s]*"
    rf"(?:[:=]|\bis\b|\bof\b|\s[-–—]\s)(?:\s*[:=])?{_BEFORE}{_VALUE}",
    re.IGNORECASE,
)
_BRACKETED = re.compile(rf"\[\[\s*{_VALUE}\s*\]\]", re.IGNORECASE)
_ALONE = re.compile(rf"[\W_]*?{_VALUE}{_AFTER}", re.IGNORECASE)
_WHOLE = re.compile(rf"{_BEFORE}{_VALUE}{_AFTER}", re.IGNORECASE)
_FRACTION = re.compile(
    rf"(?<![\w./])(?P<number>{_NUMBER})\s*(?:/|out of)\s*(?P<of>\d+)(?![\w/])", re.IGNORECASE
)
_GIVEN = re.compile(
    r"\bI(?:['’]\w+|\s+(?:would|will|can|must|do|have|only|still|therefore|thus|hence|decided|to))*\s+"
    r"(?:give|gave|rate|rated|score|scored|grade|graded|assign|assigned|award|awarded|say|mark|put)\b"
    rf"(?:\s+[^\W\d][\w'’]*){{0,5}}?\s+(?:a|an|it|this|that|of|at|as|with)\s+[*_]*{_VALUE}"
    r"(?=[*_]*\s*(?:[.,;:!)]|$|(?:points?|stars?|overall|because|since|although|though|but|despite|even)\b))",
    re.IGNORECASE | re.MULTILINE,
)
"""A number that the judge says it gives: "I give it a 3"."""
_NUMBERED = re.compile(
    r"(?<!as )(?<!than )(?<!by )(?<!of )(?<!to )\b(?:assistant|model)s?\s+\d\b|\bboth\s+(?:assistant|model)s\b",
    re.IGNORECASE,
)
_LIST_NUMBER = re.compile(r"\W*\d+[.)]\W*")

_OVERALL = re.compile(
    r"an?|the|my|its|this|your|our|final|overall|total|numeric|integer|single|response(?:['’]s)?|answer(?:['’]s)?"
    r"|and|so|then|thus|hence|therefore|is|as",
    re.IGNORECASE,
)
"""Words that may stand before "score". Any other word names a part of the answer: "clarity score: 3"."""


def _on_scale(
    value: Any, scale: Scale, integer: bool, of: str | None = None
) -> tuple[float | None, str | None]:
    """The score that a JSON value or a text stands for, or why it stands for none."""
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value[:LONG_LINE])
        return _read(whole, scale, integer) if whole else (None, f"score is not a number: {quoted(value)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, f"score is not a number: {quoted(value)}"
    low, high = scale
    if not (low <= value <= high and math.isfinite(value)):
        return None, f"score off the scale: {str(value)[:20]} is not within {low:g} to {high:g}"
    if of is not None and of.rstrip(".,") != f"{high:g}":
        return None, f"score on another scale: {value:g}/{of} where {high:g} is the highest"
    if integer and value != int(value):
        return None, f"score off the scale: {value:g} is not a whole number"
    return float(value), None


def _read(match: re.Match[str], scale: Scale, integer: bool) -> tuple[float | None, str | None]:
    groups = match.groupdict()
    if groups.get("null"):
        return None, f"no score given: {quoted(match['null'])}"
    try:
        number = float(match["number"].rstrip(".,").replace("−", "-"))
    except ValueError:
        return None, f"score is not a number: {quoted(match[0])}"
    if groups.get("range") or (groups.get("percent") and scale[1] != 100):
        return None, f"score is not a number: {quoted(match[0])}"
    exact = int(number) if number.is_integer() else number
    return _on_scale(exact, scale, integer, groups.get("of"))


def _number(match: re.Match[str], scale: Scale, integer: bool, offset: int = 0, about: str = "") -> Found:
    """The verdict that a match holds, in prose that begins `offset` further on."""
    value, why = _read(match, scale, integer)
    start, phrase = offset + match.start("number"), offset + match.start()
    return Found(offset + match.end(), value, why, start=start, phrase=phrase, about=about)


def _text_scores(reply: Reply, scale: Scale, integer: bool) -> Iterator[Found]:
    """The verdicts in prose: marked ("Rating: 7"), given ("I give it a 7"), bracketed ("[[7]]"), alone on the first
    or last line, or the only fraction ("7/10") of the last line."""
    prose = reply.words.text
    numbered = list(_NUMBERED.finditer(prose))
    places = [match.start() for match in numbered]

    def about(start: int) -> str:
        named = bisect_right(places, start)
        return numbered[named - 1][0].casefold() if named else ""

    for match in _BRACKETED.finditer(prose):
        yield _number(match, scale, integer)
    for match in _GIVEN.finditer(prose):
        yield _number(match, scale, integer, about=about(match.start("number")))
    for match in _MARKED.finditer(prose):
        before = re.search(r"([\w'’-]+)[ \t*_`\"]*\Z", prose[max(0, match.start() - 40) : match.start()])
        if (before is None or _OVERALL.fullmatch(before[1])) and not _cut(prose, match):
            yield _number(match, scale, integer, about=about(match.start()))
    ends = reply.ends()
    for line in ends:
        last = line is ends[-1]
        if len(line[0]) <= LONG_LINE and (alone := _ALONE.fullmatch(line[0])):
            # A first line "1." opens a numbered list.
            if last or not _LIST_NUMBER.fullmatch(line[0]):
                yield _number(alone, scale, integer, line.start())
        elif last:
            tail = line[0][-LONG_LINE:]
            fractions = list(_FRACTION.finditer(tail))
            if len({f[0] for f in fractions}) == 1 and fractions[0]["of"] == f"{scale[1]:g}":
                yield _number(fractions[-1], scale, integer, line.end() - len(tail))


def _cut(prose: str, match: re.Match[str]) -> bool:
    """Whether a JSON property outside of any object ends the reply with its number: more digits may have been to come."""
    return prose[match.start() - 1 : match.start()] == '"' and not prose[match.end() :].strip()


def parse_score(
    reply: str,
    scale: Scale,
    *,
    integer: bool = True,
    asked: Collection[str] = (),
    others: Sequence[str] = (),
) -> Parsed[float]:
    """The score that a reply gives: the JSON property "score" (or "rating"), or a verdict in text."""
    parts = Reply(reply, asked, others)
    found = [
        Found(
            holder.span.end,
            *_on_scale(value, scale, integer),
            reasoning(holder.value),
            at,
            holder.rank,
            sure=holder.rank == WHOLE or holder.free,
        )
        for holder in parts.holders({"score", "rating"})
        for value, at in values_of(holder, {"score"}, {"rating"})
    ]
    return parts.choose([*_text_scores(parts, scale, integer), *found])


def parse_scores(
    reply: str,
    names: Sequence[str],
    scale: Scale,
    *,
    integer: bool = True,
    asked: Collection[str] = (),
    others: Sequence[str] = (),
) -> dict[str, Parsed[float]]:
    """A score for each of `names` (aspects, or the labels of candidates), by name and never by position.

    Read from a JSON object that has the names as properties, or from lines such as "clarity: 7/10" or
    "Response 2: 7". JSON that lacks one of the names gives way to one that has them all.
    """
    parts = Reply(reply, asked, others)
    return {name: _named(parts, name, names, scale, integer) for name in names}


def labels(name: str) -> set[str]:
    """The JSON properties under which the score for `name` may stand."""
    bare = plain(name)
    return {bare, *(f"{noun} {bare}" for noun in ("response", "answer", "candidate"))}


def _named(parts: Reply, name: str, names: Sequence[str], scale: Scale, integer: bool) -> Parsed[float]:
    bare, labelled = plain(name), labels(name)
    found = []
    for holder in parts.holders(labelled):
        keys = {plain(key) for key in holder.value}
        rank = holder.rank if all(labels(other) & keys for other in names) else PART
        for given, at in values_of(holder, labelled):
            inner = {plain(key): value for key, value in given.items()} if isinstance(given, dict) else {}
            value = inner.get("score", inner.get("rating", given))
            why = reasoning(holder.value) or reasoning(holder.span.value)
            found.append(
                Found(
                    holder.span.end,
                    *_on_scale(value, scale, integer),
                    why,
                    at,
                    rank,
                    sure=rank == WHOLE or holder.free,
                )
            )
    words = r"[\s_-]+".join(re.escape(word) for word in bare.split())
    line = (
        rf"^[^\w\n]*(?:(?:response|answer|candidate)\s+)?{words}(?:\s+(?:score|rating))?(?:\s*\([^()\n]{{0,40}}\))?"
        rf"[\"'*_`\] \t]*[:=]{_BEFORE}{_VALUE}{_AFTER}$"
    )
    property_ = rf"(?<=\"){words}\"\s*:\s*\"?{_VALUE}"
    for pattern in (line, property_):
        for match in re.finditer(pattern, parts.words.text, re.IGNORECASE | re.MULTILINE):
            if not _cut(parts.words.text, match):
                found.append(_number(match, scale, integer))
    return parts.choose(found, f"score for {name!r}")


# ---- one of a few words

_NOUN = r"(?:response|answer|assistant|output|option|candidate|choice)"
_NAMED = rf"(?:(?:the\s+)?{_NOUN}\s+)?"
_FOLLOWED = (
    r"(?=[\"'*_`)\]}>]*(?:\s*$|\s*\n|\s*[.,;:!](?!\w)|\s+[-–—]\s"
    r"|\s+(?:because|since|as|for|over|with|by|due)\b))"
)
_LEAD = (
    r"(?:(?:(?:therefore|so|thus|hence|overall|finally|in (?:conclusion|summary|short)|i conclude that)\b"
    r"|(?:based on|considering|given)\b[^.;:]{0,200}?,),?\s*)*"
)
_PRAISE = (
    rf"(?:is(?:\s+(?:slightly|clearly|much|far|overall|the))*\s+(?:better|best|winner|stronger|superior|preferred)"
    rf"|wins)(?:\s+(?:one|overall|{_NOUN}))?(?:,?\s+(?:as\s+(?:it|they)|because|since|due\s+to)\b.*)?"
)
_OTHERS = ("a", "b", "c", "tie", "draw", "both", "neither", "equal", "none", "unknown", "unclear", "n/a")
"""Words that are a verdict even where they are off the menu: they fail, instead of being passed over."""


def parse_choice(
    reply: str,
    choices: Collection[str],
    key: str = "verdict",
    *,
    asked: Collection[str] = (),
    others: Sequence[str] = (),
) -> Parsed[str]:
    """The one of `choices` that a reply names, spelled as in `choices`: the JSON property `key`, "Winner: A",
    "[[A]]", the word alone on the first or last line, a reply that opens with it ("Yes, ..."), or a first or
    last sentence such as "Therefore, Response (b) is better."
    """
    menu = {choice.casefold(): choice for choice in choices}
    parts = Reply(reply, asked, others)
    names = {plain(key)}
    found = [
        Found(
            holder.span.end,
            *_chosen(value, menu),
            reasoning(holder.value),
            at,
            holder.rank,
            sure=holder.rank == WHOLE or holder.free,
        )
        for holder in parts.holders(names)
        for value, at in values_of(holder, names)
    ]
    return parts.choose([*_text_choices(parts, menu, key), *found])


def parse_winner(
    reply: str, *, ties: bool = True, asked: Collection[str] = (), others: Sequence[str] = ()
) -> Parsed[str]:
    """ "A", "B" or, where `ties` are allowed, "tie"."""
    menu = ("A", "B", "tie") if ties else ("A", "B")
    return parse_choice(reply, menu, key="winner", asked=asked, others=others)


def _chosen(value: Any, menu: Mapping[str, str]) -> tuple[str | None, str | None]:
    text = str(value)[:LONG_LINE] if isinstance(value, str | int) and not isinstance(value, bool) else ""
    named = re.fullmatch(rf"[\W_]*{_NAMED}[\W_]*?(\w+)[\W_]*", text, re.IGNORECASE)
    if named and named[1].casefold() in menu:
        return menu[named[1].casefold()], None
    return None, f"not one of {', '.join(sorted(menu.values()))}: {quoted(value)}"


def _word(match: re.Match[str], menu: Mapping[str, str], offset: int = 0, *, whole: bool = True) -> Found:
    """The verdict that a match holds, in prose that begins `offset` further on. Without `whole` it ends with its word."""
    value, why = _chosen(match["word"], menu)
    end = offset + (match.end() if whole else match.end("word"))
    return Found(end, value, why, start=offset + match.start("word"), phrase=offset + match.start())


def _text_choices(parts: Reply, menu: Mapping[str, str], key: str) -> Iterator[Found]:
    prose = parts.words.text
    by_length = sorted({*menu, *_OTHERS}, key=lambda word: (-len(word), word))
    word = rf"(?P<word>{'|'.join(re.escape(w) for w in by_length)})"
    marks = rf"{re.escape(key)}|winner|verdict|choice|preference|decision|(?:better|best)(?:\s+{_NOUN})?"
    said_by = rf"\b(?:{marks})\b[\"'*_`\s]*(?:[:=]|\bis\b)(?:\s*[:=])?"
    marked = rf"{said_by}{_BEFORE}{_NAMED}[\W_]{{0,3}}?{word}{_FOLLOWED}"
    bracketed = rf"\[\[\s*{_NAMED}{word}\s*\]\]"
    for pattern in (marked, bracketed):
        for match in re.finditer(pattern, prose, re.IGNORECASE):
            yield _word(match, menu, whole=False)
    ends = parts.ends()
    for line in ends:
        alone = re.fullmatch(rf"[\W_]*{_NAMED}[\W_]*?{word}[\W_]*", line[0][:LONG_LINE], re.IGNORECASE)
        if alone and (line is ends[-1] or not _LIST_NUMBER.fullmatch(line[0])):
            yield _word(alone, menu, line.start())
    if long := "|".join(re.escape(choice) for choice in sorted(menu) if len(choice) > 1):
        opening = re.match(rf"[\s*_`\"']*(?P<word>{long})[*_`\"']*\s*[.,;:!–—](?!\w)", prose, re.IGNORECASE)
        if opening:
            # It stands first, and whatever follows are reasons.
            yield replace(_word(opening, menu), phrase=None)
    statement = rf"[\W_]*{_LEAD}(?:the\s+)?{_NOUN}\s+[\W_]{{0,2}}{word}[\W_]{{0,3}}\s*{_PRAISE}[\W_]*"
    sentences = [
        s for s in re.finditer(r"\S(?:[^.!?\n]|[.!?](?!\s))*[.!?]*", prose) if len(s[0]) <= LONG_LINE
    ]
    for sentence in {s.start(): s for s in (*sentences[:1], *sentences[-1:])}.values():
        if said := re.fullmatch(statement, sentence[0], re.IGNORECASE):
            yield _word(said, menu, sentence.start())
