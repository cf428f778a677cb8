"""`mode: batch` as a Backend: what goes into a line, which answer belongs to which call, when a batch is sent."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from batch_server import BatchServer, Made, batching
from synthpref.core.errors import BackendError, JournalError
from synthpref.core.seam import Completion, Price, Request
from synthpref.core.types import Usage
from synthpref.models.batch_ledger import Ledger
from synthpref.models.batch_wire import read
from synthpref.models.openai import OpenAI
from wire import status

QUICK = {"quiet_s": 0.03, "poll_s": 0.01}


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with batching() as server:
        yield server


def asks(text: str = "Why is the sky blue?", **fields: Any) -> Request:
    return Request(messages=({"role": "user", "content": text},), **{"seed": 3, **fields})


def spec(server: BatchServer, batch: dict[str, Any] | None = None, **fields: Any) -> OpenAI:
    return OpenAI(model="m", base_url=server.url, mode="batch", batch={**QUICK, **(batch or {})}, **fields)  # type: ignore[arg-type]


def opened(role: OpenAI, folder: Path | None = None, **shared: Any) -> Any:
    @asynccontextmanager
    async def context() -> Any:
        backend = role.open({**({"folder": folder} if folder else {}), **shared})
        try:
            yield backend
        finally:
            await backend.aclose()

    return context()


def ask(role: OpenAI, requests: Sequence[Request], folder: Path | None = None) -> list[Any]:
    """All at once: what each call gave, an error if that is what it gave."""

    async def go() -> list[Any]:
        async with opened(role, folder) as backend:
            return await asyncio.gather(*map(backend.complete, requests), return_exceptions=True)

    return asyncio.run(go())


def live(server: BatchServer, requests: Sequence[Request], **fields: Any) -> list[list[Completion]]:
    async def go() -> list[list[Completion]]:
        backend = OpenAI(model="m", base_url=server.url, **fields).open({})
        try:
            return await asyncio.gather(*map(backend.complete, requests))
        finally:
            await backend.aclose()

    return asyncio.run(go())


# ---- what is sent, and whose the answers are


def test_the_answers_are_those_of_live_calls_whatever_the_order_of_the_lines(server: BatchServer) -> None:
    requests = [
        asks(f"Question {i}?", seed=i, n=1 + i % 3, temperature=0.5, max_tokens=30) for i in range(20)
    ]
    found = ask(spec(server), requests)
    assert [len(made.lines) for made in server.made] == [20]
    customs = [line["custom_id"] for line in server.made[0].lines]
    assert [json.loads(line)["custom_id"] for line in server.made[0].output] != customs
    assert found == live(server, requests)
    assert server.bodies == [line["body"] for line in server.made[0].lines]
    assert {(line["method"], line["url"]) for line in server.made[0].lines} == {
        ("POST", "/v1/chat/completions")
    }
    assert max(map(len, customs)) <= 64


def test_embeddings_go_in_batches_too(server: BatchServer) -> None:
    requests = [Request(messages=({"role": "user", "content": f"text {i}"},), kind="embed") for i in range(3)]
    found = ask(spec(server, serves="embeddings"), requests)
    assert found == live(server, requests, serves="embeddings")
    assert server.made[0].path == "/v1/embeddings"


def test_equal_calls_get_an_answer_each(server: BatchServer) -> None:
    """Also where the endpoint takes no seed, and so all the lines are the same."""
    found = ask(spec(server, send_seed=False), [asks()] * 3 + [asks(seed=4)])
    assert [len(answers) for answers in found] == [1, 1, 1, 1]
    assert len({line["custom_id"] for line in server.made[0].lines}) == 4
    assert len({line["custom_id"].split("-")[0] for line in server.made[0].lines}) == 2


def test_each_answer_in_the_ledger_is_handed_out_once(server: BatchServer, tmp_path: Path) -> None:
    ask(spec(server), [asks()] * 2, tmp_path)
    assert len(ask(spec(server), [asks()] * 3, tmp_path)) == 3
    assert [len(made.lines) for made in server.made] == [2, 1]


def test_an_answer_that_is_in_the_ledger_is_not_paid_for_again(server: BatchServer, tmp_path: Path) -> None:
    """As after a kill between its coming home and the journal's commit."""
    first = ask(spec(server), [asks(), asks("Another?")], tmp_path)
    assert ask(spec(server), [asks("Another?"), asks()], tmp_path) == first[::-1]
    assert len(server.made) == 1
    (again,) = ask(spec(server), [asks(n=4)], tmp_path)
    assert again == first[0], "an answer cut short: the engine asks for the other three"
    (one,) = ask(spec(server), [asks(temperature=0.1)], tmp_path)
    assert len(server.made) == 2
    assert one


def test_an_answer_of_no_use_is_not_found_again(server: BatchServer, tmp_path: Path) -> None:
    server.bad_line = lambda body, seen: None if seen else web.json_response({"choices": 3})
    (error,) = ask(spec(server), [asks()], tmp_path)
    assert isinstance(error, BackendError)
    assert error.kind == "unreadable"
    assert "unknown shape" in str(error)
    (answers,) = ask(spec(server), [asks()], tmp_path)
    assert len(answers) == 1
    assert len(server.made) == 2


def test_another_identity_has_batches_of_its_own_and_an_equal_one_shares(server: BatchServer) -> None:
    async def go() -> None:
        shared: dict[str, Any] = {}
        hot, same, cold = (
            spec(server, temperature=t, price=p).open(shared)
            for t, p in ((1.0, None), (1.0, Price(input=1, output=1)), (0.0, None))
        )
        assert hot is same
        assert hot is not cold
        requests = [backend.complete(asks(str(i))) for i, backend in enumerate((hot, same, cold))]
        await asyncio.gather(*requests)
        for backend in (hot, same, cold):
            await backend.aclose()

    asyncio.run(go())
    assert sorted(len(made.lines) for made in server.made) == [1, 2]


# ---- what goes wrong


LINES: dict[str, tuple[Any, str]] = {
    "500": (status(500), "transient"),
    "429": (status(429), "transient"),
    "no credit": (status(429, {"message": "no", "code": "insufficient_quota"}), "payment"),
    "400": (status(400, "bad"), "bad_request"),
    "too long": (status(400, {"message": "no", "code": "context_length_exceeded"}), "context_length"),
    "filtered": (status(400, {"message": "no", "code": "content_filter"}), "content_filter"),
    "401": (status(401), "auth"),
    "404": (status(404), "not_found"),
    "server error": ("server_error", "transient"),
    "expired": ("batch_expired", "transient"),
    "another code": ("invalid_prompt", "bad_request"),
    "no line": ("absent", "transient"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_line_that_fails_fails_as_it_would_live_and_the_others_do_not(
    server: BatchServer, name: str
) -> None:
    what, kind = LINES[name]
    server.bad_line = lambda body, seen: what if "bad" in str(body["messages"]) else None
    good, bad = ask(spec(server), [asks("good"), asks("bad")])
    assert len(good) == 1
    assert isinstance(bad, BackendError)
    assert bad.kind == kind
    assert str(bad).startswith(server.url)


ODD = [b"", b"[]", b"{}", b'{"custom_id": "a"', b'{"custom_id": "a", "response": {}}', b'"text"', b"\xff"]


@pytest.mark.parametrize("line", ODD)
def test_a_line_that_cannot_be_read_is_nobodys(line: bytes) -> None:
    assert read(line) is None


def test_a_line_with_an_error_beside_an_answer_is_an_error() -> None:
    line = {
        "custom_id": "a",
        "response": {"status_code": 200, "body": {"choices": []}},
        "error": {"message": "x"},
    }
    found = read(json.dumps(line).encode())
    assert found
    assert isinstance(found[1], BackendError)


REFUSED: dict[str, tuple[dict[str, Any] | None, str]] = {
    "no reason": (None, "transient"),
    "model": ({"code": "model_not_found", "message": "no such model"}, "not_found"),
    "credit": ({"code": "billing_hard_limit_reached", "message": "no money"}, "payment"),
    "other": ({"code": "invalid_endpoint", "message": "no"}, "unsupported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_batch_that_is_refused_as_a_whole(server: BatchServer, name: str) -> None:
    error, kind = REFUSED[name]
    server.refusals = lambda lines, number: [error] if error else []
    server.fails = not error
    for found in ask(spec(server), [asks("a"), asks("b")]):
        assert isinstance(found, BackendError)
        assert found.kind == kind
    assert len(server.made) == 1


@pytest.mark.parametrize(
    "odd", [{"request_counts": ["x"]}, {"request_counts": {"completed": "two"}}, {"errors": 7}]
)
def test_a_status_of_another_shape_costs_no_row(
    server: BatchServer, monkeypatch: pytest.MonkeyPatch, odd: dict[str, Any]
) -> None:
    told, looks = Made.told, itertools.count()
    monkeypatch.setattr(Made, "told", lambda made: told(made) | (odd if next(looks) == 1 else {}))
    assert [type(found) for found in ask(spec(server), [asks("a"), asks("b")])] == [list, list]


@pytest.mark.parametrize("errors", ["no such model", ["no such model"], {"data": ["no such model"]}])
def test_a_refusal_is_told_in_whatever_way_the_provider_has(
    server: BatchServer, monkeypatch: pytest.MonkeyPatch, errors: Any
) -> None:
    server.fails = True
    told = Made.told
    monkeypatch.setattr(Made, "told", lambda made: told(made) | {"errors": errors})
    for found in ask(spec(server), [asks("a"), asks("b")]):
        assert isinstance(found, BackendError)
        assert "no such model" in str(found)


def test_a_batch_is_looked_for_in_a_list_whose_times_are_texts(
    server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Made.told
    monkeypatch.setattr(Made, "told", lambda made: told(made) | {"created_at": "2026-01-01T00:00:00Z"})
    server.trouble = lambda step, at: "500" if (step, at) == ("create", 3) else None
    for number in range(4):
        assert isinstance(ask(spec(server), [asks(str(number))])[0], list)
    assert server.steps["list"] > 1


@pytest.mark.parametrize("step", ["upload", "create"])
@pytest.mark.parametrize(
    ("code", "kind"), [(400, "unsupported"), (401, "auth"), (404, "unsupported"), (413, "unsupported")]
)
def test_a_provider_that_takes_no_batch_rejects_no_row(
    server: BatchServer, step: str, code: int, kind: str
) -> None:
    """None of these is the fault of a row, so the run is to stop."""
    server.trouble = lambda at, number: str(code) if at == step else None
    found = ask(spec(server), [asks("a"), asks("b")])
    assert [error.kind for error in found] == [kind, kind]
    assert server.made == []


def test_too_many_batches_a_minute(server: BatchServer) -> None:
    """Told so before the file, the engine asks again; after it, the batch is made again of the same file."""
    server.trouble = lambda at, number: "429" if at == "upload" else None
    (found,) = ask(spec(server), [asks()])
    assert found.kind == "rate_limit"
    server.trouble = lambda at, number: "429" if (at, number) == ("create", 0) else None
    (found,) = ask(spec(server), [asks()])
    assert len(found) == 1
    assert (server.steps["upload"], server.steps["create"], server.steps["list"]) == (2, 2, 0)


def test_one_request_that_never_finds_room_in_the_queue(server: BatchServer) -> None:
    server.refusals = lambda lines, number: [{"code": "token_limit_exceeded", "message": "full"}]
    (found,) = ask(spec(server), [asks()])
    assert isinstance(found, BackendError)
    assert found.kind == "rate_limit"


def test_a_request_larger_than_a_file_and_one_that_is_no_text(server: BatchServer) -> None:
    good, large, odd = ask(spec(server, {"max_bytes": 1000}), [asks(), asks("x" * 1000), asks("\ud800")])
    assert len(good) == 1
    assert [large.kind, odd.kind] == ["bad_request", "bad_request"]
    assert "max_bytes" in str(large)


def test_a_batch_that_another_key_does_not_know_is_not_asked_anew(
    server: BatchServer, tmp_path: Path
) -> None:
    """Somebody changed the key: the batch goes on at the provider, and is still to be paid."""
    server.stays = lambda number: True

    async def left() -> None:
        async with opened(spec(server), tmp_path) as backend:
            call = asyncio.ensure_future(backend.complete(asks()))
            await happens(lambda: server.steps["get"] > 0)
            call.cancel()

    asyncio.run(left())
    (made,) = server.made
    ledger = sqlite3.connect(tmp_path / "batches.sqlite")
    ledger.execute("UPDATE batches SET made = made - 3600")
    ledger.commit()
    ledger.close()
    server.made = []
    (error,) = ask(spec(server), [asks()], tmp_path)
    assert isinstance(error, BackendError)
    assert error.kind == "not_found"
    assert "api_key or base_url" in str(error)
    assert server.made == []
    server.made = [made]
    server.stays = lambda number: False
    made.status = "expired"
    (error,) = ask(spec(server), [asks()], tmp_path)
    assert isinstance(error, BackendError)
    assert error.kind == "transient", "known again, and its end is known"


def test_where_batches_are_not_listed_nobody_knows_what_a_killed_run_had_made(
    server: BatchServer, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "batches.sqlite")
    ask(spec(server), [asks("other")], tmp_path)
    place = sqlite3.connect(tmp_path / "batches.sqlite").execute("SELECT place FROM batches").fetchone()[0]
    ledger.uploaded(ledger.begin(place, "token", [("a", b"a")]), "file-9")
    ledger.close()
    server.trouble = lambda step, number: "404" if step == "list" else None
    (error,) = ask(spec(server), [asks()], tmp_path)
    assert isinstance(error, BackendError)
    assert error.kind == "unsupported"
    assert "delete batches.sqlite" in str(error)
    assert len(server.made) == 1
    server.trouble = lambda step, number: None
    (answers,) = ask(spec(server), [asks()], tmp_path)
    assert len(answers) == 1


async def happens(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  what it waits for is in another thread
            await asyncio.sleep(0.002)


# ---- when a batch is sent


def test_nothing_is_sent_while_other_calls_may_bring_more(server: BatchServer) -> None:
    async def go() -> None:
        others = [1]
        hall: dict[str, Any] = {"asking": lambda: others[0] + 2}
        async with opened(spec(server), **hall) as backend:
            first = asyncio.gather(backend.complete(asks("a")), backend.complete(asks("b")))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(first), 0.4)
            assert server.steps["upload"] == 0
            assert backend.waits_for() == "2 gathered"
            others[0] = 0
            await first

    asyncio.run(go())
    assert [len(made.lines) for made in server.made] == [2]


@pytest.mark.parametrize("live_below", [0, 10], ids=["", "nor are they asked live"])
def test_a_few_wait_for_what_a_batch_under_way_will_bring_and_enough_do_not(
    server: BatchServer, live_below: int
) -> None:
    server.stays = lambda number: number == 0

    async def go() -> None:
        async with opened(spec(server, {"min_requests": 3, "live_below": live_below})) as backend:
            calls = [asyncio.ensure_future(backend.complete(asks(f"first {i}"))) for i in range(10)]
            await happens(lambda: len(server.made) == 1)
            calls += [asyncio.ensure_future(backend.complete(asks(f"late {i}"))) for i in range(2)]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(calls[-1]), 0.4)
            assert len(server.made) == 1
            assert server.bodies == []
            assert "1 batch under way, 0 of 10 answered" in backend.waits_for()
            assert "2 gathered" in backend.waits_for()
            calls.append(asyncio.ensure_future(backend.complete(asks("third"))))
            await asyncio.gather(*calls[10:])
            for call in calls[:10]:
                call.cancel()

    asyncio.run(go())
    assert [len(made.lines) for made in server.made] == [10, 3]


def test_what_has_waited_for_long_is_sent_though_other_things_move(server: BatchServer) -> None:
    async def go() -> None:
        async with opened(spec(server, {"wait_s": 0.1}), asking=lambda: 100) as backend:
            await backend.complete(asks())

    asyncio.run(go())
    assert len(server.made) == 1


@pytest.mark.parametrize(("below", "made", "asked"), [(3, 0, 2), (2, 1, 0)])
def test_the_last_few_may_be_asked_live(server: BatchServer, below: int, made: int, asked: int) -> None:
    found = ask(spec(server, {"live_below": below}), [asks("a"), asks("b")])
    assert [len(answers) for answers in found] == [1, 1]
    assert len(server.made) == made
    assert len(server.bodies) == asked


def test_told_to_stop_no_call_waits_any_longer(server: BatchServer) -> None:
    server.stays = lambda number: True

    async def go() -> list[Any]:
        stop = asyncio.Event()
        async with opened(spec(server, {"max_requests": 2, "min_requests": 5}), stop=stop) as backend:
            calls = [asyncio.ensure_future(backend.complete(asks(str(i)))) for i in range(3)]
            await happens(lambda: server.steps["get"] > 0)
            stop.set()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            ended += await asyncio.gather(backend.complete(asks("late")), return_exceptions=True)
        assert backend.waits_for().startswith("1 left under way")
        return ended

    assert [error.kind for error in asyncio.run(go())] == ["rate_limit"] * 4
    assert len(server.made) == 1


def test_a_call_that_is_given_up_before_it_is_sent_is_not_sent(server: BatchServer) -> None:
    async def go() -> None:
        async with opened(spec(server)) as backend:
            gone = asyncio.ensure_future(backend.complete(asks("gone")))
            stays = asyncio.ensure_future(backend.complete(asks("stays")))
            await asyncio.sleep(0)
            gone.cancel()
            await stays

    asyncio.run(go())
    assert [len(made.lines) for made in server.made] == [1]


# ---- the recipe's fields


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"base_url": ("http://a/v1", "http://b/v1")}, "one base_url"),
        ({"serves": "reward"}, "asked live"),
        ({"transport": "sdk"}, "transport: http"),
        ({"batch": {"max_requests": 0}}, "greater than or equal to 1"),
        ({"batch": {"pol_s": 1}}, "Extra inputs"),
    ],
)
def test_what_goes_with_a_batch(fields: dict[str, Any], found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        OpenAI(model="m", **{"mode": "batch", **fields})


def test_a_batch_costs_its_share_and_asks_for_many_rows() -> None:
    price = Price(input=2, output=8, batch=0.25)
    live, batch = (OpenAI(model="m", mode=mode, price=price) for mode in ("live", "batch"))
    million = Usage(1_000_000, 1_000_000)
    assert [role.pays().cost(million) for role in (live, batch)] == [10, 2.5]  # type: ignore[union-attr]
    assert OpenAI(model="m", mode="batch").pays() is None
    assert (live.gathers(), batch.gathers()) == (0, batch.batch.rows)
    assert live.identity() == batch.identity()


# ---- the ledger


def test_a_ledger_of_another_version_or_of_no_kind_is_told(tmp_path: Path) -> None:
    path = tmp_path / "batches.sqlite"
    Ledger(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(JournalError, match="another version"):
        Ledger(path)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(JournalError, match="paid for twice"):
        Ledger(path)


def test_a_batch_that_was_never_made_is_forgotten_and_one_that_may_have_been_is_not(tmp_path: Path) -> None:
    path = tmp_path / "batches.sqlite"
    ledger = Ledger(path)
    calls = [(f"c{i}", bytes([i])) for i in range(4)]
    never, perhaps, made, ended = (ledger.begin("here", f"t{i}", [call]) for i, call in enumerate(calls))
    ledger.uploaded(perhaps, "file")
    for number in (made, ended):
        ledger.uploaded(number, "file")
        ledger.made(number, f"id{number}")
    ledger.came(ended, [("c3", b"an answer")], [])
    ledger.settled(ended)
    assert ledger.unsettled("here") == [], "those of this start are known"
    ledger.close()
    ledger = Ledger(path)
    found = {noted.number: (noted.file, noted.id) for noted in ledger.unsettled("here")}
    assert found == {never: (None, None), perhaps: ("file", None), made: ("file", f"id{made}")}
    assert ledger.unsettled("elsewhere") == []
    place = ledger.kept(bytes([3]), 0)
    assert place == (ended, "c3")
    assert ledger.answer(*place) == b"an answer"
    assert ledger.kept(bytes([3]), 1) is None
    ledger.close()
