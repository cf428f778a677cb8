from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from made import full, paired
from synthpref.core.types import Comparison, Origin, Pair, Row, Sample, Score, Vote
from synthpref.engine.records import pack
from synthpref.io.rows import read_rows, write_rows

text = st.text(max_size=8)
number = st.floats(allow_nan=False, allow_infinity=False)
maybe_text = st.none() | text
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | number | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)
mappings = st.dictionaries(text, json_values, max_size=2)


@st.composite
def votes(draw: st.DrawFn) -> tuple[Vote, ...]:
    def one() -> Vote:
        value = draw(st.none() | number)
        why = (
            draw(st.text(string.ascii_letters, min_size=1, max_size=3)) if value is None else draw(maybe_text)
        )
        return Vote(
            draw(text),
            value,
            why,
            draw(text),
            draw(maybe_text),
            draw(maybe_text),
            role=draw(text),
            asked=draw(st.booleans()),
            reliability=draw(st.none() | number),
            scores=draw(st.none() | st.tuples(number, number)),
        )

    return tuple(one() for _ in range(draw(st.integers(0, 2))))


@st.composite
def rows(draw: st.DrawFn) -> Row:
    def score() -> Score:
        value = draw(st.none() | number)
        return Score(value, "none given" if value is None else draw(maybe_text), draw(votes()))

    def sample() -> Sample:
        return Sample(
            draw(text),
            draw(text),
            draw(maybe_text),
            draw(mappings),
            draw(st.none() | st.integers(0, 2**63 - 1)),
            draw(maybe_text),
            draw(st.none() | st.integers(0, 9)),
            {name: score() for name in draw(st.lists(text, max_size=2, unique=True))},
        )

    return Row(
        id=draw(text),
        prompt=tuple({"role": "user", "content": draw(text)} for _ in range(draw(st.integers(1, 2)))),
        samples=tuple(sample() for _ in range(draw(st.integers(0, 2)))),
        comparisons=tuple(
            Comparison(draw(text), 0, 1, draw(st.none() | number), draw(st.booleans()), draw(votes()))
            for _ in range(draw(st.integers(0, 1)))
        ),
        pairs=tuple(
            Pair(
                1,
                0,
                draw(text),
                draw(st.none() | number),
                draw(st.none() | number),
                draw(maybe_text),
                draw(mappings),
                p_low=draw(st.none() | number),
                p_high=draw(st.none() | number),
                agreement=draw(st.none() | number),
                votes=draw(st.none() | st.integers(0, 2**40)),
            )
            for _ in range(draw(st.integers(0, 1)))
        ),
        reference=draw(maybe_text),
        licence=draw(maybe_text),
        trail=tuple(
            Origin(draw(text), draw(text), draw(text), draw(text)) for _ in range(draw(st.integers(0, 1)))
        ),
        meta=draw(mappings),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(found=st.lists(rows(), max_size=3))
def test_rows_come_back_as_they_went_in(tmp_path_factory: pytest.TempPathFactory, found: list[Row]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    assert write_rows(path, found) == len(found)
    assert list(read_rows(path)) == found


def test_every_field_is_kept_but_scratch(tmp_path: Path) -> None:
    row = full()
    write_rows(tmp_path / "r.parquet", [paired(1, scratch={"vector": [1.0]}), row])
    first, second = read_rows(tmp_path / "r.parquet")
    assert first.scratch == {}
    assert second == row
    assert list(second.samples[0].scores) == list(row.samples[0].scores)


def test_rows_are_streamed_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    assert write_rows(path, (paired(i) for i in range(4100))) == 4100
    assert pq.ParquetFile(path).num_row_groups == 3
    found = read_rows(path)
    assert next(found) == paired(0)
    assert sum(1 for _ in found) == 4099


def test_large_rows_end_a_row_group_early(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    big = "x" * (3 * 2**20)
    write_rows(path, (paired(i, reference=big) for i in range(8)))
    assert pq.ParquetFile(path).num_row_groups == 4
    assert [row.id for row in read_rows(path)] == [paired(i).id for i in range(8)]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_rows(tmp_path / name, (paired(i) for i in range(700)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_rows(path, [paired(1)])

    def failing() -> Any:
        yield paired(2)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_rows(path, failing())
    assert [row.id for row in read_rows(path)] == ["row-001"]
    assert [file.name for file in tmp_path.iterdir()] == ["r.parquet"]


NEW = {"role", "asked", "reliability", "scores", "p_low", "p_high", "agreement", "votes"}


def without(kind: pa.DataType, names: set[str], depth: int = 0) -> pa.DataType:
    """The type as it was before some of its structs had these fields. `votes` and `scores` are old in all but pairs
    and votes."""
    if pa.types.is_list(kind):
        return pa.list_(without(kind.value_type, names, depth))
    if not pa.types.is_struct(kind):
        return kind
    fields = [kind.field(i) for i in range(kind.num_fields)]
    mine = {field.name for field in fields}
    gone = names if mine & {"shown", "rejected"} else set[str]()
    return pa.struct([(f.name, without(f.type, names, depth + 1)) for f in fields if f.name not in gone])


def test_a_file_from_before_there_was_doubt_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_rows(path, [full()])
    table = pq.read_table(path)
    old = pa.schema([(f.name, without(f.type, NEW)) for f in table.schema])
    assert "p_low" not in str(old)
    kept = [{k: v for k, v in row.items() if k not in NEW} for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(kept, schema=old), path)
    (row,) = read_rows(path)
    assert row.pairs[0].p_low is None
    assert row.comparisons[0].votes[0].asked
    assert row == full()


def test_a_journal_from_before_there_was_doubt_can_be_read() -> None:
    old = orjson.loads(pack(full()))
    for pair in old["pairs"]:
        for name in NEW & set(pair):
            del pair[name]
    votes = [v for c in old["comparisons"] for v in c["votes"]]
    votes += [v for sample in old["samples"] for score in sample["scores"].values() for v in score["votes"]]
    assert votes
    for vote in votes:
        for name in NEW & set(vote):
            del vote[name]
    assert TypeAdapter(Row).validate_json(orjson.dumps(old)) == full()
