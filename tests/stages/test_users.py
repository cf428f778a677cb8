"""score.users: mixtures of scores, their constants, and rows that are kept apart by user."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from synthpref import job
from synthpref.core.errors import JournalError
from synthpref.core.types import Note, Row, Score
from synthpref.core.users import apart, dirichlet, drawn
from synthpref.stages.users import Users
from synthpref.testing import row, run_stage

NAMES = ("a", "b", "c")
TWO = {"ann": {"a": 1.0}, "bob": {"b": 0.5, "c": -0.5}}


def scored(id: str, meta: dict[str, Any] | None = None, **scores: list[float | None]) -> Row:
    made = row(
        "Why?", *(f"response {i}" for i in range(len(next(iter(scores.values()))))), id=id, meta=meta or {}
    )
    for name, values in scores.items():
        made = made.scored(name, [Score(v, None if v is not None else "no number") for v in values])
    return made


def three(rows: int = 12, seed: int = 0) -> tuple[list[Row], dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(seed)
    found = {
        name: rng.normal(at, wide, (rows, 4))
        for name, at, wide in (("a", 5, 1), ("b", 0, 90), ("c", -3, 0.1))
    }
    return [scored(f"r{i:02}", **{n: v[i].tolist() for n, v in found.items()}) for i in range(rows)], found


def users(**fields: Any) -> Users:
    return Users.model_validate({"scores": NAMES, **fields})


def made(stage: Users, rows: list[Row]) -> list[Row]:
    out = run_stage(stage, rows)
    assert all(isinstance(r, Row) for r in out)
    return [r for r in out if isinstance(r, Row)]


# ---- who the users are


@pytest.mark.parametrize("alpha", [1e-4, 0.01, 0.05, 1.0, 50.0])
def test_weights_are_shares_however_small_alpha_is(alpha: float) -> None:
    rng = random.Random(1)
    for _ in range(300):
        weights = dirichlet(NAMES, alpha, rng)
        assert all(0 <= w <= 1 for w in weights.values())
        assert sum(weights.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("alpha", [0.05, 0.5, 3.0])
def test_draws_have_the_moments_of_a_dirichlet_distribution(alpha: float) -> None:
    rng = random.Random(2)
    found = np.array([list(dirichlet(NAMES, alpha, rng).values()) for _ in range(20_000)])
    assert found.mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.012)
    variance = (1 / 3) * (2 / 3) / (3 * alpha + 1)
    assert found.var(axis=0) == pytest.approx([variance] * 3, rel=0.06)


def test_users_are_the_same_for_a_seed_and_others_for_another() -> None:
    def everybody(**fields: Any) -> dict[str, dict[str, float]]:
        return users(users={"draw": 30, **fields}).everybody

    assert everybody() == everybody(seed=0)
    assert everybody() != everybody(seed=1)
    assert list(everybody())[:2] == ["u00", "u01"]
    assert users(users=30).everybody == everybody()


def distance(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Total variation."""
    return sum(abs(one[name] - other[name]) for name in NAMES) / 2


def test_near_identical_users_are_left_out_and_the_others_keep_their_names() -> None:
    everybody = drawn(NAMES, 300, 0.05, random.Random(0))
    kept = apart(everybody, NAMES, 0.1)
    assert 3 <= len(kept) < 150
    assert all(everybody[user] == weights for user, weights in kept.items())
    assert all(distance(one, other) >= 0.1 for one, other in combinations(kept.values(), 2))
    # Nobody goes without cause.
    assert all(
        min(distance(w, k) for k in kept.values()) < 0.1 for u, w in everybody.items() if u not in kept
    )
    assert users(users={"draw": 300, "apart": 0.1}).everybody.keys() <= set(everybody)


# ---- how they score


def test_a_users_score_is_its_weights_times_standardised_scores() -> None:
    rows, found = three()
    out = made(users(users={"given": TWO}), rows)
    z = {n: (v - v.mean()) / v.std() for n, v in found.items()}
    by_id = {r.id: r for r in out}
    for i, before in enumerate(rows):
        assert by_id[f"{before.id}.ann"].values("user") == pytest.approx(z["a"][i].tolist())
        wanted = 0.5 * z["b"][i] - 0.5 * z["c"][i]
        assert by_id[f"{before.id}.bob"].values("user") == pytest.approx(wanted.tolist())
    assert len(by_id) == len(out) == 2 * len(rows)


def test_rows_of_users_can_be_traced_and_keep_what_was_there() -> None:
    rows, _ = three(2)
    (first, *_) = made(users(users={"given": TWO}, name="liked"), rows)
    assert first.meta == {"liked": "ann", "liked_weights": {"a": 1.0}}
    assert [(o.stage, o.parent, o.note) for o in first.trail] == [("score.users", "r00", "ann")]
    assert first.scratch == {}
    assert [s.text for s in first.samples] == [s.text for s in rows[0].samples]
    assert first.values("b") == rows[0].values("b")


def test_constants_that_are_given_are_used_in_place_of_the_runs() -> None:
    constants = {n: {"mean": 1, "sd": 2} for n in NAMES}
    (ann, _) = made(users(users={"given": TWO}, standardise=constants), [scored("r", a=[3], b=[0], c=[0])])
    assert ann.values("user") == [1.0]
    (ann, bob) = made(users(users={"given": TWO}, standardise="none"), [scored("r", a=[3], b=[8], c=[2])])
    assert (ann.values("user"), bob.values("user")) == ([3.0], [3.0])
    with pytest.raises(ValidationError, match="no mean and sd of the score 'c'"):
        users(users={"given": TWO}, standardise={n: constants[n] for n in "ab"})
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        users(users={"given": TWO}, standardise={**constants, "a": {"mean": 0, "sd": -1}})


def test_a_missing_score_stays_missing_and_only_for_those_who_weigh_it() -> None:
    rows = [scored("r1", a=[1, None], b=[1, 2], c=[0, 1]), scored("r2", a=[2, 4], b=[3, 1], c=[2, 2])]
    ann, bob, *_ = made(users(users={"given": TWO}), rows)
    assert ann.values("user")[0] is not None
    assert ann.samples[1].scores["user"].why == "no score a: no number"
    assert None not in bob.values("user")


def test_a_score_without_spread_has_no_say_and_who_goes_by_it_alone_says_nothing() -> None:
    rows = [scored(f"r{i}", a=[0.1, 0.1], b=[i, 2.0], c=[1.0, i]) for i in range(3)]
    ann, bob, *_ = made(users(users={"given": TWO}), rows)
    assert ann.values("user") == [None, None]
    assert ann.samples[0].scores["user"].why == "no weight: no score told responses apart"
    assert all(math.isfinite(v) for v in bob.values("user") if v is not None)


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=6, max_size=6), min_size=1, max_size=5
    )
)
def test_whatever_the_scores_are_a_number_is_right_or_missing(table: list[list[float | None]]) -> None:
    rows = [scored(f"r{i}", a=v[:2], b=v[2:4], c=v[4:]) for i, v in enumerate(table)]
    known = {n: [v for r in rows for v in r.values(n) if v is not None] for n in NAMES}
    # By more than rounding, and than a float that is squared can hold.
    told = {n for n, values in known.items() if values and max(values) - min(values) > 1e-5}
    for one in made(users(users={"draw": 5, "alpha": 1}), rows):
        for sample in one.samples:
            value, weights = sample.scores["user"].value, one.meta["user_weights"]
            lacking = [n for n in weights if sample.scores[n].value is None]
            assert value is None or math.isfinite(value)
            assert value is None or not set(lacking) & told


# ---- which users a row is for


def test_some_users_for_each_row_drawn_anew_for_each_and_the_same_each_time() -> None:
    rows, _ = three(40)
    stage = users(users={"draw": 9, "alpha": 1}, per_row=2)
    out = made(stage, rows)
    assert len(out) == 80
    assert {r.meta["user"] for r in out} == set(stage.everybody)
    assert [r.id for r in out] == [r.id for r in made(stage, rows)]
    assert stage.load(4).rows == 2
    assert users(users=9).load(4).rows == 9
    assert users(users=2, per_row=5).load(4).rows == 2


def test_a_column_names_the_users_of_a_row() -> None:
    stage = users(users={"given": TWO, "column": "who"})
    values: dict[str, list[float | None]] = {"a": [1, 2], "b": [2, 1], "c": [1, 3]}
    rows = [scored("r1", {"who": "bob"}, **values), scored("r2", {"who": ["ann", "bob"]}, **values)]
    assert [r.id for r in made(stage, rows)] == ["r1.bob", "r2.ann", "r2.bob"]
    assert stage.needs() >= {"meta:who"}
    for found, said in (
        ("eve", "no user 'eve'"),
        (None, "a user's name was expected"),
        ([], "a user's name"),
    ):
        with pytest.raises(ValueError, match=said):
            made(stage, [scored("r", {"who": found}, **values)])


def test_a_row_brings_its_own_users() -> None:
    stage = users(users={"column": "likes"})
    values: dict[str, list[float | None]] = {"a": [1, 2], "b": [2, 1], "c": [1, 3]}
    (only,) = made(stage, [scored("r", {"likes": {"eve": {"b": 2}}}, **values)])
    assert (only.id, only.values("user")) == ("r.eve", [2.0, -2.0])
    for found, said in (
        ({}, "was expected"),
        ("eve", "was expected"),
        ({"eve": {"x": 1}}, "weighs 'x'"),
        ({"eve": {"a": "1"}}, "and no number"),
        ({"eve": {"a": True}}, "and no number"),
        ({"eve": {"a": 0}}, "every weight is 0"),
        ({"eve": 3}, "was expected"),
    ):
        with pytest.raises(ValueError, match=said):
            made(stage, [scored("r", {"likes": found}, **values)])


def test_a_column_of_the_same_name_is_not_overwritten() -> None:
    with pytest.raises(ValueError, match="'user' already; give score"):
        made(users(users={"given": TWO}), [scored("r", {"user": "me"}, a=[1], b=[1], c=[1])])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "to say who the users are"),
        ({"draw": 3, "given": TWO}, "keep one of the two"),
        ({"given": {}}, "there are no users"),
        ({"given": TWO, "alpha": 1}, "alpha goes with `draw`"),
        ({"given": {"ann": {"d": 1}}}, "none of the scores"),
        ({"given": {"ann": {"a": math.nan}}}, "finite number"),
        ({"given": {"ann": {"a": 0}}}, "every weight is 0"),
        ({"file": "nowhere.json"}, "cannot be read"),
        ({"file": "nowhere.json", "given": TWO}, "one of `given` and `file`"),
        ({"draw": 0}, "greater than or equal"),
        ({"draw": 2, "alpha": 0}, "greater than 0"),
    ],
)
def test_it_refuses_what_makes_no_sense(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        users(users=fields)


# ---- in a run


def tree(**stage: Any) -> dict[str, Any]:
    rows, _ = three(10)
    records = [
        {
            "q": f"Question {r.id}?",
            "answers": [
                {"text": f"{r.id} {i}", **{n: s.scores[n].value for n in NAMES}}
                for i, s in enumerate(r.samples)
            ],
        }
        for r in rows
    ]
    return {
        "name": "users",
        "models": {},
        "source": {
            "rows": records,
            "prompt": "q",
            "samples": {"column": "answers", "scores": {n: n for n in NAMES}},
        },
        "stages": [{"score.users": {"scores": list(NAMES), **stage}}, {"pair.extremes": {"score": "user"}}],
        "export": {"format": "trl-preference", "meta": ["user", "user_weights"]},
    }


def ran(folder: Path, recipe: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    result = job.run(job.load(folder / "recipe.yaml"), folder / "run")
    assert result.stopped == ""
    assert result.books.input + result.books.added == result.books.exported + result.books.dropped
    records = pq.read_table(folder / "run/dataset/data/train.parquet").to_pylist()
    return records, json.loads((folder / "run/report.json").read_text("utf-8"))


def test_rows_that_become_one_by_their_ids_are_named_and_other_ids_go_on(tmp_path: Path) -> None:
    given = {"x.y": {"a": 1}, "y": {"a": -1}}
    recipe = tree(scores=["a"], users={"given": given}, standardise="none")
    first, second = recipe["source"]["rows"][:2]
    recipe["source"] |= {"rows": [{**first, "id": "r"}, {**second, "id": "r.x"}], "id": "id"}
    with pytest.raises(
        JournalError, match=r"'r' and 'r.x' both became a row 'r.x.y'; give the source's rows other"
    ):
        ran(tmp_path, recipe)
    recipe["source"]["rows"][1]["id"] = "s"
    records, _ = ran(tmp_path, recipe)
    assert sorted(record["id"] for record in records) == ["r.x.y", "r.y", "s.x.y", "s.y"]


def test_pairs_of_each_user_are_exported_with_the_weights_and_constants_are_reported(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/users.json").write_text(json.dumps(TWO), encoding="utf-8")
    records, report = ran(tmp_path / "one", tree(users={"file": "users.json"}))
    assert len(records) == 20
    assert {(r["user"], r["user_weights"]) for r in records} == {
        (user, json.dumps(weights, separators=(",", ":"))) for user, weights in TWO.items()
    }
    assert all(r["id"].endswith(f".{r['user']}") for r in records)
    notes = next(s["notes"] for s in report["stages"] if s["stage"] == "score.users")
    _, found = three(10)
    assert notes["mean"] == pytest.approx({n: v.mean() for n, v in found.items()})
    assert notes["sd"] == pytest.approx({n: v.std() for n, v in found.items()})
    assert (notes["users"], notes["too near to another"]) == (2, 0)
    (told,) = [line for line in report["statements"] if "standardised by" in line]
    assert f"a ({notes['mean']['a']:.6g}, {notes['sd']['a']:.6g}), b (" in told
    card = (tmp_path / "one/run/dataset/README.md").read_text(encoding="utf-8")
    assert told in card
    assert "labels are those of 2 made-up users." in card
    assert "| mean weight | mean | sd |" in (tmp_path / "one/run/report.md").read_text(encoding="utf-8")

    # Another run on half of the rows takes the constants from there, and so the same scores.
    half = tree(users={"given": TWO}, standardise={"file": "../one/run/report.json"})
    half["source"]["rows"] = half["source"]["rows"][:5]
    again, _ = ran(tmp_path / "two", half)
    key = lambda r: (r["user"], r["chosen"][0]["content"], r["rejected"][0]["content"])  # noqa: E731
    before = {key(r): (r["chosen_score"], r["rejected_score"]) for r in records}
    assert len(again) == 10
    for r in again:
        assert before[key(r)] == pytest.approx((r["chosen_score"], r["rejected_score"]), abs=1e-9)


def test_what_a_run_notes_of_users() -> None:
    rows, _ = three()
    part, _ = users(users={"draw": 50, "alpha": 0.05, "apart": 0.2}).expand()
    (note,) = [x for x in part.run(rows, random.Random(0)) if isinstance(x, Note)]  # type: ignore[attr-defined]
    assert note.facts["users"] + note.facts["too near to another"] == 50
    assert sum(note.facts["mean weight"].values()) == pytest.approx(1, abs=1e-4)
