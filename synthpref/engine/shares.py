"""One budget for the workers of a sharded run: each has a share of what is left, and only that may be spent there.

The shares together never pass what is left, so the caps hold as they do in one process. Where a worker's share is used up,
what all others have not spent or reserved is taken back and dealt out anew; when even all of it is too little for the
cheapest call that waits, and nothing is under way, the run stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Any, Protocol

from synthpref.engine.budget import Amount, Budget, spent_up
from synthpref.engine.shards import WorkerLost

PATIENCE_S = 10.0
"""How long a worker is waited for that is asked about its share."""

State = dict[str, Any]
"""What a worker says of its share, as plain values: see `share_of`."""


class Sharing(Protocol):
    """A worker that has a share."""

    async def share(self, more: tuple[float, float] | None) -> State:
        """Add to the worker's share; None takes back all that is neither spent nor reserved. What it says of it then."""
        ...


def share_of(budget: Budget, more: tuple[float, float] | None) -> State:
    """The worker's side of `Sharing.share`."""
    used = budget.spent.plus(budget.reserved)
    caps = used if more is None else budget.caps.plus(Amount(*more))
    budget.allow(Amount(*(inf if old == inf else new for old, new in zip(budget.caps, caps, strict=True))))
    least, what = budget.least() or (None, "")
    return {
        "used": tuple(budget.spent.plus(budget.reserved)),
        "held": budget.held,
        "least": None if least is None else tuple(least),
        "what": what,
    }


class Shares:
    """Deals the budget out to workers, by seat."""

    def __init__(self, caps: Amount, spent: Amount, stop: Callable[[str], object]) -> None:
        self.caps, self.spent, self._stop = caps, spent, stop
        self._shares: dict[int, Amount] = {}
        """What each worker may have spent in all."""
        self._used: dict[int, Amount] = {}
        """What it had spent or reserved when it was last heard."""
        self._who: dict[int, object] = {}

    @property
    def dealt(self) -> Amount:
        """What is spent, or in somebody's share."""
        return Amount(*map(sum, zip(self.spent, *self._shares.values(), strict=True)))

    @property
    def left(self) -> Amount:
        return self.caps.less(self.dealt)

    def lost(self, seat: int) -> None:
        """The seat's worker is gone. What it had reserved counts as spent: its calls may have to be paid for."""
        self.spent = self.spent.plus(self._used.pop(seat, Amount()))
        self._shares.pop(seat, None)
        self._who.pop(seat, None)

    async def tend(self, workers: Mapping[int, Sharing]) -> None:
        """See who has too little, and deal out anew if somebody has."""
        for seat, worker in workers.items():
            if self._who.get(seat, worker) is not worker:
                self.lost(seat)
            self._who[seat] = worker
        states = await self._each(workers, lambda seat: (0.0, 0.0))
        if not any(state["least"] for state in states.values()):
            return
        states = await self._each(workers, lambda seat: None)
        wanting = {seat: Amount(*state["least"]) for seat, state in states.items() if state["least"]}
        if not wanting:
            return
        part = self.left.times(1 / len(workers))
        seats = set(workers)
        if not any(least.within(part) for least in wanting.values()):
            # Too little for all of them is enough for one.
            first = min(wanting, key=lambda seat: wanting[seat])
            part, seats = self.left, {first}
            if not wanting[first].within(part):
                if not any(state["held"] for state in states.values()) and len(states) == len(workers):
                    self._stop(spent_up(self.caps, self.dealt, wanting[first], states[first]["what"]))
                return
        finite = (part.usd if part.usd < inf else 0.0, part.tokens if part.tokens < inf else 0.0)
        await self._each(workers, lambda seat: finite if seat in seats else (0.0, 0.0))

    async def _each(
        self, workers: Mapping[int, Sharing], more: Callable[[int], tuple[float, float] | None]
    ) -> dict[int, State]:
        """Ask all workers, and note what is theirs; those that do not answer keep their share."""
        found: dict[int, State] = {}

        async def ask(seat: int, worker: Sharing) -> None:
            add = more(seat)
            if add is not None:
                # Before it is sent: it may be spent though no answer comes.
                self._shares[seat] = self._shares.get(seat, Amount()).plus(Amount(*add))
            state = await asyncio.wait_for(worker.share(add), PATIENCE_S)
            self._used[seat] = Amount(*state["used"])
            if add is None:
                self._shares[seat] = self._used[seat]
            found[seat] = state

        asked: list[Awaitable[None]] = [ask(seat, worker) for seat, worker in workers.items()]
        for error in await asyncio.gather(*asked, return_exceptions=True):
            if error and not isinstance(error, WorkerLost | TimeoutError):
                raise error
        return found
