"""Files with no mapping -> their columns, and options that may fit. A proposal, for a person to check: a column that a
judge may have filled is never proposed as people's label, because a judge agrees with itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from synthpref.core.sides import NONE, is_number, read_values, word
from synthpref.io.files import short
from synthpref.io.labels import listed, records

_LOOKED_AT = 20_000
_PEOPLE = re.compile(r"human|label|gold|annotat|preference|crowd|truth|people|expert", re.I)
_MACHINE = re.compile(
    r"judge|gpt|claude|llama|gemini|mistral|qwen|llm|model|auto|predict|evaluator|grader|reward|score", re.I
)
_TRACE = re.compile(
    r"reason|rationale|explanation|critique|justif|completion|raw|reply|judg|evaluator|grader", re.I
)
_PROMPT = re.compile(r"^(prompt|instruction|question|query|input|problem)s?(_text)?$", re.I)
_WORKER = re.compile(r"worker|annotator_?id|rater|labell?er|user_?id", re.I)
_JUDGE = re.compile(r"judge|evaluator|grader|strategy|metric_name", re.I)
_ORDER = re.compile(r"^(order|pos(ition)?|swap(ped)?|shown)$", re.I)
_HUMAN = re.compile(r"humans?|people|crowd|annotators?|gold", re.I)
_MODELS = (("model_a", "model_b"), ("model_x", "model_y"), ("model_1", "model_2"), ("model1", "model2"))
_SIDES = (("_a", "_b"), ("_1", "_2"), ("1", "2"), ("_x", "_y"), ("a_", "b_"), ("_left", "_right"))
_SWAPS = (("_ab", "_ba"), ("ab", "ba"), ("_original", "_swapped"), ("", "_swapped"), ("_1st", "_2nd"))


@dataclass
class Column:
    """What the first records show of a column."""

    name: str
    values: list[Any] = field(default_factory=list)

    @property
    def words(self) -> set[str]:
        return {word(raw) for value in self.values for raw in listed(value)} - NONE

    @property
    def kind(self) -> str:
        """What it may be: sides, codes, numbers, texts, names, or other."""
        flat = [raw for value in self.values for raw in listed(value)]
        words = self.words
        if not words or any(isinstance(raw, dict) for raw in flat):
            return "other"
        if len(words) <= 8 and not read_values(words, {}, {}).unread:
            return "codes" if all(map(is_number, words)) else "sides"
        if all(map(is_number, words)):
            return "numbers"
        texts = [value for value in self.values if isinstance(value, str)]
        if texts and sum(len(text.split()) for text in texts) > 3 * len(texts):
            return "texts"
        return "names"

    @property
    def example(self) -> str:
        found = list(dict.fromkeys(short(value) for value in self.values if value not in (None, "")))
        return ", ".join(found[:3])


def columns(files: Sequence[Path]) -> list[Column]:
    """The columns of the files' first records."""
    found: dict[str, Column] = {}
    for path in files:
        for _, record in islice(records(path), _LOOKED_AT):
            for name, value in record.items():
                found.setdefault(str(name), Column(str(name))).values.append(value)
    return list(found.values())


Options = list[tuple[str, str]]


def command(files: Sequence[Path], options: Options) -> str:
    """The command line with these options."""
    words = [str(path) for path in files] + [word for option in options for word in option]
    return " ".join(["synthpref", "agree", *map(shlex.quote, words)])


def options_for(there: Sequence[Column], files: int = 1) -> Options:
    """Options that read the columns of so many files by their names and values."""
    left = {column.name: column for column in there}
    found: Options = []

    def take(*names: str) -> None:
        for name in names:
            left.pop(name, None)

    def say(option: str, value: str) -> None:
        found.append((option, value))

    worker = _first(left.values(), _WORKER, ("names", "numbers", "codes"))
    judge = [c.name for c in left.values() if _JUDGE.search(c.name) and c.kind == "names"]
    several = bool(worker or judge) or files > 1
    ids = [
        c.name
        for c in left.values()
        if re.fullmatch(r"id|idx|.*_id|uid|index", c.name, re.I) and c.name != worker
    ]
    models = next((duo for duo in _MODELS if set(duo) <= left.keys()), None)
    if models:
        say("--model-a", models[0])
        say("--model-b", models[1])
        take(*models)
    prompt = _first(left.values(), _PROMPT, ("texts", "names", "numbers", "codes"))
    if prompt:
        say("--prompt", prompt)
    if several and models and prompt:
        say("--id", ",".join([prompt, *models]))
    elif several and ids:
        say("--id", ids[0])
    take(*ids, *([prompt] if prompt else []))
    for a, b in _duos([c for c in left.values() if c.kind == "texts"]):
        say("--a", a)
        say("--b", b)
        take(a, b)
        break
    if worker:
        say("--worker", worker)
        take(worker)
    order = _first(left.values(), _ORDER, ("codes", "sides", "names"))
    if order:
        say("--order", order)
        take(order)
    if judge:
        say("--by", ",".join(judge))
        spoken = {str(value) for name in judge for value in left[name].values}
        for name in sorted(value for value in spoken if _HUMAN.fullmatch(value)):
            say("--human", name)
        take(*judge)
    answers = _answers([c for c in left.values() if c.kind in ("sides", "codes", "numbers")])
    people = [(name, text) for name, text in answers if _by_people(name, text)]
    others = [(name, text) for name, text in answers if (name, text) not in people]
    bare = [(name, text) for name, text in others if name.casefold() == "winner"]
    if (
        bare
        and not people
        and not judge
        and len(others) > 1
        and not any(_TRACE.search(name) for name in left)
    ):
        # A winner beside judges that are named, and nothing that a judge writes: as Chatbot Arena has people's votes.
        people, others = bare, [answer for answer in others if answer not in bare]
    if judge and not others:
        people, others = [], people
    for _, text in people:
        say("--label", text)
    if judge:
        say("--says", others[0][1] if others else "COLUMN")
    else:
        for name, text in others:
            say("--judge", f"{name}={text}")
        if not others:
            say("--judge", "NAME=COLUMN")
    return found


def _by_people(name: str, text: str) -> bool:
    """Whether an answer's name says that people gave it: human_winner does, and judge_preference does not."""
    human = re.search(r"human|annotat|crowd|people|expert|gold|truth", f"{name} {text}", re.I)
    return bool(human or (_PEOPLE.search(name) and not _MACHINE.search(f"{name} {text}")))


def _first(there: Iterable[Column], pattern: re.Pattern[str], kinds: Sequence[str]) -> str | None:
    return next((c.name for c in there if pattern.search(c.name) and c.kind in kinds), None)


def _answers(there: Sequence[Column]) -> list[tuple[str, str]]:
    """(name, short form) of the answers in columns with verdicts or scores: duos are scores of a and of b or the two
    orders, the rest stand alone."""
    found: list[tuple[str, str]] = []
    left = {column.name: column for column in there}
    scored = [column for column in there if column.kind == "numbers"]
    for a, b in _duos(scored):
        found.append((_stem(a, b), f"{a},{b}"))
        left.pop(a)
        left.pop(b)
    for one, other in _pairs([c for c in left.values() if c.kind in ("sides", "codes")], _SWAPS):
        found.append((_stem(one, other) if _stem(one, other) else "judge", f"{one}/{other}"))
        left.pop(one)
        left.pop(other)
    return found + [(name, name) for name in left]


def _duos(there: Sequence[Column]) -> list[tuple[str, str]]:
    return _pairs(there, _SIDES)


def _pairs(there: Sequence[Column], ends: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Columns whose names differ by one of the endings (or beginnings), each in one duo only."""
    names = [column.name for column in there]
    found: list[tuple[str, str]] = []
    used: set[str] = set()
    for a, b in ends:
        for name in names:
            if a.endswith("_") and len(a) > 1:
                other = b + name.removeprefix(a) if name.startswith(a) else ""
            else:
                other = name.removesuffix(a) + b if name.endswith(a) else ""
            if other in names and other != name and not {name, other} & used:
                found.append((name, other))
                used |= {name, other}
    return sorted(found, key=lambda duo: names.index(duo[0]))


def _stem(one: str, other: str) -> str:
    """What two names have in common at their beginning or end."""
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    head = one[:same].strip("_-. ")
    if head:
        return head
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return ""
