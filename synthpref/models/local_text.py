"""Between Requests and a model that runs here: parameters, tokens as texts, and where an answer ends. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthpref.core.errors import BackendError
from synthpref.core.seam import Request, TokenLogprob
from synthpref.models.reward_json import two_answers

UNFINISHED = "\ufffd"
"""What a tokenizer shows for a character of which some tokens are still missing."""
THOUGHT = "<think>"
"""How a chat template begins the reasoning in the prompt, where it does."""
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn."""

    temperature: float
    top_p: float
    top_k: int
    """0 for all."""
    max_tokens: int
    stop: tuple[str, ...]
    repetition_penalty: float = 1.0
    """By how much tokens that stand in the prompt or the answer are made less probable: the model's own setting."""


def sampling(request: Request, top_k: int | None, usual: Mapping[str, Any], room: int) -> Sampling:
    """What a request says, else the model's own generation_config (`usual`), else plain sampling. `room` is how many
    tokens the context has left. Raises BackendError where that is none."""
    if room < 1:
        raise BackendError("context_length", f"the prompt leaves no room for an answer ({room} tokens)")

    def first(*values: Any) -> Any:
        return next(value for value in values if value is not None)

    return Sampling(
        temperature=float(first(request.temperature, usual.get("temperature"), 1.0)),
        top_p=float(first(request.top_p, usual.get("top_p"), 1.0)),
        top_k=int(first(top_k, usual.get("top_k"), 0)),
        max_tokens=min(room, int(first(request.max_tokens, usual.get("max_new_tokens"), room))),
        stop=tuple(stop for stop in request.stop if stop),
        repetition_penalty=float(first(usual.get("repetition_penalty"), 1.0)),
    )


def template_text(given: str | None) -> str | None:
    """The text of a chat template that is given as such or as a file. Raises OSError."""
    return given if given is None or "{" in given else Path(given).read_text(encoding="utf-8")


def template_arguments(request: Request, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the chat template gets: a conversation to answer, to go on with, or (for a reward) as it is."""
    answers = request.kind == "chat" and not request.prefill
    more = two_answers(request) if request.kind == "compare" else {}
    return {**more, **given, "add_generation_prompt": answers, "continue_final_message": request.prefill}


def pieces(decode: Decode, ids: Sequence[int]) -> list[str]:
    """The text that each token adds. Together they are the whole text; a character that is split among several tokens
    comes with its last, and a piece depends on no token after it."""
    found: list[str] = []
    start = read = 0
    for end in range(1, len(ids) + 1):
        before, now = decode(ids[start:read]), decode(ids[start:end])
        if now.endswith(UNFINISHED) and end < len(ids):
            found.append("")
            continue
        found.append(now[len(before) :])
        start, read = read, end
    return found


def ended(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of the stop texts begins."""
    places = [at for word in stop if (at := text.find(word)) >= 0]
    return min(places, default=None)


def spoken_until(tokens: Sequence[TokenLogprob], length: int) -> tuple[TokenLogprob, ...]:
    """The tokens that begin within the first `length` characters."""
    kept, at = [], 0
    for token in tokens:
        if at >= length:
            break
        kept.append(token)
        at += len(token.token)
    return tuple(kept)
