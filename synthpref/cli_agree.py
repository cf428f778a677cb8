"""The command `synthpref agree`: options -> a mapping of columns; figures -> tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from synthpref.io.agreement_format import Block

Many = list[str] | None
_DATA, _LONG, _HOW = "Which column is what", "Files with a line for each verdict", "How it is measured"


def _option(name: str, text: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(name, help=text, rich_help_panel=panel, metavar=metavar)


def agree(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILES",
            help="JSONL, JSON, CSV, TSV (each also .gz) or Parquet; or a mapping, .yaml.",
        ),
    ] = None,
    label: Annotated[
        Many, _option("--label", "What people said; once for each annotator.", _DATA, "COLUMNS")
    ] = None,
    judge: Annotated[
        Many, _option("--judge", "What a judge said; once for each.", _DATA, "[NAME=]COLUMNS")
    ] = None,
    a: Annotated[str | None, _option("--a", "Response a, or the only one.", _DATA, "COLUMN")] = None,
    b: Annotated[str | None, _option("--b", "Response b.", _DATA, "COLUMN")] = None,
    prompt: Annotated[
        str | None, _option("--prompt", "The prompt; its items are drawn together.", _DATA, "COLUMN")
    ] = None,
    id_: Annotated[
        str | None, _option("--id", "What names an item, and joins files.", _DATA, "COLUMN[,COLUMN]")
    ] = None,
    model_a: Annotated[str | None, _option("--model-a", "The model that wrote a.", _DATA, "COLUMN")] = None,
    model_b: Annotated[str | None, _option("--model-b", "The model that wrote b.", _DATA, "COLUMN")] = None,
    reference: Annotated[
        str | None, _option("--reference", "A gold answer, for the judges of --recipe.", _DATA, "COLUMN")
    ] = None,
    kind: Annotated[
        str | None, _option("--kind", "pairs, or scores of single responses; told from the columns.", _DATA)
    ] = None,
    values: Annotated[
        Many,
        _option("--values", "What a value means: a=left, b=right, tie=both, none=?.", _DATA, "SIDE=VALUE"),
    ] = None,
    invalid: Annotated[
        Many, _option("--invalid", "A score that stands for none, as -1; or `none`.", _DATA, "VALUE")
    ] = None,
    orders: Annotated[
        str | None,
        _option(
            "--orders", "With b shown first, answers are `unswapped` (the default) or as `shown`.", _DATA
        ),
    ] = None,
    each: Annotated[
        str | None, _option("--each", "A list, each item of which is a record.", _DATA, "COLUMN")
    ] = None,
    where: Annotated[Many, _option("--where", "Only such records.", _DATA, "COLUMN=VALUE")] = None,
    cost: Annotated[
        Many, _option("--cost", "USD a judgment: a number or a column.", _DATA, "JUDGE=USD")
    ] = None,
    family: Annotated[
        Many, _option("--family", "The family of a judge or model.", _DATA, "NAME=FAMILY")
    ] = None,
    by: Annotated[str | None, _option("--by", "Who speaks in a line.", _LONG, "COLUMN[,COLUMN]")] = None,
    says: Annotated[str | None, _option("--says", "What was said in it.", _LONG, "COLUMNS")] = None,
    human: Annotated[Many, _option("--human", "A name in --by that is people.", _LONG, "NAME")] = None,
    worker: Annotated[
        str | None, _option("--worker", "Who labelled, a line a label.", _LONG, "COLUMN")
    ] = None,
    order: Annotated[
        str | None, _option("--order", "Which was shown first: ab or ba, or the place of a.", _LONG, "COLUMN")
    ] = None,
    first: Annotated[
        str | None, _option("--first", "Names the response shown first.", _LONG, "COLUMN")
    ] = None,
    second: Annotated[
        str | None, _option("--second", "Names the response shown second.", _LONG, "COLUMN")
    ] = None,
    no_majority: Annotated[
        str | None, _option("--no-majority", "Items without one: `drop` (the default) or `tie`.", _HOW)
    ] = None,
    swap: Annotated[
        str | None, _option("--swap", "Two orders to one verdict: `average`, `agree` or `first`.", _HOW)
    ] = None,
    jurors: Annotated[
        str | None, _option("--jurors", "Judges to make juries of; all, up to ten.", _HOW, "NAME,NAME,...")
    ] = None,
    sizes: Annotated[str | None, _option("--sizes", "Jurors a jury, as 2,3; all.", _HOW, "N,N")] = None,
    rule: Annotated[
        str, _option("--rule", "Of juries: multimode, lean, majority, abstain, mean or scores.", _HOW)
    ] = "multimode",
    level: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Of intervals.", rich_help_panel=_HOW)
    ] = 0.95,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.", rich_help_panel=_HOW)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", rich_help_panel=_HOW)] = 0,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", metavar="RECIPE", help="Also run the judges of a recipe on the pairs."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field of the recipe.", metavar="PATH=VALUE")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to. Default: runs/NAME-agree.")] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Also put it into a run's report and card.")
    ] = None,
) -> None:
    """How good a judge is: its verdicts against labels by people, and every jury of several judges.

    COLUMNS of a judge or annotator: VERDICT, or SCORE_OF_A,SCORE_OF_B; both orders as FIRST/SWAPPED; repeats with +.
    Without options it shows the columns of the files and proposes a command.
    """
    from synthpref.agree_options import check_names, grouped, listed, number, usage, whole, with_judges
    from synthpref.agreeing import Asked, mapping_of, read_mapping
    from synthpref.agreeing import agree as measured
    from synthpref.core.juries import Choice
    from synthpref.core.measure import Settings

    paths = files or []
    maps = [path for path in paths if path.suffix.lower() in (".yaml", ".yml")]
    if len(maps) > 1 or not paths:
        raise usage("name files with labels and verdicts, or one mapping (.yaml)")
    tree = read_mapping(maps[0]) if maps else {}
    base = maps[0].parent if maps else Path()
    named = [str(path if not maps else path.absolute()) for path in paths if path not in maps]
    tree |= {"files": named or tree.get("files", ())}
    plain = {
        "a": a, "b": b, "prompt": prompt, "model_a": model_a, "model_b": model_b, "kind": kind, "orders": orders,
        "worker": worker, "order": order, "first": first, "second": second, "no_majority": no_majority, "swap": swap,
        "says": says, "reference": reference, "each": each,
    }  # fmt: skip
    tree |= {name: value for name, value in plain.items() if value is not None}
    tree |= {name: listed(value) for name, value in {"id": id_, "by": by}.items() if value is not None}
    if human:
        tree["people"] = human
    if label:
        tree["labels"] = label
    if invalid:
        tree["invalid"] = [] if invalid == ["none"] else [number(value) for value in invalid]
    tree = with_judges(tree, judge or [], cost or [], family or [])
    tree = grouped(tree, "values", values or [], "--values")
    tree = grouped(tree, "where", where or [], "--where")
    console = _console()
    if not (tree.get("judges") or tree.get("says") or recipe):
        _propose(console, paths if not maps else [base / name for name in tree["files"]])
        raise typer.Exit(2)
    mapping = mapping_of(tree, base, str(maps[0]) if maps else "")
    choice = Choice(tuple(listed(jurors)), tuple(whole(sizes)), rule)
    check_names(rule, choice, mapping, recipe)
    settings = Settings(mapping.swap, level, resamples, seed)
    asked = Asked(mapping, base, settings, choice, recipe, set_ or [], out, run)
    if recipe is None:
        found = measured(asked)
    else:
        found = _watched(asked)
    _print(console, found)
    console.print(f"All figures: {asked.folder / 'agreement.md'} and agreement.json beside it.", markup=False)
    if run is not None:
        console.print(f"Also in the report and the card of {run}.", markup=False)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _watched(asked: Any) -> Any:
    """The figures, with the run of the recipe's judges in view."""
    from contextlib import ExitStack

    from synthpref.agreeing import agree as measured
    from synthpref.engine.progress import Progress
    from synthpref.view import watching

    console = _console(stderr=True)
    try:
        with ExitStack() as stack:

            def view(progress: Progress) -> None:
                stack.enter_context(watching(console, progress))

            return measured(asked, view)
    except KeyboardInterrupt:
        console.print("Left at once. What was answered is kept; the same command goes on.")
        raise typer.Exit(130) from None


def _print(console: Console, found: Any) -> None:
    from synthpref.io.agreement_tables import judges, juries
    from synthpref.io.agreement_words import statements

    for line in statements(found):
        console.print(f"• {line}", markup=False)
    console.print()
    for block in (judges(found), juries(found)):
        if block is not None:
            console.print(_table(block, console.width))


def _table(block: Block, width: int) -> Any:
    """The table, without its last columns of figures where it is too wide: a name or a figure is not broken."""
    from rich.table import Table

    columns = {name: [line[i] for line in block.lines] for i, name in enumerate(block.header)}
    needed = {name: max(map(len, [name, *cells])) for name, cells in columns.items()}
    if "the best" in needed:  # names with + between them
        needed["the best"] = max(len(word) for cell in columns["the best"] for word in cell.split())
    left_out: list[str] = []
    while sum(needed.values()) + 3 * len(needed) + 1 > width and len(needed) > 3:
        left_out.insert(0, [name for name in needed if name != "the best"][-1])
        del needed[left_out[0]]
    note = f"Left out here: {', '.join(left_out)}." if left_out else ""
    caption = " ".join(text for text in (block.note, note) if text)
    shown = Table(title=block.title, title_justify="left", caption=caption or None, caption_justify="left")
    for i, name in enumerate(needed):
        names = name == "the best"
        shown.add_column(name, justify="left" if i == 0 or names else "right", no_wrap=not names)
    for i in range(len(block.lines)):
        shown.add_row(*(columns[name][i] for name in needed))
    return shown


def _propose(console: Console, paths: Sequence[Path]) -> None:
    from rich.table import Table

    from synthpref.agreeing import propose
    from synthpref.io.propose import command

    proposal = propose(paths)
    shown = Table(title="Columns", title_justify="left")
    for name in ("column", "looks like", "for example"):
        shown.add_column(name, overflow="fold")
    kinds = {
        "sides": "verdicts", "codes": "verdicts in numbers", "numbers": "scores", "texts": "texts",
        "names": "names", "other": "",
    }  # fmt: skip
    for column in proposal.columns:
        shown.add_row(column.name, kinds[column.kind], column.example)
    console.print(shown)
    console.print("Which of them are labels by people, and which are verdicts of a judge?")
    if not any(name in ("--label", "--human", "--worker") for name, _ in proposal.options):
        console.print("No column is plainly by people: name theirs with --label.")
    if proposal.problem:
        console.print(f"This does not work yet: {proposal.problem}", markup=False)
    console.print("Perhaps:\n")
    console.print(f"  {command(paths, proposal.options)}", markup=False, soft_wrap=True)
