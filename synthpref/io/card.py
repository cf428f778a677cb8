"""The dataset card: README.md with the YAML header that the Hub reads, and what a stranger needs to know."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from synthpref.core.export import Exporter
from synthpref.io.export import ExportStats
from synthpref.io.findings import is_simulated
from synthpref.io.page import certainty, spread_table
from synthpref.io.tally import table

_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)
_HUB_LICENCES = frozenset(
    [
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nd-4.0",
        "cdla-permissive-2.0",
        "odc-by",
        "odbl",
        "pddl",
        "gpl-3.0",
        "openrail",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.3",
        "gemma",
    ]
)
_TRAINERS = {
    "trl-preference": ("DPOTrainer", "DPOConfig"),
    "trl-preference-standard": ("DPOTrainer", "DPOConfig"),
    "trl-implicit": ("DPOTrainer", "DPOConfig"),
    "trl-reward": ("RewardTrainer", "RewardConfig"),
    "trl-kto": ("KTOTrainer", "KTOConfig"),
    "sft": ("SFTTrainer", "SFTConfig"),
}
_TAGS = {"trl-reward": "reward-model", "trl-kto": "kto", "sft": "sft", "trl-prompt-only": "prompts"}


def build(report: Mapping[str, Any], *, recipe: str, exporter: Exporter, stats: ExportStats) -> str:
    """The card of what `stats` says was written. `recipe` is its YAML, without secrets."""
    name = str(report.get("name", "dataset"))
    parts = [f"---\n{_header(name, report, exporter, stats)}---", f"# {name}"]
    if report.get("description"):
        parts.append(str(report["description"]))
    if is_simulated(report):
        parts.append(
            "> **Simulated.** At least one of the models behind this dataset was a simulation: texts and labels are "
            "made up to show or test the machinery. Do not train on them."
        )
    about = " ".join((type(exporter).__doc__ or "").split("\n\n")[0].split())
    parts.append(
        f"{stats.records:,} records in the format `{exporter.format}`, made with "
        f"synthpref {report.get('version', '')}.\n\n"
        f"{about}\n\nColumns: {', '.join(f'`{column}`' for column in stats.columns)}."
    )
    parts += ["## Loading", _loading(exporter.format, stats)]
    parts += ["## How the labels came about", _labels(report)]
    parts += ["## Figures", _figures(report)]
    parts += ["## Models and licences", _models(report)]
    parts += ["## Recipe", f"Running this again makes the dataset again:\n\n{_fenced(recipe)}"]
    return "\n\n".join(filter(None, parts)) + "\n"


def _header(name: str, report: Mapping[str, Any], exporter: Exporter, stats: ExportStats) -> str:
    licences = _licences(report)
    header: dict[str, Any] = {"pretty_name": name, **_licence(licences)}
    header["task_categories"] = ["text-generation"]
    header["size_categories"] = [next((size for top, size in _SIZES if stats.records < top), "n>1T")]
    tags = ["synthetic", "preference", "synthpref", _TAGS.get(exporter.format, "dpo")]
    header["tags"] = [*tags, "simulated"] if is_simulated(report) else tags
    data = [{"split": "train", "path": f"data/{stats.path.name}"}]
    config: dict[str, Any] = {"config_name": "default", "data_files": data}
    if stats.sha256:
        # `datasets` keys its cache by the folder's name and by this, not by what the files hold: without it, a run that
        # was edited, or another run's folder of the same name, would be loaded with the old rows.
        config["description"] = f"sha256:{stats.sha256[:32]}"
    header["configs"] = [config]
    return str(yaml.safe_dump(header, sort_keys=False, allow_unicode=True))


def _licences(report: Mapping[str, Any]) -> list[str]:
    """Every licence that anything in the dataset stands under; "" for what has none named."""
    named = [str(model.get("licence") or "") for model in report.get("models", {}).values()]
    named += ["" if name == "not named" else name for name in report.get("licences", {})]
    return list(dict.fromkeys(named))


def _licence(licences: Sequence[str]) -> dict[str, str]:
    """A licence is claimed only where all parts name the same one."""
    if len(licences) != 1 or not licences[0]:
        return {"license": "other", "license_name": "mixed"} if any(licences) else {"license": "unknown"}
    name = licences[0].lower()
    if name in _HUB_LICENCES:
        return {"license": name}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", name).strip("-") or "other"}


def _loading(format: str, stats: ExportStats) -> str:
    lines = ["from datasets import load_dataset", "", 'data = load_dataset("ORG/NAME", split="train")']
    if format in _TRAINERS:
        trainer, config = _TRAINERS[format]
        lines[0] += f"\nfrom trl import {config}, {trainer}"
        lines.append(f'{trainer}(model="...", args={config}(output_dir="out"), train_dataset=data).train()')
    note = "Columns that the trainer does not know are passed over." if format in _TRAINERS else ""
    return f"```python\n{chr(10).join(lines)}\n```" + (f"\n\n{note}" if note else "")


def _labels(report: Mapping[str, Any]) -> str:
    text = "Labels are by models and rules, as the recipe says; no person has checked them."
    if not report.get("models"):
        text = "Scores or responses came with the source; pairs follow from rules, as the recipe says."
    return f"{text}\n\n" + "\n".join(f"- {line}" for line in report["statements"])


def _figures(report: Mapping[str, Any]) -> str:
    spreads = {
        **certainty(report["pairs"]),
        **{f"score {name!r}": score["values"] for name, score in report["scores"].items()},
        "chosen, words": report["length"]["chosen_words"],
        "rejected, words": report["length"]["rejected_words"],
    }
    parts = [spread_table(spreads)]
    for name, bins in (
        ("margin", report["pairs"]["margin_bins"]),
        *((f"score {name!r}", score["bins"]) for name, score in report["scores"].items()),
    ):
        if bins:
            most = max(count for *_, count in bins)
            lines = [
                (f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}", n, "█" * round(20 * n / most))
                for low, high, n in bins
            ]
            parts.append(table((name, "count", ""), lines))
    return "\n\n".join(filter(None, parts))


def _models(report: Mapping[str, Any]) -> str:
    lines = [
        (role, model.get("model", ""), model.get("backend", ""), model.get("licence") or "not named")
        for role, model in report.get("models", {}).items()
    ]
    parts = [table(("role", "model", "backend", "licence of its outputs"), lines)] if lines else []
    writers = [
        (name, m["samples"], m["chosen"], m["rejected"]) for name, m in report["samples"]["models"].items()
    ]
    parts += [table(("responses by", "responses", "chosen", "rejected"), writers)] if writers else []
    prompts = list(report.get("licences", {}).items())
    return "\n\n".join([*parts, *([table(("licence of the prompts", "rows"), prompts)] if prompts else [])])


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text.rstrip()}\n{fence}"
