"""Judges: what they ask, and what becomes of the replies."""

from __future__ import annotations

import asyncio
import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from judges import by_quality, judged, quality, shown, text_of
from pydantic import ValidationError

from synthpref.core.seam import Completion, Request, TokenLogprob
from synthpref.core.stage import PROMPT
from synthpref.core.types import Drop, Sample, Score
from synthpref.stages.judge import List, Pair, Point
from synthpref.testing import FunctionAsk, row, run_stage

# ---- judge.point


def test_point_scores_each_response_by_itself() -> None:
    requests: list[Request] = []

    def answer(request: Request) -> list[str]:
        requests.append(request)
        return by_quality(request)

    made = judged(Point(model="judge"), row("Why?", "q7", "q2", "q9"), answer)
    assert made.values("judge") == [7, 2, 9]
    assert len(requests) == 3
    assert all(set(shown(r)) == {"prompt", "response"} for r in requests)
    [vote] = made.samples[0].scores["judge"].votes
    assert (vote.judge, vote.value, vote.rationale) == ("judge", 7, "seen")
    assert json.loads(vote.reply) == {"reasoning": "seen", "score": 7}


def test_point_asks_for_the_exact_json() -> None:
    def answer(request: Request) -> list[str]:
        schema = (request.response_format or {})["json_schema"]["schema"]
        assert schema["properties"]["score"] == {"type": "integer", "minimum": 1, "maximum": 5}
        assert schema["required"] == ["reasoning", "score"]
        assert schema["additionalProperties"] is False
        shape = '{"reasoning": "<two or three sentences>", "score": <integer from 1 to 5>}'
        assert text_of(request).endswith(shape)
        return ['{"reasoning": "r", "score": 3}']

    assert judged(Point(model="judge", scale=(1, 5)), row("Why?", "x"), answer).values("judge") == [3]


def test_point_on_a_scale_of_fractions() -> None:
    stage = Point(model="judge", scale=(0, 1), integer=False)
    made = judged(stage, row("Why?", "x"), lambda _: ['{"reasoning": "", "score": 0.25}'])
    assert made.values("judge") == [0.25]


def test_repeats_are_one_request_and_their_mean() -> None:
    def answer(request: Request) -> list[str]:
        assert request.n == 4
        return ["Score: 6", "Score: 8", "Score: 7", "Score: 8"]

    made = judged(Point(model="judge", repeats=4, name="h"), row("Why?", "x"), answer)
    assert made.values("h") == [7.25]
    assert [vote.value for vote in made.samples[0].scores["h"].votes] == [6, 8, 7, 8]


def test_a_reply_that_cannot_be_parsed_is_asked_again_once() -> None:
    requests: list[Request] = []

    def answer(request: Request) -> list[str]:
        requests.append(request)
        return ["Hmm, it is good."] if len(requests) == 1 else ['{"reasoning": "ok", "score": 8}']

    made = judged(Point(model="judge"), row("Why?", "x"), answer)
    assert made.values("judge") == [8]
    first, second = requests
    assert second.messages[: len(first.messages)] == first.messages
    follow_up = second.messages[len(first.messages) :]
    assert follow_up[0] == {"role": "assistant", "content": "Hmm, it is good."}
    assert follow_up[1]["content"].endswith('"score": <integer from 1 to 10>}')
    assert "no verdict found" in follow_up[1]["content"]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("N/A", "no score given"),
        ("Score: 11", "score off the scale"),
        ("It is good.", "no verdict found"),
        ("I'm sorry, I can't help with that.", "refused"),
        ("", "empty reply"),
    ],
)
def test_what_stays_unparsable_is_no_number(reply: str, why: str) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> list[str]:
        asked.append(request)
        return [reply] * request.n

    made = judged(Point(model="judge"), row("Why?", "x"), answer)
    score = made.samples[0].scores["judge"]
    assert score.value is None
    assert (score.why or "").split(":")[0] == why
    assert score.votes[0].reply == reply
    assert len(asked) == 2
    judged(Point(model="judge", again=0), row("Why?", "x"), answer)
    assert len(asked) == 3


def test_only_the_replies_that_failed_are_asked_again_and_the_rest_count() -> None:
    asked: list[Request] = []

    def answer(request: Request) -> list[str]:
        asked.append(request)
        return ["Score: 6", "well", "Score: 8"] if request.n == 3 else ["still not"]

    score = judged(Point(model="judge", repeats=3), row("Why?", "x"), answer).samples[0].scores["judge"]
    assert [r.n for r in asked] == [3, 1]
    assert score.value == 7
    assert [vote.value for vote in score.votes] == [6, None, 8]


def test_a_reply_that_was_cut_off_is_not_read() -> None:
    def answer(request: Request) -> list[Completion]:
        first = len(request.messages) == 2
        return [
            Completion(text="Score: 1" if first else "Score: 10", finish_reason="length" if first else "stop")
        ]

    assert judged(Point(model="judge"), row("Why?", "x"), answer).values("judge") == [10]
    score = judged(Point(model="judge", again=0), row("Why?", "x"), answer).samples[0].scores["judge"]
    assert (score.why or "").startswith("cut off")


def test_empty_responses_are_not_judged() -> None:
    made = judged(Point(model="judge"), row("Why?", "q7", "  ", "q3"), by_quality)
    assert made.values("judge") == [7, None, 3]
    assert made.samples[1].scores["judge"] == Score(None, why="empty response")


def test_truncated_responses_are_judged() -> None:
    cut = Sample("q4", finish_reason="length")
    made = judged(Point(model="judge"), replace(row("Why?", "q7"), samples=(cut,)), by_quality)
    assert made.values("judge") == [4]


def test_named_rubrics_and_ones_in_own_words() -> None:
    def answer(request: Request) -> list[str]:
        seen.append(text_of(request))
        return ["Score: 5"]

    seen: list[str] = []
    judged(Point(model="judge", rubric="instruction-following"), row("Why?", "x"), answer)
    judged(Point(model="judge", rubric="Is it funny?"), row("Why?", "x"), answer)
    assert "Instruction-following: whether the response does what the prompt demands" in seen[0]
    assert "Is it funny?" in seen[1]
    assert ("rubric", "judge/rubrics/honesty") in set(Point(model="j", rubric="honesty").marked(PROMPT))
    assert not [
        path for path, _ in Point(model="j", rubric="Is it funny?").marked(PROMPT) if path == "rubric"
    ]


def test_the_reference_is_shown_where_asked_for() -> None:
    def answer(request: Request) -> list[str]:
        seen.append(shown(request))
        return ["Score: 5"]

    seen: list[dict[str, str]] = []
    given = row("Why?", "x", reference="Because.")
    judged(Point(model="judge"), given, answer)
    judged(Point(model="judge", reference=True), given, answer)
    assert "reference" not in seen[0]
    assert seen[1]["reference"] == "Because."
    assert "reference" in Point(model="judge", reference=True).needs()
    made = judged(Point(model="judge", reference=True), row("Why?", "x", ""), answer)
    assert [s.scores["judge"].why for s in made.samples] == ["no reference on the row", "empty response"]
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("reasoning", "keys", "shape"),
    [
        (
            "before",
            ["reasoning", "score"],
            '{"reasoning": "<two or three sentences>", "score": <integer from 1 to 10>}',
        ),
        (
            "after",
            ["score", "reasoning"],
            '{"score": <integer from 1 to 10>, "reasoning": "<two or three sentences>"}',
        ),
        ("none", ["score"], '{"score": <integer from 1 to 10>}'),
    ],
)
def test_reasons_come_before_or_after_or_not_at_all(reasoning: str, keys: list[str], shape: str) -> None:
    reply = {key: "so it is" if key == "reasoning" else 7 for key in keys}

    def answer(request: Request) -> list[str]:
        schema = (request.response_format or {})["json_schema"]["schema"]
        assert list(schema["properties"]) == schema["required"] == keys
        assert text_of(request).endswith(shape)
        return [json.dumps(reply)]

    made = judged(Point.model_validate({"model": "j", "reasoning": reasoning}), row("Why?", "x"), answer)
    [vote] = made.samples[0].scores["judge"].votes
    assert vote.value == 7
    assert vote.rationale == (None if reasoning == "none" else "so it is")


@pytest.mark.parametrize("stage", [Point, Pair, List])
def test_a_rubric_of_the_rows_own(stage: Any) -> None:
    asked: list[str] = []

    def answer(request: Request) -> list[str]:
        asked.append(text_of(request))
        assert shown(request)["criterion"] == "Is it brief? Score: 10."
        return ['{"score": 3, "winner": "A", "scores": {"1": 3, "2": 3}}'] * request.n

    by_row = stage(model="j", rubric={"column": "checks"})
    assert by_row.needs() == {"samples", "meta:checks"}
    assert not [path for path, _ in by_row.marked(PROMPT) if path == "rubric"]
    given = row("Why?", "x", "y", meta={"checks": "Is it brief? Score: 10."})
    made = judged(by_row, given, answer)
    assert all(sample.scores[by_row.name].value is not None for sample in made.samples)
    assert all("between its marks" in text for text in asked)
    count = len(asked)
    for meta in ({}, {"checks": " "}, {"checks": ["Is it brief?"]}, {"checks": None}):
        made = judged(by_row, row("Why?", "x", "", meta=meta), answer)
        whys = [sample.scores[by_row.name].why for sample in made.samples]
        assert whys == ["no rubric on the row", "empty response"]
    assert len(asked) == count


@pytest.mark.parametrize(
    ("said", "tie", "score"),
    [
        ([7, 7, 2], "abstain", 7),
        ([7, 2, 2], "lowest", 2),
        ([7, 2, 7, 2], "abstain", None),
        ([7, 2, 7, 2], "lowest", 2),
        ([7, 2, 7, 2], "highest", 7),
        ([7, 2, 7, 2], "mean", 4.5),
        ([7, 2, 9], "mean", 6),
    ],
)
def test_the_majority_of_repeats(said: list[int], tie: str, score: float | None) -> None:
    fields = {"model": "j", "repeats": len(said), "extract": "majority", "tie": tie}
    replies = [f"Score: {value}" for value in said]
    made = judged(Point.model_validate(fields), row("Why?", "x"), lambda _: replies)
    assert made.values("judge") == [score]
    assert [vote.value for vote in made.samples[0].scores["judge"].votes] == said
    in_order = iter(said)
    listed = List.model_validate(fields)
    made = judged(listed, row("Why?", "x"), lambda _: [f'{{"scores": {{"1": {next(in_order)}}}}}'])
    assert made.values("listed") == [score]


def verdict_tokens(request: Request, spread: dict[str, float]) -> list[Completion]:
    assert request.logprobs == 20
    most = max(spread, key=lambda token: spread[token])
    at = TokenLogprob(most, math.log(spread[most]), tuple((t, math.log(p)) for t, p in spread.items()))
    parts = (TokenLogprob('{"score": ', 0.0), at, TokenLogprob("}", 0.0))
    return [Completion(text=f'{{"score": {most}}}', finish_reason="stop", logprobs=parts)]


def test_expected_scores_weigh_the_alternatives() -> None:
    stage = Point(model="judge", extract="expected")
    assert stage.requires() == {"judge": {"chat", "logprobs"}}
    assert Point(model="judge").requires() == {"judge": {"chat"}}
    made = judged(stage, row("Why?", "x"), lambda r: verdict_tokens(r, {"6": 0.5, "8": 0.25, "4": 0.25}))
    assert made.values("judge") == [pytest.approx(6.0)]
    made = judged(stage, row("Why?", "x"), lambda r: verdict_tokens(r, {"6": 0.3, "six": 0.2}))
    assert (made.samples[0].scores["judge"].why or "").startswith("too little mass")
    made = judged(stage, row("Why?", "x"), lambda _: ['{"score": 6}'])
    assert (made.samples[0].scores["judge"].why or "").startswith("no logprobs")


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (5, 5)},
        {"scale": (10, 1)},
        {"scale": (0, math.inf), "integer": False},
        {"scale": (0.5, 2)},
        {"extract": "expected", "integer": False},
        {"aspects": ["clarity"]},
        {"repeats": 0},
        {"rubrick": "x"},
        {"rubric": ""},
        {"rubric": {"column": ""}},
        {"rubric": {"columns": "checks"}},
        {"reasoning": "later"},
        {"extract": "majority"},
        {"extract": "mode", "repeats": 3},
        {"tie": "lowest", "repeats": 3},
        {"min_mass": 0.4},
        {"extract": "expected", "scale": (-5, 5)},
    ],
)
def test_point_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Point.model_validate({"model": "judge", **wrong})


def test_point_says_honestly_what_it_will_ask() -> None:
    [calls] = Point(model="judge", repeats=3).load(8).calls
    assert (calls.requests, calls.n, calls.reads) == (8, 3, 1)


# ---- judge.list


def test_list_maps_back_by_label_whatever_the_order() -> None:
    orders = set()
    for n in range(6):

        def answer(request: Request) -> list[str]:
            texts = {k.removeprefix("response "): v for k, v in shown(request).items() if k != "prompt"}
            scores = {label: quality(text) for label, text in texts.items()}
            backwards = dict(reversed(scores.items()))
            return [json.dumps({"reasoning": "r", "scores": backwards})]

        made = judged(List(model="judge"), row("Why?", "q3", "q9", "q1", "q6", id=f"r{n}"), answer)
        assert made.values("listed") == [3, 9, 1, 6]
        [vote] = made.samples[0].scores["listed"].votes
        assert sorted((vote.shown or "").split(",")) == ["0", "1", "2", "3"]
        orders.add(vote.shown)
    assert len(orders) > 1


def test_each_repeat_has_its_own_order() -> None:
    def answer(request: Request) -> list[str]:
        return [json.dumps({"scores": {"1": 10, "2": 5, "3": 1}})]

    stage = List(model="judge", repeats=12)
    made = judged(stage, row("Why?", "a", "b", "c"), answer)
    votes = made.samples[0].scores["listed"].votes
    assert len({vote.shown for vote in votes}) > 1
    for vote in votes:
        assert vote.value == [10, 5, 1][(vote.shown or "").split(",").index("0")]
    assert stage.load(3).calls[0].requests == 12


def test_a_list_with_a_gap_is_asked_again_and_keeps_what_it_has() -> None:
    asked: list[Request] = []

    def answer(request: Request) -> list[str]:
        asked.append(request)
        return ['{"reasoning": "r", "scores": {"1": 4, "2": 99}}']

    made = judged(List(model="judge"), row("Why?", "a", " ", "b"), answer)
    assert len(asked) == 2
    assert sorted(str(v) for v in made.values("listed")) == ["4.0", "None", "None"]
    assert made.samples[1].scores["listed"].why == "empty response"
    whys = {s.scores["listed"].why for s in made.samples if s.scores["listed"].value is None}
    assert "score off the scale: 99 is not within 1 to 10" in whys


def test_a_row_without_responses_asks_nothing() -> None:
    for stage in (Point(model="j"), Pair(model="j"), List(model="j")):
        [made] = run_stage(stage, [row("Why?")])
        assert not isinstance(made, Drop)
        assert made.samples == ()


def test_in_as_many_repeats_as_responses_each_stands_once_in_each_place() -> None:
    orders: list[str] = []

    def answer(request: Request) -> list[str]:
        texts = {label: text for label, text in shown(request).items() if label.startswith("response")}
        orders.append("".join(texts.values()))
        # A judge that goes by nothing but the place.
        return [json.dumps({"scores": {str(n): 10 - n for n in range(1, 5)}})]

    for id in ("r1", "r2", "r3"):
        made = judged(List(model="j", repeats=4), row("Why?", "a", "b", "c", "d", id=id), answer)
        assert made.values("listed") == [7.5] * 4, "a liking for places evens out"
    assert all(sorted(order) == list("abcd") for order in orders)
    assert len({tuple(orders[i : i + 4]) for i in (0, 4, 8)}) == 3


def test_a_list_without_ties_asks_again_for_scores_that_differ() -> None:
    asked: list[Request] = []

    def answer(request: Request) -> list[str]:
        asked.append(request)
        return [
            '{"scores": {"1": 4, "2": 4, "3": 6}}'
            if len(asked) == 1
            else '{"scores": {"1": 4, "2": 5, "3": 6}}'
        ]

    made = judged(List(model="j", ties=False), row("Why?", "a", "b", "c"), answer)
    assert sorted(str(value) for value in made.values("listed")) == ["4.0", "5.0", "6.0"]
    assert "no two get the same" in text_of(asked[0])
    assert "(tied)" in text_of(asked[1])
    asked.clear()
    made = judged(List(model="j", ties=False, again=0), row("Why?", "a", "b", "c"), answer)
    assert sorted(str(value) for value in made.values("listed")) == ["6.0", "None", "None"]
    whys = {sample.scores["listed"].why for sample in made.samples}
    assert whys == {None, "tied: 4 is given twice, and ties are not allowed"}


def test_expected_scores_of_a_list_are_each_labels_own() -> None:
    stage = List(model="j", extract="expected", reasoning="none")
    assert stage.requires() == {"j": {"chat", "logprobs"}}
    odds = {"a": {"2": 0.5, "4": 0.5}, "b": {"9": 0.75, "5": 0.25}, "c": {"6": 1.0}}

    def answer(request: Request) -> list[Completion]:
        assert request.logprobs == 20
        tokens = [TokenLogprob('{"scores": {', 0.0)]
        for label, text in shown(request).items():
            if label.startswith("response"):
                top = tuple((word, math.log(p)) for word, p in odds[text].items())
                tokens += [
                    TokenLogprob(f'"{label[9:]}": ', 0.0),
                    TokenLogprob(*top[0], top),
                    TokenLogprob(", ", 0.0),
                ]
        tokens[-1] = TokenLogprob("}}", 0.0)
        return [
            Completion(text="".join(t.token for t in tokens), finish_reason="stop", logprobs=tuple(tokens))
        ]

    made = judged(stage, row("Why?", "a", "b", "c"), answer)
    assert made.values("listed") == [pytest.approx(3), pytest.approx(8), pytest.approx(6)]
    made = judged(stage, row("Why?", "a"), lambda _: ['{"scores": {"1": 5}}'])
    assert (made.samples[0].scores["listed"].why or "").startswith("no logprobs")


# ---- the same on every run


class Slow(FunctionAsk):
    """Answers come back in an order drawn by lot; equal requests get answers by their order of asking."""

    def __init__(self, seed: int) -> None:
        super().__init__(lambda _: [])
        self.lot, self.counts = random.Random(seed), dict[str, int]()

    async def _send(self, model: str, request: Request) -> list[Completion]:
        key = repr(request.messages)
        first = self.counts.get(key, 0)
        self.counts[key] = first + request.n
        for _ in range(self.lot.randrange(20)):
            await asyncio.sleep(0)
        again = len(request.messages) > 2
        drawn = [random.Random(f"{key}{first + i}").randint(1, 10) for i in range(request.n)]
        return [
            Completion(text=f"Score: {d}" if again or d > 5 else "Hmm.", finish_reason="stop") for d in drawn
        ]


def test_equal_responses_get_the_same_scores_whichever_reply_comes_first() -> None:
    twins = row("Why?", *["the same"] * 6)
    stage = Point(model="judge", repeats=2)
    runs = [asyncio.run(stage.run(twins, Slow(seed))) for seed in range(8)]
    assert all(run == runs[0] for run in runs)
    assert len(set(runs[0].values("judge"))) > 1
