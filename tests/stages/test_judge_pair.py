"""judge.pair: who meets whom, what is asked, and what becomes of two verdicts on one pair."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from judges import Answer, Simulating, judged, prefer_first, prefer_quality, quality, shown, text_of
from pydantic import ValidationError

from synthpref.core.seam import Completion, Request, TokenLogprob
from synthpref.core.types import Row
from synthpref.models.simulated import Simulated
from synthpref.stages.judge import Pair
from synthpref.testing import row


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


# ---- both scored in one call


def both(request: Request) -> list[str]:
    texts = shown(request)
    scores = {side: quality(texts[f"response {side}"]) for side in "AB"}
    return [json.dumps({"reasoning": "seen", "scores": scores})] * request.n


def test_the_higher_of_two_scores_wins_and_equal_ones_are_a_tie() -> None:
    asked: list[Request] = []

    def answer(request: Request) -> list[str]:
        asked.append(request)
        return both(request)

    stage = Pair(model="j", verdict="scores", scale=(1, 9))
    assert stage.prompt == "judge/pair_scores"
    made = judged(stage, row("Why?", "q9", "q4", "q4"), answer)
    assert [(c.a, c.b, c.p) for c in made.comparisons] == [(0, 1, 1), (0, 2, 1), (1, 2, 0.5)]
    assert [(v.shown, v.value, v.scores) for v in made.comparisons[0].votes] == [
        ("ab", 1, (9, 4)),
        ("ba", 1, (9, 4)),
    ]
    assert {v.rationale for c in made.comparisons for v in c.votes} == {"seen"}
    for request in asked:
        inner = (request.response_format or {})["json_schema"]["schema"]["properties"]["scores"]
        assert inner["properties"] == {s: {"type": "integer", "minimum": 1, "maximum": 9} for s in "AB"}
        assert text_of(request).endswith(
            '"scores": {"A": <integer from 1 to 9>, "B": <integer from 1 to 9>}}'
        )


def test_one_score_of_two_is_no_verdict() -> None:
    for reply in ('{"scores": {"A": 7}}', '{"scores": {"A": 7, "B": 99}}', "A: 7\nB: it is fine"):
        made = judged(Pair(model="j", verdict="scores"), row("Why?", "q9", "q1"), lambda _, r=reply: [r])
        [comparison] = made.comparisons
        assert comparison.p is None
        assert all(v.value is None and v.scores is None and v.why for v in comparison.votes)


def test_equal_scores_where_no_ties_are_allowed_are_asked_again() -> None:
    asked: list[Request] = []

    def answer(request: Request) -> list[str]:
        asked.append(request)
        return [
            '{"scores": {"A": 7, "B": 7}}' if len(request.messages) == 2 else '{"scores": {"A": 7, "B": 6}}'
        ]

    made = judged(Pair(model="j", verdict="scores", ties=False, swap=False), row("Why?", "x", "y"), answer)
    assert len(asked) == 2
    assert made.comparisons[0].p in (0, 1)
    assert "The scores must differ" in text_of(asked[0])
    stage = Pair(model="j", verdict="scores", ties=False, swap=False, again=0)
    made = judged(stage, row("Why?", "x", "y"), lambda _: ['{"scores": {"A": 7, "B": 7}}'])
    assert made.comparisons[0].p is None
    assert (made.comparisons[0].votes[0].why or "").startswith("tied")


def test_the_mean_of_the_scores_given() -> None:
    def answer(request: Request) -> list[str]:
        # The response shown first gets one more than it deserves.
        texts = shown(request)
        return [
            json.dumps({"scores": {"A": quality(texts["response A"]) + 1, "B": quality(texts["response B"])}})
        ]

    made = judged(Pair(model="j", verdict="scores", score="mean"), row("Why?", "q8", "q5", "q2"), answer)
    assert made.values("compared") == [8.5, 5.5, 2.5]
    made = judged(Pair(model="j", verdict="scores", score="mean"), row("Why?", "q8"), answer)
    assert made.samples[0].scores["compared"].why == "nothing to compare with"


# ---- probabilities of verdicts


def with_tokens(*parts: tuple[str, dict[str, float]] | str) -> Completion:
    tokens = []
    for part in parts:
        said, odds = part if isinstance(part, tuple) else (part, {part: 1.0})
        top = tuple((word, math.log(p)) for word, p in odds.items())
        tokens.append(TokenLogprob(said, math.log(odds[said]), top))
    return Completion(text="".join(t.token for t in tokens), finish_reason="stop", logprobs=tuple(tokens))


def test_the_probability_that_the_first_wins_in_both_orders() -> None:
    def answer(request: Request) -> list[Completion]:
        assert request.logprobs == 20
        good_first = shown(request)["response A"] == "good"
        odds = {"A": 0.8, "B": 0.1, "tie": 0.1} if good_first else {"A": 0.5, "B": 0.4, "tie": 0.1}
        return [with_tokens('{"winner": "', ("A", odds), '"}')]

    stage = Pair(model="j", extract="expected", reasoning="none")
    assert stage.requires() == {"j": {"chat", "logprobs"}}
    assert Pair(model="j").requires() == {"j": {"chat"}}
    [comparison] = judged(stage, row("Why?", "good", "bad"), answer).comparisons
    assert [vote.value for vote in comparison.votes] == [pytest.approx(0.85), pytest.approx(0.45)]
    assert comparison.p == pytest.approx(0.65)
    assert comparison.flipped
    tied = Pair(model="j", extract="expected", disagree="tie")
    assert judged(tied, row("Why?", "good", "bad"), answer).comparisons[0].p == 0.5
    made = judged(stage, row("Why?", "good", "bad"), lambda _: ['{"winner": "A"}'])
    assert made.comparisons[0].p is None
    assert (made.comparisons[0].votes[0].why or "").startswith("no logprobs")


def test_the_probability_that_one_score_is_above_the_other() -> None:
    odds = {"good": {"7": 0.5, "9": 0.5}, "bad": {"7": 0.6, "3": 0.4}}

    def answer(request: Request) -> list[Completion]:
        texts = shown(request)
        a, b = odds[texts["response A"]], odds[texts["response B"]]
        return [with_tokens('{"scores": {"A": ', ("7", a), ', "B": ', ("7", b), "}}")]

    stage = Pair(model="j", verdict="scores", extract="expected", score="mean")
    made = judged(stage, row("Why?", "good", "bad"), answer)
    [comparison] = made.comparisons
    # 9 is above both; 7 is above 3, and level with 7.
    assert comparison.p == pytest.approx(0.5 + 0.5 * 0.4 + 0.5 * 0.6 / 2)
    assert [vote.scores for vote in comparison.votes] == [(pytest.approx(8), pytest.approx(5.4))] * 2
    assert made.values("compared") == [pytest.approx(8), pytest.approx(5.4)]


def test_the_majority_of_an_orders_repeats() -> None:
    said = {"q9": ["A", "A", "B"], "q1": ["B", "tie", "A"]}

    def answer(request: Request) -> list[str]:
        assert request.n == 3
        return [f"Winner: {winner}" for winner in said[shown(request)["response A"]]]

    stage = Pair(model="j", repeats=3, extract="majority")
    assert judged(stage, row("Why?", "q9", "q1"), answer).comparisons[0].p == 0.75
    averaged = judged(Pair(model="j", repeats=3), row("Why?", "q9", "q1"), answer).comparisons[0]
    assert averaged.p == pytest.approx((1 + 1 + 0 + 1 + 0.5 + 0) / 6)


# ---- where the two orders disagree


def test_a_tie_unless_both_orders_name_the_same_winner() -> None:
    stage = Pair(model="j", disagree="tie")
    assert [c.p for c in judged(stage, row("Why?", "q9", "q1"), prefer_quality).comparisons] == [1]
    assert [c.p for c in judged(stage, row("Why?", "q9", "q1"), prefer_first).comparisons] == [0.5]

    def answer(request: Request) -> list[str]:
        return ["Winner: A" if shown(request)["response A"] == "q9" else "Winner: tie"]

    assert [c.p for c in judged(stage, row("Why?", "q9", "q1"), answer).comparisons] == [0.5]

    def half(request: Request) -> list[str]:
        return ["Winner: A" if shown(request)["response A"] == "q9" else "Who knows?"]

    made = judged(stage, row("Why?", "q9", "q1"), half)
    assert [c.p for c in made.comparisons] == [None], "an order that cannot be read is not a tie"
    assert (made.samples[0].scores["compared"].why or "").startswith("no verdict on it: no verdict found")


def test_both_orders_are_asked_again_where_they_disagree() -> None:
    asked: list[tuple[str, str]] = []

    def answer(request: Request) -> list[str]:
        texts = shown(request)
        order = (texts["response A"], texts["response B"])
        asked.append(order)
        if "q1" not in order:
            return prefer_quality(request)
        # On q1 the judge goes by the place at first, and by the text the second time.
        return prefer_first(request) if asked.count(order) == 1 else prefer_quality(request)

    # Of three times one is enough: with it the orders no longer name different winners.
    stage = Pair(model="j", disagree="reask", reasks=3)
    made = judged(stage, row("Why?", "q9", "q5", "q1"), answer)
    assert [(c.a, c.b, c.p, c.flipped, len(c.votes)) for c in made.comparisons] == [
        (0, 1, 1, False, 2),
        (0, 2, 1, True, 4),
        (1, 2, 1, True, 4),
    ]
    assert [(v.shown, v.value) for v in made.comparisons[1].votes] == [
        ("ab", 1),
        ("ba", 0),
        ("ab", 1),
        ("ba", 1),
    ]
    assert asked[6:] == [("q9", "q1"), ("q1", "q9"), ("q5", "q1"), ("q1", "q5")]


@pytest.mark.parametrize("reasks", [1, 2, 3])
def test_it_is_given_up_after_so_many_times(reasks: int) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> list[str]:
        asked.append(request)
        return prefer_first(request)

    stage = Pair(model="j", disagree="reask", reasks=reasks)
    [comparison] = judged(stage, row("Why?", "q9", "q1"), answer).comparisons
    assert len(asked) == len(comparison.votes) == 2 + 2 * reasks
    assert comparison.p == 0.5


def test_asking_again_is_the_same_on_every_run() -> None:
    unsure = Simulated(noise=1.0, position_bias=1.0, malformed=0.2)
    given = row("Why?", *[f"An answer of {n} words." for n in range(5)])
    stage = Pair(model="j", disagree="reask", reasks=2)

    def run() -> Row:
        made = asyncio.run(stage.run(given, Simulating(unsure)))
        assert isinstance(made, Row)
        return made

    once = run()
    assert once == run()
    assert any(len(c.votes) > 2 for c in once.comparisons)


# ---- who meets whom


def test_each_is_compared_as_often_as_there_are_rounds() -> None:
    six = row("Why?", *[f"q{n}" for n in range(1, 7)])
    for schedule, rounds in (("round_robin", 2), ("swiss", 3), ("swiss", 9)):
        stage = Pair.model_validate({"model": "j", "schedule": schedule, "rounds": rounds})
        made = judged(stage, six, prefer_quality)
        games = [sum(i in (c.a, c.b) for c in made.comparisons) for i in range(6)]
        assert games == [min(rounds, 5)] * 6 or rounds == 9
        assert len({(c.a, c.b) for c in made.comparisons}) == len(made.comparisons)
        votes = sum(len(c.votes) for c in made.comparisons)
        assert votes == stage.load(6).calls[0].requests or rounds == 9


@pytest.mark.parametrize(
    ("fields", "requests"),
    [
        ({}, {0: 0, 1: 0, 2: 2, 5: 20, 8: 56}),
        ({"swap": False}, {0: 0, 5: 10, 8: 28}),
        ({"schedule": "round_robin", "rounds": 3}, {0: 0, 1: 0, 2: 2, 3: 6, 4: 12, 5: 12, 8: 24}),
        ({"schedule": "swiss", "rounds": 4}, {0: 0, 1: 0, 2: 2, 5: 16, 8: 32, 16: 64}),
        ({"schedule": "anchor", "against": 0}, {0: 0, 1: 0, 5: 8}),
    ],
)
def test_what_will_be_asked_is_told(fields: dict[str, Any], requests: dict[int, int]) -> None:
    stage = Pair.model_validate({"model": "j", **fields})
    asked: list[Request] = []

    def answer(request: Request) -> list[str]:
        asked.append(request)
        return prefer_quality(request)

    for samples, wanted in requests.items():
        assert stage.load(samples).calls[0].requests == wanted
        asked.clear()
        judged(stage, row("Why?", *[f"q{n}" for n in range(samples)]), answer)
        assert len(asked) == wanted


def test_in_a_swiss_schedule_those_who_won_meet() -> None:
    stage = Pair(model="j", schedule="swiss", rounds=2)
    made = judged(stage, row("Why?", *[f"q{n}" for n in range(8)]), prefer_quality)
    first, second = made.comparisons[:4], made.comparisons[4:]
    won = {c.a if c.p else c.b for c in first}
    assert all((c.a in won) == (c.b in won) for c in second)


def test_a_comparison_without_a_verdict_is_not_made_again_in_a_swiss_schedule() -> None:
    stage = Pair(model="j", schedule="swiss", rounds=3, again=0)
    made = judged(stage, row("Why?", "a", "b", "c", "d"), lambda _: ["Who knows?"])
    assert len({(c.a, c.b) for c in made.comparisons}) == 6


@pytest.mark.parametrize("schedule", ["round_robin", "swiss"])
def test_empty_responses_are_not_in_a_schedule(schedule: str) -> None:
    stage = Pair.model_validate({"model": "j", "schedule": schedule, "rounds": 2})
    made = judged(stage, row("Why?", "q1", "", "q3", "q4", "q7"), prefer_quality)
    assert {i for c in made.comparisons for i in (c.a, c.b)} == {0, 2, 3, 4}


@pytest.mark.parametrize("score", ["bradley_terry", "elo", "win_rate"])
def test_scores_rank_by_wins(score: str) -> None:
    stage = Pair.model_validate({"model": "j", "score": score})
    values = judged(stage, row("Why?", "q1", "q9", "q5"), prefer_quality).values("compared")
    assert sorted([0, 1, 2], key=lambda i: values[i] or 0) == [0, 2, 1]
    middle = {"bradley_terry": 0, "elo": 1500, "win_rate": 0.5}[score]
    assert values[2] == pytest.approx(middle, abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ({"schedule": "swiss"}, "needs rounds"),
        ({"schedule": "round_robin"}, "needs rounds"),
        ({"rounds": 3}, "remove it, or set one of these"),
        ({"schedule": "anchor"}, "needs against"),
        ({"schedule": "all", "against": 0}, "remove one of the two"),
        ({"schedule": "swiss", "rounds": 2, "against": 0}, "remove one of the two"),
        ({"schedule": "swiss", "rounds": 0}, "greater than or equal to 1"),
        ({"disagree": "tie", "swap": False}, "leave swap: true"),
        ({"disagree": "reask", "swap": False}, "leave swap: true"),
        ({"reasks": 2}, "is for disagree: reask"),
        ({"score": "mean"}, "set verdict: scores"),
        ({"score": "elo", "prior": 1}, "is for score: bradley_terry"),
        ({"scale": (1, 5)}, "is for verdict: scores"),
        ({"integer": False}, "is for verdict: scores"),
        (
            {"verdict": "scores", "scale": (0, 1), "integer": False, "extract": "expected"},
            "leave integer: true",
        ),
        ({"extract": "majority"}, "set repeats"),
        ({"min_mass": 0.5}, "is for extract: expected"),
        ({"verdict": "score"}, "Input should be"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(wrong: dict[str, Any], fix: str) -> None:
    with pytest.raises(ValidationError, match=fix):
        Pair.model_validate({"model": "j", **wrong})
