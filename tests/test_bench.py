"""The benchmarks, with few rows: that they run, count right and write what they found. Their times mean nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[1]
BENCH = REPO / "bench"
REQUESTS = 2
"""Requests for each row of the job."""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def measured(name: str, folder: Path) -> dict[str, Any]:
    """The section's results at its small size; its table must have come onto the page, and changed nothing else."""
    results, page = folder / "results.json", folder / "page.md"
    page.write_text(
        f"Before.\n<!-- bench:{name} -->what stood here<!-- /bench:{name} -->\nAfter.\n", encoding="utf-8"
    )
    command = [sys.executable, BENCH / "run.py", name, "--small", "--results", results, "--page", page]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    assert list(found) == [name]
    begin, text, end = page.read_text(encoding="utf-8").split("bench:" + name)
    assert (begin, end) == ("Before.\n<!-- ", " -->\nAfter.\n")
    assert "what stood here" not in text
    section: dict[str, Any] = found[name]
    for table in section["tables"]:
        for row in table["rows"]:
            assert len(row) == len(table["columns"])
            assert "| " + " | ".join(row) + " |" in text
    assert {"cores", "date", "synthpref", "Python"} <= section["conditions"].keys()
    return section


@pytest.mark.parametrize(("name", "rows"), [("latency", 40), ("wide", 60), ("client", 60), ("skew", 40)])
def test_both_sides_send_the_same_requests(name: str, rows: int, tmp_path: Path) -> None:
    figures = measured(name, tmp_path)["figures"]
    (only,) = figures["rounds"]
    for side in ("bare", "ours"):
        assert only[side]["requests"] == only[side]["answers"] == rows * REQUESTS
        assert only[side]["wall_s"] > 0
        assert only[side]["cpu_s"] > 0
    if name == "client":
        # It is a sample of a short run: which of our modules it meets is luck, that it meets one is not.
        assert any(part.endswith(".py") for part in figures["profile"]["ours"])
        assert not [part for part in figures["profile"]["bare"] if part.startswith("engine")]
        assert "the bare loop" not in figures["profile"]["ours"]
    if name == "skew":
        assert figures["flows"][0]["rows"] == rows
        assert 0 < figures["flows"][0]["slow"] < rows


def test_growth_runs_each_size(tmp_path: Path) -> None:
    assert measured("growth", tmp_path)["figures"].keys() == {"1", "20"}


def test_barriers_keep_what_they_should_at_each_size(tmp_path: Path) -> None:
    figures = measured("barriers", tmp_path)["figures"]
    kept = {name: found["kept"] for name, found in figures.items() if name.endswith(" 20")}
    assert kept == {"exact 20": 19, "minhash 20": 18, "diversity 20": 10}


def test_a_finished_run_asks_nothing(tmp_path: Path) -> None:
    assert measured("resume", tmp_path)["figures"]["calls"] == [40 * REQUESTS, 0, 0]


def test_the_start_is_told_by_what_is_imported(tmp_path: Path) -> None:
    figures = measured("start", tmp_path)["figures"]
    assert {"synthpref", "aiohttp", "pydantic"} <= figures["modules"].keys()
    assert "openai" not in figures["modules"]
    assert len(figures["first_request_s"]) == len(figures["help_s"]) == 1


def test_the_sizes_are_reckoned_from_what_was_measured(tmp_path: Path) -> None:
    constants = measured("sizing", tmp_path)["figures"]["constants"]
    short, long = constants["500"], constants["2000"]
    assert set(short) == set(long)
    assert all(value > 0 for value in (*short.values(), *long.values()))
    # What is kept grows with what is said, but for what squeezing saves.
    assert 2 < long["segment_bytes"] / short["segment_bytes"] < 4
    assert short["journal_bytes"] > short["segment_bytes"]


def test_a_name_that_is_no_section_is_refused() -> None:
    done = subprocess.run([sys.executable, BENCH / "run.py", "latencies"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no section latencies" in done.stderr


def test_every_section_has_its_place_on_the_page() -> None:
    from results import PAGES
    from run import SECTIONS

    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in [*SECTIONS, "summary", "engine", "ways", "peers"]:
        assert pages.count(f"<!-- bench:{name} -->") == pages.count(f"<!-- /bench:{name} -->") == 1


def test_the_pages_hold_what_was_measured() -> None:
    from results import PAGES, RESULTS, load, render

    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        assert page == render(page, load(RESULTS)), "run `python bench/run.py page`"


def ticks(*busy: int, slots: int = 10) -> dict[str, Any]:
    return {"slots": slots, "ticks": [(float(i), n) for i, n in enumerate(busy)]}


def test_ramp_up_and_tail_do_not_count_as_the_middle() -> None:
    from seen import busy

    seen = busy(ticks(0, 0, 2, 5, 10, 8, 10, 8, 10, 8, 10, 8, 3, 0, 0))
    assert seen.middle == pytest.approx(0.9)
    assert (seen.ramp_s, seen.most) == (2.0, 10)
    assert seen.whole == pytest.approx(82 / 110)


def test_a_client_that_never_fills_the_slots_is_not_taken_for_one_that_is_always_starting() -> None:
    from seen import busy

    assert busy(ticks(0, 1, 5, 5, 5, 5, 5, 5, 5, 1, 0)).middle == pytest.approx(0.5)
    assert busy(ticks(0, 0, 0)).whole == 0.0


def test_a_slow_answer_counts_for_its_own_row_alone() -> None:
    from seen import flow

    quick = [(float(i), i + 1.0, f"row {i}") for i in range(20)]
    second = [(came + 1, went + 1, row) for came, went, row in quick]
    slow = [(0.0, 50.0, "slow"), (50.0, 51.0, "slow")]
    seen = flow({"log": [*quick, *slow, *second, (60.0, 61.0, "half a row")]}, 1.0, 2)
    assert (seen.rows, seen.slow, seen.pause, seen.age_p99) == (21, 1, 1.0, 2.0)
