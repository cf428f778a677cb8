"""Rounds side by side: who is better than the round before, and what is said of lengths and pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthpref.core.types import Pair, Row, Sample, Score
from synthpref.io import report, rows, side_by_side
from synthpref.io.side_by_side import Won


def row(id: str, *values: float | None, words: int = 4, pair: bool = False) -> Row:
    samples = tuple(
        Sample(text=" ".join(["word"] * words), scores={"good": Score(value, why="" if value else "none")})
        for value in values
    )
    pairs = (Pair(chosen=0, rejected=1, rule="r"),) if pair else ()
    return Row(id=id, prompt=({"role": "user", "content": id},), samples=samples, pairs=pairs)


def written(folder: Path, *rounds: list[Row]) -> list[Path]:
    homes = []
    for number, found in enumerate(rounds, 1):
        homes.append(folder / f"round-{number}")
        homes[-1].mkdir()
        rows.write_rows(homes[-1] / "rows.parquet", found)
    return homes


def reported(*found: Row, **books: int) -> Mapping[str, Any]:
    usual = {"input": len(found), "added": 0, "exported": len(found), "dropped": 0, "rejected": 0}
    return report.build(found, {"books": usual | books, "stages": [], "models": {}, "name": "x"})


def test_rows_are_joined_by_id_and_those_of_one_round_alone_do_not_count(tmp_path: Path) -> None:
    first = [row("a", 1, 3), row("b", 5, 5), row("c", 2), row("e", 1), row("f", 9)]
    second = [row("b", 4, 6), row("c", 3), row("d", 9), row("e", 0, 1.5), row("g", 9)]
    third = [row("b", 1), row("d", 1), row("e", None)]
    (to_second, to_third) = side_by_side.wins(written(tmp_path, first, second, third))
    assert to_second == {"good": Won(better=1, equal=1, worse=1)}
    assert to_third == {"good": Won(better=0, equal=0, worse=2)}, "a row without a score is not compared"
    assert (to_second["good"].rate, to_third["good"].rate, Won().rate) == (0.5, 0.0, None)


def test_the_page_has_a_column_for_each_round_and_a_dash_where_one_says_nothing() -> None:
    one = {
        **reported(row("a", 1, 3, pair=True)),
        "stages": [{"stage": "s", "dropped": {"tie": 2}, "rejected": {}}],
    }
    page = side_by_side.page("x", {1: one, 3: reported(row("a", 4, 4, pair=True))}, [{"good": Won(3, 1, 0)}])
    assert "|  | round 1 | round 3 |" in page
    assert "| dropped by s: tie | 2 | – |" in page
    assert "| good: mean | 2 | 4 |" in page
    assert "| good: prompts better than a round before | – | 88 % |" in page
    assert "responses of round 3 are better than those of the round before on 88 % of the 4 prompts" in page


def test_what_is_said_of_answers_that_grow() -> None:
    def said(before: int, after: int) -> str:
        reports = {1: reported(row("a", 1, words=before)), 2: reported(row("a", 1, words=after))}
        return side_by_side.page("x", reports, [{}])

    assert "Responses get longer: 100 words in the mean in round 1, 150 in round 2. See whether" in said(
        100, 150
    )
    assert "Responses get shorter: 100 words in the mean in round 1, 50 in round 2.\n" in said(100, 50)
    assert "Responses get" not in said(100, 105)


def test_what_is_said_when_pairs_dwindle() -> None:
    many = reported(*(row(f"{i}", 1, 0, pair=True) for i in range(4)))
    few = reported(row("a", 1, 0, pair=True), input=4, dropped=3)
    assert "Fewer rows make a pair: 100 % in round 1, 25 % in round 2" in side_by_side.page(
        "x", {1: many, 2: few}, [{}]
    )
    assert "Fewer rows" not in side_by_side.page("x", {1: few, 2: many}, [{}])
    assert "Fewer rows" not in side_by_side.page("x", {1: many}, [])
