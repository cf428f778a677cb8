"""Models that are awake in turn: the gate by itself, in virtual time, and whole runs with simulated models behind it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import virtual_time
from synthpref import job
from synthpref.core.errors import BackendError
from synthpref.core.seam import Backend, Completion, Request
from synthpref.models import turns
from synthpref.models.simulated import Simulated
from synthpref.models.turns import InTurn, Placed, Turns
from synthpref.view import turns_line

HELLO = Request(messages=({"role": "user", "content": "hello"},))


class Model:
    """A model that says when it is asked or woken out of turn. `wakes` are the seconds that each waking takes, an
    error instead for one that fails."""

    def __init__(self, name: str, awake: set[str], wakes: list[Any] | None = None) -> None:
        self.name, self.awake, self.wakes = name, awake, wakes or []
        self.woken = 0
        self.answered = 0
        self.ended = False

    async def ready(self) -> None:
        if self.name in self.awake:
            return
        assert not self.awake, f"{self.name} is woken beside {self.awake}"
        takes = self.wakes.pop(0) if self.wakes else 5.0
        await asyncio.sleep(takes if isinstance(takes, float) else 1.0)
        if isinstance(takes, BaseException):
            raise takes
        self.awake.add(self.name)
        self.woken += 1

    async def rest(self) -> None:
        await asyncio.sleep(2.0)
        self.awake.discard(self.name)

    async def complete(self, request: Request) -> list[Completion]:
        assert self.name in self.awake, f"{self.name} is asked while it sleeps"
        await asyncio.sleep(request.temperature or 0.0)
        assert self.name in self.awake, f"{self.name} fell asleep over a call"
        self.answered += 1
        return [Completion(text=self.name)]

    async def aclose(self) -> None:
        self.ended = True


class House:
    """Models behind a gate, and rows that ask them as the runner's do."""

    def __init__(self, names: str, **wakes: list[Any]) -> None:
        self.asking = 0
        self.stop = asyncio.Event()
        self.shared: dict[str, Any] = {"asking": lambda: self.asking, "stop": self.stop}
        awake = set[str]()
        self.models = {name: Model(name, awake, wakes.get(name)) for name in names}
        self.doors: dict[str, InTurn] = {
            name: Turns.before(model, self.shared, name, [model]) for name, model in self.models.items()
        }

    async def ask(self, name: str, takes: float) -> str:
        """A call; one for a name without a model goes elsewhere."""
        self.asking += 1
        try:
            if name not in self.doors:
                await asyncio.sleep(takes)
                return name
            request = Request(messages=HELLO.messages, temperature=takes)
            return (await self.doors[name].complete(request))[0].text
        finally:
            self.asking -= 1

    async def close(self) -> None:
        for door in self.doors.values():
            await door.aclose()
        assert all(model.ended for model in self.models.values())
        assert len(asyncio.all_tasks()) == 1, "nothing is left behind"


CALLS = st.lists(st.tuples(st.sampled_from("abcx"), st.sampled_from([0.0, 0.1, 1.0, 30.0])), max_size=5)
ROWS = st.lists(st.tuples(CALLS, st.sampled_from([None, None, None, 0.0, 3.0, 20.0])), max_size=25)


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, workers=st.integers(1, 8), together=st.booleans())
def test_every_row_ends_whatever_it_asks_and_in_whatever_order(
    rows: list[Any], workers: int, together: bool
) -> None:
    """Rows ask one after the other or all at once, some of them are given up after a while; nothing waits for ever,
    which the clock of the loop would tell, and no model is asked, or woken, beside another."""

    async def walk(house: House, calls: list[Any]) -> list[str]:
        asked = [(name, takes) for name, takes in calls]
        if together:
            return list(await asyncio.gather(*(house.ask(*call) for call in asked)))
        return [await house.ask(*call) for call in asked]

    async def go() -> None:
        house, left = House("abc"), iter(rows)

        async def work() -> None:
            for calls, patience in left:
                try:
                    async with asyncio.timeout(patience):
                        assert await walk(house, calls) == [name for name, _ in calls]
                except TimeoutError:
                    assert patience is not None
                    # As a row that failed may leave others of its calls behind.

        await asyncio.gather(*(work() for _ in range(workers)))
        asked = {name for calls, _ in rows for name, _ in calls}
        assert all(not model.woken for name, model in house.models.items() if name not in asked)
        await house.close()

    virtual_time.run(go())


def test_a_block_of_rows_goes_through_one_model_before_the_other() -> None:
    async def go() -> None:
        house, rows = House("ab"), iter(range(40))

        async def work() -> None:
            for i in rows:
                await house.ask("a", 1.0 + i % 3)
                await house.ask("x", 0.1)
                await house.ask("b", 1.0)

        await asyncio.gather(*(work() for _ in range(10)))
        # Four blocks of ten.
        assert [m.woken for m in house.models.values()] == [4, 4]
        assert house.shared["turns"].changes == 7
        await house.close()

    virtual_time.run(go())


def test_the_one_that_most_wait_for_is_next() -> None:
    async def go() -> None:
        house, order = House("abc"), list[str]()

        async def row(*names: str) -> None:
            for name in names:
                order.append(await house.ask(name, 1.0))

        await asyncio.gather(row("a", "b"), row("a", "c"), row("a", "c"))
        assert order == ["a", "a", "a", "c", "c", "b"]
        await house.close()

    virtual_time.run(go())


def test_a_model_that_cannot_be_woken_is_the_answer_to_all_that_wait_for_it() -> None:
    async def go() -> None:
        broken = BackendError("unsupported", "too little memory")
        house = House("abc", b=[broken, broken], c=[ZeroDivisionError("a slip")])
        asked = [house.ask(name, 1.0) for name in "abcab"]
        made = await asyncio.gather(*asked, return_exceptions=True)
        assert [made[0], made[3]] == ["a", "a"]
        assert [str(made[1]), str(made[4])] == ["too little memory"] * 2
        assert made[1] is not made[4]
        assert isinstance(made[2], BackendError)
        assert (made[2].kind, str(made[2])) == ("unsupported", "c: ZeroDivisionError: a slip")
        # The others go on.
        assert await house.ask("a", 1.0) == "a"
        await house.close()

    virtual_time.run(go())


def test_without_word_of_the_other_calls_nobody_falls_asleep_over_one() -> None:
    """As where a backend is opened by itself, and not by a run."""

    async def go() -> None:
        house = House("ab")
        house.shared["still"]._asking = None
        assert await asyncio.gather(*(house.ask(name, 9.0) for name in "aaabb")) == [*"aaabb"]
        await house.close()

    virtual_time.run(go())


def test_a_call_that_is_given_up_as_it_is_let_in_leaves_its_place() -> None:
    async def go() -> None:
        house = House("ab")
        calls = [asyncio.create_task(house.ask(name, 1.0)) for name in "ab"]
        turns = house.shared["turns"]
        await asyncio.sleep(0)
        (future,) = turns._members["a"].waiting
        # Between the two, in one turn of the loop.
        future.add_done_callback(lambda _: calls[0].cancel())
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        assert turns._inside == 0
        assert await calls[1] == "b"
        await house.close()

    virtual_time.run(go())


@pytest.mark.parametrize("after", [0.5, 6.0, 6.5, 9.0])
def test_a_run_that_stops_lets_nobody_wait(after: float) -> None:
    """While a call is under way, while one falls asleep, and while the other is woken."""

    async def go() -> None:
        house = House("ab")
        calls = [asyncio.create_task(house.ask(name, 1.0)) for name in "aab"]
        await asyncio.sleep(after)
        house.stop.set()
        made = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(made[2], BackendError)
        assert made[2].kind == "rate_limit", "for which rows are left for the next start"
        with pytest.raises(BackendError, match="stopping"):
            await house.ask("b", 1.0)
        await house.close()

    virtual_time.run(go())


def test_what_waits_for_its_turn_is_told() -> None:
    async def go() -> None:
        house = House("ab")
        calls = [asyncio.create_task(house.ask(name, 30.0)) for name in "aaabb"]
        await asyncio.sleep(10)
        assert [door.waits_for() for door in house.doors.values()] == ["", "2 wait for its turn"]
        await asyncio.sleep(29)
        assert house.doors["b"].waits_for() == "is being woken"
        await asyncio.gather(*calls)
        await house.close()

    virtual_time.run(go())


def test_rows_that_wait_for_a_batch_do_not_keep_a_model_awake_nor_the_other_way_round(tmp_path: Path) -> None:
    """A batch may take a day, and leaves when nothing else moves."""
    from synthpref.models.batch_hall import Hall

    class Queue:
        gathered, under_way, quiet_s = 1, False, 2.0
        sent_at: float | None = None

        def consider(self, still: bool, under_way: bool) -> None:
            if still and self.sent_at is None:
                self.sent_at = asyncio.get_running_loop().time()
                self.gathered = 0
                sent.set()

        def turn_away(self) -> None:
            pass

    sent = asyncio.Event()

    async def go() -> None:
        house = House("ab")
        hall, queue = Hall.of(house.shared), Queue()
        hall.enter(queue)

        async def batched() -> None:
            house.asking += 1
            hall.waiting += 1
            hall.arrived()
            await sent.wait()
            await asyncio.sleep(1000)
            hall.waiting -= 1
            house.asking -= 1

        await asyncio.gather(batched(), house.ask("a", 1.0), house.ask("b", 1.0))
        assert queue.sent_at is not None
        assert 6 < queue.sent_at < 30, "after the models have changed, and before the batch is answered"
        hall.leave(queue)
        await house.close()

    virtual_time.run(go())


# ---- whole runs

AWAKE = Counter[str]()
LOG: list[str] = []


class Gated(Simulated, Placed):
    """Simulated models that do not fit together."""

    backend: Literal["gated"] = "gated"  # type: ignore[assignment]

    def open(self, shared: dict[str, Any]) -> Backend:
        inner = super().open(shared)
        if self.placement == "together":
            return inner
        body = shared.setdefault(f"body {self.model}", _Body(self.model))
        return Turns.before(_Guarded(body, inner), shared, self.model, [body])


class _Body:
    def __init__(self, name: str) -> None:
        self.name = name

    async def ready(self) -> None:
        assert not +AWAKE
        AWAKE[self.name] = 1
        LOG.append(self.name)

    async def rest(self) -> None:
        AWAKE[self.name] = 0


class _Guarded:
    def __init__(self, body: _Body, inner: Backend) -> None:
        self.body, self.inner = body, inner

    async def complete(self, request: Request) -> list[Completion]:
        assert AWAKE[self.body.name]
        made = await self.inner.complete(request)
        assert AWAKE[self.body.name]
        return made

    async def aclose(self) -> None:
        AWAKE[self.body.name] = 0
        await self.inner.aclose()


BACKENDS = {"gated": Gated}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "QUIET_S", 0.03)
    # The fewest rows that a run walks at once would be one block here.
    monkeypatch.setattr("synthpref.engine.runner.WORKERS", (1, 8192))
    AWAKE.clear()
    LOG.clear()


def recipe(folder: Path, placement: str, **head: Any) -> Path:
    (folder / "plugin.py").write_text("from test_turns import BACKENDS\n", encoding="utf-8")
    usual = {"backend": "gated", "placement": placement, "block": 20, "concurrency": 4, "latency_s": 0.0005}
    names = ("policy", "judge", "second", "idle")
    tree = {
        "name": "turns", "plugins": ["plugin.py"], "models": {n: {**usual, "model": n, "length": 20} for n in names},
        "source": {"rows": [f"How does a sundial tell {i}?" for i in range(70)]},
        "stages": [
            {"sample.n": {"model": "policy", "n": 3}}, {"jury": {"judges": ["judge", "second"]}}, "filter.dedup",
            {"reward": {"model": "second", "name": "good"}}, {"pair.extremes": {"score": "jury"}},
        ],
        "limits": {"max_reject_rate": 1}, **head,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder / "recipe.yaml"


def made(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in ("rows.parquet", "left.jsonl")}


def test_a_run_in_turn_makes_what_a_run_together_makes(tmp_path: Path) -> None:
    for placement in ("together", "in_turn"):
        done = job.run(job.load(recipe(tmp_path, placement)), tmp_path / placement)
        assert not done.stopped
    assert made(tmp_path / "together") == made(tmp_path / "in_turn")
    # Four blocks of 20 of 70 rows, each through three models; and one of them again after the filter.
    assert LOG.count("policy") == 4
    assert LOG.count("judge") == 4
    assert 4 <= LOG.count("second") <= 5
    assert "idle" not in LOG
    plan = job.estimate(job.load(tmp_path / "recipe.yaml"))
    assert plan.changes == 4 * 2 + 3
    assert len(LOG) - 1 in (plan.changes, plan.changes + 1)
    assert turns_line(plan).startswith("awake in turn: idle, judge, policy, second; about 11 changes")


def test_a_run_in_turn_that_is_stopped_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    whole = job.run(job.load(recipe(tmp_path, "together")), tmp_path / "whole")
    assert not whole.stopped
    first = job.run(job.load(recipe(tmp_path, "in_turn", limits={"max_tokens": 4000})), tmp_path / "run")
    assert "budget" in first.stopped
    again = job.run(job.load(recipe(tmp_path, "in_turn")), tmp_path / "run")
    assert not again.stopped
    assert made(tmp_path / "run") == made(tmp_path / "whole")
    said = json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8"))
    other = json.loads((tmp_path / "whole/summary.json").read_text(encoding="utf-8"))
    for role, counts in said["models"].items():
        assert counts["completions"] == other["models"][role]["completions"]
