"""The counters of workers, added up into those of the run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, ModelSpec, Request
from synthpref.core.types import Usage
from synthpref.engine.progress import Progress
from synthpref.engine.role import Role, Stop

COUNTS = ("entered", "finished", "skipped", "noted")
METER = ("requests", "completions", "replayed", "retries", "estimated")


def report(progress: Progress, stop: Stop) -> dict[str, Any]:
    """What a worker says of itself, as plain values."""
    return {
        "at": time.monotonic(),
        "counts": {name: getattr(progress, name) for name in COUNTS},
        "left": {what: dict(getattr(progress, what)) for what in ("dropped", "rejected")},
        "roles": {
            name: {
                **{what: getattr(role.meter, what) for what in METER},
                "prompt": role.meter.usage.prompt_tokens,
                "completion": role.meter.usage.completion_tokens,
                "live_prompt": role.meter.live.prompt_tokens,
                "live_completion": role.meter.live.completion_tokens,
                "in_flight": role.in_flight,
            }
            for name, role in list(progress.roles.items())
        },
        "waits": {name: said for name, role in list(progress.roles.items()) if (said := role.waits_for())},
        "first_error": progress.first_error,
        "stopped": stop.reason,
        "failed": stop.failed,
    }


class Elsewhere:
    """The backend of a role that only workers ask."""

    waiting = ""

    async def complete(self, request: Request) -> list[Completion]:
        raise BackendError("unsupported", "this role is asked by workers")

    async def aclose(self) -> None:
        pass

    def waits_for(self) -> str:
        return self.waiting


class Tally:
    """Adds up what workers report. `last` is kept by seat, so that only what is new is added."""

    def __init__(self, progress: Progress, models: Mapping[str, ModelSpec], stop: Stop) -> None:
        self.progress = progress
        self.roles = {name: Role(name, spec, Elsewhere(), stop, {}) for name, spec in models.items()}
        self._last: dict[int, dict[str, Any]] = {}

    def hear(self, seat: int, found: dict[str, Any] | None) -> None:
        """Add what the worker of the seat has done since it was last heard; None when it is gone."""
        last = self._last.get(seat, {})
        if found and found["at"] < last.get("at", 0.0):
            return  # it was overtaken on its way
        self._last.pop(seat, None)
        if found is None:
            # What it had done stays done, also what it noted last and nobody heard of; its calls are under way no more.
            self.progress.noted += 1
            for name, old in last.get("roles", {}).items():
                self.roles[name].in_flight -= old["in_flight"]
            return
        self._last[seat] = found
        for name, value in found["counts"].items():
            more = value - last.get("counts", {}).get(name, 0)
            setattr(self.progress, name, getattr(self.progress, name) + more)
        for what, counts in found["left"].items():
            ours: Counter[str] = getattr(self.progress, what)
            for reason, value in counts.items():
                ours[reason] += value - last.get("left", {}).get(what, {}).get(reason, 0)
        self.progress.first_error = self.progress.first_error or found["first_error"]
        for name, values in found["roles"].items():
            self._add(self.roles[name], values, last.get("roles", {}).get(name, {}))
            backend = self.roles[name].backend
            assert isinstance(backend, Elsewhere)
            backend.waiting = found["waits"].get(name, "")

    @staticmethod
    def _add(role: Role, values: dict[str, int], last: dict[str, int]) -> None:
        more = {what: value - last.get(what, 0) for what, value in values.items()}
        for what in METER:
            setattr(role.meter, what, getattr(role.meter, what) + more[what])
        role.meter.usage += Usage(more["prompt"], more["completion"])
        role.meter.live += Usage(more["live_prompt"], more["live_completion"])
        role.in_flight += more["in_flight"]
