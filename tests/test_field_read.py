"""Sources over real files: lists of responses with scores in two columns, wide columns, nested columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from field import data_dir, data_file, records
from synthpref.core.source import Source
from synthpref.core.types import Row
from synthpref.io import read
from synthpref.io.rows import read_rows, write_rows

pytestmark = pytest.mark.field


def rows(path: str, **source: Any) -> list[Row]:
    data_file(path)
    wanted = Source.model_validate({"path": path, **source})
    assert read.problems(wanted, data_dir()) == []
    return list(read.rows(wanted, data_dir()))


def test_responses_with_a_score_in_both_orders(tmp_path: Path) -> None:
    path = "qlora_vicuna/multi.jsonl.gz"
    scores = {"gpt4": ["gpt4_pos1", "gpt4_pos2"]}
    samples = {"column": "responses", "model": "model", "scores": scores}
    found = rows(path=path, id="id", samples=samples, invalid=[-1])
    assert [len(row.samples) for row in found] == [37] * 80
    assert all(row.meta.keys() == {"category"} for row in found)
    for record, row in zip(records(path), found, strict=True):
        assert row.id == str(record["id"])
        for response, sample, value in zip(record["responses"], row.samples, row.values("gpt4"), strict=True):
            assert (sample.text, sample.model) == (response["text"], response["model"])
            both = [response["gpt4_pos1"], response["gpt4_pos2"]]
            rated = all(score is not None and score >= 0 for score in both)
            assert value == (sum(both) / 2 if rated else None)
    write_rows(tmp_path / "rows.parquet", found)
    assert list(read_rows(tmp_path / "rows.parquet")) == found


def test_two_responses_in_columns_of_their_own() -> None:
    samples = [{"text": "response_a"}, {"text": "response_b"}]
    found = rows(path="llmbar/pairs.jsonl.gz", id="id", samples=samples)
    assert len(found) == 419
    assert all(len(row.samples) == 2 and not row.samples[0].scores for row in found)


@pytest.mark.parametrize(
    ("path", "prompt", "reference", "count"),
    [
        ("seeds/self_instruct_seed_tasks.jsonl.gz", "instruction", "instances.0.output", 175),
        ("seeds/vicuna_bench_questions.jsonl.gz", "turns.0", None, 80),
        ("seeds/arena_hard_v0.1_questions.jsonl.gz", "prompt", None, 500),
        ("gsm8k/train.jsonl.gz", "question", "answer", 7473),
    ],
)
def test_prompts(path: str, prompt: str, reference: str | None, count: int) -> None:
    found = rows(path=path, prompt=prompt, reference=reference)
    assert len({row.id for row in found}) == len(found) == count
    assert all(row.reference for row in found) is (reference is not None)
