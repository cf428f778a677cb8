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

    from synthpref.engine.recipe import Recipe
    from synthpref.job import Result
    from synthpref.on_ray import Cluster
    from synthpref.places import Place

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
    from synthpref.view import alike, plan_table, sum_line, turns_line, warning_lines

    loaded = job.load(recipe, set_ or [])
    console = _console()
    if loaded.head.rounds:
        from synthpref import rounds

        asked = rounds.Asked(recipe, set_ or [], Path("runs") / loaded.name)
        plans = [(made, estimate) for _, made, estimate in asked.plans(loaded.head.rounds.count)]
    else:
        plans = [(loaded, job.estimate(loaded))]
    for numbers, estimate in alike([estimate for _, estimate in plans]):
        if len(plans) > 1:
            console.print(f"{numbers}:" + ("" if estimate else " its rows come from the round before"))
        if estimate:
            console.print(plan_table(estimate), soft_wrap=False)
            if said := turns_line(estimate):
                console.print(said, markup=False)
    if len(plans) > 1:
        console.print(sum_line([estimate for _, estimate in plans]))
    found = [one for made, estimate in plans if estimate for one in job.warnings(made, estimate)]
    warned = list(dict.fromkeys(found))
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
    out: Annotated[
        str | None, typer.Option("--out", help="The folder. Default: runs/NAME-preview of the recipe.")
    ] = None,
) -> None:
    """Run a few rows for real and show in full what becomes of them."""
    from synthpref import job
    from synthpref.core.errors import Problem, RecipeError
    from synthpref.core.source import is_url
    from synthpref.io.show import show_row

    loaded = job.load(recipe, set_ or [])
    if out and is_url(out):
        raise RecipeError(
            [Problem("--out", "a preview is made in a folder here", "name one, or leave it out")]
        )
    folder = Path(out or Path("runs") / f"{loaded.name}-preview")
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
    from synthpref import job
    from synthpref.core.errors import Problem, RecipeError
    from synthpref.places import place

    cluster = None
    of_cluster = {"--address": address, "--shards": shards, "--workers": workers, "--gpus": gpus}
    if on is None and (given := [name for name, value in of_cluster.items() if value is not None]):
        raise RecipeError([Problem(given[0], "only with --on ray", "add --on ray, or leave it out")])
    if on is not None:
        from synthpref.on_ray import Cluster

        if on != "ray":
            raise RecipeError([Problem("--on", f"no cluster called {on!r}", "write --on ray")])
        cluster = Cluster(address, shards, workers, gpus)
    loaded = job.load(recipe, set_ or [])
    console = _console(stderr=True)
    where = place(out or Path("runs") / loaded.name, work)
    if work and not where.mirror:
        raise RecipeError([Problem("--work", "only with --out at a URL", "leave it out")])
    folder = where.name

    def walk(recipe: Recipe, out: Path | Place) -> job.Result:
        at = place(out) if isinstance(out, Path) else out
        return _walk(console, recipe, at, limit, cluster, of_rounds=loaded.head.rounds is not None)

    try:
        if wanted := loaded.head.rounds:
            from synthpref import rounds

            if where.mirror:
                fix = "name a folder, and `synthpref push` the rounds from there"
                raise RecipeError([Problem("--out", "the rounds of a run are not kept at a URL", fix)])

            def tell(line: str) -> None:
                console.print(line, markup=False)

            ended = rounds.run(rounds.Asked(recipe, set_ or [], where.folder), wanted, walk, tell)
        else:
            ended = walk(loaded, where)
    except KeyboardInterrupt:
        console.print(f"Left at once. What was answered is kept; the same command goes on: {folder}")
        raise typer.Exit(130) from None
    if ended and ended.stopped:
        again = "mend it and run the same command again" if ended.failed else "the same command goes on"
        console.print("[bold]Stopped[/bold]: ", end="")
        console.print(f"{ended.stopped}\nNothing is lost; {again}.", markup=False)
        raise typer.Exit(1 if ended.failed else 3)
    if ended and not ended.records:
        console.print(f"There is nothing to train on; why: {folder}/left.jsonl and synthpref report {folder}")
        raise typer.Exit(1)
    last = f"{folder}/round-{wanted.count}" if wanted else folder
    console.print(f"Next: synthpref report {folder} · synthpref show {last} · synthpref push {last} ORG/NAME")


def _walk(
    console: Console,
    recipe: Recipe,
    where: Place,
    limit: int | None,
    cluster: Cluster | None,
    *,
    of_rounds: bool,
) -> Result:
    """Run one recipe, with all that is said about it on the way."""
    from contextlib import ExitStack

    from synthpref import job
    from synthpref.engine.progress import Progress
    from synthpref.view import watching

    estimate = job.estimate(recipe)
    expected = min(estimate.rows, limit or estimate.rows)
    cost = (
        "" if estimate.cost is None else f", about ${estimate.cost * expected / max(estimate.rows, 1):,.2f}"
    )
    console.print(f"{recipe.name}: {expected:,} rows, {len(recipe.uses)} stages{cost}")
    for warned in job.warnings(recipe, estimate):
        console.print(f"warning: {warned}", markup=False)
    with ExitStack() as stack:

        def view(progress: Progress) -> None:
            stack.enter_context(watching(console, progress))

        result = job.run(recipe, where, limit=limit, expected=expected, view=view, cluster=cluster)
    folder = where.name
    books = result.books
    added = f" + {books.added:,} made" if books.added else ""
    console.print(
        f"{books.input:,} rows read{added} = {books.exported:,} exported + {books.dropped:,} dropped "
        f"+ {books.rejected:,} rejected" + ("" if not result.stopped else " so far")
    )
    if not result.stopped:
        if books.rejected:
            again = "" if of_rounds else "Rejected rows are tried again by the same command; "
            console.print(f"{again}why rows were rejected: {folder}/left.jsonl")
        console.print(f"{result.records:,} records in {folder}/dataset")
        _say_what_left(console, result)
    return result


def _say_what_left(console: Console, result: Result) -> None:
    """The commonest reasons, where much or all of the source came to nothing."""
    books = result.books
    gone = books.dropped + books.rejected
    if not gone or (result.records and 2 * gone < books.input + books.added):
        return
    share = "All" if not books.exported else f"{gone:,} of {books.input + books.added:,}"
    console.print(f"{share} rows came to nothing. Most often:", markup=False)
    for stage, reason, count in result.left[:3]:
        console.print(f"  {count:,} in {stage}: {reason}", markup=False)


@app.command()
def status(run: RunPath) -> None:
    """How far a run has come, also while it goes on."""
    from synthpref import rounds
    from synthpref.engine.rounds import homes
    from synthpref.places import status as lines_of

    console = _console()
    for line in rounds.status(Path(run)) if homes(Path(run)) else lines_of(run):
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
            if row_id and found
            else f"No row begins with {row_id!r}; without it, show lists ids to choose from."
            if row_id
            else "Rows of this run (the first ones):"
            if found
            else "No row is through yet; `synthpref status` tells how far the run is."
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
    """What the numbers say about the labels of a finished run; of a run of rounds, side by side."""
    from synthpref import rounds
    from synthpref.engine.folder import report_of
    from synthpref.engine.rounds import homes
    from synthpref.places import looked_at
    from synthpref.view import page

    with looked_at(run, "summary.json", "report.md") as folder:
        text = rounds.report(folder) if homes(folder) else report_of(folder)
    _console().print(page(text), soft_wrap=False)


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
    from synthpref.engine.rounds import single
    from synthpref.io.hub import push as upload
    from synthpref.places import looked_at

    with looked_at(run, "summary.json", "dataset/*", "README.md", "data/*") as folder:
        if (single(folder) / JOURNAL).exists() or (folder / "dataset").exists():
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
