"""Coefficients of agreement, against independent implementations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from synthpref.core.agreement import agreement, kappa

labels = st.lists(st.tuples(st.sampled_from("abt"), st.sampled_from("abt")), min_size=1, max_size=40)


@given(labels)
def test_kappa_is_that_of_sklearn(pairs: list[tuple[str, str]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    ours = kappa(first, second)
    if len({*first, *second}) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_kappa_and_agreement_of_nothing() -> None:
    assert kappa([], []) is None
    assert agreement([], []) is None
    assert agreement(["a", "tie", "b"], ["a", "b", "b"]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError):
        kappa(["a"], [])
