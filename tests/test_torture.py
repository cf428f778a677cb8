"""The short form of `make torture`: a few kills, each trouble at the wire once, a few concurrencies and paces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import faults
import kills
import rough
import torture
from wire import Server, serving

SLACK_S = 0.5
"""More than in the long form: in a test run, other tests have the CPU."""
ROWS = 8


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with torture.slow_server(1) as server:
        yield server


@pytest.fixture(scope="module")
def calm(server: Server, tmp_path_factory: pytest.TempPathFactory) -> kills.Calm:
    return kills.calm_run(tmp_path_factory.mktemp("calm"), server, 30, **torture.KILLED)


@pytest.mark.parametrize("number", range(2))
def test_killed_anywhere_it_comes_to_the_same_bytes_and_asks_again_only_what_was_lost(
    tmp_path: Path, server: Server, calm: kills.Calm, number: int
) -> None:
    account = kills.killed_run(tmp_path, server, 30, calm, f"short|{number}", 5, SLACK_S, **torture.KILLED)
    assert account.wrong == [], [(life.phase, life.moment) for life in account.lives]
    assert sum(life.killed is not None for life in account.lives) > 1


BUSY = '''
import time
from pathlib import Path
from synthpref import RowStage


class Busy(RowStage):
    """Computes for as long as nobody lets it go on, and nothing else gets its turn meanwhile."""

    async def run(self, row, ask):
        Path("computing").touch()
        while not Path("enough").exists():
            time.sleep(0.01)
        return row


STAGES = {"my.busy": Busy}
'''


def test_answers_are_kept_also_while_a_stage_computes(tmp_path: Path) -> None:
    with serving() as server:
        path = rough.write(tmp_path, [server.url], 10, concurrency=1)
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        tree["plugins"] = ["busy.py"]
        tree["stages"].insert(2, "my.busy")
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        (tmp_path / "busy.py").write_text(BUSY, encoding="utf-8")
        process = rough.start(tmp_path)
        while not (tmp_path / "computing").exists():
            assert process.poll() is None, rough.said(tmp_path)
            time.sleep(0.01)
        # The moment of the kill is what is tested: long after the window in which answers may be lost.
        moment = time.monotonic() + kills.WINDOW_S + SLACK_S
        while time.monotonic() < moment:
            time.sleep(0.01)
        process.kill()
        process.wait()
        # One call at a time: what came after the answer that led here lies unread in a socket, and is in flight.
        led = next(i for i, call in enumerate(server.calls) if call.model == "policy")
        kept = {call.identity for call in server.calls[: led + 1]}
        server.calls.clear()
        (tmp_path / "enough").touch()
        rough.run(tmp_path)
        assert not kept & {call.identity for call in server.calls}


@pytest.fixture(scope="module")
def untroubled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    nothing = faults.Trouble("nothing", "", faults.some(share=0))
    return faults.troubled(tmp_path_factory.mktemp("calm"), nothing, ROWS, "", 0.0, rough.run_here)[0]


@pytest.mark.parametrize("trouble", faults.TROUBLES, ids=lambda trouble: trouble.name)
def test_what_goes_wrong_at_the_wire_changes_nothing(
    tmp_path: Path, untroubled: dict[str, bytes], trouble: faults.Trouble
) -> None:
    found, _ = faults.troubled(tmp_path, trouble, ROWS, f"short|{trouble.name}", 1.0, rough.run_here)
    assert rough.every_row_ends_once(tmp_path)["rejected"] == 0
    # A request that is made again for the rest of its choices costs its prompt again.
    assert [name for name in rough.differences(untroubled, found) if name != "what was paid"] == []


@pytest.mark.parametrize(("concurrency", "pace"), [(1, "none"), (32, "late first"), (256, "random")])
def test_neither_concurrency_nor_the_order_of_answers_shows(
    tmp_path: Path, untroubled: dict[str, bytes], concurrency: int, pace: str
) -> None:
    with serving(pace=torture.pace_of(pace, 1)) as server:
        rough.write(tmp_path, [server.url], ROWS, concurrency=concurrency)
        rough.run(tmp_path)
    assert rough.differences(untroubled, rough.outcome(tmp_path)) == []


def test_the_account_of_a_kill_tells_what_was_lost_from_what_was_kept() -> None:
    """The harness itself: an answer of long before a kill that is asked for again is found."""

    def call(who: str, arrived: float, answered: float | None) -> kills.Call:
        return kills.Call(who, "judge", arrived, answered)

    lives = [kills.Life(0.0, 10.0, "judging", "a moment"), kills.Life(11.0)]
    calls = [
        call("kept", 1.0, 2.0), call("in flight", 9.0, None), call("sent as it died", 9.0, 10.001),
        call("in the window", 9.0, 9.97), call("in flight", 12.0, 13.0), call("sent as it died", 12.0, 13.0),
        call("in the window", 12.0, 13.0),
    ]  # fmt: skip
    good = kills.Account([lives[0], lives[1]])
    kills.count(good, calls, 0.0)
    assert (good.wrong, lives[0].again, [round(age, 2) for age in lives[0].ages]) == ([], 3, [0.03])
    late = kills.Account([kills.Life(0.0, 10.0, "judging", "a moment"), kills.Life(11.0)])
    kills.count(late, [*calls, call("kept", 12.0, 13.0)], 0.0)
    assert late.wrong == [
        "killed at a moment (judging): 1 answers from 8000 ms or less before it were asked for again"
    ]
    twice = kills.Account([kills.Life(0.0)])
    kills.count(twice, [call("same", 1.0, 2.0), call("same", 3.0, 4.0)], 0.0)
    assert twice.wrong == ["a request to judge was made twice with no kill in between"]
