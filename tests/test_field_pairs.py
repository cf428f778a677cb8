"""Pair rules on real scores: 80 prompts, 37 answers each, rated by a judge in both orders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import field
from synthpref.core.types import Row, Sample, Score
from synthpref.stages.pair import Extremes, MinOfK, MuSigma, PairStage
from synthpref.testing import run_stage

pytestmark = pytest.mark.field


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return field.records("qlora_vicuna/multi.jsonl.gz")


def both(response: dict[str, Any]) -> list[float]:
    """The scores of the two orders that are valid: null is not rated, -1 was not read."""
    found = (response["gpt4_pos1"], response["gpt4_pos2"])
    return [value for value in found if value is not None and value != -1]


def rows(records: list[dict[str, Any]]) -> list[Row]:
    def score(response: dict[str, Any]) -> Score:
        values = both(response)
        return Score(sum(values) / 2) if len(values) == 2 else Score(None, why="not rated in both orders")

    return [
        Row(
            id=f"vicuna-{record['id']:03}",
            prompt=({"role": "user", "content": record["prompt"]},),
            samples=tuple(
                Sample(r["text"], model=r["model"], scores={"gpt4": score(r)}) for r in record["responses"]
            ),
        )
        for record in records
    ]


def paired(stage: PairStage, records: list[dict[str, Any]]) -> list[Row]:
    made = run_stage(stage, rows(records))
    assert all(isinstance(one, Row) for one in made)
    return [one for one in made if isinstance(one, Row)]


def pools(records: list[dict[str, Any]]) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """The scores of each prompt, computed apart from the stage: rated twice, not blank, one for each text."""
    found = []
    for record in sorted(records, key=lambda r: r["id"]):
        texts: dict[str, list[float]] = {}
        for response in record["responses"]:
            if len(both(response)) == 2 and response["text"].strip():
                texts.setdefault(response["text"].strip(), []).append(float(np.mean(both(response))))
        found.append(np.array([np.mean(v) for v in texts.values()]))
    return found


@pytest.mark.parametrize("ddof", [0, 1])
def test_mu_sigma_equals_an_independent_computation(records: list[dict[str, Any]], ddof: Any) -> None:
    made = paired(MuSigma(score="gpt4", ddof=ddof), records)
    below, lowest = [], []
    assert len(made) == len(records)
    for one, scores in zip(made, pools(records), strict=True):
        target = scores.mean() - 2 * scores.std(ddof=ddof)
        below.append(target < scores.min())
        nearest = scores[np.argsort(np.round(np.abs(scores - target), 9), kind="stable")]
        ties = np.abs(scores - target) <= np.abs(nearest[0] - target) + 1e-9
        pick = scores[ties].min()
        lowest.append(pick == scores.min())
        pair = one.pairs[0]
        for side, index, wanted in (("chosen", pair.chosen, scores.max()), ("rejected", pair.rejected, pick)):
            # Of copies the first stands for all, with the mean of their scores.
            score = pair.facts.get(f"{side}_score", one.values("gpt4")[index])
            assert score == pytest.approx(wanted)
        assert pair.margin == pytest.approx(scores.max() - pick)
        assert pair.facts["n"] == len(scores)
        assert pair.facts["target"] == pytest.approx(target)
        assert pair.facts["z"] == pytest.approx((pick - scores.mean()) / scores.std(ddof=ddof))
    facts = [one.pairs[0].facts for one in made]
    assert [f["below_all"] for f in facts] == below
    assert [f["was_min"] for f in facts] == lowest
    assert [f["fallback"] for f in facts] == ["min" if b else None for b in below]
    # On these bounded scores the rule is plain extremes more often than not.
    assert 0.5 < np.mean(below) < np.mean(lowest) < 0.8


def test_dropping_instead_of_falling_back(records: list[dict[str, Any]]) -> None:
    made = run_stage(MuSigma(score="gpt4", fallback="drop"), rows(records))
    below = sum(s.mean() - 2 * s.std(ddof=1) < s.min() for s in pools(records))
    drops = [one for one in made if not isinstance(one, Row)]
    assert len(made) == len(records)
    assert [drop.reason for drop in drops] == ["target below every sample"] * below


def test_extremes_are_the_ends(records: list[dict[str, Any]]) -> None:
    for one, scores in zip(paired(Extremes(score="gpt4"), records), pools(records), strict=True):
        assert one.pairs[0].margin == scores.max() - scores.min()


def test_the_sweet_spot_narrows_the_margin(records: list[dict[str, Any]]) -> None:
    mean = {
        stage: np.mean([one.pairs[0].margin for one in paired(kind, records)])
        for stage, kind in {
            "extremes": Extremes(score="gpt4"),
            "mu_sigma": MuSigma(score="gpt4"),
            "min_of_k": MinOfK(score="gpt4"),
        }.items()
    }
    assert mean["min_of_k"] < mean["mu_sigma"] < mean["extremes"]


def test_nothing_unsound_is_paired(records: list[dict[str, Any]]) -> None:
    for stage in (Extremes(score="gpt4"), MuSigma(score="gpt4"), MinOfK(score="gpt4")):
        for one in paired(stage, records):
            for pair in one.pairs:
                chosen, rejected = one.samples[pair.chosen], one.samples[pair.rejected]
                assert chosen.text.strip() != rejected.text.strip()
                assert not chosen.empty
                assert not rejected.empty
                assert "gpt35" not in (chosen.model, rejected.model)
                assert pair.margin is not None
                assert pair.margin > 0
