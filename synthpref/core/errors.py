"""Everything that can go wrong, told apart by type, never by text.

SynthprefError
├── RecipeError      the recipe or its source is wrong; raised before any call          exit 2
├── BackendError     a model endpoint failed; `kind` decides what happens next
│     rate_limit, transient, unreachable        asked again; a dead endpoint stops the run
│     unreadable                     an answer came that cannot be read; asked again twice
│     context_length, content_filter, bad_request      the part fails: a missing sample, score or rationale;
│                                   the row is rejected where nothing is left to go on with
│     payment                                         the run stops at once     exit 1
│     auth, not_found, unsupported        the same, unless others of the role are answered     exit 1
├── StageError       stage or plugin code raised; the row is rejected
├── JournalError     what was paid for cannot be written or read; the run stops    exit 1
│   └── JournalDamaged   what is in the file is not what was written; the next start mends it
├── RemoteError      what lies at a URL cannot be read or written; the run goes on with the same command   exit 1
├── RunStopped       stopped early on purpose (budget, rejects, Ctrl-C)            exit 3
└── ExportError      a finished run cannot be written in the asked format          exit 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ErrorKind = Literal[
    "rate_limit",
    "transient",
    "unreachable",
    "unreadable",
    "context_length",
    "content_filter",
    "bad_request",
    "payment",
    "auth",
    "not_found",
    "unsupported",
]
RETRIED: frozenset[ErrorKind] = frozenset({"rate_limit", "transient", "unreachable", "unreadable"})
FATAL: frozenset[ErrorKind] = frozenset({"payment", "auth", "not_found", "unsupported"})
LASTING: frozenset[ErrorKind] = frozenset({"context_length", "content_filter", "bad_request"})
"""What the same request meets again, however often it is sent."""


class SynthprefError(Exception):
    """The root: `except SynthprefError` catches all that this package raises on purpose."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a recipe: where it is, what was found there, and what to do about it."""

    path: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.path}: {self.message}" if self.path else self.message
        return f"{text}; {self.fix}" if self.fix else text


class RecipeError(SynthprefError):
    """All the mistakes that can be seen without a call, reported together."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class BackendError(SynthprefError):
    """A call to a model failed.

    `message` says what went wrong, and `where` at which address; str() gives both. `status` is the HTTP status where
    there was one; `retry_after` is in seconds, as the server asked. Neither text ever holds a key, a token or a header.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        where: str = "",
    ) -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.kind: ErrorKind = kind
        self.message = message
        self.status = status
        self.retry_after = retry_after


class StageError(SynthprefError):
    """A stage broke its contract, or its code raised; `__cause__` holds the original."""


class JournalError(SynthprefError):
    """The journal of a run cannot be opened, read or written."""


class JournalDamaged(JournalError):
    """What the journal holds is not what was written. The next start makes it anew from what is whole."""


class RemoteError(SynthprefError):
    """What lies at a URL cannot be listed, read or written. `passing` where it may go if it is tried again."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class RunStopped(SynthprefError):
    """The run ended early and its folder resumes with the same command."""

    exit_code = 3


class ExportError(SynthprefError):
    """The rows of a run cannot be written in the format asked for."""
