"""Shards: journals over a journal, and how shards are dealt out to workers that come, die and are slow."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from synthpref import __version__, job
from synthpref.core.errors import JournalError, RecipeError, SynthprefError
from synthpref.core.seam import ModelSpec
from synthpref.core.types import Row
from synthpref.engine.folder import JOURNAL, PROGRESS, SHARDS, status
from synthpref.engine.journal import Journal
from synthpref.engine.overlay import Overlay, how_far, mine
from synthpref.engine.progress import Progress
from synthpref.engine.records import Outcome, digest, pack
from synthpref.engine.role import Stop
from synthpref.engine.runner import Runner
from synthpref.engine.shards import DEATHS, Pool, Report, Worker, WorkerLost, gather, shard_held
from synthpref.engine.steps import Step
from synthpref.engine.tally import Tally, report
from synthpref.models.openai import OpenAI
from synthpref.on_ray import Cluster, gpus_of, imported
from synthpref.shard_worker import ORDER, Order, ShardWorker, digest_of, named, part_of
from synthpref.testing import row

EVERYTHING = mine(0, 1)


def write(folder: Path, rows: int = 30, **changes: Any) -> Path:
    role = {"backend": "simulated", "length": 30}
    tree = {
        "name": "sharded",
        "seed": 5,
        "allow": ["one_judge"],
        "models": {
            "policy": {**role, "model": "policy", "empty": 0.1},
            "judge": {**role, "model": "judge", "malformed": 0.1},
        },
        "source": {"rows": [f"Question number {i // 2 * 2} about heat pumps, or {i}?" for i in range(rows)]},
        "stages": [
            {"synth.evolve": {"model": "policy", "check": False}},
            {"sample.n": {"model": "policy", "n": 3}},
            {"judge.point": {"model": "judge", "name": "good"}},
            {"pair.extremes": {"score": "good"}},
            "filter.dedup",
            {"enrich.rationale": {"model": "judge"}},
        ],
        **changes,
    }
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def run_here(path: Path) -> Path:
    """The folder of a run in this process, without shards."""
    folder = path.parent / "here"
    result = job.run(job.load(path), folder)
    assert not result.stopped, result
    return folder


# ---- the journal of a shard


def note(journal: Journal, made: Row, *outcomes: Outcome) -> None:
    journal.finish(0, made.id, b"s", digest(pack(made)), outcomes or [Outcome(made, "row")], 0)


def base_with(folder: Path, *ids: str) -> Path:
    journal = Journal(folder / JOURNAL)
    journal.begin()
    for id in ids:
        note(journal, row("q", id=id))
    asyncio.run(journal.indexed())
    journal.fold()
    journal.close()
    return folder / JOURNAL


def is_done(journal: Journal, id: str) -> bool:
    return journal.done(0, id, b"s", digest(pack(row("q", id=id))))


def test_a_shard_knows_what_the_run_has_and_what_it_has_itself(tmp_path: Path) -> None:
    base = base_with(tmp_path, "a", "b")
    with closing(Overlay(tmp_path / "0.sqlite", base, EVERYTHING)) as shard:
        note(shard, row("q", id="c"))
        asyncio.run(shard.indexed())
        assert [is_done(shard, id) for id in "abcd"] == [True, True, True, False]
        assert [r.id for r in shard.rows(0)] == ["a", "b"], "what this segment makes is not yet there"
    assert (tmp_path / f"{JOURNAL}-wal").exists() is False, "the base is only read"


def test_a_row_that_the_run_had_counts_again_once_a_shard_has_seen_it(tmp_path: Path) -> None:
    base = base_with(tmp_path, "a", "b")
    main = Journal(base)
    main.begin()
    asyncio.run(main.settle())
    main.fold()
    with closing(Overlay(tmp_path / "0.sqlite", base, EVERYTHING)) as shard:
        shard.seen(0, "b")
        note(shard, row("q", id="c"))
    assert list(main.rows(0)) == []
    assert gather(main, tmp_path.joinpath("none")) == 0
    (tmp_path / SHARDS).mkdir()
    (tmp_path / "0.sqlite").rename(tmp_path / SHARDS / "0.sqlite")
    assert gather(main, tmp_path / SHARDS) == 1
    asyncio.run(main.indexed())
    assert [r.id for r in main.rows(0)] == ["b", "c"]
    assert list((tmp_path / SHARDS).iterdir()) == []
    main.close()


def test_a_shard_reads_its_own_rows_only(tmp_path: Path) -> None:
    ids = [f"{i:03}" for i in range(450)]
    base = base_with(tmp_path, *ids)
    found = []
    for n in range(3):
        with closing(Overlay(tmp_path / f"{n}.sqlite", base, mine(n, 3))) as shard:
            found.append([r.id for r in shard.rows(0)])
    assert sorted(id for part in found for id in part) == ids
    assert all(100 < len(part) < 200 for part in found)


@given(st.text(max_size=8), st.integers(1, 50))
def test_a_row_is_in_one_shard(id: str, of: int) -> None:
    assert sum(mine(n, of)(id) for n in range(of)) == 1


def test_one_process_to_a_shard(tmp_path: Path) -> None:
    with (
        shard_held(tmp_path / "0.sqlite"),
        pytest.raises(JournalError, match="a worker still writes there"),
        shard_held(tmp_path / "0.sqlite", 0.0),
    ):
        pass


# ---- workers in this process

Hire = Callable[[int], Awaitable[Worker]]


class Here:
    """A worker in this process, which dies when `dies` says so."""

    def __init__(self, order: Order, dies: Callable[[int], bool]) -> None:
        self.worker, self.dies, self.dead = ShardWorker(order, env={}), dies, False

    async def walk(self, step: int, shard: int, of: int) -> Report:
        walking = asyncio.create_task(self.worker.walk(step, shard, of))
        while not walking.done():
            await asyncio.wait([walking], timeout=0.001)
            progress = self.worker.progress
            # Not while it takes the lock, which only a process that dies lets go of.
            if self.dead or (progress.entered and self.dies(progress.noted)):
                self.dead = True
                walking.cancel()
                await asyncio.gather(walking, return_exceptions=True)
                raise WorkerLost("killed")
        return walking.result()

    async def report(self) -> Report:
        return self.worker.report()

    async def stop(self, reason: str) -> None:
        self.worker.end(reason)


def order_of(path: Path, folder: Path, seat: int = 0, seats: int = 2) -> Order:
    recipe = job.load(path)
    return Order(
        version=__version__,
        cwd=str(folder),
        recipe=str(path),
        settings=[],
        variables={},
        limit=None,
        env={},
        digest=digest_of(recipe),
        folder=str(folder),
        token="t",
        seat=seat,
        seats=seats,
        capped=[],
        before={},
    )


def run_sharded(
    path: Path,
    folder: Path,
    shards: int,
    dies: Callable[[int], bool] = lambda noted: False,
    stop: Stop | None = None,
    hiring: Callable[[int], None] = lambda seat: None,
) -> tuple[Journal, Runner]:
    """All steps, segments by two workers in this process."""
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    (folder / SHARDS / ORDER).write_text("t", encoding="utf-8")
    recipe = job.load(path)
    journal = Journal(folder / JOURNAL)

    async def walk() -> Runner:
        if gather(journal, folder / SHARDS):
            await journal.indexed()
        stopped = stop or Stop()
        runner = Runner(recipe, lambda: job.source(recipe), journal, stopped, Progress())
        tally = Tally(runner.progress, recipe.models, stopped)
        runner.models.roles.update(tally.roles)

        async def hire(seat: int) -> Worker:
            hiring(seat)
            return Here(order_of(path, folder, seat), dies)

        pool = Pool(folder / SHARDS, 2, shards, hire, tally.hear, stopped, lambda: "", 60)

        async def segment(step: Step) -> None:
            await journal.settle()
            journal.fold()
            await pool.segment(step)
            gather(journal, folder / SHARDS, whole=True)

        runner.elsewhere = segment
        await runner.run()
        await journal.indexed()
        return runner

    return journal, asyncio.run(walk())


def same_as_here(journal: Journal, here: Path) -> None:
    wanted = Journal(here / JOURNAL)
    last = wanted.steps()[-1]
    for step in range(last + 1):
        assert list(journal.rows(step)) == list(wanted.rows(step))
        assert list(journal.left(step)) == list(wanted.left(step))
        assert journal.state(step) == wanted.state(step)
    assert journal.spent() == wanted.spent()
    wanted.close()


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_shards_make_what_one_process_makes(tmp_path: Path, shards: int) -> None:
    path = write(tmp_path)
    here = run_here(path)
    journal, runner = run_sharded(path, tmp_path / "run", shards)
    same_as_here(journal, here)
    assert runner.books().balanced
    spent = {role: one.answers for role, one in journal.spent().items()}
    assert {name: role.meter.completions for name, role in runner.models.roles.items()} == spent
    assert runner.progress.noted == sum(journal.entered(step)[0] for step in journal.steps())
    journal.close()
    # And again, in other parts, and in one process: nothing is asked.
    for again in (3, None):
        if again:
            journal, runner = run_sharded(path, tmp_path / "run", again)
            assert sum(role.meter.requests for role in runner.models.roles.values()) == 0
            same_as_here(journal, here)
            journal.close()
        else:
            job.run(job.load(path), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert [model["requests"] for model in summary["models"].values()] == [0, 0]
    for name in ("dataset/data/train.parquet", "left.jsonl", "rows.parquet"):
        assert (tmp_path / "run" / name).read_bytes() == (here / name).read_bytes()


def test_status_of_a_run_that_goes_on_here_has_no_word_of_the_cluster_it_was_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / SHARDS).mkdir(parents=True)
    (run / SHARDS / PROGRESS).write_text("sample.n: 19/40 rows", encoding="utf-8")
    told: list[str] = []
    job.run(job.load(write(tmp_path, rows=2)), run, view=lambda progress: told.extend(status(run)))
    assert "going on" in told[0]
    assert not [line for line in told if "cluster" in line]


def test_a_worker_that_dies_costs_nothing_that_was_answered(tmp_path: Path) -> None:
    path = write(tmp_path)
    here = run_here(path)
    killed: Counter[int] = Counter()

    def dies(noted: int) -> bool:
        # Each in its turn, further on every time, and never twice at one place.
        if noted > 5 and killed.total() < 4 and not killed[noted]:
            killed[noted] += 1
            return True
        return False

    journal, _ = run_sharded(path, tmp_path / "run", 4, dies)
    assert killed.total() == 4
    wanted = Journal(here / JOURNAL)
    last = wanted.steps()[-1]
    assert list(journal.rows(last)) == list(wanted.rows(last))
    assert journal.counts(last) == wanted.counts(last)
    wanted.close()
    journal.close()


def test_a_shard_at_which_all_die_ends_the_run(tmp_path: Path) -> None:
    stop = Stop()
    journal, _ = run_sharded(write(tmp_path), tmp_path / "run", 2, lambda noted: True, stop)
    assert f"{DEATHS} workers died at shard" in stop.reason
    assert stop.failed
    journal.close()


def test_a_stop_reaches_the_workers_and_the_run_goes_on_later(tmp_path: Path) -> None:
    path = write(tmp_path, rows=100)
    here = run_here(path)
    stop = Stop()

    def dies(noted: int) -> bool:
        if noted > 10:
            stop.now("enough")
        return False

    journal, _ = run_sharded(path, tmp_path / "run", 20, dies, stop)
    assert 10 < journal.entered(0)[0] < 100
    journal.close()
    journal, _ = run_sharded(path, tmp_path / "run", 3)
    same_as_here(journal, here)
    journal.close()


def test_nobody_comes(tmp_path: Path) -> None:
    stop = Stop()

    async def hire(seat: int) -> Worker:
        await asyncio.sleep(3600)
        raise AssertionError

    async def walk() -> None:
        pool = Pool(tmp_path, 2, 4, hire, lambda seat, found: None, stop, lambda: "each needs 8 GPUs", 0.0)
        await pool.segment(Step(0, [], b""))

    asyncio.run(walk())
    assert "no worker came for 0 s: each needs 8 GPUs" in stop.reason


def test_workers_that_only_die_end_the_run_in_the_end(tmp_path: Path) -> None:
    stop = Stop()

    async def hire(seat: int) -> Worker:
        raise WorkerLost("its machine is gone")

    pool = Pool(tmp_path, 2, 4, hire, lambda seat, found: None, stop, lambda: "1 CPU", 0.0)
    asyncio.run(pool.segment(Step(0, [], b"")))
    assert "no worker came for 0 s: 1 CPU; the last one was lost: its machine is gone" in stop.reason


def test_a_worker_that_dies_as_it_starts_is_followed_by_another(tmp_path: Path) -> None:
    path = write(tmp_path, rows=6)
    here = run_here(path)
    failing = iter([True, False])

    def die_once(seat: int) -> None:
        if next(failing, False):
            raise WorkerLost("its machine is gone")

    journal, runner = run_sharded(path, tmp_path / "run", 2, hiring=die_once)
    assert not runner.stop.reason
    same_as_here(journal, here)
    journal.close()


# ---- what a worker is told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": "0.0.1"}, "0.0.1 where the run was started; install the same"),
        ({"recipe": "/not/there.yaml"}, "the recipe is not there"),
        ({"folder": "/not/there"}, "the run folder is not there"),
        ({"token": "u"}, "is of another run"),
        ({"digest": "00" * 16}, "is another recipe here"),
    ],
    ids=["version", "recipe", "folder", "token", "digest"],
)
def test_a_worker_says_what_is_not_as_where_it_was_sent_from(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    path = write(tmp_path)
    (tmp_path / SHARDS).mkdir()
    (tmp_path / SHARDS / ORDER).write_text("t", encoding="utf-8")
    ShardWorker(order_of(path, tmp_path), env={})._stack.close()
    changed: Any = {**order_of(path, tmp_path), **change}
    with pytest.raises(SynthprefError, match=told):
        ShardWorker(changed, env={})


@pytest.mark.parametrize("edit", [{"source": {"rows": ["Another?"]}}, {"seed": 6}], ids=["source", "seed"])
def test_a_worker_that_comes_after_the_recipe_was_edited_does_not_walk_it(
    tmp_path: Path, edit: dict[str, Any]
) -> None:
    (tmp_path / SHARDS).mkdir()
    (tmp_path / SHARDS / ORDER).write_text("t", encoding="utf-8")
    order = order_of(write(tmp_path), tmp_path)
    write(tmp_path, **edit)
    with pytest.raises(SynthprefError, match="as it was when the run was started"):
        ShardWorker(order, env={})


def test_what_an_endpoint_takes_is_divided(tmp_path: Path) -> None:
    spec = OpenAI(model="m", concurrency=10, rpm=100, tpm=7)
    parts = [part_of(spec, seat, 3) for seat in range(3)]
    assert [p.concurrency for p in parts] == [4, 3, 3]
    assert [p.rpm for p in parts] == [34, 33, 33]
    assert [p.tpm for p in parts] == [3, 2, 2]
    assert {json.dumps(p.identity()) for p in parts} == {json.dumps(spec.identity())}


def test_the_environment_that_a_recipe_names_goes_along() -> None:
    env = {"KEY": "k", "OTHER": "o", "OPENAI_API_KEY": "s"}
    assert named("api_key: ${KEY}\nbase_url: ${URL:-x}", env) == {"KEY": "k", "OPENAI_API_KEY": "s"}


# ---- before Ray is started


def test_without_ray_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RecipeError, match=r'pip install "synthpref\[ray\]"'):
        imported()


def test_batches_are_not_made_by_several_workers(tmp_path: Path) -> None:
    role = {"backend": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m", "mode": "batch"}
    path = write(tmp_path, models={"policy": role, "judge": role})
    with pytest.raises(RecipeError, match="batches are not made by several workers"):
        job.run(job.load(path), tmp_path / "run", cluster=Cluster())


def test_a_worker_holds_the_devices_of_its_engines_and_roles_that_share_them_count_once() -> None:
    class Held(ModelSpec):
        on: frozenset[str]

        def accelerators(self) -> frozenset[str]:
            return self.on

    one, two = (
        Held(backend="b", model="m", on=frozenset("01")),
        Held(backend="b", model="n", on=frozenset("12")),
    )
    assert gpus_of({"one": one, "two": two, "served": OpenAI(model="m")}) == 3
    assert gpus_of({"served": OpenAI(model="m")}) == 0


def test_a_shard_gets_on_by_rows_too_that_ask_nothing_new(tmp_path: Path) -> None:
    """As those do whose answers a worker has left that died before they were through."""
    main = Journal(tmp_path / JOURNAL)
    main.begin()
    note(main, row("Old?", id="old"))
    asyncio.run(main.indexed())
    main.fold()
    path = tmp_path / "0000.sqlite"
    assert how_far(path) == 0
    for part in ("new", "newer", "old"):
        before = how_far(path)
        shard = Overlay(path, tmp_path / JOURNAL, EVERYTHING)
        if part == "old":
            shard.seen(0, part)
        else:
            note(shard, row("New?", id=part))
        shard.close()
        assert how_far(path) > before
    main.close()


class Passing(Worker):
    """Walks shard 1 at once, and is lost at shard 0 as long as any are to be."""

    def __init__(self, lost: list[int]) -> None:
        self.lost, self.gone = lost, False

    async def walk(self, step: int, shard: int, of: int) -> Report:
        if self.gone:
            raise WorkerLost("gone")
        if shard == 0:
            await asyncio.sleep(0)
            if self.lost:
                self.lost.pop()
                self.gone = True
                raise WorkerLost("preempted")
        return {}

    async def report(self) -> Report:
        return {}

    async def stop(self, reason: str) -> None: ...


def pool_of(folder: Path, stop: Stop, hire: Callable[[int], Awaitable[Worker]], seats: int) -> Pool:
    return Pool(folder, seats, 2, hire, lambda seat, found: None, stop, lambda: "", 60.0)


def test_a_worker_that_dies_at_one_of_its_shards_has_died_once(tmp_path: Path) -> None:
    async def go() -> Stop:
        stop, lost = Stop(), [0] * (DEATHS - 1)

        async def hire(seat: int) -> Worker:
            return Passing(lost)

        await pool_of(tmp_path, stop, hire, 1).segment(Step(0, (), b""))
        assert not lost
        return stop

    assert asyncio.run(go()).reason == ""


def test_a_worker_that_dies_at_a_shard_whose_journal_is_damaged_is_followed_by_one_that_says_so(
    tmp_path: Path,
) -> None:
    (tmp_path / "0000.sqlite").write_bytes(b"not a database" * 300)

    class Opening(Passing):
        async def walk(self, step: int, shard: int, of: int) -> Report:
            found = await super().walk(step, shard, of)
            if shard == 0:
                Journal(tmp_path / "0000.sqlite")
            return found

    async def go() -> None:
        lost = [0]

        async def hire(seat: int) -> Worker:
            return Opening(lost)

        await pool_of(tmp_path, Stop(), hire, 1).segment(Step(0, (), b""))

    with pytest.raises(JournalError, match="the file is damaged"):
        asyncio.run(go())


def test_a_worker_out_of_sight_does_not_keep_a_stop_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthpref.engine.shards.LONGEST_PAUSE_S", 0.05)
    stop, walking, told = Stop(), set[int](), set[int]()

    class Seat(Passing):
        def __init__(self, seat: int) -> None:
            super().__init__([])
            self.seat, self.ended = seat, asyncio.Event()

        async def walk(self, step: int, shard: int, of: int) -> Report:
            walking.add(self.seat)
            if len(walking) == 2:
                stop.now("enough")
            await self.ended.wait()
            return {}

        async def report(self) -> Report:
            if self.seat == 0:
                await self.ended.wait()
            return {}

        async def stop(self, reason: str) -> None:
            told.add(self.seat)
            self.ended.set()

    async def hire(seat: int) -> Worker:
        return Seat(seat)

    asyncio.run(pool_of(tmp_path, stop, hire, 2).segment(Step(0, (), b"")))
    assert told == {0, 1}


def test_the_first_error_that_a_worker_tells_of_is_the_run_s() -> None:
    ours, stop = Progress(), Stop()
    tally = Tally(ours, {}, stop)
    for seat, error in enumerate(("", "in my.fail: ValueError: one", "in my.fail: ValueError: two")):
        tally.hear(seat, report(Progress(first_error=error), stop))
    assert ours.first_error == "in my.fail: ValueError: one"


def test_a_report_that_was_overtaken_takes_nothing_back() -> None:
    ours, theirs, stop = Progress(), Progress(), Stop()
    tally = Tally(ours, {}, stop)
    early = report(theirs, stop)
    theirs.entered = theirs.noted = 1
    tally.hear(0, report(theirs, stop))
    tally.hear(0, early)
    assert (ours.entered, ours.noted) == (1, 1)


def test_what_a_worker_noted_and_nobody_heard_of_is_no_run_in_which_nothing_changed() -> None:
    ours, stop = Progress(), Stop()
    tally = Tally(ours, {}, stop)
    tally.hear(0, report(Progress(), stop))
    tally.hear(0, None)
    assert ours.noted
