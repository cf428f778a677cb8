"""Judges: what they ask, and what becomes of the replies."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from synthpref.core.seam import Completion, Request, TokenLogprob
from synthpref.core.stage import PROMPT
from synthpref.core.template import fenced
from synthpref.core.types import Drop, Row, Sample, Score
from synthpref.stages.judge import List, Pair, Point
from synthpref.testing import FunctionAsk, row, run_stage

Answer = Callable[[Request], Sequence[str | Completion]]


def text_of(request: Request) -> str:
    return request.messages[-1]["content"]


def shown(request: Request) -> dict[str, str]:
    """The texts between the marks, by label."""
    return dict(fenced(next(m["content"] for m in request.messages if "<<" in m["content"])))


def quality(text: str) -> int:
    """The number that a test response carries."""
    return int(re.findall(r"q(\d+)", text)[-1])


def judged(stage: Any, rows: Row, answer: Answer, **able: Any) -> Row:
    [made] = run_stage(stage, [rows], answer, **able)
    assert isinstance(made, Row)
    return made


def score_of(stage: Any, made: Row) -> list[float | None]:
    return made.values(stage.name)


def by_quality(request: Request) -> list[str]:
    return [json.dumps({"reasoning": "seen", "score": quality(shown(request)["response"])})] * request.n


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
    ],
)
def test_point_refuses_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Point.model_validate({"model": "judge", **wrong})


def test_point_says_honestly_what_it_will_ask() -> None:
    [calls] = Point(model="judge", repeats=3).load(8).calls
    assert (calls.requests, calls.n, calls.reads) == (8, 3, 1)


# ---- judge.pair


def prefer_quality(request: Request) -> list[str]:
    texts = shown(request)
    a, b = quality(texts["response A"]), quality(texts["response B"])
    return [
        json.dumps({"reasoning": "seen", "winner": "A" if a > b else "B" if b > a else "tie"})
    ] * request.n


def prefer_first(request: Request) -> list[str]:
    return ['{"reasoning": "seen", "winner": "A"}'] * request.n


@pytest.mark.parametrize("score", ["bradley_terry", "win_rate"])
def test_the_better_response_leads_wherever_it_stands(score: str) -> None:
    for texts in (["q9", "q5", "q1"], ["q5", "q9", "q1"], ["q1", "q5", "q9"]):
        stage = Pair.model_validate({"model": "judge", "score": score})
        made = judged(stage, row("Why?", *texts), prefer_quality)
        values = [v for v in made.values("compared") if v is not None]
        assert sorted(values) == [values[texts.index(t)] for t in ("q1", "q5", "q9")]
        assert not any(c.flipped for c in made.comparisons)
    assert made.values("compared") == [0, 0.5, 1] or score == "bradley_terry"


def test_both_orders_are_asked_and_votes_are_unswapped() -> None:
    made = judged(Pair(model="judge"), row("Why?", "q9", "q1"), prefer_quality)
    [comparison] = made.comparisons
    assert (comparison.a, comparison.b, comparison.p, comparison.flipped) == (0, 1, 1.0, False)
    assert [(v.shown, v.value, json.loads(v.reply)["winner"]) for v in comparison.votes] == [
        ("ab", 1, "A"),
        ("ba", 1, "B"),
    ]
    assert {(v.judge, v.rationale) for v in comparison.votes} == {("judge", "seen")}


def test_a_liking_for_a_place_is_a_flip_and_no_win() -> None:
    made = judged(Pair(model="judge"), row("Why?", "q9", "q1", "q4"), prefer_first)
    assert all(c.flipped and c.p == 0.5 for c in made.comparisons)
    assert made.values("compared") == [0, 0, 0]


def test_a_tie_in_one_order_is_no_flip() -> None:
    def answer(request: Request) -> list[str]:
        return ["Winner: A" if shown(request)["response A"] == "q9" else "Winner: tie"]

    [comparison] = judged(Pair(model="judge"), row("Why?", "q9", "q1"), answer).comparisons
    assert (comparison.p, comparison.flipped) == (0.75, False)


def test_without_swap_one_order_is_drawn_by_lot() -> None:
    firsts = set()
    for n in range(20):
        made = judged(Pair(model="judge", swap=False), row("Why?", "q9", "q1", id=f"r{n}"), prefer_quality)
        [comparison] = made.comparisons
        [vote] = comparison.votes
        assert vote.value == comparison.p == 1
        firsts.add(vote.shown)
    assert firsts == {"ab", "ba"}


def test_all_with_all_or_against_one() -> None:
    four = row("Why?", "q1", "q2", "q3", "q4")
    made = judged(Pair(model="judge"), four, prefer_quality)
    assert [(c.a, c.b) for c in made.comparisons] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    made = judged(Pair(model="judge", against=2), four, prefer_quality)
    assert [(c.a, c.b) for c in made.comparisons] == [(0, 2), (1, 2), (3, 2)]
    assert Pair(model="judge").load(4).calls[0].requests == 12
    assert Pair(model="judge", against=2, swap=False).load(4).calls[0].requests == 3
    assert Pair(model="judge").load(0).calls[0].requests == 0


def test_where_there_is_nothing_to_compare_there_is_no_score() -> None:
    refuse: Answer = lambda _: pytest.fail("nothing to ask")  # noqa: E731
    for stage, texts in ((Pair(model="j"), ["q1"]), (Pair(model="j", against=7), ["q1", "q2"])):
        made = judged(stage, row("Why?", *texts), refuse)
        assert made.comparisons == ()
        assert {s.scores["compared"].why for s in made.samples} == {"nothing to compare with"}
    made = judged(Pair(model="j"), row("Why?", "q1", " "), refuse)
    assert [s.scores["compared"].why for s in made.samples] == ["nothing to compare with", "empty response"]


def test_verdicts_that_cannot_be_parsed_are_no_ties() -> None:
    def answer(request: Request) -> list[str]:
        texts = shown(request)
        return ["Who knows"] if "q5" in texts.values() else prefer_quality(request)

    made = judged(Pair(model="judge"), row("Why?", "q9", "q5", "q1"), answer)
    assert [c.p for c in made.comparisons] == [None, 1, None]
    values = made.values("compared")
    assert values[1] is None
    assert (made.samples[1].scores["compared"].why or "").startswith("no verdict on it: no verdict found")
    assert (values[0] or 0) > (values[2] or 0)


def test_no_ties_where_none_are_allowed() -> None:
    asked: list[Request] = []

    def answer(request: Request) -> list[str]:
        asked.append(request)
        schema = (request.response_format or {})["json_schema"]["schema"]
        assert schema["properties"]["winner"]["enum"] == ["A", "B"]
        return ["Winner: tie"] if len(request.messages) == 2 else ["Winner: B"]

    made = judged(Pair(model="judge", ties=False, swap=False), row("Why?", "q1", "q1"), answer)
    assert len(asked) == 2
    assert made.comparisons[0].p in (0, 1)
    assert "There is no tie" in text_of(asked[0])


def test_comparisons_are_added_to_those_there() -> None:
    once = judged(Pair(model="judge"), row("Why?", "q9", "q1"), prefer_quality)
    twice = judged(Pair(model="judge", name="again"), once, prefer_first)
    assert [c.name for c in twice.comparisons] == ["compared", "again"]
    assert Pair(model="j").gives() == {"score:compared", "comparisons:compared"}


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
