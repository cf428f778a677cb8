"""Run folders, here or at a URL: what the command line and `job` call a run by, and the folder on this machine that it
stands for.

A run at a URL is worked on in a folder of its own under SYNTHPREF_WORK (or the user's cache folder), and looked at in
another one.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from synthpref.core.errors import Problem, RecipeError, RemoteError, SynthprefError
from synthpref.core.source import is_url
from synthpref.engine import folder as folders
from synthpref.engine.folder import JOURNAL
from synthpref.engine.lease import Pace, holder

if TYPE_CHECKING:
    from synthpref.engine.copies import Copy
    from synthpref.engine.mirror import Mirror

ANSWERS = (JOURNAL, "segments/*")
"""What the calls of a run are in."""
PACE = Pace()
PACES = {"hf": Pace(upload_s=300, renew_s=300, patience_s=1800)}
"""Of a kind of store. The Hub makes a commit of each file, and takes only so many an hour."""


@dataclass(frozen=True)
class Place:
    """Where a run is: `name` is what a person calls it, `folder` is where it lies here."""

    name: str
    folder: Path
    mirror: Mirror | None = None
    """For a run at a URL."""


def place(out: Path | str, work: Path | None = None) -> Place:
    """The place of a run that is to be made or gone on with. Raises RemoteError."""
    if not is_url(str(out)):
        if half := re.match(r"([a-z][a-z0-9+]+):/*", str(out)):
            scheme, rest = half[1], str(out)[half.end() :]
            raise RecipeError([Problem("--out", f"{str(out)!r} is half a URL", f"write {scheme}://{rest}")])
        return Place(str(out), Path(out))
    from synthpref.engine.mirror import Mirror
    from synthpref.io.remote import Remote
    from synthpref.models.batch_hall import LEDGER
    from synthpref.models.batch_ledger import absorb

    remote = Remote(str(out))
    folder = _home(remote.url, "runs", work)
    pace = PACES.get(remote.kind, PACE)
    mirror = Mirror(
        remote, folder, {LEDGER: absorb}, pace, lambda text: print(text, file=sys.stderr, flush=True)
    )
    return Place(remote.url, folder, mirror)


@contextmanager
def looked_at(run: Path | str, *names: str, changing: bool = False, gone: str = "") -> Iterator[Path]:
    """A folder in which the files of a run are that fit one of `names`; what is changed in it goes to the run, if
    `changing`, and the file `gone` leaves it. Raises RemoteError."""
    if not is_url(str(run)):
        yield Path(run)
        return
    copy = _copy(str(run))
    with ExitStack() as stack:
        with _written(copy.folder):
            stack.enter_context(FileLock(copy.folder / "copy.lock"))
            copy.bring(lambda name: any(fnmatchcase(name, pattern) for pattern in names), ours=False)
        try:
            yield copy.folder
        except SynthprefError as error:
            error.args = tuple(str(arg).replace(str(copy.folder), copy.store.url) for arg in error.args)
            raise
        if changing:
            for name in copy.changed():
                if name not in copy.absorb:
                    copy.send(name)
            if gone:
                copy.store.remove(gone)


def status(run: Path | str) -> Sequence[str]:
    """How far the run has come, in lines."""
    if not is_url(str(run)):
        return folders.status(Path(run))
    copy = _copy(str(run))
    if held := holder(copy.store):
        lines = [f"{copy.store.url}: going on, in {held.get('holder')}, if it still lives"]
        return [*lines, str(held["told"])] if held.get("told") else lines
    with looked_at(run, *ANSWERS, "summary.json") as folder:
        if not (folder / JOURNAL).exists():
            raise RemoteError(f"{run}: no journal there; is this a run folder?")
        first, *rest = folders.status(folder)
        return [first.replace(folder.name, copy.store.url, 1), *rest]


def _copy(url: str) -> Copy:
    from synthpref.engine.copies import Copy
    from synthpref.io.remote import Remote

    remote = Remote(url)
    folder = _home(remote.url, "seen")
    with _written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return Copy(remote, folder, {})


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        fix = "make room there, or name another folder with SYNTHPREF_WORK"
        raise RemoteError(f"{folder}: {error}; {fix}") from error


def _home(url: str, kind: str, work: Path | None = None) -> Path:
    from synthpref.io.remote import cache_folder, digest

    return (work or cache_folder()) / kind / f"{url.rpartition('/')[2]}-{digest(url)}"
