"""The score that a judge meant on average: the expectation over its verdict token's alternatives.

As in G-Eval (Liu et al., 2023), where scores are weighted by the probabilities of their tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import accumulate

from synthpref.core.parse import Scale, parse_score
from synthpref.core.reply import Parsed
from synthpref.core.seam import TokenLogprob

MIN_MASS = 0.5
_DIGITS = re.compile(r"\d+")


def expected_score(
    logprobs: Sequence[TokenLogprob] | None, scale: Scale, *, min_mass: float = MIN_MASS
) -> Parsed[float]:
    """The mean of the whole numbers on the scale, weighted by the probability of each at the place where the
    reply's verdict was generated; the verdict that binds is the one that `parse_score` finds.

    Probabilities are renormalised over the numbers on the scale. There is no value where these have less than
    `min_mass` between them, or where the reply has no verdict. An alternative that may only be the beginning
    of a number ("1" where 10 is on the scale and digits come one by one) is counted as off the scale, except
    on the path that was generated, where the next token tells.
    """
    if not logprobs:
        return Parsed(None, "no logprobs: the endpoint returned none")
    text = "".join(token.token for token in logprobs)
    said = parse_score(text, scale, integer=True)
    if said.value is None:
        return said
    place = _verdict_at(text, int(said.value))
    if place is None:
        return Parsed(
            None,
            f"verdict token not found: {said.value:g} stands apart from the reply's text",
            said.rationale,
        )
    ends = list(accumulate(len(token.token) for token in logprobs))
    first = next(i for i, end in enumerate(ends) if end > place)
    masses = _masses(logprobs[first], logprobs[first + 1 : first + 2], scale, str(int(said.value)))
    total = math.fsum(masses.values())
    if total < min_mass:
        why = f"too little mass on the scale: {total:.2f} at the verdict, {min_mass:g} needed"
        return Parsed(None, why, said.rationale)
    value = math.fsum(number * mass for number, mass in masses.items()) / total
    return Parsed(min(max(value, scale[0]), scale[1]), None, said.rationale)


def _verdict_at(text: str, value: int) -> int | None:
    """Where the number of the verdict starts: its last mention after a key, else its last mention."""
    number = rf"(?<![\d./])(?<!/ )(?P<number>{value})(?![\d]|\.\d)"
    keyed = list(
        re.finditer(rf"(?:score|rating|grade|verdict)\W{{0,8}}(?:(?:is|of)\W{{1,4}})?{number}", text, re.I)
    )
    found = keyed or list(re.finditer(number, text))
    return found[-1].start("number") if found else None


def _masses(
    token: TokenLogprob, following: Sequence[TokenLogprob], scale: Scale, said: str
) -> dict[int, float]:
    """Probability of each whole number on the scale at the verdict's first token."""
    low, high = math.ceil(scale[0]), math.floor(scale[1])
    longer = {str(n)[:k] for n in range(low, high + 1) for k in range(1, len(str(n)))}
    by_digits = _probabilities(token)
    whole_numbers = any(len(digits) > 1 for digits in by_digits)
    masses: dict[int, float] = {}

    def add(digits: str, mass: float) -> None:
        if digits == str(int(digits)) and low <= int(digits) <= high:
            masses[int(digits)] = masses.get(int(digits), 0.0) + mass

    for digits, mass in by_digits.items():
        if whole_numbers or digits not in longer:
            add(digits, mass)
        elif said.startswith(digits) and following:
            rest = _probabilities(following[0])
            going_on = sum(rest.values())
            for more, share in rest.items():
                add(digits + more, mass * share)
            add(digits, mass * max(0.0, 1 - going_on))
    return masses


def _probabilities(token: TokenLogprob) -> dict[str, float]:
    """Probability by the digits that a token starts with, among the alternatives that start with any."""
    alternatives: dict[str, float] = {token.token: token.logprob}
    alternatives.update(token.top)
    summed: dict[str, float] = {}
    for text, logprob in _numbers(alternatives.items()):
        summed[text] = summed.get(text, 0.0) + math.exp(min(0.0, logprob))
    return summed


def _numbers(alternatives: Iterable[tuple[str, float]]) -> Iterable[tuple[str, float]]:
    for text, logprob in alternatives:
        digits = re.fullmatch(r"[\s\"'*_`\[(:]*(\d+)[\s\"'*_`\])},.]*", text)
        if digits:
            yield digits[1], logprob
