"""The log-probabilities that models give to texts they are shown: what the score.* words of stages/logprob.py and
stages/followup.py ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from synthpref.core.errors import BackendError
from synthpref.core.logprob import Shown, Span, after, between
from synthpref.core.reply import Parsed
from synthpref.core.seam import Ask, Capability
from synthpref.core.types import Message, Score, Vote
from synthpref.stages.asking import attempt_each, why_refused

READS: frozenset[Capability] = frozenset({"chat", "prompt_logprobs"})
"""What a role must be able to do for its log-probabilities of what others say."""
ANSWERS: frozenset[Capability] = READS | {"prefill"}
"""The same, of an answer, which stands in the prompt as a message that has been begun."""


async def shown(ask: Ask, model: str, messages: Sequence[Message]) -> Shown:
    """The tokens of the messages as the model is shown them."""
    # One token is the least that an endpoint can be asked for; it is not looked at.
    (answer, *_) = await ask(messages, model=model, max_tokens=1, prompt_logprobs=0)
    return answer.prompt_logprobs or ()


async def answers(
    ask: Ask, model: str, context: Sequence[Message], texts: Sequence[str]
) -> list[Parsed[Span]]:
    """Each text as an answer to the context. The context is asked about once, for all."""
    if not texts:
        return []
    before, wholes = await asyncio.gather(
        shown(ask, model, context),
        attempt_each(shown(ask, model, [*context, says("assistant", t)]) for t in texts),
    )
    return [
        Parsed(None, why_refused(whole)) if isinstance(whole, BackendError) else after(whole, before, text)
        for whole, text in zip(wholes, texts, strict=True)
    ]


async def remarks(
    ask: Ask, model: str, context: Sequence[Message], texts: Sequence[str]
) -> list[Parsed[Span]]:
    """Each text as what the user says after the context."""
    frame, *wholes = await asyncio.gather(
        *(shown(ask, model, [*context, says("user", text)]) for text in ("", *texts))
    )
    return [between(whole, frame, text) for whole, text in zip(wholes, texts, strict=True)]


def says(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def score(judge: str, made: Parsed[float]) -> Score:
    """The Score that one model's log-probabilities make."""
    return Score(made.value, made.why, (Vote(judge, made.value, made.why),))


def of(span: Parsed[Span], formula: Callable[[Span], float]) -> Parsed[float]:
    """What the formula makes of a span, or the reason why there is none."""
    return Parsed(None, span.why) if span.value is None else Parsed(formula(span.value))
