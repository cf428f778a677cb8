"""score.perplexity, density_ratio, implicit, reference, followup and yesno, on a model whose tokens are words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from synthpref import job
from synthpref.core.errors import RecipeError
from synthpref.core.seam import Completion, Request, TokenLogprob
from synthpref.core.stage import RowStage
from synthpref.core.types import Row
from synthpref.models.phrases import mood
from synthpref.stages.followup import Followup, YesNo
from synthpref.stages.logprob import DensityRatio, Implicit, Perplexity, Reference
from synthpref.testing import FunctionAsk, row, run_stage

SPANS = [
    Perplexity(model="m"),
    DensityRatio(strong="m", weak="m"),
    Implicit(policy="m", reference="m"),
    Reference(model="m"),
    Followup(model="m"),
]


def reader(request: Request) -> list[Completion]:
    """Shows what it was asked as a plain template would, with a token for each word, each the less probable the longer
    it is."""
    assert request.prompt_logprobs == 0
    assert request.max_tokens == 1
    shown = "".join(f"<{m['role'][0]}> {m['content']} <e>" for m in request.messages)
    shown = shown.removesuffix(" <e>") if request.prefill else f"{shown}<a> "
    words = [TokenLogprob(word, -len(word) / 10) for word in _words(shown)]
    return [Completion(prompt_logprobs=(None, *words))]


def _words(text: str) -> list[str]:
    marks = [part for piece in text.split("<") for part in ([f"<{piece[:2]}", piece[2:]] if piece else [])]
    return [word for part in marks for word in ([part] if part.startswith("<") else part.split()) if word]


def each(text: str) -> float:
    return -sum(map(len, text.split())) / 10


def made(stage: RowStage, given: Row, answer: Callable[[Request], list[Completion]] = reader) -> Row:
    [out] = run_stage(stage, [given], answer)
    assert isinstance(out, Row)
    return out


ASKED = row("Why is it so?", "Because it is.", " ", "I do not know that at all.", reference="It is so.")


def test_each_form_of_perplexity() -> None:
    sums = [each(s.text) if s.text.strip() else None for s in ASKED.samples]
    counts = [len(s.text.split()) for s in ASKED.samples]
    means = [None if x is None else x / n for x, n in zip(sums, counts, strict=True)]
    assert made(Perplexity(model="m", form="sum"), ASKED).values("perplexity") == pytest.approx(sums)
    assert made(Perplexity(model="m", form="mean"), ASKED).values("perplexity") == pytest.approx(means)
    expected = [None if x is None else math.exp(-x) for x in means]
    assert made(Perplexity(model="m", name="p"), ASKED).values("p") == pytest.approx(expected)


@pytest.mark.parametrize("stage", SPANS, ids=lambda s: type(s).__name__)
def test_an_empty_response_is_not_asked_about(stage: RowStage) -> None:
    name = next(iter(stage.gives())).removeprefix("score:")
    score = made(stage, ASKED).samples[1].scores[name]
    assert (score.value, score.why, score.votes) == (None, "empty response", ())
    empty = replace(ASKED, samples=ASKED.samples[1:2])
    [out] = run_stage(stage, [empty], lambda r: pytest.fail("nothing is to be asked"))
    assert isinstance(out, Row)
    assert out.values(name) == [None]


@pytest.mark.parametrize("stage", SPANS, ids=lambda s: type(s).__name__)
def test_what_cannot_be_found_among_the_tokens_is_no_score_and_says_why(stage: RowStage) -> None:
    def odd(request: Request) -> list[Completion]:
        """Its template changes what was said before, by how long the last message is."""
        (told,) = reader(request)
        length = len(request.messages[-1]["content"])
        assert told.prompt_logprobs is not None
        return [
            replace(told, prompt_logprobs=(None, TokenLogprob(f"<{length}>", -1), *told.prompt_logprobs[1:]))
        ]

    name = next(iter(stage.gives())).removeprefix("score:")
    for i in (0, 2):
        score = made(stage, ASKED, odd).samples[i].scores[name]
        assert score.value is None
        assert (score.why or "").startswith("not aligned: ")
        assert [vote.why for vote in score.votes] == [score.why]


def test_the_prompt_is_asked_about_once_for_all_responses() -> None:
    asked: list[Request] = []

    def counted(request: Request) -> list[Completion]:
        asked.append(request)
        return reader(request)

    made(Perplexity(model="m"), row("Why?", "a", "b", "c"), counted)
    assert [r.messages[-1]["content"] for r in asked] == ["Why?", "a", "b", "c"]
    assert Perplexity(model="m").load(3).calls[0].requests == len(asked)
    asked.clear()
    made(Followup(model="m", aspects=("clarity", "relevance")), row("Why?", "a", "b", "c"), counted)
    assert Followup(model="m", aspects=("clarity", "relevance")).load(3).calls[0].requests == len(asked)
    asked.clear()
    made(Reference(model="m"), row("Why?", "a", "b", "c", reference="d"), counted)
    assert Reference(model="m").load(3).calls[0].requests == len(asked)


def shifted(by: dict[str, float]) -> Callable[[Request], list[Completion]]:
    """A reader to whom what stands under a system prompt is so much more probable, a word."""

    def read(request: Request) -> list[Completion]:
        (told,) = reader(request)
        system = request.messages[0]["content"] if request.messages[0]["role"] == "system" else ""
        more = next((value for word, value in by.items() if word in system), 0.0)
        assert told.prompt_logprobs is not None
        return [
            replace(
                told,
                prompt_logprobs=tuple(
                    t and replace(t, logprob=t.logprob + more) for t in told.prompt_logprobs
                ),
            )
        ]

    return read


def test_a_single_prefix_is_what_the_strong_model_reads_first() -> None:
    given = row("Why?", "one two three", "one")
    read = shifted({"careful": 0.0, "harm": 0.5})
    stage = DensityRatio(strong="m", weak="m", prefixes=("safety",))
    assert made(stage, given, read).values("density_ratio") == pytest.approx([1.5, 0.5])
    stage = DensityRatio(strong="m", weak="m", prefixes=("safety",), per_token=True, name="r")
    assert made(stage, given, read).values("r") == pytest.approx([0.5, 0.5])
    assert made(DensityRatio(strong="m", weak="m"), given, read).values("density_ratio") == [0, 0]


def test_a_prefix_is_joined_to_a_system_prompt_of_the_rows_own() -> None:
    given = row("Why?", "one two")
    given = replace(given, prompt=({"role": "system", "content": "Be brief."}, *given.prompt))
    seen: list[Request] = []

    def read(request: Request) -> list[Completion]:
        seen.append(request)
        return reader(request)

    made(DensityRatio(strong="m", weak="m", prefixes=("chat",)), given, read)
    systems = {m["content"] for r in seen for m in r.messages if m["role"] == "system"}
    assert len(systems) == 2
    assert all(text.endswith("Be brief.") for text in systems)
    assert {sum(m["role"] == "system" for m in r.messages) for r in seen} == {1}


def test_a_router_chooses_the_prefix() -> None:
    replies = iter(["I cannot say.", '{"kind": "reasoning"}'])

    def read(request: Request) -> list[Completion]:
        if request.prompt_logprobs is None:
            return [Completion(text=next(replies), finish_reason="stop")]
        return shifted({"harm": 0.5, "step by step": 0.25})(request)

    stage = DensityRatio(strong="m", weak="m", prefixes=("safety", "reasoning"), router="r")
    assert made(stage, row("Why?", "one two"), read).values("density_ratio") == pytest.approx([0.5])
    lost = made(stage, row("Why?", "one"), lambda r: [Completion(text="Hm.", finish_reason="stop")])
    assert (lost.samples[0].scores["density_ratio"].why or "").startswith("no kind of prompt: no ")


def test_a_column_chooses_the_prefix() -> None:
    stage = DensityRatio.model_validate(
        {"strong": "m", "weak": "m", "prefixes": ["safety", "chat"], "router": {"column": "kind"}}
    )
    assert "meta:kind" in stage.needs()
    assert set(stage.requires()) == {"m"}
    read = shifted({"harm": 0.5})
    given = row("Why?", "one two", meta={"kind": "safety"})
    assert made(stage, given, read).values("density_ratio") == pytest.approx([1.0])
    lost = made(stage, replace(given, meta={"kind": "art"}), read).samples[0].scores["density_ratio"]
    assert lost.why == "no kind of prompt: the column says 'art'"


@pytest.mark.parametrize(
    "fields", [{"prefixes": ("a", "b")}, {"router": "m"}, {"prefixes": ("a",), "router": "m"}]
)
def test_a_router_goes_with_prefixes(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="router"):
        DensityRatio.model_validate({"strong": "m", "weak": "m", **fields})


def test_a_row_without_a_reference_has_no_score() -> None:
    given = made(
        Reference(model="m"), replace(ASKED, reference=None), lambda r: pytest.fail("nothing to ask")
    )
    assert [s.scores["reference"].why for s in given.samples] == [
        "no reference on the row",
        "empty response",
        "no reference on the row",
    ]


def test_the_reference_is_read_as_the_answer_to_a_request_after_the_response() -> None:
    seen: list[Request] = []

    def read(request: Request) -> list[Completion]:
        seen.append(request)
        return reader(request)

    out = made(Reference(model="m"), row("Why?", "Hm?", reference="It is so."), read)
    assert out.values("reference") == pytest.approx([each("It is so.")])
    assert [m["role"] for m in seen[1].messages] == ["user", "assistant", "user", "assistant"]
    assert seen[1].messages[-1]["content"] == "It is so."


def test_aspects_are_kept_and_their_mean_is_the_score() -> None:
    out = made(Followup(model="m", aspects=("clarity", "harmlessness")), ASKED)
    ask = FunctionAsk(lambda r: [])
    means = {}
    for aspect in ("clarity", "harmlessness"):
        good, bad = (
            [
                each(m["content"]) / len(m["content"].split())
                for m in ask.prompt(f"score/followups/{aspect}_{kind}")
            ]
            for kind in ("good", "bad")
        )
        means[aspect] = sum(good) / len(good) - sum(bad) / len(bad)
        assert out.values(f"followup.{aspect}") == pytest.approx([means[aspect], None, means[aspect]])
    assert out.values("followup")[0] == pytest.approx(sum(means.values()) / 2)
    assert set(made(Followup(model="m"), ASKED).samples[0].scores) == {"followup"}


def test_shipped_followups_are_told_apart_by_the_simulated_world() -> None:
    ask = FunctionAsk(lambda r: [])
    for aspect in ("helpfulness", "correctness", "clarity", "relevance", "completeness", "harmlessness"):
        for kind, feeling in (("good", 1), ("bad", -1)):
            said = [m["content"] for m in ask.prompt(f"score/followups/{aspect}_{kind}")]
            assert len(set(said)) == 4
            assert [mood(text) for text in said] == [feeling] * 4, said


def judge(yes: float, no: float) -> Callable[[Request], list[Completion]]:
    def answer(request: Request) -> list[Completion]:
        assert request.logprobs == 20
        top = (("yes", math.log(yes)), ("no", math.log(no)))
        return [
            Completion(text="no", finish_reason="length", logprobs=(TokenLogprob("no", math.log(no), top),))
        ]

    return answer


def test_yes_or_no() -> None:
    out = made(YesNo(model="m"), ASKED, judge(0.6, 0.2))
    assert out.values("yesno") == pytest.approx([0.75, None, 0.75])
    lost = made(YesNo(model="m", min_mass=0.9), ASKED, judge(0.6, 0.2)).samples[0].scores["yesno"]
    assert (lost.why or "").startswith("too little mass")
    assert [vote.value for vote in lost.votes] == [None]
    own = YesNo.model_validate({"model": "m", "rubric": {"column": "criterion"}})
    assert own.needs() == {"samples", "meta:criterion"}
    lost = made(own, ASKED, judge(0.6, 0.2)).samples[0].scores["yesno"]
    assert lost.why == "no rubric on the row"
    given = replace(ASKED, meta={"criterion": "Is it short?"})
    assert made(own, given, judge(0.6, 0.2)).values("yesno")[0] == pytest.approx(0.75)


STAGES = {
    "score.perplexity": {"model": "m"},
    "score.density_ratio": {"strong": "m", "weak": "m"},
    "score.implicit": {"policy": "m", "reference": "m"},
    "score.reference": {"model": "m"},
    "score.followup": {"model": "m"},
    "score.yesno": {"model": "m"},
}


@pytest.mark.parametrize("word", STAGES)
def test_a_role_that_cannot_is_found_before_the_run(word: str, tmp_path: Path) -> None:
    able = {"backend": "openai", "model": "m", "prompt_logprobs": True, "prefill": True}
    tree = {
        "name": "r",
        "models": {"m": able},
        "source": {"rows": [{"prompt": "Why?", "gold": "So it is."}], "reference": "gold"},
        "stages": [
            {"sample.n": {"model": "m"}},
            {word: STAGES[word]},
            {"pair.extremes": {"score": word.partition(".")[2]}},
        ],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    lines = [line for line in job.estimate(job.load(path)).lines if line.stage == word]
    assert lines
    assert all(line.usage.completion_tokens <= 4 * line.requests for line in lines), (
        "one token or a few is written"
    )
    missing = "logprobs" if word == "score.yesno" else "prompt_logprobs"
    tree["models"] = {"m": {**able, missing: False}}
    path.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(RecipeError, match=f"needs '{missing}', which models.m"):
        job.load(path)
