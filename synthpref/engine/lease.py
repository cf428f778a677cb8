"""Who runs at a URL: a small file there, `run.lease`, which its holder writes anew every few seconds.

Object stores know no locks. What they have is a file that is made only where none is, and that suffices: who makes the
file holds the run. A holder that died leaves it there; whoever comes next watches it for a while, and takes it over
if it does not change. Clocks are not compared. Should two take over at once, the one that finds the other's file in
place of its own stops; nothing is lost then, because what both wrote has names of its own.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from synthpref.core.errors import JournalError, RemoteError

LEASE = "run.lease"
MISSED = 4
"""A lease that was not renewed for so many times its interval is a dead one's."""


@dataclass(frozen=True)
class Pace:
    """How often there is traffic, in seconds."""

    upload_s: float = 5.0
    """Between two uploads of answers: what a lost machine costs."""
    renew_s: float = 15.0
    """Between two renewals of the lease. After four of them a dead run may be taken over."""
    patience_s: float = 600.0
    """For so long an upload is tried again, then the run stops."""


class Files(Protocol):
    """Of files at a URL, what a lease needs. Methods raise RemoteError."""

    url: str

    def read(self, name: str) -> bytes | None: ...

    def create(self, name: str, content: bytes) -> bool: ...

    def write(self, name: str, content: bytes) -> None: ...

    def remove(self, name: str) -> None: ...


def holder(files: Files) -> dict[str, Any] | None:
    """What the lease at a URL says: who holds it, how far the run is; None where nobody does."""
    body = files.read(LEASE)
    try:
        found = json.loads(body) if body else None
    except ValueError:
        found = None
    # An empty one is left by who died, or ran out of disk, between making the file and writing it.
    return found if isinstance(found, dict) else {"holder": "somebody"} if body is not None else None


class Lease:
    """Held from `take` to `release`, renewed by a thread in between.

    `home` names the folder that the run works in: whoever has locked that knows that an earlier holder there is dead.
    """

    def __init__(self, files: Files, home: str, every_s: float) -> None:
        # Of a copied folder, two machines may hold the lock.
        self.files, self.home, self.every_s = files, f"{home} on {socket.gethostname()}", every_s
        self.token = uuid.uuid4().hex[:12]
        self.about: Callable[[], dict[str, Any]] = dict
        """What is said of the run beside its holder."""
        self.lost = ""
        """Who took it over, while it was held here."""
        self._on_lost: Callable[[str], None] = lambda why: None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()
        """Held by who renews. Where files do not appear whole, two at once take each other's away."""
        self._count = 0

    def take(self, say: Callable[[str], None]) -> None:
        """Take the lease, after a wait where a dead one holds it; `say` is told of that. Raises JournalError where
        another run is alive."""
        while not (self.files.create(LEASE, self._body()) or self._mine()):
            other = holder(self.files)
            if other and other.get("home") == self.home:
                self.files.remove(LEASE)
            elif other:
                self._watch(other, say)
                if holder(self.files) == other:
                    self.files.remove(LEASE)
        self._thread = threading.Thread(target=self._renew_forever, name="lease", daemon=True)
        self._thread.start()

    def on_lost(self, call: Callable[[str], None]) -> None:
        """Whom to tell, once, that another took over."""
        self._on_lost = call
        if self.lost:
            call(self.lost)

    def check(self) -> None:
        """Look now. Raises RemoteError."""
        self._renew()

    def release(self) -> None:
        """Give it back. Raises RemoteError."""
        self._ended.set()
        if self._thread:
            self._thread.join()
        if not self.lost and self._mine():
            self.files.remove(LEASE)

    def _watch(self, other: dict[str, Any], say: Callable[[str], None]) -> None:
        every_s = float(other.get("every_s") or self.every_s)
        who, until = other.get("holder"), time.monotonic() + MISSED * every_s
        say(f"{self.files.url}: {who} ran there; looking for {MISSED * every_s:g} s whether it still does.")
        while time.monotonic() < until:
            self._ended.wait(every_s / MISSED)
            now = holder(self.files)
            if now is None:
                return
            if now != other:
                raise JournalError(
                    f"{self.files.url}: {now.get('holder')} is running there; wait for it, or name another with --out"
                )

    def _renew_forever(self) -> None:
        while not self._ended.wait(self.every_s):
            try:
                self._renew()
            except RemoteError:
                continue  # Whether that lasts is for the uploads to say.
            if self.lost:
                self._on_lost(self.lost)
                return

    def _renew(self) -> None:
        with self._turn:
            if self.lost:
                return
            found = holder(self.files)
            if found and found.get("token") != self.token:
                self.lost = f"{found.get('holder')} took over {self.files.url}"
            elif found:
                self.files.write(LEASE, self._body())
            else:
                # Who took it over while this machine slept may have ended already.
                self.lost = f"another run took over {self.files.url}, and has ended"

    def _mine(self) -> bool:
        return (holder(self.files) or {}).get("token") == self.token

    def _body(self) -> bytes:
        self._count += 1
        who = f"process {os.getpid()} on {socket.gethostname()}"
        said = {"holder": who, "home": self.home, "token": self.token, "every_s": self.every_s}
        return json.dumps({**said, "count": self._count, **self.about()}).encode()
