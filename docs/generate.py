"""Write docs/reference/ from the code: stages, models, sources, exports, commands, exit codes."""

from __future__ import annotations

import inspect
from pathlib import Path

import typer
from pydantic import BaseModel

from synthpref.cli import EXIT_CODES, app
from synthpref.core.labelled import Judge, Labelled, Price, Said, Values
from synthpref.core.source import Source
from synthpref.engine.recipe import Limits, RecipeHead
from synthpref.engine.reference import about, rows
from synthpref.engine.registry import BUILT_IN, Kind, Registry
from synthpref.engine.rounds import Rounds
from synthpref.models.batch_settings import Batching

OUT = Path(__file__).parent / "reference"
NOTICE = "<!-- Written by `make docs` from the code; edits here are lost. -->\n\n"


def table(thing: type[BaseModel]) -> str:
    """The fields of a pydantic class."""
    lines = ["| field | type | default | what it is |", "|---|---|---|---|"]
    for name, kind, default, text in rows(thing):
        shown = "required" if "required" in default else f"`{default.removeprefix(' = ')}`"
        cells = (f"`{name}`", f"`{kind}`", shown, text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else "No fields."


def section(name: str, thing: type[BaseModel], level: int = 2) -> str:
    return f"{'#' * level} `{name}`\n\n{inspect.getdoc(thing)}\n\n{table(thing)}\n"


def built_in(registry: Registry, kind: Kind) -> list[tuple[str, type[BaseModel]]]:
    return [(name, registry.get(kind, name)) for name in BUILT_IN[kind]]


def stages(registry: Registry) -> str:
    words = built_in(registry, "stages")
    lines = [
        f"| [`{word}`](#{word.replace('.', '').replace('_', '_')}) | {about(stage)} |"
        for word, stage in words
    ]
    head = "# Stages\n\n| word | what it does |\n|---|---|\n" + "\n".join(lines)
    return head + "\n\n" + "\n".join(section(word, stage) for word, stage in words)


def recipe(registry: Registry) -> str:
    parts = [
        "# A recipe's sections\n",
        "## Top level\n\nBesides these: `models`, `source`, `stages`, `export`.\n\n"
        + table(RecipeHead)
        + "\n",
        section("limits", Limits),
        section("rounds", Rounds),
        section("source", Source),
        "## `models`\n\nA mapping from role to model; `backend` says which of these it is.\n",
        *(section(f"backend: {name}", spec, 3) for name, spec in built_in(registry, "backends")),
        section("batch", Batching, 3),
        "## `export`\n\n`format` says which of these it is.\n",
        *(section(f"format: {name}", exporter, 3) for name, exporter in built_in(registry, "exporters")),
    ]
    return "\n".join(parts)


def agree() -> str:
    head = "# Mapping files\n\nWhat `synthpref agree` reads when it is given a `.yaml` file (see ../judging.md).\n"
    parts = [
        ("The file", Labelled),
        ("`judges`", Judge),
        ("`labels`", Said),
        ("`values`", Values),
        ("`price`", Price),
    ]
    return "\n".join(
        [head, *(f"## {name}\n\n{inspect.getdoc(kind)}\n\n{table(kind)}\n" for name, kind in parts)]
    )


def commands() -> str:
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="synthpref")
    parts = [f"# Commands\n\n{group.help}\n"]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        usage = command.get_usage(typer.Context(command, info_name=f"synthpref {name}", parent=None))
        parts.append(f"## `synthpref {name}`\n\n{' '.join((command.help or '').split())}\n\n    {usage}\n")
        lines = []
        for parameter in command.params:
            if parameter.name == "help":
                continue
            names = ", ".join(f"`{o}`" for o in [*parameter.opts, *parameter.secondary_opts])
            text = " ".join((getattr(parameter, "help", "") or "").split())
            lines.append(f"| {names} | {text} |")
        if lines:
            parts.append("| argument or option | what it is |\n|---|---|\n" + "\n".join(lines) + "\n")
    codes = "\n".join(f"| {code} | {text} |" for code, text in EXIT_CODES.items())
    return "\n".join(parts) + f"\n## Exit codes\n\n| code | meaning |\n|---|---|\n{codes}\n"


def pages() -> dict[str, str]:
    """Each page of docs/reference/ by its file name."""
    registry = Registry()
    texts = {"stages.md": stages(registry), "recipe.md": recipe(registry), "commands.md": commands()}
    texts["agree.md"] = agree()
    return {name: NOTICE + text.rstrip() + "\n" for name, text in texts.items()}


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for name, text in pages().items():
        (OUT / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
