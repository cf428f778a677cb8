"""A model's reply -> a value, or the reason why there is none. Pure, tolerant of form, strict about content.

The rules, for every function here:
- The last verdict binds, wherever it stands: JSON, "Score: 7/10", "[[A]]", a number alone on the last line.
- A verdict off the scale or off the menu fails. Nothing is clamped, and a failed last verdict does not fall
  back on an earlier one.
- Nothing is guessed: a number or a letter in running prose is not a verdict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from synthpref.core.reply import Found, Parsed, Reply, get, json_spans, plain, quoted, reasoning

__all__ = [
    "Parsed",
    "Scale",
    "parse_choice",
    "parse_prompts",
    "parse_score",
    "parse_scores",
    "parse_text_field",
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


def _number(end: int, match: re.Match[str], scale: Scale, integer: bool, offset: int = 0) -> Found:
    """The verdict that a match holds, which stands `offset` further on in the prose."""
    return Found(end, *_read(match, scale, integer), start=offset + match.start("number"))


def _text_scores(reply: Reply, scale: Scale, integer: bool) -> Iterator[Found]:
    """The verdicts in prose: marked ("Rating: 7"), bracketed ("[[7]]"), alone on the first or last line, or
    the only fraction ("7/10") of the last line."""
    for match in _BRACKETED.finditer(reply.prose):
        yield _number(match.end(), match, scale, integer)
    for match in _MARKED.finditer(reply.prose):
        before = re.search(
            r"([\w'’-]+)[ \t*_`\"]*\Z", reply.prose[max(0, match.start() - 40) : match.start()]
        )
        if before is None or _OVERALL.fullmatch(before[1]):
            yield _number(match.end(), match, scale, integer)
    ends = reply.ends()
    for line in ends:
        last = line is ends[-1]
        if len(line[0]) <= LONG_LINE and (alone := _ALONE.fullmatch(line[0])):
            # A first line "1." opens a numbered list.
            if last or not _LIST_NUMBER.fullmatch(line[0]):
                yield _number(line.end(), alone, scale, integer, line.start())
        elif last:
            tail = line[0][-LONG_LINE:]
            fractions = list(_FRACTION.finditer(tail))
            if len({f[0] for f in fractions}) == 1 and fractions[0]["of"] == f"{scale[1]:g}":
                offset = line.end() - len(tail)
                yield _number(offset + fractions[-1].end(), fractions[-1], scale, integer, offset)


def parse_score(reply: str, scale: Scale, *, integer: bool = True) -> Parsed[float]:
    """The score that a reply gives: the JSON property "score" (or "rating"), or a verdict in text."""
    parts = Reply(reply)
    names = {"score", "rating"}
    found = [
        Found(span.end, *_on_scale(get(holder, names), scale, integer), reasoning(holder), span.start)
        for span, holder in parts.holders(names)
    ]
    return parts.last([*_text_scores(parts, scale, integer), *found])


def parse_scores(
    reply: str, names: Sequence[str], scale: Scale, *, integer: bool = True
) -> dict[str, Parsed[float]]:
    """A score for each of `names` (aspects, or the labels of candidates), by name and never by position.

    Read from a JSON object that has the names as properties, or from lines such as "clarity: 7/10" or
    "Response 2: 7". For each name the last score binds.
    """
    parts = Reply(reply)
    return {name: _named(parts, name, scale, integer) for name in names}


def labels(name: str) -> set[str]:
    """The JSON properties under which the score for `name` may stand."""
    bare = plain(name)
    return {bare, *(f"{noun} {bare}" for noun in ("response", "answer", "candidate"))}


def _named(parts: Reply, name: str, scale: Scale, integer: bool) -> Parsed[float]:
    bare, labelled = plain(name), labels(name)
    inner = {"score", "rating"}
    found = []
    for span, holder in parts.holders(labelled):
        value = get(holder, labelled)
        if isinstance(value, dict):
            value = get(value, inner) if inner & {plain(key) for key in value} else value
        why = reasoning(holder) or reasoning(span.value)
        found.append(Found(span.end, *_on_scale(value, scale, integer), why, span.start))
    words = r"[\s_-]+".join(re.escape(word) for word in bare.split())
    line = (
        rf"^[^\w\n]*(?:(?:response|answer|candidate)\s+)?{words}(?:\s+(?:score|rating))?(?:\s*\([^()\n]{{0,40}}\))?"
        rf"[\"'*_`\] \t]*[:=]{_BEFORE}{_VALUE}{_AFTER}$"
    )
    property_ = rf"\"{words}\"\s*:\s*\"?{_VALUE}"
    for pattern in (line, property_):
        matches = re.finditer(pattern, parts.prose, re.IGNORECASE | re.MULTILINE)
        found += [_number(match.end(), match, scale, integer) for match in matches]
    return parts.last(found, f"score for {name!r}")


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


def parse_choice(reply: str, choices: Collection[str], key: str = "verdict") -> Parsed[str]:
    """The one of `choices` that a reply names, spelled as in `choices`: the JSON property `key`, "Winner: A",
    "[[A]]", the word alone on the first or last line, a reply that opens with it ("Yes, ..."), or a first or
    last sentence such as "Therefore, Response (b) is better."
    """
    menu = {choice.casefold(): choice for choice in choices}
    parts = Reply(reply)
    names = {plain(key)}
    found = [
        Found(span.end, *_chosen(get(holder, names), menu), reasoning(holder), span.start)
        for span, holder in parts.holders(names)
    ]
    return parts.last([*_text_choices(parts, menu, key), *found])


def parse_winner(reply: str, *, ties: bool = True) -> Parsed[str]:
    """ "A", "B" or, where `ties` are allowed, "tie"."""
    return parse_choice(reply, ("A", "B", "tie") if ties else ("A", "B"), key="winner")


def _chosen(value: Any, menu: Mapping[str, str]) -> tuple[str | None, str | None]:
    text = str(value)[:LONG_LINE] if isinstance(value, str | int) and not isinstance(value, bool) else ""
    named = re.fullmatch(rf"[\W_]*{_NAMED}[\W_]*?(\w+)[\W_]*", text, re.IGNORECASE)
    if named and named[1].casefold() in menu:
        return menu[named[1].casefold()], None
    return None, f"not one of {', '.join(sorted(menu.values()))}: {quoted(value)}"


def _word(end: int, match: re.Match[str], menu: Mapping[str, str], offset: int = 0) -> Found:
    """The verdict that a match holds, which stands `offset` further on in the prose."""
    return Found(end, *_chosen(match["word"], menu), start=offset + match.start("word"))


def _text_choices(parts: Reply, menu: Mapping[str, str], key: str) -> Iterator[Found]:
    prose = parts.prose
    by_length = sorted({*menu, *_OTHERS}, key=lambda word: (-len(word), word))
    word = rf"(?P<word>{'|'.join(re.escape(w) for w in by_length)})"
    marks = rf"{re.escape(key)}|winner|verdict|choice|preference|decision|(?:better|best)(?:\s+{_NOUN})?"
    said_by = rf"\b(?:{marks})\b[\"'*_`\s]*(?:[:=]|\bis\b)(?:\s*[:=])?"
    marked = rf"{said_by}{_BEFORE}{_NAMED}[\W_]{{0,3}}?{word}{_FOLLOWED}"
    bracketed = rf"\[\[\s*{_NAMED}{word}\s*\]\]"
    for pattern in (marked, bracketed):
        for match in re.finditer(pattern, prose, re.IGNORECASE):
            yield _word(match.end("word"), match, menu)
    ends = parts.ends()
    for line in ends:
        alone = re.fullmatch(rf"[\W_]*{_NAMED}[\W_]*?{word}[\W_]*", line[0][:LONG_LINE], re.IGNORECASE)
        if alone and (line is ends[-1] or not _LIST_NUMBER.fullmatch(line[0])):
            yield _word(line.end(), alone, menu, line.start())
    if long := "|".join(re.escape(choice) for choice in sorted(menu) if len(choice) > 1):
        opening = re.match(rf"[\s*_`\"']*(?P<word>{long})[*_`\"']*\s*[.,;:!–—](?!\w)", prose, re.IGNORECASE)
        if opening:
            yield _word(opening.end(), opening, menu)
    statement = rf"[\W_]*{_LEAD}(?:the\s+)?{_NOUN}\s+[\W_]{{0,2}}{word}[\W_]{{0,3}}\s*{_PRAISE}[\W_]*"
    sentences = [
        s for s in re.finditer(r"\S(?:[^.!?\n]|[.!?](?!\s))*[.!?]*", prose) if len(s[0]) <= LONG_LINE
    ]
    for sentence in {s.start(): s for s in (*sentences[:1], *sentences[-1:])}.values():
        if said := re.fullmatch(statement, sentence[0], re.IGNORECASE):
            yield _word(sentence.end(), said, menu, sentence.start())


# ---- texts


def parse_text_field(reply: str, key: str) -> Parsed[str]:
    """The text under the JSON property `key`. A reply without the JSON fails: who knows where its preamble
    ends."""
    parts = Reply(reply)
    names = {plain(key)}
    found = []
    for span, holder in parts.holders(names):
        value = get(holder, names)
        good = isinstance(value, str) and bool(value.strip())
        why = None if good else f"not a text: {key!r} is {quoted(value)}"
        found.append(Found(span.end, value.strip() if good else None, why, reasoning(holder)))
    return parts.last(found, repr(key))


_ITEM = re.compile(r"^[ \t]*(?:#+[ \t]*)?(?:\*\*)?(?P<number>\d{1,3})[.):](?:\*\*)?[ \t]+", re.MULTILINE)


def parse_prompts(reply: str, key: str = "prompts") -> list[str]:
    """The texts in a JSON array under `key`, or in a reply that is such an array, or in a numbered list; the
    last such array binds. Empty when there are none."""
    names = {plain(key)}
    parts = Reply(reply)
    arrays = [get(holder, names) for _, holder in parts.holders(names)]
    arrays = arrays or [span.value for span in json_spans(parts.text)]
    read = [[_item(item) for item in array] for array in arrays if isinstance(array, list)]
    whole = [[text.strip() for text in texts if text and text.strip()] for texts in read]
    return next((texts for texts in reversed(whole) if texts), None) or _numbered(parts.prose)


def _item(item: Any) -> str | None:
    if isinstance(item, dict):
        item = next((item[key] for key in ("prompt", "instruction", "text") if key in item), None)
    return item if isinstance(item, str) else None


def _numbered(text: str) -> list[str]:
    """The items of the list 1, 2, 3, ... in `text`; an item may go on over several lines. A number that does
    not follow on belongs to the item it stands in."""
    starts: list[re.Match[str]] = []
    for match in _ITEM.finditer(text):
        if int(match["number"]) == len(starts) + 1:
            starts.append(match)
    if not starts:
        return []
    # What follows the last item after a blank line is a closing remark, as far as anyone can tell.
    blank = text.find("\n\n", starts[-1].end())
    ends = [*(match.start() for match in starts[1:]), len(text) if blank < 0 else blank]
    items = (
        text[start.end() : end].strip().strip("*").strip() for start, end in zip(starts, ends, strict=True)
    )
    return [item for item in items if item]
