"""`synthpref agree` as a person uses it: the command, a proposal, a mapping file, a recipe's judges, a run's report."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from agreed import fellowship, write_csv, write_jsonl
from synthpref.agreeing import mapping_of, scoring
from synthpref.cli import main
from synthpref.core.source import Source
from synthpref.io.agreement import with_section
from synthpref.io.propose import columns, command, options_for

REPO = Path(__file__).parents[1]


@dataclass
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def synthpref(*args: str | Path, cwd: Path, columns: int = 160) -> Done:
    """The command line in this process: what it loads is tested in test_imports.py."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setenv("COLUMNS", str(columns))
        try:
            main([str(arg) for arg in args])
        except SystemExit as left:
            code = int(left.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def labels(folder: Path) -> Path:
    records = [
        {
            "id": i,
            "prompt": f"p{i}",
            "human": "ab"[i % 2],
            "gpt": "ab"[i % 2] if i % 5 else "b",
            "llama": "aabb"[i % 4],
        }
        for i in range(60)
    ]
    return write_csv(folder / "labels.csv", records)


def test_options_print_and_write(tmp_path: Path) -> None:
    done = synthpref(
        "agree", labels(tmp_path), "--label", "human", "--judge", "gpt", "--judge", "meta=llama", "--cost", "gpt=0.01",
        "--cost", "meta=0.001", "--resamples", "200", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "gpt agrees with people best of the judges" in done.stdout
    assert "It is better than meta" in done.stdout
    folder = tmp_path / "runs" / "labels-agree"
    figures = json.loads((folder / "agreement.json").read_text(encoding="utf-8"))
    assert figures["judges"]["meta"]["cost"] == 0.001
    assert figures["resamples"] == 200
    page = (folder / "agreement.md").read_text(encoding="utf-8")
    for title in ("What to know", "Judges", "Juries", "People", "The best judge against the others"):
        assert f"## {title}\n" in page
    assert str(tmp_path) not in page


def test_long_names_stand_whole_in_a_narrow_terminal(tmp_path: Path) -> None:
    long = "gpt-4o-mini-2024-07-18/cot"
    judges = ["--judge", f"{long}=gpt", "--judge", "llama", "--cost", f"{long}=0.1", "--cost", "llama=1"]
    done = synthpref("agree", labels(tmp_path), "--label", "human", *judges, cwd=tmp_path, columns=80)
    assert done.returncode == 0, done.stderr
    tables = done.stdout[done.stdout.index("\nJudges ") :].splitlines()
    assert max(map(len, tables[:-1])) <= 80
    cells = [cell.strip() for line in tables for cell in line.split("│")]
    assert sum(cell.startswith(long) for cell in cells) == 3, (
        "a judge, a jury of it alone and one with the other"
    )
    assert any("Left out here: " in line for line in tables)


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    path = labels(tmp_path)
    for out in ("one", "two"):
        args = ["--label", "human", "--judge", "gpt", "--judge", "llama", "--out", out]
        assert synthpref("agree", path, *args, cwd=tmp_path).returncode == 0
    for name in ("agreement.json", "agreement.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_without_a_mapping_it_shows_columns_and_proposes_a_command_that_works(tmp_path: Path) -> None:
    path = labels(tmp_path)
    done = synthpref("agree", path, cwd=tmp_path)
    assert done.returncode == 2
    assert "verdicts" in done.stdout
    proposed = done.stdout.strip().splitlines()[-1].split()
    assert proposed[:2] == ["synthpref", "agree"]
    again = synthpref(*proposed[1:], cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "gpt agrees with people best" in again.stdout


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (
            fellowship(30),
            "--prompt prompt --label annotator1 --label annotator2 --label annotator3 --judge judge0=judge0_a,judge0_b",
        ),
        (
            [
                {"prompt": 3, "model_x": 1, "model_y": 2, "judge": j, "worker": 7, "winner": "left"}
                for j in ("human", "gpt")
            ],
            "--model-a model_x --model-b model_y --prompt prompt --id prompt,model_x,model_y --worker worker "
            "--by judge --human human --says winner",
        ),
        (
            [{"id": f"x{i}", "gold": "a", "ab": "a", "ba": "b"} for i in range(5)],
            "--label gold --judge judge=ab/ba",
        ),
        (
            [{"idx": i, "human_score": i % 5 + 0.5, "gpt": [1, 5, 5]} for i in range(9)],
            "--label human_score --judge gpt=gpt",
        ),
    ],
    ids=["six", "crowd", "orders", "scores"],
)
def test_proposals(tmp_path: Path, records: list[dict[str, Any]], expected: str) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", records)
    assert f" {expected}" in command([path], options_for(columns([path])))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--label", "human", "--judge", "gtp"], "did you mean 'gpt'?"),
        (["--label", "human", "--judge", "gpt", "--rule", "meen"], "did you mean 'mean'?"),
        (["--label", "human", "--judge", "gpt", "--jurors", "x,gpt"], "no judge 'x'"),
        (["--label", "human", "--judge", "gpt", "--cost", "x=1"], "no judge 'x'"),
        (["--label", "human", "--judge", "gpt", "--sizes", "two"], "whole numbers"),
        (["--label", "human", "--judge", "gpt", "--values", "left"], "write --values NAME=VALUE"),
        (["--label", "human", "--judge", "gpt", "--judge", "gpt=llama"], "named twice"),
        (["--label", "human", "--judge", "gpt", "--run", "nowhere"], "there is no such folder"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, args: list[str], message: str) -> None:
    done = synthpref("agree", labels(tmp_path), *args, cwd=tmp_path)
    assert done.returncode in (2, 3)
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_a_mapping_file_with_options_on_top(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    labels(tmp_path / "data")
    tree = {
        "name": "mine",
        "files": "labels.csv",
        "labels": "human",
        "judges": {"gpt": {"verdict": "gpt", "cost": 0.5}, "llama": "llama"},
    }
    (tmp_path / "data" / "map.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    done = synthpref("agree", "data/map.yaml", "--cost", "llama=0.1", "--where", "prompt=p3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "runs" / "mine-agree" / "agreement.json").read_text(encoding="utf-8"))
    assert figures["items"] == 1
    assert [judge["cost"] for judge in figures["judges"].values()] == [0.5, 0.1]


# ---- the judges of a recipe


RECIPE = {
    "name": "judged",
    "models": {
        "policy": {"backend": "simulated", "model": "p"},
        "good": {"backend": "simulated", "model": "good", "noise": 0.2, "price": {"input": 1, "output": 1}},
        "poor": {"backend": "simulated", "model": "poor", "noise": 3.0, "price": {"input": 1, "output": 1}},
    },
    "source": {"rows": ["Why is the sky blue?"]},
    "stages": [
        {"sample.n": {"model": "policy", "n": 2}},
        {"judge.pair": {"model": "good", "name": "sure"}},
        {"judge.point": {"model": "poor", "name": "unsure", "repeats": 2}},
        {"jury": {"judges": ["good", "poor"], "name": "both"}},
        {"pair.extremes": {"score": "both"}},
    ],
    "limits": {"max_reject_rate": 0},
}


def labelled_pairs(folder: Path, n: int = 30) -> Path:
    import random

    from synthpref.models import world

    rng = random.Random(1)
    records = []
    for i in range(n):
        prompt = f"What is the use of number {i}?"
        texts = [world.compose(prompt, rng.gauss(0, 1), 60, rng) for _ in range(2)]
        better = "a" if world.quality(texts[0]) > world.quality(texts[1]) else "b"
        records.append({"id": f"q{i}", "q": prompt, "one": texts[0], "two": texts[1], "label": better})
    return write_jsonl(folder / "pairs.jsonl", records)


def test_the_judges_of_a_recipe_are_run_and_measured(tmp_path: Path) -> None:
    path = labelled_pairs(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    args = [
        "agree",
        path,
        "--label",
        "label",
        "--prompt",
        "q",
        "--a",
        "one",
        "--b",
        "two",
        "--recipe",
        "recipe.yaml",
    ]
    done = synthpref(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "pairs-agree"
    figures = json.loads((folder / "agreement.json").read_text(encoding="utf-8"))
    assert set(figures["judges"]) == {"sure", "unsure", "both", "both/good", "both/poor"}
    judges = figures["judges"]
    assert judges["sure"]["accuracy"]["value"] > 0.8 > judges["both/poor"]["accuracy"]["value"]
    assert judges["sure"]["replies"] == 60
    assert judges["sure"]["order"]["both_orders"] == 30
    assert judges["unsure"]["repeats"]["items"] == 30
    assert judges["unsure"]["replies"] == 120
    assert all(judge["cost"] > 0 for judge in judges.values())
    assert judges["both"]["cost"] == pytest.approx(judges["both/good"]["cost"] + judges["both/poor"]["cost"])
    # A jury is no juror beside its own jurors.
    assert set(figures["juries"]["judges"]) == {"sure", "unsure", "both/good", "both/poor"}
    assert any("a simulation" in note for note in figures["notes"])
    assert any("sample.n, pair.extremes took no part" in note for note in figures["notes"])
    # The same command asks nothing again.
    before = (folder / "agreement.json").read_bytes()
    assert synthpref(*args, cwd=tmp_path).returncode == 0
    assert (folder / "agreement.json").read_bytes() == before
    summary = json.loads((folder / "judging" / "summary.json").read_text(encoding="utf-8"))
    assert {model["requests"] for model in summary["models"].values()} == {0}


def test_a_row_that_is_rejected_has_no_verdict_and_is_counted(tmp_path: Path) -> None:
    path = labelled_pairs(tmp_path, 20)
    recipe = {**RECIPE, "limits": {"max_reject_rate": 1}, "stages": [{"judge.pair": {"model": "good"}}]}
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    records[3]["two"] = " "
    records[7]["one"] = records[7]["two"]
    write_jsonl(path, records)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    args = [
        "agree",
        path,
        "--label",
        "label",
        "--prompt",
        "q",
        "--a",
        "one",
        "--b",
        "two",
        "--recipe",
        "recipe.yaml",
    ]
    done = synthpref(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "runs" / "pairs-agree" / "agreement.json").read_text(encoding="utf-8"))
    (judge,) = figures["judges"].values()
    assert figures["items"] == 20
    assert judge["judged"] <= 19


def test_only_what_judges_is_kept_of_a_recipe() -> None:
    recipe = yaml.safe_load((REPO / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"))
    source = Source.model_validate({"path": "x.jsonl", "samples": [{"text": "a"}, {"text": "b"}]})
    kept, left = scoring(recipe, REPO, source, "measured")
    assert kept["name"] == "measured"
    assert [next(iter(stage)) for stage in kept["stages"]] == ["judge.point"]
    assert set(kept["models"]) == {"judge"}
    assert left == ["sample.n", "pair.mu_sigma", "enrich.rationale", "filter.dedup"]


def test_reward_models_are_measured_one_by_one_and_not_their_users() -> None:
    path = REPO / "recipes" / "judging" / "personal.yaml"
    source = Source.model_validate({"path": "x.jsonl", "samples": [{"text": "a"}, {"text": "b"}]})
    kept, left = scoring(yaml.safe_load(path.read_text(encoding="utf-8")), path.parent, source, "measured")
    assert [next(iter(stage)) for stage in kept["stages"]] == ["reward"] * 3
    assert set(kept["models"]) == {"skywork", "grm", "internlm"}
    assert left == ["sample.n", "score.users", "pair.extremes"]


# ---- the report and the card of a run


def test_a_runs_report_and_card_carry_the_section_and_keep_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump({**RECIPE, "source": {"rows": [f"What is {i}?" for i in range(12)]}}), encoding="utf-8"
    )
    assert synthpref("run", "recipe.yaml", cwd=tmp_path).returncode == 0
    args = ["--label", "human", "--judge", "gpt", "--run", "runs/judged"]
    for _ in range(2):
        done = synthpref("agree", labels(tmp_path), *args, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "judged"
    pages = [run / "report.md", run / "dataset" / "README.md"]
    for page in pages:
        assert page.read_text(encoding="utf-8").count("## How good the judge is\n") == 1
    assert "gpt agrees with people" in synthpref("report", run, cwd=tmp_path).stdout
    # The same run again: nothing has changed, and the section stands.
    before = [page.read_bytes() for page in pages]
    assert synthpref("run", "recipe.yaml", cwd=tmp_path).returncode == 0
    assert [page.read_bytes() for page in pages] == before
    assert "nothing has changed" in (run / "run.log").read_text(encoding="utf-8")
    # Written anew, the pages have it too; and so has another export.
    (run / "report.md").unlink()
    assert synthpref("run", "recipe.yaml", cwd=tmp_path).returncode == 0
    for page in pages:
        assert page.read_text(encoding="utf-8").count("## How good the judge is\n") == 1
    assert synthpref("export", run, "--format", "trl-kto", cwd=tmp_path).returncode == 0
    assert "## How good the judge is\n" in (run / "dataset-trl-kto" / "README.md").read_text(encoding="utf-8")


def test_a_section_is_put_in_its_place_once() -> None:
    page = "# T\n\n## One\n\nx\n\n## Two\n\ny\n"
    once = with_section(page, "New", "text", "Two")
    assert once == "# T\n\n## One\n\nx\n\n## New\n\ntext\n\n## Two\n\ny\n"
    assert with_section(once, "New", "other", "Two") == once.replace("text", "other")
    assert with_section(page, "New", "text", "Nowhere") == page + "\n## New\n\ntext\n"


# ---- the page of docs


def test_every_command_on_the_page_runs_as_printed(tmp_path: Path) -> None:
    page = (REPO / "docs" / "judging.md").read_text(encoding="utf-8")
    printed = [
        line for block in re.findall(r"^```sh\n(.*?)^```", page, re.S | re.M) for line in block.splitlines()
    ]
    assert len(printed) == 5
    (tmp_path / "recipes").symlink_to(REPO / "recipes")
    for n, line in enumerate(printed):
        program, *args = line.split()
        assert program == "synthpref"
        done = synthpref(*args, cwd=tmp_path)
        # The first has no mapping: it proposes one.
        assert done.returncode == (2 if n == 0 else 0), f"{line}\n{done.stderr}"
    assert "How good the judge is" in synthpref("report", "runs/chosen", cwd=tmp_path).stdout


def test_the_mapping_on_the_page_is_one() -> None:
    page = (REPO / "docs" / "judging.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)
    mapping = mapping_of(yaml.safe_load(block))
    assert mapping.judges["gpt"].swapped == ("gpt_ba",)
    assert mapping.judges["mine"].family == "llama"
