from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synthpref.core.errors import RecipeError
from synthpref.core.source import Source
from synthpref.core.types import Row, Score
from synthpref.io import read

HERE = Path("/")


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def rows(base: Path = HERE, **source: Any) -> list[Row]:
    return list(read.rows(Source.model_validate(source), base))


def inline(*records: Any, **source: Any) -> list[Row]:
    return rows(rows=list(records), **source)


def problem(base: Path, **source: Any) -> str:
    """What `problems` finds, as text; and `rows` must not get past it either."""
    return "\n".join(map(str, read.problems(Source.model_validate(source), base)))


def refused(base: Path = HERE, **source: Any) -> str:
    with pytest.raises(RecipeError) as error:
        rows(base, **source)
    return str(error.value)


# ---- formats

RECORDS = [{"prompt": 'Äpfel, "und"\nBirnen', "tag": "x"}, {"prompt": "zwei", "tag": None}]


def write_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["prompt", "tag"], delimiter=delimiter)
        table.writeheader()
        table.writerows(RECORDS)


WRITERS = {
    "a.jsonl": lambda path: lines(path, *RECORDS),
    "a.ndjson": lambda path: lines(path, *RECORDS),
    "a.json": lambda path: path.write_text(json.dumps(RECORDS, indent=1), encoding="utf-8"),
    "a.csv": write_csv,
    "a.tsv": lambda path: write_csv(path, "\t"),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(RECORDS), path),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress("\n".join(map(json.dumps, RECORDS)).encode())),
    "a.JSON.GZ": lambda path: path.write_bytes(gzip.compress(json.dumps(RECORDS).encode())),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert read.problems(Source(path=name), tmp_path) == []
    found = rows(tmp_path, path=name)
    assert [row.prompt for row in found] == [({"role": "user", "content": r["prompt"]},) for r in RECORDS]
    assert [row.meta for row in found] == [{"tag": "x"}, {"tag": None}]
    assert [row.id for row in found] == [row.id for row in inline(*RECORDS)]


def test_text_a_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n  two  \n", encoding="utf-8")
    assert [row.prompt_text for row in rows(tmp_path, path="a.txt")] == ["one", "two"]


def test_the_format_may_be_named(tmp_path: Path) -> None:
    lines(tmp_path / "prompts", {"prompt": "a"})
    assert "cannot tell the format of 'prompts'" in problem(tmp_path, path="prompts")
    assert rows(tmp_path, path="prompts", format="jsonl")[0].prompt_text == "a"
    assert "no reader named 'xml'" in problem(tmp_path, path="prompts", format="xml")


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n   \n{"prompt": "b"}')
    assert [row.prompt_text for row in rows(tmp_path, path="a.jsonl")] == ["a", "b"]
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfprompt\r\na\r\n")
    assert rows(tmp_path, path="a.csv")[0].prompt_text == "a"


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.jsonl.gz"])
def test_a_prompt_of_a_megabyte(tmp_path: Path, name: str) -> None:
    long = "wörter, " * 131_072
    record = {"prompt": long, "tag": "x"}
    if name.endswith("csv"):
        (tmp_path / name).write_text(f'prompt,tag\n"{long}",x\n', encoding="utf-8")
    elif name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist([record]), tmp_path / name)
    elif name.endswith("gz"):
        (tmp_path / name).write_bytes(gzip.compress(json.dumps(record).encode()))
    else:
        lines(tmp_path / name, record)
    assert read.problems(Source(path=name), tmp_path) == []
    assert rows(tmp_path, path=name)[0].prompt_text == long


def test_a_pattern_reads_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        lines(tmp_path / f"{name}.jsonl", {"prompt": name})
    assert [row.prompt_text for row in rows(tmp_path, path="*.jsonl")] == ["a", "b", "c"]
    assert [row.prompt_text for row in rows(tmp_path, path="*.jsonl", limit=2)] == ["a", "b"]


def test_reading_is_lazy(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("w", encoding="utf-8") as file:
        file.write('{"prompt": "a"}\n' * 50 + "broken\n")
    found = read.rows(Source(path="a.jsonl"), tmp_path)
    assert [next(found).prompt_text for _ in range(50)] == ["a"] * 50
    with pytest.raises(RecipeError, match=r"a\.jsonl:51"):
        next(found)


def test_a_reader_of_a_plugin(tmp_path: Path) -> None:
    def shouting(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            if line == "boom":
                raise ZeroDivisionError("no")
            yield f"{path}:{number}", {"prompt": line.upper()}

    class Readers:
        def get(self, kind: str, name: str, path: str = "") -> Any:
            assert (kind, name, path) == ("readers", "shout", "source.format")
            return shouting

    source = Source(path="a.x", format="shout")
    (tmp_path / "a.x").write_text("hi\n", encoding="utf-8")
    assert [row.prompt_text for row in read.rows(source, tmp_path, Readers())] == ["HI"]
    (tmp_path / "a.x").write_text("boom\n", encoding="utf-8")
    assert "shouting raised ZeroDivisionError: no" in str(read.problems(source, tmp_path, Readers())[0])


# ---- what is broken says where

BROKEN: dict[str, tuple[str, bytes, list[str]]] = {
    "a torn line": (
        "a.jsonl",
        b'{"prompt": "a"}\n{"prompt": "b", \n',
        ["a.jsonl:2", '\'{"prompt": "b",\'', "line"],
    ),
    "an array": ("a.jsonl", b'[{"prompt": "a"},\n{"prompt": "b"}]', ["a.jsonl:1", "format: json"]),
    "an array on one line": ("a.jsonl", b'[{"prompt": "a"}]', ["a.jsonl:1", "a record is a mapping"]),
    "not UTF-8": (
        "a.jsonl",
        b'{"prompt": "a"}\n{"prompt": "\xe4"}\n',
        ["a.jsonl:2", "0xe4 at byte 28", "UTF-8"],
    ),
    "not UTF-8 after a mark": ("a.txt", b"\xef\xbb\xbfa\xff\n", ["a.txt:1", "0xff at byte 4"]),
    "UTF-16": ("a.txt", "ab".encode("utf-16"), ["a.txt:1", "not UTF-8"]),
    "half a surrogate": ("a.jsonl", b'{"prompt": "\\ud800"}\n', ["a.jsonl:1", "surrogate"]),
    "a text": ("a.jsonl", b'{"prompt": "a"}\n"b"\n', ["a.jsonl:2", "'b'"]),
    "JSON": ("a.json", b'[\n{"prompt": "a"},\n{"prompt": }]', ["a.json:3", "near"]),
    "JSON, no list": ("a.json", b'{"prompt": "a"}', ["a.json", "array of records"]),
    "a short line": ("a.csv", b"prompt,b\na,1\nb\n", ["a.csv:3", "1 values", "2 columns"]),
    "an open quote": ("a.csv", b'prompt\n"a\n', ["a.csv:2", "not valid CSV"]),
    "a column twice": ("a.csv", b"prompt,prompt\na,b\n", ["a.csv:1", "'prompt'"]),
    "no Parquet": ("a.parquet", b"PAR1 not", ["a.parquet", "not a readable Parquet file"]),
    "no gzip": ("a.jsonl.gz", b'{"prompt": "a"}\n', ["a.jsonl.gz", "not a whole gzip file"]),
    "half a gzip": ("a.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 3)[:30], ["a.jsonl.gz", "gzip"]),
    "no prompt": ("a.jsonl", b'{"prompt": "a"}\n{"promt": "b"}\n', ["a.jsonl:2", "'prompt' is missing"]),
    "a number": ("a.jsonl", b'{"prompt": 7}\n', ["a.jsonl:1", "holds 7", "text was expected"]),
    "null": ("a.jsonl", b'{"prompt": null}\n', ["a.jsonl:1", "holds None"]),
    "empty prompt": ("a.jsonl", b'{"prompt": "a"}\n{"prompt": " \\n"}\n', ["a.jsonl:2", "is empty"]),
    "deep": (
        "a.jsonl",
        b'{"prompt": "a", "x": ' + b"[" * 900 + b"]" * 900 + b"}",
        ["a.jsonl:1", "too deeply"],
    ),
    "messages": ("a.jsonl", b'{"prompt": [{"role": "user", "content": "a"}]}\n', ["messages: prompt"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_says_where(tmp_path: Path, name: str) -> None:
    file, content, parts = BROKEN[name]
    (tmp_path / file).write_bytes(content)
    for text in (refused(tmp_path, path=file), problem(tmp_path, path=file)):
        for part in parts:
            assert part in text
    assert problem(tmp_path, path=file).startswith("source.path: ")


def test_an_empty_file(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json", "a.csv", "a.txt"):
        (tmp_path / name).write_text("\n", encoding="utf-8")
        assert "holds no records" in problem(tmp_path, path=name)
        assert rows(tmp_path, path=name) == []


def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    lines(tmp_path / "prompts.jsonl", {"prompt": "a"})
    assert "did you mean 'prompts.jsonl'?" in problem(tmp_path, path="promts.jsonl")
    assert "no file matches" in problem(tmp_path, path="x*.jsonl")
    (tmp_path / "d.jsonl").mkdir()
    assert "is a folder" in problem(tmp_path, path="d.jsonl")


def test_a_missing_column_is_seen_without_a_run(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", {"instruction": "a", "answers": [{"text": "x", "gpt4_score": 1}]})
    found = problem(tmp_path, path="a.jsonl", prompt="instrction", reference="gold", meta=["topic"])
    assert "source.prompt: no column 'instrction'; did you mean 'instruction'? there is: answers" in found
    assert "source.reference: no column 'gold'; there is: answers, instruction" in found
    assert "source.meta: no column 'topic'" in found
    samples = {"column": "answers", "scores": {"gpt4": "gpt4"}}
    found = problem(tmp_path, path="a.jsonl", prompt="instruction", samples=samples)
    assert (
        found
        == "source.samples.scores.gpt4: no column 'gpt4'; did you mean 'gpt4_score'? there is: gpt4_score, text"
    )


def test_a_column_that_only_some_records_have_is_no_problem(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", {"prompt": "a"}, {"prompt": "b", "gold": "1"})
    assert problem(tmp_path, path="a.jsonl", reference="gold") == ""
    assert [row.reference for row in rows(tmp_path, path="a.jsonl", reference="gold")] == [None, "1"]


# ---- ids


def test_an_id_column(tmp_path: Path) -> None:
    assert [row.id for row in inline({"prompt": "a", "n": 1}, {"prompt": "b", "n": "x"}, id="n")] == [
        "1",
        "x",
    ]
    assert "the id column 'n' is missing" in refused(rows=[{"prompt": "a"}], id="n")
    assert "holds True" in refused(rows=[{"prompt": "a", "n": True}], id="n")
    lines(tmp_path / "a.jsonl", *({"prompt": "a", "n": n} for n in (1, 2, "1")))
    found = refused(tmp_path, path="a.jsonl", id="n")
    assert "a.jsonl:3" in found
    assert "'1' is that of" in found
    assert "a.jsonl:1 already" in found


def test_without_an_id_column_a_row_keeps_its_id_wherever_it_stands() -> None:
    records = [{"prompt": f"q{i}", "tag": i} for i in range(20)]
    ids = {row.prompt_text: row.id for row in inline(*records)}
    assert len(set(ids.values())) == 20
    assert all(len(id) == 16 for id in ids.values())
    for others in (records[::-1], records[5:], [{"prompt": "new"}, *records]):
        assert {r.prompt_text: r.id for r in inline(*others) if r.prompt_text != "new"}.items() <= ids.items()


def test_an_id_does_not_hang_on_the_order_of_columns_or_on_the_mapping() -> None:
    one, other = {"prompt": "a", "gold": "1"}, {"gold": "1", "prompt": "a"}
    assert inline(one)[0].id == inline(other, reference="gold", licence="mit")[0].id
    assert inline(one)[0].id != inline({"prompt": "a", "gold": "2"})[0].id


def test_identical_records_are_numbered() -> None:
    ids = [row.id for row in inline("a", "b", "a", "a")]
    assert ids[2:] == [f"{ids[0]}-2", f"{ids[0]}-3"]
    assert len(set(ids)) == 4


@given(st.lists(st.integers(0, 300), max_size=400))
def test_ids_are_unique(numbers: list[int]) -> None:
    found = inline(*(f"q{n}" for n in [0, *numbers]))
    assert len({row.id for row in found}) == len(found)


def test_many_rows_grow_the_table_of_ids() -> None:
    seen = read._Seen()
    digests = [n.to_bytes(8, "big") for n in range(5_000)]
    assert all(seen.add(digest) for digest in digests[1:])
    assert not any(seen.add(digest) for digest in digests[1:])


# ---- prompts


def test_messages_and_system() -> None:
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "more", "name": "x"},
    ]
    found = inline({"chat": turns}, messages="chat", system="Be kind.")[0]
    assert [m["role"] for m in found.prompt] == ["system", "user", "assistant", "user"]
    assert found.prompt[-1] == {"role": "user", "content": "more"}
    mapped = inline({"prompt": "a", "sys": "S"}, {"prompt": "a", "sys": None}, system={"column": "sys"})
    assert [len(row.prompt) for row in mapped] == [2, 1]
    assert mapped[0].meta == {}


@pytest.mark.parametrize(
    ("turns", "part"),
    [
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "ends with the assistant",
        ),
        ([{"from": "human", "value": "a"}], "message 0 of 'chat' is"),
        ([{"role": "user", "content": ""}], "message 0"),
        ([], "holds []"),
        ("a", "holds 'a'"),
        (
            [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
            "begin with a system message",
        ),
    ],
)
def test_messages_that_are_no_prompt(turns: Any, part: str) -> None:
    assert part in refused(rows=[{"chat": turns}], messages="chat", system="S")


def test_columns_with_dots() -> None:
    record = {"turns": ["a", "b"], "deep": {"gold": 7}, "x.y": "flat", "kept": 1}
    found = inline(record, prompt="turns.1", reference="deep.gold", meta=["x.y", "turns.0"])[0]
    assert (found.prompt_text, found.reference, found.meta) == ("b", "7", {"x.y": "flat", "turns.0": "a"})


def test_meta() -> None:
    record = {"prompt": "a", "gold": "1", "tag": "t", "n": math.nan, "big": 2**70, "list": (1, {"x": b"\0"})}
    plain = {"tag": "t", "n": None, "big": str(2**70), "list": [1, {"x": "AA=="}]}
    assert inline(record, reference="gold")[0].meta == plain
    assert inline(record, meta=["tag"])[0].meta == {"tag": "t"}
    assert inline(record, meta=[])[0].meta == {}


# ---- responses and scores that the source brings

LIST = {"column": "answers", "text": "text", "model": "who", "scores": {"gpt4": ["first", "second"]}}


def test_a_list_of_responses() -> None:
    answers = [
        {"who": "m1", "text": "A", "first": 7, "second": 8},
        {"who": "m2", "text": "B", "first": -1, "second": 8},
        {"who": "m3", "text": "C", "first": None, "second": 8.0},
        {"who": "m4", "text": None, "first": 1, "second": 1},
        {"who": None, "text": "", "first": "6", "second": ""},
    ]
    row = inline({"prompt": "p", "answers": answers}, samples=LIST, invalid=[-1])[0]
    assert [(s.text, s.model) for s in row.samples] == [("A", "m1"), ("B", "m2"), ("C", "m3"), ("", "")]
    assert row.values("gpt4") == [7.5, None, None, None]
    assert [v.value for v in row.samples[0].scores["gpt4"].votes] == [7.0, 8.0]
    assert row.samples[1].scores["gpt4"].why == "first: -1 means no score"
    assert [v.value for v in row.samples[1].scores["gpt4"].votes] == [None, 8.0]
    assert row.samples[2].scores["gpt4"].why == "first: no value"
    assert row.samples[3].scores["gpt4"].why == "second: no value"
    assert row.meta == {}


def test_wide_columns() -> None:
    samples = [
        {"text": "a", "model": "model_a", "scores": {"s": "score_a"}, "finish_reason": "end"},
        {"text": "b", "model": {"constant": "gpt"}},
    ]
    record = {"prompt": "p", "a": "A", "b": "B", "model_a": "m", "score_a": "3.5", "end": "length", "x": 1}
    row = inline(record, samples=samples)[0]
    assert [(s.text, s.model, s.truncated) for s in row.samples] == [("A", "m", True), ("B", "gpt", False)]
    assert row.values("s") == [3.5, None]
    assert "s" not in row.samples[1].scores
    assert row.meta == {"x": 1}


SCORES = [
    (3, Score(3.0)),
    ("4.5", Score(4.5)),
    (True, Score(1.0)),
    (-1, Score(None, why="v: -1 means no score")),
    ("-1", Score(None, why="v: '-1' means no score")),
    ("N/A", Score(None, why="v: 'N/A' means no score")),
    ("bad", Score(None, why="v: 'bad' is not a number")),
    (math.nan, Score(None, why="v: nan is not a finite number")),
    (math.inf, Score(None, why="v: inf is not a finite number")),
    (None, Score(None, why="v: no value")),
    ("", Score(None, why="v: no value")),
    ([1], Score(None, why="v: [1] is not a number")),
]


@pytest.mark.parametrize(("value", "score"), SCORES, ids=lambda v: repr(v)[:20])
def test_what_is_no_score_never_becomes_a_number(value: Any, score: Score) -> None:
    record = {"prompt": "p", "answers": [{"text": "A", "v": value}]}
    samples = {"column": "answers", "scores": {"s": "v"}}
    found = inline(record, samples=samples, invalid=[-1, "N/A"])[0]
    assert found.samples[0].scores["s"] == score


def test_responses_of_the_wrong_kind_say_where() -> None:
    samples = {"column": "answers"}
    assert "where a list was expected" in refused(rows=[{"prompt": "p", "answers": "x"}], samples=samples)
    found = refused(rows=[{"prompt": "p", "answers": [{"text": 3}]}], samples=samples)
    assert found.startswith("source.rows[0]: the response in 'answers.0.text' is 3")
    texts = inline({"prompt": "p", "answers": ["A", "B"]}, {"prompt": "q", "answers": None}, samples=samples)
    assert [[s.text for s in row.samples] for row in texts] == [["A", "B"], []]


# ---- the section itself


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ({}, "exactly one of path, hf and rows"),
        ({"path": "a.jsonl", "rows": ["a"]}, "exactly one of path, hf and rows is needed, not path and rows"),
        ({"rows": []}, "'rows' is empty"),
        ({"path": "a.jsonl", "split": "test"}, "'split' goes with 'hf' only"),
        ({"rows": ["a"], "format": "csv"}, "'format' goes with 'path' only"),
        ({"rows": ["a"], "prompt": "p", "messages": "m"}, "keep one"),
        ({"path": "a.jsonl", "colum": "x"}, "colum"),
        ({"path": "a.jsonl", "limit": 0}, "limit"),
    ],
)
def test_a_source_that_makes_no_sense(source: dict[str, Any], part: str) -> None:
    with pytest.raises(ValidationError) as error:
        Source.model_validate(source)
    assert part in str(error.value)


def test_facts() -> None:
    assert Source(path="a.jsonl").facts() == {"meta:*"}
    source = Source.model_validate({"path": "a.jsonl", "samples": LIST, "reference": "g", "meta": ["t"]})
    assert source.facts() == {"samples", "score:gpt4", "reference", "meta:t"}


# ---- parts


def test_parts_have_every_row_once_and_keep_their_rows_when_others_come() -> None:
    def parts(count: int, of: int) -> list[list[str]]:
        made = [f"question {i}" for i in range(count)]
        return [[row.prompt_text for row in inline(*made, part=f"{k}/{of}")] for k in range(1, of + 1)]

    for of in (1, 2, 3, 7):
        few, many = parts(40, of), parts(80, of)
        assert sorted(text for part in many for text in part) == sorted(f"question {i}" for i in range(80))
        assert all(set(before) <= set(after) for before, after in zip(few, many, strict=True))
    assert all(15 <= len(part) <= 40 for part in parts(80, 3)), "of about equal size"


def test_parts_are_counted_around_and_of_a_limit_there_are_so_many_in_the_part() -> None:
    texts = [f"question {i}" for i in range(40)]
    assert inline(*texts, part="4/3") == inline(*texts, part="1/3") != inline(*texts, part="2/3")
    assert inline(*texts, part="2/3", limit=5) == inline(*texts, part="2/3")[:5]


def test_a_part_is_told_by_the_ids_and_by_nothing_else() -> None:
    records = [{"id": f"r{i}", "prompt": "same"} for i in range(20)]
    chosen = {row.id for row in inline(*records, id="id", part="1/2")}
    other = [{"id": f"r{i}", "prompt": f"another {i}"} for i in reversed(range(20))]
    assert {row.id for row in inline(*other, id="id", part="1/2")} == chosen
    assert 0 < len(chosen) < 20


@pytest.mark.parametrize("part", ["0/3", "3", "1/0", "a/b", "1 / 3", "-1/3", ""])
def test_a_part_that_makes_no_sense(part: str) -> None:
    with pytest.raises(ValidationError, match="part"):
        Source.model_validate({"rows": ["a"], "part": part})
