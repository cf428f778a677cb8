from __future__ import annotations

import synthpref


def test_every_public_name_is_there_and_is_pinned() -> None:
    assert synthpref.__all__ == sorted(synthpref.__all__, key=lambda n: (n == "__version__", n))
    for name in synthpref.__all__:
        assert getattr(synthpref, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(synthpref, "Pipeline")
