"""The machine: rows walk through the recipe, depth first.

A recipe is a list of steps: segments of row stages, with barriers between them. In a segment each of N
workers takes a row from the one iterator and walks it to the segment's end, so back-pressure needs no queues
and memory does not grow with the rows. Concurrency is limited at the endpoints, not here. A row that is
through is noted in the journal with all that came of it; between steps, rows come back from there, sorted by
id.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import orjson

from synthpref.core.errors import BackendError, JournalError, StageError, SynthprefError
from synthpref.core.stage import Barrier, RowStage
from synthpref.core.types import Drop, Note, Row
from synthpref.engine.ask import Models, RowAsk, Walk
from synthpref.engine.boundary import check_contract, foremost
from synthpref.engine.budget import Amount, Budget, caps_of
from synthpref.engine.journal import Journal
from synthpref.engine.kept import is_ours, kept_row, kept_rows
from synthpref.engine.progress import Progress
from synthpref.engine.recipe import Recipe
from synthpref.engine.records import Outcome, digest, pack
from synthpref.engine.role import Stop, Stopping
from synthpref.engine.steps import Part, Step, steps_of

WORKERS = (64, 8192)
"""Fewest and most rows under way at once; each costs some kilobytes while it waits."""
AHEAD = 1.25
"""Rows under way for each call that the models take at once, so that none of them runs dry."""
REJECTS_FROM = 20
"""Rows that a share of rejects is counted of, at the least, before the end."""
ERROR_SHOWN = 200
"""So many signs of an error are told where the run stops."""

Elsewhere = Callable[[Step], Awaitable[None]]

log = logging.getLogger("synthpref")


@dataclass(frozen=True)
class Books:
    """Where every row ended. `balanced` holds at the end of each finished run."""

    input: int
    added: int
    exported: int
    dropped: int
    rejected: int

    @property
    def balanced(self) -> bool:
        return self.input + self.added == self.exported + self.dropped + self.rejected


class Runner:
    """Runs a recipe's steps over its rows. Each call of `source` starts from the first row.

    Where `elsewhere` is given, it has segments walked by other processes, each with a Runner of its own; barriers and
    books stay here.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: Callable[[], Iterable[Row]],
        journal: Journal,
        stop: Stop,
        progress: Progress,
        models: Models | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.recipe, self.source, self.journal, self.stop, self.progress = (
            recipe,
            source,
            journal,
            stop,
            progress,
        )
        self.steps = steps_of(recipe)
        self.elsewhere = elsewhere
        self._spent = journal.spent()
        before = self._spent_before()
        caps = caps_of(recipe.head.limits)
        lengths = {r: one.completion_tokens / one.answers for r, one in self._spent.items() if one.answers}
        self.budget = Budget(caps, before, stop.now, lengths) if caps else None
        self.models = models or Models(
            recipe.models, journal, recipe.prompts, recipe.seed, stop, budget=self.budget
        )
        progress.roles, progress.spent_before_usd = self.models.roles, before.usd
        progress.estimated_before = sum(spent.estimated for spent in self._spent.values())
        progress.answers_before = sum(spent.answers for spent in self._spent.values())

    def _spent_before(self) -> Amount:
        """What earlier starts and rounds have spent, of roles that the recipe still has."""
        usd, tokens = self.recipe.spent.cost_usd, float(self.recipe.spent.tokens)
        for role, (_, prompt, completion, _, live) in self._spent.items():
            tokens += prompt + completion
            if role in self.recipe.models:
                usd += self.recipe.models[role].cost(prompt, completion, live) or 0.0
        return Amount(usd, tokens)

    async def run(self) -> bool:
        """Walk all rows through all steps. True when the run is done, False when `stop` ended it early.

        Raises JournalError, RecipeError (the source is broken further down), StageError (a barrier failed).
        """
        self.journal.begin()
        try:
            for step in self.steps:
                if self.stop.event.is_set():
                    return False
                self.progress.begin(step.name)
                self.journal.set_fact(f"step {step.number}", step.name)
                if step.is_barrier:
                    await self._barrier(step)
                else:
                    # A barrier that stood here in an earlier recipe has to run again if it comes back.
                    self.journal.set_fact(f"barrier {step.number}", "")
                    await (self.elsewhere or self.walk)(step)
                    self.models.check_refused()
                await self.journal.indexed()
                if step.number == 0:
                    self.progress.expected = None
            if not self.stop.event.is_set():
                self.check_rejects(at_end=True)
            return not self.stop.event.is_set()
        finally:
            task = asyncio.current_task()
            if not (task and task.cancelling()):
                await self.models.drained()
            await self.models.aclose()

    def entries(self, step: Step) -> Iterator[Row]:
        """The rows that go into a step."""
        return iter(self.source()) if step.number == 0 else self.journal.rows(step.number - 1)

    # ---- segments

    async def walk(self, step: Step) -> None:
        """Walk all rows that there are here through a segment."""
        rows = enumerate(self.entries(step))
        workers = [asyncio.create_task(self._work(step, rows)) for _ in range(self._workers())]
        try:
            await asyncio.gather(*workers)
        except BaseException:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            raise

    def _workers(self) -> int:
        specs = self.recipe.models.values()
        least, most = WORKERS
        live = min(max(least, round(AHEAD * sum(spec.slots() for spec in specs))), most)
        # A row that waits for a batch does nothing else, and a batch holds only what was under way when it left.
        return max(live, *(spec.gathers() for spec in specs)) if specs else live

    async def _work(self, step: Step, rows: Iterator[tuple[int, Row]]) -> None:
        for order, row in rows:
            if self.stop.event.is_set():
                return
            self.progress.entered += 1
            before = digest(pack(row))
            if self.journal.done(step.number, row.id, step.digest, before):
                self.journal.seen(step.number, row.id)
                self.progress.skipped += 1
                if order % 64 == 0:
                    await asyncio.sleep(0)
                continue
            try:
                outcomes = await self._walk(row, step.parts, order)
            except Stopping:
                return
            try:
                self.journal.finish(step.number, row.id, step.digest, before, outcomes, len(outcomes) - 1)
            except TypeError as error:
                message = f"a stage put a value on the row that JSON cannot hold: {error}"
                outcomes = [Outcome(row, "reject", step.parts[-1].use.label, "stage_error", message)]
                self.journal.finish(step.number, row.id, step.digest, before, outcomes, 0)
            self.progress.finished += 1
            self.progress.noted += 1
            for outcome in outcomes:
                counter = {"drop": self.progress.dropped, "reject": self.progress.rejected}.get(outcome.kind)
                if counter is not None:
                    counter[outcome.reason] += 1
                if outcome.kind == "reject" and not self.progress.first_error:
                    why = " ".join(self.recipe.redact(outcome.detail).split())
                    shown = why if len(why) <= ERROR_SHOWN else f"{why[: ERROR_SHOWN - 1]}…"
                    self.progress.first_error = f"in {outcome.stage}: {shown}"
            self.check_rejects()
            await self.journal.ready()
            # A stage that never waits must not keep the others, or Ctrl-C, waiting.
            await asyncio.sleep(0)

    async def _walk(
        self, row: Row, parts: Sequence[Part], order: int, walk: Walk | None = None
    ) -> list[Outcome]:
        """All that comes of the row: itself at the segment's end, its Drop or reject, or its children's."""
        walk = walk or Walk(self.models, row.id, order)
        for i, part in enumerate(parts):
            try:
                made = await self._run_stage(part, row, walk)
            except BackendError as error:
                message = self.recipe.redact(str(error))
                log.info("%s: row %s rejected: %s: %s", part.use.label, row.id, error.kind, message)
                return [Outcome(row, "reject", part.use.label, error.kind, message)]
            except StageError as error:
                cause = error.__cause__ or error
                message = self.recipe.redact(f"{type(cause).__name__}: {cause}")
                log.info("%s: row %s rejected: %s", part.use.label, row.id, message, exc_info=cause)
                return [Outcome(row, "reject", part.use.label, "stage_error", message)]
            if isinstance(made, Drop):
                return [Outcome(row, "drop", part.use.label, made.reason, made.detail, walk.again)]
            if isinstance(made, list):
                # Who keeps the id keeps count of what was asked under it.
                walks = [walk if child.id == row.id else None for child in made]
                children = [
                    self._walk(child, parts[i + 1 :], order, its)
                    for child, its in zip(made, walks, strict=True)
                ]
                groups = await asyncio.gather(*children)
                return [replace(o, again=o.again or walk.again) for group in groups for o in group]
            row = made
        return [Outcome(row, "row", again=walk.again)]

    async def _run_stage(self, part: Part, row: Row, walk: Walk) -> Row | list[Row] | Drop:
        """The boundary around stage and plugin code: whatever it raises costs the row, not the run."""
        stage = part.stage
        assert isinstance(stage, RowStage)
        try:
            made = await stage.run(row, RowAsk(self.models, walk, part.name, part.salt))
            check_contract(row, made)
            if not is_ours(stage):
                made = kept_rows(made)
        except BaseExceptionGroup as group:
            raise foremost(group, part.use.label) from group
        except (BackendError, StageError, JournalError):
            raise
        except (Exception, SystemExit) as error:
            raise StageError(f"{part.use.label}: {error}") from error
        return made

    # ---- barriers

    async def _barrier(self, step: Step) -> None:
        """Run a barrier over all rows, unless neither it nor any row changed since the last time."""
        before = digest(step.digest, self._state_before(step))
        name = f"barrier {step.number}"
        if self.journal.fact(name) == before.hex():
            for row in self.entries(step):
                self.journal.seen(step.number, row.id)
                self.progress.skipped += 1
                await self.journal.ready()
            return
        self.journal.set_fact(name, "")
        self.journal.set_fact(note_of(step), "")
        stage = step.parts[0].stage
        label = step.parts[0].use.label
        assert isinstance(stage, Barrier)
        rng = random.Random(f"{self.recipe.seed}|{step.parts[0].name}")
        made = iter(stage.run(_Again(lambda: self.entries(step)), rng))
        while True:
            try:
                item = next(made)
            except StopIteration:
                break
            except SynthprefError:
                raise
            except Exception as error:
                raise StageError(f"{label}: {type(error).__name__}: {error}") from error
            try:
                if isinstance(item, Note):
                    self.journal.set_fact(note_of(step), orjson.dumps(item.facts).decode())
                    continue
                row, drop = item if isinstance(item, tuple) else (item, None)
                row = row if is_ours(stage) else kept_row(row)
            except (TypeError, ValueError, AttributeError, StageError) as error:
                raise StageError(f"{label}: {error}") from error
            outcome = Outcome(row, "drop", label, drop.reason, drop.detail) if drop else Outcome(row, "row")
            self.journal.finish(step.number, row.id, step.digest, b"", [outcome], 0)
            self.progress.finished += 1
            self.progress.noted += 1
            if drop:
                self.progress.dropped[drop.reason] += 1
            await self.journal.ready()
            await asyncio.sleep(0)
            if self.stop.event.is_set():
                return
        await self.journal.indexed()
        self._check_complete(step, label)
        self.journal.set_fact(name, before.hex())

    def _state_before(self, step: Step) -> bytes:
        if step.number:
            return self.journal.state(step.number - 1)
        return digest(*(digest(pack(row)) for row in self.entries(step)))

    def _check_complete(self, step: Step, label: str) -> None:
        """A barrier may not lose a row: what went in must have come out, as a row or as a Drop."""
        entered = self._going_into(step)
        ended = sum(n for _, _, _, n in self.journal.counts(step.number))
        rule = "a barrier yields each row once, as it goes on or with the Drop that says why it does not"
        if entered != ended:
            raise StageError(f"{label}: {entered} rows went in and {ended} came out; {rule}")
        if strays := self.journal.strays(step.number):
            raise StageError(f"{label}: the row {strays[0]!r} came out, and did not go in; {rule}")
        if not is_ours(step.parts[0].stage):
            self._check_samples(step, label)

    def _check_samples(self, step: Step, label: str) -> None:
        """A plugin's barrier may add to a row, and take no sample or text away."""
        after = self.journal.rows(step.number)
        now = next(after, None)
        for row in self.entries(step):
            if now is None or row.id != now.id:
                continue
            texts = [sample.text for sample in row.samples]
            if [sample.text for sample in now.samples[: len(texts)]] != texts or now.prompt != row.prompt:
                raise StageError(
                    f"{label}: it changed the prompt or a sample of row {row.id!r}; it may only add"
                )
            now = next(after, None)

    def _going_into(self, step: Step) -> int:
        if step.number == 0:
            return sum(1 for _ in self.entries(step))
        return sum(n for kind, _, _, n in self.journal.counts(step.number - 1) if kind == "row")

    # ---- the end

    def check_rejects(self, *, at_end: bool = False) -> None:
        """Stop past max_reject_rate. Half-way the share is of the rows that have started, because failing is
        often quicker than going through."""
        if self.stop.event.is_set():
            return
        limit, progress = self.recipe.head.limits.max_reject_rate, self.progress
        if at_end:
            books = self.books()
            count, of = books.rejected, books.input + books.added
        else:
            count, of = progress.rejected.total(), max(progress.entered, REJECTS_FROM)
        if count > limit * of:
            if not at_end:
                of, books = progress.entered, self.books()
                if progress.step != self.steps[0].name:
                    # Behind a barrier rows are entered once more.
                    of = min(of, books.input + books.added)
            rows = f"{of} rows" if at_end else f"the {of} rows started by then"
            reasons = ", ".join(f"{n} {reason}" for reason, n in progress.rejected.most_common(3))
            why = f"; the first error, {progress.first_error}" if progress.first_error else ""
            self.stop.now(
                f"{count} of {rows} were rejected ({reasons}): more than limits.max_reject_rate {limit:g}; mend what "
                f"failed (see left.jsonl), or raise it{why}"
            )

    def books(self) -> Books:
        """Where every row of this start ended, counted in the journal."""
        counts = [(step.number, *row) for step in self.steps for row in self.journal.counts(step.number)]
        last = self.steps[-1].number
        return Books(
            input=self.journal.entered(0)[0],
            added=sum(self.journal.entered(step.number)[1] for step in self.steps),
            exported=sum(n for number, kind, _, _, n in counts if kind == "row" and number == last),
            dropped=sum(n for _, kind, _, _, n in counts if kind == "drop"),
            rejected=sum(n for _, kind, _, _, n in counts if kind == "reject"),
        )


def note_of(step: Step) -> str:
    """Under which name the journal keeps what a barrier has to report."""
    return f"note {step.number}"


class _Again:
    """Rows that can be iterated several times, each time from the disk."""

    def __init__(self, start: Callable[[], Iterator[Row]]) -> None:
        self._start = start

    def __iter__(self) -> Iterator[Row]:
        return self._start()
