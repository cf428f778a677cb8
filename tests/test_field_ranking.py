"""Strengths from comparisons by real judges and by a crowd, against independent implementations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

import field
from synthpref.core.ranking import bradley_terry

pytestmark = pytest.mark.field


def records(name: str) -> list[dict[str, Any]]:
    return field.records(f"{name}.jsonl.gz")


def test_bradley_terry_over_real_verdicts_is_what_scipy_finds() -> None:
    players = sorted({r["first"] for r in records("qlora_vicuna/pairwise_threeclass")})
    share = {"first": 1.0, "second": 0.0, "tie": 0.5}
    outcomes = [
        (players.index(r["first"]), players.index(r["second"]), share[r["winner"]])
        for r in records("qlora_vicuna/pairwise_threeclass")
        if r["winner"] in share
    ]
    a, b, p = (np.array(column) for column in zip(*outcomes, strict=True))

    def loss(s: np.ndarray) -> float:
        gap = s[a] - s[b]
        likelihood = p * np.logaddexp(0, -gap) + (1 - p) * np.logaddexp(0, gap)
        return float(likelihood.sum() + 0.05 * np.sum(np.logaddexp(0, -s) + np.logaddexp(0, s)))

    best = minimize(loss, np.zeros(len(players)), method="BFGS", options={"gtol": 1e-6}).x
    ours = bradley_terry(len(players), outcomes, prior=0.1)
    assert ours == pytest.approx(best - best.mean(), abs=1e-3)
    strength = dict(zip(players, ours, strict=True))
    assert strength["65b-guanaco"] > strength["7b-guanaco"]  # type: ignore[operator]
