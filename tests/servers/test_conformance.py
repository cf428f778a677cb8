"""What real servers do is what docs/servers.md says, and what the product needs of them holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import page
import pytest
from expectations import EXPECTATIONS, LIMIT, Asker, n_answers, token_limit, usage_of_n

from replay import Body, Replay, completion
from wire import running


@pytest.mark.parametrize("ask", page.SERVERS, indirect=True, ids=page.SERVERS)
@pytest.mark.parametrize("name", EXPECTATIONS)
def test_a_real_server(name: str, ask: Asker, request: pytest.FixtureRequest) -> None:
    server = request.node.callspec.params["ask"]
    found = asyncio.run(EXPECTATIONS[name](ask))
    page.seen[server, name] = found
    if not page.WRITES:
        assert found == page.known().get((server, name)), (
            "run it with WRITE_SERVERS=1, and look at what changed"
        )


def test_the_page_has_a_line_for_each_expectation() -> None:
    lines = page.known()
    assert {name for _, name in lines} == set(EXPECTATIONS)
    assert "not tried" not in lines.values()


# ---- the checks can fail


@pytest.fixture
def odd() -> Iterator[Replay]:
    with running(Replay()) as server:
        yield server


def against(server: Replay, script: Any) -> Asker:
    server.scripts["odd"] = script
    return Asker(f"{server.root}/odd/v1", "odd", lambda text: {"say": text}, 100)


def test_a_server_that_ignores_n_is_seen(odd: Replay) -> None:
    ask = against(odd, lambda body, number: completion("one"))
    assert asyncio.run(n_answers(ask)) == "1 of 4"


def test_a_server_that_counts_one_choice_is_seen(odd: Replay) -> None:
    def script(body: Body, number: int) -> Body:
        made = completion(*["one two"] * body.get("n", 1), finish="length")
        return {**made, "usage": {"prompt_tokens": 9, "completion_tokens": LIMIT}}

    assert asyncio.run(usage_of_n(against(odd, script))) == "one choice"


def test_a_server_that_says_nothing_of_a_cut_is_seen_by_its_count_and_one_that_counts_nothing_is_not(
    odd: Replay,
) -> None:
    def script(body: Body, number: int) -> Body:
        return {
            **completion("one two", finish=None),
            "usage": {"prompt_tokens": 9, "completion_tokens": LIMIT},
        }

    assert asyncio.run(token_limit(against(odd, script))) == "None"
    odd.scripts["odd"] = lambda body, number: completion("one two", finish="stop")
    with pytest.raises(AssertionError):
        asyncio.run(token_limit(against(odd, odd.scripts["odd"])))
