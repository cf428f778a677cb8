"""Scores from a reward model."""

from __future__ import annotations

import pytest

from synthpref.core.seam import Completion, Request
from synthpref.core.types import Row, Score
from synthpref.stages.reward import Reward
from synthpref.testing import row, run_stage


def scored(stage: Reward, given: Row, **heads: float | None) -> Row:
    def answer(request: Request) -> list[Completion]:
        assert request.kind == "reward"
        assert [m["role"] for m in request.messages] == ["user", "assistant"]
        length = len(request.messages[-1]["content"])
        return [Completion(values={head: None if v is None else v + length for head, v in heads.items()})]

    [made] = run_stage(stage, [given], answer)
    assert isinstance(made, Row)
    return made


def test_one_head_is_the_score() -> None:
    made = scored(Reward(model="rm"), row("Why?", "a", "bbb", " "), logit=0.5)
    assert made.values("reward") == [1.5, 3.5, None]
    assert made.samples[2].scores["reward"] == Score(None, why="empty response")
    assert set(made.samples[0].scores) == {"reward"}
    assert made.samples[0].scores["reward"].votes[0].judge == "rm"


def test_several_heads_are_kept_by_name() -> None:
    made = scored(Reward(model="rm", head="help", name="r"), row("Why?", "a", ""), help=0, verbose=-3)
    assert made.values("r") == [1, None]
    assert made.values("r.help") == [1, None]
    assert made.values("r.verbose") == [-2, None]
    made = scored(Reward(model="rm"), row("Why?", "a"), reward=2, verbose=-3)
    assert made.values("reward") == [3]


def test_an_unclear_or_missing_head_is_an_error_that_names_those_there() -> None:
    with pytest.raises(ValueError, match="gave help, verbose; say in head"):
        scored(Reward(model="rm"), row("Why?", "a"), help=0, verbose=1)
    with pytest.raises(ValueError, match="no head 'x' but help, verbose"):
        scored(Reward(model="rm", head="x"), row("Why?", "a"), help=0, verbose=1)
    with pytest.raises(ValueError, match="no head at all"):
        scored(Reward(model="rm"), row("Why?", "a"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_what_is_no_number_is_no_score(value: float | None) -> None:
    score = scored(Reward(model="rm"), row("Why?", "a"), logit=value).samples[0].scores["reward"]
    assert score.value is None
    assert (score.why or "").startswith("no reward: head 'logit' gave")


def test_heads_that_are_named_are_scores_of_their_own() -> None:
    stage = Reward(model="rm", name="r", heads=("help", "verbose"))
    assert stage.gives() == {"score:r.help", "score:r.verbose"}
    made = scored(stage, row("Why?", "a", ""), verbose=-3, help=0)
    assert list(made.samples[0].scores) == ["r.help", "r.verbose"]
    assert made.values("r.help") == [1, None]
    assert made.samples[1].scores["r.verbose"] == Score(None, why="empty response")
    made = scored(
        Reward(model="rm", name="r", heads=("help",), head="total"), row("Why?", "a"), help=0, total=4
    )
    assert made.values("r") == [5]
    assert set(made.samples[0].scores) == {"r", "r.help", "r.total"}


def test_heads_without_names_have_them_by_their_order() -> None:
    stage = Reward(model="rm", name="r", heads=("help", "verbose"), head="verbose")
    assert stage.gives() == {"score:r", "score:r.help", "score:r.verbose"}
    made = scored(stage, row("Why?", "a"), head_0=1, head_1=None)
    assert made.values("r.help") == [2]
    assert made.samples[0].scores["r.verbose"].why == "no reward: head 'verbose' gave no number"
    assert made.values("r") == [None]
    assert scored(Reward(model="rm", heads=("only",)), row("Why?", "a"), reward=1).values("reward.only") == [
        2
    ]


def test_many_heads_without_names_may_come_in_the_order_of_the_alphabet() -> None:
    """As they do from the journal."""
    own = tuple(f"quality {i}" for i in range(12))
    heads = {f"head_{i}": float(i) for i in range(12)}
    made = scored(Reward(model="rm", heads=own), row("Why?", "a"), **dict(sorted(heads.items())))
    assert [made.values(f"reward.{name}") for name in own] == [[i + 1] for i in range(12)]


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        ({"head_0": 1, "head_1": 2, "head_2": 3}, "heads names 2, and the reward model gave 3 without names"),
        ({"reward": 1}, "gave 1 without names"),
        ({"help": 1, "safe": 2}, "heads names 'verbose', and the reward model gave help, safe; take"),
        ({}, "gave no head at all"),
    ],
)
def test_other_heads_than_those_named_are_an_error(heads: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        scored(Reward(model="rm", heads=("help", "verbose")), row("Why?", "a"), **heads)
    with pytest.raises(ValueError, match="each once"):
        Reward(model="rm", heads=("help", "help"))


def test_it_needs_a_reward_model() -> None:
    stage = Reward(model="rm")
    assert stage.requires() == {"rm": {"reward"}}
    assert stage.gives() == {"score:reward"}
    assert stage.load(5).calls[0].requests == 5
