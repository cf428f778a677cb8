"""The run folder: who holds it, whose it is, what it says about the run.

recipe.yaml       the recipe as it was run, without secrets
journal.sqlite    every answer, and how far each row has come
batches.sqlite    batches at a provider, and what they answered, where a role has `mode: batch`
shards/           what workers have written that is not yet in the journal, while a run is on a cluster
run.log           what happened
rows.parquet      the rows that were exported, with every candidate, score and vote
left.jsonl        the rows that were dropped or rejected, and why
summary.json      the books: where each row ended; calls, tokens and cost by role
report.json/.md   what the numbers say about the labels
dataset/          what `synthpref push` uploads: the records and the card
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from synthpref.core.errors import JournalError, Problem, RecipeError, RunStopped
from synthpref.engine.recipe import Recipe
from synthpref.engine.records import Asked, Outcome, Records
from synthpref.engine.rounds import single

log = logging.getLogger("synthpref")

JOURNAL = "journal.sqlite"
SHARDS = "shards"
PROGRESS = "progress"
"""A file in there: how far all workers are."""


def made(folder: Path, option: str = "--out") -> None:
    """See that the folder is there; `option` names another. Raises JournalError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(
            f"{folder}: cannot be made ({error.strerror}); name another with {option}"
        ) from error


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """One process to a folder. The lock goes with its process, so a killed run holds nothing."""
    note = folder / "run.holder"
    lock = FileLock(folder / "run.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        holder = note.read_text(encoding="utf-8").strip() if note.exists() else "another process"
        raise JournalError(
            f"{folder}: {holder} is running there; wait for it, or name another with --out"
        ) from None
    except OSError as error:
        raise JournalError(f"{folder}: cannot be written ({error.strerror})") from error
    try:
        note.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    except (OSError, sqlite3.OperationalError) as error:
        fix = "make room or mend the folder, then run the same command again"
        why = f"{error.strerror or error} ({error.filename})" if isinstance(error, OSError) else error
        raise JournalError(f"{folder}: {why}; {fix}") from error
    finally:
        note.unlink(missing_ok=True)
        lock.release()


@contextmanager
def logged(folder: Path, recipe: Recipe) -> Iterator[None]:
    """What happens goes to run.log in the folder, without secrets, and nowhere else."""

    class Redacted(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return recipe.redact(super().format(record))

    handler = logging.FileHandler(folder / "run.log", encoding="utf-8")
    handler.setFormatter(Redacted("%(asctime)s %(levelname)s %(message)s"))
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before
        handler.close()


def adopt(recipe: Recipe, folder: Path) -> None:
    """Take the folder for this recipe: refuse another recipe's, and log what changed in this one."""
    path = folder / "recipe.yaml"
    if path.exists():
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
        changed = list(changes(before, recipe.tree))
        if before.get("name") != recipe.name:
            listed = "; ".join(changed[:8]) + ("; …" if len(changed) > 8 else "")
            message = f"{folder} was made by another recipe ({listed})"
            raise RecipeError([Problem("name", message, "name another folder with --out, or take its name")])
        for change in changed:
            log.info("changed since the last start: %s", change)
    with replaced(path) as file:
        file.write(recipe.saved())


def changes(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Each leaf that differs, as "path: before -> after"."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from changes(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(before, list) and isinstance(after, list):
        for i in range(max(len(before), len(after))):
            old, new = (side[i] if i < len(side) else None for side in (before, after))
            yield from changes(old, new, f"{path}[{i}]")
    elif before != after:
        yield f"{path}: {before!r} -> {after!r}"


@contextmanager
def private() -> Iterator[Callable[[Path], None]]:
    """What is written in the block is its owner's alone (0600, folders 0700): prompts, answers and what went wrong are
    nobody else's business on a machine that many share. The block gets a function that opens a folder, such as a
    dataset's, to those that the process's own mask lets in."""
    before = os.umask(0o077)

    def share(folder: Path) -> None:
        for path in (folder, *folder.rglob("*")):
            path.chmod((0o777 if path.is_dir() else 0o666) & ~before)

    try:
        yield share
    finally:
        os.umask(before)


@contextmanager
def replaced(path: Path) -> Iterator[Any]:
    """A text file that appears whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        yield file
    part.replace(path)


def write_json(path: Path, value: Any) -> None:
    with replaced(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)


# ---- looking at a run folder


def status(folder: Path) -> list[str]:
    """How far the run has come, in lines."""
    records = Records(folder / JOURNAL)
    try:
        lines = [f"{folder.name}: {_state(folder)}"]
        for step in records.steps():
            counts: dict[str, int] = {}
            for kind, _, _, n in records.counts(step):
                counts[kind] = counts.get(kind, 0) + n
            entered, added = records.entered(step)
            made = f" (+ {added:,} made)" if added else ""
            ended = f"{counts.get('row', 0):,} go on, {counts.get('drop', 0):,} dropped, "
            name = records.fact(f"step {step}") or f"step {step + 1}"
            lines.append(f"{name}: {entered:,} rows in{made}; {ended}{counts.get('reject', 0):,} rejected")
        for role, spent in records.spent().items():
            about = "about " if spent.estimated else ""
            lines.append(
                f"{role}: {spent.answers:,} answers; {about}{spent.prompt_tokens:,} tokens read, "
                f"{about}{spent.completion_tokens:,} written"
            )
        word = folder / SHARDS / PROGRESS
        if word.exists() and _is_held(folder):
            lines.append(f"on a cluster, not counted above: {word.read_text(encoding='utf-8')}")
        return lines
    finally:
        records.close()


def _state(folder: Path) -> str:
    path, note = folder / "summary.json", folder / "run.holder"
    if note.exists() and _is_held(folder):
        return f"going on, in {note.read_text(encoding='utf-8').strip()}"
    if not path.exists():
        return "not finished; the command that started it goes on with it"
    summary = json.loads(path.read_text(encoding="utf-8"))
    why = f": {summary['stop_reason']}" if summary["stop_reason"] else ""
    return f"{summary['state']} {summary['ended']}{why}"


def _is_held(folder: Path) -> bool:
    lock = FileLock(folder / "run.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False


def trace(folder: Path, row_id: str) -> tuple[list[str], Outcome | None, Asked]:
    """(ids that begin with `row_id`, the last of the row if it is just one, all that was asked for it)."""
    records = Records(single(folder) / JOURNAL)
    try:
        found = records.find(row_id)
        chosen = row_id if row_id in found else found[0] if len(found) == 1 else None
        if chosen is None:
            return found, None, []
        last = records.latest(chosen)
        # What made the prompt was asked for the rows that it came from.
        before = list(dict.fromkeys(o.parent for o in last.row.trail)) if last else []
        ids = list(dict.fromkeys([*before, chosen]))
        return found, last, [call for id in ids for call in records.asked(id)]
    finally:
        records.close()


def finished(folder: Path) -> dict[str, Any]:
    """The summary of a finished run. Raises RunStopped when it is not: what lies there may be of an earlier
    start, with another recipe."""
    if not folder.is_dir():
        raise RecipeError([Problem(str(folder), "there is no such folder", "name a run's")])
    path = single(folder) / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if summary.get("state") != "finished":
        raise RunStopped(f"{folder}: not a finished run; run its recipe to the end first")
    return summary


def report_of(folder: Path) -> str:
    """The report of a finished run, as Markdown. Raises RunStopped."""
    finished(folder)
    return (folder / "report.md").read_text(encoding="utf-8")
