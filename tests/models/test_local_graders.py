"""backend: local: heads by their names, models with code of their own, and models that compare two answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import tiny
from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request
from synthpref.models.local import Local
from synthpref.stages.reward import Reward, RewardPair
from synthpref.testing import FunctionAsk, row

torch = pytest.importorskip("torch", reason="torch is not installed; see `make local-test`")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
# What other packages warn of is not ours to mend.
pytestmark = [pytest.mark.local, pytest.mark.filterwarnings("default")]

PROMPT = ({"role": "user", "content": "Why is the sky blue?"},)
TEXTS = ("So.", "Because light is scattered.", "No. " * 20)


def conversation(*texts: str) -> tuple[dict[str, str], ...]:
    return (*PROMPT, *({"role": "assistant", "content": text} for text in texts))


def ask_all(spec: Local, *requests: Request) -> list[Any]:
    async def go() -> list[Any]:
        backend = spec.open({})
        try:
            found = await asyncio.gather(*(backend.complete(r) for r in requests), return_exceptions=True)
        finally:
            await backend.aclose()
        return [one if isinstance(one, BaseException) else one[0] for one in found]

    return asyncio.run(go())


def plainly(place: str, text: str) -> list[float]:
    tokens = transformers.AutoTokenizer.from_pretrained(place)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(place, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([tokens(text, add_special_tokens=False)["input_ids"]])).logits[0]
    return [float(x) for x in logits]


def test_two_heads_by_name_are_the_raw_logits_in_order(tmp_path: Path) -> None:
    place = tiny.reward(tmp_path / "two", labels=("helpful", "verbose"))
    tokens = transformers.AutoTokenizer.from_pretrained(place)
    asked = [Request(messages=conversation(text), kind="reward") for text in TEXTS]
    for request, made in zip(asked, ask_all(Local(model=place, serves="reward"), *asked), strict=True):
        wanted = plainly(place, tokens.apply_chat_template(list(request.messages), tokenize=False))
        assert list(made.values) == ["helpful", "verbose"]
        assert list(made.values.values()) == pytest.approx(wanted, abs=1e-3)
        assert not all(0 <= w <= 1 for w in wanted), "else nothing tells a logit from a probability"


def test_a_model_that_compares_reads_both_answers_by_its_template(tmp_path: Path) -> None:
    place = tiny.reward(tmp_path / "pair", template=tiny.PAIR)
    pairs = [(a, b) for a in TEXTS for b in TEXTS if a != b]
    asked = [Request(messages=conversation(*pair), kind="compare") for pair in pairs]
    made = ask_all(Local(model=place, serves="comparisons"), *asked)
    found = {pair: one.values["reward"] for pair, one in zip(pairs, made, strict=True)}
    for (a, b), value in found.items():
        text = f"Why is the sky blue?\n<|im_start|>{a}<|im_end|>\n<|im_start|>{b}<|im_end|>"
        assert value == pytest.approx(plainly(place, text)[0], abs=1e-3)
    assert len({round(value, 4) for value in found.values()}) == len(pairs)


def test_of_a_logit_for_each_it_is_their_difference_and_three_are_refused(tmp_path: Path) -> None:
    request = Request(messages=conversation("So.", "No."), kind="compare")
    text = "Why is the sky blue?\n<|im_start|>So.<|im_end|>\n<|im_start|>No.<|im_end|>"
    place = tiny.reward(tmp_path / "two", heads=2, template=tiny.PAIR)
    (made,) = ask_all(Local(model=place, serves="comparisons"), request)
    first, second = plainly(place, text)
    assert made.values == {"reward": pytest.approx(first - second, abs=1e-3)}
    place = tiny.reward(tmp_path / "three", heads=3, template=tiny.PAIR)
    (error,) = ask_all(Local(model=place, serves="comparisons"), request)
    assert isinstance(error, BackendError)
    assert error.kind == "unsupported"
    assert "3 outputs" in str(error)


def encoder(folder: Path) -> str:
    tokens = tiny.tokenizer()
    tokens.chat_template = None
    tokens.sep_token = "<|im_end|>"
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(
        vocab_size=len(tokens), pad_token_id=tokens.pad_token_id, num_labels=1, initializer_range=0.5, **size
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return str(folder)


def test_without_a_template_the_answers_are_one_text_with_a_separator(tmp_path: Path) -> None:
    place = encoder(tmp_path / "encoder")
    tokens = transformers.AutoTokenizer.from_pretrained(place)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(place, dtype=torch.float32)
    pairs = [("So.", "No. " * 9), ("No. " * 9, "So.")]
    asked = [Request(messages=conversation(*pair), kind="compare") for pair in pairs]
    for (a, b), made in zip(pairs, ask_all(Local(model=place, serves="comparisons"), *asked), strict=True):
        given = tokens("Why is the sky blue?", f"{a}<|im_end|>{b}", return_tensors="pt")
        with torch.no_grad():
            (wanted,) = model(**given).logits[0].tolist()
        assert made.values == {"reward": pytest.approx(wanted, abs=1e-3)}


OWN = '''
from dataclasses import dataclass

import torch
from transformers import Qwen2Config, Qwen2ForSequenceClassification
from transformers.utils import ModelOutput


@dataclass
class Graded(ModelOutput):
    rewards: torch.Tensor = None
    score: torch.Tensor = None
    logits: torch.Tensor = None


class Mixed(Qwen2ForSequenceClassification):
    """Heads, and a score that is their weighted sum, as models with a gate give them."""

    def forward(self, input_ids=None, attention_mask=None, **more):
        heads = super().forward(input_ids=input_ids, attention_mask=attention_mask, **more).logits
        score = heads @ torch.tensor([0.25, 0.75])
        return Graded(rewards=heads, score=score, logits=score)
'''


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    # Where transformers copies a model's code to.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "code"))
    place = tiny.reward(tmp_path / "mixed", labels=("helpful", "verbose"))
    (Path(place) / "grading.py").write_text(OWN, encoding="utf-8")
    config = transformers.AutoConfig.from_pretrained(place)
    config.auto_map = {"AutoModelForSequenceClassification": "grading.Mixed"}
    config.save_pretrained(place)
    return place


def test_a_model_with_code_of_its_own_gives_its_heads_and_its_score(mixed: str) -> None:
    asked = [Request(messages=conversation(text), kind="reward") for text in TEXTS]
    plain = ask_all(Local(model=mixed, serves="reward"), *asked)
    made = ask_all(Local(model=mixed, serves="reward", trust_remote_code=True), *asked)
    for before, after in zip(plain, made, strict=True):
        assert list(before.values) == ["helpful", "verbose"], "the code runs only where it is trusted"
        helpful, verbose = before.values.values()
        wanted = {"helpful": helpful, "verbose": verbose, "reward": 0.25 * helpful + 0.75 * verbose}
        assert list(after.values) == list(wanted)
        assert after.values == pytest.approx(wanted, abs=1e-3)


def test_the_stages_over_them(mixed: str, tmp_path: Path) -> None:
    def through(spec: Local, stage: Any) -> Any:
        async def go() -> Any:
            backend = spec.open({})

            class Through(FunctionAsk):
                async def _send(self, model: str, request: Request) -> list[Completion]:
                    return await backend.complete(request)

            try:
                return await stage.run(row("Why?", *TEXTS), Through(lambda _: []))
            finally:
                await backend.aclose()

        return asyncio.run(go())

    trusted = Local(model=mixed, serves="reward", trust_remote_code=True)
    made = through(trusted, Reward(model="rm", name="r", heads=("helpful", "verbose"), head="reward"))
    for helpful, verbose, total in zip(
        *(made.values(n) for n in ("r.helpful", "r.verbose", "r")), strict=True
    ):
        assert total == pytest.approx(0.25 * helpful + 0.75 * verbose, abs=1e-3)
    place = tiny.reward(tmp_path / "pair", template=tiny.PAIR)
    made = through(Local(model=place, serves="comparisons"), RewardPair(model="rm"))
    assert len(made.comparisons) == 3
    assert all(len(c.votes) == 2 and c.p is not None for c in made.comparisons)
    assert None not in made.values("compared")
