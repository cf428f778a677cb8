"""What a worker of a sharded run does, in whatever process it is: loads the recipe by itself and walks shards."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, TypedDict

from synthpref import __version__, job
from synthpref.core.errors import JournalDamaged, JournalError, SynthprefError
from synthpref.core.seam import ModelSpec
from synthpref.engine.ask import Models
from synthpref.engine.budget import NONE, Amount, Budget
from synthpref.engine.folder import JOURNAL, SHARDS, logged
from synthpref.engine.overlay import Overlay, mine
from synthpref.engine.progress import Progress
from synthpref.engine.recipe import Limits, Recipe
from synthpref.engine.recipe_yaml import names
from synthpref.engine.records import digest, pack
from synthpref.engine.role import Stop
from synthpref.engine.runner import Runner
from synthpref.engine.salvage import mark
from synthpref.engine.shards import shard_held, shard_path
from synthpref.engine.shares import State, share_of
from synthpref.engine.steps import steps_of
from synthpref.engine.tally import report

ORDER = "order"
"""A file there by which a worker sees that it has the same folder as who sent it."""
FOREIGN = ("OPENAI_API_KEY", "HF_TOKEN")
"""Variables that backends read without a recipe naming them."""
LIMITS = ("concurrency", "rpm", "tpm")
"""Fields of a role that say what its endpoint takes from all of us together."""


log = logging.getLogger("synthpref")


class Order(TypedDict):
    """What a worker has to know. It travels in memory only, because there are keys in it."""

    version: str
    cwd: str
    recipe: str
    settings: list[str]
    variables: dict[str, str]
    limit: int | None
    env: dict[str, str]
    digest: str
    folder: str
    token: str
    seat: int
    seats: int
    capped: list[bool]
    """Whether money and tokens are bounded; empty where neither is."""
    before: dict[str, float]
    """See engine.budget.Budget."""


def part_of(spec: ModelSpec, seat: int, seats: int) -> ModelSpec:
    """The role as one of several workers has it: what its endpoint takes is divided among them."""
    whole = {name: getattr(spec, name, None) for name in LIMITS}
    parts = {name: max(1, n // seats + (seat < n % seats)) for name, n in whole.items() if n}
    return spec.model_copy(update=parts)


def digest_of(recipe: Recipe) -> str:
    """Two recipes that have the same walk the same rows, and make the same of them."""
    return digest(recipe.fingerprint.encode(), pack(recipe.source.model_dump(mode="json"))).hex()


class ShardWorker:
    """Walks shards; its models stay open from one to the next."""

    def __init__(self, order: Order, env: Any = os.environ) -> None:
        """Raises SynthprefError with what is not as it is where the order comes from."""
        self.folder = Path(order["folder"]) / SHARDS
        self.stop, self.progress = Stop(), Progress()
        self._stack = ExitStack()
        self._limit = order["limit"]
        env.update(order["env"])
        self._check(order)
        recipe = job.load(Path(order["recipe"]), order["settings"], order["variables"])
        if digest_of(recipe) != order["digest"]:
            raise SynthprefError(
                f"{order['recipe']} is another recipe here: is it, with its prompts and plugins, the same file on all "
                "machines, and as it was when the run was started? The same command goes on with it as it is now"
            )
        # Rejects are counted where all workers are heard, and the budget is dealt out there.
        head = recipe.head.model_copy(update={"limits": Limits(max_reject_rate=1)})
        roles = {name: part_of(spec, order["seat"], order["seats"]) for name, spec in recipe.models.items()}
        self.recipe = replace(recipe, head=head, models=roles)
        self.home = self.folder / f"worker-{order['seat']}"
        self.home.mkdir(exist_ok=True)
        self._stack.enter_context(logged(self.home, self.recipe))
        log.info("worker %d: process %d on %s", order["seat"], os.getpid(), os.uname().nodename)
        caps = Amount(*(0.0 if capped else inf for capped in order["capped"]))
        self._budget = Budget(caps, NONE, lambda why: None, order["before"]) if order["capped"] else None
        self._steps = steps_of(self.recipe)
        self._models: Models | None = None

    def _check(self, order: Order) -> None:
        where = f"on {os.uname().nodename}"
        if order["version"] != __version__:
            raise SynthprefError(
                f"synthpref {__version__} is installed {where}, and {order['version']} where the run was started; "
                "install the same on all machines"
            )
        token = self.folder / ORDER
        for path, what in ((Path(order["recipe"]), "the recipe"), (token, "the run folder")):
            if not path.exists():
                raise SynthprefError(
                    f"{what} is not there {where} ({path}); put it on storage that all machines share"
                )
        if token.read_text(encoding="utf-8") != order["token"]:
            raise SynthprefError(
                f"{self.folder} {where} is of another run; put it on storage that all machines share"
            )

    async def walk(self, step: int, shard: int, of: int) -> dict[str, Any]:
        """Walk a shard through a step, from where its journal ends. Raises SynthprefError."""
        path, own = shard_path(self.folder, shard), mine(shard, of)
        loop = asyncio.get_running_loop()

        def on_error() -> None:
            loop.call_soon_threadsafe(self.stop.now, "the journal cannot be written", True)

        try:
            async with _held(path):
                journal = Overlay(path, self.folder.parent / JOURNAL, own, on_error)
                try:
                    models = self._open(journal)
                    rows = lambda: (row for row in job.source(self.recipe, self._limit) if own(row.id))  # noqa: E731
                    runner = Runner(self.recipe, rows, journal, self.stop, self.progress, models)
                    await runner.walk(self._steps[step])
                    await models.drained()
                finally:
                    journal.close()
        except JournalDamaged as error:
            if str(error).startswith(f"{path}:"):
                mark(path, str(error))
                raise JournalError(str(error)) from error
            raise
        return self.report()

    def _open(self, journal: Overlay) -> Models:
        if self._models is None:
            recipe = self.recipe
            self._models = Models(
                recipe.models, journal, recipe.prompts, recipe.seed, self.stop, self.home, self._budget
            )
        return self._models.over(journal)

    def report(self) -> dict[str, Any]:
        return report(self.progress, self.stop)

    def share(self, more: tuple[float, float] | None) -> State:
        """See engine.shares.Sharing."""
        assert self._budget
        return share_of(self._budget, more)

    def end(self, reason: str) -> None:
        """Make no more calls; what is under way is waited for."""
        self.stop.now(reason)

    async def close(self) -> None:
        if self._models:
            await self._models.aclose()
        self._stack.close()

    def told(self, error: Exception) -> str:
        """What may be said of an error elsewhere."""
        if isinstance(error, SynthprefError):
            return self.recipe.redact(str(error))
        log.error("a worker failed", exc_info=error)
        return self.recipe.redact(f"a worker failed: {type(error).__name__}: {error}")


@asynccontextmanager
async def _held(path: Path) -> AsyncIterator[None]:
    """`shard_held`, with the wait for it in a thread."""
    lock = shard_held(path)
    taking = asyncio.get_running_loop().run_in_executor(None, lock.__enter__)
    try:
        await asyncio.shield(taking)
    except asyncio.CancelledError:
        # A thread cannot be cancelled; what it takes after that is to be given back.
        await taking
        lock.__exit__(None, None, None)
        raise
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def named(text: str, env: Mapping[str, str]) -> dict[str, str]:
    """The variables of the environment that a recipe needs elsewhere, too."""
    return {name: env[name] for name in (*names(text), *FOREIGN) if name in env}
