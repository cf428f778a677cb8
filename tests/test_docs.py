"""What the docs show works, and what is generated is up to date."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
import yaml

import forked
from synthpref import job
from synthpref.engine.reference import rows
from synthpref.engine.registry import Registry

REPO = Path(__file__).parents[1]
PAGES = [
    REPO / "README.md",
    REPO / "AGENTS.md",
    REPO / "CONTRIBUTING.md",
    *sorted((REPO / "docs").rglob("*.md")),
]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.S | re.M)


def test_the_reference_is_what_the_code_says() -> None:
    generate = runpy.run_path(str(REPO / "docs" / "generate.py"))
    for name, text in generate["pages"]().items():
        written = (REPO / "docs" / "reference" / name).read_text(encoding="utf-8")
        assert written == text, f"docs/reference/{name} is out of date: run `make docs`"


def test_types_are_written_as_one_reads_them() -> None:
    kinds = {kind for _, stage in Registry().all("stages") for _, kind, _, _ in rows(stage)}
    assert {"str", "str | Column", "tuple[int, ...]", "float | None"} <= kinds
    assert not [kind for kind in kinds if re.search(r"Union|Optional|typing|Annotated|collections|\)", kind)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(REPO).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(
    "page", [REPO / "README.md", REPO / "docs" / "writing-a-recipe.md"], ids=lambda p: p.name
)
def test_the_recipe_on_the_page_passes_every_check(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in ("POLICY_URL", "SECOND_URL"):
        monkeypatch.setenv(url, "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-of-docs")
    (recipe,) = (b for b in blocks(page, "yaml") if "name:" in b and "stages:" in b and "source:" in b)
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (tmp_path / "prompts.jsonl").write_text('{"instruction": "a"}\n', encoding="utf-8")
    assert job.load(tmp_path / "recipe.yaml").name == "helpful-v1"


@pytest.mark.parametrize(("page", "count"), [("rounds.md", 2), ("reward-models.md", 1)])
def test_the_recipe_that_needs_no_model_runs(page: str, count: int, tmp_path: Path) -> None:
    (recipe,) = (b for b in blocks(REPO / "docs" / page, "yaml") if "-tried" in b)
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    run = forked.run("run", "recipe.yaml", "--out", "run", cwd=tmp_path)
    assert run.returncode == 0, run.stdout
    made = [json.loads(path.read_bytes()) for path in sorted((tmp_path / "run").rglob("summary.json"))]
    assert [summary["records"] for summary in made] == [3] * count


def test_every_recipe_fragment_is_yaml() -> None:
    fragments = [block for page in PAGES for block in blocks(page, "yaml")]
    assert len(fragments) > 4
    for fragment in fragments:
        yaml.safe_load(fragment)


def test_the_stage_on_the_page_passes_the_test_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, test = blocks(REPO / "docs" / "writing-a-stage.md", "python")
    (tmp_path / "my_stages.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    namespace: dict[str, object] = {}
    exec(compile(test, "writing-a-stage.md", "exec"), namespace)
    functions = [thing for name, thing in namespace.items() if name.startswith("test_")]
    assert len(functions) == 1
    functions[0]()  # type: ignore[operator]
    assert "my.shorten" in Registry([tmp_path / "my_stages.py"]).names("stages")
    assert len(code.splitlines()) < 50
