from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from made import paired
from synthpref.core.errors import ExportError
from synthpref.core.export import Exporter
from synthpref.core.types import Pair, Row, Sample, Score
from synthpref.io import export, parquet

FORMATS: dict[str, type[Exporter]] = {
    "trl-preference": export.TrlPreference,
    "trl-preference-standard": export.TrlPreferenceStandard,
    "trl-implicit": export.TrlImplicit,
    "trl-reward": export.TrlReward,
    "trl-kto": export.TrlKto,
    "trl-prompt-only": export.TrlPromptOnly,
    "sft": export.Sft,
}
PAIRS = ("trl-preference", "trl-preference-standard", "trl-implicit", "trl-reward")


def made(format: str, **options: Any) -> Exporter:
    return FORMATS[format](format=format, **options)


def records(format: str, *rows: Row, **options: Any) -> list[dict[str, Any]]:
    return list(made(format, **options).records(rows))


def user(number: int) -> dict[str, str]:
    return {"role": "user", "content": f"question {number}?"}


def answer(index: int, number: int) -> dict[str, str]:
    return {"role": "assistant", "content": f"answer {index} to question {number}"}


def row_of(*texts: str, pairs: tuple[tuple[int, int], ...], id: str = "r", **fields: Any) -> Row:
    return Row(
        id=id,
        prompt=({"role": "user", "content": "q"},),
        samples=tuple(Sample(text, finish_reason="stop") for text in texts),
        pairs=tuple(Pair(a, b, "test", margin=1.0) for a, b in pairs),
        **fields,
    )


# ---- what each format looks like


def test_preference() -> None:
    (record,) = records("trl-preference", paired(3))
    assert record == {
        "prompt": (user(3),),
        "chosen": [answer(0, 3)],
        "rejected": [answer(1, 3)],
        "id": "row-003",
        "chosen_score": 8.0,
        "rejected_score": 2.0,
        "p": None,
        "p_low": None,
        "p_high": None,
        "agreement": None,
        "votes": None,
        "chosen_model": "m0",
        "rejected_model": "m1",
        "rule": "extremes",
        "rationale": "the first is right",
    }


def test_preference_standard() -> None:
    system = {"role": "system", "content": "Be brief."}
    (record,) = records("trl-preference-standard", paired(3, prompt=(system, user(3))), extras=[])
    assert record == {
        "prompt": "system: Be brief.\n\nuser: question 3?",
        "chosen": "answer 0 to question 3",
        "rejected": "answer 1 to question 3",
    }


def test_implicit() -> None:
    (record,) = records("trl-implicit", paired(3), extras=["margin", "p", "licence"])
    assert record == {
        "chosen": [user(3), answer(0, 3)],
        "rejected": [user(3), answer(1, 3)],
        "margin": 6.0,
        "p": None,
        "p_low": None,
        "p_high": None,
        "licence": None,
    }
    sure = replace(paired(3).pairs[0], p=0.8, p_low=0.5, p_high=0.95, agreement=0.75, votes=8)
    (record,) = records("trl-implicit", paired(3, pairs=(sure,)), extras=["p", "agreement"])
    doubt = {"p": 0.8, "p_low": 0.5, "p_high": 0.95, "agreement": 0.75, "votes": 8}
    assert {name: record[name] for name in doubt} == doubt


def test_reward() -> None:
    (record,) = records("trl-reward", paired(3), extras=["id"])
    assert list(record) == ["prompt", "chosen", "rejected", "id", "margin"]
    (record,) = records("trl-reward", paired(3), extras=[], prompt="implicit", margin=False)
    assert record == {"chosen": [user(3), answer(0, 3)], "rejected": [user(3), answer(1, 3)]}


def test_columns_of_the_rows() -> None:
    given = paired(3, meta={"tone": "warm", "who": {"age": 7}, "left": 1})
    (record,) = records("trl-reward", given, extras=[], margin=False, meta=["tone", "who", "none"])
    assert list(record) == ["prompt", "chosen", "rejected", "tone", "who", "none"]
    assert [record[name] for name in ("tone", "who", "none")] == ["warm", '{"age":7}', None]
    assert made("trl-preference", meta=["tone"]).needs() == {"pairs", "meta:tone"}
    with pytest.raises(ValidationError, match="the format itself writes"):
        made("trl-preference", meta=["margin"])


def test_prompt_only() -> None:
    assert records("trl-prompt-only", replace(paired(3), pairs=())) == [
        {"prompt": (user(3),), "id": "row-003"}
    ]
    assert made("trl-prompt-only").needs() == set()


def test_sft_takes_the_chosen() -> None:
    (record,) = records("sft", paired(3))
    assert record == {"messages": [user(3), answer(0, 3)], "id": "row-003", "model": "m0"}
    assert made("sft").needs() == {"pairs"}


@pytest.mark.parametrize("best", [0, 1, 2])
def test_sft_takes_the_best_score_wherever_it_stands(best: int) -> None:
    values = [5.0 if i == best else 1.0 for i in range(3)]
    samples = [Sample(f"a{i}", scores={"s": Score(v)}) for i, v in enumerate(values)]
    unfit = [
        Sample(" ", scores={"s": Score(9.0)}),
        Sample("cut", finish_reason="length", scores={"s": Score(9.0)}),
        Sample("unscored", scores={"s": Score(None, why="unread")}),
        Sample("unasked"),
    ]
    row = Row(id="r", prompt=(user(1),), samples=(*unfit, *samples))
    (record,) = records("sft", row, score="s")
    assert record["messages"][-1]["content"] == f"a{best}"
    assert records("sft", replace(row, samples=tuple(unfit)), score="s") == []
    assert made("sft", score="s").needs() == {"samples", "score:s"}


# ---- labels


@pytest.mark.parametrize("format", [f for f in FORMATS if f != "trl-prompt-only"])
@pytest.mark.parametrize(("chosen", "rejected"), [("same", " same\n"), ("text", " "), ("", "text")])
def test_a_pair_that_says_nothing_is_never_written(format: str, chosen: str, rejected: str) -> None:
    with pytest.raises(ExportError, match="row r:"):
        records(format, row_of(chosen, rejected, pairs=((0, 1),)))


@pytest.mark.parametrize("format", PAIRS)
@pytest.mark.parametrize(("chosen", "rejected"), [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)])
def test_chosen_is_the_chosen_wherever_it_stands(format: str, chosen: int, rejected: int) -> None:
    (record,) = records(format, row_of("t0", "t1", "t2", pairs=((chosen, rejected),)))
    texts = [
        record[side] if format.endswith("standard") else record[side][-1]["content"]
        for side in ("chosen", "rejected")
    ]
    assert texts == [f"t{chosen}", f"t{rejected}"]


def test_a_score_is_named_only_where_it_is_certain() -> None:
    row = paired(1)
    (record,) = records("trl-preference", row)
    assert record["chosen_score"] == 8.0
    both = replace(row, samples=tuple(replace(s, scores={**s.scores, "b": Score(1.0)}) for s in row.samples))
    (record,) = records("trl-preference", both)
    assert (record["chosen_score"], record["rejected_score"]) == (None, None)
    told = replace(both, pairs=(replace(both.pairs[0], facts={"score": "b"}),))
    (record,) = records("trl-preference", told)
    assert (record["chosen_score"], record["rejected_score"]) == (1.0, 1.0)


def test_the_margin_is_there_for_all_or_it_is_an_error() -> None:
    without = replace(paired(2), pairs=(Pair(0, 1, "given"),))
    for format, options in (("trl-reward", {}), ("trl-preference", {"extras": ["margin"]})):
        with pytest.raises(ExportError, match="row row-002: a pair of rule 'given' has no margin"):
            records(format, paired(1), without, **options)
    assert len(records("trl-reward", paired(1), without, margin=False)) == 2
    assert "margin" not in records("trl-preference", paired(1), without)[0]


def by(score: str, chosen: float, rejected: float, number: int = 1) -> Row:
    """A row with one pair by the score."""
    values = zip(("good", "bad"), (chosen, rejected), strict=True)
    samples = tuple(Sample(f"{text} {number}", scores={score: Score(v)}) for text, v in values)
    pair = Pair(0, 1, "extremes", margin=chosen - rejected, facts={"score": score})
    return Row(id=f"r{number}", prompt=({"role": "user", "content": "q"},), samples=samples, pairs=(pair,))


ELO = (by("elo", 1712, 1288, 1), by("elo", 1600, 1400, 2))


def fitted(*rows: Row, **options: Any) -> list[float]:
    exporter = made("trl-reward", **options).fitted(lambda: rows)
    return [record["margin"] for record in exporter.records(rows)]


def test_a_margin_is_in_standard_deviations_of_the_scores() -> None:
    """In Elo points the first loss of a reward model, whose rewards begin at 0, was 312."""
    sd = float(np.std([1712, 1288, 1600, 1400]))
    assert fitted(*ELO) == pytest.approx([424 / sd, 200 / sd])
    assert fitted(*ELO, margin="raw") == [424.0, 200.0]
    first_loss = np.mean([np.log1p(np.exp(m)) for m in fitted(*ELO)])
    assert first_loss < 3


def test_a_margin_has_the_scale_of_its_own_score() -> None:
    assert fitted(*ELO, by("small", 0.9, 0.1, 3))[2] == pytest.approx(2.0)
    assert fitted(by("one", 7.0, 3.0)) == pytest.approx([2.0])


def test_a_margin_whose_scores_are_not_known_is_scaled_as_if_they_lay_around_0() -> None:
    bare = [replace(row, samples=tuple(replace(s, scores={}) for s in row.samples)) for row in ELO]
    size = float(np.sqrt(np.mean([212**2, 212**2, 100**2, 100**2])))
    assert fitted(*bare) == pytest.approx([424 / size, 200 / size])


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)), min_size=1, max_size=20),
    st.floats(1e-3, 1e3),
)
def test_a_scaled_margin_has_no_unit(pairs: list[tuple[float, float]], unit: float) -> None:
    rows = [by("s", low + gap, low, n) for n, (low, gap) in enumerate(pairs) if low + gap > low]
    scaled = [
        by("s", (low + gap) * unit, low * unit, n) for n, (low, gap) in enumerate(pairs) if low + gap > low
    ]
    one, other = fitted(*rows), fitted(*scaled)
    assert all(np.isfinite(one))
    assert all(margin > 0 for margin in one)
    assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize(("old", "new"), [(True, "z"), (False, "none"), ("raw", "raw")])
def test_a_margin_is_said_as_version_0_1_said_it(old: Any, new: str) -> None:
    assert made("trl-reward", margin=old) == made("trl-reward", margin=new)


# ---- KTO


def test_kto_records() -> None:
    found = records("trl-kto", paired(3))
    assert found[0] == {
        "prompt": (user(3),),
        "completion": [answer(0, 3)],
        "label": True,
        "id": "row-003",
        "model": "m0",
    }
    assert [(r["label"], r["completion"][0]["content"][:8]) for r in found] == [
        (True, "answer 0"),
        (False, "answer 1"),
    ]


def test_kto_writes_a_response_once_and_leaves_out_what_is_neither_good_nor_bad() -> None:
    row = row_of("best", "middle", "worst", pairs=((0, 1), (1, 2), (0, 2)))
    assert [(r["completion"][0]["content"], r["label"]) for r in records("trl-kto", row)] == [
        ("best", True),
        ("worst", False),
    ]


@given(st.lists(st.integers(1, 3), min_size=2, max_size=700))
def test_kto_keeps_rows_apart_and_loses_none(rejected: list[int]) -> None:
    rows = [
        row_of("good", *(f"bad {j}" for j in range(n)), pairs=tuple((0, j + 1) for j in range(n)), id=f"r{i}")
        for i, n in enumerate(rejected)
    ]
    found = records("trl-kto", *rows)
    assert sorted((r["id"], r["completion"][0]["content"]) for r in found) == sorted(
        (row.id, sample.text) for row in rows for sample in row.samples
    )
    met = sum(a["id"] == b["id"] for a, b in pairwise(found))
    # Two rows of unequal length cannot be kept apart to the end; with more there is always another.
    assert met <= max(rejected) + 1
    if len(rejected) > 8:
        assert met == 0


@pytest.mark.parametrize("count", [2, 3, 50, 1000])
def test_kto_alternates_where_there_are_as_many_of_both(count: int) -> None:
    found = records("trl-kto", *(paired(i) for i in range(count)))
    assert len(found) == 2 * count
    labels = [r["label"] for r in found]
    assert all(a != b for a, b in pairwise(labels[:-4]))
    assert sum(a["id"] == b["id"] for a, b in pairwise(found)) == 0


# ---- files


@pytest.mark.parametrize("format", FORMATS)
def test_parquet_and_json_lines_hold_the_same(tmp_path: Path, format: str) -> None:
    rows = [paired(i) for i in range(600)]
    exporter = made(format)
    expected = json.loads(json.dumps(list(exporter.records(rows))))
    stats = export.write(iter(rows), exporter, tmp_path)
    assert stats.path == tmp_path / "data" / "train.parquet"
    table = pq.read_table(stats.path)
    assert table.to_pylist() == expected
    assert stats.records == len(expected)
    assert stats.columns == tuple(expected[0]) == tuple(table.column_names)

    stats = export.write(iter(rows), exporter, tmp_path, jsonl=True)
    assert [json.loads(line) for line in stats.path.read_text(encoding="utf-8").splitlines()] == expected
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["train.jsonl"]


@pytest.mark.parametrize("format", FORMATS)
def test_no_rows_make_an_empty_file_with_all_columns(tmp_path: Path, format: str) -> None:
    stats = export.write([], made(format), tmp_path)
    assert stats.records == 0
    assert tuple(pq.read_table(stats.path).column_names) == stats.columns


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export.write((paired(i) for i in range(700)), made("trl-preference"), tmp_path / name)
    one, other = ((tmp_path / name / "data" / "train.parquet").read_bytes() for name in ("a", "b"))
    assert one == other


@pytest.mark.parametrize("jsonl", [False, True])
def test_an_error_leaves_what_was_there(tmp_path: Path, jsonl: bool) -> None:
    before = export.write([paired(1)], made("trl-preference"), tmp_path).path.read_bytes()
    with pytest.raises(ExportError):
        export.write(
            [paired(1), row_of("a", "a", pairs=((0, 1),))], made("trl-preference"), tmp_path, jsonl=jsonl
        )
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["train.parquet"]
    assert (tmp_path / "data" / "train.parquet").read_bytes() == before


@pytest.mark.parametrize("record", [{"n": "seven"}, {"n": 7, "more": 1}], ids=["type", "column"])
def test_a_record_that_does_not_fit_its_columns_is_said(tmp_path: Path, record: dict[str, Any]) -> None:
    path = tmp_path / "train.parquet"
    with pytest.raises(ExportError, match=r"train\.parquet.*does not fit its columns"):
        parquet.write(path, pa.schema({"n": pa.int64()}), [{"n": 1}, record])
    assert list(tmp_path.iterdir()) == []


def test_texts_come_back_as_they_were(tmp_path: Path) -> None:
    texts = ["a\0b", "\x1f\u2028\n\r\t", "😀", '"}{', "", None, "x" * 3_000_000, "2020-01-01", "7", "null"]
    path = tmp_path / "train.parquet"
    parquet.write(path, pa.schema({"t": pa.string()}), ({"t": text} for text in texts))
    assert pq.read_table(path).column("t").to_pylist() == texts


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="margins"):
        made("trl-reward", margins=True)
    with pytest.raises(ValidationError, match="extras"):
        made("trl-preference", extras=["marign"])


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_and_option_is_documented(format: str) -> None:
    kind = FORMATS[format]
    assert kind.__doc__
    assert kind.__doc__ != Exporter.__doc__
    assert all(field.description for field in kind.model_fields.values())
