"""Every shipped recipe passes its checks and runs a few rows with simulated models in place of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from synthpref import job

REPO = Path(__file__).parents[1]
RECIPES = sorted(p for p in (REPO / "recipes").rglob("*.yaml") if p.parent.name not in ("field", "data"))
RECIPES += [REPO / "examples" / "plugin" / "recipe.yaml"]
REAL = {"OPENAI_API_KEY": "sk-test-of-recipes", "POLICY_URL": "http://127.0.0.1:9/v1"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.relative_to(REPO).as_posix())
def test_a_recipe_runs_three_rows(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in REAL.items():
        monkeypatch.setenv(name, value)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# "), "a recipe's header says what it is for"
    # A check needs no model, and so not what a model needs.
    monkeypatch.setattr("synthpref.models.local.installed", lambda: True)
    job.estimate(job.load(path))
    tree = yaml.safe_load(text)
    graded = [stage["reward"] for stage in tree["stages"] if isinstance(stage, dict) and "reward" in stage]
    heads = {stage["model"]: stage.get("heads", []) for stage in graded}
    for name, role in tree["models"].items():
        if role["backend"] != "simulated":
            tree["models"][name] = {
                "backend": "simulated",
                "model": name,
                "temperature": role.get("temperature"),
                "heads": heads.get(name, []),
            }
    if "path" in tree["source"]:
        tree["source"]["path"] = str(path.parent / tree["source"]["path"])
    tree["limits"] = {"max_reject_rate": 0}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    result = job.run(job.load(tmp_path / "recipe.yaml"), tmp_path / "run", limit=3)
    assert result.stopped == ""
    assert result.books.rejected == 0
    assert result.books.exported + result.books.dropped == result.books.input + result.books.added
    if "verify" not in text:  # simulated answers to arithmetic are wrong
        assert result.records > 0
