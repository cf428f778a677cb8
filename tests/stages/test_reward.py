"""Scores from a reward model."""

from __future__ import annotations

import pytest

from synthpref.core.seam import Completion, Request
from synthpref.core.types import Row, Score
from synthpref.stages.reward import Reward
from synthpref.testing import row, run_stage


def scored(stage: Reward, given: Row, **heads: float) -> Row:
    def answer(request: Request) -> list[Completion]:
        assert request.kind == "reward"
        assert [m["role"] for m in request.messages] == ["user", "assistant"]
        return [
            Completion(values={head: v + len(request.messages[-1]["content"]) for head, v in heads.items()})
        ]

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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_score(value: float) -> None:
    score = scored(Reward(model="rm"), row("Why?", "a"), logit=value).samples[0].scores["reward"]
    assert score.value is None
    assert (score.why or "").startswith("no reward: head 'logit' gave")


def test_it_needs_a_reward_model() -> None:
    stage = Reward(model="rm")
    assert stage.requires() == {"rm": {"reward"}}
    assert stage.gives() == {"score:reward"}
    assert stage.load(5).calls[0].requests == 5
