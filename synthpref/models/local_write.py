"""How a model that runs here writes: many answers a step, each with luck of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from synthpref.core.seam import Completion, Request, TokenLogprob
from synthpref.core.types import Usage
from synthpref.models import local_text as texts
from synthpref.models.local_line import Waiting
from synthpref.models.local_loaded import Loaded, Others

NUCLEUS = 1024
"""Tokens among which the most probable ones are sought before all are sorted."""


@dataclass(eq=False)
class Prompt:
    """A task with its prompt as tokens."""

    waiting: Waiting[Any, list[Completion]]
    request: Request
    ids: list[int]
    how: texts.Sampling | None = None
    """How its answers are drawn; None where it is only to be graded."""
    types: list[int] | None = None
    """Which of two texts each token belongs to, for a classifier that reads two."""
    begun: bool = False
    """Whether the prompt ends within the model's reasoning."""
    read: tuple[TokenLogprob | None, ...] | None = None


@dataclass(eq=False)
class Answer:
    """An answer while it is written."""

    prompt: Prompt
    how: texts.Sampling
    rng: random.Random
    ids: list[int] = field(default_factory=list)
    tokens: list[tuple[float, Others]] = field(default_factory=list)
    finish: str | None = None


class Writer:
    """Writes answers with a loaded model."""

    def __init__(self, loaded: Loaded, name: str) -> None:
        self.loaded, self.name = loaded, name

    def completions(self, prompts: list[Prompt]) -> list[list[Completion]]:
        loaded = self.loaded
        longest = max(len(prompt.ids) for prompt in prompts)
        gaps = [longest - len(prompt.ids) for prompt in prompts]
        rows = [[loaded.filler] * gap + prompt.ids for gap, prompt in zip(gaps, prompts, strict=True)]
        mask = loaded.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps])
        reads = any(prompt.request.prompt_logprobs is not None for prompt in prompts)
        more = any(prompt.how is not None and prompt.how.max_tokens > 1 for prompt in prompts)
        keep = {"logits_to_keep": 1} if not reads and "logits_to_keep" in loaded.takes else {}
        out = loaded.run(loaded.tensor(rows), mask, use_cache=more, **keep)
        for i, prompt in enumerate(prompts):
            if (top := prompt.request.prompt_logprobs) is not None:
                prompt.read = loaded.read(out.logits[i, gaps[i] :], prompt.ids, top)
        # One answer a row from here on, all of one prompt beside each other.
        made = [_answers(prompt) for prompt in prompts]
        answers = [answer for group in made for answer in group]
        source = loaded.tensor([i for i, group in enumerate(made) for _ in group])
        logits, mask = out.logits[:, -1][source], mask[source]
        cache = out.get(loaded.cache)
        del out
        if more and len(answers) > len(prompts):
            cache.batch_select_indices(source)
        while True:
            for row, answer in zip(logits, answers, strict=True):
                self._write(answer, row)
            going = [i for i, a in enumerate(answers) if a.finish is None and not a.prompt.waiting.given_up]
            if not going:
                return [self._completions(p, group) for p, group in zip(prompts, made, strict=True)]
            if len(going) < len(answers):
                index = loaded.tensor(going)
                cache.batch_select_indices(index)
                mask, answers = mask[index], [answers[i] for i in going]
            mask = loaded.torch.cat([mask, mask.new_ones((len(answers), 1))], dim=1)
            said = loaded.tensor([[answer.ids[-1]] for answer in answers])
            out = loaded.run(said, mask, cache, use_cache=True)
            logits = out.logits[:, -1]

    def _write(self, answer: Answer, logits: Any) -> None:
        """One token more."""
        how, request = answer.how, answer.prompt.request
        penalised = logits if how.repetition_penalty == 1 else self._penalised(logits, answer)
        token = self._draw(penalised, how, answer.rng)
        if token in self.loaded.ends:
            answer.finish = "stop"
            return
        answer.ids.append(token)
        if request.logprobs is not None:
            logprobs = logits.float().log_softmax(-1)
            answer.tokens.append(self.loaded.alternatives(logprobs, token, request.logprobs))
        if answer.finish is None and how.stop:
            # Enough of the end for any stop text: a token is at least a part of a character.
            tail = self.loaded.decode(
                answer.ids[-4 * max(map(len, how.stop)) - 4 :], skip_special_tokens=True
            )
            if texts.ended(tail, how.stop) is not None:
                answer.finish = "stop"
        if answer.finish is None and len(answer.ids) >= how.max_tokens:
            answer.finish = "length"

    def _penalised(self, logits: Any, answer: Answer) -> Any:
        """Logits of which those of tokens that were there before are lowered (CTRL, arXiv:1909.05858)."""
        seen = self.loaded.tensor(sorted({*answer.prompt.ids, *answer.ids}))
        made, penalty = logits.clone(), answer.how.repetition_penalty
        made[seen] = self.loaded.torch.where(made[seen] > 0, made[seen] / penalty, made[seen] * penalty)
        return made

    def _draw(self, logits: Any, how: texts.Sampling, rng: random.Random) -> int:
        """A token by the answer's own luck: neither its neighbours in the batch nor the device have a say."""
        self.loaded.hold(logits)
        if how.temperature == 0:
            return int(logits.argmax())
        # MPS has no numbers of this width.
        wide = (logits.cpu() if logits.is_mps else logits).double()
        odds = (wide / how.temperature).softmax(-1)
        index = None
        if how.top_k or how.top_p < 1:
            size = min(how.top_k or NUCLEUS, len(odds))
            top, index = odds.topk(size)
            if not how.top_k and float(top.sum()) < how.top_p:
                top, index = odds.sort(descending=True)
            # As many as it takes to reach the mass.
            reached = (top / top.sum() if how.top_k else top).cumsum(-1)
            odds = top[: int((reached < how.top_p).sum()) + 1]
        mass = odds.cumsum(-1)
        place = int((mass < rng.random() * float(mass[-1])).sum())
        return place if index is None else int(index[place])

    def _completions(self, prompt: Prompt, answers: Sequence[Answer]) -> list[Completion]:
        made = [self._completion(answer, i) for i, answer in enumerate(answers)]
        written = sum(len(answer.ids) for answer in answers)
        first = replace(made[0], usage=Usage(len(prompt.ids), written), prompt_logprobs=prompt.read)
        return [first, *made[1:]]

    def _completion(self, answer: Answer, i: int) -> Completion:
        request = answer.prompt.request
        text = self.loaded.decode(answer.ids, skip_special_tokens=True)
        words = texts.pieces(self.loaded.decode, answer.ids) if request.logprobs is not None else []
        tokens = tuple(TokenLogprob(word, *said) for word, said in zip(words, answer.tokens, strict=False))
        if (at := texts.ended(text, answer.how.stop)) is not None:
            text, tokens = text[:at], texts.spoken_until(tokens, at)
        if answer.prompt.begun:
            # What the template put into the prompt is where the reasoning begins (core/thinking.py).
            text = texts.THOUGHT + text
        return Completion(
            text=text,
            finish_reason=answer.finish,
            logprobs=tokens if request.logprobs is not None else None,
            model=self.name,
            seed=None if request.seed is None else request.seed + i,
        )


def _answers(prompt: Prompt) -> list[Answer]:
    """The answers to a prompt, not yet begun."""
    assert prompt.how is not None
    first = prompt.request.seed
    seeds = [None if first is None else first + i for i in range(prompt.request.n)]
    return [Answer(prompt, prompt.how, random.Random(seed)) for seed in seeds]
