"""What stands between a stage and a model: keys, patience, and answers bought one by one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from scripted import SCRIPT, Scripted
from tenacity import Future, RetryCallState

from synthpref.core.errors import BackendError, ErrorKind
from synthpref.core.seam import Request
from synthpref.core.template import Prompts
from synthpref.engine.ask import Models, RowAsk, Stop, Walk, call_key
from synthpref.engine.journal import Journal
from synthpref.engine.role import Patience

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


def test_one_failed_answer_of_n_loses_none_of_the_others(tmp_path: Path) -> None:
    first = {"seed": None}

    def answer(request: Request, i: int) -> str:
        first["seed"] = first["seed"] or request.seed  # type: ignore[assignment]
        if request.seed == first["seed"]:
            raise BackendError("bad_request", "no")
        return f"answer {request.seed}"

    async def go() -> int:
        journal = Journal(tmp_path / "journal.sqlite")
        models = Models({"m": Single(model="m")}, journal, Prompts(lambda name: None), 0, Stop())
        wanted = RowAsk(models, Walk(models, "row", 0), "stage", 0)
        with pytest.raises(BackendError, match="no"):
            await wanted(MESSAGES, model="m", n=8)
        await journal.indexed()
        kept = len(journal.answers("row"))
        SCRIPT.reset()
        again = RowAsk(models, Walk(models, "row", 0), "stage", 0)
        assert len(await again(MESSAGES, model="m", n=8)) == 8
        assert SCRIPT.asked.total() == 1
        await models.aclose()
        journal.close()
        return kept

    SCRIPT.reset(answer)
    assert asyncio.run(go()) == 7
