"""backend: local, on tiny models with random weights, against transformers used plainly."""

from __future__ import annotations

import asyncio
import json
import math
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from against import ASKED, CLOSE, QUESTIONS, SCORES, Case, ModelsAsk, Tiny, loaded, near, yes_or_no
from synthpref import job
from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request
from synthpref.core.stage import RowStage
from synthpref.core.thinking import read_completion
from synthpref.core.types import Message, Row
from synthpref.models.local import Local, _load
from synthpref.models.local_batch import Batches, Task
from synthpref.models.local_line import Waiting
from synthpref.models.local_text import sampling
from synthpref.models.local_write import Writer

torch = pytest.importorskip("torch", reason="torch is not installed; see `make local-test`")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
# What other packages warn of is not ours to mend.
pytestmark = [pytest.mark.local, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def strong(folder: Path) -> Tiny:
    return loaded(tiny.policy(folder / "strong", seed=0))


@pytest.fixture(scope="module")
def weak(folder: Path) -> Tiny:
    return loaded(tiny.policy(folder / "weak", seed=1))


def user(text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": text},)


def chat(text: str, **fields: Any) -> Request:
    return Request(messages=user(text), **{"seed": 5, "max_tokens": 12, "temperature": 1.0, **fields})


def ask_all(spec: Local, *requests: Request) -> list[list[Completion]]:
    """The answers to requests that come at once."""

    async def go() -> list[list[Completion]]:
        backend = spec.open({})
        try:
            return list(await asyncio.gather(*(backend.complete(request) for request in requests)))
        finally:
            await backend.aclose()

    return asyncio.run(go())


def ask(spec: Local, request: Request) -> list[Completion]:
    return ask_all(spec, request)[0]


# ---- writing


@pytest.mark.parametrize("text", QUESTIONS)
def test_without_chance_it_writes_what_transformers_writes(strong: Tiny, text: str) -> None:
    (made,) = ask(Local(model=strong.folder), chat(text, temperature=0, max_tokens=20))
    ids = strong.logits(strong.text(user(text), add_generation_prompt=True))[0]
    out = strong.plain.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0, len(ids) :]
    assert made.text == strong.tokens.decode(out, skip_special_tokens=True)
    assert made.finish_reason == ("stop" if int(out[-1]) == strong.tokens.eos_token_id else "length")
    assert made.usage is not None
    assert made.usage.prompt_tokens == len(ids)


def test_the_models_own_settings_hold_where_the_role_has_none(folder: Path) -> None:
    place = tiny.policy(folder / "settled", seed=3)
    settled = loaded(place)
    # Whatever is tried, one token is left to draw; and repeats are unwelcome.
    settled.plain.generation_config.update(top_k=1, repetition_penalty=1.7, do_sample=True)
    settled.plain.save_pretrained(place)
    ids = settled.logits(settled.text(user("Why?"), add_generation_prompt=True))[0]
    out = settled.plain.generate(torch.tensor([ids]), max_new_tokens=20)[0, len(ids) :]
    made = ask(Local(model=place), chat("Why?", n=2, max_tokens=20))
    assert {c.text for c in made} == {settled.tokens.decode(out, skip_special_tokens=True)}
    without = settled.plain.generate(torch.tensor([ids]), max_new_tokens=20, repetition_penalty=1.0)
    assert without[0, len(ids) :].tolist() != out.tolist()
    assert len({c.text for c in ask(Local(model=place, top_k=0), chat("Why?", n=4))}) > 1


@pytest.mark.parametrize("how", [{}, {"top_p": 0.8}, {"temperature": 0.7}])
def test_an_answer_hangs_on_its_seed_and_not_on_what_it_is_asked_with(
    strong: Tiny, how: Mapping[str, Any]
) -> None:
    spec = Local(model=strong.folder, batch=16)
    requests = [chat(text, n=3, **how) for text in QUESTIONS]
    together = ask_all(spec, *requests)
    assert [c.seed for c in together[0]] == [5, 6, 7]
    assert len({c.text for group in together for c in group}) == 9
    for request, group in zip(requests, together, strict=True):
        for i, one in enumerate(group):
            (alone,) = ask(spec, replace(request, n=1, seed=5 + i))
            assert (alone.text, alone.finish_reason, alone.seed) == (one.text, one.finish_reason, one.seed)


@pytest.mark.parametrize(
    "how", [{"temperature": 3.0}, {"temperature": 3.0, "top_p": 0.6}, {"temperature": 3.0, "top_k": 5}]
)
def test_tokens_are_drawn_as_often_as_they_are_probable(strong: Tiny, how: dict[str, Any]) -> None:
    count, top_k = 2000, how.get("top_k")
    spec = Local(model=strong.folder, batch=count, top_k=top_k)
    fields = {name: value for name, value in how.items() if name != "top_k"}
    made = ask(spec, chat(QUESTIONS[0], n=count, max_tokens=1, logprobs=0, **fields))
    seen = Counter(c.logprobs[0].token if c.logprobs else "" for c in made)
    _, logits = strong.logits(strong.text(user(QUESTIONS[0]), add_generation_prompt=True))
    odds, ids = (logits[-1].double() / 3.0).softmax(-1).sort(descending=True)
    odds, ids = odds[: top_k or None], ids[: top_k or None]
    odds = odds / odds.sum()
    kept = int((odds.cumsum(-1) < how.get("top_p", 1.0)).sum()) + 1
    odds = odds[:kept] / odds[:kept].sum()
    expected: Counter[str] = Counter()
    for p, i in zip(odds.tolist(), ids.tolist(), strict=False):
        expected[strong.tokens.decode([i]) if i != strong.tokens.eos_token_id else ""] += p
    assert set(seen) <= set(expected)
    for token, p in expected.items():
        assert abs(seen[token] / count - p) < 5 * math.sqrt(p * (1 - p) / count) + 1e-3


class OnMps(torch.Tensor):  # type: ignore[misc]
    """Logits on MPS, which refuses float64, as far as drawing a token asks of it."""

    is_mps = True

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "double":
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        if name == "cpu":
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].as_subclass(torch.Tensor)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_token_is_drawn_on_mps_too(strong: Tiny) -> None:
    spec = Local(model=strong.folder)
    writer = Writer(_load(spec), spec.model)
    how = sampling(chat("Why?", top_p=0.9), None, {}, 10)
    logits = torch.randn(384, generator=torch.Generator().manual_seed(0))
    drawn = [writer._draw(given, how, random.Random(3)) for given in (logits, logits.as_subclass(OnMps))]
    assert drawn[0] == drawn[1]


def test_it_ends_at_a_stop_text_which_is_left_out(strong: Tiny) -> None:
    spec = Local(model=strong.folder)
    (whole,) = ask(spec, chat(QUESTIONS[0], max_tokens=30, logprobs=0))
    stop = whole.text[5:8]
    (made,) = ask(spec, chat(QUESTIONS[0], max_tokens=30, logprobs=0, stop=("NEVER SAID", stop)))
    assert made.text == whole.text[: whole.text.index(stop)]
    assert made.finish_reason == "stop"
    assert made.logprobs is not None
    assert "".join(t.token for t in made.logprobs).startswith(made.text)


def test_logprobs_are_those_of_the_tokens_with_the_most_probable_beside_them(strong: Tiny) -> None:
    (made,) = ask(Local(model=strong.folder), chat(QUESTIONS[0], logprobs=4))
    assert made.logprobs is not None
    before = strong.text(user(QUESTIONS[0]), add_generation_prompt=True)
    ids, logits = strong.logits(before)
    written = []
    for token in made.logprobs:
        plain = logits[-1].log_softmax(-1)
        top = plain.topk(4)
        assert [p for _, p in token.top] == pytest.approx(top.values.tolist(), abs=CLOSE)
        assert [t for t, _ in token.top] == [strong.tokens.decode([i]) for i in top.indices.tolist()]
        chosen = int((plain - token.logprob).abs().argmin())
        assert float(plain[chosen]) == pytest.approx(token.logprob, abs=CLOSE)
        written.append(chosen)
        with torch.no_grad():
            logits = strong.plain(torch.tensor([ids + written])).logits[0].float()
    assert "".join(t.token for t in made.logprobs) == strong.tokens.decode(written)
    assert made.text == strong.tokens.decode(written, skip_special_tokens=True)


def test_a_message_that_was_begun_is_gone_on_with(strong: Tiny) -> None:
    messages = (*user(QUESTIONS[0]), {"role": "assistant", "content": "The sky is"})
    request = Request(messages=messages, temperature=0, max_tokens=8, seed=1)
    (made,) = ask(Local(model=strong.folder), request)
    ids, _ = strong.logits(strong.text(user(QUESTIONS[0]), add_generation_prompt=True) + "The sky is")
    out = strong.plain.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :]
    assert made.text == strong.tokens.decode(out, skip_special_tokens=True)


def test_a_template_of_the_roles_own_and_what_it_is_given(strong: Tiny, tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{{ word }}{{ messages[0]['content'] }}", encoding="utf-8")
    request = chat("Why?", prompt_logprobs=0, max_tokens=1)
    spec = Local(model=strong.folder, chat_template=str(own), chat_template_kwargs={"word": "Well. "})
    (made,) = ask(spec, request)
    assert made.prompt_logprobs is not None
    first, *others = made.prompt_logprobs
    assert first is None
    assert "".join(t.token for t in others if t) == "Well. Why?"[1:]
    assert spec.identity()["chat_template"] == own.read_text("utf-8")
    (made,) = ask(
        Local(model=strong.folder, chat_template_kwargs={"think": True}), replace(request, max_tokens=5)
    )
    # The template opened the thinking, and it never ends: as stages see it, there is no answer.
    seen = read_completion(made)
    assert (seen.text, seen.ended) == ("", "cut")
    assert seen.reasoning


# ---- reading


@pytest.mark.parametrize("batch", [1, 8])
def test_the_prompts_logprobs_are_those_of_transformers(strong: Tiny, batch: int) -> None:
    requests = [chat(text, prompt_logprobs=0, max_tokens=1) for text in QUESTIONS]
    for text, (made,) in zip(
        QUESTIONS, ask_all(Local(model=strong.folder, batch=batch), *requests), strict=True
    ):
        whole = strong.text(user(text), add_generation_prompt=True)
        assert made.prompt_logprobs is not None
        first, *others = made.prompt_logprobs
        assert first is None
        tokens = [t for t in others if t]
        ids, _ = strong.logits(whole)
        assert len(tokens) == len(ids) - 1
        assert "<|im_start|>" + "".join(t.token for t in tokens) == whole
        assert [t.logprob for t in tokens] == pytest.approx(strong.spans(whole, 1, len(whole)), abs=CLOSE)


def test_the_prompts_alternatives(strong: Tiny) -> None:
    (made,) = ask(Local(model=strong.folder), chat("Say it.", prompt_logprobs=3, max_tokens=1))
    ids, logits = strong.logits(strong.text(user("Say it."), add_generation_prompt=True))
    assert made.prompt_logprobs is not None
    for i, token in enumerate(made.prompt_logprobs[1:], start=1):
        assert token is not None
        plain = logits[i - 1].log_softmax(-1)
        assert token.logprob == pytest.approx(float(plain[ids[i]]), abs=CLOSE)
        assert [p for _, p in token.top] == pytest.approx(plain.topk(3).values.tolist(), abs=CLOSE)


# ---- what goes wrong


def test_a_prompt_that_is_too_long_is_that_rows_own_trouble(strong: Tiny) -> None:
    spec = Local(model=strong.folder)

    async def go() -> list[Any]:
        backend = spec.open({})
        asked = [backend.complete(chat(text)) for text in ("long " * 2000, "short")]
        made = await asyncio.gather(*asked, return_exceptions=True)
        await backend.aclose()
        return made

    error, (fine,) = asyncio.run(go())
    assert isinstance(error, BackendError)
    assert error.kind == "context_length"
    assert "the model reads 512" in str(error)
    assert fine.finish_reason


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"model": "/no/such/folder"}, "not_found", "name a folder"),
        ({"device": "cuda:63"}, "unsupported", "cannot be loaded"),
        ({"chat_template": "{{ raise_exception('no such role') }}"}, "bad_request", "no such role"),
    ],
)
def test_what_cannot_be_is_said(strong: Tiny, fields: dict[str, Any], kind: str, words: str) -> None:
    with pytest.raises(BackendError, match=words) as caught:
        ask(Local(**{"model": strong.folder, **fields}), chat("Why?"))
    assert caught.value.kind == kind


@pytest.mark.parametrize("serves", ["reward", "comparisons", "chat"])
def test_a_model_that_lacks_weights_is_refused_and_never_filled_with_chance(
    strong: Tiny, folder: Path, serves: Any
) -> None:
    place = tiny.reward(folder / "no-words") if serves == "chat" else strong.folder
    with pytest.raises(BackendError, match=f"serves: {serves} needs weights that it does not have") as caught:
        ask(Local(model=place, serves=serves), chat("Why?"))
    assert caught.value.kind == "unsupported"


def test_two_roles_on_one_model_share_it_and_it_goes_with_the_last(strong: Tiny) -> None:
    async def go() -> None:
        shared: dict[str, Any] = {}
        spec = Local(model=strong.folder)
        one, two = spec.open(shared), Local(model=strong.folder, temperature=0, batch=2).open(shared)
        (line,) = (value for name, value in shared.items() if name.startswith("local "))
        other = Local(model=strong.folder, dtype="bfloat16").open(shared)
        assert len([name for name in shared if name.startswith("local ")]) == 2
        await asyncio.gather(one.complete(chat("Why?")), two.complete(chat("How?")))
        await other.aclose()
        await one.aclose()
        assert await two.complete(chat("Who?", max_tokens=2))
        assert line.name in {thread.name for thread in threading.enumerate()}
        await two.aclose()
        assert line.name not in {thread.name for thread in threading.enumerate()}

    asyncio.run(go())


def test_a_role_of_one_at_a_time_is_so_beside_another_on_the_same_model(
    strong: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    work = Batches.work

    def counted(self: Batches, batch: Sequence[Any]) -> None:
        taken.extend(len(batch) for one in batch[:1] if one.kind == "reads")
        work(self, batch)

    monkeypatch.setattr(Batches, "work", counted)

    async def go() -> None:
        shared: dict[str, Any] = {}
        policy, scorer = (Local(model=strong.folder, batch=batch).open(shared) for batch in (8, 1))
        reads = [scorer.complete(chat(text, prompt_logprobs=0)) for text in QUESTIONS]
        await asyncio.gather(policy.complete(chat("Why?", n=3)), *reads)
        await policy.aclose()
        await scorer.aclose()

    asyncio.run(go())
    assert taken == [1] * len(QUESTIONS)


def test_what_nobody_waits_for_any_more_is_given_up(strong: Tiny) -> None:
    async def go() -> None:
        backend = Local(model=strong.folder, batch=1).open({})
        await backend.complete(chat("Why?"))
        endless = chat("How?", max_tokens=400, stop=("NEVER SAID",))
        tasks = [asyncio.ensure_future(backend.complete(replace(endless, seed=i))) for i in range(9)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        assert await backend.complete(chat("Who?", max_tokens=1))
        await backend.aclose()

    asyncio.run(go())


# ---- rewards


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("pad", ["<|pad|>", "<|im_end|>", None])
def test_a_reward_is_the_raw_logit(folder: Path, batch: int, pad: str | None) -> None:
    place = tiny.reward(folder / f"rm-{batch}-{pad}".replace("|", ""))
    model = loaded(place, "AutoModelForSequenceClassification")
    model.tokens.pad_token = pad
    model.tokens.save_pretrained(place)
    conversations = [(*user(text), {"role": "assistant", "content": text[::-1]}) for text in QUESTIONS]
    requests = [Request(messages=messages, kind="reward") for messages in conversations]
    made = ask_all(Local(model=place, serves="reward", batch=batch), *requests)
    # One by one, and by hand: whatever the model takes for padding, the last token is the one that counts.
    for messages, (one,) in zip(conversations, made, strict=True):
        ids = model.tokens(model.text(messages), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            hidden = model.plain.model(torch.tensor([ids])).last_hidden_state[0, -1]
            (expected,) = model.plain.score(hidden).tolist()
        assert one.values == {"reward": pytest.approx(expected, abs=1e-3)}


def test_heads_have_the_models_own_names(folder: Path) -> None:
    place = tiny.reward(folder / "heads", heads=3)
    asked = Request(messages=(*user("Why?"), {"role": "assistant", "content": "So."}), kind="reward")
    spec = Local(model=place, serves="reward")
    (made,) = ask(spec, asked)
    assert list(made.values or {}) == ["head_0", "head_1", "head_2"]
    config = transformers.AutoConfig.from_pretrained(place)
    config.id2label = {0: "helpful", 1: "honest", 2: "long"}
    config.save_pretrained(place)
    (named,) = ask(spec, asked)
    assert list((named.values or {}).items()) == list(
        zip(("helpful", "honest", "long"), (made.values or {}).values(), strict=True)
    )


def test_a_classifier_of_two_texts_that_has_no_chat_template(folder: Path) -> None:
    tokens = tiny.tokenizer()
    tokens.chat_template = None
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(
        vocab_size=len(tokens), pad_token_id=tokens.pad_token_id, num_labels=1, initializer_range=0.5, **size
    )
    model = transformers.BertForSequenceClassification(config).eval()
    place = str(folder / "encoder")
    model.save_pretrained(place)
    tokens.save_pretrained(place)
    saved = transformers.AutoTokenizer.from_pretrained(place)
    answers = ["So.", "Because light is scattered.", "No. " * 20]
    requests = [
        Request(messages=(*user("Why?"), {"role": "assistant", "content": text}), kind="reward")
        for text in answers
    ]
    made = ask_all(Local(model=place, serves="reward"), *requests)
    for text, (one,) in zip(answers, made, strict=True):
        with torch.no_grad():
            expected = float(model(**saved("Why?", text, return_tensors="pt")).logits)
        assert one.values == {"reward": pytest.approx(expected, abs=1e-3)}


def test_a_model_without_chat_template_wants_one(folder: Path) -> None:
    place = tiny.policy(folder / "bare")
    tokens = transformers.AutoTokenizer.from_pretrained(place)
    tokens.chat_template = None
    tokens.save_pretrained(place)
    (Path(place) / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(BackendError, match="no chat template") as caught:
        ask(Local(model=place), chat("Why?"))
    assert caught.value.kind == "unsupported"
    assert ask(Local(model=place, chat_template="{{ messages[0]['content'] }}"), chat("Why?"))


# ---- memory


def worked(batches: Batches, *requests: Request) -> list[Any]:
    """What becomes of requests that are one batch."""

    async def go() -> list[Any]:
        loop = asyncio.get_running_loop()
        line = [
            Waiting(Task(request, None, None, {}), "chat", 1, 1, 8, (0, i), loop.create_future(), loop)
            for i, request in enumerate(requests)
        ]
        await asyncio.to_thread(batches.work, line)
        return await asyncio.gather(*(one.future for one in line), return_exceptions=True)

    return asyncio.run(go())


class Small:
    """A writer with memory for a few tokens at once, in place of the real one."""

    def __init__(self, writer: Any, most: int) -> None:
        self.writer, self.most, self.sizes = writer, most, list[int]()

    def completions(self, prompts: list[Any]) -> Any:
        self.sizes.append(len(prompts))
        if sum(len(prompt.ids) for prompt in prompts) > self.most:
            raise torch.OutOfMemoryError
        return self.writer.completions(prompts)


def test_what_is_too_much_at_once_is_done_in_parts(strong: Tiny) -> None:
    spec = Local(model=strong.folder)
    batches = Batches(spec.model, lambda: _load(spec))
    batches.load()
    asked = [chat(text, temperature=0) for text in ("Why?", "How?", "Who?", "What? " * 60)]
    expected = [group[0].text for group in ask_all(spec, *asked[:3])]

    small = Small(batches.writer, 60)
    batches.writer = small  # type: ignore[assignment]
    made, sizes = worked(batches, *asked), small.sizes
    assert [group[0].text for group in made[:3]] == expected
    assert sizes[0] == 4
    assert sizes[-1] == 1
    assert isinstance(made[3], BackendError)
    assert made[3].kind == "bad_request"
    assert "lower max_tokens" in str(made[3])


# ---- what is no number


BAD = "Z"
"""A word at which the tiny model overflows, as some do in float16."""


def overflowing(folder: str, at: str) -> Batches:
    """A tiny model that makes no numbers where it reads BAD ("in"), or an infinite logit for it ("out")."""
    found = _load(Local(model=folder))
    (token,) = found.tokenizer(BAD, add_special_tokens=False)["input_ids"]
    if at == "in":
        with torch.no_grad():
            found.model.get_input_embeddings().weight[token] = math.nan
    else:
        word = torch.arange(found.vocabulary) == token
        head = found.model.get_output_embeddings()
        head.register_forward_hook(lambda _, given, made: made.masked_fill(word, math.inf))
    batches = Batches("tiny", lambda: found)
    batches.load()
    return batches


@pytest.mark.parametrize("how", [{}, {"prompt_logprobs": 0}, {"prompt_logprobs": 2}], ids=str)
def test_a_prompt_at_which_a_model_overflows_costs_no_other_its_answer(
    strong: Tiny, how: dict[str, Any]
) -> None:
    asked = [chat(text, **how) for text in ("Why?", f"{BAD}?", "How?")]
    first, bad, last = worked(overflowing(strong.folder, "in"), *asked)
    assert isinstance(bad, BackendError)
    assert bad.kind == "bad_request"
    assert "gave no numbers" in str(bad)
    expected = ask_all(Local(model=strong.folder), asked[0], asked[2])
    assert [first[0].text, last[0].text] == [group[0].text for group in expected]


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 0}, {"top_p": 0.9}, {"prompt_logprobs": 0, "max_tokens": 1}], ids=str
)
def test_an_infinite_logit_draws_no_token(strong: Tiny, how: dict[str, Any]) -> None:
    (made,) = worked(overflowing(strong.folder, "out"), chat("Why?", **how))
    assert isinstance(made, BackendError)
    assert "gave no numbers" in str(made)


# ---- scores


def scored(stage: RowStage, **models: Tiny) -> Row:
    async def go() -> Row:
        shared: dict[str, Any] = {}
        backends = {role: Local(model=model.folder).open(shared) for role, model in models.items()}
        made = await stage.run(ASKED, ModelsAsk(backends))
        for backend in backends.values():
            await backend.aclose()
        assert isinstance(made, Row)
        return made

    return asyncio.run(go())


@pytest.mark.parametrize("case", SCORES, ids=lambda case: case.__name__)
def test_a_score_is_what_transformers_says(strong: Tiny, weak: Tiny, case: Case) -> None:
    for stage, expected in case(strong, weak):
        assert scored(stage, s=strong, w=weak).values(stage.name) == near(expected)


def test_yes_or_no(folder: Path, tmp_path: Path) -> None:
    sure, stage, expected = yes_or_no(folder, tmp_path)
    assert scored(stage, s=sure).values("yesno") == near(expected)


# ---- a run


def test_a_run_of_models_that_run_here(strong: Tiny, weak: Tiny, folder: Path, tmp_path: Path) -> None:
    """Twice, to the same bytes; and a third start asks nothing."""
    grader = tiny.reward(folder / "grader")
    roles = {"policy": strong.folder, "weak": weak.folder, "grader": grader}
    tree = {
        "name": "here",
        "models": {
            # One at a time, because what is computed together is the same to the seventh digit only.
            name: {"backend": "local", "model": place, "max_tokens": 12, "batch": 1}
            for name, place in roles.items()
        },
        "source": {"rows": [{"prompt": text} for text in QUESTIONS]},
        "stages": [
            {"sample.n": {"model": "policy", "n": 3}},
            {"score.density_ratio": {"strong": "policy", "weak": "weak"}},
            {"reward": {"model": "grader"}},
            {"pair.extremes": {"score": "density_ratio", "truncated": "keep"}},
        ],
        "allow": ["same_model", "one_judge"],
    }
    tree["models"]["grader"]["serves"] = "reward"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    made = []
    for name in ("one", "two", "one"):
        result = job.run(job.load(path), tmp_path / name)
        assert (result.stopped, result.records) == ("", 3)
        made.append((tmp_path / name / "rows.parquet").read_bytes())
    assert made[0] == made[1] == made[2]
    summary = json.loads((tmp_path / "one" / "summary.json").read_text("utf-8"))
    assert sum(model["requests"] for model in summary["models"].values()) == 0
    rows = job.rows.read_rows(tmp_path / "one" / "rows.parquet")
    assert all(s.scores["reward"].value is not None for r in rows for s in r.samples if not s.empty)


def test_transformers_is_first_needed_by_several_at_once() -> None:
    """It loads its parts lazily, and fails where two threads want the first at the same time."""
    script = (
        "from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "from synthpref.models.local import labels\n"
        "with Pool(12) as pool: print(list(pool.map(lambda i: labels('/nowhere', {}), range(12))))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.stdout == f"{[{}] * 12}\n", done.stderr
