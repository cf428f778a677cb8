"""The recipes in recipes/field, run as they are on the data that they name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from field import REPO, data_dir, data_file, records
from synthpref import job
from synthpref.engine.folder import trace
from synthpref.io.show import show_left, show_row
from wire import Server, serving, status

RECIPES = REPO / "recipes" / "field"
POOLS = "qlora_vicuna/multi.jsonl.gz"
pytestmark = pytest.mark.field


@pytest.fixture(autouse=True)
def where_the_data_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHPREF_DATA", str(data_dir()))


def dataset(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "dataset/data/train.parquet").to_pylist()
    return found


def left(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "left.jsonl").read_text(encoding="utf-8").splitlines()]


def balanced(result: job.Result) -> None:
    books, gone = result.books, Counter(line["how"] for line in left(result.folder))
    assert books.input + books.added == books.exported + books.dropped + books.rejected
    assert (gone["drop"], gone["reject"]) == (books.dropped, books.rejected)
    assert pq.read_table(result.folder / "rows.parquet").num_rows == books.exported


# ---- responses that are brought


@pytest.fixture(scope="module", params=["pools", "pools-extremes"])
def pooled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, job.Result]:
    data_file(POOLS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNTHPREF_DATA", str(data_dir()))
        recipe = job.load(RECIPES / f"{request.param}.yaml")
        return request.param, job.run(recipe, tmp_path_factory.mktemp(request.param) / "run")


def rated(record: dict[str, Any]) -> dict[str, list[float]]:
    """Each text that was rated in both orders, with its means: several where several models wrote the same."""
    found: dict[str, list[float]] = {}
    for response in record["responses"]:
        both = [response["gpt4_pos1"], response["gpt4_pos2"]]
        if None not in both and -1 not in both and response["text"].strip():
            found.setdefault(response["text"].strip(), []).append(float(np.mean(both)))
    return found


def scores_of(record: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.percentile(means, 50, method="lower") for means in rated(record).values()])


def test_every_pair_holds_two_texts_of_its_own_prompt_the_better_one_chosen(
    pooled: tuple[str, job.Result],
) -> None:
    by_id = {str(record["id"]): record for record in records(POOLS)}
    made = dataset(pooled[1].folder)
    assert len(made) == pooled[1].records == len(by_id) == 80
    for pair in made:
        record = by_id.pop(pair["id"])
        [[asked], [chosen], [rejected]] = pair["prompt"], pair["chosen"], pair["rejected"]
        assert asked == {"role": "user", "content": record["prompt"]}
        assert chosen["role"] == rejected["role"] == "assistant"
        means = rated(record)
        assert pair["chosen_score"] in means[chosen["content"].strip()]
        assert pair["rejected_score"] in means[rejected["content"].strip()]
        assert pair["chosen_score"] > pair["rejected_score"]
        assert pair["margin"] == pair["chosen_score"] - pair["rejected_score"]
        for side, text in (("chosen", chosen["content"]), ("rejected", rejected["content"])):
            written = [r["text"] for r in record["responses"] if r["model"] == pair[f"{side}_model"]]
            assert text in written
    assert by_id == {}


def test_the_pick_is_that_of_an_independent_computation(pooled: tuple[str, job.Result]) -> None:
    by_id = {str(record["id"]): scores_of(record) for record in records(POOLS)}
    lowest = 0
    for pair in dataset(pooled[1].folder):
        scores = by_id[pair["id"]]
        assert pair["chosen_score"] == scores.max()
        expected = scores.min()
        if pooled[0] == "pools":
            gap = np.round(np.abs(scores - (scores.mean() - 2 * scores.std(ddof=1))), 9)
            expected = scores[gap == gap.min()].min()
        assert pair["rejected_score"] == expected
        lowest += expected == scores.min()
    assert lowest == 80 if pooled[0] == "pools-extremes" else 40 < lowest < 80


def test_the_report_says_for_how_many_prompts_the_rule_could_not_hold(pooled: tuple[str, job.Result]) -> None:
    name, result = pooled
    report = json.loads((result.folder / "report.json").read_text(encoding="utf-8"))
    rule = report["pairs"]["rules"]["mu_sigma" if name == "pools" else "extremes"]
    assert rule["pairs"] == 80
    if name == "pools":
        pools = [scores_of(record) for record in records(POOLS)]
        below = sum(scores.mean() - 2 * scores.std(ddof=1) < scores.min() for scores in pools)
        told = rule["facts"]["below_all"]["counts"]
        assert told["yes"] / rule["pairs"] == below / len(pools)
        assert told["yes"] + told["no"] == 80
        assert 0.5 < below / len(pools) < 0.7
        assert f"for {100 * below / len(pools):.0f} % of the pairs" in " ".join(report["statements"])
    failed = report["scores"]["gpt4"]["failed"]
    unrated = sum(
        None in (both := (r["gpt4_pos1"], r["gpt4_pos2"])) or -1 in both
        for record in records(POOLS)
        for r in record["responses"]
    )
    assert sum(failed.values()) == unrated > 80


def test_no_row_is_lost(pooled: tuple[str, job.Result]) -> None:
    balanced(pooled[1])
    assert pooled[1].books.input == 80


def test_datasets_reads_the_folder(pooled: tuple[str, job.Result], tmp_path: Path) -> None:
    code = """
import json, sys, datasets
made = datasets.load_dataset(sys.argv[1], split="train")
print(json.dumps([len(made), sorted(made.column_names), made[0]]))
"""
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(pooled[1].folder / "dataset")],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    count, columns, first = json.loads(done.stdout.splitlines()[-1])
    assert count == 80
    assert {"prompt", "chosen", "rejected", "id", "chosen_score", "rejected_score", "margin"} <= set(columns)
    assert first == dataset(pooled[1].folder)[0]


# ---- from seeds, over the wire

SMALLER = ["stages.sample.n.n=6", "stages.judge.point.repeats=1"]
FAULTS: list[Any] = [
    lambda: status(500),
    lambda: status(429, Retry_After="0.05"),
    lambda: "reset",
    lambda: status(503),
]


def rough(server: Server) -> None:
    server.latency_s = 0.01
    server.fault = lambda request, n: FAULTS[n // 15 % len(FAULTS)]() if n % 15 == 0 else None


def seeds(server: Server, folder: Path, patch: pytest.MonkeyPatch) -> job.Result:
    data_file("seeds/self_instruct_seed_tasks.jsonl.gz")
    patch.setenv("SYNTHPREF_URL", server.url)
    retries = [f"models.{role}.retries=8" for role in ("policy", "writer", "judge")]
    return job.run(job.load(RECIPES / "seeds.yaml", [*SMALLER, *retries]), folder, limit=30)


def test_seeds_become_pairs_whatever_the_server_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        rough(server)
        first = seeds(server, tmp_path / "rough", monkeypatch)
        asked = server.requests
        server.latency_s, server.fault = 0.0, lambda request, n: None
        calm = seeds(server, tmp_path / "calm", monkeypatch)
    assert (first.stopped, calm.stopped) == ("", "")
    assert asked - (server.requests - asked) >= asked // 20, "the faults cost calls"

    balanced(first)
    books = first.books
    assert (books.input, books.rejected) == (30, 0)
    assert books.added > 80
    reasons = Counter((line["stage"], line["reason"]) for line in left(first.folder))
    assert reasons["synth.bootstrap", "seed not kept"] == 30
    assert all(line["reason"] for line in left(first.folder))
    assert reasons["filter.diversity", "covered by others"] == round(
        0.2 * (books.exported + reasons["filter.diversity", "covered by others"])
    )

    assert explained(first.folder) == {"row": books.exported, "drop": books.dropped}
    for pair in dataset(first.folder):
        assert pair["chosen_score"] > pair["rejected_score"]
        assert pair["rationale"]

    assert calm.books == books
    parquet = "dataset/data/train.parquet"
    assert (calm.folder / parquet).read_bytes() == (first.folder / parquet).read_bytes()


def explained(folder: Path) -> Counter[str]:
    """How each row of the run ended; each can be shown with what was asked for it."""
    kept = {row["id"]: row for row in pq.read_table(folder / "rows.parquet").to_pylist()}
    gone = {line["id"]: line for line in left(folder)}
    assert not kept.keys() & gone.keys()
    ends: Counter[str] = Counter()
    for id in kept | gone:
        _, outcome, asked = trace(folder, id)
        assert outcome is not None
        ends[outcome.kind] += 1
        assert outcome.row.prompt_text in show_row(outcome.row).plain
        if id in kept:
            assert outcome.kind == "row"
            texts = {completion.text for *_, made in asked for completion in made}
            assert {sample["text"] for sample in kept[id]["samples"]} <= texts
        else:
            assert (outcome.kind, outcome.reason) == (gone[id]["how"], gone[id]["reason"])
            parts = (outcome.kind, outcome.stage, outcome.reason, outcome.detail)
            assert outcome.reason in show_left(*parts).plain
    return ends
