"""Whole runs with `mode: batch`: the same bytes as live, and nothing paid twice, whatever happens on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rough
from batch_server import BatchServer, Line, batching
from synthpref import job
from test_interrupts import PATIENCE_S, until
from wire import serving, status

QUICK = {"quiet_s": 0.05, "poll_s": 0.02}
ROWS = 12


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with batching() as server:
        yield server


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What comes out of the same recipe without batches."""
    folder = tmp_path_factory.mktemp("live")
    with serving() as server:
        rough.write(folder, [server.url], ROWS)
        rough.run_here(folder)
    return rough.outcome(folder)


def write(folder: Path, server: BatchServer, **batch: Any) -> None:
    rough.write(folder, [server.url], ROWS, mode="batch", batch={**QUICK, **batch})


def sizes(server: BatchServer, model: str) -> list[int]:
    return [len(made.lines) for made in server.made if made.lines[0]["body"]["model"] == model]


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE_S)


def test_a_run_in_batches_makes_the_bytes_of_a_live_one(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes]
) -> None:
    write(tmp_path, server)
    rough.run_here(tmp_path)
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []
    assert server.bodies == [], "nothing was asked live"
    assert len(server.made) < 8


KILLS = {
    "uploading": ("upload", "never"),
    "uploaded, and the file's name is not known": ("upload", "stall"),
    "uploaded, and no batch made": ("create", "never"),
    "made, and its id is not known": ("create", "stall"),
    "under way": ("get", "never"),
    "ended, and nothing of it fetched": ("content", "never"),
    "ended, and half of it fetched": ("content", "half stall"),
}


@pytest.mark.parametrize("moment", KILLS)
def test_killed_at_any_moment_it_goes_on_and_pays_nothing_twice(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes], moment: str
) -> None:
    step, what = KILLS[moment]
    stuck_at = 1  # the second batch, so that one is through
    reached = 0 if step == "get" else stuck_at
    server.trouble = lambda at, number: (
        what if at == step and len(server.made) > reached - 1 and number >= reached else None
    )
    write(tmp_path, server)
    process = rough.start(tmp_path)
    until(lambda: server.steps[step] > reached and (step != "get" or bool(server.made)), process)
    kill(process)
    server.trouble = lambda at, number: None
    rough.run(tmp_path)
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []
    assert len(server.made) == 4, "each batch was made once"


def test_killed_again_while_it_looks_for_what_it_had_made(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes]
) -> None:
    server.trouble = lambda at, number: {"create": "stall", "list": "never"}.get(at)
    write(tmp_path, server)
    for step in ("create", "list"):
        process = rough.start(tmp_path)
        until(lambda step=step: server.steps[step] == 1, process)  # type: ignore[misc]
        kill(process)
    server.trouble = lambda at, number: None
    rough.run(tmp_path)
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []
    assert len(server.made) == 4


def test_killed_at_many_moments_one_after_the_other(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes]
) -> None:
    """Small batches, so that answers come home, are handed on and are committed all the time."""
    server.most_requests = 10
    write(tmp_path, server, max_requests=10, min_requests=1)
    asked = 0
    for kills in range(4):
        process = rough.start(tmp_path)
        asked += 2 + kills
        while process.poll() is None and sum(server.steps.values()) < asked:
            time.sleep(0.001)
        kill(process)
        asked = sum(server.steps.values())
    rough.run(tmp_path)
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []


@pytest.mark.parametrize("what", ["lost", "half", "500"])
def test_answers_lost_at_every_step_are_no_reason_to_pay_again(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes], what: str
) -> None:
    server.trouble = lambda step, number: what if number % 3 == 0 else None
    write(tmp_path, server)
    rough.run_here(tmp_path)
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []
    assert len(server.made) == 4


def test_a_provider_that_goes_away_for_a_while(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes]
) -> None:
    gone: list[str] = []

    def trouble(step: str, number: int) -> str | None:
        if (step, number) in (("get", 0), ("content", 1)):
            gone.append(step)
            server.leave(0.3)
        return None

    server.trouble = trouble
    write(tmp_path, server)
    rough.run_here(tmp_path)
    assert gone == ["get", "content"]
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []


def test_a_batch_that_expires_is_asked_on_where_it_ended(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes]
) -> None:
    server.expires_after = lambda number: 5 if number < 3 else None
    write(tmp_path, server)
    rough.run_here(tmp_path)
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []
    assert sizes(server, "writer") == [12, 7, 2]


def test_lines_that_fail_are_asked_again_one_by_one(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes]
) -> None:
    ways = [status(500), status(429, "slow down"), "server_error", "absent", status(503)]
    failed: list[str] = []

    def bad(body: dict[str, Any], seen: int) -> Any:
        if seen or len(failed) >= 20 or len(server.seen) % 3:
            return None
        failed.append(body["model"])
        return ways[len(failed) % len(ways)]

    server.bad_line = bad
    write(tmp_path, server)
    rough.run_here(tmp_path)
    assert len(failed) == 20
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []
    lines = [line for made in server.made for line in made.lines]
    assert len(lines) == len({line["custom_id"] for line in lines}) + 20


def test_a_line_that_is_refused_costs_its_row_and_no_other(tmp_path: Path, server: BatchServer) -> None:
    refused = status(400, {"message": "no", "code": "content_filter"})
    server.bad_line = lambda body, seen: refused if "Question 3 " in str(body["messages"]) else None
    write(tmp_path, server)
    rough.run_here(tmp_path)
    (left,) = [
        line
        for line in (rough.home(tmp_path) / "left.jsonl").read_text("utf-8").splitlines()
        if '"reject"' in line
    ]
    assert '"content_filter"' in left
    assert "Question 3 " in left
    assert rough.every_row_ends_once(tmp_path)["rejected"] == 1


@pytest.mark.parametrize("limit", ["max_requests", "max_bytes"])
def test_what_gathers_is_split_by_the_limits(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes], limit: str
) -> None:
    if limit == "max_requests":
        server.most_requests = 7
        write(tmp_path, server, max_requests=7)
    else:
        server.most_bytes = 20_000
        write(tmp_path, server, max_bytes=20_000)
    rough.run_here(tmp_path)
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []
    assert len(server.made) > 8
    if limit == "max_requests":
        assert max(len(made.lines) for made in server.made) == 7


def test_an_endpoint_without_batches_is_told_at_the_first_call(tmp_path: Path) -> None:
    with batching(has_batches=False) as server:
        write(tmp_path, server)
        process = rough.start(tmp_path)
        assert process.wait(PATIENCE_S) == 1
    told = rough.said(tmp_path)
    assert "no /files and /batches there" in told
    assert "mode: live" in told
    assert "Traceback" not in told
    assert server.requests == 1


def test_the_queue_of_the_provider_is_full(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes]
) -> None:
    """It takes no more than 20 requests at once."""
    full = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}]
    server.refusals = lambda lines, number: full if len(lines) > 20 else []
    write(tmp_path, server)
    rough.run_here(tmp_path)
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []


def test_a_file_that_is_refused_for_one_line_costs_that_row_only(tmp_path: Path, server: BatchServer) -> None:
    def refused(lines: list[Line], number: int) -> list[dict[str, Any]]:
        at = [i for i, line in enumerate(lines, 1) if "Question 3 " in str(line["body"]["messages"])]
        return [{"code": "invalid_request", "message": "bad line", "line": i, "param": None} for i in at]

    server.refusals = refused
    write(tmp_path, server)
    rough.run_here(tmp_path)
    assert rough.every_row_ends_once(tmp_path)["rejected"] == 1
    assert '"bad_request"' in (rough.home(tmp_path) / "left.jsonl").read_text("utf-8")
    assert server.paid_twice == []


@pytest.mark.parametrize("on_stop", ["leave", "cancel"])
def test_stopped_it_leaves_the_batch_or_cancels_it_and_the_next_start_goes_on(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes], on_stop: str
) -> None:
    server.delay_s = 0.5
    server.stays = lambda number: on_stop == "cancel" and number == 1
    write(tmp_path, server, on_stop=on_stop)
    process = rough.start(tmp_path)
    until(lambda: len(server.made) == 2 and server.steps["get"] > 2, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 3, rough.said(tmp_path)
    told = "1 left under way for the next start" if on_stop == "leave" else "1 cancelled"
    assert told in rough.said(tmp_path)
    assert "Traceback" not in rough.said(tmp_path)
    server.delay_s = 0.0
    rough.run(tmp_path)
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []
    assert server.cancelled == ([] if on_stop == "leave" else ["batch_1"])
    assert len(server.made) == (4 if on_stop == "leave" else 5)


def test_from_live_to_batches_in_the_middle_and_back(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes]
) -> None:
    def to(mode: str) -> None:
        rough.write(tmp_path, [server.url], ROWS, mode=mode, batch=QUICK, concurrency=4)

    to("live")
    server.hold = lambda call: len(server.calls) > 40
    process = rough.start(tmp_path)
    until(lambda: len(server.calls) > 40, process)
    process.send_signal(signal.SIGINT)
    until(lambda: "Stopping: " in rough.said(tmp_path), process)
    server.hold = lambda call: False
    assert process.wait(PATIENCE_S) == 3
    to("batch")
    rough.run_here(tmp_path)
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []
    assert server.made
    to("live")
    rough.run_here(tmp_path)
    assert server.paid_twice == []


def test_no_key_reaches_the_ledger(tmp_path: Path, server: BatchServer) -> None:
    key = "sk-planted-0123456789"
    server.bad_line = lambda body, seen: (
        status(500, f"key {key}") if len(server.seen) % 5 == 0 and not seen else None
    )
    rough.write(tmp_path, [server.url], ROWS, mode="batch", batch=QUICK, api_key=key)
    rough.run_here(tmp_path)
    assert {h["Authorization"] for h in server.headers} == {f"Bearer {key}"}
    files = [p for p in (tmp_path / "runs").rglob("*") if p.is_file() and p.name != "recipe.yaml"]
    assert "batches.sqlite" in {file.name for file in files}
    assert [file.name for file in files if key.encode() in file.read_bytes()] == []


def test_the_estimate_and_the_bill_are_at_the_price_of_a_batch(tmp_path: Path, server: BatchServer) -> None:
    price = {"input": 1, "output": 10, "batch": 0.25}
    estimates, bills = [], []
    for mode in ("live", "batch"):
        folder = tmp_path / mode
        rough.write(folder, [server.url], ROWS, mode=mode, batch=QUICK, price=price)
        estimates.append(job.estimate(job.load(folder / "recipe.yaml")).cost or 0)
        rough.run_here(folder)
        models = json.loads((rough.home(folder) / "summary.json").read_text("utf-8"))["models"]
        bills.append(sum(model["cost_usd"] for model in models.values()))
    for live_cost, batch_cost in (estimates, bills):
        assert live_cost > 0
        assert batch_cost == pytest.approx(live_cost / 4)


@pytest.mark.parametrize("rows", [1, 70])
def test_as_many_rows_are_under_way_as_the_role_asks_for(
    tmp_path: Path, server: BatchServer, rows: int
) -> None:
    """They are what a batch can hold. 64 are under way at the least, whatever the models are."""
    batch = {**QUICK, "rows": rows, "min_requests": 1}
    rough.write(tmp_path, [server.url], 70, mode="batch", concurrency=1, batch=batch)
    rough.run_here(tmp_path)
    assert len(server.made[0].lines) == max(rows, 64)


@pytest.mark.parametrize(
    ("room", "file"), [(60, "journal.sqlite"), (130, "batches.sqlite"), (200, "a batch cannot be written")]
)
def test_a_disk_that_is_full_stops_the_run_and_nothing_is_paid_twice(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes], room: int, file: str
) -> None:
    """What is full first depends on where the limit is, in kilobytes of one file."""
    write(tmp_path, server)
    process = rough.start(tmp_path, file_limit=room * 1024)
    code, told = process.wait(PATIENCE_S), rough.said(tmp_path)
    assert code == 1, told
    assert "the same command again" in told
    assert file in told
    assert "Traceback" not in told
    assert server.paid
    rough.run(tmp_path)
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []


def test_a_journal_that_is_lost_is_made_anew_from_the_ledger(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes]
) -> None:
    write(tmp_path, server)
    rough.run_here(tmp_path)
    made = len(server.made)
    (rough.home(tmp_path) / "journal.sqlite").unlink()
    rough.run_here(tmp_path)
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert len(server.made) == made


def paid(server: BatchServer) -> float:
    """US dollars for all answers, at half of $1 for a million tokens."""
    usages = [json.loads(line)["response"]["body"]["usage"] for made in server.made for line in made.output]
    return sum(usage["prompt_tokens"] + usage["completion_tokens"] for usage in usages) * 0.5e-6


def test_a_budget_is_not_passed_where_the_most_of_an_answer_is_known(
    tmp_path: Path, server: BatchServer
) -> None:
    fields = {"mode": "batch", "batch": QUICK, "price": {"input": 1, "output": 1}, "max_tokens": 200}
    path = rough.write(tmp_path, [server.url], ROWS, **fields)
    result = job.run(job.load(path, ["limits={max_cost_usd: 0.001}"]), rough.home(tmp_path))
    assert "budget" in result.stopped
    assert 0.0005 < paid(server) <= 0.001


def test_what_is_asked_live_is_counted_at_the_full_price(tmp_path: Path, server: BatchServer) -> None:
    fields = {"mode": "batch", "batch": {**QUICK, "live_below": 10_000}, "price": {"input": 1, "output": 1}}
    path = rough.write(tmp_path, [server.url], ROWS, **fields)
    job.run(job.load(path), rough.home(tmp_path))
    assert server.made == []
    models = json.loads((rough.home(tmp_path) / "summary.json").read_text(encoding="utf-8"))["models"]
    tokens = sum(m["prompt_tokens"] + m["completion_tokens"] for m in models.values())
    assert sum(m["cost_usd"] for m in models.values()) == pytest.approx(tokens / 1e6)


def test_a_budget_stops_it_between_batches_and_more_of_it_goes_on(
    tmp_path: Path, server: BatchServer, live: dict[str, bytes]
) -> None:
    path = rough.write(
        tmp_path, [server.url], ROWS, mode="batch", batch=QUICK, price={"input": 1, "output": 1}
    )
    result = job.run(job.load(path, ["limits={max_cost_usd: 0.001}"]), rough.home(tmp_path))
    assert "budget" in result.stopped
    # The price of a batch is half of it. What may be sent at once is what is left, however many rows wait.
    assert 0.0005 < paid(server) <= 1.25 * 0.001 + 0.0001
    assert 1 < len(server.made) < 12
    rough.run_here(tmp_path)
    assert rough.differences(live, rough.outcome(tmp_path)) == []
    assert server.paid_twice == []
    assert paid(server) > 0.003
