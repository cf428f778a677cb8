"""The command line, as a person uses it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import forked
from synthpref.engine.journal import Journal

REPO = Path(__file__).parents[1]


def synthpref(
    *args: str | Path, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return forked.run(*map(str, args), cwd=cwd, env={**os.environ, "COLUMNS": "160", **(env or {})})


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart")
    done = synthpref("run", REPO / "recipes" / "quickstart.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "records in runs/quickstart/dataset" in done.stderr
    return folder


def test_run_leaves_all_that_the_docs_promise(quickstart: Path) -> None:
    run = quickstart / "runs" / "quickstart"
    promised = "recipe.yaml journal.sqlite run.log rows.parquet left.jsonl summary.json report.json report.md"
    assert {p.name for p in run.iterdir()} >= {*promised.split(), "dataset"}
    assert (run / "dataset" / "README.md").read_text(encoding="utf-8").startswith("---\n")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    books = summary["books"]
    assert books["input"] == 48 == books["exported"] + books["dropped"] + books["rejected"]


def test_run_again_asks_nothing(quickstart: Path) -> None:
    dataset = quickstart / "runs/quickstart/dataset/data/train.parquet"
    before = dataset.read_bytes()
    done = synthpref("run", REPO / "recipes" / "quickstart.yaml", cwd=quickstart)
    assert done.returncode == 0
    assert dataset.read_bytes() == before
    summary = json.loads((quickstart / "runs/quickstart/summary.json").read_text(encoding="utf-8"))
    assert {m["requests"] for m in summary["models"].values()} == {0}


def test_datasets_reads_what_was_written(quickstart: Path) -> None:
    code = (
        "import datasets, sys; d = datasets.load_dataset(sys.argv[1], split='train');"
        "assert len(d) > 30 and d.column_names[:3] == ['prompt', 'chosen', 'rejected'], d;"
        "assert all(r['chosen'] != r['rejected'] for r in d)"
    )
    folder = quickstart / "runs/quickstart/dataset"
    env = {"HF_HOME": str(quickstart / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_show_explains_a_pair_and_lists_ids_without_one(quickstart: Path) -> None:
    listed = synthpref("show", "runs/quickstart", cwd=quickstart)
    assert listed.returncode == 0
    assert "q01" in listed.stdout
    shown = synthpref("show", "runs/quickstart", "q01", "--calls", cwd=quickstart)
    assert shown.returncode == 0
    for what in (
        "How do I keep sourdough",
        "simulated-policy",
        "helpful",
        "chosen",
        "rejected",
        "mu_sigma",
        "score",
    ):
        assert what in shown.stdout, what
    assert synthpref("show", "runs/quickstart", "nobody", cwd=quickstart).returncode == 2


def test_show_says_so_where_no_row_is_through(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.sqlite").close()
    shown = synthpref("show", ".", cwd=tmp_path)
    assert (shown.returncode, shown.stdout.split(";")[0]) == (2, "No row is through yet")


def test_status_report_and_export(quickstart: Path) -> None:
    status = synthpref("status", "runs/quickstart", cwd=quickstart)
    assert "quickstart: finished" in status.stdout
    assert "filter.dedup: 48 rows in" in status.stdout
    report = synthpref("report", "runs/quickstart", cwd=quickstart)
    assert report.returncode == 0
    assert "minimum" in report.stdout
    exported = synthpref("export", "runs/quickstart", "--format", "trl-kto", "--jsonl", cwd=quickstart)
    assert exported.returncode == 0
    (file,) = (quickstart / "runs/quickstart/dataset-trl-kto").rglob("*.jsonl")
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {record["label"] for record in records} == {True, False}


def test_check_tells_what_it_would_ask_and_asks_nothing(quickstart: Path, tmp_path: Path) -> None:
    done = synthpref("check", REPO / "recipes" / "quickstart.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert "48 rows" in done.stdout
    assert "nothing was asked" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_preview_shows_rows_in_full(tmp_path: Path) -> None:
    done = synthpref("preview", REPO / "recipes" / "quickstart.yaml", "-n", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "How do I keep sourdough" in done.stdout
    assert "Explain to a ten-year-old" in done.stdout
    assert "moon" in done.stdout
    assert "landlord" not in done.stdout


def test_mistakes_are_told_with_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "name: x\nsource: {rows: [a]}\nstages: [sample.m, judge.pont]\n", encoding="utf-8"
    )
    done = synthpref("run", "r.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "2 mistakes:" in done.stderr
    assert "stages[1]: no stage named 'judge.pont'; did you mean 'judge.point'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "s3:/bucket/x"], "--out: 's3:/bucket/x' is half a URL; write s3://bucket/x"),
        (["--workers", "3"], "--workers: only with --on ray; add --on ray"),
        (["--address", "auto"], "--address: only with --on ray; add --on ray"),
        (["--work", "w"], "--work: only with --out at a URL"),
        (["--on", "kubernetes"], "--on: no cluster called 'kubernetes'; write --on ray"),
    ],
)
def test_options_that_mean_nothing_are_told_before_anything_is_done(
    words: list[str], said: str, tmp_path: Path
) -> None:
    done = synthpref("run", REPO / "recipes" / "quickstart.yaml", *words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_preview_is_not_made_at_a_url(tmp_path: Path) -> None:
    done = synthpref("preview", REPO / "recipes" / "quickstart.yaml", "--out", "s3://b/x", cwd=tmp_path)
    assert done.returncode == 2
    assert "--out: a preview is made in a folder here" in done.stderr


def test_a_cluster_that_is_not_there_leaves_a_finished_run_finished(quickstart: Path, tmp_path: Path) -> None:
    words = ["--out", quickstart / "runs" / "quickstart", "--on", "ray", "--address", "127.0.0.1:9"]
    done = synthpref("run", REPO / "recipes" / "quickstart.yaml", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "--address: 127.0.0.1:9: " in done.stderr
    assert "is it up?" in done.stderr
    assert synthpref("report", "runs/quickstart", cwd=quickstart).returncode == 0


def test_a_folder_that_is_not_there_is_no_unfinished_run(tmp_path: Path) -> None:
    done = synthpref("report", "runs/nope", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "runs/nope: there is no such folder; name a run's\n")


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed here")
def test_a_package_that_is_missing_stops_the_run_and_is_named(tmp_path: Path) -> None:
    synthpref("init", "--template", "on-policy-vllm", cwd=tmp_path)
    done = synthpref("run", "recipe.yaml", cwd=tmp_path)
    assert done.returncode == 1
    said = "Stopped: models.policy: backend: vllm needs the vllm package: pip install 'synthpref[vllm]'"
    assert said in done.stderr
    assert "0 rejected" in done.stderr


def test_a_stop_shows_the_error_as_it_is(tmp_path: Path) -> None:
    stage = "from synthpref import RowStage\n\n\nclass Fail(RowStage):\n    def gives(self):\n        return {'pairs'}\n\n    async def run(self, row, ask):\n"
    stage += "        raise ValueError('no [/b] and no [red]')\n\n\nSTAGES = {'my.fail': Fail}\n"
    (tmp_path / "my_stages.py").write_text(stage, encoding="utf-8")
    recipe = "name: x\nplugins: [my_stages.py]\nsource: {rows: [a, b]}\nstages: [my.fail]\n"
    (tmp_path / "r.yaml").write_text(recipe, encoding="utf-8")
    done = synthpref("run", "r.yaml", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "Stopped: 2 of 2 rows were rejected (2 stage_error)" in done.stderr
    assert "the first error, in my.fail: ValueError: no [/b] and no [red]\n" in done.stderr


def templates() -> list[str]:
    return sorted(path.stem for path in (REPO / "recipes" / "templates").glob("*.yaml"))


@pytest.mark.parametrize("template", templates())
def test_every_template_is_written_and_passes_check(template: str, tmp_path: Path) -> None:
    done = synthpref("init", "--template", template, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    env = {
        "POLICY_URL": "http://127.0.0.1:9/v1",
        "JUDGE_URL": "http://127.0.0.1:9/v1",
        "OPENAI_API_KEY": "sk-test",
    }
    checked = synthpref("check", "recipe.yaml", cwd=tmp_path, env=env)
    if template == "local" and find_spec("torch") is None:
        assert checked.returncode == 2
        assert 'pip install "synthpref[local]"' in checked.stderr
    else:
        assert checked.returncode == 0, checked.stderr
    assert synthpref("init", "--template", template, cwd=tmp_path).returncode == 2


def test_init_lists_templates_and_suggests(tmp_path: Path) -> None:
    listed = synthpref("init", "--list", cwd=tmp_path).stdout.splitlines()
    assert set(templates()) == {line.split()[0] for line in listed}
    assert [line for line in listed if not line.endswith(".")] == [], "a whole sentence each"
    done = synthpref("init", "--template", "ultrafeadback", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'ultrafeedback'?" in done.stderr


def test_stages_and_schema_print(tmp_path: Path) -> None:
    assert "pair.mu_sigma" in synthpref("stages", cwd=tmp_path).stdout
    one = synthpref("stages", "pair.mu_sigma", cwd=tmp_path).stdout
    assert "fallback" in one
    assert json.loads(synthpref("schema", cwd=tmp_path).stdout)["title"] == "synthpref recipe"
    assert synthpref("stages", "pair.mu_sigam", cwd=tmp_path).returncode == 2


def test_version_and_help(tmp_path: Path) -> None:
    import synthpref as package

    assert package.__version__ in synthpref("--version", cwd=tmp_path).stdout
    assert "130 interrupted twice" in synthpref("--help", cwd=tmp_path).stdout.replace("\n", " ").replace(
        "  ", " "
    )
