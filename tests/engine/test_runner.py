"""Runs of small recipes, with a scripted backend behind the public hook."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from scripted import SCRIPT, Script

from synthpref import job
from synthpref.core.errors import BackendError, JournalError, RecipeError, RunStopped
from synthpref.core.seam import Completion, Request
from synthpref.core.types import Usage
from synthpref.engine.folder import trace

HERE = Path(__file__).parent
Run = Callable[..., job.Result]

STAGES = '''
import asyncio
from dataclasses import replace
from synthpref import Ask, Barrier, Drop, Row, RowStage, Sample, Score


class Ask1(RowStage):
    """Asks once."""
    model: str = "policy"
    n: int = 2
    def gives(self): return {"samples"}
    async def run(self, row, ask):
        got = await ask(row.prompt, model=self.model, n=self.n)
        made = [Sample(c.text, model="m", finish_reason=c.finish_reason, seed=c.seed) for c in got]
        return replace(row, samples=(*row.samples, *made))


class Measure(RowStage):
    """Longer is better, then later in the alphabet."""
    name: str = "len"
    sign: int = 1
    def gives(self): return {f"score:{self.name}"}
    async def run(self, row, ask):
        order = sorted(s.text for s in row.samples)
        return row.scored(self.name, [Score(self.sign * float(order.index(s.text))) for s in row.samples])


class Fail(RowStage):
    """Raises on some rows."""
    on: str = "bad"
    async def run(self, row, ask):
        if self.on in row.prompt_text: raise ValueError("cannot do " + row.prompt_text)
        if "drop" in row.prompt_text: return Drop("not wanted", row.prompt_text)
        return row


class Split(RowStage):
    """Makes children."""
    async def run(self, row, ask):
        from synthpref import Origin
        return [row.child(i, f"{row.prompt_text} {i}", Origin("my.split", row.id)) for i in range(3)]


class Lazy(RowStage):
    """Breaks the contract."""
    how: str = "id"
    async def run(self, row, ask):
        if self.how == "id": return replace(row, id="other")
        if self.how == "none": return None
        if self.how == "empty": return []
        return replace(row, samples=())


class Half(Barrier):
    """Keeps every other row."""
    lose: bool = False
    def run(self, rows, rng):
        first = list(row.id for row in rows)
        for i, row in enumerate(rows):
            assert row.id == first[i]
            if i % 2 == 0: yield row
            elif not self.lose: yield row, Drop("odd one out")


class Odd(RowStage):
    """Puts on a row what JSON cannot hold, or leaves by an unusual door."""
    how: str = "set"
    model: str = "policy"
    async def run(self, row, ask):
        if self.how == "exit": raise SystemExit(0)
        if self.how == "group":
            async with asyncio.TaskGroup() as group:
                for _ in range(3): group.create_task(ask(row.prompt, model=self.model))
            return row
        return replace(row, meta={"x": {1, 2} if self.how == "set" else 2**80})


class Grow(RowStage):
    """Makes one child and keeps the row or not."""
    keep: bool = True
    model: str = "policy"
    async def run(self, row, ask):
        from synthpref import Origin
        await ask(row.prompt, model=self.model)
        child = row.child(0, row.prompt_text + " grown", Origin("my.grow", row.id))
        return [row, child] if self.keep else [child]


STAGES = {"my.odd": Odd, "my.grow": Grow, "my.ask": Ask1, "my.measure": Measure, "my.fail": Fail, "my.split": Split, "my.lazy": Lazy, "my.half": Half}
'''


@pytest.fixture(autouse=True)
def script() -> Script:
    SCRIPT.reset()
    return SCRIPT


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "my_stages.py").write_text(STAGES, encoding="utf-8")
    (tmp_path / "my_backend.py").write_text("from scripted import BACKENDS\n", encoding="utf-8")

    def start(stages: list[Any], prompts: list[str] | None = None, **more: Any) -> job.Result:
        tree = {
            "name": "t",
            "plugins": ["my_stages.py", "my_backend.py"],
            "models": {"policy": {"backend": "scripted", "model": "m", "retries": 3}},
            "source": {"rows": prompts or [f"q{i}" for i in range(10)]},
            "stages": stages,
            **more,
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        return job.run(job.load(tmp_path / "recipe.yaml"), tmp_path / "run")

    return start


ASK: list[Any] = ["my.ask", "my.measure"]
PAIRS: list[Any] = [*ASK, {"pair.extremes": {"score": "len"}}]


def dataset(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "dataset" / "data" / "train.parquet").to_pylist()


def left(folder: Path) -> list[tuple[str, str, str]]:
    lines = (folder / "left.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted((r["how"], r["stage"], r["reason"]) for r in map(json.loads, lines))


def test_rows_become_pairs_and_the_same_command_again_asks_nothing(run: Run, script: Script) -> None:
    first = run(PAIRS)
    assert (first.books.input, first.books.exported, first.records, first.stopped) == (10, 10, 10, "")
    bytes_before = (first.folder / "dataset/data/train.parquet").read_bytes()
    assert sum(script.asked.values()) == 20
    script.reset()
    again = run(PAIRS)
    assert script.asked.total() == 0
    assert again.books == first.books
    assert (first.folder / "dataset/data/train.parquet").read_bytes() == bytes_before
    for record in dataset(first.folder):
        assert record["chosen"] != record["rejected"]
        question = record["prompt"][0]["content"]
        assert record["chosen"][0]["content"].endswith(question)
        assert record["rejected"][0]["content"].endswith(question)


def test_a_finished_run_started_again_writes_only_what_is_gone(run: Run, script: Script) -> None:
    folder = run(PAIRS).folder
    kept = [folder / name for name in ("rows.parquet", "left.jsonl", "report.md")]
    train = folder / "dataset/data/train.parquet"
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in [*kept, train]]
    again = run(PAIRS)
    assert again.records == 10
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in [*kept, train]] == before
    train.unlink()
    assert run(PAIRS).records == 10
    assert train.read_bytes() == before[-1][0]
    changed = run(PAIRS, description="for another card")
    assert "for another card" in (changed.folder / "dataset/README.md").read_text(encoding="utf-8")
    script.reset()
    run([*ASK, {"pair.ranked": {"score": "len"}}])
    assert run(PAIRS).records == 10
    assert train.read_bytes() == before[-1][0]
    assert script.asked.total() == 0


def test_another_pair_rule_asks_nothing_and_more_samples_buy_only_the_difference(
    run: Run, script: Script
) -> None:
    run(PAIRS)
    script.reset()
    run([*ASK, {"pair.ranked": {"score": "len"}}])
    assert script.asked.total() == 0
    run([{"my.ask": {"n": 5}}, "my.measure", {"pair.extremes": {"score": "len"}}])
    assert script.asked.total() == 10 * 3
    assert {r.n for r in script.seen} == {3}


def test_the_seeds_of_bought_samples_go_on_where_the_first_ended(run: Run, script: Script) -> None:
    run([{"my.ask": {"n": 2}}, "my.measure", {"pair.extremes": {"score": "len"}}], ["q"])
    (first,) = script.seen
    script.reset()
    run([{"my.ask": {"n": 6}}, "my.measure", {"pair.extremes": {"score": "len"}}], ["q"])
    (second,) = script.seen
    assert first.seed is not None
    assert second.seed == first.seed + 2


def test_rows_added_removed_and_reordered_cost_only_the_new_ones(run: Run, script: Script) -> None:
    run(PAIRS, ["a", "b", "c"])
    script.reset()
    result = run(PAIRS, ["c", "d", "a"])
    assert set(script.asked) == {"d"}
    assert {r["prompt"][0]["content"] for r in dataset(result.folder)} == {"a", "c", "d"}
    assert result.books.input == result.books.exported == 3


def test_identical_rows_are_rows_of_their_own(run: Run, script: Script) -> None:
    result = run(PAIRS, ["same", "same", "same"])
    assert script.asked["same"] == 6
    assert result.books.exported == 3
    assert len({r["chosen"][0]["content"] for r in dataset(result.folder)}) == 3


def test_what_a_stage_raises_costs_its_row_and_the_books_balance(run: Run) -> None:
    result = run(["my.fail", *PAIRS], ["a", "bad one", "b", "drop me"], limits={"max_reject_rate": 0.5})
    assert left(result.folder) == [("drop", "my.fail", "not wanted"), ("reject", "my.fail", "stage_error")]
    books = result.books
    assert (books.input, books.exported, books.dropped, books.rejected) == (4, 2, 1, 1)
    text = (result.folder / "left.jsonl").read_text(encoding="utf-8")
    assert "ValueError: cannot do bad one" in text


def test_a_rejected_row_is_tried_again_by_the_same_command(run: Run, script: Script) -> None:
    def once_bad(request: Request, i: int) -> str:
        if "b" in request.messages[-1]["content"]:
            raise BackendError("bad_request", "no")
        return f"{request.seed}{i}"

    script.reset(once_bad)
    first = run(PAIRS, ["a", "b"], limits={"max_reject_rate": 1})
    assert left(first.folder) == [("reject", "my.ask", "bad_request")]
    script.reset()
    second = run(PAIRS, ["a", "b"], limits={"max_reject_rate": 1})
    assert set(script.asked) == {"b"}
    assert second.books.exported == 2


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("id", "'other' for"),
        ("none", "not NoneType"),
        ("empty", "return a Drop"),
        ("samples", "took samples away"),
    ],
)
def test_a_stage_that_breaks_the_contract_costs_its_row_and_is_told_why(
    run: Run, how: str, found: str
) -> None:
    result = run([*ASK, {"my.lazy": {"how": how}}, PAIRS[-1]], ["a"], limits={"max_reject_rate": 1})
    assert result.books.rejected == 1
    assert found in (result.folder / "left.jsonl").read_text(encoding="utf-8")


def test_children_have_ids_and_answers_of_their_own(run: Run, script: Script) -> None:
    result = run(["my.split", *PAIRS], ["x", "y"])
    assert (result.books.input, result.books.added, result.books.exported) == (2, 4, 6)
    assert set(script.asked) == {f"{p} {i}" for p in "xy" for i in range(3)}
    for record in dataset(result.folder):
        assert record["chosen"][0]["content"].endswith(record["prompt"][0]["content"])


def test_a_barrier_sees_rows_sorted_and_streams_them_twice(run: Run, script: Script) -> None:
    result = run([*ASK, "my.half", PAIRS[-1]])
    assert result.books.exported == 5
    assert left(result.folder) == [("drop", "my.half", "odd one out")] * 5
    before = (result.folder / "dataset/data/train.parquet").read_bytes()
    script.reset()
    assert run([*ASK, "my.half", PAIRS[-1]]).books == result.books
    assert script.asked.total() == 0
    assert (result.folder / "dataset/data/train.parquet").read_bytes() == before


def test_a_barrier_that_loses_a_row_is_an_error(run: Run) -> None:
    with pytest.raises(Exception, match=r"my.half: 10 rows went in and 5 came out"):
        run([*ASK, {"my.half": {"lose": True}}, PAIRS[-1]])


def test_stages_of_one_kind_on_two_sides_of_a_barrier_get_different_answers(run: Run) -> None:
    result = run(["my.ask", "my.half", "my.ask", "my.measure", PAIRS[-1]], ["a", "b"])
    (row,) = pq.read_table(result.folder / "rows.parquet").to_pylist()
    assert len({s["text"] for s in row["samples"]}) == 4


def test_equal_requests_of_one_row_get_different_answers(run: Run) -> None:
    result = run(["my.ask", "my.ask", "my.measure", PAIRS[-1]], ["a"])
    (row,) = pq.read_table(result.folder / "rows.parquet").to_pylist()
    assert len({s["text"] for s in row["samples"]}) == 4


@pytest.mark.parametrize("kind", ["transient", "rate_limit", "unreachable"])
def test_a_passing_failure_is_asked_again(run: Run, script: Script, kind: Any) -> None:
    failed: set[str] = set()

    def sometimes(request: Request, i: int) -> str:
        text = request.messages[-1]["content"]
        if text not in failed:
            failed.add(text)
            raise BackendError(kind, "later", retry_after=0.01)
        return f"{request.seed}{i}"

    script.reset(sometimes)
    result = run(PAIRS, ["a", "b"])
    assert result.books.exported == 2
    assert failed == {"a", "b"}


def test_a_failure_that_does_not_pass_rejects_the_row_after_the_retries(run: Run, script: Script) -> None:
    def never(request: Request, i: int) -> str:
        raise BackendError("transient", "500", retry_after=0.001)

    script.reset(never)
    result = run(PAIRS, ["a"], limits={"max_reject_rate": 1})
    assert len(script.seen) == 1 + 3
    assert left(result.folder) == [("reject", "my.ask", "transient")]


@pytest.mark.parametrize("kind", ["auth", "not_found", "unsupported", "unreachable"])
def test_a_failure_of_the_endpoint_stops_the_run_and_names_the_role(
    run: Run, script: Script, kind: Any
) -> None:
    def never(request: Request, i: int) -> str:
        raise BackendError(kind, "no such key", retry_after=0.001)

    script.reset(never)
    result = run(PAIRS)
    assert result.failed
    assert result.stopped == "models.policy: no such key"
    assert result.books.rejected == 0
    script.reset()
    assert run(PAIRS).books.exported == 10


def test_the_run_stops_past_the_reject_rate_and_goes_on_when_it_is_raised(run: Run) -> None:
    prompts = [f"{kind}{i}" for i in range(30) for kind in ("bad ", "q")]
    result = run(["my.fail", *PAIRS], prompts)
    assert "max_reject_rate" in result.stopped
    assert not result.failed
    raised = run(["my.fail", *PAIRS], prompts, limits={"max_reject_rate": 0.6})
    assert (raised.stopped, raised.books.exported, raised.books.rejected) == ("", 30, 30)


PRICED = {"policy": {"backend": "scripted", "model": "m", "price": {"input": 0, "output": 1000}}}


def test_the_run_stops_at_the_budget_counted_over_all_starts(run: Run, script: Script) -> None:
    prompts = [f"q{i}" for i in range(1000)]
    script.reset(lambda request, i: Completion(text=f"{request.seed}{i}", usage=Usage(0, 1000)))
    first = run(PAIRS, prompts, models=PRICED, limits={"max_cost_usd": 100})
    assert "max_cost_usd" in first.stopped
    assert not first.failed
    spent = len(script.seen)
    # Two answers of $1 each to a call. None is in flight that could pass the cap.
    assert 2 * spent == 100
    again = run(PAIRS, prompts, models=PRICED, limits={"max_cost_usd": 100})
    assert "max_cost_usd" in again.stopped
    assert len(script.seen) == spent
    done = run(PAIRS, prompts, models=PRICED, limits={"max_cost_usd": 5000})
    assert done.books.exported == 1000
    assert len(script.seen) == 1000


def test_a_folder_of_another_recipe_is_refused_with_what_differs(run: Run) -> None:
    run(PAIRS)
    with pytest.raises(RecipeError, match=r"made by another recipe \(name: 't' -> 'u'; .*seed: None -> 3"):
        run(PAIRS, name="u", seed=3)


def test_a_folder_in_use_is_refused_with_its_holder(run: Run, tmp_path: Path) -> None:
    from filelock import FileLock

    run(PAIRS)
    (tmp_path / "run" / "run.holder").write_text("process 7 on box", encoding="utf-8")
    with (
        FileLock(tmp_path / "run" / "run.lock"),
        pytest.raises(JournalError, match="process 7 on box is running"),
    ):
        run(PAIRS)


def test_backends_are_closed_and_the_summary_counts(run: Run, script: Script) -> None:
    result = run(PAIRS)
    assert script.closed == 1
    summary = json.loads((result.folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["state"] == "finished"
    assert summary["models"]["policy"]["requests"] == 10
    assert summary["models"]["policy"]["completions"] == 20
    assert summary["models"]["policy"]["prompt_tokens"] == 100


def test_a_barrier_taken_out_and_put_back_runs_again(run: Run) -> None:
    stages = [*ASK, "my.half", "my.half", PAIRS[-1]]
    first = run(stages)
    before = (first.folder / "dataset/data/train.parquet").read_bytes()
    assert run([*ASK, "my.half", PAIRS[-1]]).books.exported == 5
    again = run(stages)
    assert again.books == first.books
    assert (first.folder / "dataset/data/train.parquet").read_bytes() == before


@pytest.mark.parametrize("how", ["set", "large", "exit"])
def test_what_cannot_be_kept_and_who_tries_to_leave_costs_the_row(run: Run, how: str) -> None:
    result = run([*ASK, {"my.odd": {"how": how}}, PAIRS[-1]], ["a"], limits={"max_reject_rate": 1})
    assert left(result.folder) == [("reject", left(result.folder)[0][1], "stage_error")]


@pytest.mark.parametrize("kind", ["auth", "bad_request"])
def test_errors_in_a_task_group_keep_their_kind(run: Run, script: Script, kind: Any) -> None:
    def never(request: Request, i: int) -> str:
        raise BackendError(kind, "no such key")

    script.reset(never)
    result = run([{"my.odd": {"how": "group"}}, *PAIRS], ["a"], limits={"max_reject_rate": 1})
    if kind == "auth":
        assert result.stopped == "models.policy: no such key"
    else:
        assert left(result.folder) == [("reject", "my.odd", "bad_request")]


def test_a_fan_out_moved_across_a_barrier_goes_on(run: Run) -> None:
    grow = {"my.grow": {"keep": False}}
    assert run(["my.half", grow, *PAIRS]).books.exported == 5
    moved = run([grow, "my.half", *PAIRS])
    assert moved.books.exported == 5
    assert run(["my.half", grow, *PAIRS]).books.exported == 5


def test_a_row_that_keeps_its_id_through_a_fan_out_keeps_count_of_its_requests(
    run: Run, script: Script
) -> None:
    result = run(["my.grow", {"my.ask": {"n": 3}}, "my.measure", PAIRS[-1]], ["a"])
    assert script.asked == {"a": 4, "a grown": 3}
    seeds = {request.messages[-1]["content"]: [] for request in script.seen}  # type: dict[str, list[int]]
    for request in script.seen:
        seeds[request.messages[-1]["content"]] += [(request.seed or 0) + i for i in range(request.n)]
    assert len(set(seeds["a"])) == 4
    assert result.books.exported == 2


def test_the_dataset_of_an_earlier_start_is_not_taken_for_that_of_a_stopped_one(
    run: Run, script: Script
) -> None:
    first = run(PAIRS)
    job.export_run(first.folder, job.exporter_of("sft"), None)

    def never(request: Request, i: int) -> str:
        raise BackendError("auth", "no")

    script.reset(never)
    assert run(PAIRS, seed=9).failed
    with pytest.raises(RunStopped, match="not a finished run"):
        job.export_run(first.folder, job.exporter_of("sft"), None)


def test_a_row_that_left_the_source_is_not_shown(run: Run) -> None:
    result = run(
        PAIRS,
        ["a", "b"],
        source={"rows": [{"id": "a", "prompt": "a"}, {"id": "b", "prompt": "b"}], "id": "id"},
    )
    assert trace(result.folder, "b")[1] is not None
    run(PAIRS, source={"rows": [{"id": "a", "prompt": "a"}], "id": "id"})
    assert trace(result.folder, "b")[:2] == ([], None)


def test_left_rows_are_written_also_when_the_run_stops_for_them(run: Run) -> None:
    result = run(["my.fail", *PAIRS], ["a", "bad one"], limits={"max_reject_rate": 0.1})
    assert "limits.max_reject_rate 0.1; mend what failed" in result.stopped
    assert left(result.folder) == [("reject", "my.fail", "stage_error")]


def test_a_stop_for_rejects_says_why_and_of_how_many_rows(run: Run) -> None:
    few = run(["my.fail", *PAIRS], [f"bad [/x] {i} {'long ' * 90}" for i in range(8)])
    count, of = re.match(r"(\d+) of the (\d+) rows started by then were rejected", few.stopped).groups()  # type: ignore[union-attr]
    assert int(count) <= int(of) <= 8
    first = few.stopped.partition("the first error, in my.fail: ")[2]
    assert first.startswith("ValueError: cannot do bad [/x] ")
    assert len(first) == 200


def test_rows_that_go_on_after_a_barrier_are_not_counted_twice(run: Run) -> None:
    stages = [*ASK, "my.half", {"my.fail": {"on": "q"}}, PAIRS[-1]]
    stopped = run(stages, [f"q{i}" for i in range(30)]).stopped
    assert "of the 30 rows started by then were rejected" in stopped
