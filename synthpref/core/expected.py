"""The verdict that a judge meant on average: the expectation over its verdict token's alternatives.

As in G-Eval (Liu et al., 2023, arXiv:2303.16634), where scores are weighted by the probabilities of their tokens.
The mean of a judgment's distribution says more than its mode, for scores, for winners and for lists (Wang et al.,
2025, arXiv:2503.03064); reasons that come first narrow the distribution, so it is widest with `reasoning: none`.

Every function here takes the reply's tokens and what the parser made of their text (`spoken`): the verdict that
binds is the parser's, and its token is found by the place that the parser names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from synthpref.core.json_parts import json_places, plain
from synthpref.core.parse import LONG_LINE, Parsed, Scale
from synthpref.core.seam import TokenLogprob

K = TypeVar("K")

MIN_MASS = 0.5
SCORE = ("score", "rating")
WINNER = ("winner",)
TOP = 20
"""Alternatives to ask for: as many as the OpenAI API and vLLM return by default."""
NO_TOKENS: Parsed[Any] = Parsed(None, "no logprobs: the endpoint returned none")

Tokens = Sequence[TokenLogprob]
Odds = Mapping[int, float]
"""Whole numbers with their probabilities, which add up to 1."""


def spoken(logprobs: Tokens) -> str:
    """The text of the tokens, which is what must be parsed: places in it are places among the tokens."""
    return "".join(token.token for token in logprobs)


def expected_score(
    logprobs: Tokens,
    said: Parsed[float],
    scale: Scale,
    *,
    names: Collection[str] = SCORE,
    min_mass: float = MIN_MASS,
) -> Parsed[float]:
    """The mean of `number_odds`, with the reasons of the reply."""
    return mean_of(number_odds(logprobs, said, scale, names=names, min_mass=min_mass), scale)


def mean_of(odds: Parsed[Odds], scale: Scale) -> Parsed[float]:
    """The mean of the numbers, weighted by their probabilities."""
    if odds.value is None:
        return Parsed(None, odds.why, odds.rationale)
    mean = math.fsum(number * share for number, share in odds.value.items())
    return Parsed(min(max(mean, scale[0]), scale[1]), None, odds.rationale, odds.at)


def number_odds(
    logprobs: Tokens,
    said: Parsed[float],
    scale: Scale,
    *,
    names: Collection[str] = SCORE,
    min_mass: float = MIN_MASS,
) -> Parsed[Odds]:
    """The whole numbers on the scale with their probabilities where the verdict `said` was generated; in JSON the
    verdict is the value under one of `names`.

    Probabilities are renormalised over the numbers on the scale. There is no value where these have less than
    `min_mass` between them, or where the reply has no verdict. An alternative that may only be the beginning
    of a number ("1" where 10 is on the scale and digits come one by one) is counted as off the scale, except
    on the path that was generated, where the next token tells.
    """
    if said.value is None:
        return Parsed(None, said.why, said.rationale)
    written = f"{said.value:g}"
    first = _token_at(logprobs, said, names, rf"{written}(?!\d)")
    if first is None:
        return Parsed(None, f"verdict token not found: {written}", said.rationale)
    return _normal(_masses(logprobs[first:], scale, written), min_mass, "scale", said)


def menu_odds(
    logprobs: Tokens,
    said: Parsed[str],
    menu: Sequence[str],
    *,
    names: Collection[str] = WINNER,
    min_mass: float = MIN_MASS,
) -> Parsed[Mapping[str, float]]:
    """The words of the menu with their probabilities where the verdict `said` was generated, renormalised over
    the menu. An alternative counts for the one word of the menu that it is, or begins."""
    if said.value is None:
        return Parsed(None, said.why, said.rationale)
    first = _token_at(logprobs, said, names, rf"{re.escape(said.value)}(?![a-z])")
    if first is None:
        return Parsed(None, f"verdict token not found: {said.value}", said.rationale)
    masses: dict[str, float] = {}
    for word, mass in _bare(logprobs[first], r"[A-Za-z]+"):
        begun = [choice for choice in menu if choice.casefold().startswith(word.casefold())]
        if len(begun) == 1:
            masses[begun[0]] = masses.get(begun[0], 0.0) + mass
    return _normal(masses, min_mass, "menu", said)


def superiority(a: Odds, b: Odds) -> float:
    """The probability that a number drawn from `a` is above one drawn from `b`, half of that of equal ones added:
    the probability of superiority, by which two judgments' distributions are compared (arXiv:2503.03064)."""
    above = math.fsum(p * q for x, p in a.items() for y, q in b.items() if x > y)
    equal = math.fsum(p * q for x, p in a.items() for y, q in b.items() if x == y)
    return min(1.0, above + equal / 2)


def _normal(
    masses: Mapping[K, float], min_mass: float, what: str, said: Parsed[Any]
) -> Parsed[Mapping[K, float]]:
    total = math.fsum(masses.values())
    if total < min_mass or not total:
        why = f"too little mass on the {what}: {total:.2f} at the verdict, {min_mass:g} needed"
        return Parsed(None, why, said.rationale)
    return Parsed({key: mass / total for key, mass in masses.items()}, None, said.rationale, said.at)


def _token_at(logprobs: Tokens, said: Parsed[Any], names: Collection[str], verdict: str) -> int | None:
    """The token in which the verdict begins; `verdict` is a pattern of what is written."""
    text = spoken(logprobs)
    place = said.at
    if place is not None and text[place : place + 1] in ("{", "["):
        written = re.compile(rf"\W*(?:[a-z]+\s+)?\W*?(?P<verdict>{verdict})", re.IGNORECASE)
        there = [written.match(text, at, at + LONG_LINE) for at in _named_places(text, place, names)]
        place = next((found.start("verdict") for found in reversed(there) if found), None)
    if place is None:
        return None
    ends = accumulate(len(token.token) for token in logprobs)
    return next((i for i, end in enumerate(ends) if end > place), None)


def _named_places(text: str, start: int, names: Collection[str]) -> list[int]:
    """Where the values stand that JSON has under one of the names, or under "score" within it. As the parser
    does, nothing is looked for inside an object that has one."""
    found: list[tuple[tuple[str, ...], int]] = []
    for path, at in json_places(text, start):
        named = [plain(key) in names for key in path]
        if named[-1:] == [True]:
            found.append((path[:-1], at))
        elif named[-2:-1] == [True] and plain(path[-1]) in SCORE:
            found.append((path[:-2], at))
    holders = {holder for holder, _ in found}
    return [at for holder, at in found if not any(holder[:n] in holders for n in range(len(holder)))]


def _masses(tokens: Tokens, scale: Scale, said: str) -> dict[int, float]:
    """Probability of each whole number on the scale, of which the first token is the beginning."""
    low, high = math.ceil(scale[0]), math.floor(scale[1])
    longer = {str(n)[:k] for n in range(low, high + 1) for k in range(1, len(str(n)))}
    masses: dict[int, float] = {}

    def add(digits: str, mass: float) -> None:
        if digits and digits == str(int(digits)) and low <= int(digits) <= high:
            masses[int(digits)] = masses.get(int(digits), 0.0) + mass

    prefix, reached = "", 1.0
    for token in tokens:
        by_digits = dict(_bare(token, r"\d+"))
        singly = all(len(digits) == 1 for digits in by_digits)
        going_on = 0.0
        for digits, mass in by_digits.items():
            number = prefix + digits
            if not (singly and number in longer):
                add(number, reached * mass)
            elif said.startswith(number):
                going_on, path = mass, number
        add(prefix, reached * max(0.0, 1 - sum(by_digits.values())))
        if not going_on:
            return masses
        prefix, reached = path, reached * going_on
    add(prefix, reached)
    return masses


def _bare(token: TokenLogprob, pattern: str) -> Iterable[tuple[str, float]]:
    """Of the token and its alternatives those that are `pattern` but for marks around it, with the probability
    of each."""
    alternatives: dict[str, float] = {token.token: token.logprob}
    alternatives.update(token.top)
    summed: dict[str, float] = {}
    for text, logprob in alternatives.items():
        if bare := re.fullmatch(rf"[\s\"'*_`\[({{:]*({pattern})[\s\"'*_`\])}},.]*", text):
            summed[bare[1]] = summed.get(bare[1], 0.0) + math.exp(min(0.0, logprob))
    return summed.items()
