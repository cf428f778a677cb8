"""The command line: parses, calls `job`, prints. Imports what a command needs when it runs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synthpref import __version__
from synthpref.cli_agree import agree

if TYPE_CHECKING:
    from rich.console import Console

EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "the recipe or the command line is wrong; nothing was asked",
    3: "stopped early (budget, rejects, interrupt, outage); the same command goes on",
    130: "interrupted twice; left at once, and the same command goes on",
}

app = typer.Typer(
    name="synthpref",
    help="Preference data for DPO, KTO and reward models, from prompts and model endpoints, by recipe.",
    epilog="Exit codes: " + "; ".join(f"{code} {text}" for code, text in EXIT_CODES.items()),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
RunPath = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/helpful-v1 or s3://bucket/helpful-v1.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a field: models.policy.temperature=0.7", metavar="PATH=VALUE"),
]
Out = Annotated[
    str | None, typer.Option("--out", help="The run folder, also at a URL. Default: runs/NAME of the recipe.")
]


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=True, highlight=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"synthpref {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write the recipe.")] = Path("recipe.yaml"),
    template: Annotated[
        str, typer.Option(help="Which template; `synthpref init --list` names them.")
    ] = "on-policy",
    list_: Annotated[bool, typer.Option("--list", help="List the templates and leave.")] = False,
) -> None:
    """Write a commented recipe to start from. Asks nothing and overwrites nothing."""
    from synthpref.core.errors import Problem, RecipeError
    from synthpref.engine.prompts import shipped
    from synthpref.engine.registry import did_you_mean

    folder = shipped("recipes") / "templates"
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if list_:
        for name in known:
            about = (folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
            print(f"{name:16} {about.lstrip('# ')}")
        return
    if template not in known:
        raise RecipeError([Problem("--template", f"no template {template!r}", did_you_mean(template, known))])
    prompts = path.parent / "prompts.jsonl"
    if path.exists():
        raise RecipeError([Problem(str(path), "is there already", "name another path")])
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / f"{template}.yaml", path)
    written = str(path)
    if not prompts.exists():
        shutil.copyfile(folder / "prompts.jsonl", prompts)
        written += f" and {prompts}, a few prompts to replace with yours"
    print(f"Wrote {written}.\nNext: synthpref check {path}")


@app.command()
def check(
    recipe: RecipePath,
    set_: Settings = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 2 if there are warnings.")] = False,
) -> None:
    """Report every mistake that can be seen without a call, what a run will ask for and cost, and warnings:
    what will make its labels worth less."""
    from synthpref import job
    from synthpref.view import plan_table, warning_lines

    loaded = job.load(recipe, set_ or [])
    estimate = job.estimate(loaded)
    console = _console()
    console.print(plan_table(estimate), soft_wrap=False)
    warned = job.warnings(loaded, estimate)
    for line in warning_lines(warned):
        console.print(line)
    names = ", ".join(dict.fromkeys(one.name for one in warned))
    silenced = f"; what is meant so: allow: [{names}]" if warned else ""
    count = f"{len(warned)} warning{'s' if len(warned) > 1 else ''}" if warned else "no warnings"
    console.print(f"{recipe}: no mistakes found, {count}{silenced}; nothing was asked.", markup=False)
    if strict and warned:
        raise typer.Exit(2)


@app.command()
def preview(
    recipe: RecipePath,
    n: Annotated[int, typer.Option("-n", min=1, help="How many rows of the source.")] = 3,
    set_: Settings = None,
    out: Out = None,
) -> None:
    """Run a few rows for real and show in full what becomes of them."""
    from synthpref import job
    from synthpref.core.source import is_url
    from synthpref.io.show import show_row

    loaded = job.load(recipe, set_ or [])
    here = out if out and not is_url(out) else Path("runs") / loaded.name
    folder = Path(f"{here}-preview")
    rows = job.preview(loaded, folder, n)
    console = _console()
    for row in rows:
        console.print(show_row(row))
    left = [line for line in (folder / "left.jsonl").read_text(encoding="utf-8").splitlines() if line]
    _print_left(console, left)
    console.print(f"{len(rows)} rows came through, {len(left)} left; all of it is in {folder}.")


def _print_left(console: Console, lines: list[str]) -> None:
    import json

    for line in lines:
        row = json.loads(line)
        how = {"drop": "dropped", "reject": "rejected"}[row["how"]]
        console.print(
            f"row {row['id']}: {how} by {row['stage']}: {row['reason']}. {row['detail']}", markup=False
        )


@app.command()
def run(
    recipe: RecipePath,
    set_: Settings = None,
    out: Out = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows of the source.")] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Of a run at a URL: where it works, on a fast disk. Default: SYNTHPREF_WORK, or the cache."
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="ray", help="Walk the rows on a Ray cluster; see docs/scaling.md."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of the cluster: auto, HOST:PORT or ray://…; else one is started here.")
    ] = None,
    shards: Annotated[int | None, typer.Option(min=1, help="In how many parts. Default: 4 a worker.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many. Default: what there is room for.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs of a worker. Default: what its models need.")
    ] = None,
) -> None:
    """Run a recipe into a run folder, or go on with the run that is there, here or on a cluster."""
    from contextlib import ExitStack

    from synthpref import job
    from synthpref.engine.progress import Progress
    from synthpref.places import place
    from synthpref.view import watching

    cluster = None
    if on is not None:
        from synthpref.core.errors import Problem, RecipeError
        from synthpref.on_ray import Cluster

        if on != "ray":
            raise RecipeError([Problem("--on", f"no cluster called {on!r}", "write --on ray")])
        cluster = Cluster(recipe, tuple(set_ or ()), address, shards, workers, gpus)
    loaded = job.load(recipe, set_ or [])
    estimate = job.estimate(loaded)
    console = _console(stderr=True)
    expected = min(estimate.rows, limit or estimate.rows)
    cost = (
        "" if estimate.cost is None else f", about ${estimate.cost * expected / max(estimate.rows, 1):,.2f}"
    )
    console.print(f"{loaded.name}: {expected:,} rows, {len(loaded.uses)} stages{cost}")
    for warned in job.warnings(loaded, estimate):
        console.print(f"warning: {warned}", markup=False)
    where = place(out or Path("runs") / loaded.name, work)
    folder = where.name
    try:
        with ExitStack() as stack:

            def view(progress: Progress) -> None:
                stack.enter_context(watching(console, progress))

            result = job.run(loaded, where, limit=limit, expected=expected, view=view, cluster=cluster)
    except KeyboardInterrupt:
        console.print(f"Left at once. What was answered is kept; the same command goes on: {folder}")
        raise typer.Exit(130) from None
    books = result.books
    added = f" + {books.added:,} made" if books.added else ""
    console.print(
        f"{books.input:,} rows read{added} = {books.exported:,} exported + {books.dropped:,} dropped "
        f"+ {books.rejected:,} rejected" + ("" if not result.stopped else " so far")
    )
    if result.stopped:
        again = "mend it and run the same command again" if result.failed else "the same command goes on"
        console.print(f"[bold]Stopped[/bold]: {result.stopped}\nNothing is lost; {again}.", markup=True)
        raise typer.Exit(1 if result.failed else 3)
    if books.rejected:
        console.print(
            f"Rejected rows are tried again by the same command; why they were: {folder}/left.jsonl"
        )
    console.print(f"{result.records:,} records in {folder}/dataset")
    console.print(
        f"Next: synthpref report {folder} · synthpref show {folder} · synthpref push {folder} ORG/NAME"
    )


@app.command()
def status(run: RunPath) -> None:
    """How far a run has come, also while it goes on."""
    from synthpref.places import status as lines_of

    console = _console()
    for line in lines_of(run):
        console.print(line, markup=False)


@app.command()
def show(
    run: RunPath,
    row_id: Annotated[
        str, typer.Argument(help="A row's id or its beginning; without it, ids to choose from.")
    ] = "",
    calls: Annotated[
        bool, typer.Option("--calls", help="Also each prompt as it was sent, with its replies.")
    ] = False,
) -> None:
    """Everything that led to a pair: prompt, answers, verdicts, the rule, the rationale."""
    from synthpref.engine.folder import trace
    from synthpref.io.show import show_calls, show_left, show_row
    from synthpref.places import ANSWERS, looked_at

    console = _console()
    with looked_at(run, *ANSWERS) as folder:
        found, outcome, asked = trace(folder, row_id)
    if outcome is None:
        what = (
            f"No one row begins with {row_id!r}. There are:"
            if row_id
            else "Rows of this run (the first ones):"
        )
        console.print("\n".join([what, *found]), markup=False)
        raise typer.Exit(0 if found and not row_id else 2)
    console.print(show_row(outcome.row))
    if outcome.kind != "row":
        console.print(show_left(outcome.kind, outcome.stage, outcome.reason, outcome.detail))
    if calls:
        console.print(show_calls(asked))


@app.command()
def report(run: RunPath) -> None:
    """What the numbers say about the labels of a finished run."""
    from rich.markdown import Markdown

    from synthpref.engine.folder import report_of
    from synthpref.places import looked_at

    with looked_at(run, "summary.json", "report.md") as folder:
        text = report_of(folder)
    _console().print(Markdown(text), soft_wrap=False)


@app.command()
def export(
    run: RunPath,
    format: Annotated[
        str, typer.Option(help="E.g. trl-kto; `synthpref schema` has them all.")
    ] = "trl-preference",
    out: Annotated[Path | None, typer.Option(help="Where to. Default: RUN/dataset-FORMAT.")] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="JSON lines instead of Parquet.")] = False,
) -> None:
    """Write a finished run's dataset in another format. Asks no model."""
    from synthpref import job

    where, records = job.export_run(run, job.exporter_of(format), out, jsonl=jsonl)
    _console().print(f"{records:,} records in {where}")


@app.command()
def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or a folder that export wrote.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The dataset on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make it private.")] = False,
) -> None:
    """Upload the dataset and its card to the Hugging Face Hub, with HF_TOKEN or the token you logged in with."""
    from synthpref.engine.folder import JOURNAL, finished
    from synthpref.io.hub import push as upload
    from synthpref.places import looked_at

    with looked_at(run, "summary.json", "dataset/*", "README.md", "data/*") as folder:
        if (folder / JOURNAL).exists() or (folder / "dataset").exists():
            finished(folder)
            folder = folder / "dataset"
        _console().print(upload(folder, repo, private=private))


@app.command()
def stages(
    name: Annotated[str, typer.Argument(help="A stage, to see its fields.")] = "",
    plugin: Annotated[list[Path] | None, typer.Option(help="A local plugin file to include.")] = None,
) -> None:
    """What stages there are, and the fields of one."""
    from synthpref.engine.reference import stage_fields, stage_list
    from synthpref.engine.registry import Registry

    registry = Registry(plugin or [])
    print(stage_fields(registry, name) if name else stage_list(registry))


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, so that an editor completes them."""
    import json

    from synthpref.engine.registry import Registry
    from synthpref.engine.schema import recipe_schema

    print(json.dumps(recipe_schema(Registry()), indent=2))


app.command()(agree)


def main(args: list[str] | None = None) -> Any:
    """The entry point: errors become one message and an exit code."""
    try:
        app(args)
    except Exception as error:
        from synthpref.core.errors import RecipeError, SynthprefError

        if not isinstance(error, SynthprefError):
            raise
        console = _console(stderr=True)
        if isinstance(error, RecipeError) and len(error.problems) > 1:
            console.print(f"{len(error.problems)} mistakes:", markup=False)
        console.print(str(error) if isinstance(error, RecipeError) else f"error: {error}", markup=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
