"""Models that do not fit into memory together, awake in turn: `placement: in_turn`.

A gate before the models lets calls through to one of them, which is awake; calls for the others wait at it. When no
call is under way but such as wait (here, or for a batch), nobody can ask the one that is awake any more, because a row
asks only when its calls before are answered. Then it gives its memory up, and the one that most calls wait for is
woken. Rows are walked as ever: whether a call waits here or in an endpoint's line is all the same to them.

No run waits for ever here. While a call is under way that does not wait, it ends (by an answer, or by the patience of
its role), and its row asks again, or ends. When all wait, one of the models is woken, and each call that waits for it
is let through or told why it cannot be woken; so each change answers a call, and a run has only so many. A row that
does something else than asking (a stage that runs a program) may be overlooked, which costs a change too many and
nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from synthpref.core.errors import BackendError, ErrorKind, Problem
from synthpref.core.seam import NEUTRAL, Backend, Completion, ModelSpec, Request
from synthpref.models.still import Still

QUIET_S = 0.25
"""Nothing has moved for so long when models change. Little beside a change, and enough for a row between two calls."""

log = logging.getLogger("synthpref")


class Placed(ModelSpec):
    """A model that takes memory of this machine."""

    placement: Annotated[Literal["together", "in_turn"], NEUTRAL] = "together"
    """in_turn: where models do not fit together, all roles that say so are awake one model at a time. Each works
    through a block of rows, gives its memory up, and the next one is woken."""
    block: Annotated[int, NEUTRAL] = Field(default=2048, ge=1)
    """With `placement: in_turn`, rows under way at once. More of them make fewer changes, and take more memory."""

    def gathers(self) -> int:
        return self.block if self.placement == "in_turn" else 0

    def turn(self) -> str:
        return f"{self.backend} {self.model}" if self.placement == "in_turn" else ""


def at_odds(keys: Mapping[str, str], roles: Mapping[str, Placing]) -> list[Problem]:
    """Roles that share a model in memory, by their keys, and do not say the same of where it is."""
    first: dict[str, str] = {}
    found = []
    for role, key in keys.items():
        other = first.setdefault(key, role)
        if (theirs := roles[other].placement) != roles[role].placement:
            said = f"it is on one engine with models.{other}, whose placement is {theirs}"
            found.append(Problem(f"models.{role}.placement", said, "give both the same placement"))
    return found


class Placing(Protocol):
    """What is looked at of a role."""

    @property
    def placement(self) -> str: ...


class Sleeper(Protocol):
    """What can be awake or not. Nobody asks it while it is not."""

    async def ready(self) -> Any:
        """Wake it. Raises BackendError when that fails."""
        ...

    async def rest(self) -> None:
        """Give up the memory that it holds. Raises nothing."""
        ...


class Member:
    """A model, in one engine or several, that waits for its turn."""

    def __init__(self, name: str, sleepers: Sequence[Sleeper]) -> None:
        self.name, self.sleepers = name, sleepers
        self.waiting: dict[asyncio.Future[None], None] = {}


class Turns:
    """The gate; one for a run. `shared` is that of ModelSpec.open."""

    def __init__(self, shared: dict[str, Any]) -> None:
        self._still = Still.of(shared)
        self._still.parks(self._parked)
        stop = shared.get("stop")
        self._stop = stop if isinstance(stop, asyncio.Event) else asyncio.Event()
        self._members: dict[str, Member] = {}
        self._awake: Member | None = None
        self._coming: Member | None = None
        self._inside = 0
        self._users = 0
        self._closing = False
        self._look: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.changes = 0

    @staticmethod
    def before(backend: Backend, shared: dict[str, Any], name: str, sleepers: Sequence[Sleeper]) -> InTurn:
        """The backend with the gate before it. Roles on one model name the same `name`, and sleep together."""
        turns = shared.get("turns")
        if not isinstance(turns, Turns):
            shared["turns"] = turns = Turns(shared)
        turns._users += 1
        return InTurn(turns, turns._members.setdefault(name, Member(name, sleepers)), backend)

    @contextlib.asynccontextmanager
    async def turn(self, member: Member) -> AsyncIterator[None]:
        """The member is awake while the block is inside it."""
        if member is self._awake and self._coming is None:
            self._inside += 1
        else:
            await self._wait(member)
        try:
            yield
        finally:
            self._inside -= 1
            self._still.moves += 1

    async def _wait(self, member: Member) -> None:
        if self._stop.is_set():
            raise _stopping()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        member.waiting[future] = None
        self._still.moves += 1
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._turn_away())
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._watch())
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                self._inside -= 1
            raise
        finally:
            member.waiting.pop(future, None)

    def _parked(self) -> int:
        """Those that wait for the one that is being woken are on their way."""
        return sum(len(m.waiting) for m in self._members.values() if m is not self._coming)

    async def _watch(self) -> None:
        while not self._closing and any(m.waiting for m in self._members.values()):
            seen = self._still.moves
            if self._awake:
                await asyncio.sleep(QUIET_S)
                if self._inside or self._still.moves != seen or not self._still.rests:
                    continue
            if (most := max(self._members.values(), key=lambda m: len(m.waiting))).waiting:
                await self._change(most)

    async def _change(self, member: Member) -> None:
        before, self._coming = self._awake, member
        kind: ErrorKind = "unsupported"
        why = ""
        try:
            if before and before is not member:
                log.info(
                    "%s gives way to %s, which %d calls wait for",
                    before.name,
                    member.name,
                    len(member.waiting),
                )
                await asyncio.gather(*(one.rest() for one in before.sleepers))
                self.changes += 1
            self._awake = None
            await asyncio.gather(*(one.ready() for one in member.sleepers))
            self._awake = member
        except BackendError as error:
            kind, why = error.kind, str(error)
        except Exception as error:  # noqa: BLE001  whatever it is, who waits has to be told
            why = f"{member.name}: {type(error).__name__}: {error}"
        finally:
            self._coming = None
        self._still.moves += 1
        for future in [f for f in member.waiting if not f.done()]:
            if why:
                # One for each, because what is raised gathers the ways it went.
                future.set_exception(BackendError(kind, why))
            else:
                self._inside += 1
                future.set_result(None)
        member.waiting.clear()

    async def _turn_away(self) -> None:
        await self._stop.wait()
        for future in [f for m in self._members.values() for f in m.waiting]:
            if not future.done():
                future.set_exception(_stopping())

    def close(self) -> None:
        """The first role leaves: there are no more changes."""
        self._closing = True
        if self._look and self._coming is None:
            self._look.cancel()

    async def aclose(self) -> None:
        """A role has left, its engines too if it was the last on them."""
        self._users -= 1
        if self._users:
            return
        if self._stopping:
            self._stopping.cancel()
        if tasks := [task for task in (self._look, self._stopping) if task]:
            await asyncio.wait(tasks)

    def waits_for(self, member: Member) -> str:
        waiting = len(member.waiting)
        if self._coming is member:
            return "is being woken"
        return f"{waiting:,} wait for its turn" if waiting else ""


def _stopping() -> BackendError:
    # Of a kind for which the row is left for the next start, instead of being rejected.
    return BackendError("rate_limit", "the run is stopping")


class InTurn:
    """A Backend behind the gate."""

    def __init__(self, turns: Turns, member: Member, backend: Backend) -> None:
        self.turns, self.member, self.backend = turns, member, backend

    async def complete(self, request: Request) -> list[Completion]:
        async with self.turns.turn(self.member):
            return await self.backend.complete(request)

    def waits_for(self) -> str:
        return self.turns.waits_for(self.member)

    async def aclose(self) -> None:
        self.turns.close()
        await self.backend.aclose()
        await self.turns.aclose()
