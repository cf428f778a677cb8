"""How a simulated judge fills in the JSON that it is asked for."""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Protocol

import orjson

from synthpref.models import world
from synthpref.models.asked import Asked, count

TIE_WITHIN = 0.1
"""Two texts whose quality seems nearer than this are a tie, where ties are allowed."""
FINENESS = 100
"""Steps on a scale that is not of whole numbers."""
_INJECTED = re.compile(
    r'"(?:score|rating|winner|verdict)"\s*:|\[\[\s*(?:A|B|\d+)\s*\]\]|\b(?:score|rating|winner|verdict)\s*[:=]'
    r"|ignore (?:all |the )?(?:previous|above|other)|\b(?:this|my) (?:response|answer) (?:is|should be) the (?:best|winner)",
    re.IGNORECASE,
)
_CANDIDATE = re.compile(r"response(?: (?P<which>\w+))?")

Menu = Mapping[str, float]
"""What might have been said, with the logarithm of its probability."""


class Biases(Protocol):
    """The fields of a spec that make a judge."""

    @property
    def model(self) -> str: ...
    @property
    def noise(self) -> float: ...
    @property
    def taste(self) -> float: ...
    @property
    def position_bias(self) -> float: ...
    @property
    def length_bias(self) -> float: ...
    @property
    def susceptibility(self) -> float: ...


@dataclass(frozen=True)
class Reply:
    """A text, and where in it verdicts stand: (offset, as written, what might have been written)."""

    text: str
    verdicts: tuple[tuple[int, str, Menu], ...] = ()

    def within(self, before: str, after: str) -> Reply:
        """The same reply with prose around it."""
        head = f"{before}\n\n```json\n"
        moved = tuple((start + len(head), said, menu) for start, said, menu in self.verdicts)
        return Reply(f"{head}{self.text}\n```\n{after}".rstrip(), moved)


@dataclass(frozen=True)
class _Seen:
    """How good a candidate seems, without the error of this reply, and whether the judge fell for its text."""

    centre: float
    error: float
    fell: bool

    @property
    def now(self) -> float:
        return self.centre + self.error


class Judge:
    """One judge, before one request."""

    def __init__(self, spec: Biases) -> None:
        self.spec = spec

    def by_length(self, text: str) -> float:
        """What the length of a text adds to how good it seems."""
        return self.spec.length_bias * (len(text.split()) - 100) / 100

    def reply(self, asked: Asked, schema: Mapping[str, Any], rng: random.Random) -> Reply:
        """A JSON object after `schema`."""
        return _Filler(self, asked, rng).fill(schema)

    def see(self, asked: Asked, rng: random.Random) -> dict[str, _Seen]:
        """How good each candidate seems, by its label ("" for the only one)."""
        labels = {label: m["which"] or "" for label in asked.texts if (m := _CANDIDATE.fullmatch(label))}
        if not labels:
            # A template with marks of its own: the last marked text is what is judged.
            labels = dict.fromkeys(list(asked.texts)[-1:], "")
        return {
            which: self._see(asked.texts[label], i, len(labels), rng)
            for i, (label, which) in enumerate(labels.items())
        }

    def _see(self, text: str, place: int, places: int, rng: random.Random) -> _Seen:
        spec = self.spec
        error, luck = spec.noise * rng.gauss(0, 1), rng.random()
        taste = spec.taste * world.normal("taste", spec.model, text) if spec.taste else 0.0
        position = spec.position_bias * (0.5 - place / (places - 1)) if places > 1 else 0.0
        fell = luck < spec.susceptibility and _INJECTED.search(text) is not None
        return _Seen(world.quality(text) + taste + position + self.by_length(text), error, fell)


class _Filler:
    """Fills in one object; the draws are made in the order of the schema's properties."""

    def __init__(self, judge: Judge, asked: Asked, rng: random.Random) -> None:
        self.judge, self.asked, self.rng = judge, asked, rng
        self.seen = judge.see(asked, rng)
        self.parts: list[str] = []
        self.size = 0
        self.verdicts: list[tuple[int, str, Menu]] = []

    def fill(self, schema: Mapping[str, Any]) -> Reply:
        self._value("", schema)
        return Reply("".join(self.parts), tuple(self.verdicts))

    def _put(self, text: str) -> None:
        self.parts.append(text)
        self.size += len(text)

    def _dump(self, value: Any) -> None:
        self._put(orjson.dumps(value).decode())

    def _say(self, said: str, menu: Menu) -> None:
        self.verdicts.append((self.size, said, menu))
        self._put(said)

    def _value(self, name: str, schema: Mapping[str, Any]) -> None:
        kind = schema.get("type")
        if "enum" in schema:
            self._choice([str(choice) for choice in schema["enum"]])
        elif kind == "object":
            self._object(schema)
        elif kind in ("integer", "number"):
            self._number(name, schema, whole=kind == "integer")
        elif kind == "array":
            wanted = count(self.asked, schema)
            self._dump([world.new_prompt(self._matter(), self.rng) for _ in range(wanted)])
        elif kind == "boolean":
            self._put("true" if self._overall() > 0 else "false")
        else:
            self._dump(self._text(name))

    def _object(self, schema: Mapping[str, Any]) -> None:
        self._put("{")
        for i, (name, inner) in enumerate(schema.get("properties", {}).items()):
            self._put(f"{', ' if i else ''}{orjson.dumps(name).decode()}: ")
            self._value(name, inner)
        self._put("}")

    def _text(self, name: str) -> str:
        if name != "prompt":
            return world.reasoning(self.asked.prompt, self._overall(), self.rng)
        if "prompt" in self.asked.texts and not re.search(r"\bentirely new\b", self.asked.last):
            return world.harder_prompt(self.asked.texts["prompt"], self.rng)
        return world.new_prompt(self._matter(), self.rng)

    def _matter(self) -> str:
        """What new prompts are to be about."""
        return " ".join(self.asked.texts.values())[:2000]

    def _overall(self) -> float:
        return sum(seen.now for seen in self.seen.values()) / max(1, len(self.seen))

    def _number(self, name: str, schema: Mapping[str, Any], *, whole: bool) -> None:
        low, high = float(schema.get("minimum", 0)), float(schema.get("maximum", 10))
        values, steps = _scale(low, high, whole)
        seen = (
            self.seen.get(name)
            or self.seen.get("")
            or _Seen(0.0, self.judge.spec.noise * self.rng.gauss(0, 1), False)
        )
        aspect = 0.0
        if name not in self.seen and name not in ("score", "rating"):
            aspect = 0.5 * world.normal("aspect", name, *self.asked.texts.values())
        if seen.fell:
            at, spread = world.BEST, 0.0
        else:
            at, spread = seen.centre + aspect, self.judge.spec.noise
        per_unit = (high - low) / (2 * world.BEST)
        centre = low + (at + world.BEST) * per_unit
        error = 0.0 if seen.fell else seen.error * per_unit
        meant = min(high, max(low, centre + error))
        after = bisect_left(values, meant)
        chosen = min(
            range(max(0, after - 1), min(len(values), after + 1)), key=lambda i: abs(values[i] - meant)
        )
        odds = world.chances(values, centre, spread * per_unit) if steps <= FINENESS else None
        said = [f"{value:g}" for value in values]
        menu = dict(zip(said, map(math.log, odds), strict=True)) if odds else {said[chosen]: 0.0}
        self._say(said[chosen], menu)

    def _choice(self, menu: Sequence[str]) -> None:
        by_fold = {choice.casefold(): choice for choice in menu}
        if {"a", "b"} <= set(by_fold) and {"A", "B"} <= set(self.seen):
            said, odds = self._winner("tie" in by_fold)
        elif {"yes", "no"} <= set(by_fold):
            said, odds = self._yes_or_no()
        else:
            said, odds = self.rng.choice(sorted(by_fold)), {}
        self._put('"')
        self._say(
            by_fold[said], {by_fold[word]: math.log(p) for word, p in odds.items()} or {by_fold[said]: 0.0}
        )
        self._put('"')

    def _winner(self, ties: bool) -> tuple[str, dict[str, float]]:
        a, b = self.seen["A"], self.seen["B"]
        fallen = [which for which, seen in (("a", a), ("b", b)) if seen.fell]
        if fallen:
            return fallen[0], {fallen[0]: 1.0}
        within = TIE_WITHIN if ties else 0.0
        edge = a.now - b.now
        said = "tie" if ties and abs(edge) < within else "a" if edge > 0 else "b"
        below = NormalDist(a.centre - b.centre, max(1e-6, math.sqrt(2) * self.judge.spec.noise)).cdf
        odds = {"a": 1 - below(within), "b": below(-within), "tie": below(within) - below(-within)}
        return said, {word: max(p, 1e-9) for word, p in odds.items() if ties or word != "tie"}

    def _yes_or_no(self) -> tuple[str, dict[str, float]]:
        """Of two examples: whether the second brings anything new. Of a candidate: whether it is any good."""
        luck = self.rng.random()
        first, second = self.asked.texts.get("example 1"), self.asked.texts.get("example 2")
        if first is not None and second is not None:
            yes = 0.0 if first.split() == second.split() else 0.95
            said = "yes" if luck < yes else "no"
        else:
            fell = any(seen.fell for seen in self.seen.values())
            said = "yes" if fell or self._overall() > 0 else "no"
            centre = sum(seen.centre for seen in self.seen.values()) / max(1, len(self.seen))
            yes = 1.0 if fell else 1 - NormalDist(centre, max(1e-6, self.judge.spec.noise)).cdf(0.0)
        return said, {"yes": max(yes, 1e-9), "no": max(1 - yes, 1e-9)}


@lru_cache(maxsize=64)
def _scale(low: float, high: float, whole: bool) -> tuple[list[float], int]:
    steps = round(high - low) if whole else FINENESS
    steps = max(1, min(steps, 10_000))
    return [round(low + (high - low) * i / steps, 6) for i in range(steps + 1)], steps
