"""Order, length, family and repeats: tables by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from synthpref.core import bias
from synthpref.core.judged import JudgeTable, Repeat, Table
from synthpref.core.measure import Measure, Settings
from synthpref.core.self_preference import Families, leakage_score


def measure(
    judges: list[JudgeTable],
    gold: list[float],
    *,
    words: list[tuple[float, float]] | None = None,
    models: list[tuple[str, str]] | None = None,
) -> Measure:
    n = len(gold)
    made: Any = [(None, None)] * n if models is None else models
    return Measure(
        Table(
            pairs=True,
            ids=[str(i) for i in range(n)],
            prompts=[str(i) for i in range(n)],
            words=np.full((n, 2), np.nan) if words is None else np.array(words, float),
            models=made,
            annotators=["p"],
            marks=np.array(gold, float)[:, None],
            gold=np.array(gold, float),
            judges=judges,
        ),
        Settings(resamples=100),
    )


def test_flips_are_hard_or_soft_and_first_places_are_counted() -> None:
    ab = [1.0, 1.0, 0.0, 0.5, 1.0, np.nan]
    ba = [1.0, 0.0, 1.0, 1.0, 0.5, 0.0]
    judge = JudgeTable("j", {"ab": np.array(ab), "ba": np.array(ba)})
    found = bias.order(measure([judge], [1.0] * 6), judge)
    assert (found["both_orders"], found["hard_flips"], found["soft_flips"]) == (5, 2, 2)
    assert found["hard_flips_to_the_first"] == 1
    # ab: a is first, and wins 3 of 4; ba: b is first, and wins 2 of 5.
    assert (found["first_won"], found["winners_named"]) == (5, 9)
    assert found["same_rate"]["value"] == pytest.approx(1 / 5)


def test_one_order_says_nothing_of_flips() -> None:
    judge = JudgeTable("j", {"ab": np.array([1.0, 0.0])})
    assert bias.order(measure([judge], [1.0, 0.0]), judge) == {}


def test_longer_wins_by_the_judge_and_by_people() -> None:
    words = [(10.0, 5.0)] * 6 + [(5.0, 10.0)] * 6 + [(7.0, 7.0)]
    judge = JudgeTable("j", {"ab": np.array([1.0] * 5 + [0.0] + [0.0] * 5 + [1.0] + [0.5])})
    made = measure([judge], [1.0] * 3 + [0.0] * 3 + [0.0] * 3 + [1.0] * 3 + [0.0], words=words)
    found = bias.length(made, judge)
    assert found["longer_rate"]["value"] == pytest.approx(10 / 12)
    assert bias.people_length(made)["longer_rate"]["value"] == pytest.approx(6 / 12)
    assert found["longer_than_people"]["value"] == pytest.approx(4 / 12)
    assert found["log_odds_for_longer"] > 1
    # Both are the longer one as often: at equal length neither wins.
    assert found["a_at_equal_length"]["value"] == pytest.approx(0.5)


def test_self_preference_is_what_people_do_not_share() -> None:
    models = (
        [("gpt-4o", "llama-3-8b")] * 10 + [("llama-3-8b", "gpt-4o")] * 10 + [("llama-3-8b", "qwen2-7b")] * 5
    )
    gpt = JudgeTable("gpt-4", {"ab": np.array([1.0] * 10 + [0.0] * 8 + [0.5] * 2 + [1.0] * 5)})
    llama = JudgeTable(
        "llama-3-70b", {"ab": np.array([0.0] * 6 + [1.0] * 4 + [1.0] * 6 + [0.0] * 4 + [1.0] * 5)}
    )
    gold = [1.0] * 6 + [0.0] * 4 + [0.0] * 6 + [1.0] * 4 + [0.5] * 5
    made = measure([gpt, llama], gold, models=models)
    families = Families(made, {})
    own = families.own(gpt)
    assert (own["family"], own["n"], own["against"]) == ("gpt", 20, "people")
    assert own["own_wins"]["value"] == pytest.approx(19 / 20)
    assert own["own_wins_by_them"]["value"] == pytest.approx(12 / 20)
    assert own["self_preference"]["value"] == pytest.approx(7 / 20)
    (line,) = families.leakage()
    # Students: gpt's answers win 19 of 20 by gpt and 8 of 20 by llama; llama's the rest.
    rates = [[19 / 20, 8 / 20], [1 / 20, 12 / 20]]
    assert np.array(line["win_rates"]) == pytest.approx(np.array(rates))
    assert line["score"] == pytest.approx(leakage_score(19 / 20, 8 / 20, 12 / 20, 1 / 20))


def test_the_leakage_score_is_that_of_the_paper() -> None:
    # ½ ((.6 - .5) / .5 + (.7 - .55) / .55)
    assert leakage_score(0.6, 0.4, 0.7, 0.4) == pytest.approx((0.2 + 0.15 / 0.55) / 2)
    assert leakage_score(0.5, 0.5, 0.5, 0.5) == 0
    assert leakage_score(0.0, 0.0, 0.5, 0.5) is None


def test_without_labels_other_families_judges_are_the_yardstick() -> None:
    models = [("gpt-4o", "llama-3-8b")] * 12
    gpt = JudgeTable("gpt-4", {"ab": np.ones(12)})
    qwen = JudgeTable("qwen2-72b", {"ab": np.array([1.0, 0.0] * 6)})
    made = measure([gpt, qwen], [np.nan] * 12, models=models)
    own = Families(made, {}).own(gpt)
    assert own["against"] == "other judges"
    assert own["self_preference"]["value"] == pytest.approx(0.5)


def test_a_family_can_be_named() -> None:
    models = [("mine", "other")] * 12
    judge = JudgeTable("j", {"ab": np.ones(12)}, family="house")
    made = measure([judge], [0.5] * 12, models=models)
    assert Families(made, {}).own(judge) == {}
    assert Families(made, {"mine": "house"}).own(judge)["self_preference"]["value"] == pytest.approx(0.5)


def test_repeats_of_verdicts_have_no_variance_but_an_alpha() -> None:
    judge = JudgeTable(
        "j",
        {"ab": np.array([1.0, 2 / 3])},
        repeats=[Repeat(0, "ab", (1.0, 1.0, 1.0)), Repeat(1, "ab", (1.0, 1.0, 0.0))],
    )
    found = bias.repeats(measure([judge], [1.0, 1.0]), judge)
    assert found["all_the_same"] == 0.5
    assert "variance" not in found
    assert found["alpha"]["value"] < 1
