"""What stands between a stage and a model: the call key, and the look-up in the journal.

The key of an answer is (row id, hash of all that can change it, ordinal): the hash covers the model's
identity, the effective parameters, the messages, the response format and the run's seed; the ordinal counts
the equal requests of the row. Neither n nor anything NEUTRAL is in it, so n = 8 raised to 16 buys eight.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from synthpref.core.errors import LASTING, BackendError
from synthpref.core.seam import Completion, ModelInfo, ModelSpec, Request, RequestAsk, refusal
from synthpref.core.template import Prompts
from synthpref.core.thinking import read_completion
from synthpref.core.types import Message, Usage
from synthpref.engine.budget import Budget
from synthpref.engine.journal import Journal
from synthpref.engine.records import Key
from synthpref.engine.role import Role, Stop, Stopping


def call_key(identity: Mapping[str, Any], request: Request, seed: int, salt: int = 0) -> bytes:
    """The hash of all that can change an answer to the request. `salt` tells apart stages of one kind that
    stand on two sides of a barrier."""
    what = {
        "model": identity,
        "kind": request.kind,
        "messages": request.messages,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "stop": request.stop,
        "logprobs": request.logprobs,
        "response_format": request.response_format,
        "seed": seed,
        "salt": salt,
    }
    if request.prompt_logprobs is not None:
        # Only where it is asked for: the keys of a run that does not are those of earlier versions.
        what["prompt_logprobs"] = request.prompt_logprobs
    return hashlib.sha256(orjson.dumps(what, option=orjson.OPT_SORT_KEYS)).digest()[:16]


class Models:
    """The open roles of a run, opened at first use, and what they all share."""

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        journal: Journal,
        prompts: Prompts,
        seed: int,
        stop: Stop,
        folder: Path | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.specs, self.journal, self.prompts, self.seed, self.stop = specs, journal, prompts, seed, stop
        self.budget = budget
        if budget:
            stop.then.append(budget.close)
        self.roles: dict[str, Role] = {}
        self._shared: dict[str, Any] = {
            "stop": stop.event,
            "folder": folder or journal.path.parent,
            "asking": lambda: sum(role.asking for role in self.roles.values()),
        }
        self._answered: dict[str, float] = {}
        self._spent = journal.spent()
        self._infos: dict[str, ModelInfo] = {}
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def over(self, journal: Journal) -> Models:
        """The same open roles, for rows whose answers go into another journal."""
        other = copy(self)
        other.journal, other._busy, other._idle = journal, 0, asyncio.Event()
        other._idle.set()
        return other

    def share(self, name: str, value: Any) -> None:
        """Give to all roles what they find under `name`; see ModelSpec.open."""
        self._shared[name] = value

    def role(self, name: str) -> Role:
        if name not in self.roles:
            spec = self.specs[name]
            try:
                backend = spec.open(self._shared)
            except BackendError as error:
                self.stop.now(f"models.{name}: {error}", failed=True)
                raise Stopping from error
            answered = self._spent.get(name, (0,))[0] > 0
            self.roles[name] = Role(
                name, spec, backend, self.stop, self._answered, answered=answered, budget=self.budget
            )
        return self.roles[name]

    def check_refused(self) -> None:
        """Stop where a role answered nothing at all, and refused what it was asked."""
        for role in self.roles.values():
            role.check_refused()

    def info(self, name: str) -> ModelInfo:
        if name not in self._infos:
            spec = self.specs[name]
            params = {"temperature": spec.temperature, "top_p": spec.top_p, "max_tokens": spec.max_tokens}
            given = {k: v for k, v in params.items() if v is not None}
            self._infos[name] = ModelInfo(spec.model, given, spec.able())
        return self._infos[name]

    def enter(self) -> None:
        """A call begins; `drained` waits for the last one to leave."""
        self._busy += 1
        self._idle.clear()

    def leave(self) -> None:
        self._busy -= 1
        if not self._busy:
            self._idle.set()

    async def drained(self) -> None:
        """Wait until no call is under way. A row that failed may have left others of its calls behind."""
        await self._idle.wait()

    async def aclose(self) -> None:
        async with AsyncExitStack() as stack:
            for role in self.roles.values():
                stack.push_async_callback(role.backend.aclose)


class Walk:
    """One row on its way through a segment: its answers so far, and how often it asked the same."""

    def __init__(self, models: Models, row_id: str, priority: int) -> None:
        self.row_id, self.priority = row_id, priority
        self.kept: dict[Key, Completion] = models.journal.answers(row_id)
        self.told = {key for key, _ in self.kept}
        """Keys whose request the journal has already."""
        self.again = False
        """Whether something is missing for a passing reason, so that the next start is to try it once more."""
        self._asked: dict[bytes, int] = {}

    def take(self, key: bytes, n: int) -> range:
        """The ordinals of the next n equal requests."""
        first = self._asked.get(key, 0)
        self._asked[key] = first + n
        return range(first, first + n)


class RowAsk(RequestAsk):
    """The Ask of one row in one stage. See core.seam.Ask."""

    def __init__(self, models: Models, walk: Walk, stage: str, salt: int) -> None:
        self._models, self._walk, self._stage, self._salt = models, walk, stage, salt

    @cached_property
    def rng(self) -> random.Random:
        # Made when it is first used, because seeding is slow.
        return random.Random(f"{self._models.seed}|{self._walk.row_id}|{self._stage}")

    def prompt(self, name: str, **values: Any) -> list[Message]:
        return self._models.prompts.render(name, values)

    def info(self, model: str) -> ModelInfo:
        return self._models.info(model)

    async def _send(self, model: str, request: Request) -> list[Completion]:
        role, walk = self._models.role(model), self._walk
        if request.kind == "chat":
            request = role.with_defaults(request)
        key = call_key(role.identity, request, self._models.seed, self._salt)
        ordinals = walk.take(key, request.n)
        missing = [i for i in ordinals if (key, i) not in walk.kept]
        role.meter.replayed += len(ordinals) - len(missing)
        failed: dict[int, BackendError] = {}
        if missing:
            self._models.enter()
            try:
                failed = await self._buy(role, request, key, missing)
            finally:
                self._models.leave()
        walk.again |= any(error.kind not in LASTING for error in failed.values())
        if len(failed) == len(ordinals):
            raise failed[ordinals[0]]
        return [refusal(failed[i]) if i in failed else self._read(request, key, i) for i in ordinals]

    def _read(self, request: Request, key: bytes, ordinal: int) -> Completion:
        """A kept answer as stages see it."""
        kept = self._walk.kept[key, ordinal]
        if request.kind != "chat":
            return kept
        return read_completion(kept, self._limit(request, key, ordinal))

    def _limit(self, request: Request, key: bytes, ordinal: int) -> int | None:
        """The most tokens of an answer whose usage counts it alone: the first one of a call carries the usage, so the
        next one is of another call. None where it counts others, too."""
        following = self._walk.kept.get((key, ordinal + 1))
        alone = following is None or following.usage is not None
        return request.max_tokens if alone else None

    async def _buy(
        self, role: Role, request: Request, key: bytes, missing: list[int]
    ) -> dict[int, BackendError]:
        """Ask for the missing ordinals: each run of them at once where the role can do that, and singly what it then
        left out. Every answer that comes is kept; returns what could not be had, and why."""
        failed: dict[int, BackendError] = {}
        single: list[int] = []
        for run in _runs(missing) if "n" in role.able else []:
            try:
                single += run[await self._call(role, request, key, run) :]
            except BackendError as error:
                failed |= dict.fromkeys(run, error)
        if "n" not in role.able:
            single = missing
        made = await asyncio.gather(
            *(self._call(role, request, key, [i]) for i in single), return_exceptions=True
        )
        others = [e for e in made if isinstance(e, BaseException) and not isinstance(e, BackendError)]
        for other in sorted(others, key=lambda e: not isinstance(e, Stopping)):
            raise other
        return failed | {
            i: error for i, error in zip(single, made, strict=True) if isinstance(error, BackendError)
        }

    async def _call(self, role: Role, request: Request, key: bytes, ordinals: Sequence[int]) -> int:
        """One request for answers with consecutive ordinals; how many of them came."""
        walk, models = self._walk, self._models
        first = seed_of(walk.row_id, key) + ordinals[0]
        seeded = replace(request, n=len(ordinals), seed=first, priority=walk.priority)
        try:
            answers = await role.fetch(seeded, walk.row_id, self._stage)
        finally:
            if role.unreadable.estimated:
                models.journal.spend(role.name, role.unreadable)
                role.unreadable = Usage()
        for i, answer in enumerate(answers):
            if answer.seed != first + i:
                answers[i] = replace(answer, seed=first + i)
            walk.kept[key, ordinals[i]] = answers[i]
        asked = None if key in walk.told else request
        walk.told.add(key)
        models.journal.put(
            walk.row_id, key, ordinals[0], role.name, self._stage, role.spec.model, asked, answers
        )
        return len(answers)


def _runs(ordinals: Sequence[int]) -> list[list[int]]:
    """The ordinals, rising, in runs without a gap."""
    runs: list[list[int]] = []
    for ordinal in ordinals:
        if runs and runs[-1][-1] == ordinal - 1:
            runs[-1].append(ordinal)
        else:
            runs.append([ordinal])
    return runs


def seed_of(row_id: str, key: bytes) -> int:
    """The seed of a request's first answer; answer i has seed i more."""
    return int.from_bytes(hashlib.sha256(row_id.encode() + key).digest()[:4], "big") >> 2
