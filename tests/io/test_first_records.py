"""What the first records of a source show of its mapping, before a label is made by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from field import case_file
from synthpref.core.errors import RecipeError
from synthpref.core.source import Source
from synthpref.io import read

LIST = {"column": "answers", "text": "answer", "scores": {"s": "rank"}}


def ranked(*ranks: Any) -> dict[str, Any]:
    return {"prompt": "Q?", "answers": [{"answer": f"a{i}", "rank": rank} for i, rank in enumerate(ranks)]}


def source(samples: Any, *records: Any, **fields: Any) -> Source:
    return Source.model_validate({"rows": records, "samples": samples, **fields})


def problems(samples: Any, *records: Any, **fields: Any) -> list[str]:
    return [str(problem) for problem in read.problems(source(samples, *records, **fields), Path())]


def remarks(samples: Any, *records: Any) -> list[str]:
    return [remark.name for remark in read.remarks(source(samples, *records), Path())]


def of(samples: Any, *records: Any) -> list[list[float | None]]:
    return [row.values("s") for row in read.rows(source(samples, *records), Path())]


def test_a_rank_is_turned_round_where_it_is_declared_and_refused_where_it_is_not() -> None:
    """Rank 7 of 7 was chosen."""
    records = [ranked(1, 2, 3), ranked(3, 1, 2)]
    (found,) = problems(LIST, *records)
    assert found.startswith("source.samples.scores.s: 'rank' looks like a rank (1 to 3)")
    assert "lower_is_better: true" in found
    declared = {**LIST, "scores": {"s": {"column": "rank", "lower_is_better": True}}}
    assert problems(declared, *records) == []
    assert of(declared, *records) == [[-1, -2, -3], [-3, -1, -2]]
    meant = {**LIST, "scores": {"s": {"column": "rank", "lower_is_better": False}}}
    assert problems(meant, *records) == []
    assert of(meant, *records) == [[1, 2, 3], [3, 1, 2]]


@pytest.mark.parametrize(
    "column", ["rank", "ranking", "human_rank", "place", "gpt4.position", "loss", "perplexity", "WER"]
)
def test_the_name_of_a_column_may_say_that_less_is_better(column: str) -> None:
    name = column.split(".")[-1]
    record = {
        "prompt": "Q?",
        "answers": [{"answer": "a", name: 1, "gpt4": {name: 1}}, {"answer": "b", name: 2, "gpt4": {name: 2}}],
    }
    assert len(problems({**LIST, "scores": {"s": column}}, record)) == 1


@pytest.mark.parametrize("column", ["score", "rating", "frank", "replacement", "helpfulness", "points"])
def test_another_name_does_not(column: str) -> None:
    records = [
        {"prompt": f"Q{i}?", "answers": [{"answer": "a", column: 1}, {"answer": "b", column: 2}]}
        for i in range(4)
    ]
    assert problems({**LIST, "scores": {"s": column}}, *records) == []


def test_numbers_that_are_always_1_to_n_are_a_rank_whatever_their_name() -> None:
    def record(*values: int) -> dict[str, Any]:
        return {"prompt": str(values), "answers": [{"answer": f"a{v}", "v": v} for v in values]}

    by_v = {**LIST, "scores": {"s": "v"}}
    assert len(problems(by_v, record(1, 2, 3), record(2, 3, 1), record(3, 1, 2))) == 1
    assert problems(by_v, record(1, 2, 3), record(2, 3, 1)) == []
    assert problems(by_v, record(1, 2, 3), record(2, 3, 1), record(5, 5, 2)) == []


def test_a_mean_of_ranks_is_turned_round_as_one() -> None:
    both = {"column": ["one", "two"], "lower_is_better": True}
    record = {
        "prompt": "Q?",
        "answers": [{"answer": "a", "one": 1, "two": 2}, {"answer": "b", "one": 2, "two": None}],
    }
    assert of({**LIST, "scores": {"s": both}}, record) == [[-1.5, None]]


@pytest.mark.parametrize(
    "values", [["pass", "fail"], ["A", "B"], [True, False], [[1], [2]], [{"v": 1}, {"v": 2}]]
)
def test_a_column_without_any_number_is_refused(values: list[Any]) -> None:
    record = {"prompt": "Q?", "answers": [{"answer": f"a{i}", "grade": v} for i, v in enumerate(values)]}
    found = problems({**LIST, "scores": {"s": "grade"}}, record)
    assert [text for text in found if "holds no number" in text] or isinstance(values[0], bool)


def test_a_column_with_some_numbers_or_with_none_at_all_is_not() -> None:
    grades: list[list[Any]] = [[3, "n/a"], [None, None], ["7", 2]]
    for pair in grades:
        record = {"prompt": "Q?", "answers": [{"answer": f"a{i}", "grade": v} for i, v in enumerate(pair)]}
        assert problems({**LIST, "scores": {"s": "grade"}}, record) == []
    unsure = {"prompt": "Q?", "answers": [{"answer": "a", "grade": "none"}]}
    assert problems({**LIST, "scores": {"s": "grade"}}, unsure, invalid=["none"]) == []


def two(a: str, b: str) -> list[dict[str, Any]]:
    return [{"text": "a", "scores": {"s": a}}, {"text": "b", "scores": {"s": b}}]


def test_both_sides_cannot_have_one_column_and_are_remarked_where_they_never_differ() -> None:
    records = [{"prompt": f"Q{i}", "a": "x", "b": "y", "sa": 5, "sb": 5} for i in range(4)]
    assert "both sides have the score in 'sa'" in problems(two("sa", "sa"), *records)[0]
    assert remarks(two("sa", "sb"), *records) == ["same_score"]
    assert remarks(two("sa", "sb"), *records[:2]) == []
    assert remarks(two("sa", "sb"), *records[:3], {**records[0], "sb": 4}) == []


def dialogue(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


TURNS = [
    {"prompt": "Q", "chosen": dialogue("Q", "good"), "rejected": dialogue("Q", "bad")},
    {
        "prompt": "H",
        "chosen": dialogue("H", "Hello", "J", "good"),
        "rejected": dialogue("H", "Hello", "J", "bad"),
    },
]


def test_the_last_turn_is_named_from_the_end() -> None:
    last = [{"text": "chosen.-1.content"}, {"text": "rejected.-1.content"}]
    made = list(read.rows(source(last, *TURNS), Path()))
    assert [[s.text for s in row.samples] for row in made] == [["good", "bad"]] * 2
    assert problems(last, *TURNS) == []
    assert remarks(last, *TURNS) == []


def test_one_turn_of_dialogues_of_several_lengths_is_remarked() -> None:
    fixed = [{"text": "chosen.1.content"}, {"text": "rejected.1.content"}]
    assert remarks(fixed, *TURNS) == ["fixed_turn", "fixed_turn"]
    assert remarks(fixed, TURNS[0]) == []
    (first, _) = read.remarks(source(fixed, *TURNS), Path())
    assert "chosen.-1.content" in first.fix


@pytest.mark.field
@pytest.mark.parametrize(
    ("name", "samples", "found"),
    [
        ("nectar", {"column": "answers", "text": "answer", "scores": {"s": "rank"}}, "looks like a rank"),
        ("elo", [{"text": "a", "scores": {"s": "sa"}}, {"text": "b", "scores": {"s": "sb"}}], ""),
        (
            "mixed_len",
            [
                {"text": "chosen.1.content", "scores": {"s": "sc"}},
                {"text": "rejected.1.content", "scores": {"s": "sr"}},
            ],
            "fixed_turn",
        ),
    ],
)
def test_the_shapes_of_public_datasets(name: str, samples: Any, found: str) -> None:
    given = Source.model_validate({"path": str(case_file(f"data/{name}.jsonl")), "samples": samples})
    said = [str(p) for p in read.problems(given, Path())] + [r.name for r in read.remarks(given, Path())]
    assert bool(said) == bool(found)
    assert not found or found in said[0]


def test_a_source_that_cannot_be_read_is_a_problem_and_no_remark() -> None:
    given = Source.model_validate({"path": "nowhere.jsonl", "samples": LIST})
    assert read.remarks(given, Path()) == []
    with pytest.raises(RecipeError):
        list(read.rows(given, Path()))
