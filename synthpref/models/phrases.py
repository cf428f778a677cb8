"""The words of the simulated world: how its answers, verdicts and prompts are put. They stand in phrases.json.

A sentence of an answer is an opening, which carries the grade, and a statement about the prompt's words. No
opening stands in two grades or is the beginning of another, so that the grade can be read back from the text.
"""

from __future__ import annotations

import re
from pathlib import Path

import orjson

_WORDS: dict[str, tuple[str, ...]] = {
    name: tuple(words)
    for name, words in orjson.loads(Path(__file__).with_suffix(".json").read_bytes()).items()
}
STRONG = _WORDS["strong"]
PLAIN = _WORDS["plain"]
WEAK = _WORDS["weak"]
STATEMENTS = _WORDS["statements"]
TAILS = _WORDS["tails"]
FILLERS = _WORDS["fillers"]
REFUSALS = _WORDS["refusals"]
NO_VERDICT = _WORDS["no_verdict"]
BEFORE_JSON = _WORDS["before_json"]
AFTER_JSON = _WORDS["after_json"]
RATIONALES = _WORDS["rationales"]
QUOTING = _WORDS["quoting"]
SUBJECTS = _WORDS["subjects"]
TASKS = _WORDS["tasks"]
READERS = _WORDS["readers"]
DEMANDS = _WORDS["demands"]
REASONS = {level: _WORDS[f"reasons {level}"] for level in ("high", "middle", "low")}
STOP_WORDS = frozenset(_WORDS["stop words"])

_PLEASED = re.compile(
    r"\b(thank you|thanks|exactly what I|great|glad|well done|helped|solves|every word of it is right|that agrees|it works|so clear"
    r"|explain this better|now I understand|I like that|the question that I had|thought of|covers all|even saw to"
    r"|at the same time)\b",
    re.IGNORECASE,
)
_DISPLEASED = re.compile(
    r"\b(not|wrong|contradicts|I am where I was|without anything|somebody else|confusing|what are you|why do you"
    r"|never explain|talk around|did you read|left out|what about the rest|half|broke off|dangerous|hurts|rude|harm)\b",
    re.IGNORECASE,
)


def mood(said: str) -> int:
    """1 for what a pleased user says after an answer, -1 for a displeased one, 0 for what tells neither."""
    return (_PLEASED.search(said) is not None) - (_DISPLEASED.search(said) is not None)
