"""Jurors compare two responses in both orders, and their votes make one winner."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from synthpref.core.seam import Completion, Request
from synthpref.core.stage import Barrier
from synthpref.core.template import fenced
from synthpref.core.types import Comparison, Row
from synthpref.core.votes import NOT_ASKED
from synthpref.stages.jury_pair import JuryPair
from synthpref.testing import FunctionAsk, row


class Jurors(FunctionAsk):
    """Each role prefers what it is told to: "x" or "y" wherever it stands, "A" or "B" by the place, a tie, or "?"
    for a reply without a verdict."""

    def __init__(self, **likes: str) -> None:
        super().__init__(lambda _: [])
        self.likes = likes

    async def _send(self, model: str, request: Request) -> list[Completion]:
        self.requests.append((model, request))
        shown = dict(fenced(request.messages[-1]["content"]))
        like = self.likes[model]
        if like in ("A", "B", "tie", "?"):
            said = like
        else:
            said = next((letter for letter in "AB" if shown[f"response {letter}"].startswith(like)), "tie")
        text = "Well." if said == "?" else f"Winner: {said}"
        return [Completion(text=text, finish_reason="stop")] * request.n


def tried(ask: FunctionAsk, *responses: str, **fields: Any) -> Row:
    stage = JuryPair.model_validate({"judges": ("a", "b", "c"), "again": 0, **fields})
    made = asyncio.run(stage.run(row("Why?", *(responses or ("x", "y"))), ask))
    assert isinstance(made, Row)
    return made


def only(made: Row) -> Comparison:
    (comparison,) = made.comparisons
    return comparison


@pytest.mark.parametrize(
    ("likes", "fields", "p"),
    [
        ("x x y", {}, 1),
        ("x y y", {}, 0),
        ("x y tie", {}, 0.5),
        ("x y tie", {"tie": "abstain"}, None),
        ("y x tie", {"tie": "first"}, 0),
        ("x tie tie", {}, 0.5),
        # Who goes by the place says two different things, which is a tie, or nothing at all in the mean.
        ("x A A", {}, 0.5),
        ("x A B", {"reducer": "multimode"}, 0.5),
        ("x A B", {"reducer": "mean"}, 2 / 3),
        ("x x A", {"reducer": "mean"}, 5 / 6),
        # No verdict is no vote.
        ("x ? ?", {}, 1),
        ("x ? ?", {"at_least": 2}, None),
        ("x y ?", {}, 0.5),
        ("? ? ?", {}, None),
        # Three of five named no other, and no majority.
        ("x x y tie tie", {"tie": "abstain"}, None),
        ("x x y y tie", {"reducer": "multimode", "tie": "abstain"}, None),
        ("x x y tie", {"reducer": "multimode", "tie": "abstain"}, 1),
        ("x x y tie", {"tie": "abstain"}, None),
    ],
)
def test_reducers_and_tie_rules(likes: str, fields: dict[str, Any], p: float | None) -> None:
    judges = [f"j{i}" for i in range(len(likes.split()))]
    ask = Jurors(**dict(zip(judges, likes.split(), strict=True)))
    made = tried(ask, judges=judges, **fields)
    assert only(made).p == (None if p is None else pytest.approx(p))
    assert [(v.role, v.shown) for v in only(made).votes] == [(j, o) for j in judges for o in ("ab", "ba")]
    turned = {"x": "y", "y": "x"}
    other = Jurors(**{j: turned.get(like, like) for j, like in ask.likes.items()})
    assert only(tried(other, judges=judges, **fields)).p == (None if p is None else pytest.approx(1 - p))


def test_a_tie_in_one_order_and_a_win_in_the_other() -> None:
    class Half(Jurors):
        async def _send(self, model: str, request: Request) -> list[Completion]:
            first = dict(fenced(request.messages[-1]["content"]))["response A"] == "x"
            return [Completion(text=f"Winner: {'A' if first else 'tie'}", finish_reason="stop")]

    assert only(tried(Half())).p == 0.5
    assert only(tried(Half(), disagree="average")).p == 1, "the side that it leans to"
    assert only(tried(Half(), disagree="average", reducer="mean")).p == 0.75
    assert not only(tried(Half())).flipped


def test_the_winner_gets_the_higher_score_and_who_has_none_says_why() -> None:
    made = tried(Jurors(a="x", b="x", c="y"), "x", "", "y", "z")
    values = made.values("voted")
    assert values[0] is not None
    assert values[0] > 0 > (values[2] or 0)
    assert made.samples[1].scores["voted"].why == "empty response"
    left = tried(Jurors(a="?", b="?", c="?")).samples[0].scores["voted"]
    assert (left.why or "").startswith("no verdict on it: no verdict found")
    tied = tried(Jurors(a="x", b="y", c="tie"), tie="abstain").samples[0].scores["voted"]
    assert tied.why == "no outcome: its votes are tied"
    shares = tried(Jurors(a="x", b="x", c="y"), score="win_rate").values("voted")
    assert shares == [1, 0]


def test_flips_and_places_are_recorded() -> None:
    made = only(tried(Jurors(a="A", b="A", c="A")))
    assert made.flipped
    assert [v.value for v in made.votes] == [1, 0, 1, 0, 1, 0]


def test_without_swap_one_order_is_drawn_for_each_juror() -> None:
    ask = Jurors(a="x", b="x", c="x")
    made = tried(ask, "x1", "y1", "x2", "y2", swap=False)
    assert len(ask.requests) == 6 * 3
    shown = Counter(v.shown for c in made.comparisons for v in c.votes)
    assert min(shown["ab"], shown["ba"]) >= 3
    assert JuryPair(judges=("a", "b"), swap=False).load(4).calls[0].requests == 6


# ---- stopping early


@pytest.mark.parametrize(
    ("likes", "reducer", "tie", "asked"),
    [
        ("x x y y y", "majority", "tie", 5),
        ("x x x y y", "majority", "tie", 3),
        ("x x A x x", "majority", "tie", 4),
        ("x A A A y", "majority", "tie", 4),
        ("x x x y y", "multimode", "tie", 3),
        ("x y x x y", "multimode", "tie", 4),
        ("x y x A x", "multimode", "tie", 5),
        ("? x x x x", "majority", "tie", 4),
        ("x y A x x", "majority", "abstain", 5),
    ],
)
def test_no_more_jurors_are_asked_than_it_takes(likes: str, reducer: str, tie: str, asked: int) -> None:
    judges = [f"j{i}" for i in range(5)]
    told = dict(zip(judges, likes.split(), strict=True))
    fields = {"judges": judges, "reducer": reducer, "tie": tie}
    ask = Jurors(**told)
    made = only(tried(ask, stop_early=True, **fields))
    assert sorted({model for model, _ in ask.requests}) == judges[:asked]
    assert len(ask.requests) == 2 * asked
    assert made.p == only(tried(Jurors(**told), **fields)).p
    silent = [v for v in made.votes if not v.asked]
    assert len(silent) == 2 * (5 - asked)
    assert all(v.why == NOT_ASKED and v.role for v in silent)
    assert JuryPair.model_validate({**fields, "stop_early": True}).load(2).calls[-1].requests == 2


def test_schedules_work_for_juries_too() -> None:
    ask = Jurors(a="x", b="x", c="y")
    made = tried(ask, "x1", "y1", "z1", "z2", schedule="swiss", rounds=2)
    met = [(c.a, c.b) for c in made.comparisons]
    assert len(met) == len(set(met)) == 4
    anchored = tried(Jurors(a="x", b="x", c="y"), "x1", "y1", "z1", against=1)
    assert [(c.a, c.b) for c in anchored.comparisons] == [(0, 1), (2, 1)]


# ---- weighed by reliability


def weighed(likes: dict[str, list[str]], **fields: Any) -> list[Row]:
    """Each juror's verdict on the two responses of each row."""
    stage = JuryPair.model_validate({"judges": tuple(likes), "reducer": "dawid_skene", "again": 0, **fields})
    _, weighing = stage.expand()
    assert isinstance(weighing, Barrier)
    made = []
    for n in range(len(next(iter(likes.values())))):
        ask = Jurors(**{juror: said[n] for juror, said in likes.items()})
        made.append(asyncio.run(stage.run(row("Why?", "x", "y", id=f"row-{n:02}"), ask)))
    assert all(c.p is None for one in made for c in one.comparisons)
    return [one for one in weighing.run(made, random.Random(0)) if isinstance(one, Row)]


def test_those_who_mostly_agree_outweigh_one_who_does_not() -> None:
    truth = ["x", "y", "y", "x", "x", "y", "x", "x", "y", "x"]
    noise = ["y", "x", "y", "y", "x", "x", "y", "x", "x", "y"]
    rows = weighed({"a": truth, "b": truth, "odd": noise})
    outcomes = [only(one).p or 0 for one in rows]
    assert [p > 0.5 for p in outcomes] == [like == "x" for like in truth]
    assert all(0 <= p <= 1 for p in outcomes)
    for one, like in zip(rows, truth, strict=True):
        first, second = one.values("voted")
        assert ((first or 0) > (second or 0)) == (like == "x")
    trust = {v.role: v.reliability or 0 for v in only(rows[0]).votes}
    assert trust["a"] == trust["b"] > 0.8 > trust["odd"]
    # Which response is called a says nothing.
    turned = weighed(
        {
            j: [{"x": "y", "y": "x"}[s] for s in said]
            for j, said in (("a", truth), ("b", truth), ("odd", noise))
        }
    )
    assert [only(one).p for one in turned] == pytest.approx([1 - p for p in outcomes])


def test_too_few_votes_and_other_comparisons_stay_as_they_are() -> None:
    rows = weighed({"a": ["x", "?"], "b": ["x", "x"]}, at_least=2)
    assert only(rows[0]).p is not None
    assert only(rows[1]).p is None
    assert rows[1].values("voted") == [None, None]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stop_early": True, "reducer": "mean"}, "every vote moves"),
        ({"stop_early": True, "reducer": "dawid_skene"}, "every vote moves"),
        ({"reducer": "dawid_skene", "schedule": "swiss", "rounds": 2}, "none before the end"),
        ({"reducer": "mean", "tie": "abstain"}, "tie is for reducer: majority or multimode"),
        ({"reducer": "median"}, "reducer"),
        ({"judges": ["a"]}, "judges"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        JuryPair.model_validate({"judges": ["a", "b", "c"], **wrong})
