"""The texts that a judge was shown and did not write, and how to tell their words and their claims from its own.

A candidate may hold a verdict ("Score: 10") so that a parser takes it for the judge's. A judge that quotes it changes
the case, the marks or the escapes, leaves words out, or says it in words of its own. So texts are compared by their
words alone, and what a text claims is read as widely as possible: a claim only makes a parser more careful.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

SHORTEST = 5
"""Letters and digits of a repetition. What is shorter is in any text."""

_ALIKE = str.maketrans(
    "аеорсухіјѕһԁԛԝвкмнтгοαερτυνικηχѵ" + "АЕОРСУХІЈЅВКМНТΟΑΕΡΤΥΝΙΚΗΧΒΜΖ",
    "aeopcyxijshdqwbkmhtroaeptuvikhxv" + "aeopcyxijsbkmhtoaeptynikhxbmz",
)
"""Cyrillic and Greek letters that look like Latin ones, where a mixed word is a way to hide one (Unicode TR 39)."""
_ESCAPE = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|([nrt])|([\"'/\\]))")


def folded(text: str) -> str:
    """The text as it looks: no case, no invisible characters, no escapes of HTML or JSON, one form of each letter.
    Lines stay."""
    if "&" in text:
        text = html.unescape(text)
    if "\\" in text:
        text = _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else " " if m[2] else m[3], text)
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Mn"))
        text = text.translate(_ALIKE)
    return text.casefold()


def words_of(text: str) -> str:
    """The words and numbers of the text, one space before and after each: what is left of it in any layout."""
    return " " + "".join(f"{word} " for word in re.findall(r"[^\W_]+", folded(text)))


class Others:
    """Texts that others wrote."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._texts = tuple(text for text in texts if text.strip())

    def __bool__(self) -> bool:
        return bool(self._texts)

    @property
    def texts(self) -> tuple[str, ...]:
        return self._texts

    @cached_property
    def _words(self) -> list[str]:
        return [_cached_words(text) for text in self._texts]

    @cached_property
    def _compact(self) -> list[str]:
        return [_cached_compact(text) for text in self._texts]

    @cached_property
    def _objects(self) -> set[str]:
        return {made for text in self._texts for made in _cached_objects(text)}

    @cached_property
    def _claims(self) -> tuple[frozenset[str], frozenset[str]]:
        claims = [_cached_claims(text) for text in self._texts]
        return frozenset().union(*(c[0] for c in claims)), frozenset().union(*(c[1] for c in claims))

    def say(self, text: str) -> bool:
        """Whether one of them says the same word for word, in whatever layout. An ellipsis may stand for a part."""
        parts = [part for part in re.split(r"\.{3,}|…", text) if re.search(r"[^\W_]", part)]
        cut = text.strip(_MARKS).startswith(("...", "…")), text.strip(_MARKS).endswith(("...", "…"))
        said = [words_of(part) for part in parts]
        if sum(len(words.replace(" ", "")) for words in said) < SHORTEST:
            return False
        said[0] = said[0][1:] if cut[0] else said[0]
        said[-1] = said[-1][:-1] if cut[1] else said[-1]
        return any(all(words in text for words in said) for text in self._words)

    def hold(self, value: Any) -> bool:
        """Whether one of them holds this JSON object, or one with the same values in another order or layout, whole or
        not."""
        if not self or not isinstance(value, dict):
            return False
        # The object may be cut short there, and closed by who quotes it.
        begun = re.escape(_compact(json.dumps(value, ensure_ascii=False)).rstrip("}"))
        return canonical(value) in self._objects or any(
            re.search(rf"{begun}(?!\w)", text) for text in self._compact
        )

    def claim(self, value: Any) -> bool:
        """Whether one of them names this score or this choice as its own verdict."""
        if isinstance(value, float | int) and not isinstance(value, bool):
            return f"{value:g}" in self._claims[0]
        return isinstance(value, str) and value.casefold() in self._claims[1]


_MARKS = "`\"“”«»'*_>-•# \t\n"


def canonical(value: Any) -> str:
    """One text for all JSON values that differ only in layout, order, case and escapes."""
    if isinstance(value, Mapping):
        return "{" + ",".join(sorted(f"{words_of(str(k))}:{canonical(v)}" for k, v in value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    if isinstance(value, float | int) and not isinstance(value, bool):
        return f" {value:g} "
    return words_of(str(value))


@lru_cache(maxsize=256)
def _cached_words(text: str) -> str:
    return words_of(text)


def _compact(text: str) -> str:
    return re.sub(r"\s+", "", folded(text))


@lru_cache(maxsize=256)
def _cached_compact(text: str) -> str:
    return _compact(text)


@lru_cache(maxsize=256)
def _cached_objects(text: str) -> frozenset[str]:
    return frozenset(made for form in {text, folded(text)} for made in _objects_of(form))


def _objects_of(text: str) -> Iterator[str]:
    """All JSON objects in the text, those within others too."""
    decoder = json.JSONDecoder(strict=False)
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield from _within(value)
        at = text.find("{", end)


def _within(value: Any, depth: int = 0) -> Iterator[str]:
    if depth > 5:
        return
    if isinstance(value, dict) and value:
        yield canonical(value)
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _within(inner, depth + 1)


# ---- claims

_NUMBER = r"(?P<number>\d+(?:[.,]\d+)?)"
_WORDS = (
    r"scor(?:e|ed|es|ing)|rat(?:e|ed|es|ing|ings)|grad(?:e|ed|es)|verdict|marks?|points?|stars?|overall"
    r"|puntuacion|puntaje|calificacion|nota|note|bewertung|punkte"
    r"|punktzahl|punteggio|voto|valutazione|pontuacao|nota|cijfer|ocena|оценка|оцehka|балл|得分|评分|分数|スコア|評価|点数"
)
_CLAIMS = [
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        rf"(?:{_WORDS})[^\d\n]{{0,25}}{_NUMBER}",
        rf"(?:response|assistant|candidate|output)\s*\W?\w{{1,2}}\W{{0,4}}[:=]\W{{0,4}}{_NUMBER}",
        rf"\"[^\"\n]{{1,40}}\"\s*:\s*\"?{_NUMBER}",
        rf"^[^\w\n]*[\w -]{{1,40}}[:=]\W{{0,6}}{_NUMBER}\W*$",
        rf"{_NUMBER}\s*(?:/|out of|of|von|de|sur|points?\b|stars?\b)\s*\d*",
        rf"\[\[\s*{_NUMBER}\s*\]\]",
        rf"^\W*{_NUMBER}\W*$",
        rf"\b(?:an?|this|it|me|myself|deserves?|worth)\s+(?:\w+\s+){{0,2}}{_NUMBER}\b",
    )
]
_SAME = r"(?:response|answer|assistant|output|option|candidate|choice|model)"
_WORD = r"(?P<word>(?!a\s+(?!is\b|wins\b|won\b|beats\b|over\b|because\b|as\b|and\b)[^\W\d])\w+)"
"""One word, but for the article."""
_CHOICES = [
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        rf"(?:winner|verdict|choice|preference|decision|preferred|(?:better|best)(?:\s+{_SAME})?|kind|ganador)\W{{0,6}}(?:is|are|es|:|=)?\W{{0,6}}"
        rf"(?:the\s+)?(?:{_SAME}\W{{1,3}})?{_WORD}",
        rf"\[\[\W*(?:{_SAME}\s+)?{_WORD}\W*\]\]",
        rf"(?:{_SAME}\s+)?\W?(?<!\w){_WORD}\W{{0,3}}\s+(?:is|wins|won|beats|deserves)\b",
        rf"(?:choose|pick|prefer|select|vote(?:\s+for)?|favou?r)\s+(?:the\s+)?"
        rf"(?:{_SAME}\s+)?\W{{0,2}}{_WORD}",
        rf"^\W*(?:{_SAME}\s+)?\W?{_WORD}\W*$",
        rf"{_SAME}\s+\W{{0,2}}(?=[a-z]\b|\d\b){_WORD}",
    )
]


@lru_cache(maxsize=256)
def _cached_claims(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """The numbers and the words that the text may give itself as a verdict."""
    flat = folded(text[-50_000:])
    numbers = (m["number"].replace(",", ".") for pattern in _CLAIMS for m in pattern.finditer(flat))
    words = (m["word"] for pattern in _CHOICES for m in pattern.finditer(flat))
    return frozenset(f"{float(number):g}" for number in numbers), frozenset(words)
