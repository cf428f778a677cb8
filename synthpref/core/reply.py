"""What every parser of a reply needs: the JSON in it, its prose, and the reason when there is no verdict.

Which of several verdicts in a reply is the judge's, by rank:

1. WHOLE: JSON in the asked shape, that is, an object with all the fields that were asked for at its first level.
2. PART: JSON that has the verdict and lacks another field, holds it deeper, or is broken and has it outside of all that
   can be a quotation. Judges that are asked for reasons do answer {"score": 3} alone, so it is read; but a lacking field
   is how a candidate's JSON differs from the one that was asked for, so it gives way to a WHOLE one. Where a text that
   the judge was shown claims the same value, it counts only if its verdict is at its first level and nothing but its
   fence stands on its lines.
3. PROSE: what the judge writes beside JSON, and only what is a verdict of its own by form (`core.mentions`). It counts
   for nothing where a text claims the same value, unless it is all that the reply says: an honest judge of such a text
   is asked again, for JSON alone, and a quotation is never taken for a verdict.

JSON that is another's word for word, or is quoted from one ("the response says {...}"), has no rank at all. Only the
highest rank that there is counts. Where two verdicts of that rank differ there is none; equal ones are one. Thinking
(`<think>`) and what stands inside JSON that is not closed are not read.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from synthpref.core.json_parts import JsonSpan, any_dict, holders_in, json_parts, plain, values_under
from synthpref.core.mentions import Words, mentioned, stands_free
from synthpref.core.others import Others

T = TypeVar("T")

WHOLE, PART, PROSE = 3, 2, 1
LONGEST = 50_000
"""Characters of a reply that are looked at: the last ones, where the verdict is."""
QUOTED = "quoted: the only verdict in the reply is the response's own"
DIFFER = "two verdicts that differ"
_REASONING = ("reasoning", "rationale", "explanation", "feedback")


@dataclass(frozen=True, slots=True)
class Parsed(Generic[T]):
    """What a reply said. `value` is None when it held no verdict, and `why` then says what was wrong.

    A reason starts with a fixed phrase, which can be counted; what was found follows after a colon.
    """

    value: T | None
    why: str | None = None
    rationale: str | None = None
    at: int | None = field(default=None, compare=False)
    """Where in the reply the value stands, or the JSON begins that holds it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A verdict in a reply: where it ends, its value or what is wrong with it, and where it, or the JSON that
    holds it, begins. `phrase` is where the words begin
    that make it a verdict, in prose. `sure` says that it counts whatever others claim. `about` is whom it names, where a reply goes through numbered assistants."""

    end: int
    value: Any
    why: str | None = None
    rationale: str | None = None
    start: int | None = None
    rank: int = PROSE
    phrase: int | None = None
    sure: bool = False
    about: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """A JSON object that holds a verdict, the span it is in, and its rank."""

    span: JsonSpan
    value: dict[str, Any]
    rank: int
    free: bool
    """Whether it is all that stands on its line, and its verdict is at its first level."""


class Reply:
    """A reply taken apart: `text` as it came, the JSON `spans` that hold an object, and the `prose` around
    them (JSON and thinking blanked out, so that nothing is read twice and every offset stays).

    `asked` are the fields of the shape that was asked for, `others` the texts that the judge was shown.
    """

    def __init__(self, reply: str, asked: Collection[str] = (), others: Sequence[str] = ()) -> None:
        self.text = _without_thinking(reply[-LONGEST:])
        self.left_out = len(reply) - len(self.text)
        self.asked = {plain(name) for name in asked}
        self.others = Others(others)
        self.dropped = False
        spans = [
            s for s in json_parts(self.text) if s.broken or isinstance(s.value, dict) or any_dict(s.value)
        ]
        self.spans = [s for s in spans if s.value is not None]
        self.shown = _blanked(self.text, [s for s in spans if not s.broken])
        self.prose = _blanked(self.text, spans)
        self.alone = self._alone()
        self.words = Words(self.prose, Others() if self.alone else self.others, self.text)

    def holders(self, names: Collection[str]) -> Iterator[Holder]:
        """The JSON objects of the judge's own that have a property with one of the names."""
        for span in self.spans:
            inside = list(holders_in(span.value, names))
            if inside and mentioned(self.text, span.start, span.end):
                self.dropped = True
                continue
            free = stands_free(self.text, span.start)
            top = {plain(key) for key in span.value} if isinstance(span.value, dict) else set()
            for depth, holder in inside:
                keys = top | {plain(key) for key in holder}
                # Taken at its word, also where a candidate has the same: it gives no reasons that could be copied.
                bare = self.alone and not keys & set(_REASONING)
                if not bare and (self.others.hold(span.value) or self.others.hold(holder)):
                    self.dropped = True
                    continue
                near = depth == 0 or (depth == 1 and bool(top & (self.asked or {"scores"})))
                whole = near and not span.broken and self.asked <= keys
                yield Holder(span, holder, WHOLE if whole else PART, near and not span.broken and free)

    def lines(self) -> list[re.Match[str]]:
        """The lines of the judge's own prose that are not blank."""
        # Bound to the line's start, so that the blanks where JSON stood are gone through once, not squared.
        return list(re.finditer(r"^[^\S\n]*\S[^\n]*", self.words.text, re.MULTILINE))

    def ends(self) -> list[re.Match[str]]:
        """The first and the last line."""
        lines = self.lines()
        return [*lines[:1], *lines[-1:]] if len(lines) > 1 else lines

    def choose(self, found: Sequence[Found], what: str = "verdict") -> Parsed[Any]:
        """The verdict that counts among those found, or the reason why there is none. `what` is looked for in vain."""
        own = [f for f in found if f.sure or self._own(f)]
        if not own:
            return Parsed(None, self.nothing(what, dropped=len(own) < len(found)), self._rationale(None))
        best = max(f.rank for f in own)
        passed = max((f for f in found if f not in own and f.about), key=lambda f: f.end, default=None)
        ranked = sorted((f for f in own if f.rank == best), key=lambda f: f.end)
        last = ranked[-1]
        if passed and last.about and passed.end > last.end:
            # The last one's score cannot be read, and another one's must not stand in for it.
            return Parsed(None, QUOTED, self._rationale(None))
        ranked = [f for f in ranked if not f.about or f.about == last.about]
        rationale = self._rationale(next((f.rationale for f in reversed(ranked) if f.rationale), None))
        if other := next((f for f in ranked if f.value != last.value), None):
            said = " and ".join(_said(f) for f in (other, last))
            return Parsed(None, f"{DIFFER}: {said}", rationale)
        at = None if last.start is None else self.left_out + last.start
        return Parsed(last.value, last.why, rationale, at)

    def _own(self, found: Found) -> bool:
        if found.phrase is not None and not self.words.own(found.phrase, found.end):
            return False
        bare = self.alone and found.rank == PROSE
        return bare or found.value is None or not self.others.claim(found.value)

    def _rationale(self, given: str | None) -> str | None:
        # A few words around a verdict are its label; more are the judge's reasons.
        prose = self.shown.strip()
        return given or (prose if len(prose.split()) > 4 else None)

    def _alone(self) -> bool:
        """Whether the reply says one thing and no more: an object, a few words, or "I give it a 7"."""
        text = re.sub(r"^```\w*\n|\n```$", "", self.text.strip()).strip()
        if len(self.spans) == 1 and not re.search(r"[^\W_]", re.sub(r"```\w*", "", self.prose)):
            return True
        most = 10 if re.match(r"I\b", text) else 4
        return not self.spans and "\n" not in text and len(text.split()) <= most

    def nothing(self, what: str, *, dropped: bool = False) -> str:
        if not self.text.strip():
            return "empty reply"
        if dropped or self.dropped or self.words.quoted:
            return QUOTED
        if refusal := _REFUSAL.search(self.text):
            return f"refused: {quoted(self.text[refusal.start() :])}"
        return f"no {what} found: {quoted(self.text)}"


def _said(found: Found) -> str:
    return f"{found.value:g}" if isinstance(found.value, float | int) else f"{found.value or 'none'}"


def _blanked(text: str, spans: Sequence[JsonSpan]) -> str:
    parts, at = [], 0
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if span.start >= at:
            parts += [text[at : span.start], re.sub(r"[^\n]", " ", text[span.start : span.end])]
            at = span.end
    return "".join([*parts, text[at:]])


_CODE = re.compile(r"```.*?```|`[^`\n]*`|\"[^\"\n]{0,200}\"", re.DOTALL)
_THINKING = re.compile(r"<(?P<end>/?)think(?:ing)?>", re.IGNORECASE)


def _without_thinking(text: str) -> str:
    """The text with blanks up to the last `</think>`, and from a `<think>` that is not closed on. Such tags in code, in
    quotation marks or in JSON are talked about."""
    if not _THINKING.search(text):
        return text
    code = [(0, 0), *(match.span() for match in _CODE.finditer(text))]
    tags = [
        t for t in _THINKING.finditer(text) if code[bisect_right(code, (t.start(), 0)) - 1][1] <= t.start()
    ]
    start = max((tag.end() for tag in tags if tag["end"]), default=0)
    end = min((t.start() for t in tags if not t["end"] and t.start() >= start), default=len(text))
    return " " * start + text[start:end] + " " * (len(text) - end)


def reasoning(holder: Any) -> str | None:
    """The reasons that a JSON object gives beside its verdict."""
    texts = (holder.get(key) for key in _REASONING) if isinstance(holder, dict) else ()
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), None)


def values_of(holder: Holder, *names: Collection[str]) -> Iterator[tuple[Any, int]]:
    """The values in a holder under the first of several sets of names that it has, and where each, or the JSON that
    holds it, begins."""
    found = next((found for some in names if (found := values_under(holder.value, some))), [])
    every = {name for some in names for name in some}
    at = next((place for key, place in holder.span.places.items() if plain(key) in every), holder.span.start)
    yield from ((value, at) for value in found)


def quoted(found: Any, length: int = 60) -> str:
    """A short piece of what was found, for a message."""
    line = " ".join((found if isinstance(found, str) else json.dumps(found)).split())
    return repr(line if len(line) <= length else line[: length - 1] + "…")


_REFUSAL = re.compile(
    r"\b(?:I(?:['’]m| am) (?:sorry|unable|not able)|I (?:can(?:not|['’]t)|won['’]t|must decline|apologi[sz]e)"
    r"|as an AI\b|I(?:['’]d| would) (?:rather|prefer) not)",
    re.IGNORECASE,
)
