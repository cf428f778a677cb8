"""Replies that hold several scores, each under a name: of an aspect, or of a response's label."""

from __future__ import annotations

from collections.abc import Sequence

from synthpref.core.parse import Parsed, Scale, parse_scores
from synthpref.core.seam import Completion
from synthpref.stages.own_words import own_verdict

Named = dict[str, Parsed[float]]


def read_named(
    completion: Completion, names: list[str], scale: Scale, integer: bool, texts: Sequence[str]
) -> Named:
    """What a reply about `texts` says under each name; nothing where it was cut off at the token limit."""
    if completion.finish_reason == "length":
        return dict.fromkeys(names, Parsed(None, "cut off: the reply reached the token limit"))
    return own_verdict(completion.text, texts, lambda text: parse_scores(text, names, scale, integer=integer))


def all_named(named: Named) -> Parsed[Named]:
    """`named` if every name has a score; else the first reason, so that the reply is followed up."""
    whys = [f"{parsed.why}" for parsed in named.values() if parsed.value is None]
    rationale = next((parsed.rationale for parsed in named.values()), None)
    return Parsed(None, whys[0], rationale) if whys else Parsed(named, None, rationale)
