"""Judges measured against people, room by room: labelled files -> figures -> a page, and where asked for a run of the
recipe's judges before, and a section in the report and card of another run after."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import orjson
from pydantic import ValidationError

from synthpref import __version__, job
from synthpref.core.assess import assess
from synthpref.core.errors import Problem, RecipeError, RunStopped
from synthpref.core.judged import Table
from synthpref.core.juries import Choice
from synthpref.core.labelled import Labelled, columns_of
from synthpref.core.measure import Figures, Settings
from synthpref.core.source import Samples, Source
from synthpref.core.stage import ROLE
from synthpref.engine import recipe as recipes
from synthpref.engine.folder import finished, replaced, write_json
from synthpref.engine.recipe_yaml import parse
from synthpref.engine.registry import Registry
from synthpref.io import agreement, rows
from synthpref.io.columns import plain
from synthpref.io.judged_rows import judges_of
from synthpref.io.labels import Gathered, gather, known_columns
from synthpref.io.propose import Column, Options, columns, options_for
from synthpref.io.tables import table_of
from synthpref.places import looked_at


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
    run: Path | str | None = None

    @property
    def name(self) -> str:
        """Of the report: the mapping's, or that of its first file."""
        first = PurePath(self.mapping.files[0]).name.split(".")[0] if self.mapping.files else ""
        return re.sub(r"[^\w.-]+", "-", self.mapping.name or first).strip("-.") or "labels"

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"{self.name}-agree"


def mapping_of(tree: dict[str, Any], base: Path = Path(), where: str = "") -> Labelled:
    """A mapping of columns from plain values. Raises RecipeError with every mistake."""
    try:
        return Labelled.model_validate(_columns_named(tree, base))
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            path = ".".join(str(step) for step in detail["loc"])
            message = detail["msg"].removeprefix("Value error, ")
            problems.append(Problem(f"{where}: {path}" if where and path else where or path, message))
        raise RecipeError(problems) from None


def _columns_named(tree: dict[str, Any], base: Path) -> dict[str, Any]:
    """The values with columns in short form spelled out, if names of columns in the files hold its marks."""
    files = tree.get("files") or ()
    paths = [base / Path(name).expanduser() for name in ([files] if isinstance(files, str) else files)]
    if not any(mark in str(tree.get(key)) for key in ("labels", "judges", "says") for mark in "/+,"):
        return tree
    known = known_columns([path for path in paths if path.is_file()], tree.get("each"))

    def spelled(value: Any) -> Any:
        short = value.get("columns") if isinstance(value, dict) else value
        if isinstance(short, str):
            rest = {k: v for k, v in value.items() if k != "columns"} if isinstance(value, dict) else {}
            with suppress(ValueError):
                return {**columns_of(short, known), **rest}
        return value

    changed = dict(tree)
    if isinstance(tree.get("judges"), dict):
        changed["judges"] = {name: spelled(value) for name, value in tree["judges"].items()}
    for key in ("labels", "says"):
        if key in tree:
            value = tree[key]
            changed[key] = (
                [spelled(one) for one in value] if isinstance(value, list | tuple) else spelled(value)
            )
    return changed


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
        with looked_at(asked.run, "summary.json") as folder:
            finished(folder)
    gathered = gather(asked.mapping, asked.base, keep=asked.recipe is not None)
    table = table_of(asked.mapping, gathered)
    made_by: Figures = {}
    if asked.recipe is not None:
        table, made_by = _judged(asked, asked.recipe, gathered, table, view)
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
        with looked_at(asked.run, "summary.json", *job.WRITTEN, changing=True) as folder:
            _write(folder, found)
            job.tell_of_judge(folder)
    return found


@dataclass(frozen=True)
class Proposal:
    """Options for files without a mapping, as far as they could be tried."""

    columns: Sequence[Column]
    options: Options
    problem: str = ""
    """Why they do not work yet; "" where they were tried and do."""


def propose(files: Sequence[Path]) -> Proposal:
    """Options that may fit, tried on the files. What keeps them from working is left out, one or two at a time; where
    that is not enough, or nobody judges, the problem is named."""
    there = columns(files)
    options = options_for(there, len(files))
    if any("COLUMN" in value for _, value in options):
        return Proposal(there, options, "no column looks like a judge's verdicts: name it")
    problem = _why_not(files, options)
    if not problem:
        return Proposal(there, options)
    may_go = [i for i, (name, _) in enumerate(options) if name not in ("--judge", "--says")]
    may_go += [i for i, (name, _) in enumerate(options) if name == "--judge"]
    for gone in [{i} for i in may_go] + [{i, j} for i, j in combinations(may_go, 2)]:
        fewer = [option for i, option in enumerate(options) if i not in gone]
        if any(name in ("--judge", "--says") for name, _ in fewer) and not _why_not(files, fewer):
            return Proposal(there, fewer)
    return Proposal(there, options, problem)


def _why_not(files: Sequence[Path], options: Options) -> str:
    """Why the options do not read the files; "" where they do."""
    tree: dict[str, Any] = {"files": [str(path.absolute()) for path in files]}
    for name, value in options:
        key = name.removeprefix("--").replace("-", "_")
        if key in ("id", "by"):
            tree[key] = value.split(",")
        elif key in ("label", "human"):
            tree.setdefault({"label": "labels", "human": "people"}[key], []).append(value)
        elif key == "judge":
            judge, _, column = value.partition("=")
            tree.setdefault("judges", {})[judge] = column
        else:
            tree[key] = value
    try:
        mapping = mapping_of(tree)
        table = table_of(mapping, gather(mapping, Path()))
    except RecipeError as error:
        return str(error.problems[0])
    judged = any((~np.isnan(shares)).any() for judge in table.judges for shares in judge.shares.values())
    judged = judged or any(judge.values is not None for judge in table.judges)
    return "" if judged else "no verdict of a judge could be read"


def _write(folder: Path, found: Figures) -> None:
    write_json(folder / agreement.JSON, found)
    with replaced(folder / agreement.PAGE) as file:
        file.write(agreement.markdown(found))


# ---- the judges of a recipe


def _judged(
    asked: Asked, path: Path, gathered: Gathered, table: Table, view: job.View
) -> tuple[Table, Figures]:
    """The table with the judges of the recipe added, which are run on its items first."""
    if not table.pairs:
        raise RecipeError([Problem("--recipe", "it judges pairs", "name two responses with --a and --b")])
    folder = asked.folder / "judging"
    folder.mkdir(parents=True, exist_ok=True)
    source = _source(asked.mapping, gathered, folder.absolute() / "items.jsonl")
    left_out: list[str] = []

    def change(tree: dict[str, Any]) -> dict[str, Any]:
        changed, left = scoring(tree, path.parent, source, f"{asked.name}-judging")
        left_out.extend(left)
        return changed

    recipe = recipes.load(path, asked.set_values, change=change)
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


def scoring(
    recipe: dict[str, Any], base: Path, source: Source, name: str
) -> tuple[dict[str, Any], list[str]]:
    """A recipe, as plain values, with only its stages that give scores or comparisons, and their models, on another
    source; and the stages that were left out. What is wrong with a stage is left for the recipe's checks to find."""
    registry = Registry([base / plugin for plugin in recipe.get("plugins") or ()])
    have = {"samples", *source.facts()}
    kept: list[Any] = []
    left_out: list[str] = []
    roles: set[str] = set()
    for item in recipe.get("stages") or ():
        word, fields = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, {})
        try:
            stage = registry.get("stages", word).model_validate(fields or {}, context={"base": base})
        except (RecipeError, ValidationError, TypeError):
            kept.append(item)
            roles |= set(recipe.get("models") or {})
            continue
        gives = stage.gives()
        lacking = {fact for fact in stage.needs() - have if not fact.startswith("meta:")}
        judges = any(fact.startswith(("score:", "comparisons:")) for fact in gives)
        if judges and not lacking and not stage.renames:
            kept.append(item)
            have |= gives
            roles |= {role for _, role in stage.marked(ROLE)}
        else:
            left_out.append(word)
    if not kept:
        fix = "a recipe with judge.*, jury, debate, reward or verify was expected"
        raise RecipeError([Problem("--recipe", "no stage of it judges samples that are there", fix)])
    changed = {
        **recipe,
        "name": name,
        "models": {role: spec for role, spec in (recipe.get("models") or {}).items() if role in roles},
        "source": source.model_dump(mode="json", exclude_defaults=True),
        "stages": kept,
        "export": {"format": "trl-prompt-only"},
    }
    return changed, left_out
