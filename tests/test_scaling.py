"""The page on scaling: its table is what the simulation gives, and its examples are commands that Slurm and Kubernetes
know."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

REPO = Path(__file__).parents[1]
PAGE = REPO / "docs" / "scaling.md"
SBATCH = REPO / "examples" / "slurm" / "run.sbatch"
RAYJOB = REPO / "examples" / "kuberay" / "rayjob.yaml"
DAY = 86_400.0
# The fields of ray.io/v1 that KubeRay's reference has, where the example sets any.
FIELDS = {
    "job": "activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus "
    "entrypointNumGpus entrypointResources jobId managedBy metadata rayClusterSpec runtimeEnvYAML schedule "
    "shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend ttlSecondsAfterFinished",
    "cluster": "autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec "
    "headServiceAnnotations managedBy rayVersion suspend workerGroupSpecs",
    "autoscaler": "env envFrom idleTimeoutSeconds image imagePullPolicy resources securityContext upscalingMode "
    "version volumeMounts",
    "head": "enableIngress headService rayStartParams serviceType template",
    "workers": "groupName idleTimeoutSeconds maxReplicas minReplicas numOfHosts rayStartParams replicas "
    "scaleStrategy suspend template",
}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO / "bench"))


# ---- the table


def test_the_tables_are_what_the_simulation_makes_of_the_kept_constants() -> None:
    from results import RESULTS, load
    from sizing import tables

    kept = load(RESULTS)
    again = json.loads(json.dumps([asdict(t) for t in tables(kept["sizing"]["figures"]["constants"])]))
    assert again == kept["sizing"]["tables"], "run `python bench/run.py sizing`"


def engine(**changes: Any) -> Any:
    from fleet import Engine

    return replace(Engine("small", 1, 10_000.0, 50_000.0, 25_000.0, batch=64), **changes)


def work(**changes: Any) -> Any:
    from fleet import Work

    return replace(Work(1000, 8, 100, 400, 1600, 0.6), **changes)


def cluster(**changes: Any) -> Any:
    from fleet import Cluster

    return replace(Cluster(4, 2, 1e9, 600.0, 100.0, 0.0), **changes)


def test_an_engine_with_answers_of_one_length_goes_at_the_rate_that_can_be_reckoned() -> None:
    from fleet import pace

    row_s = 8 * 400 / 10_000 + 100 / 50_000 + 8 * 500 / 25_000
    assert pace(engine(), work(sigma=0.0)).rows_s == pytest.approx(1 / row_s, rel=0.05)


def test_answers_of_all_lengths_make_a_longer_tail() -> None:
    from fleet import pace

    even, uneven = (pace(engine(), work(sigma=sigma, max_tokens=16_000)) for sigma in (0.1, 1.0))
    assert uneven.ends_s > 1.5 * even.ends_s
    assert pace(engine(), work()) == pace(engine(), work())
    assert pace(engine(), work(), seed=1) != pace(engine(), work())


def test_scoring_and_reading_take_their_time() -> None:
    from fleet import pace

    plain = pace(engine(), work()).rows_s
    assert pace(engine(score_tokens_s=5_000.0), work()).rows_s < 0.7 * plain
    assert pace(engine(prefill_tokens_s=500.0), work()).rows_s < 0.8 * plain


def test_shards_without_trouble_take_what_can_be_reckoned() -> None:
    from fleet import LANES, Pace, segment

    assert LANES == 2
    speed = Pace(rows_s=2.0, ends_s=30.0)
    # Shards for four engines, and how many of them the busiest walks.
    for shards, most in ((4, 1), (8, 2), (16, 4), (9, 3)):
        run = segment(cluster(), speed, 9_000, shards, in_flight=8, read_s=0.0)
        assert run.wall_s == pytest.approx(100 + most * 9_000 / shards / 2 + 30)
        assert run.busy_s == pytest.approx(9_000 / 2 + 30 * 4)
        assert (run.failures, run.lost_rows) == (0, 0.0)


def test_a_slow_engine_holds_the_last_shard() -> None:
    from fleet import Pace, segment

    even, uneven = (
        segment(cluster(spread=s), Pace(2.0, 30.0), 9_000, 4, in_flight=8, read_s=0.0) for s in (0.0, 0.3)
    )
    assert uneven.wall_s > 1.1 * even.wall_s


def test_a_source_that_is_read_more_slowly_than_it_is_used_sets_the_pace() -> None:
    from fleet import Pace, segment

    slow = segment(cluster(), Pace(2.0, 0.0), 9_000, 8, in_flight=8, read_s=1.0)
    assert slow.wall_s == pytest.approx(100 + 2 * 9_000)  # each engine's two shards pass over all rows


def test_a_node_that_fails_costs_its_calls_in_flight_and_the_way_back() -> None:
    from fleet import Pace, segment

    calm = segment(cluster(), Pace(2.0, 30.0), 900_000, 64, in_flight=8, read_s=0.0)
    rough = segment(cluster(mtbf_h=10), Pace(2.0, 30.0), 900_000, 64, in_flight=8, read_s=0.0)
    assert rough.failures > 3
    assert rough.wall_s > calm.wall_s
    assert 0 < rough.lost_rows <= rough.failures * 2 * 8
    # Of an engine's time a failure costs half of the calls in flight, and the batch that fills and empties again.
    assert rough.busy_s - calm.busy_s <= rough.failures * 2 * (30 + 8 / 2 / 2) + 1


@settings(max_examples=60, deadline=None)
@given(
    engines=st.integers(1, 9), shards=st.integers(1, 40), mtbf_h=st.floats(2, 500), seed=st.integers(0, 10**6)
)
def test_whatever_fails_all_rows_come_through(engines: int, shards: int, mtbf_h: float, seed: int) -> None:
    from fleet import Pace, segment

    nodes = cluster(engines=engines, mtbf_h=mtbf_h, spread=0.1)
    run = segment(nodes, Pace(2.0, 10.0), 20_000, shards, in_flight=4, read_s=1e-6, seed=seed)
    assert run.busy_s >= 20_000 / 2.0 * 0.5
    assert run.wall_s * engines >= run.busy_s
    assert run == segment(nodes, Pace(2.0, 10.0), 20_000, shards, in_flight=4, read_s=1e-6, seed=seed)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0172, "0.017"), (3.14, "3.1"), (42.4, "42"), (1234.0, "1,200"), (987_654, "990,000")],
)
def test_no_more_digits_are_shown_than_are_known(value: float, text: str) -> None:
    from sizing import _few

    assert _few(value) == text


# ---- the examples


def test_the_ray_job_has_only_fields_that_kuberay_knows() -> None:
    tree = yaml.safe_load(RAYJOB.read_text(encoding="utf-8"))
    assert (tree["apiVersion"], tree["kind"]) == ("ray.io/v1", "RayJob")
    job, made = tree["spec"], tree["spec"]["rayClusterSpec"]
    parts = [("job", job), ("cluster", made), ("autoscaler", made["autoscalerOptions"])]
    parts += [("head", made["headGroupSpec"]), *(("workers", group) for group in made["workerGroupSpecs"])]
    for kind, part in parts:
        assert set(part) <= set(FIELDS[kind].split())
    for group in (made["headGroupSpec"], *made["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]} == volumes


def test_the_sbatch_script_hands_the_command_to_every_node(tmp_path: Path) -> None:
    stubs = {"scontrol": 'printf "node7\\nnode8\\n"', "srun": 'printf "%s\\n" "$@"'}
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
    }
    command = ["bash", SBATCH, "my recipe.yaml", "--out", "/shared/run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[words.index("--address") + 1] == "node7:6379"
    assert words[words.index("--min-nodes") + 1] == "2"
    assert words[words.index("--") + 1 :][:5] == [
        "synthpref",
        "run",
        "my recipe.yaml",
        "--out",
        "/shared/run",
    ]


def test_the_commands_of_the_page_and_of_the_examples_are_ones_that_run_takes() -> None:
    from typer.testing import CliRunner

    from synthpref.cli import app

    known = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).stdout
    texts = [path.read_text(encoding="utf-8") for path in (PAGE, SBATCH, RAYJOB)]
    said = {
        w
        for t in texts
        for line in re.findall(r"synthpref run .*", t)
        for w in re.findall(r"--[a-z-]+", line)
    }
    assert {"--on", "--address", "--out"} <= said
    assert not [word for word in sorted(said) if word not in known]
