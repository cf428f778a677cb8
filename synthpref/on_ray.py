"""`--on ray`: a run's shards, walked by actors of a Ray cluster. The one module that imports ray.

An actor holds one set of engines, or is one more process that asks endpoints. Actors that the cluster has no room
for stay pending, which is what an autoscaler adds machines for; whenever one comes, it takes part. Ray is
told nothing secret but in arguments of methods, which it neither logs nor keeps.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from math import inf
from typing import Any

from synthpref import __version__
from synthpref.core.errors import (
    JournalDamaged,
    JournalError,
    Problem,
    RecipeError,
    StageError,
    SynthprefError,
)
from synthpref.core.seam import ModelSpec
from synthpref.engine.folder import PROGRESS, SHARDS, replaced
from synthpref.engine.recipe import Recipe
from synthpref.engine.runner import Runner
from synthpref.engine.shards import Pool, Report, WorkerLost, gather
from synthpref.engine.shares import Shares, State
from synthpref.engine.steps import Step
from synthpref.engine.tally import Tally
from synthpref.shard_worker import LIMITS, ORDER, Order, ShardWorker, digest_of, named

PER_WORKER = 4
"""Shards for each worker, where their number is not given."""
REACH_S = 10.0
IS_IT_UP = "is it up? `ray status` tells; without --address a Ray is started on this machine"
SHOWN_S = 2.0
LONG_S = 15.0
CLOSE_S = 30.0

log = logging.getLogger("synthpref")


@dataclass(frozen=True)
class Cluster:
    """Where a run's shards are walked."""

    address: str | None = None
    """As ray.init takes it: "auto", "host:port", "ray://...". None starts a Ray of its own on this machine."""
    shards: int | None = None
    workers: int | None = None
    """How many actors; None for as many as there is room for now."""
    gpus: float | None = None
    """GPUs of each actor; None for what its models need."""
    patience_s: float = 900.0
    """How long there may be no actor at all."""


def imported() -> Any:
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Else what it says of workers that died goes to stdout; we say it ourselves, in run.log.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
        import ray
    except ImportError:
        fix = 'pip install "synthpref[ray]", on all machines of the cluster'
        raise RecipeError([Problem("--on ray", "ray is not installed", fix)]) from None
    return ray


def gpus_of(models: Mapping[str, ModelSpec]) -> float:
    """What a worker holds of the machine: the accelerators of its engines."""
    return len(frozenset[str]().union(*(spec.accelerators() for spec in models.values())))


def _reach(address: str | None) -> None:
    """Raise RecipeError where nobody listens: Ray itself goes on trying for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    except OSError as error:
        why = error.strerror or f"no answer in {REACH_S:g} s"
        raise RecipeError([Problem("--address", f"{address}: {why}", IS_IT_UP)]) from None


class Hand:
    """The actor. Errors are handed back as values: what Ray makes of an exception goes to its logs."""

    def __init__(self) -> None:
        self.worker: ShardWorker | None = None

    async def begin(self, order: Order) -> str:
        """What is in the way, or ""."""
        if not self.worker:
            # Paths that a recipe has from where it was started (a function to verify with, a model's folder) lead there.
            with suppress(OSError):
                os.chdir(order["cwd"])
            try:
                self.worker = ShardWorker(order)
            except SynthprefError as error:
                return str(error) or type(error).__name__
        return ""

    async def walk(self, step: int, shard: int, of: int) -> tuple[Report, str, bool]:
        """What the worker reports, what went wrong, and whether that is damage of the run's own journal."""
        assert self.worker
        try:
            return await self.worker.walk(step, shard, of), "", False
        except Exception as error:  # noqa: BLE001  what gets by here ends in the logs of Ray, with all it says
            return self.worker.report(), self.worker.told(error), isinstance(error, JournalDamaged)

    async def report(self) -> Report:
        assert self.worker
        return self.worker.report()

    async def stop(self, reason: str) -> None:
        if self.worker:
            self.worker.end(reason)

    async def share(self, more: tuple[float, float] | None) -> State:
        assert self.worker
        return self.worker.share(more)

    async def close(self) -> None:
        if self.worker:
            await self.worker.close()


class Actor:
    """A worker, as the run sees it."""

    def __init__(self, ray: Any, handle: Any) -> None:
        self._ray, self.handle = ray, handle

    async def _ask(self, method: str, *args: Any) -> Any:
        try:
            return await getattr(self.handle, method).remote(*args)
        except self._ray.exceptions.RayTaskError as error:
            raise StageError(f"a worker failed: {_short(error)}") from error
        except self._ray.exceptions.RayError as error:
            if getattr(error, "actor_init_failed", False):
                fix = "is the same synthpref, with what the recipe needs, installed on all machines?"
                raise StageError(f"a worker cannot start: {_short(error)}; {fix}") from error
            raise WorkerLost(_short(error)) from None

    async def begin(self, order: Order) -> None:
        if said := await self._ask("begin", order):
            raise SynthprefError(said)

    async def walk(self, step: int, shard: int, of: int) -> Report:
        found, error, damaged = await self._ask("walk", step, shard, of)
        if error:
            raise (JournalDamaged if damaged else JournalError)(error)
        return dict(found)

    async def report(self) -> Report:
        return dict(await self._ask("report"))

    async def stop(self, reason: str) -> None:
        await self._ask("stop", reason)

    async def share(self, more: tuple[float, float] | None) -> State:
        return dict(await self._ask("share", more))

    async def close(self) -> None:
        await self._ask("close")


def _short(error: BaseException) -> str:
    """The first and the last line of what Ray says, which is long; the last has the cause, where there is one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " … ".join(dict.fromkeys([lines[0], lines[-1]]))


class Shards:
    """Segments of one run, walked by actors."""

    def __init__(self, ray: Any, cluster: Cluster, runner: Runner, limit: int | None) -> None:
        self.ray, self.runner, self.limit = ray, runner, limit
        self.recipe, self.journal = runner.recipe, runner.journal
        recipe = self.recipe
        self.folder = self.journal.path.parent / SHARDS
        self.gpus = gpus_of(recipe.models) if cluster.gpus is None else cluster.gpus
        self.seats = cluster.workers or self._room()
        limits = [getattr(spec, name, None) for spec in recipe.models.values() for name in LIMITS]
        # What an endpoint takes is divided among all, and nobody can do with less than one.
        self.seats = min([self.seats, *(limit for limit in limits if limit)])
        self.shards = cluster.shards or PER_WORKER * self.seats
        self.seats = min(self.seats, self.shards)
        self.token = secrets.token_hex(8)
        self._hired: dict[int, tuple[Actor, asyncio.Task[None]]] = {}
        self.tally = Tally(runner.progress, recipe.models, runner.stop)
        runner.models.roles.update(self.tally.roles)
        budget = runner.budget
        self.shares = Shares(budget.caps, budget.spent, runner.stop.now) if budget else None
        self.pool = Pool(
            self.folder,
            self.seats,
            self.shards,
            self._hire,
            self._hear,
            runner.stop,
            self._lacking,
            cluster.patience_s,
            self._tend,
        )

    def _room(self) -> int:
        """How many actors fit now, with a CPU to spare for what else runs there."""
        has = self.ray.cluster_resources()
        room = has.get("CPU", 1) - 1
        if self.gpus:
            room = min(room, has.get("GPU", 0) / self.gpus)
        return max(1, int(room))

    def _hear(self, seat: int, found: Report | None) -> None:
        runner = self.runner
        self.tally.hear(seat, found)
        if found is None:
            self._dismiss(seat)
            if self.shares:
                self.shares.lost(seat)
        if found and found["stopped"]:
            runner.stop.now(found["stopped"], found["failed"])
        runner.check_rejects()
        there = len(self.pool.there)
        runner.progress.note = "" if there == self.seats else f"{there} of {self.seats} workers"

    async def _tend(self) -> None:
        if self.shares:
            there = {seat: self._hired[seat][0] for seat in self.pool.there if seat in self._hired}
            await self.shares.tend(there)

    async def segment(self, step: Step) -> None:
        loop = asyncio.get_running_loop()
        await self.journal.settle()
        await loop.run_in_executor(None, self.journal.fold)
        self.folder.mkdir(exist_ok=True)
        (self.folder / ORDER).write_text(self.token, encoding="utf-8")
        showing = asyncio.create_task(self._show())
        try:
            await self.pool.segment(step)
        finally:
            showing.cancel()
        await loop.run_in_executor(None, lambda: gather(self.journal, self.folder, whole=True))

    async def _show(self) -> None:
        """Leave word of how far all are, for `status`; and of what is waited for, where nobody comes."""
        begun, said = time.monotonic(), False
        while True:
            if not self.pool.there:
                self.runner.progress.note = f"no worker yet: {self._needs()}"
                if not said and time.monotonic() - begun > LONG_S:
                    said = True
                    log.warning("no worker came for %g s: %s", LONG_S, self._needs())
            with replaced(self.folder / PROGRESS) as file:
                file.write(self.runner.progress.line())
            await asyncio.sleep(SHOWN_S)

    async def _hire(self, seat: int) -> Actor:
        """Wait until the seat's actor is there. The wait may be broken off and gone on with later."""
        if seat not in self._hired:
            kind = self.ray.remote(num_cpus=1, num_gpus=self.gpus, max_restarts=0)(Hand)
            actor = Actor(self.ray, kind.remote())
            self._hired[seat] = actor, asyncio.create_task(actor.begin(self._order(seat)))
        actor, begun = self._hired[seat]
        await asyncio.shield(begun)
        return actor

    def _dismiss(self, seat: int) -> None:
        """The seat's actor was lost. Perhaps it is only out of sight: it must not hold on to its shards."""
        if seat in self._hired:
            actor, begun = self._hired.pop(seat)
            begun.cancel()
            self.ray.kill(actor.handle)

    def _order(self, seat: int) -> Order:
        origin = self.recipe.origin
        path = origin.path.absolute()
        text = "\n".join([path.read_text(encoding="utf-8"), *origin.settings])
        return Order(
            version=__version__,
            cwd=os.getcwd(),
            recipe=str(path),
            settings=list(origin.settings),
            variables=dict(origin.variables),
            limit=self.limit,
            env=named(text, os.environ),
            digest=digest_of(self.recipe),
            folder=str(self.journal.path.parent.absolute()),
            token=self.token,
            seat=seat,
            seats=self.seats,
            capped=[cap < inf for cap in budget.caps] if (budget := self.runner.budget) else [],
            before=dict(budget.before) if budget else {},
        )

    def _needs(self) -> str:
        has = self.ray.cluster_resources()
        free = self.ray.available_resources()
        kinds = ("CPU", "GPU") if self.gpus else ("CPU",)
        there = ", ".join(f"{free.get(kind, 0):g} of {has.get(kind, 0):g} {kind}s free" for kind in kinds)
        needs = "1 CPU" + (f" and {self.gpus:g} GPUs" if self.gpus else "")
        return f"each needs {needs}, and the cluster has {there}"

    def _lacking(self) -> str:
        fix = "add machines, ask for less (--gpus), or end what else runs there, then run the same command again"
        return f"{self._needs()}; {fix}"

    async def close(self) -> None:
        actors = [actor for actor, _ in self._hired.values()]
        ends = [
            asyncio.wait_for(actor.close(), CLOSE_S) for actor, begun in self._hired.values() if begun.done()
        ]
        await asyncio.gather(*ends, return_exceptions=True)
        for _, begun in self._hired.values():
            begun.cancel()
        await asyncio.gather(*(begun for _, begun in self._hired.values()), return_exceptions=True)
        for actor in actors:
            self.ray.kill(actor.handle)
        with (self.folder.parent / "run.log").open("a", encoding="utf-8") as told:
            for file in sorted(self.folder.glob("worker-*/run.log")):
                told.write(file.read_text(encoding="utf-8", errors="replace"))
                file.unlink()
        if self.runner.stop.failed:
            return  # the logs of its engines say why
        for home in self.folder.glob("worker-*"):
            shutil.rmtree(home, ignore_errors=True)
        if not [*self.folder.glob("*.sqlite*")]:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def connected(cluster: Cluster, recipe: Recipe) -> Iterator[None]:
    """Ray is there, until the block ends. Raises RecipeError where it cannot be had."""
    if batch := [name for name, spec in recipe.models.items() if getattr(spec, "mode", None) == "batch"]:
        fix = "run it without --on ray: a batch is made at the provider, and needs no cluster"
        raise RecipeError(
            [Problem(f"models.{batch[0]}.mode", "batches are not made by several workers", fix)]
        )
    ray = imported()
    if ray.is_initialized():
        yield
        return
    # Ray takes the signals that end a run.
    taken = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    heard = {number: signal.getsignal(number) for number in taken}
    logging.getLogger("ray").setLevel(logging.ERROR)
    _reach(cluster.address)
    try:
        ray.init(
            address=cluster.address or "local",
            include_dashboard=None if cluster.address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RecipeError([Problem("--address", _short(error), IS_IT_UP)]) from None
    for number, handler in heard.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


@asynccontextmanager
async def shards(cluster: Cluster, runner: Runner, limit: int | None) -> AsyncIterator[None]:
    """Until the block ends, the runner's segments are walked on the cluster, which is `connected`."""
    made = Shards(imported(), cluster, runner, limit)
    runner.elsewhere = made.segment
    log.info("on ray: %d workers, %d shards, %g GPUs each", made.seats, made.shards, made.gpus)
    try:
        yield
    finally:
        await made.close()
