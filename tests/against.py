"""Tiny models, used plainly through transformers: what a backend's log-probabilities, and scores of them, are held to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from synthpref.core.seam import Backend, Completion, Request
from synthpref.core.types import Message
from synthpref.stages.followup import Followup, YesNo
from synthpref.stages.logprob import DensityRatio, Implicit, Perplexity, Reference
from synthpref.testing import FunctionAsk, row

CLOSE = 1e-4
QUESTIONS = [
    "Why is the sky blue?",
    "Say it.",
    "What is an answer, and what is a question that has none? " * 3,
]
ANSWERS = ("Light is scattered, the blue more than the red.", "No.", "Ünder – ☂ 天空 the sky")
ASKED = row(QUESTIONS[0], *ANSWERS, reference="Blue light scatters most.")
PROMPTS = FunctionAsk(lambda request: [])


@dataclass(frozen=True)
class Tiny:
    """A tiny model: its folder, and the same used without us."""

    folder: str
    plain: Any
    tokens: Any

    def text(self, messages: Sequence[Message], **how: Any) -> str:
        return str(self.tokens.apply_chat_template(list(messages), tokenize=False, **how))

    def logits(self, text: str) -> tuple[list[int], Any]:
        import torch

        ids = self.tokens(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            return ids, self.plain(torch.tensor([ids])).logits[0].float()

    def spans(self, text: str, start: int, end: int) -> list[float]:
        """The log-probabilities of the tokens between two places of a text, found by the tokenizer's offsets."""
        marked = self.tokens(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, logits = self.logits(text)
        logprobs = logits.log_softmax(-1)
        return [
            float(logprobs[i - 1, ids[i]])
            for i, (first, last) in enumerate(marked["offset_mapping"])
            if start <= first and last <= end
        ]

    def answer(self, context: Sequence[Message], text: str) -> list[float]:
        before = self.text(context, add_generation_prompt=True)
        return self.spans(before + text, len(before), len(before + text))


def loaded(folder: str, kind: str = "AutoModelForCausalLM") -> Tiny:
    import transformers

    plain = getattr(transformers, kind).from_pretrained(folder, dtype="float32").eval()
    return Tiny(folder, plain, transformers.AutoTokenizer.from_pretrained(folder))


class ModelsAsk(FunctionAsk):
    """An Ask of backends."""

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        super().__init__(lambda request: [])
        self.backends = backends

    async def _send(self, model: str, request: Request) -> list[Completion]:
        return await self.backends[model].complete(replace(request, seed=1))


def near(expected: Sequence[float]) -> Any:
    return pytest.approx(list(expected), abs=CLOSE, rel=CLOSE)


# ---- scores, as the formulas have them, of the models `s` and `w`

Case = Callable[[Tiny, Tiny], list[tuple[Any, list[float]]]]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def perplexities(strong: Tiny, weak: Tiny) -> list[tuple[Any, list[float]]]:
    read = [strong.answer(ASKED.prompt, text) for text in ANSWERS]
    formulas: dict[Any, Callable[[list[float]], float]] = {
        "sum": math.fsum,
        "mean": mean,
        "perplexity": lambda t: math.exp(-mean(t)),
    }
    return [
        (Perplexity(model="s", form=form), [f(tokens) for tokens in read]) for form, f in formulas.items()
    ]


def ratios(strong: Tiny, weak: Tiny) -> list[tuple[Any, list[float]]]:
    over, under = ([m.answer(ASKED.prompt, text) for text in ANSWERS] for m in (strong, weak))
    sums = [math.fsum(a) - math.fsum(b) for a, b in zip(over, under, strict=True)]
    system = PROMPTS.prompt("score/prefixes/safety")[0]
    safe = [math.fsum(strong.answer([system, *ASKED.prompt], text)) for text in ANSWERS]
    return [
        (DensityRatio(strong="s", weak="w"), sums),
        (
            DensityRatio(strong="s", weak="w", per_token=True),
            [x / len(a) for x, a in zip(sums, over, strict=True)],
        ),
        (
            DensityRatio(strong="s", weak="w", prefixes=("safety",)),
            [a - math.fsum(b) for a, b in zip(safe, under, strict=True)],
        ),
        (Implicit(policy="s", reference="w", beta=0.3), [0.3 * x for x in sums]),
    ]


def followups(strong: Tiny, weak: Tiny) -> list[tuple[Any, list[float]]]:
    def said(text: str, then: str) -> float:
        before = strong.text([*ASKED.prompt, {"role": "assistant", "content": text}]) + "<|im_start|>user\n"
        whole = before + then + "<|im_end|>\n<|im_start|>assistant\n"
        return mean(strong.spans(whole, len(before), len(before + then)))

    def side(text: str, kind: str) -> float:
        return mean([said(text, m["content"]) for m in PROMPTS.prompt(f"score/followups/clarity_{kind}")])

    expected = [side(text, "good") - side(text, "bad") for text in ANSWERS]
    return [(Followup(model="s", aspects=("clarity",)), expected)]


def references(strong: Tiny, weak: Tiny) -> list[tuple[Any, list[float]]]:
    request = PROMPTS.prompt("score/final")
    assert ASKED.reference is not None
    read = [
        strong.answer([*ASKED.prompt, {"role": "assistant", "content": text}, *request], ASKED.reference)
        for text in ANSWERS
    ]
    return [
        (Reference(model="s"), [math.fsum(tokens) for tokens in read]),
        (Reference(model="s", per_token=True), [mean(tokens) for tokens in read]),
    ]


SCORES: list[Case] = [perplexities, ratios, followups, references]


def yes_or_no(folder: Path, templates: Path) -> tuple[Tiny, YesNo, list[float]]:
    """A model that answers with one of two letters, which are read as the beginnings of the two words."""
    import torch

    template = templates / "short.j2"
    template.write_text("{{ response }} Good by {{ rubric }}? yes or no", encoding="utf-8")
    stage = YesNo(model="s", rubric="This criterion.", prompt=str(template))
    place = tiny.policy(folder / "sure", seed=2)
    sure = loaded(place)
    asked = [
        sure.text(
            [{"role": "user", "content": f"{text} Good by This criterion.? yes or no"}],
            add_generation_prompt=True,
        )
        for text in ANSWERS
    ]
    yes, no = (sure.tokens.encode(letter)[0] for letter in "yn")
    with torch.no_grad():
        ends = torch.stack(
            [
                sure.plain.model(torch.tensor([sure.logits(text)[0]])).last_hidden_state[0, -1]
                for text in asked
            ]
        )
        # Towards where all three prompts end, and so the most probable by far; the one a little off, so that it hangs
        # on the prompt which of them is the more so.
        towards = ends.mean(0) * 60 / ends.mean(0).square().sum()
        sure.plain.lm_head.weight[yes] = towards
        sure.plain.lm_head.weight[no] = towards + 0.3 * (ends[0] - ends[1]) / ends[0].norm()
    sure.plain.save_pretrained(place)
    expected = []
    for text in asked:
        odds = sure.logits(text)[1][-1].double().softmax(-1)
        assert float(odds[yes] + odds[no]) > 0.99
        expected.append(float(odds[yes] / (odds[yes] + odds[no])))
    assert max(expected) - min(expected) > 0.1
    return sure, stage, expected
