"""One recipe, three ways: a server that is there, an engine in the process of the run, two nodes of a Ray cluster. At
temperature 0 they give the same rows, and the same pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

import ways
from room import SMALL

ROWS = 12


def test_the_three_ways_give_the_same_rows_and_pairs(tmp_path: Path, policy: str) -> None:
    pytest.importorskip("ray", reason="ray is not installed; see `make vllm-test`")
    inside = {"backend": "vllm", "model": policy, "engine": SMALL}
    here = ways.recipe(tmp_path / "in process", inside, ROWS)
    ways.run(here)
    with ways.server(policy, SMALL, tmp_path / "server.log") as url:
        there = ways.recipe(
            tmp_path / "server", {"backend": "openai", "model": policy, "base_url": url}, ROWS
        )
        ways.run(there)
    with ways.cluster() as address:
        spread = ways.recipe(tmp_path / "ray", inside, ROWS)
        ways.run(spread, "--on", "ray", "--address", address, "--workers", "2", "--shards", "4")
    expected = ways.made(here)
    assert len(expected) == ROWS
    assert all(pairs for _, _, pairs in expected)
    assert ways.made(there) == expected
    assert ways.made(spread) == expected
    # The engines answered in two processes, and the whole is that of one.
    assert len(list((tmp_path / "ray" / "stamps").iterdir())) == 2
    data = "run/dataset/data/train.parquet"
    assert (spread.parent / data).read_bytes() == (here.parent / data).read_bytes()
