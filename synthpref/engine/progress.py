"""The counters of a run, and the one view on them."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from synthpref.engine.role import Role

log = logging.getLogger("synthpref")


@dataclass
class Progress:
    """What has happened so far in this start of the run. The engine counts; a view reads."""

    expected: int | None = None
    """Rows in the source, where that is known."""
    step: str = ""
    entered: int = 0
    finished: int = 0
    skipped: int = 0
    """Finished in an earlier start of the run."""
    noted: int = 0
    """Rows of all steps that came to an end in this start."""
    dropped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    first_error: str = ""
    """Where and why a row was first rejected."""
    roles: Mapping[str, Role] = field(default_factory=dict)
    spent_before_usd: float = 0.0
    answers_before: int = 0
    """Of earlier starts."""
    estimated_before: int = 0
    """Those of them whose tokens were estimated."""
    note: str = ""
    """What else is to be said."""
    started: float = field(default_factory=time.monotonic)

    def begin(self, step: str) -> None:
        """A step begins; what was dropped and rejected is counted over all of them."""
        self.step, self.finished, self.skipped = step, 0, 0

    @property
    def requests(self) -> int:
        return sum(role.meter.requests for role in self.roles.values())

    @property
    def in_flight(self) -> int:
        return sum(role.in_flight for role in self.roles.values())

    @property
    def tokens(self) -> int:
        usages = [role.meter.usage for role in self.roles.values()]
        return sum(u.prompt_tokens + u.completion_tokens for u in usages)

    @property
    def cost(self) -> float | None:
        """US dollars over all starts; None where no role has a price."""
        costs = [role.cost for role in self.roles.values() if role.cost is not None]
        return self.spent_before_usd + sum(costs) if costs else None

    @property
    def unpriced(self) -> list[str]:
        """Roles that were asked and have no price."""
        return [n for n, role in self.roles.items() if role.spec.price is None and role.meter.completions]

    def about(self) -> str:
        """What the figures of tokens and dollars rest on, where the endpoints did not count all; else ""."""
        meters = [role.meter for role in self.roles.values()]
        if not (estimated := self.estimated_before + sum(meter.estimated for meter in meters)):
            return ""
        answers = self.answers_before + sum(meter.completions for meter in meters)
        return f"usage estimated for {estimated:,} of {answers:,} answers"

    def _cost(self) -> str:
        if self.cost is None:
            return ""
        about, unpriced = self.about(), ", ".join(self.unpriced)
        text = ("at least " if unpriced else "about " if about else "") + f"${self.cost:.2f}"
        said = [f"no price for: {unpriced}"] if unpriced else []
        if self.expected and self.finished > 0:
            rest = max(self.expected - self.finished - self.skipped, 0)
            in_all = self.cost + (self.cost - self.spent_before_usd) * rest / self.finished
            said.append(f"about ${in_all:.2f} in all")
        return f"{text} ({'; '.join(said)})" if said else text

    def line(self) -> str:
        """All of it on one line."""
        seconds = max(time.monotonic() - self.started, 1e-6)
        of = f"/{self.expected}" if self.expected else ""
        parts = [
            f"{self.step}: {self.finished + self.skipped}{of} rows",
            f"{self.in_flight} calls in flight",
            f"{self.requests / seconds:.1f} calls/s",
            f"about {self.tokens:,} tokens ({about})"
            if (about := self.about())
            else f"{self.tokens:,} tokens",
        ]
        parts += [f"{name}: {said}" for name, role in self.roles.items() if (said := role.waits_for())]
        if cost := self._cost():
            parts.append(cost)
        for what, counts in (("dropped", self.dropped), ("rejected", self.rejected)):
            if counts:
                reasons = ", ".join(f"{n} {reason}" for reason, n in counts.most_common(3))
                parts.append(f"{counts.total()} {what} ({reasons})")
        return " · ".join([*parts, self.note] if self.note else parts)
