"""How long a call is asked again: who is to blame for a failure, the row or the endpoint."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import faults
import rough
from wire import serving, status

ROWS = 8


@pytest.fixture(scope="module")
def untroubled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    nothing = faults.Trouble("nothing", "", faults.some(share=0))
    return faults.troubled(tmp_path_factory.mktemp("calm"), nothing, ROWS, "", 0.0, rough.run_here)[0]


def same(untroubled: dict[str, bytes], folder: Path) -> None:
    assert rough.every_row_ends_once(folder)["rejected"] == 0
    assert rough.differences(untroubled, rough.outcome(folder)) == []


@pytest.mark.parametrize("name", ["503", "reset"])
def test_an_endpoint_that_answers_nobody_is_away_whatever_it_says(
    tmp_path: Path, untroubled: dict[str, bytes], name: str
) -> None:
    """Longer than the retries of a call last: no row is to blame for it."""
    fails = {"503": faults.unavailable, "reset": faults.named("reset")}[name]
    trouble = faults.Trouble(name, "once", faults.failing(fails), role={"retries": 2})
    faults.troubled(tmp_path, trouble, ROWS, name, 3.0, rough.run_here)
    same(untroubled, tmp_path)


def test_a_call_that_had_to_wait_still_has_its_retries(tmp_path: Path, untroubled: dict[str, bytes]) -> None:
    """Being told "too many" is no failure of the row's, so it is not counted as one."""
    seen: Counter[str] = Counter()
    with serving() as server:

        def fault(request: Any, number: int) -> Any:
            who = server.calls[-1].identity
            seen[who] += 1
            if number % 10 == 0 or seen[who] > 1:
                return {1: status(429, Retry_After="0.01"), 2: status(429, Retry_After="0.01")}.get(
                    seen[who], status(500) if seen[who] == 3 else None
                )
            return None

        server.fault = fault
        rough.write(tmp_path, [server.url], ROWS, retries=1)
        rough.run_here(tmp_path)
    assert max(seen.values()) == 4
    same(untroubled, tmp_path)


def test_an_endpoint_that_has_answered_one_role_is_not_new_to_another(
    tmp_path: Path, untroubled: dict[str, bytes]
) -> None:
    """It is away when a role asks for the first time, in the middle of a run: that is no mistake of the recipe's."""
    with serving() as server:
        left: list[int] = []

        def fault(request: Any, number: int) -> Any:
            if server.calls[-1].model in rough.AFTER and not left:
                left.append(number)
                server.leave(3.0)
                return "reset"
            return None

        server.fault = fault
        rough.write(tmp_path, [server.url], ROWS)
        rough.run_here(tmp_path)
    assert left
    same(untroubled, tmp_path)
