"""What of a run folder is uploaded, and what is brought, against a store in memory."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from test_segments import batches, held, journal, ledger

from synthpref.core.errors import JournalDamaged, JournalError, RemoteError
from synthpref.engine import mirror as mirrors
from synthpref.engine.copies import Copy
from synthpref.engine.folder import JOURNAL, SHARDS
from synthpref.engine.journal import Journal
from synthpref.engine.lease import Pace
from synthpref.engine.merge import absorb as take_over
from synthpref.engine.merge import identify
from synthpref.engine.mirror import Mirror
from synthpref.io.remote import Remote
from synthpref.models.batch_ledger import absorb

LEDGER = "batches.sqlite"


@pytest.fixture
def there() -> Remote:
    return Remote(f"memory://{uuid.uuid4().hex}")


def mirror(there: Remote, folder: Path, upload_s: float = 1000, patience_s: float = 0) -> Mirror:
    folder.mkdir(exist_ok=True)
    return Mirror(there, folder, {LEDGER: absorb}, Pace(upload_s, 1000, patience_s), lambda text: None)


def segments(there: Remote) -> list[str]:
    return sorted(name for name in there.files() if name.startswith("segments/"))


def brought(there: Remote, folder: Path) -> list[str]:
    """The rows that another machine finds answers of."""
    copy = Copy(there, folder, {})
    folder.mkdir(exist_ok=True)
    copy.bring(lambda name: True, ours=True)
    return sorted(held(folder / JOURNAL)[0])


def test_what_is_committed_is_sent_once(there: Remote, tmp_path: Path) -> None:
    mine = mirror(there, tmp_path / "here")
    going = Journal(tmp_path / "here" / JOURNAL)
    for number in range(3):
        journal_put(going, f"row {number}")
        mine.send_calls()
        mine.send_calls()
        assert len(segments(there)) == number + 1
    going.close()
    assert brought(there, tmp_path / "other") == ["row 0", "row 1", "row 2"]


def journal_put(going: Journal, row: str) -> None:
    from synthpref.core.seam import Completion
    from synthpref.engine.ask import seed_of

    going.put(row, b"key", 0, "m", "s", "m", None, [Completion(text=row, seed=seed_of(row, b"key"))])
    going._flush()


def test_many_small_segments_become_few(
    there: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "JOINED", 3)
    mine = mirror(there, tmp_path / "here")
    going = Journal(tmp_path / "here" / JOURNAL)
    for number in range(14):
        journal_put(going, f"row {number:02}")
        mine.send_calls()
    going.close()
    # 9 in one, 3 in one, and two that are not joined yet.
    assert len(segments(there)) == 4
    assert brought(there, tmp_path / "other") == [f"row {number:02}" for number in range(14)]


def test_cut_off_before_the_old_ones_are_removed_nothing_is_taken_twice(
    there: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "JOINED", 2)
    monkeypatch.setattr(Remote, "remove", lambda self, name: None)
    mine = mirror(there, tmp_path / "here")
    going = Journal(tmp_path / "here" / JOURNAL)
    for number in range(4):
        journal_put(going, f"row {number}")
        mine.send_calls()
    going.close()
    assert len(segments(there)) == 7
    brought(there, tmp_path / "other")
    assert held(tmp_path / "other" / JOURNAL) == held(tmp_path / "here" / JOURNAL)


def test_a_journal_that_was_made_anew_is_sent_whole(there: Remote, tmp_path: Path) -> None:
    mine = mirror(there, tmp_path / "here")
    path = journal(tmp_path / "here" / JOURNAL, "a", "b")
    mine.send_calls()
    path.replace(path.with_name("journal.sqlite.damaged-1"))
    journal(path, "c", "d")
    mine.send_calls()
    assert brought(there, tmp_path / "other") == ["a", "b", "c", "d"]
    assert not any("damaged" in name for name in mine.changed())


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "here" / SHARDS
    folder.mkdir(parents=True)
    return folder


def shard(path: Path, *rows: str) -> None:
    going = Journal(path)
    with going.alone() as db:
        identify(db)
    for row in rows:
        journal_put(going, row)
    going.close()


def test_what_is_in_shards_on_this_machine_is_sent_too(there: Remote, tmp_path: Path, shards: Path) -> None:
    mine = mirror(there, tmp_path / "here")
    mine._with_shards = True
    main = Journal(tmp_path / "here" / JOURNAL)
    shard(shards / "0000.sqlite", "a", "b")
    mine.send_calls()
    assert len(segments(there)) == 1
    # The segment is through: they are taken over, and shards of the next one have the names, and perhaps the inodes, of
    # those before.
    take_over(main, shards / "0000.sqlite")
    shard(shards / "0000.sqlite", "c")
    mine.send_calls()
    main.close()
    brought(there, tmp_path / "other")
    rows, spent = held(tmp_path / "other" / JOURNAL)
    assert sorted(rows) == ["a", "b", "c"]
    assert spent["m"][0] == 3
    assert not any(name.startswith(SHARDS) for name in mine.changed())


def test_shards_on_other_machines_are_left_alone(there: Remote, tmp_path: Path, shards: Path) -> None:
    mine = mirror(there, tmp_path / "here")
    shard(shards / "0000.sqlite", "a")
    mine.send_calls()
    assert segments(there) == []


def test_what_both_sides_have_is_brought_together(there: Remote, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder, row, token in ((here, "a", "x"), (elsewhere, "b", "y")):
        folder.mkdir()
        journal(folder / JOURNAL, row)
        ledger(folder / LEDGER, token)
    with mirror(there, elsewhere).kept():
        pass
    with mirror(there, here).kept():
        assert sorted(held(here / JOURNAL)[0]) == ["a", "b"]
        assert sorted(batches(here / LEDGER)) == ["x", "y"]
    with mirror(there, elsewhere).kept():
        assert sorted(held(elsewhere / JOURNAL)[0]) == ["a", "b"]
        assert sorted(batches(elsewhere / LEDGER)) == ["x", "y"]
    assert segments(there) == []


def test_what_was_removed_there_does_not_come_back(there: Remote, tmp_path: Path) -> None:
    """Such as an export that another one, of another kind, took the place of."""
    folder = tmp_path / "here"
    folder.mkdir()
    journal(folder / JOURNAL, "a")
    for name in ("as it was", "changed since"):
        (folder / name).write_text("first")
    with mirror(there, folder).kept():
        pass
    (folder / "changed since").write_text("second")
    there.remove("as it was")
    there.remove("changed since")
    with mirror(there, folder).kept():
        pass
    assert sorted(there.files()) == ["changed since", JOURNAL]
    for name in there.files():
        there.remove(name)
    with mirror(there, folder).kept():
        pass
    assert sorted(there.files()) == ["changed since", JOURNAL], (
        "of all that is gone there, this is what is left"
    )


def test_a_copy_takes_nothing_of_the_journal_that_it_had(there: Remote, tmp_path: Path) -> None:
    here, copied = tmp_path / "here", tmp_path / "copied"
    here.mkdir()
    journal(here / JOURNAL, "a")
    with mirror(there, here).kept():
        pass
    copied.mkdir()
    Copy(there, copied, {}).bring(lambda name: True, ours=False)
    with closing(sqlite3.connect(copied / JOURNAL)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("ATTACH ? AS piece", (str(journal(tmp_path / "piece", "c")),))
        db.execute("INSERT INTO main.calls SELECT * FROM piece.calls")
        db.commit()
        # As it is beside the copy of who was killed while it brought a segment.
        left = (copied / f"{JOURNAL}-wal").read_bytes()
    (copied / f"{JOURNAL}-wal").write_bytes(left)
    journal(here / JOURNAL, *"bcdefgh")
    with mirror(there, here).kept():
        pass
    Copy(there, copied, {}).bring(lambda name: True, ours=False)
    assert sorted(held(copied / JOURNAL)[0]) == [*"abcdefgh"]
    assert not list(copied.glob("*damaged*"))


def test_the_log_goes_on_where_the_other_machine_left_it(there: Remote, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "run.log").open("a", encoding="utf-8") as log:
            log.write(f"{name} begins\n")
            log.flush()
            with mirror(there, tmp_path / name).kept():
                log.write(f"{name} ends\n")
                log.flush()
    assert there.read("run.log") == b"one begins\none ends\ntwo begins\ntwo ends\n"


def test_a_damaged_segment_costs_what_is_damaged_in_it(there: Remote, tmp_path: Path) -> None:
    mine = mirror(there, tmp_path / "here")
    going = Journal(tmp_path / "here" / JOURNAL)
    for number in range(40):
        journal_put(going, f"row {number:02}")
    mine.send_calls()
    going.close()
    [name] = segments(there)
    # Nothing but a look at the record itself tells that it is not as it was written.
    there.fetch(name, tmp_path / "piece")
    with closing(sqlite3.connect(tmp_path / "piece")) as db:
        db.execute("UPDATE calls SET answers = x'00112233445566' WHERE row = 'row 07'")
        db.commit()
    there.put(tmp_path / "piece", name)
    found = brought(there, tmp_path / "other")
    assert found == [f"row {number:02}" for number in range(40) if number != 7]


def test_a_ledger_is_there_when_it_is_said_to_be(there: Remote, tmp_path: Path) -> None:
    mine = mirror(there, tmp_path / "here")
    mine.lease.take(print)
    ledger(tmp_path / "here" / LEDGER, "a")
    asyncio.run(mine.noted())
    there.fetch(LEDGER, tmp_path / "fetched")
    assert list(batches(tmp_path / "fetched")) == ["a"]
    ledger(tmp_path / "second", "b")
    shutil.copy(tmp_path / "second", tmp_path / "here" / LEDGER)
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*args: object) -> str:
            raise RemoteError("no permission")

        patch.setattr(there, "put", refuse)
        with pytest.raises(JournalError, match="no permission"):
            asyncio.run(mine.noted())
    mine.lease.release()
    with pytest.raises(JournalError, match="took over"):
        asyncio.run(mine.noted())


def test_what_ends_a_run_is_told_though_its_journal_cannot_be_read(there: Remote, tmp_path: Path) -> None:
    mine = mirror(there, tmp_path / "here")
    (tmp_path / "here" / JOURNAL).write_bytes(b"no database")
    with pytest.raises(JournalDamaged, match="a page is gone"), mine.kept():
        raise JournalDamaged("a page is gone")
    assert there.files() == {}, "the lease was given back"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_run_that_cannot_begin_for_want_of_room_gives_the_lease_back(there: Remote, tmp_path: Path) -> None:
    mine = mirror(there, tmp_path / "here")
    (tmp_path / "here" / "mirror.json.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"), mine.kept():
        pass
    assert there.files() == {}


def test_a_folder_that_was_copied_to_another_machine_is_not_taken_for_a_dead_one(
    there: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = mirror(there, tmp_path / "here")
    with mine.kept():
        shutil.copytree(tmp_path / "here", tmp_path / "copied")
        monkeypatch.setattr(socket, "gethostname", lambda: "another")
        other = mirror(there, tmp_path / "copied")
        monkeypatch.undo()
        assert other.known.home == mine.known.home
        assert other.lease.home != mine.lease.home
