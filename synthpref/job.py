"""A recipe's whole life, room by room: load -> plan -> run -> dataset. The command line and Python callers
both come through here, and nothing else imports more than one room. What a run folder
holds is told in engine/folder.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from synthpref import __version__
from synthpref.core.errors import JournalDamaged, RunStopped, StageError
from synthpref.core.export import Exporter
from synthpref.core.types import Row
from synthpref.engine import lint
from synthpref.engine import recipe as recipes
from synthpref.engine.folder import (
    JOURNAL,
    PROGRESS,
    SHARDS,
    adopt,
    finished,
    held,
    logged,
    made,
    private,
    replaced,
    write_json,
)
from synthpref.engine.journal import Journal
from synthpref.engine.lint import Warned
from synthpref.engine.plan import Plan, plan
from synthpref.engine.progress import Progress
from synthpref.engine.recipe import Recipe
from synthpref.engine.records import Records, Spent, damaged
from synthpref.engine.registry import Registry
from synthpref.engine.role import Stop
from synthpref.engine.rounds import FIRST
from synthpref.engine.runner import Books, Runner, note_of
from synthpref.engine.salvage import mark, mend
from synthpref.engine.shards import gather
from synthpref.engine.signals import Signals, hearing
from synthpref.engine.steps import steps_of
from synthpref.io import agreement, card, export, page, read, report, rows
from synthpref.places import Place, looked_at, place

if TYPE_CHECKING:
    from synthpref.on_ray import Cluster

log = logging.getLogger("synthpref")

WRITTEN = (
    "left.jsonl", "rows.parquet", "report.json", "report.md", "dataset/README.md", "dataset/data/train.parquet",
)  # fmt: skip
"""What a finished run leaves beside its journal."""

View = Callable[[Progress], Any]


def load(path: Path, settings: Sequence[str] = (), variables: Mapping[str, str] = FIRST) -> Recipe:
    """The checked recipe at `path`, with --set `settings` applied, and with the `variables` of a round where it has
    rounds. Raises RecipeError with all problems."""
    return recipes.load(path, settings, check_source=read.problems, variables=variables)


def source(recipe: Recipe, limit: int | None = None) -> Iterator[Row]:
    """The rows of the recipe's source, at most `limit` of them."""
    wanted = recipe.source if limit is None else recipe.source.model_copy(update={"limit": limit})
    return read.rows(wanted, recipe.base, recipe.registry)


def estimate(recipe: Recipe) -> Plan:
    """What a run will ask for. Reads the source to its end, so a broken line in it is found here."""
    return plan(recipe, source(recipe))


def warnings(recipe: Recipe, estimate: Plan) -> list[Warned]:
    """What will make the recipe's labels worth less than they cost, as far as it can be seen without a call."""
    seen = read.remarks(recipe.source, recipe.base, recipe.registry)
    return lint.warnings(recipe, estimate, seen)


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    folder: Path
    books: Books
    stopped: str = ""
    """Why it ended early; "" when it is done."""
    failed: bool = False
    records: int = 0
    left: Sequence[tuple[str, str, int]] = ()
    """(stage, reason, how many) of the rows that were dropped or rejected, the commonest first."""


def run(
    recipe: Recipe,
    out: Path | str | Place,
    *,
    limit: int | None = None,
    expected: int | None = None,
    view: View = lambda progress: None,
    cluster: Cluster | None = None,
) -> Result:
    """Run the recipe into the folder `out`, here or at a URL, or go on with the run that is there; then write the dataset.
    Rows are walked here, or on a `cluster`.

    `view` is called with the counters once, before the first call. Raises SynthprefError.
    """
    if cluster:
        from synthpref.on_ray import connected

        # Before anything is touched: where no cluster can be had, nothing has happened.
        with connected(cluster, recipe):
            return _run(recipe, out, limit, expected, view, cluster)
    return _run(recipe, out, limit, expected, view, None)


def _run(
    recipe: Recipe,
    out: Path | str | Place,
    limit: int | None,
    expected: int | None,
    view: View,
    cluster: Cluster | None,
) -> Result:
    with private() as share:
        return _run_privately(recipe, out, limit, expected, view, cluster, share)


def _run_privately(
    recipe: Recipe,
    out: Path | str | Place,
    limit: int | None,
    expected: int | None,
    view: View,
    cluster: Cluster | None,
    share: Callable[[Path], None],
) -> Result:
    where = out if isinstance(out, Place) else place(out)
    folder, mirror = where.folder, where.mirror
    made(folder, "--work" if mirror else "--out")
    kept = mirror.kept() if mirror else nullcontext()
    with (
        held(folder),
        logged(folder, recipe),
        _mended(folder / JOURNAL),
        hearing() as signals,
        _gathered(folder),
        kept,
    ):
        before = _left_by(recipe, folder)
        adopt(recipe, folder)
        # Until the run is finished again, what lies beside the journal is of an earlier start.
        (folder / "summary.json").unlink(missing_ok=True)
        if mirror:
            mirror.unfinished()
        progress = Progress(expected=expected)
        try:
            books, stop, stages, models = asyncio.run(
                _walk(recipe, where, limit, progress, view, signals, cluster)
            )
        except StageError as error:
            raise StageError(recipe.redact(str(error))) from error
        stop.reason = recipe.redact(stop.reason)
        summary = _summary(recipe, books, stop, stages, models)
        if before.get("books") == asdict(books) and not progress.noted and not stop.reason:
            log.info("nothing has changed since the last start; what it wrote stands")
            same = {name: before[name] for name in ("records", "written")}
            write_json(folder / "summary.json", {**summary, **same})
            return Result(folder, books, records=before["records"], left=reasons(stages))
        _write_left(recipe, folder)
        if stop.reason:
            log.info("stopped: %s", stop.reason)
            write_json(folder / "summary.json", summary)
            return Result(folder, books, stop.reason, stop.failed, left=reasons(stages))
        if not books.balanced:
            raise damaged(folder / JOURNAL, f"the books do not balance: {books}")
        records = finish(recipe, folder, summary)
        share(folder / "dataset")
        written = _written(recipe, folder)
        write_json(folder / "summary.json", {**summary, "records": records, "written": written})
        return Result(folder, books, records=records, left=reasons(stages))


def reasons(stages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """(stage, reason, how many), the commonest first."""
    counts = [
        (one["stage"], reason, n)
        for one in stages
        for what in ("dropped", "rejected")
        for reason, n in one[what].items()
    ]
    return sorted(counts, key=lambda count: -count[2])


def _left_by(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The summary of a finished run of this very recipe, if its files are as it wrote them; else an empty one."""
    try:
        summary = finished(folder)
        same = (folder / "recipe.yaml").read_text(encoding="utf-8") == recipe.saved()
        return summary if same and summary.get("written") == _written(recipe, folder) else {}
    except (RunStopped, OSError):
        return {}


def _written(recipe: Recipe, folder: Path) -> dict[str, str]:
    """What made the files of a finished run, and a hash of each. Raises OSError when one is not there."""
    return {
        "by": f"{__version__} {recipe.registry.digest('exporters', recipe.export.format)}",
        **_hashes(folder),
    }


def _hashes(folder: Path) -> dict[str, str]:
    found = {}
    for name in WRITTEN:
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


@contextmanager
def _mended(journal: Path) -> Iterator[None]:
    """A journal that is damaged is made anew first; one that proves to be damaged, at the next start."""
    if salvaged := mend(journal):
        log.warning("%s", salvaged)
        print(salvaged, file=sys.stderr, flush=True)
    try:
        yield
    except JournalDamaged as error:
        mark(journal, str(error))
        raise


@contextmanager
def _gathered(folder: Path) -> Iterator[None]:
    """What workers of a run that was killed have left is in the journal, before anything is brought that may hold the
    same calls."""
    # It is word of that run.
    (folder / SHARDS / PROGRESS).unlink(missing_ok=True)
    if any((folder / SHARDS).glob("*.sqlite*")):
        journal = Journal(folder / JOURNAL)
        try:
            gather(journal, folder / SHARDS)
            asyncio.run(journal.indexed())
        finally:
            journal.close()
    yield


async def _walk(
    recipe: Recipe,
    where: Place,
    limit: int | None,
    progress: Progress,
    view: View,
    signals: Signals,
    cluster: Cluster | None,
) -> tuple[Books, Stop, list[dict[str, Any]], dict[str, Any]]:
    stop = Stop()
    loop = asyncio.get_running_loop()

    def on_error() -> None:
        # The next call of the journal raises the error; this wakes up who waits for anything else.
        loop.call_soon_threadsafe(stop.now, "the journal cannot be written", True)

    def give_up(why: str) -> None:
        with suppress(RuntimeError):  # It may have come to its end meanwhile.
            loop.call_soon_threadsafe(stop.now, why, True)

    journal = Journal(where.folder / JOURNAL, on_error)
    with signals.stopping(stop):
        try:
            runner = Runner(recipe, lambda: source(recipe, limit), journal, stop, progress)
            view(progress)
            if where.mirror:
                here = cluster is not None and cluster.address is None
                where.mirror.start(give_up, progress.line, shards=here)
                runner.models.share("noted", where.mirror.noted)
            if cluster:
                from synthpref.on_ray import shards

                async with shards(cluster, runner, limit):
                    await runner.run()
            else:
                await runner.run()
            await journal.indexed()
            return (
                runner.books(),
                stop,
                _stage_counts(recipe, journal),
                _model_counts(recipe, runner, journal),
            )
        finally:
            journal.close()


def _write_left(recipe: Recipe, folder: Path) -> None:
    """left.jsonl: the rows that were dropped or rejected so far, and why."""
    records = Records(folder / JOURNAL)
    try:
        with replaced(folder / "left.jsonl") as file:
            for step in steps_of(recipe):
                for outcome in records.left(step.number):
                    row = replace(outcome.row, scratch={})
                    left: dict[str, Any] = {"id": row.id, "how": outcome.kind, "stage": outcome.stage}
                    left |= {"reason": outcome.reason, "detail": outcome.detail, "row": row}
                    file.write(orjson.dumps(left, option=orjson.OPT_APPEND_NEWLINE).decode())
    finally:
        records.close()


def finish(recipe: Recipe, folder: Path, summary: dict[str, Any]) -> int:
    """Write what a finished run leaves beside its journal; the number of records in the dataset."""
    records = Records(folder / JOURNAL)
    try:
        last = steps_of(recipe)[-1].number
        exporter = recipe.export.fitted(lambda: records.rows(last))
        going = rows.written(folder / "rows.parquet", records.rows(last))
        stats, findings = publish(going, exporter, folder / "dataset", summary, recipe.saved())
    finally:
        records.close()
    exported = summary["books"]["exported"]
    if findings["rows"] != exported:
        why = f"{exported} rows should be exported, and {findings['rows']} are there"
        raise damaged(folder / JOURNAL, why)
    write_json(folder / "report.json", findings)
    (folder / "report.md").write_text(page.markdown(findings), encoding="utf-8")
    agreement.tell(folder, folder / "dataset")
    return stats.records


def tell_of_judge(folder: Path) -> None:
    """Put what `synthpref agree` found of the judge into the report and card of a finished run; they are as the run
    wrote them still."""
    summary = finished(folder)
    agreement.tell(folder, folder / "dataset")
    if written := summary.get("written"):
        summary["written"] = {"by": written["by"], **_hashes(folder)}
        write_json(folder / "summary.json", summary)


def publish(
    going: Iterable[Row],
    exporter: Exporter,
    out: Path,
    summary: dict[str, Any],
    text: str,
    *,
    jsonl: bool = False,
) -> tuple[export.ExportStats, report.Report]:
    """Write rows as a dataset with its card, in one pass; what was written, and what the report says of it."""
    tally = report.Tally()
    stats = export.write(tally.through(going), exporter, out, jsonl=jsonl)
    findings = tally.report(summary)
    built = card.build(findings, recipe=text, exporter=exporter, stats=stats)
    (out / "README.md").write_text(built, encoding="utf-8")
    return stats, findings


def export_run(
    run: Path | str, exporter: Exporter, out: Path | None, *, jsonl: bool = False
) -> tuple[str, int]:
    """Write a finished run in another format, by default into its dataset-FORMAT/; (where, how many records)."""
    name = f"dataset-{exporter.format}"
    needed = ("summary.json", "recipe.yaml", "rows.parquet", "agreement.json", "report.md")
    other = f"{name}/{export.data_file(jsonl=not jsonl)}"
    with looked_at(run, *needed, changing=out is None, gone=other) as folder:
        summary = finished(folder)
        text = (folder / "recipe.yaml").read_text(encoding="utf-8")
        going = rows.read_rows(folder / "rows.parquet")
        where = out or folder / name
        fitted = exporter.fitted(lambda: rows.read_rows(folder / "rows.parquet"))
        stats, _ = publish(going, fitted, where, summary, text, jsonl=jsonl)
        agreement.tell(folder, where)
    return str(out or f"{run}/{name}"), stats.records


def preview(recipe: Recipe, folder: Path, count: int) -> list[Row]:
    """The first `count` rows, walked to the end in a folder of their own; those that came through."""
    roomy = recipe.head.model_copy(
        update={"limits": recipe.head.limits.model_copy(update={"max_reject_rate": 1.0})}
    )
    result = run(replace(recipe, head=roomy), folder, limit=count)
    if result.stopped:
        raise RunStopped(result.stopped)
    return list(rows.read_rows(folder / "rows.parquet"))


def exporter_of(format: str, options: dict[str, Any] | None = None) -> Exporter:
    """The exporter called `format`. Raises RecipeError."""
    found: Exporter = (
        Registry().get("exporters", format, "--format").model_validate({"format": format, **(options or {})})
    )
    return found


def _summary(
    recipe: Recipe, books: Books, stop: Stop, stages: list[dict[str, Any]], models: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "description": recipe.head.description,
        "version": __version__,
        "fingerprint": recipe.fingerprint,
        "state": "stopped" if stop.reason else "finished",
        "stop_reason": stop.reason,
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "books": asdict(books),
        "stages": stages,
        "models": models,
    }


def _stage_counts(recipe: Recipe, journal: Journal) -> list[dict[str, Any]]:
    """Rows dropped and rejected by each stage, with reasons; and what it noted."""
    counts: dict[str, dict[str, Any]] = {
        use.label: {"stage": use.label, "dropped": {}, "rejected": {}} for use in recipe.uses
    }
    for step in steps_of(recipe):
        if step.is_barrier and (note := journal.fact(note_of(step))):
            counts[step.parts[0].use.label]["notes"] = orjson.loads(note)
        for kind, stage, reason, n in journal.counts(step.number):
            if kind != "row":
                if stage not in counts:
                    raise damaged(journal.path, f"it names a stage {stage!r}")
                where: Any = counts[stage]["dropped" if kind == "drop" else "rejected"]
                where[reason] = where.get(reason, 0) + n
    return list(counts.values())


def _model_counts(recipe: Recipe, runner: Runner, journal: Journal) -> dict[str, Any]:
    """Calls and tokens by role: those of this start, and tokens and cost over all starts."""
    spent = journal.spent()
    found = {}
    for role, spec in recipe.models.items():
        answers, prompt, completion, estimated, live = spent.get(role, Spent())
        meter = runner.models.roles[role].meter if role in runner.models.roles else None
        found[role] = {
            "model": spec.model,
            "backend": spec.backend,
            "licence": spec.licence,
            "requests": meter.requests if meter else 0,
            "replayed": meter.replayed if meter else 0,
            "completions": answers,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "estimated": estimated,
            "cost_usd": spec.cost(prompt, completion, live),
        }
    return found
