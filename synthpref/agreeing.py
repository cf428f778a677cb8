"""Judges measured against people, room by room: labelled files -> figures -> a page, and where asked for a run of the
recipe's judges before, and a section in the report and card of another run after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import orjson
import yaml
from pydantic import ValidationError

from synthpref import __version__, job
from synthpref.core.assess import assess
from synthpref.core.errors import Problem, RecipeError, RunStopped
from synthpref.core.export import Exporter
from synthpref.core.judged import Table
from synthpref.core.juries import Choice
from synthpref.core.labelled import Labelled
from synthpref.core.measure import Figures, Settings
from synthpref.core.source import Samples, Source
from synthpref.engine import recipe as recipes
from synthpref.engine.folder import finished, replaced, write_json
from synthpref.engine.recipe import Recipe, Use
from synthpref.engine.recipe_yaml import parse
from synthpref.io import agreement, rows
from synthpref.io.columns import plain
from synthpref.io.judged_rows import judges_of
from synthpref.io.labels import Gathered, gather
from synthpref.io.tables import table_of


@dataclass(frozen=True)
class Asked:
    """What is to be found out, and where it goes."""

    mapping: Labelled
    base: Path
    settings: Settings = field(default_factory=Settings)
    choice: Choice = field(default_factory=Choice)
    recipe: Path | None = None
    set_values: Sequence[str] = ()
    out: Path | None = None
    run: Path | None = None

    @property
    def name(self) -> str:
        """Of the report: the mapping's, or that of its first file."""
        first = PurePath(self.mapping.files[0]).name.split(".")[0] if self.mapping.files else "labels"
        return self.mapping.name or first

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"{self.name}-agree"


def mapping_of(tree: Any, where: str = "") -> Labelled:
    """A mapping of columns from plain values. Raises RecipeError with every mistake."""
    try:
        return Labelled.model_validate(tree)
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            path = ".".join(str(step) for step in detail["loc"])
            message = detail["msg"].removeprefix("Value error, ")
            problems.append(Problem(f"{where}: {path}" if where and path else where or path, message))
        raise RecipeError(problems) from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The plain values of a mapping file. Raises RecipeError."""
    try:
        tree = parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([Problem(str(path), f"cannot be read: {error}")]) from None
    if not isinstance(tree, dict):
        raise RecipeError(
            [Problem(str(path), "a mapping was expected", "start with files:, labels:, judges:")]
        )
    return tree


def agree(asked: Asked, view: job.View = lambda progress: None) -> Figures:
    """The figures, written to the folder, and into the run where one is named. Raises SynthprefError; where the
    judges of a recipe were stopped early, RunStopped: the same command goes on."""
    if asked.run is not None:
        finished(asked.run)
    gathered = gather(asked.mapping, asked.base, keep=asked.recipe is not None)
    table = table_of(asked.mapping, gathered)
    made_by: Figures = {}
    if asked.recipe is not None:
        table, made_by = _judged(asked, gathered, table, view)
    if not table.judges:
        raise RecipeError([Problem("judge", "nobody judges", "name a column with --judge, or a --recipe")])
    table = replace(table, notes=[*table.notes, *made_by.pop("notes", ())])
    found = assess(table, asked.settings, asked.choice, asked.mapping.families)
    head = {
        "name": asked.name,
        "version": __version__,
        "files": [PurePath(f).name for f in asked.mapping.files],
    }
    found = {**head, **made_by, **found}
    asked.folder.mkdir(parents=True, exist_ok=True)
    _write(asked.folder, found)
    if asked.run is not None:
        _write(asked.run, found)
        job.tell_of_judge(asked.run)
    return found


def _write(folder: Path, found: Figures) -> None:
    write_json(folder / agreement.JSON, found)
    with replaced(folder / agreement.PAGE) as file:
        file.write(agreement.markdown(found))


# ---- the judges of a recipe


def _judged(asked: Asked, gathered: Gathered, table: Table, view: job.View) -> tuple[Table, Figures]:
    """The table with the judges of the recipe added, which are run on its items first."""
    if not table.pairs:
        raise RecipeError([Problem("--recipe", "it judges pairs", "name two responses with --a and --b")])
    assert asked.recipe is not None
    folder = asked.folder / "judging"
    folder.mkdir(parents=True, exist_ok=True)
    source = _source(asked.mapping, gathered, folder.absolute() / "items.jsonl")
    recipe, left_out = scoring(recipes.load(asked.recipe, asked.set_values), source, f"{asked.name}-judging")
    result = job.run(recipe, folder, expected=len(table.ids), view=view)
    if result.stopped:
        raise RunStopped(f"{result.stopped}; the same command goes on")
    summary = finished(folder)
    costs = {
        model["model"]: model["cost_usd"] / max(model["completions"], 1)
        for model in summary["models"].values()
        if model["cost_usd"] is not None
    }
    added = judges_of(rows.read_rows(folder / "rows.parquet"), table.ids, costs)
    notes = (
        [f"Of the recipe, {', '.join(left_out)} took no part: only stages that judge do."] if left_out else []
    )
    simulated = [
        m["model"] for m in summary["models"].values() if m["backend"] == "simulated" and m["completions"]
    ]
    if simulated:
        notes.append(f"{', '.join(simulated)}: a simulation. Its figures show the machinery, not a judge.")
    judges = [*table.judges, *added]
    if twice := [judge.name for judge in table.judges if judge.name in {one.name for one in added}]:
        raise RecipeError([Problem("judge", f"{twice[0]!r} is in the files and in the recipe", "rename one")])
    return replace(table, judges=judges), {"recipe": recipe.name, "notes": notes}


def _source(mapping: Labelled, gathered: Gathered, path: Path) -> Source:
    """The items as rows of two samples, in a file that the recipe's judges read."""
    lacking = [n for n in ("prompt", "a", "b") if not all(n in i.facts for i in gathered.items.values())]
    if lacking:
        fix = "name its column: --prompt, --a and --b"
        raise RecipeError([Problem("--recipe", f"an item has no {' and no '.join(lacking)}", fix)])
    names = ("prompt", "a", "b", "model_a", "model_b", "reference")
    with path.open("wb") as file:
        for item in gathered.items.values():
            facts = {f"_{name}": item.facts.get(name) for name in names}
            facts |= {f"_{side}": _response(item.facts[side]) for side in ("a", "b")}
            record = plain({**(item.record or {}), **facts, "_id": item.id})
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    chat = all(isinstance(item.facts["prompt"], list) for item in gathered.items.values())
    prompt = {"messages": "_prompt"} if chat else {"prompt": "_prompt"}
    samples = tuple(Samples(text=f"_{side}", model=f"_model_{side}") for side in ("a", "b"))
    reference = "_reference" if mapping.reference else None
    return Source.model_validate(
        {"path": str(path), "id": "_id", "samples": samples, "reference": reference, **prompt}
    )


def _response(value: Any) -> Any:
    """The text of a response; the last message of a conversation."""
    return (
        value[-1].get("content")
        if isinstance(value, list) and value and isinstance(value[-1], dict)
        else value
    )


def scoring(recipe: Recipe, source: Source, name: str) -> tuple[Recipe, list[str]]:
    """The recipe with only its stages that give scores or comparisons, on another source; and the stages that were
    left out."""
    kept: list[Use] = []
    have = {"samples", *source.facts()}
    left_out = []
    for use in recipe.uses:
        gives = use.stage.gives()
        judges = any(fact.startswith(("score:", "comparisons:")) for fact in gives)
        lacking = {f for f in use.stage.needs() - have if not f.startswith("meta:")}
        if judges and not lacking and "samples" not in gives:
            kept.append(use)
            have |= gives
        else:
            left_out.append(use.label)
    if not kept:
        fix = "a recipe with judge.*, jury, debate, reward or verify was expected"
        raise RecipeError([Problem("--recipe", "no stage of it judges samples that are there", fix)])
    exporter: Exporter = recipe.registry.get("exporters", "trl-prompt-only").model_validate(
        {"format": "trl-prompt-only"}
    )
    places = [int(use.path.split("[")[1].split("]")[0]) for use in kept]
    tree = {
        **recipe.tree,
        "name": name,
        "source": source.model_dump(mode="json", exclude_defaults=True),
        "stages": [recipe.tree["stages"][i] for i in places],
        "export": {"format": "trl-prompt-only"},
    }
    head = recipe.head.model_copy(update={"name": name})
    changed = replace(
        recipe,
        head=head,
        source=source,
        uses=kept,
        export=exporter,
        tree=yaml.safe_load(yaml.safe_dump(tree)),
    )
    return changed, left_out
