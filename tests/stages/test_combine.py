"""score.combine: weights that are given and weights that are learned, where the truth is known."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synthpref import job
from synthpref.core import combine
from synthpref.core.combine import Floats, Weighing, labelled_pairs, learn
from synthpref.core.errors import RecipeError, StageError
from synthpref.core.seam import Request
from synthpref.core.types import Note, Row, Score
from synthpref.models.simulated import Simulated, answers
from synthpref.models.world import quality
from synthpref.stages.judge_aspects import PRESETS
from synthpref.stages.score import Combine
from synthpref.testing import row, run_stage

PLANTED = np.array([2.0, -1.0, 0.5, 0.0, 0.0])
NAMES = ["a", "b", "c", "d", "e"]


def scored(id: str, **scores: list[float | None]) -> Row:
    made = row("Why?", *(f"response {i}" for i in range(len(next(iter(scores.values()))))), id=id)
    for name, values in scores.items():
        made = made.scored(name, [Score(v, None if v is not None else "no verdict found") for v in values])
    return made


def world(rows: int, samples: int = 3, noise: float = 1.0, seed: int = 0) -> list[tuple[Floats, list[float]]]:
    """Rows whose labels come from the planted weights of scores on scales of their own, and from chance."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        pure = rng.normal(size=(samples, len(PLANTED)))
        label = pure @ PLANTED + noise * rng.gumbel(size=samples)
        made.append((pure * [1, 5, 0.1, 20, 1] + [0, 3, 7, -4, 100], label.tolist()))
    return made


# ---- weights that are given


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"a": 1, "b": 1}, 4.0),
        ({"a": 3, "b": 1}, 3.0),
        ({"a": 2}, 2.0),
        ({"a": 1, "b": -1}, -2.0),
        ({"a": 1, "gone": 0}, 2.0),
    ],
)
def test_a_weighted_mean(weights: dict[str, float], expected: float) -> None:
    given = scored("r", a=[2], b=[6], gone=[None])
    [made] = run_stage(Combine.model_validate({"weights": weights}), [given])
    assert made.values("combined") == [expected]  # type: ignore[union-attr]


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(-1e3, 1e3)), min_size=1, max_size=6))
def test_a_mean_lies_among_what_it_is_the_mean_of(pairs: list[tuple[float, float]]) -> None:
    weighing = Weighing({str(i): weight for i, (weight, _) in enumerate(pairs)})
    values = {str(i): value for i, (_, value) in enumerate(pairs)}
    counted = [values[name] for name in weighing.counts()]
    if counted and sum(weight for weight, _ in pairs) > 1e-300:
        slack = 1e-9 * (1 + max(map(abs, counted)))
        assert min(counted) - slack <= weighing(values) <= max(counted) + slack


@pytest.mark.parametrize("standardise", ["none", "run"])
def test_a_response_that_lacks_a_score_gets_none_and_the_others_do(standardise: str) -> None:
    stage = Combine.model_validate({"weights": {"a": 1, "b": 1}, "standardise": standardise, "name": "both"})
    rows = [scored("r1", a=[1, None, 3], b=[2, 2, None]), scored("r2", a=[5, 6], b=[9, 1])]
    first, second = (r for r in run_stage(stage, rows) if isinstance(r, Row))
    assert [s.scores["both"].why for s in first.samples] == [
        None,
        "no score a: no verdict found",
        "no score b: no verdict found",
    ]
    assert None not in second.values("both")
    [bare] = run_stage(Combine.model_validate({"weights": {"a": 1, "never": 1}}), [rows[1]])
    assert [s.scores["combined"].why for s in bare.samples] == ["no score never: it was not given"] * 2  # type: ignore[union-attr]


def test_standardised_over_the_run_each_score_has_the_same_say() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(5, 1, (20, 3)), rng.normal(0, 100, (20, 3))
    rows = [scored(f"r{i:02}", a=a[i].tolist(), b=b[i].tolist(), flat=[4, 4, 4]) for i in range(20)]
    fields = {"weights": {"a": 1, "b": 3, "flat": 5}, "standardise": "run"}
    made = run_stage(Combine.model_validate(fields), rows)
    expected = ((a - a.mean()) / a.std() + 3 * (b - b.mean()) / b.std()) / 9
    assert np.allclose([r.values("combined") for r in made], expected)  # type: ignore[union-attr]


def test_a_score_that_differs_by_rounding_alone_has_no_say() -> None:
    rows = [scored("r", a=[1, 2], same=[0.3, 0.1 + 0.2]), scored("s", a=[3, 5], same=[0.3, 0.1 + 0.2])]
    made = run_stage(Combine(weights={"a": -1, "same": 9}, standardise="run"), rows)  # type: ignore[arg-type]
    for one in made:
        assert isinstance(one, Row)
        first, second = one.values("combined")
        assert first > second  # type: ignore[operator]


def test_scores_too_large_for_a_standard_deviation_end_the_run_in_a_line() -> None:
    rows = [scored("r", a=[1, 2], b=[math.exp(700), 3])]
    with pytest.raises(
        ValueError, match=r"^score 'b': .* too large .*; give standardise its mean and sd"
    ) as caught:
        run_stage(Combine(weights={"a": 1, "b": 1}, standardise="run"), rows)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_constants_that_are_given_stand_for_those_of_the_run() -> None:
    constants = {"a": {"mean": 1, "sd": 2}, "b": {"mean": 0, "sd": 0.5}, "flat": {"mean": 4, "sd": 0}}
    fields: dict[str, Any] = {"weights": {"a": 1, "b": -3, "flat": 5}, "standardise": constants}
    [made] = run_stage(Combine.model_validate(fields), [scored("r", a=[5, None], b=[1, 1], flat=[4, 9])])
    assert isinstance(made, Row)
    assert made.values("combined") == [pytest.approx((1 * 2 - 3 * 2) / 9), None]
    assert len(Combine.model_validate(fields).expand()) == 1
    for wrong, said in (
        ({"weights": {"a": 1, "c": 1}}, "no mean and sd of the score 'c'"),
        ({"weights": {"weights": {"a": 1}, "mean": {"a": 0}, "sd": {"a": 1}}}, "bring their own mean and sd"),
        ({"standardise": {**constants, "a": {"mean": 1}}}, "sd"),
        ({"standardise": {**constants, "a": {"mean": math.nan, "sd": 1}}}, "finite"),
        ({"standardise": {"file": "nowhere.json"}}, "cannot be read"),
    ):
        with pytest.raises(ValidationError, match=said):
            Combine.model_validate({**fields, **wrong})


def test_a_sum_that_is_no_number_is_no_score() -> None:
    fields = {"weights": {"a": 1, "b": 1}, "standardise": {n: {"mean": 0, "sd": 1e-300} for n in "ab"}}
    [made] = run_stage(Combine.model_validate(fields), [scored("r", a=[1e300], b=[1.0])])
    assert isinstance(made, Row)
    assert made.values("combined") == [None]


# ---- weights that are learned


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_the_planted_weights_are_found_again_in_their_proportions(penalty: Any) -> None:
    fit = learn(NAMES, world(600), random.Random(0), penalty=penalty)
    weights = np.array([fit.weighing.weights[name] for name in NAMES])
    assert np.abs(weights / weights[0] - PLANTED / PLANTED[0]).max() < 0.06
    assert (fit.rows, fit.pairs, fit.folds) == (600, 1800, 8)
    assert fit.weighing.spread is not None
    assert fit.weighing.spread["d"] == pytest.approx(20, rel=0.1)
    # Gumbel noise makes labels Bradley-Terry ones, so the best that can be is known.
    truth = np.concatenate([f @ (PLANTED / [1, 5, 0.1, 20, 1]) * np.ones(3) for f, _ in world(600)])
    order = np.concatenate([labels for _, labels in world(600)])
    pairs = [(3 * r + i, 3 * r + j) for r in range(600) for i, j in ((0, 1), (0, 2), (1, 2))]
    ideal = np.mean([(truth[i] - truth[j]) * (order[i] - order[j]) > 0 for i, j in pairs])
    assert fit.accuracy == pytest.approx(ideal, abs=0.01)
    assert max(fit.alone, key=lambda name: fit.alone[name]) == "a"
    assert fit.alone["b"] < 0.4


def test_a_difference_of_learned_scores_is_log_odds() -> None:
    """Gumbel noise makes the labels those of a Bradley-Terry model with the planted strengths."""
    fit = learn(NAMES, world(600), random.Random(0))
    sure, right = [], []
    for features, labels in world(600, seed=9):
        scores = [fit.weighing(dict(zip(NAMES, line, strict=True))) for line in features.tolist()]
        sure.append(1 / (1 + math.exp(scores[1] - scores[0])))
        right.append(labels[0] > labels[1])
    found, bins = np.array(right), np.digitize(sure, [0.2, 0.4, 0.6, 0.8])
    for k in range(5):
        here = bins == k
        slack = 3 * math.sqrt(0.25 / here.sum())
        assert found[here].mean() == pytest.approx(np.array(sure)[here].mean(), abs=slack)


def test_l1_leaves_out_what_carries_nothing() -> None:
    fit = learn(NAMES, world(150, seed=4), random.Random(0), penalty="l1")
    strongest = combine._regress(  # the same data under a stronger pull
        np.concatenate([labelled_pairs(f / [1, 5, 0.1, 20, 1], y) for f, y in world(150, seed=4)]), 0.03, "l1"
    )
    assert [w != 0 for w in strongest] == [True, True, True, False, False]
    assert set("abc") <= set(fit.weighing.counts())


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_with_next_to_no_penalty_it_is_plain_logistic_regression(penalty: Any) -> None:
    from statsmodels.discrete.discrete_model import Logit

    pairs = np.concatenate([labelled_pairs(f / [1, 5, 0.1, 20, 1], y) for f, y in world(200)])
    signs = np.where(np.arange(len(pairs)) % 2, 1, -1)
    plain = Logit((signs > 0).astype(float), pairs * signs[:, None]).fit(disp=0).params
    assert combine._regress(pairs, 1e8, penalty) == pytest.approx(plain, abs=2e-4)


def test_labels_turned_around_turn_the_weights_around_and_scales_do_not_matter() -> None:
    rows = world(80)
    fit = learn(NAMES, rows, random.Random(0)).weighing.weights
    back = learn(NAMES, [(f, [-y for y in labels]) for f, labels in rows], random.Random(0)).weighing.weights
    wide = learn(NAMES, [(f * 1000 - 5, labels) for f, labels in rows], random.Random(0)).weighing.weights
    for name in NAMES:
        assert back[name] == pytest.approx(-fit[name], abs=1e-5)
        assert wide[name] == pytest.approx(fit[name], abs=1e-5)


def test_a_fold_holds_whole_rows() -> None:
    """Each row has a score of its own that gives its labels away; that must help with no other row's pairs."""
    n = 16
    rows = []
    for i in range(n):
        features = np.zeros((4, n))
        features[:, i] = [1, 2, 3, 4]
        rows.append((features, [1.0, 2.0, 3.0, 4.0]))
    assert learn([f"s{i}" for i in range(n)], rows, random.Random(0)).accuracy == 0.5


def test_a_constant_score_has_no_say_and_no_division_by_nothing() -> None:
    rows = [(np.c_[f[:, :2], np.full(len(f), 0.1)], labels) for f, labels in world(30)]
    fit = learn(["a", "b", "same"], rows, random.Random(0))
    assert fit.weighing.counts() == ["a", "b"]
    assert math.isfinite(fit.weighing({"a": 1.0, "b": 2.0}))


def test_pairs_are_all_twos_of_a_row_that_differ_in_the_label_better_first() -> None:
    features = np.array([[1.0], [10.0], [100.0]])
    assert labelled_pairs(features, [2, 1, 2]).tolist() == [[-9.0], [90.0]]
    assert labelled_pairs(features, [5, 5, 5]).shape == (0, 1)


def labelled(n: int = 40, unlabelled: int = 10) -> list[Row]:
    rows = []
    for i, (features, label) in enumerate(world(n + unlabelled)):
        columns = {name: features[:, k].tolist() for k, name in enumerate(NAMES)}
        rows.append(scored(f"r{i:03}", **columns, human=label if i < n else [None] * 3))
    return rows


LEARNED = {"fit": "human", "scores": NAMES, "name": "quality"}


def test_labels_of_some_rows_give_every_row_a_score() -> None:
    rows = labelled()
    rows[3] = scored("r003", **{n: [None, 1.0, 2.0] for n in NAMES}, human=[1.0, 2.0, 3.0])
    made = [r for r in run_stage(Combine.model_validate(LEARNED), rows) if isinstance(r, Row)]
    assert [r.id for r in made] == [r.id for r in rows]
    missing = [(r.id, i) for r in made for i, value in enumerate(r.values("quality")) if value is None]
    assert missing == [("r003", 0)]
    [part] = Combine.model_validate(LEARNED).expand()
    (note,) = [x for x in part.run(rows, random.Random(0)) if isinstance(x, Note)]  # type: ignore[attr-defined]
    assert (note.facts["pairs"], note.facts["rows"], note.facts["without a value"]) == (39 * 3 + 1, 40, 1)
    weights, mean, sd = (note.facts[key] for key in ("weights", "mean", "sd"))
    for r in made[:2]:
        by_hand = [
            sum(weights[n] * (s.scores[n].value - mean[n]) / sd[n] for n in NAMES)  # type: ignore[operator]
            for s in r.samples
        ]
        assert r.values("quality") == pytest.approx(by_hand)


@pytest.mark.parametrize("labels", [[None, None, None], [2.0, 2.0, 2.0]])
def test_without_labelled_pairs_it_fails_and_says_so(labels: list[float | None]) -> None:
    rows = [scored(f"r{i}", **{n: [1.0, 2.0, 3.0] for n in NAMES}, human=labels) for i in range(3)]
    with pytest.raises(ValueError, match="0 rows have two samples with different labels"):
        run_stage(Combine.model_validate(LEARNED), rows)


def test_scikit_learn_is_asked_for_only_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, synthpref.stages.score; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=r'pip install "synthpref\[jury\]"'):
        run_stage(Combine.model_validate(LEARNED), labelled(4, 0))
    monkeypatch.setattr("synthpref.stages.score.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r'pip install "synthpref\[jury\]"'):
        Combine.model_validate(LEARNED)


# ---- in a run


def tree(rows: list[Row], stage: dict[str, Any]) -> dict[str, Any]:
    records = [
        {
            "prompt": f"Question {r.id}?",
            "answers": [
                {"text": f"{r.id} {i}", **{n: s.scores[n].value for n in s.scores}}
                for i, s in enumerate(r.samples)
            ],
        }
        for r in rows
    ]
    columns = {name: name for name in [*NAMES, "human"]}
    return {
        "name": "combined",
        "models": {},
        "source": {"rows": records, "samples": {"column": "answers", "scores": columns}},
        "stages": [{"score.combine": stage}, {"pair.extremes": {"score": "quality"}}],
    }


def ran(folder: Path, recipe: dict[str, Any]) -> tuple[dict[str, list[float | None]], dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    job.run(job.load(folder / "recipe.yaml"), folder / "run")
    rows = job.rows.read_rows(folder / "run/rows.parquet")
    report = json.loads((folder / "run/report.json").read_text(encoding="utf-8"))
    return {r.id: r.values("quality") for r in rows}, report


def test_the_report_tells_the_weights_and_another_run_takes_them_from_there(tmp_path: Path) -> None:
    first, report = ran(tmp_path / "one", tree(labelled(), LEARNED))
    (stage,) = [s for s in report["stages"] if s["stage"] == "score.combine"]
    notes = stage["notes"]
    assert (notes["label"], notes["pairs"], notes["rows"], notes["folds"]) == ("human", 120, 40, 8)
    assert sum(notes["share"].values()) == pytest.approx(1)
    (line,) = [line for line in report["statements"] if "weights were learned" in line]
    assert "120 pairs labelled by human" in line
    assert "Most weight is on a, b" in line
    page = (tmp_path / "one/run/report.md").read_text(encoding="utf-8")
    assert "|  | weights | share | alone | mean | sd |" in page

    again, same = ran(tmp_path / "one", tree(labelled(), LEARNED))
    assert (again, same["stages"]) == (first, report["stages"])
    mean = {"weights": {"a": 1, "b": -1}, "name": "quality"}
    assert not any("notes" in stage for stage in ran(tmp_path / "one", tree(labelled(), mean))[1]["stages"])
    _, spread = ran(tmp_path / "one", tree(labelled(), mean | {"standardise": "run"}))
    assert {key: spread["stages"][0]["notes"][key]["a"] for key in ("weights", "share")} == {
        "weights": 0.5,
        "share": 0.5,
    }
    assert any("standardised by (mean, standard deviation): a (" in line for line in spread["statements"])
    assert ran(tmp_path / "one", tree(labelled(), LEARNED))[1]["stages"] == report["stages"]

    path = "../one/run/report.json"
    taken, other = ran(tmp_path / "two", tree(labelled(), {"weights": {"file": path}, "name": "quality"}))
    assert taken == first
    assert not any("notes" in stage for stage in other["stages"])


def test_constants_of_a_run_are_taken_from_its_report(tmp_path: Path) -> None:
    fields = {"weights": {"a": 1, "b": -1}, "name": "quality"}
    whole, _ = ran(tmp_path / "one", tree(labelled(), {**fields, "standardise": "run"}))
    some = tree(labelled(), {**fields, "standardise": {"file": "../one/run/report.json"}})
    some["source"]["rows"] = some["source"]["rows"][:9]
    part, report = ran(tmp_path / "two", some)
    assert len(part) == 9
    assert all(values == pytest.approx(whole[id]) for id, values in part.items())
    assert not any("notes" in stage for stage in report["stages"])
    bare = {**fields, "standardise": {"file": "../two/run/report.json"}}
    with pytest.raises(RecipeError, match="no stage of that run standardised"):
        ran(tmp_path / "three", tree(labelled(), bare))


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([{"notes": {"mean": 0.5, "sd": 0.1}}], "no stage of that run standardised"),
        ([{"notes": None}, "a stage"], "no stage of that run standardised"),
        ({"a": {}}, "no stage of that run standardised"),
        ([{"notes": {"mean": {"a": 1}, "sd": {}}}], "sd"),
    ],
)
def test_a_report_that_says_something_else_is_refused_in_a_line(
    tmp_path: Path, stages: Any, said: str
) -> None:
    """A stage of somebody's own may note a mean that is another thing."""
    (tmp_path / "report.json").write_text(json.dumps({"stages": stages}), encoding="utf-8")
    fields = {"weights": {"a": 1}, "standardise": {"file": str(tmp_path / "report.json")}}
    with pytest.raises(ValidationError, match=said):
        Combine.model_validate(fields)
    with pytest.raises(ValidationError, match="weights of one stage were expected in the report, found 0"):
        Combine.model_validate({"weights": {"file": str(tmp_path / "report.json")}})


def test_weights_in_a_file_are_read_and_a_change_of_them_counts(tmp_path: Path) -> None:
    stage = {"weights": {"file": "w.json"}, "name": "quality"}
    tmp_path.joinpath("x").mkdir()
    for weights in ({"a": 1}, {"a": 3, "b": 1}):
        (tmp_path / "x/w.json").write_text(json.dumps(weights), encoding="utf-8")
        made, _ = ran(tmp_path / "x", tree(labelled(4, 0), stage))
        plain, _ = ran(tmp_path / f"y{len(weights)}", tree(labelled(4, 0), {**stage, "weights": weights}))
        assert made == plain


def test_a_run_without_labels_ends_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="at least 2 are needed"):
        ran(tmp_path / "none", tree(labelled(0, 4), LEARNED))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "give `weights`, or `fit`"),
        ({"weights": {"a": 1}, "fit": "human"}, "give `weights`, or `fit`"),
        ({"weights": {}}, "every weight is 0"),
        ({"weights": {"a": 0}}, "every weight is 0"),
        ({"weights": {"a": math.inf}}, "finite"),
        ({"weights": {"a": 1}, "penalty": "l1"}, "goes with `fit` only"),
        ({"weights": {"a": 1}, "scores": ["a"]}, "goes with `fit` only"),
        ({"weights": {"file": "nowhere.json"}}, "cannot be read"),
        ({"weights": {"weights": {"a": 1}, "mean": {"b": 1}, "sd": {"a": 1}}}, "of the same scores"),
        ({"fit": "human", "scores": ["a"]}, "at least two"),
        ({"fit": "human", "scores": ["a", "a"]}, "at least two"),
        ({"fit": "human", "scores": ["a", "human"]}, "from itself"),
        ({"fit": "human", "scores": ["a", "b"], "standardise": "none"}, "always standardises"),
        ({"fit": "human", "scores": ["a", "b"], "folds": 1}, "greater than or equal"),
    ],
)
def test_it_refuses_what_makes_no_sense(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Combine.model_validate(wrong)


def test_what_it_needs_and_gives() -> None:
    stage = Combine.model_validate(LEARNED)
    assert stage.needs() == {"samples", "score:human", *(f"score:{n}" for n in NAMES)}
    assert stage.gives() == {"score:quality"}
    assert Combine.model_validate({"weights": {"a": 1}}).needs() == {"samples", "score:a"}


def test_learned_from_a_third_of_the_rows_it_beats_every_aspect_and_their_mean_on_the_rest(
    tmp_path: Path,
) -> None:
    """A simulated judge knows no faults: what it calls too long is good. The labels tell."""

    def said(prompt: str, seed: int) -> str:
        request = Request(messages=({"role": "user", "content": prompt},), seed=seed)
        return answers(Simulated(spread=2.0, length=40), request)[0].text

    prompts = [f"How does thing {i} work?" for i in range(90)]
    texts = {p: [said(p, seed) for seed in range(3)] for p in prompts}
    rows = [
        {
            "prompt": p,
            "answers": [{"text": t, "person": quality(t) if i % 3 == 0 else None} for t in texts[p]],
        }
        for i, p in enumerate(prompts)
    ]
    aspects = list(PRESETS["cpm"])
    tree = {
        "name": "cpm",
        "models": {"judge": {"backend": "simulated", "model": "judge", "noise": 1.0}},
        "source": {"rows": rows, "samples": {"column": "answers", "scores": {"person": "person"}}},
        "stages": [
            {"judge.aspects": {"model": "judge", "aspects": "cpm", "per_call": "one", "name": "cpm"}},
            {"score.combine": {"fit": "person", "scores": [f"cpm.{a}" for a in aspects], "name": "quality"}},
            {"pair.extremes": {"score": "quality"}},
        ],
        "allow": ["one_judge"],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    job.run(job.load(tmp_path / "recipe.yaml"), tmp_path / "run")
    unseen = [
        r for r in job.rows.read_rows(tmp_path / "run/rows.parquet") if r.values("person") == [None] * 3
    ]
    assert len(unseen) > 50

    def accuracy(name: str) -> float:
        """Share of pairs in the order of their true quality; a tie counts half."""
        marks = []
        for r in unseen:
            values = [v or 0.0 for v in r.values(name)]
            for i, j in ((0, 1), (0, 2), (1, 2)):
                truth = quality(r.samples[i].text) - quality(r.samples[j].text)
                marks.append(0.5 * (1 + np.sign(truth) * np.sign(values[i] - values[j])))
        return float(np.mean(marks))

    learned = accuracy("quality")
    assert learned > max(accuracy(f"cpm.{aspect}") for aspect in aspects)
    assert learned > accuracy("cpm") + 0.1
