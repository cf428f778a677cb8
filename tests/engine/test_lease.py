from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from synthpref.core.errors import JournalError, RemoteError
from synthpref.engine.lease import LEASE, Lease, holder
from synthpref.io.remote import Remote


class Place:
    """Files in memory. `before` is called before each change, with its kind."""

    url = "memory://run"

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.before: Callable[[str], None] = lambda what: None
        self.written = threading.Event()

    def read(self, name: str) -> bytes | None:
        return self.content.get(name)

    def create(self, name: str, content: bytes) -> bool:
        self.before("create")
        return self.content.setdefault(name, content) is content

    def write(self, name: str, content: bytes) -> None:
        self.before("write")
        self.content[name] = content
        self.written.set()

    def remove(self, name: str) -> None:
        self.before("remove")
        self.content.pop(name, None)


@contextmanager
def held(place: Place, home: str = "here", every_s: float = 0.02) -> Iterator[Lease]:
    lease = Lease(place, home, every_s)
    lease.take(lambda text: None)
    try:
        yield lease
    finally:
        lease.release()


def test_it_is_taken_renewed_and_given_back() -> None:
    place = Place()
    with held(place) as lease:
        first = holder(place)
        assert first
        assert first["token"] == lease.token
        lease.about = lambda: {"told": "half-way"}
        assert place.written.wait(10)
        place.written.clear()
        assert place.written.wait(10)
        now = holder(place)
        assert now
        assert now["told"] == "half-way"
        assert now["count"] > first["count"]
    assert holder(place) is None


def test_a_live_one_is_refused() -> None:
    place = Place()
    with held(place), pytest.raises(JournalError, match="is running there; wait for it, or name another"):
        Lease(place, "there", 0.02).take(lambda text: None)


def test_a_dead_one_is_taken_over_after_a_while() -> None:
    place, said = Place(), list[str]()
    place.content[LEASE] = json.dumps({"holder": "process 1 on afar", "token": "x", "every_s": 0.01}).encode()
    lease = Lease(place, "here", 15)
    lease.take(said.append)
    assert said == ["memory://run: process 1 on afar ran there; looking for 0.04 s whether it still does."]
    assert (holder(place) or {})["token"] == lease.token
    lease.release()


def test_one_of_this_folder_is_dead_because_the_folder_is_locked() -> None:
    place, said = Place(), list[str]()
    Lease(place, "here", 1000).take(said.append)
    with held(place, "here", 1000):
        assert said == []


@pytest.mark.parametrize("body", [b"not JSON", b""])
def test_one_that_cannot_be_read_is_watched_too(body: bytes) -> None:
    place, said = Place(), list[str]()
    place.content[LEASE] = body
    lease = Lease(place, "here", 0.01)
    lease.take(said.append)
    assert "somebody ran there" in said[0]
    lease.release()


def test_who_finds_anothers_in_its_place_stops_and_leaves_it_alone() -> None:
    place, told = Place(), threading.Event()
    with held(place) as lease:
        lease.on_lost(lambda why: told.set())
        other = json.dumps({"holder": "process 2 on afar", "token": "other"}).encode()
        place.content[LEASE] = other
        assert told.wait(10)
        assert lease.lost == "process 2 on afar took over memory://run"
    assert place.content[LEASE] == other


def test_of_two_that_take_over_at_once_one_holds() -> None:
    place = Place()
    place.content[LEASE] = json.dumps({"holder": "dead", "token": "x", "every_s": 0.01}).encode()
    quick = Lease(place, "quick", 1000)

    def before(what: str) -> None:
        # Between the slow one's look and its removal, the quick one has taken over.
        if what == "remove":
            place.before = lambda what: None
            place.content.pop(LEASE)
            assert place.create(LEASE, quick._body())

    place.before = before
    slow = Lease(place, "slow", 1000)
    slow.take(lambda text: None)
    quick._renew()
    assert quick.lost, "the quick one finds that out at its next renewal"
    assert (holder(place) or {})["token"] == slow.token
    slow.release()


def test_it_survives_that_nothing_can_be_reached_for_a_while() -> None:
    place, failed = Place(), threading.Event()
    with held(place) as lease:

        def before(what: str) -> None:
            failed.set()
            raise RemoteError("no network", passing=True)

        place.before = before
        assert failed.wait(10)
        place.before = lambda what: None
        place.written.clear()
        assert place.written.wait(10)
        assert lease.lost == ""


def test_it_is_looked_at_while_it_is_renewed(tmp_path: Path) -> None:
    """On a disk a file is written beside its place and moved there."""
    place = Remote(f"file://{tmp_path}/run")
    lease = Lease(place, "here", 0.0001)
    lease.take(lambda text: None)
    for _ in range(500):
        lease.check()
    assert lease.lost == ""
    lease.release()


def test_one_that_is_gone_is_lost() -> None:
    """Who took the run over while this machine slept may have ended it already."""
    place = Place()
    with held(place, every_s=1000) as lease:
        place.content.clear()
        lease.check()
        assert "took over" in lease.lost
        assert holder(place) is None
