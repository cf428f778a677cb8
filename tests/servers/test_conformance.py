"""What real servers do is what docs/servers.md says, and what the product needs of them holds."""

from __future__ import annotations

import asyncio

import page
import pytest
from asker import Asker
from expectations import EXPECTATIONS


@pytest.mark.parametrize("ask", page.SERVERS, indirect=True, ids=page.SERVERS)
@pytest.mark.parametrize("name", EXPECTATIONS)
def test_a_real_server(name: str, ask: Asker, request: pytest.FixtureRequest) -> None:
    server = request.node.callspec.params["ask"]
    found = asyncio.run(EXPECTATIONS[name](ask))
    page.seen[server, name] = found
    if not page.WRITES:
        asked = f"of {page.known().get((server, page.VERSION))}; this is {ask.version}"
        assert found == page.known().get((server, name)), (
            f"docs/servers.md is {asked}: run it with WRITE_SERVERS=1, and look at what changed"
        )


@pytest.mark.skipif(page.WRITES, reason="the page is written at the end")
def test_the_page_has_a_line_for_each_expectation() -> None:
    lines = page.known()
    assert {name for _, name in lines} == {page.VERSION, *EXPECTATIONS}
    assert "not tried" not in lines.values()
