from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard

from made import paired
from synthpref.core.export import Exporter
from synthpref.io import card, export, report

MODEL = {"model": "org/policy", "backend": "openai", "licence": "mit"}
RECIPE = "name: tried\nsource:\n  rows: [a]\n# ``` in a comment\n"


def made(
    exporter: Exporter | None = None, *, records: int = 3, licence: str | None = "mit", **summary: Any
) -> str:
    exporter = exporter or export.TrlPreference(format="trl-preference")
    rows = [paired(i, licence=licence) for i in range(3)]
    found = report.build(rows, {"name": "tried", "version": "0.1.0", "models": {"policy": MODEL}, **summary})
    stats = export.ExportStats(Path("data/train.parquet"), records, tuple(exporter.columns().names))
    return card.build(found, recipe=RECIPE, exporter=exporter, stats=stats)


def header(text: str) -> dict[str, Any]:
    loaded = DatasetCard(text)
    found: dict[str, Any] = loaded.data.to_dict()
    return found


def test_the_hub_reads_the_header() -> None:
    assert header(made()) == {
        "pretty_name": "tried",
        "license": "mit",
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "tags": ["synthetic", "preference", "synthpref", "dpo"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train.parquet"}]}
        ],
    }


@pytest.mark.parametrize(
    ("records", "size"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**6 - 1, "100K<n<1M")],
)
def test_sizes(records: int, size: str) -> None:
    assert header(made(records=records))["size_categories"] == [size]


@pytest.mark.parametrize(
    ("prompts", "model", "found"),
    [
        ("mit", "MIT", {"license": "other", "license_name": "mixed"}),
        ("cc-by-4.0", "cc-by-4.0", {"license": "cc-by-4.0"}),
        ("mit", "apache-2.0", {"license": "other", "license_name": "mixed"}),
        (None, "mit", {"license": "other", "license_name": "mixed"}),
        ("My own: terms!", "My own: terms!", {"license": "other", "license_name": "my-own-terms"}),
        (None, None, {"license": "unknown"}),
    ],
)
def test_a_licence_is_claimed_only_where_all_agree(
    prompts: str | None, model: str | None, found: dict[str, str]
) -> None:
    text = made(licence=prompts, models={"policy": {**MODEL, "licence": model}})
    assert {k: v for k, v in header(text).items() if k.startswith("license")} == found
    for name in filter(None, (prompts, model)):
        assert f"| {name} |" in text


def test_what_a_stranger_needs() -> None:
    text = made(description="Pairs about sums.")
    for part in (
        "Pairs about sums.",
        "3 records in the format `trl-preference`",
        'load_dataset("ORG/NAME", split="train")',
        "from trl import DPOConfig, DPOTrainer",
        "Labels are by models",
        "| policy | org/policy | openai | mit |",
        "````yaml\nname: tried\n",
        "| score 'good' |",
        "| chosen, words |",
    ):
        assert part in text
    assert "Simulated" not in text


def test_simulated_is_said_plainly() -> None:
    text = made(models={"judge": {**MODEL, "backend": "simulated"}})
    assert "> **Simulated.**" in text
    assert "Do not train on them." in text
    assert "simulated" in header(text)["tags"]


def test_scores_that_came_with_the_source() -> None:
    assert "Scores or responses came with the source" in made(models={})


@pytest.mark.parametrize(
    ("kind", "format", "trainer"),
    [
        (export.TrlKto, "trl-kto", "KTOTrainer"),
        (export.TrlReward, "trl-reward", "RewardTrainer"),
        (export.Sft, "sft", "SFTTrainer"),
        (export.TrlPromptOnly, "trl-prompt-only", None),
    ],
)
def test_how_to_load_names_the_trainer(kind: type[Exporter], format: str, trainer: str | None) -> None:
    text = made(kind(format=format))
    assert header(text)["tags"]
    assert ("Trainer" in text) is (trainer is not None)
    assert trainer is None or f"{trainer}(model=" in text


def test_the_code_on_the_card_is_code() -> None:
    compile(made().split("```python\n")[1].split("```")[0], "card", "exec")
