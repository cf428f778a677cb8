"""Replies that hold several scores, each under a name: of an aspect, or of a response's label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from synthpref.core.expected import NO_TOKENS, Odds, mean_of, number_odds, spoken
from synthpref.core.parse import Parsed, Scale, labels, parse_scores
from synthpref.core.seam import Completion
from synthpref.stages.asking import unusable
from synthpref.stages.judging import Shown

Named = dict[str, Parsed[float]]


def named_form(names: Sequence[str], schema: Mapping[str, Any], words: str) -> tuple[dict[str, Any], str]:
    """The JSON Schema of an object with a number under each name, and the same in words."""
    inner = {
        "type": "object",
        "properties": dict.fromkeys(names, schema),
        "required": list(names),
        "additionalProperties": False,
    }
    return inner, "{" + ", ".join(f'"{name}": {words}' for name in names) + "}"


def read_named(completion: Completion, names: list[str], scale: Scale, integer: bool, shown: Shown) -> Named:
    """What a reply says under each name; nothing where it is not whole."""
    if why := unusable(completion):
        return dict.fromkeys(names, Parsed(None, why))
    return parse_scores(
        completion.text, names, scale, integer=integer, asked=shown.asked, others=shown.others
    )


def expected_named(
    completion: Completion, names: list[str], scale: Scale, shown: Shown, min_mass: float
) -> Named:
    """`read_named` with the expectation over the tokens of each score in place of what was written."""
    odds = odds_named(completion, names, scale, shown, min_mass)
    return {name: mean_of(parsed, scale) for name, parsed in odds.items()}


def odds_named(
    completion: Completion, names: list[str], scale: Scale, shown: Shown, min_mass: float
) -> dict[str, Parsed[Odds]]:
    """The numbers that each score in a reply might have been, with their probabilities."""
    tokens = completion.logprobs or ()
    text = spoken(tokens)
    said = read_named(replace(completion, text=text), names, scale, True, shown) if tokens else {}
    return {
        name: number_odds(tokens, said.get(name, NO_TOKENS), scale, names=labels(name), min_mass=min_mass)
        for name in names
    }


def all_named(named: Named) -> Parsed[Named]:
    """`named` if every name has a score; else the first reason, so that the reply is followed up."""
    whys = [f"{parsed.why}" for parsed in named.values() if parsed.value is None]
    rationale = next((parsed.rationale for parsed in named.values()), None)
    return Parsed(None, whys[0], rationale) if whys else Parsed(named, None, rationale)


def without_ties(named: Named) -> Named:
    """`named` without the scores that two names have in common."""
    counts = Counter(parsed.value for parsed in named.values())
    return {
        name: Parsed(
            None, f"tied: {parsed.value:g} is given twice, and ties are not allowed", parsed.rationale
        )
        if parsed.value is not None and counts[parsed.value] > 1
        else parsed
        for name, parsed in named.items()
    }
