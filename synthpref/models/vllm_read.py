"""Between our Requests and vLLM's: sampling parameters and template arguments one way, Completions the other. Its
objects are only looked at, so that nothing here loads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request, TokenLogprob
from synthpref.core.types import Usage
from synthpref.models.reward_json import head_names, named_heads, preference
from synthpref.models.wire import position

Split = Callable[[str], tuple[str | None, str | None]]
"""A reply -> (reasoning, the answer proper)."""
OURS = {
    **dict.fromkeys(("n", "seed", "logprobs", "prompt_logprobs", "output_kind"), "a stage asks for it"),
    "structured_outputs": "a stage asks for it, as response_format",
    "temperature": "it is the role's own field",
    "top_p": "it is the role's own field",
    "max_tokens": "it is the role's own field",
    "stop": "it is the role's own field",
}
"""Sampling parameters that do not belong into `sampling`, and why."""


def sampling(
    request: Request, given: Mapping[str, Any], usual: Mapping[str, Any], room: int
) -> dict[str, Any]:
    """The sampling parameters of a request, by vLLM's names: what it says, else the role, else the model's own
    generation_config. `room` is how many tokens the context has left. Raises BackendError where that is none."""
    if room < 1:
        raise BackendError("context_length", f"the prompt leaves no room for an answer ({room} tokens)")
    asked = {"temperature": request.temperature, "top_p": request.top_p, "max_tokens": request.max_tokens}
    parameters = {**usual, **given, **{name: value for name, value in asked.items() if value is not None}}
    parameters["max_tokens"] = min(room, parameters.get("max_tokens") or room)
    if request.stop:
        parameters["stop"] = list(request.stop)
    # Without chance all answers are one, and vLLM refuses to give it more than once.
    count = 1 if parameters.get("temperature") == 0 else request.n
    return parameters | {
        "n": count,
        "seed": request.seed,
        "logprobs": request.logprobs,
        "prompt_logprobs": request.prompt_logprobs,
    }


def structured(response_format: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The same constraint as vLLM names it. Raises BackendError for one that is not known."""
    kind = (response_format or {}).get("type", "text")
    if kind == "text" or response_format is None:
        return None
    if kind == "json_object":
        return {"json_object": True}
    if kind == "json_schema":
        return {"json": dict(response_format["json_schema"]["schema"])}
    raise BackendError("bad_request", f"no response_format {kind!r}; there is: json_schema, json_object")


def completions(output: Any, request: Request, model: str, split: Split | None = None) -> list[Completion]:
    """The Completions of a finished RequestOutput. Raises BackendError when the engine gave an answer up."""
    made = [_completion(choice, request, model, split) for choice in output.outputs]
    if len(made) < request.n and len(made) == 1:
        made *= request.n
    seed = request.seed
    if seed is not None:
        made = [replace(one, seed=seed + i) for i, one in enumerate(made)]
    written = sum(len(choice.token_ids) for choice in output.outputs)
    prompt = None
    if request.prompt_logprobs is not None and output.prompt_logprobs is not None:
        # Of the tokens themselves the first is given too, as None.
        prompt = tuple(_positions(output.prompt_logprobs, request.prompt_logprobs))
    usage = Usage(len(output.prompt_token_ids or ()), written)
    return [replace(made[0], usage=usage, prompt_logprobs=prompt), *made[1:]]


def _completion(choice: Any, request: Request, model: str, split: Split | None) -> Completion:
    if choice.finish_reason in ("abort", "error"):
        raise BackendError("transient", f"the engine ended the answer ({choice.finish_reason})", status=503)
    reasoning, text = split(choice.text) if split else (None, choice.text)
    tokens = None
    if request.logprobs is not None and choice.logprobs is not None:
        tokens = tuple(token for token in _positions(choice.logprobs, request.logprobs) if token)
    return Completion(
        text=text or "",
        finish_reason=choice.finish_reason,
        reasoning=reasoning or None,
        logprobs=tokens,
        model=model,
    )


def _positions(places: Sequence[Any], top: int) -> Iterator[TokenLogprob | None]:
    for alternatives in places:
        if alternatives is None:
            yield None
        else:
            yield position(
                [
                    (p.decoded_token or "", p.logprob, p.rank or len(alternatives))
                    for p in alternatives.values()
                ],
                top,
            )


def heads(
    values: Sequence[float],
    labels: Mapping[Any, str] | None,
    request: Request,
    prompt_tokens: int,
    model: str,
) -> list[Completion]:
    """A reward model's output, its heads by the names that its configuration has for them (id2label), if any."""
    rewards = named_heads(values, head_names(labels))
    if request.kind == "compare":
        rewards = preference(rewards)
    return [Completion(values=rewards, usage=Usage(prompt_tokens, 0), model=model)]


def vector(values: Sequence[float], prompt_tokens: int, model: str) -> list[Completion]:
    return [Completion(vector=tuple(map(float, values)), usage=Usage(prompt_tokens, 0), model=model)]
