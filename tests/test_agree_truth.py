"""`synthpref agree` where its figures could be taken for something else than they are."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

import forked
from synthpref.agreeing import mapping_of, propose
from synthpref.core.bootstrap import _t
from synthpref.core.judged import NONE, TIE, A, B, JudgeTable, mean_share, one_verdict
from synthpref.core.sides import read_values
from synthpref.io.labels import gather
from synthpref.io.tables import table_of

N = 30


def write(folder: Path, records: list[dict[str, Any]], name: str = "x.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def agree(folder: Path, *args: str) -> tuple[int, str]:
    done = forked.run("agree", *args, cwd=folder)
    return done.returncode, done.stdout + done.stderr


def figures(folder: Path, *args: str) -> dict[str, Any]:
    code, out = agree(folder, *args, "--out", "found", "--resamples", "100")
    assert code == 0, out
    found: dict[str, Any] = json.loads((folder / "found/agreement.json").read_text("utf-8"))
    return found


# ---- proposals


def text(i: int, who: str) -> str:
    return f"This is the answer number {i} that {who} wrote to the question"


PAIR = [
    {
        "id": i,
        "prompt": f"What is the matter number {i}?",
        "response_a": text(i, "a"),
        "response_b": text(i, "b"),
    }
    for i in range(N)
]
AB = [("A", "B")[i % 3 == 0] for i in range(N)]
OTHER = [("A", "B")[i % 2] for i in range(N)]
SHAPES: dict[str, list[dict[str, Any]]] = {
    "a judge's own winner": [
        {**p, "winner": w, "reasoning": "because it is better"} for p, w in zip(PAIR, AB, strict=True)
    ],
    "a judge's own winner, with its name": [
        {**p, "winner": w, "judge_model": "gpt-4", "explanation": "long and clear and good"}
        for p, w in zip(PAIR, AB, strict=True)
    ],
    "a winner and a judge": [{**p, "winner": w, "gpt4": o} for p, w, o in zip(PAIR, AB, OTHER, strict=True)],
    "human and judge": [
        {**p, "human_preference": w, "judge_preference": o} for p, w, o in zip(PAIR, AB, OTHER, strict=True)
    ],
    "label and two judges": [
        {**p, "label": w, "gpt": o, "llama": w} for p, w, o in zip(PAIR, AB, OTHER, strict=True)
    ],
    "both orders": [
        {**p, "gold": w, "verdict_ab": o, "verdict_ba": w} for p, w, o in zip(PAIR, AB, OTHER, strict=True)
    ],
    "scores of both": [
        {**p, "human_label": w, "judge_a": 5 + i % 4, "judge_b": 6}
        for i, (p, w) in enumerate(zip(PAIR, AB, strict=True))
    ],
    "numbers": [{**p, "label": 1 + i % 2, "judge": 1 + i % 3 % 2} for i, p in enumerate(PAIR)],
    "probabilities": [
        {**p, "gold": w, "rm_prob": round(0.07 + 0.03 * i, 3)}
        for i, (p, w) in enumerate(zip(PAIR, AB, strict=True))
    ],
    "three annotators": [
        {**p, "annotator1": w, "annotator2": o, "annotator3": w, "judge": o}
        for p, w, o in zip(PAIR, AB, OTHER, strict=True)
    ],
    "long": [
        {**p, "evaluator": e, "verdict": v}
        for p, w, o in zip(PAIR, AB, OTHER, strict=True)
        for e, v in (("human", w), ("gpt", o))
    ],
    "arena": [
        {
            "question_id": i,
            "model_a": "x",
            "model_b": "y",
            "winner": ("model_a", "model_b", "tie")[i % 3],
            "judge": "u1",
            "turn": 1,
        }
        for i in range(N)
    ],
    "scores of one response": [
        {
            "id": i,
            "prompt": f"What is matter {i}?",
            "response": text(i, "a"),
            "human_score": 1 + i % 5,
            "gpt_score": 1 + i % 4,
        }
        for i in range(N)
    ],
    "no texts": [{"id": i, "gold": w, "judge": o} for i, (w, o) in enumerate(zip(AB, OTHER, strict=True))],
    "mixed words": [
        {**p, "label": w, "judge": o, "note": ("ok", "see below", "x")[i % 3]}
        for i, (p, w, o) in enumerate(zip(PAIR, AB, OTHER, strict=True))
    ],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_proposal_runs_as_it_is_proposed(tmp_path: Path, shape: str) -> None:
    write(tmp_path, SHAPES[shape])
    code, out = agree(tmp_path, "x.jsonl")
    assert code == 2
    proposed = shlex.split(out.strip().splitlines()[-1])
    assert proposed[:3] == ["synthpref", "agree", "x.jsonl"]
    code, out = agree(tmp_path, *proposed[2:])
    assert code == 0, (proposed, out)
    assert "Traceback" not in out


@pytest.mark.parametrize("shape", [name for name in SHAPES if name.startswith("a judge")])
def test_a_judges_own_winner_is_not_proposed_as_peoples_label(tmp_path: Path, shape: str) -> None:
    write(tmp_path, SHAPES[shape])
    options = dict(propose([tmp_path / "x.jsonl"]).options)
    assert "--label" not in options
    _, out = agree(tmp_path, "x.jsonl")
    assert "No column is plainly by people" in out


def test_a_judge_that_is_the_label_is_named(tmp_path: Path) -> None:
    write(tmp_path, [{"id": i, "one": w, "two": w} for i, w in enumerate(AB)])
    code, out = agree(tmp_path, "x.jsonl", "--label", "one", "--judge", "two")
    assert code == 0, out
    assert "Look whether the labels are people's" in " ".join(out.split())


# ---- which items


def test_where_on_a_column_of_one_file_filters_items_and_not_labels_alone(tmp_path: Path) -> None:
    write(tmp_path, [{"id": i, "gold": w, "part": "ab"[i % 2]} for i, w in enumerate(AB)], "labels.jsonl")
    write(tmp_path, [{"id": i, "ab": o, "ba": "A"} for i, o in enumerate(OTHER)], "judge.jsonl")
    args = ("labels.jsonl", "judge.jsonl", "--id", "id", "--label", "gold", "--judge", "j=ab/ba")
    every, part = figures(tmp_path, *args), figures(tmp_path, *args, "--where", "part=a")
    assert every["judges"]["j"]["order"]["both_orders"] == N
    assert part["judges"]["j"]["order"]["both_orders"] == N / 2
    assert part["judges"]["j"]["labelled_and_judged"] == N / 2


def test_juries_of_judges_with_different_items_are_compared_on_those_that_they_share(tmp_path: Path) -> None:
    records = []
    for i, (w, o) in enumerate(zip(AB, OTHER, strict=True)):
        one = {"id": i, "gold": w, "every": o}
        # Easy items for the one, all for the other.
        records.append({**one, "easy": w if w == o else None})
    write(tmp_path, records)
    found = figures(tmp_path, "x.jsonl", "--label", "gold", "--judge", "every", "--judge", "easy")
    shared = sum(w == o for w, o in zip(AB, OTHER, strict=True))
    note = found["juries"].get("items_note") or found["juries"].get("skipped")
    assert "different items" in note or shared * 2 < N
    assert f"{shared:,}" in note


# ---- what a verdict is


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [(A, A, A), (A, B, TIE), (A, NONE, NONE), (NONE, B, NONE), (NONE, NONE, NONE), (TIE, A, TIE)],
)
def test_two_orders_agree_only_where_both_have_a_verdict(one: int, other: int, both: int) -> None:
    share = {A: 1.0, B: 0.0, TIE: 0.5, NONE: np.nan}
    judge = JudgeTable("j", {"ab": np.array([share[one]]), "ba": np.array([share[other]])})
    assert one_verdict(judge, "agree").tolist() == [both]


@pytest.mark.parametrize("spelling", ["1e-06", "1E-6", ".5", "1.", "0.25", "2.5e-1", "+0.3", "1e0"])
def test_a_probability_is_read_however_it_is_spelt(spelling: str) -> None:
    reading = read_values([spelling.casefold(), "0.1", "0.22", "0.37"], {}, {})
    assert not reading.unread
    assert reading.shares[spelling.casefold()] == float(spelling)


def test_a_win_rate_is_the_mean_of_preferences(tmp_path: Path) -> None:
    """A model that is preferred by 0.6 everywhere does not win all."""
    shares = [0.6] * 25 + [0.31, 0.42, 0.13, 0.24, 0.05]
    rng = np.random.default_rng(1)
    records = [
        {"id": i, "prompt": f"q{i}", "a": "word " * int(rng.integers(3, 9)), "b": "word " * int(rng.integers(3, 9)),
         "model_a": "null", "model_b": "base", "p": share}
        for i, share in enumerate(shares)
    ]  # fmt: skip
    write(tmp_path, records)
    found = figures(
        tmp_path, "x.jsonl", "--prompt", "prompt", "--a", "a", "--b", "b", "--model-a", "model_a", "--model-b", "model_b", "--judge", "j=p",
    )  # fmt: skip
    assert found["judges"]["j"]["length"]["models"]["null"]["wins"] == pytest.approx(np.mean(shares))


def test_preferences_stay_preferences_and_verdicts_verdicts() -> None:
    soft = JudgeTable("j", {"ab": np.array([0.6, 0.2]), "ba": np.array([0.8, np.nan])})
    assert mean_share(soft).tolist() == pytest.approx([0.7, 0.2])
    assert mean_share(soft, "first").tolist() == [1.0, 0.0]


# ---- one text for all


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_one_text_among_a_models_answers_is_reported(tmp_path: Path, share: float) -> None:
    records = [
        {"id": i, "prompt": f"q{i}", "a": "I give you the best answer" if i < share * N else text(i, "a"), "b": text(i, "b"),
         "model_a": "null", "model_b": "base", "j": o}
        for i, o in enumerate(OTHER)
    ]  # fmt: skip
    table = table_of(
        mapping := mapping_of({"files": [str(write(tmp_path, records))], "a": "a", "b": "b", "prompt": "prompt", "model_a": "model_a", "model_b": "model_b", "judges": {"j": "j"}}),
        gather(mapping, Path()),
    )  # fmt: skip
    found = [note for note in table.notes if "one text" in note]
    assert len(found) == 1
    assert found[0].startswith(f"null: one text answers {round(share * N)} of {N} prompts")


def test_short_answers_and_a_few_equal_ones_are_none(tmp_path: Path) -> None:
    records = [
        {
            "id": i,
            "prompt": f"q{i}",
            "a": "Yes.",
            "b": "I give you the best answer" if i < 4 else text(i, "b"),
            "j": o,
        }
        for i, o in enumerate(OTHER)
    ]
    mapping = mapping_of(
        {
            "files": [str(write(tmp_path, records))],
            "a": "a",
            "b": "b",
            "prompt": "prompt",
            "judges": {"j": "j"},
        }
    )
    assert not [note for note in table_of(mapping, gather(mapping, Path())).notes if "one text" in note]


# ---- intervals


@given(st.floats(0.501, 0.9995), st.integers(1, 2000))
def test_the_quantile_of_t_is_that_of_scipy(share: float, freedom: int) -> None:
    assert _t(share, freedom) == pytest.approx(float(t.ppf(share, freedom)), rel=1e-6)
    assert _t(1 - share, freedom) == pytest.approx(-_t(share, freedom))


def test_two_clusters_have_the_quantile_of_one_degree_of_freedom() -> None:
    """It was 9.71."""
    assert _t(0.975, 1) == pytest.approx(12.706, abs=1e-3)
    assert _t(0.975, 2) == pytest.approx(4.303, abs=1e-3)
