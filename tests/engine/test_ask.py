"""What stands between a stage and a model: keys, patience, and answers bought one by one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from scripted import SCRIPT, Scripted, echo
from tenacity import Future, RetryCallState

from synthpref.core.errors import BackendError, ErrorKind
from synthpref.core.seam import Backend, Completion, Request
from synthpref.core.template import Prompts
from synthpref.engine.ask import Models, RowAsk, Stop, Walk, call_key
from synthpref.engine.journal import Journal
from synthpref.engine.role import Patience, Role, Stopping

MESSAGES = ({"role": "user", "content": "hello"},)
REQUEST = Request(messages=MESSAGES)


@pytest.mark.parametrize(
    ("field", "value", "counts"),
    [
        ("messages", ({"role": "user", "content": "hello!"},), True),
        ("kind", "embed", True),
        ("temperature", 0.5, True),
        ("top_p", 0.5, True),
        ("max_tokens", 5, True),
        ("stop", ("x",), True),
        ("logprobs", 3, True),
        ("prompt_logprobs", 0, True),
        ("response_format", {"type": "json_schema"}, True),
        ("n", 8, False),
        ("seed", 8, False),
        ("priority", 8, False),
    ],
)
def test_the_key_holds_what_can_change_an_answer_and_nothing_else(
    field: str, value: Any, counts: bool
) -> None:
    from dataclasses import replace

    changed = call_key({}, replace(REQUEST, **{field: value}), 0)
    assert (changed != call_key({}, REQUEST, 0)) is counts


def test_the_key_of_a_plain_request_is_what_it_was() -> None:
    """What journals hold was paid for under it."""
    request = Request(messages=MESSAGES, temperature=0.7, max_tokens=40, logprobs=5)
    assert call_key({"model": "m"}, request, 7).hex() == "20dc9f10f3e1124b3f9786e7fc02c27c"


def test_the_key_holds_model_seed_and_salt() -> None:
    keys = [call_key({"m": 1}, REQUEST, 0), call_key({"m": 2}, REQUEST, 0), call_key({"m": 1}, REQUEST, 1)]
    assert len({*keys, call_key({"m": 1}, REQUEST, 0, 1)}) == 4


def state(error: BackendError, attempt: int) -> RetryCallState:
    made = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    made.attempt_number = attempt
    made.outcome = Future(attempt)
    made.outcome.set_exception(error)
    made.start_time = -1e9
    return made


@pytest.mark.parametrize(
    ("kind", "answered", "attempt", "ended"),
    [
        ("transient", True, 3, False),
        ("transient", True, 4, True),
        ("rate_limit", True, 500, False),
        ("unreachable", True, 500, False),
        ("unreachable", False, 2, False),
        ("unreachable", False, 3, True),
    ],
)
def test_patience_counts_from_the_first_failure_and_not_from_the_time_in_the_queue(
    kind: ErrorKind, answered: bool, attempt: int, ended: bool
) -> None:
    patience = Patience(3, lambda: time.monotonic() if answered else None)
    error = BackendError(kind, "x", status=500)
    assert [patience.ended(state(error, i)) for i in range(1, attempt + 1)] == [False] * (attempt - 1) + [
        ended
    ]


def test_being_told_to_wait_a_day_ends_the_patience_at_once() -> None:
    patience = Patience(3, lambda: 0.0)
    assert patience.ended(state(BackendError("rate_limit", "x", retry_after=86400.0), 1))
    assert not patience.ended(state(BackendError("rate_limit", "x", retry_after=60.0), 1))


class Single(Scripted):
    """A model that gives one answer a request."""

    capabilities = frozenset({"chat"})


def test_one_refused_answer_of_n_is_missing_and_the_others_are_there(tmp_path: Path) -> None:
    first = {"seed": None}

    def answer(request: Request, i: int) -> str:
        first["seed"] = first["seed"] or request.seed  # type: ignore[assignment]
        if request.seed == first["seed"]:
            raise BackendError("bad_request", "no")
        return f"answer {request.seed}"

    async def go() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        models = Models({"m": Single(model="m")}, journal, Prompts(lambda name: None), 0, Stop())
        walk = Walk(models, "row", 0)
        made = await RowAsk(models, walk, "stage", 0)(MESSAGES, model="m", n=8)
        assert [one.refused for one in made] == ["bad_request: no", *[None] * 7]
        assert not walk.again, "the same is refused again"
        await journal.indexed()
        assert len(journal.answers("row")) == 7
        SCRIPT.reset()
        again = RowAsk(models, Walk(models, "row", 0), "stage", 0)
        assert [one.refused for one in await again(MESSAGES, model="m", n=8)] == [None] * 8
        assert SCRIPT.asked.total() == 1
        await models.aclose()
        journal.close()

    SCRIPT.reset(answer)
    asyncio.run(go())


class Few(Scripted):
    """A model that can be asked for several answers, and gives two of them at the most."""

    def open(self, shared: dict[str, Any]) -> Backend:
        inner = super().open(shared)

        class Open:
            async def complete(self, request: Request) -> list[Completion]:
                return (await inner.complete(request))[:2]

            async def aclose(self) -> None:
                await inner.aclose()

        return Open()


def five(folder: Path, spec: Scripted, answer: Any = echo) -> list[Completion]:
    """Five answers to one question."""
    folder.mkdir(exist_ok=True)

    async def go() -> list[Completion]:
        journal = Journal(folder / "journal.sqlite")
        models = Models({"m": spec}, journal, Prompts(lambda name: None), 0, Stop())
        try:
            return await RowAsk(models, Walk(models, "row", 0), "stage", 0)(MESSAGES, model="m", n=5)
        finally:
            await models.aclose()
            journal.close()

    SCRIPT.reset(answer)
    return asyncio.run(go())


def test_answers_that_the_endpoint_leaves_out_are_asked_for_singly_with_their_seeds(tmp_path: Path) -> None:
    whole = [one.text for one in five(tmp_path / "whole", Scripted(model="m"))]
    pieced = [one.text for one in five(tmp_path / "pieced", Few(model="m"))]
    assert [request.n for request in SCRIPT.seen] == [5, 1, 1, 1]
    single = [one.text for one in five(tmp_path / "single", Single(model="m"))]
    assert [request.n for request in SCRIPT.seen] == [1] * 5
    assert whole == pieced == single
    assert len(set(whole)) == 5


def test_where_every_answer_is_refused_the_refusal_is_raised(tmp_path: Path) -> None:
    def refuse(request: Request, i: int) -> str:
        raise BackendError("content_filter", "no")

    for spec in (Scripted(model="m"), Single(model="m")):
        with pytest.raises(BackendError, match="no"):
            five(tmp_path / type(spec).__name__, spec, refuse)


def test_a_bug_is_no_refusal(tmp_path: Path) -> None:
    def bug(request: Request, i: int) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        five(tmp_path, Single(model="m"), bug)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (BackendError("transient", "HTTP 503: away", status=503, retry_after=3600.0), "HTTP 503: away; tried again at "),
        (BackendError("rate_limit", "HTTP 429: slowly", status=429, retry_after=30.0), "HTTP 429: slowly; tried again at "),
        (BackendError("rate_limit", "HTTP 429: slowly", status=429, retry_after=0.5), ""),
    ],
    ids=["an hour", "half a minute", "a moment"],
)  # fmt: skip
def test_what_is_waited_for_and_until_when_can_be_seen(error: BackendError, shown: str) -> None:
    def answer(request: Request, i: int) -> str:
        raise error

    async def go() -> None:
        stop = Stop()
        spec = Scripted(model="m")
        role = Role("m", spec, spec.open({}), stop, {spec.place(): 0.0}, answered=True)
        call = asyncio.create_task(role.fetch(REQUEST, "row"))
        while not SCRIPT.seen or not role.meter.retries:  # noqa: ASYNC110  nothing says when it begins to wait
            await asyncio.sleep(0)
        assert role.waits_for().startswith(shown)
        assert bool(role.waits_for()) == bool(shown)
        if error.kind == "rate_limit" and shown:
            assert ", until " in role.waits_for()
        stop.now("enough")
        with pytest.raises(Stopping):
            await call
        assert role.waits_for() == ""

    SCRIPT.reset(answer)
    asyncio.run(go())
