"""A folder here, and what is at a URL: what of it is the same on both sides, what is brought and what is sent.

`mirror.json` in the folder says what is the same. A database that both sides have written is brought together, for no
side knows all of it.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from synthpref.core.errors import JournalDamaged
from synthpref.engine.folder import JOURNAL, SHARDS, write_json
from synthpref.engine.lease import LEASE, Files
from synthpref.engine.pages import index_of, log_of
from synthpref.engine.salvage import mend, salvage
from synthpref.engine.segments import add_calls, identity, last_call, snapshot

STATE, SUMMARY, LOG = "mirror.json", "summary.json", "run.log"
SEGMENTS = "segments/"
HERE_ONLY = frozenset({STATE, LEASE, "run.lock", "run.holder", "copy.lock"})
HERE_ENDINGS = (".part", ".made", ".damage", "-wal", "-shm", "-journal")

log = logging.getLogger("synthpref")

Absorb = Callable[[Path, Path], object]
"""Bring what another database holds into the first one; nothing is taken twice."""


class Store(Files, Protocol):
    """A folder at a URL. Methods raise RemoteError."""

    def files(self) -> dict[str, str]: ...

    def put(self, file: Path, name: str) -> str: ...

    def fetch(self, name: str, file: Path) -> None: ...


@dataclass
class Known:
    """What of both sides is the same; kept in `mirror.json`."""

    home: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    files: dict[str, list[str]] = field(default_factory=dict)
    """Name -> [stamp here, stamp there]."""
    sent: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Journal -> (which file it is, the last call of it that is at the URL)."""


class Copy:
    """A folder here of what is at a URL."""

    def __init__(self, store: Store, folder: Path, absorb: Mapping[str, Absorb]) -> None:
        self.store, self.folder = store, folder
        self.absorb = {JOURNAL: add_calls, **absorb}
        self.known = Known()
        with suppress(FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            self.known = Known(**json.loads((folder / STATE).read_text(encoding="utf-8")))

    def bring(self, wanted: Callable[[str], bool], *, ours: bool) -> None:
        """Bring what has changed there, of the files that are wanted. `ours`: what is here may be ahead, so that
        databases are brought together; else this is a copy, and what is gone there goes here too."""
        there = {name: stamp for name, stamp in self.store.files().items() if wanted(name)}
        journal = self.folder / JOURNAL
        if ours and self.known.sent.get(JOURNAL, ("", 0))[0] != _which(journal):
            # The journal here is another one, made anew from what was whole: what was brought before may not be in it.
            calls = [name for name in self.known.files if name == JOURNAL or name.startswith(SEGMENTS)]
            self.known.files = {n: s for n, s in self.known.files.items() if n not in calls}
        is_new = not journal.exists()
        for name in [name for name in self.known.files if wanted(name) and name not in there]:
            before = self.known.files.pop(name)[0]
            # Of a run that is gone as a whole, what is here is all that there is.
            removed = JOURNAL in there and name not in self.absorb and before == self.stamp(name)
            if not ours or removed:
                (self.folder / name).unlink(missing_ok=True)
        for name in sorted(there, key=lambda name: (name != JOURNAL, name)):
            if not _is_here_only(name) and self.known.files.get(name, ["", ""])[1] != there[name]:
                self._bring(name, ours)
                # What was brought together is more than what is there.
                self.note(name, there[name], same=not (ours and name in self.absorb))
        if is_new and journal.exists():
            self.known.sent[JOURNAL] = (identity(journal), last_call(journal))
            self.save()

    def _bring(self, name: str, ours: bool) -> None:
        file = self.folder / name
        is_piece = name.startswith(SEGMENTS)
        absorb = add_calls if is_piece else self.absorb.get(name)
        if absorb and (is_piece or ours) and (is_piece or file.exists()):
            part = self.folder / "brought.part"
            for left in self.folder.glob("brought.part*"):
                # Of a piece that was being mended when the run was killed.
                left.unlink()
            self.store.fetch(name, part)
            if absorb is add_calls and (mended := mend(part)):
                log.warning("%s/%s: %s", self.store.url, name, mended)
            target = self.folder / JOURNAL if is_piece else file
            try:
                absorb(target, part)
            except JournalDamaged as error:
                log.warning("%s/%s: %s", self.store.url, name, salvage(part, str(error)))
                absorb(target, part)
            part.unlink()
        elif name == LOG and ours and file.exists():
            # In its place, because it is being written to.
            part = self.folder / "brought.part"
            self.store.fetch(name, part)
            text = part.read_bytes() + file.read_bytes()
            with file.open("r+b") as log_file:
                log_file.write(text)
            part.unlink()
        else:
            for beside in (log_of(file), index_of(file)):
                # Left by who was killed; SQLite would take it for a part of the new file.
                beside.unlink(missing_ok=True)
            self.store.fetch(name, file)
            if name == JOURNAL:
                mend(file)
                # Of another journal, other pieces are missing.
                self.known.files = {n: s for n, s in self.known.files.items() if not n.startswith(SEGMENTS)}

    def note(self, name: str, there: str, *, same: bool = True) -> None:
        """The file is the same on both sides now, or all that is there is here."""
        self.known.files[name] = [self.stamp(name) if same else "", there]
        self.save()

    def save(self) -> None:
        write_json(self.folder / STATE, vars(self.known))

    def stamp(self, name: str) -> str:
        """Changes when the file here does."""
        found = [path.stat() for path in (self.folder / name, log_of(self.folder / name)) if path.exists()]
        return " ".join(f"{stat.st_size} {stat.st_mtime_ns}" for stat in found)

    def changed(self) -> list[str]:
        """Names of files here that are not the same there; the summary last."""
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        names = [path.relative_to(self.folder).as_posix() for path in paths]
        mine = [name for name in names if not _is_here_only(name) and not name.startswith(f"{JOURNAL}.")]
        found = [name for name in mine if self.known.files.get(name, [""])[0] != self.stamp(name)]
        return sorted(found, key=lambda name: (name == SUMMARY, name not in self.absorb, name))

    def send(self, name: str) -> None:
        """Upload a file as it is now; of a database, a snapshot."""
        before = self.stamp(name)
        file = self.folder / name
        if name in self.absorb:
            file = self.folder / "snapshot.part"
            snapshot(self.folder / name, file)
        there = self.store.put(file, name)
        if name in self.absorb:
            file.unlink()
        self.known.files[name] = [before, there]
        self.save()


def _which(journal: Path) -> str:
    """Which journal it is; "" where nothing is in it, or it cannot be read, which others tell."""
    with suppress(sqlite3.Error):
        return identity(journal) if last_call(journal) else ""
    return ""


def _is_here_only(name: str) -> bool:
    # Of shards, what is committed comes into the journal when their segment is through.
    return (
        name in HERE_ONLY
        or ".part.damaged-" in name
        or name.endswith(HERE_ENDINGS)
        or name.startswith(f"{SHARDS}/")
    )
