"""Whether anything moves in a run but what takes long: batches at a provider, and models that wait for their turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Still:
    """One for a run. `shared` is that of ModelSpec.open."""

    def __init__(self, shared: dict[str, Any]) -> None:
        self._asking: Callable[[], int] | None = shared.get("asking")
        self._parked: list[Callable[[], int]] = []
        self.moves = 0
        """Counted up whenever a call is parked, or goes on."""

    @staticmethod
    def of(shared: dict[str, Any]) -> Still:
        found = shared.get("still")
        if not isinstance(found, Still):
            shared["still"] = found = Still(shared)
        return found

    def parks(self, count: Callable[[], int]) -> None:
        """Calls are parked here: each is under way, and nothing comes of it before somebody decides so."""
        self._parked.append(count)

    @property
    def rests(self) -> bool:
        """Whether all calls of all roles are parked."""
        return self._asking is None or self._asking() == sum(count() for count in self._parked)
