"""Mean and spread, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpref.core.stats import mean, std


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_mean_and_std_are_those_of_numpy(values: list[float]) -> None:
    assert mean(values) == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert std(values) == pytest.approx(np.std(values), rel=1e-6, abs=1e-6)
    assert std(values, ddof=1) == pytest.approx(np.std(values, ddof=1), rel=1e-6, abs=1e-6)
    assert std(values[:1], ddof=1) is None
