"""A damaged journal: what is seen of it before it is used, and what is had from it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from synthpref.core.errors import JournalDamaged, JournalError
from synthpref.core.seam import Completion, Request
from synthpref.core.types import Row, Usage
from synthpref.engine.ask import seed_of
from synthpref.engine.journal import Journal
from synthpref.engine.pages import index_of, log_of, records
from synthpref.engine.records import Outcome, Records, Spent
from synthpref.engine.salvage import check, mark, mend, salvage

PAGE = 4096
CALLS, SAMPLES = 120, 3


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def fill(journal: Journal, first: int = 0, count: int = CALLS) -> None:
    """Calls with answers of all lengths: on one page, over several, compressed and not."""
    for number in range(first, first + count):
        row, key = f"row-{number:04}", key_of(number)
        rng = random.Random(number)
        texts = ["".join(rng.choices("abcdefgh ", k=rng.choice((5, 400, 9000)))) for _ in range(SAMPLES)]
        answers = [
            Completion(text=text, seed=seed_of(row, key) + i, usage=None if i else Usage(10, 20))
            for i, text in enumerate(texts)
        ]
        request = Request(messages=({"role": "user", "content": f"question {number}"},), n=SAMPLES)
        journal.put(row, key, 0, "policy", "sample.n", "m", request, answers)
        made = Row(id=row, prompt=({"role": "user", "content": f"question {number}"},))
        journal.finish(0, row, b"d", b"i", [Outcome(made, "row")], 0)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "journal.sqlite"
    journal = Journal(path)
    journal.begin()
    fill(journal)
    journal.close()
    assert path.stat().st_size > 40 * PAGE
    return path


@pytest.fixture
def path(tmp_path: Path, sound: Path) -> Path:
    shutil.copy(sound, tmp_path)
    return tmp_path / sound.name


def change(path: Path, how: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    how(data)
    path.write_bytes(data)


def kept(path: Path) -> dict[str, list[str]]:
    """The answers of each row. What is there has to be right."""
    found = Records(path)
    try:
        texts = {}
        for number in range(2 * CALLS):
            row = f"row-{number:04}"
            answers = found.answers(row)
            assert {key for key, _ in answers} <= {key_of(number)}
            if answers:
                texts[row] = [answers[key_of(number), i].text for i in range(SAMPLES)]
        return texts
    finally:
        found.close()


def started(path: Path) -> tuple[dict[str, list[str]], str]:
    """What is kept once the journal can be read, and who saw the damage: the check before, or the reader."""
    if mend(path) is not None:
        return kept(path), "check"
    try:
        return kept(path), ""
    except JournalDamaged as error:
        mark(path, str(error))
    done = mend(path)
    assert done is not None
    assert "run the same command again" in done.why
    assert mend(path) is None, "once"
    return kept(path), "reader"


def test_a_sound_journal_is_left_alone(path: Path) -> None:
    before = path.read_bytes()
    assert check(path) is None
    assert mend(path) is None
    assert path.read_bytes() == before
    assert len(kept(path)) == CALLS
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_no_journal_is_no_damage(tmp_path: Path) -> None:
    assert mend(tmp_path / "journal.sqlite") is None
    (tmp_path / "journal.sqlite").touch()
    assert mend(tmp_path / "journal.sqlite") is None


def test_every_record_is_found_on_its_page(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        for table in ("calls", "rows", "facts", "spent"):
            wanted = db.execute(f"SELECT * FROM {table}").fetchall()
            assert wanted
            assert set(wanted) <= set(records(path)), table


def test_a_salvaged_journal_holds_every_answer_and_its_cost(path: Path) -> None:
    wanted, before = kept(path), Records(path)
    spent, asked = before.spent(), before.asked("row-0007")
    before.close()
    done = salvage(path, "for a test")
    assert done.answers == CALLS * SAMPLES
    assert done.aside.name == "journal.sqlite.damaged-1"
    assert done.aside.stat().st_size > 40 * PAGE
    assert check(path) is None
    assert kept(path) == wanted
    after = Records(path)
    assert after.spent() == spent == {"policy": Spent(CALLS * SAMPLES, CALLS * 10, CALLS * 20)}
    assert after.asked("row-0007") == asked
    assert after.steps() == [], "rows walk again"
    after.close()
    assert salvage(path, "again").aside.name == "journal.sqlite.damaged-2"


def overwrite(what: str, rng: random.Random) -> Callable[[bytearray], None]:
    def how(data: bytearray) -> None:
        pages = len(data) // PAGE
        page = rng.randrange(pages) * PAGE
        other = rng.choice(
            [n * PAGE for n in range(pages) if data[n * PAGE : n * PAGE + PAGE] != data[page : page + PAGE]]
        )
        new = {
            "zeros": bytes(PAGE),
            "noise": rng.randbytes(PAGE),
            "another page": bytes(data[other : other + PAGE]),
        }[what]
        data[page : page + PAGE] = new

    return how


@pytest.mark.parametrize("what", ["zeros", "noise", "another page"])
def test_one_page_that_is_overwritten_is_seen_and_costs_what_stood_on_it(
    tmp_path: Path, sound: Path, what: str
) -> None:
    wanted = kept(sound)
    path = tmp_path / "journal.sqlite"
    rng = random.Random(what)
    for _ in range(25):
        shutil.copy(sound, path)
        change(path, overwrite(what, rng))
        found, seen = started(path)
        assert seen, "nothing is lost in silence"
        assert found.items() <= wanted.items(), "nothing is made up"
        # A page holds at most a dozen calls; a page that a call goes over to costs one.
        assert len(found) >= CALLS - 12


def test_a_cut_costs_what_stood_after_it(tmp_path: Path, sound: Path) -> None:
    wanted, size = kept(sound), sound.stat().st_size
    path = tmp_path / "journal.sqlite"
    rng = random.Random(1)
    for at in [1, 50, 100, PAGE, *(rng.randrange(1, size) for _ in range(25))]:
        shutil.copy(sound, path)
        change(path, lambda data, at=at: data.__delitem__(slice(at, None)))
        assert mend(path) is not None
        found = kept(path)
        assert found.items() <= wanted.items()
        assert len(found) >= 0.9 * (at / size) * CALLS - 12


def test_the_first_page_and_the_roots_of_all_tables_are_not_needed(path: Path) -> None:
    wanted = kept(path)
    change(path, lambda data: data.__setitem__(slice(0, 8 * PAGE), bytes(8 * PAGE)))
    assert "first page" in str(check(path))
    done = mend(path)
    assert done is not None
    assert "its first page is overwritten" in str(done)
    assert "is asked again" in str(done)
    assert len(kept(path)) > CALLS - 30
    assert kept(path).items() <= wanted.items()


def test_what_a_check_cannot_see_is_found_where_it_is_read(tmp_path: Path, sound: Path) -> None:
    """A changed byte anywhere: seen by the check, or by who reads, or of no consequence. Never another answer."""
    wanted, size = kept(sound), sound.stat().st_size
    path = tmp_path / "journal.sqlite"
    rng, ends = random.Random(3), set()
    for _ in range(80):
        shutil.copy(sound, path)
        at, bit = rng.randrange(100, size), 1 << rng.randrange(8)
        change(path, lambda data, at=at, bit=bit: data.__setitem__(at, data[at] ^ bit))
        found, seen = started(path)
        ends.add(seen)
        assert found.items() <= wanted.items()
        assert len(found) >= CALLS - 12
        assert seen or len(found) >= CALLS - 1
    assert "reader" in ends


# ---- the write-ahead log

WRITER = """
import asyncio, sys
sys.path[:0] = {path!r}
from pathlib import Path
from test_salvage import fill
from synthpref.engine.journal import Journal

async def main():
    journal = Journal(Path(sys.argv[1]))
    journal.begin()
    for first in range(0, 120, 20):
        fill(journal, first, 20)
        await journal.settle()
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal whose writer was killed: what it wrote last is in the log only."""
    path = tmp_path_factory.mktemp("killed") / "journal.sqlite"
    code = WRITER.format(path=sys.path)
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert log_of(path).stat().st_size > 20 * PAGE
    return path


@pytest.fixture
def torn(tmp_path: Path, killed: Path) -> Path:
    for file in killed.parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / killed.name


def test_a_killed_writer_leaves_no_damage(torn: Path) -> None:
    assert check(torn) is None
    assert log_of(torn).exists(), "a check folds nothing in"
    assert mend(torn) is None
    assert len(kept(torn)) == CALLS


def test_a_write_that_was_under_way_is_no_damage(torn: Path) -> None:
    with log_of(torn).open("ab") as log:
        log.write(b"\0" * 3000)
    assert check(torn) is None


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_log_that_was_being_folded_in_is_no_damage(torn: Path, share: float) -> None:
    """Pages go into the file in their order, and the first one says how many there will be."""
    log = log_of(torn).read_bytes()
    frames = range(32, len(log) - PAGE, 24 + PAGE)
    latest = {int.from_bytes(log[at : at + 4], "big"): log[at + 24 : at + 24 + PAGE] for at in frames}
    with torn.open("r+b") as file:
        for number in sorted(latest)[: 1 + int(share * len(latest))]:
            file.seek((number - 1) * PAGE)
            file.write(latest[number])
    assert torn.stat().st_size < max(latest) * PAGE
    for file in (log_of(torn), index_of(torn)):
        file.rename(file.with_name(f"{file.name}.aside"))
    assert "missing at its end" in str(check(torn)), "without the log they are"
    for file in (log_of(torn), index_of(torn)):
        file.with_name(f"{file.name}.aside").rename(file)
    assert mend(torn) is None
    assert len(kept(torn)) == CALLS


@pytest.mark.parametrize("without_index", [False, True])
def test_a_byte_changed_in_the_log_is_seen_and_costs_one_page(torn: Path, without_index: bool) -> None:
    size = log_of(torn).stat().st_size
    change(log_of(torn), lambda data: data.__setitem__(size // 2, data[size // 2] ^ 1))
    if without_index:
        index_of(torn).unlink()
    assert "missing from its write-ahead log" in str(check(torn))
    done = mend(torn)
    assert done is not None
    assert log_of(done.aside).stat().st_size == size, "kept beside the file that it belongs to"
    assert len(kept(torn)) >= CALLS - 12


def test_a_log_that_is_cut_or_lost_is_seen(tmp_path: Path, killed: Path) -> None:
    size = log_of(killed).stat().st_size
    found = {}
    for at in (0, 20, 40, size // 3, size - 1):
        for file in killed.parent.iterdir():
            shutil.copy(file, tmp_path)
        path = tmp_path / killed.name
        os.truncate(log_of(path), at)
        if not at:
            log_of(path).unlink()
        done = mend(path)
        assert done is not None, at
        assert "write-ahead log" in done.why
        found[at] = len(kept(path))
    assert sorted(found.values()) == list(found.values())
    assert found[size - 1] >= CALLS - 12


# ---- interrupted, or impossible


def test_killed_while_files_change_places_it_goes_on_where_it_was(torn: Path) -> None:
    """The new journal is whole before the old one moves: from there on each state leads to the same end."""
    done = salvage(torn, "for a test")
    wanted = kept(torn)
    new, aside = torn.read_bytes(), done.aside
    log, made = log_of(aside).read_bytes(), torn.with_name(f"{torn.name}.made")
    old = aside.read_bytes()
    for moved in range(3):
        for file in torn.parent.iterdir():
            file.unlink()
        made.write_bytes(new)
        log_of(aside if moved > 0 else torn).write_bytes(log)
        (aside if moved > 1 else torn).write_bytes(old)
        again = mend(torn)
        assert again is not None
        assert again.answers == CALLS * SAMPLES
        assert torn.read_bytes() == new
        assert aside.read_bytes() == old
        assert log_of(aside).read_bytes() == log
        assert not made.exists()
        assert kept(torn) == wanted
        assert mend(torn) is None


def test_where_there_is_no_room_the_damaged_file_stays_where_it_is(path: Path) -> None:
    change(path, lambda data: data.__setitem__(slice(0, PAGE), bytes(PAGE)))
    before = path.read_bytes()
    # A folder in the place of the file that is to be written.
    path.with_name(f"{path.name}.made.part").mkdir()
    with pytest.raises(JournalError, match="the same command again"):
        mend(path)
    assert path.read_bytes() == before


def test_asked_again_answers_go_in_beside_those_that_were_kept(path: Path) -> None:
    change(path, lambda data: data.__setitem__(slice(0, PAGE), bytes(PAGE)))
    assert mend(path) is not None
    there = kept(path)
    journal = Journal(path)
    fill(journal, CALLS, 10)

    async def settle() -> None:
        await journal.settle()

    asyncio.run(settle())
    journal.close()
    assert len(kept(path)) == len(there) + 10
