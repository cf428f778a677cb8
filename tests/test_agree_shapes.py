"""Each shape in which labelled data comes, read and measured; figures against scikit-learn, scipy and krippendorff."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import accuracy_score, cohen_kappa_score
from statsmodels.stats.contingency_tables import mcnemar

from agreed import fellowship, found, mode, write_csv, write_jsonl
from synthpref.core.errors import RecipeError
from synthpref.core.juries import Choice

WORDS = {"a": "a", "b": "b", "tie": "tie"}


def verdicts(n: int = 60, seed: int = 1) -> list[dict[str, Any]]:
    """Labels, a good judge and a bad one."""
    rng = random.Random(seed)
    sides = ["a", "b", "tie"]
    records = []
    for i in range(n):
        label = rng.choice(sides)
        good = label if rng.random() < 0.8 else rng.choice(sides)
        records.append({"id": f"i{i}", "human": label, "good": good, "bad": rng.choice(sides)})
    return records


def columns(records: list[dict[str, Any]], *names: str) -> list[list[Any]]:
    return [[record[name] for record in records] for name in names]


def check(judge: Any, gold: list[str], said: list[str]) -> None:
    """Accuracy and kappa, three-way and two-way, against scikit-learn."""
    both = [(g, s) for g, s in zip(gold, said, strict=True) if g is not None and s is not None]
    two = [(g, s) for g, s in both if "tie" not in (g, s)]
    for pairs, names in ((both, ("accuracy", "kappa")), (two, ("accuracy_two_way", "kappa_two_way"))):
        truth, verdict = zip(*pairs, strict=True)
        assert judge[names[0]]["value"] == pytest.approx(accuracy_score(truth, verdict))
        assert judge[names[1]]["value"] == pytest.approx(cohen_kappa_score(truth, verdict))
        assert judge[names[1]]["n"] == len(pairs)
        assert judge[names[1]]["low"] < judge[names[1]]["value"] < judge[names[1]]["high"]


# ---- 1: one label a pair


@pytest.mark.parametrize(
    "spelling",
    [
        WORDS,
        {"a": "A", "b": "B", "tie": "C"},
        {"a": "left", "b": "right", "tie": "draw"},
        {"a": "model_a", "b": "model_b", "tie": "tie (bothbad)"},
        {"a": "[[A]]", "b": "[[B]]", "tie": "[[C]]"},
        {"a": 1, "b": 2, "tie": 0},
        {"a": "1.0", "b": "2.0", "tie": "3.0"},
        {"a": 1.0, "b": 0.0, "tie": 0.5},
    ],
    ids=str,
)
def test_one_label_a_pair_in_any_plain_spelling(tmp_path: Path, spelling: dict[str, Any]) -> None:
    records = verdicts()
    spelled = [{**r, **{k: spelling[r[k]] for k in ("human", "good", "bad")}} for r in records]
    path = write_jsonl(tmp_path / "labels.jsonl", spelled)
    figures = found(tmp_path, path, labels="human", judges={"good": "good", "bad": "bad"}, kind="pairs")
    gold, good, bad = columns(records, "human", "good", "bad")
    check(figures["judges"]["good"], gold, good)
    check(figures["judges"]["bad"], gold, bad)
    line = figures["ranking"][0]
    assert (line["first"], line["second"]) == ("good", "bad")
    right = [[int(s == g) for s, g in zip(side, gold, strict=True)] for side in (good, bad)]
    table = [[sum(x == i and y == j for x, y in zip(*right, strict=True)) for j in (1, 0)] for i in (1, 0)]
    assert line["p_accuracy"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert line["better"] is True


def test_values_that_mean_nothing_plain_are_told_with_their_column_and_count(tmp_path: Path) -> None:
    records = [{**r, "good": {"a": "yes", "b": "no", "tie": "?"}[r["good"]]} for r in verdicts()]
    path = write_csv(tmp_path / "labels.csv", records)
    with pytest.raises(RecipeError) as caught:
        found(tmp_path, path, labels="human", judges={"good": "good"})
    (problem,) = caught.value.problems
    assert problem.path == "good"
    assert "'yes' (" in problem.message
    assert "'no' (" in problem.message
    assert "'?'" not in problem.message  # a mark for no verdict is counted, not refused
    figures = found(
        tmp_path, path, labels="human", judges={"good": "good"}, values={"a": "YES", "b": "no", "tie": "?"}
    )
    check(figures["judges"]["good"], *columns(verdicts(), "human", "good"))


@pytest.mark.parametrize("values", [{"0", "1"}, {"-1", "0", "1"}, {"1", "2", "3", "4"}])
def test_numbers_that_may_mean_two_things_are_refused(tmp_path: Path, values: set[str]) -> None:
    records = [{"human": "a", "judge": value} for value in sorted(values) * 3]
    with pytest.raises(RecipeError, match="not understood"):
        found(tmp_path, write_csv(tmp_path / "x.csv", records), labels="human", judges={"judge": "judge"})


def test_a_column_may_use_a_part_of_the_numbers_that_another_explains(tmp_path: Path) -> None:
    records = [{"human": h, "judge": j} for h, j in zip("01201212", "11101010", strict=True)]
    figures = found(
        tmp_path,
        write_csv(tmp_path / "x.csv", records),
        kind="pairs",
        labels="human",
        judges={"judge": "judge"},
    )
    assert figures["judges"]["judge"]["accuracy"]["value"] == 0.5


def test_a_verdict_may_be_the_name_of_a_model(tmp_path: Path) -> None:
    records = [
        {"model_a": "tiny", "model_b": "huge", "human": "a", "judge": "tiny"},
        {"model_a": "huge", "model_b": "tiny", "human": "a", "judge": "tiny"},
        {"model_a": "huge", "model_b": "tiny", "human": "tie", "judge": "tie"},
    ]
    path = write_jsonl(tmp_path / "x.jsonl", records)
    figures = found(
        tmp_path, path, labels="human", judges={"j": "judge"}, model_a="model_a", model_b="model_b"
    )
    assert figures["judges"]["j"]["accuracy"]["value"] == pytest.approx(2 / 3)


# ---- 2: three annotators


def test_three_annotators_as_columns_as_a_list_and_as_lines_are_the_same(tmp_path: Path) -> None:
    records = fellowship(120)
    for record in records:
        record["judge"] = mode([record[f"annotator{who}"] for who in (1, 2, 3)], "Tie")
        if record["id"] % 4 == 0:
            record["judge"] = "A"
    people = [[record[f"annotator{who}"] for who in (1, 2, 3)] for record in records]
    plain = [{"id": r["id"], "judge": r["judge"]} for r in records]
    wide = write_csv(
        tmp_path / "wide.csv",
        [
            {**p, **{f"h{i}": v for i, v in enumerate(labels)}}
            for p, labels in zip(plain, people, strict=True)
        ],
    )
    listed = write_jsonl(
        tmp_path / "listed.jsonl", [{**p, "people": labels} for p, labels in zip(plain, people, strict=True)]
    )
    long = write_jsonl(
        tmp_path / "long.jsonl",
        [
            {**p, "worker": f"w{i}", "vote": v}
            for p, labels in zip(plain, people, strict=True)
            for i, v in enumerate(labels)
        ],
    )
    packed = tmp_path / "listed.parquet"
    pq.write_table(
        pa.Table.from_pylist([json.loads(line) for line in listed.read_text(encoding="utf-8").splitlines()]),
        packed,
    )
    common: dict[str, Any] = {"judges": {"judge": "judge"}, "id": "id"}
    shapes = [
        found(tmp_path, wide, labels=["h0", "h1", "h2"], **common),
        found(tmp_path, listed, labels="people", **common),
        found(tmp_path, packed, labels="people", **common),
        found(tmp_path, long, labels="vote", worker="worker", **common),
    ]
    first = shapes[0]
    for other in shapes[1:]:
        for key in ("accuracy", "kappa", "kappa_two_way", "accuracy_two_way"):
            assert other["judges"]["judge"][key] == first["judges"]["judge"][key]
        assert other["people"]["alpha"] == first["people"]["alpha"]
    gold = [mode(labels, None) for labels in people]
    said = [r["judge"] for r in records]
    low = [[None if v is None else v.lower() for v in side] for side in (gold, said)]
    check(first["judges"]["judge"], low[0], low[1])  # type: ignore[arg-type]
    assert first["people"]["no_majority"] == gold.count(None) > 0
    coded = [["ABT".index(v[0]) for v in who] for who in zip(*people, strict=True)]
    alpha = krippendorff.alpha(reliability_data=coded, level_of_measurement="nominal")
    assert first["people"]["alpha"]["value"] == pytest.approx(alpha)
    kappas = [cohen_kappa_score(x, y) for x, y in combinations(zip(*people, strict=True), 2)]
    assert [k["value"] for k in first["people"]["kappas"].values()] == pytest.approx(kappas)
    assert first["people"]["kappa_mean"] == pytest.approx(np.mean(kappas))
    with_each = [cohen_kappa_score(said, who) for who in zip(*people, strict=True)]
    assert list(first["judges"]["judge"]["with_people"]["kappas"].values()) == pytest.approx(with_each)
    flat = [(s, v) for s, labels in zip(said, people, strict=True) for v in labels]
    pooled = cohen_kappa_score(*zip(*flat, strict=True))
    assert first["judges"]["judge"]["with_people"]["kappa_pooled"] == pytest.approx(pooled)
    ordered = [
        (x, y) for labels in people for i, x in enumerate(labels) for j, y in enumerate(labels) if i != j
    ]
    among = cohen_kappa_score(*zip(*ordered, strict=True))
    assert first["people"]["kappa_pooled"] == pytest.approx(among)


def test_what_no_majority_is_can_be_chosen(tmp_path: Path) -> None:
    records = [
        {"h1": "a", "h2": "b", "h3": "tie", "j": "tie"},
        {"h1": "a", "h2": "a", "h3": "b", "j": "a"},
        {"h1": "b", "h2": "", "h3": "b", "j": "tie"},
    ]
    path = write_csv(tmp_path / "x.csv", records)
    said: dict[str, Any] = {"labels": ["h1", "h2", "h3"], "judges": {"j": "j"}}
    dropped, tied = (found(tmp_path, path, no_majority=rule, **said) for rule in ("drop", "tie"))
    assert (dropped["judges"]["j"]["accuracy"]["value"], dropped["people"]["no_majority"]) == (0.5, 1)
    assert tied["judges"]["j"]["accuracy"]["value"] == pytest.approx(2 / 3)


def test_two_labels_of_one_annotator_for_an_item_are_refused(tmp_path: Path) -> None:
    records = [{"id": 1, "judge": j, "human": h, "said": "a"} for j, h in (("x", "a"), ("y", "b"))]
    path = write_csv(tmp_path / "x.csv", records)
    with pytest.raises(RecipeError, match="has two labels"):
        found(tmp_path, path, labels="human", by="judge", says="said", id="id")


# ---- 3: both orders


def both_orders(n: int = 80) -> list[dict[str, Any]]:
    rng = random.Random(3)
    records = []
    for i in range(n):
        label = rng.choice("ab")
        ab, ba = (label if rng.random() < 0.75 else first for first in "ab")
        records.append({"id": i, "human": label, "ab": ab, "ba": "tie" if rng.random() < 0.1 else ba})
    return records


def check_orders(order: Any, records: list[dict[str, Any]]) -> None:
    one, other = columns(records, "ab", "ba")
    hard = [x != y and "tie" not in (x, y) for x, y in zip(one, other, strict=True)]
    soft = [x != y and "tie" in (x, y) for x, y in zip(one, other, strict=True)]
    assert order["hard_flips"] == sum(hard) > 0
    assert order["soft_flips"] == sum(soft) > 0
    assert order["flip_rate"]["value"] == pytest.approx(np.mean(hard))
    assert order["kappa_between_orders"]["value"] == pytest.approx(cohen_kappa_score(one, other))
    decided = [x == "a" for x in one if x != "tie"] + [y == "b" for y in other if y != "tie"]
    assert order["first_rate"]["value"] == pytest.approx(np.mean(decided))
    assert order["hard_flips_to_the_first"] == sum(h and x == "a" for h, x in zip(hard, one, strict=True))


def test_both_orders_in_every_form_are_the_same(tmp_path: Path) -> None:
    records = both_orders()
    turned = {"a": "b", "b": "a", "tie": "tie"}
    wide = write_csv(tmp_path / "wide.csv", records)
    shown = write_csv(tmp_path / "shown.csv", [{**r, "ba": turned[r["ba"]]} for r in records])
    lines = write_jsonl(
        tmp_path / "lines.jsonl",
        [
            {"id": r["id"], "human": r["human"], "pos": 1 + k, "winner": r[o]}
            for r in records
            for k, o in enumerate(("ab", "ba"))
        ],
    )
    named = []
    for r in records:
        for one, other, said in (("alpha", "beta", r["ab"]), ("beta", "alpha", turned[r["ba"]])):
            place = {"a": "first", "b": "second", "tie": "tie"}
            truth = r["human"] if one == "alpha" else turned[r["human"]]
            named.append(
                {"id": r["id"], "first": one, "second": other, "winner": place[said], "human": place[truth]}
            )
    names = write_jsonl(tmp_path / "names.jsonl", named)
    forms = [
        found(tmp_path, wide, labels="human", judges={"j": "ab/ba"}),
        found(tmp_path, shown, labels="human", judges={"j": "ab/ba"}, orders="shown"),
        found(tmp_path, lines, labels="human", judges={"j": "winner"}, id="id", order="pos"),
        found(
            tmp_path, names, labels="human", judges={"j": "winner"}, id="id", first="first", second="second"
        ),
    ]
    for figures in forms:
        judge = figures["judges"]["j"]
        check_orders(judge["order"], records)
        for key in ("accuracy", "kappa", "credit", "by_order"):
            assert judge[key] == forms[0]["judges"]["j"][key]
    gold, one, other = columns(records, "human", "ab", "ba")
    by_order = forms[0]["judges"]["j"]["by_order"]
    assert by_order["ab"]["accuracy"]["value"] == pytest.approx(accuracy_score(gold, one))
    assert by_order["ba"]["accuracy"]["value"] == pytest.approx(accuracy_score(gold, other))


@pytest.mark.parametrize(
    ("swap", "expected"),
    [
        ("average", ["a", "tie", "a", "tie"]),
        ("agree", ["a", "tie", "tie", "tie"]),
        ("first", ["a", "a", "tie", "a"]),
    ],
)
def test_two_orders_make_a_verdict_by_the_rule_that_is_named(
    tmp_path: Path, swap: str, expected: list[str]
) -> None:
    orders = [("a", "a"), ("a", "b"), ("tie", "a"), ("a", "b")]
    records = [{"human": e, "ab": ab, "ba": ba} for e, (ab, ba) in zip(expected, orders, strict=True)]
    path = write_csv(tmp_path / "x.csv", records)
    figures = found(tmp_path, path, labels="human", judges={"j": "ab/ba"}, swap=swap)
    assert figures["judges"]["j"]["accuracy"]["value"] == 1


def test_answers_that_were_read_in_the_wrong_order_are_pointed_out(tmp_path: Path) -> None:
    turned = {"a": "b", "b": "a", "tie": "tie"}
    path = write_csv(tmp_path / "x.csv", [{**r, "ba": turned[r["ba"]]} for r in both_orders()])
    read = [
        found(tmp_path, path, labels="human", judges={"j": "ab/ba"}, orders=o) for o in ("unswapped", "shown")
    ]
    assert any("--orders shown" in note for note in read[0]["notes"])
    assert read[1]["notes"] == []


def test_scores_in_both_orders(tmp_path: Path) -> None:
    rng = random.Random(4)
    records = []
    for i in range(60):
        gap = rng.gauss(0, 2)
        a1, b1 = round(6 + gap + 1), round(6 - gap)
        a2, b2 = round(6 + gap + rng.gauss(0, 1)), round(6 - gap + 1)
        records.append({"id": i, "human": "a" if gap > 0 else "b", "a1": a1, "b1": b1, "a2": a2, "b2": b2})
    wide = write_csv(tmp_path / "wide.csv", records)
    lines = write_csv(
        tmp_path / "lines.csv",
        [
            {"id": r["id"], "human": r["human"], "shown": order, "sa": r[f"a{k}"], "sb": r[f"b{k}"]}
            for r in records
            for k, order in ((1, "ab"), (2, "ba"))
        ],
    )
    shown = write_csv(tmp_path / "shown.csv", [{**r, "a2": r["b2"], "b2": r["a2"]} for r in records])
    forms = [
        found(tmp_path, wide, labels="human", judges={"j": "a1,b1/a2,b2"}),
        found(tmp_path, lines, labels="human", judges={"j": "sa,sb"}, id="id", order="shown"),
        found(tmp_path, shown, labels="human", judges={"j": "a1,b1/a2,b2"}, orders="shown"),
    ]
    sign = {1: "a", 0: "tie", -1: "b"}
    said = [sign[int(np.sign(r["a1"] + r["a2"] - r["b1"] - r["b2"]))] for r in records]
    gold = [r["human"] for r in records]
    gain = np.mean([((r["a1"] - r["a2"]) + (r["b2"] - r["b1"])) / 2 for r in records])
    flips = sum(np.sign(r["a1"] - r["b1"]) * np.sign(r["a2"] - r["b2"]) < 0 for r in records)
    for figures in forms:
        judge = figures["judges"]["j"]
        assert judge["accuracy"]["value"] == pytest.approx(accuracy_score(gold, said))
        assert judge["order"]["hard_flips"] == flips
        assert judge["order"]["points_for_being_first"]["value"] == pytest.approx(gain)
    truth = [1.0 if g == "a" else 0.0 for g in gold]
    gaps = [(r["a1"] + r["a2"] - r["b1"] - r["b2"]) / 2 for r in records]
    assert forms[0]["judges"]["j"]["kendall"]["value"] == pytest.approx(kendalltau(gaps, truth).statistic)
    assert forms[0]["judges"]["j"]["spearman"]["value"] == pytest.approx(spearmanr(gaps, truth).statistic)


# ---- 4: six judges with scores, and every jury of them


@pytest.mark.parametrize("unparsed", ["no verdict", "a score"])
def test_every_jury_of_six_scoring_judges_is_as_counted_by_hand(tmp_path: Path, unparsed: str) -> None:
    records = fellowship()
    path = write_csv(tmp_path / "six.csv", records)
    names = [f"judge{k}" for k in range(6)]
    figures = found(
        tmp_path,
        path,
        prompt="prompt",
        labels=["annotator1", "annotator2", "annotator3"],
        judges={name: f"{name}_a,{name}_b" for name in names},
        **({"invalid": []} if unparsed == "a score" else {}),
    )

    def winner(record: dict[str, Any], name: str) -> str | None:
        a, b = record[f"{name}_a"], record[f"{name}_b"]
        if unparsed == "no verdict" and -1 in (a, b):
            return None
        return "A" if a > b else "B" if b > a else "Tie"

    gold = [mode([r[f"annotator{who}"] for who in (1, 2, 3)], None) for r in records]
    votes = {name: [winner(r, name) for r in records] for name in names}
    everything = {tuple(j["judges"]): j for j in figures["juries"]["all"]}
    assert len(everything) == 63
    by_size: dict[int, list[float]] = {}
    for size in range(1, 7):
        for jury in combinations(names, size):
            truth, said = [], []
            for i, label in enumerate(gold):
                cast = [vote for name in jury if (vote := votes[name][i]) is not None]
                if label is not None and cast:
                    truth.append(label)
                    said.append(mode(cast, "Tie"))
            kappa = cohen_kappa_score(truth, said)
            by_size.setdefault(size, []).append(kappa)
            assert everything[jury]["kappa"] == pytest.approx(kappa, abs=1e-12)
            assert everything[jury]["accuracy"] == pytest.approx(accuracy_score(truth, said))
    for line in figures["juries"]["by_size"]:
        kappas = by_size[line["size"]]
        assert line["mean_kappa"] == pytest.approx(np.mean(kappas))
        assert line["best"]["kappa"]["value"] == pytest.approx(max(kappas))
    best = figures["juries"]["best"]
    assert best["kappa"]["value"] == pytest.approx(max(max(kappas) for kappas in by_size.values()))
    assert len(best["judges"]) > 1
    # What was chosen on these labels is not expected to be as good on others.
    assert figures["juries"]["expected"]["kappa_of_the_best_jury"] < best["kappa"]["value"]
    failed = figures["judges"]["judge0"]["unparsed"]["count"]
    assert failed == (
        sum(-1 in (r["judge0_a"], r["judge0_b"]) for r in records) if unparsed == "no verdict" else 0
    )
    for figure in figures["judges"]["judge0"]["by_gap"]:
        rows = [
            (g, v)
            for r, g, v in zip(records, gold, votes["judge0"], strict=True)
            if g
            and v
            and abs(r["judge0_a"] - r["judge0_b"])
            in ({int(figure["gap"])} if figure["gap"].isdigit() else range(5, 12))
        ]
        assert figure["n"] == len(rows)
        assert figure["value"] == pytest.approx(np.mean([g == v for g, v in rows]))


def test_agreement_filter_is_as_counted_by_hand(tmp_path: Path) -> None:
    records = fellowship(150, seed=8)
    names = [f"judge{k}" for k in range(6)]
    path = write_csv(tmp_path / "six.csv", records)
    labels = ["annotator1", "annotator2", "annotator3"]
    figures = found(
        tmp_path,
        path,
        labels=labels,
        judges={n: f"{n}_a,{n}_b" for n in names},
        invalid=[-1],
        no_majority="tie",
    )
    sign = {1: "A", 0: "Tie", -1: "B"}
    gold = [mode([r[label] for label in labels], "Tie") for r in records]
    for line in figures["agreed"]:
        kept = []
        for r, label in zip(records, gold, strict=True):
            cast = [
                sign[int(np.sign(r[f"{n}_a"] - r[f"{n}_b"]))]
                for n in names
                if -1 not in (r[f"{n}_a"], r[f"{n}_b"])
            ]
            top = mode(cast, None) if cast else None
            if top is not None and cast.count(top) >= line["at_least"]:
                kept.append(top == label)
        assert line["accuracy"]["n"] == len(kept)
        assert line["coverage"]["value"] == pytest.approx(len(kept) / len(records))
        assert line["accuracy"]["value"] == pytest.approx(np.mean(kept))
    assert [line["at_least"] for line in figures["agreed"]] == [3, 4, 5, 6]


@pytest.mark.parametrize("rule", ["lean", "mean", "scores", "majority", "abstain"])
def test_juries_by_another_rule_and_size(tmp_path: Path, rule: str) -> None:
    path = write_csv(tmp_path / "six.csv", fellowship(80))
    names = [f"judge{k}" for k in range(4)]
    figures = found(
        tmp_path,
        path,
        Choice(("judge0", "judge2", "judge3"), (2,), rule, 20),
        labels="annotator1",
        judges={n: f"{n}_a,{n}_b" for n in names},
    )
    juries = figures["juries"]
    assert juries["rule"] == rule
    assert {len(j["judges"]) for j in juries["all"]} == {1, 2}
    assert len(juries["all"]) == 6
    top = max(j["kappa"] for j in juries["all"] if len(j["judges"]) == 2)
    assert juries["by_rule"][rule]["2"]["best_kappa"] == pytest.approx(top)


# ---- 5: single responses


def test_scores_of_single_responses(tmp_path: Path) -> None:
    rng = random.Random(6)
    records = []
    for i in range(90):
        truth = rng.uniform(1, 5)
        said = [max(1, min(5, round(truth + rng.gauss(0, 0.8)))) for _ in range(3)]
        records.append(
            {"prompt": i // 3, "text": "word " * rng.randint(1, 50), "human": round(truth, 1), "judge": said}
        )
    records[0]["judge"] = [4, -1, 5]
    path = write_jsonl(tmp_path / "x.jsonl", records)
    figures = found(tmp_path, path, labels="human", judges={"j": "judge"}, prompt="prompt", a="text")
    assert figures["kind"] == "scores"
    judge = figures["judges"]["j"]
    means = [float(np.mean([v for v in r["judge"] if v != -1])) for r in records]
    human = [r["human"] for r in records]
    rounded = [[int(np.floor(v + 0.5)) for v in side] for side in (means, human)]
    assert judge["kendall"]["value"] == pytest.approx(kendalltau(means, human).statistic)
    assert judge["spearman"]["value"] == pytest.approx(spearmanr(means, human).statistic)
    assert judge["kappa"]["value"] == pytest.approx(cohen_kappa_score(*rounded))
    assert judge["accuracy"]["value"] == pytest.approx(accuracy_score(*rounded))
    assert judge["within_one"]["value"] == pytest.approx(np.mean(np.abs(np.subtract(*rounded)) <= 1))
    alpha = krippendorff.alpha(reliability_data=[means, human], level_of_measurement="interval")
    assert judge["alpha"]["value"] == pytest.approx(alpha)
    assert judge["mean_difference"]["value"] == pytest.approx(np.mean(np.subtract(means, human)))
    assert judge["unparsed"]["count"] == 1
    assert judge["replies"] == 270
    variances = [np.var([v for v in r["judge"] if v != -1], ddof=1) for r in records]
    assert judge["repeats"]["variance"] == pytest.approx(np.mean(variances))
    right = n = 0.0
    for group in range(30):
        for i, j in combinations(range(3 * group, 3 * group + 3), 2):
            if human[i] != human[j]:
                n += 1
                same = np.sign(means[i] - means[j]) * np.sign(human[i] - human[j])
                right += 0.5 if same == 0 else float(same > 0)
    assert judge["same_prompt_pairs"] == {"n": n, "accuracy": pytest.approx(right / n)}


def test_scores_below_nothing_are_compared_as_they_are(tmp_path: Path) -> None:
    records = [{"human": h, "j": j} for h, j in ((-2, -2), (-1, -1.4), (3, 2.6), (0, 2), (-2, 0), (4, 4))]
    path = write_csv(tmp_path / "x.csv", records)
    figures = found(tmp_path, path, kind="scores", labels="human", judges={"j": "j"}, invalid=[])
    assert figures["judges"]["j"]["accuracy"]["value"] == pytest.approx(4 / 6)


def test_repeats_as_columns_need_no_labels(tmp_path: Path) -> None:
    records = [{"s1": 3, "s2": 4, "s3": 5}, {"s1": 2, "s2": 2, "s3": 2}, {"s1": 7, "s2": 7, "s3": 8}]
    path = write_csv(tmp_path / "x.csv", records)
    repeats = found(tmp_path, path, judges={"j": "s1+s2+s3"})["judges"]["j"]["repeats"]
    assert repeats["variance"] == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert repeats["all_the_same"] == pytest.approx(1 / 3)
    assert repeats["largest_range"] == 2


# ---- 6: crowd votes and judges in one file


def test_crowd_votes_and_judges_in_one_file(tmp_path: Path) -> None:
    rng = random.Random(9)
    lines: list[dict[str, Any]] = []
    gold, said = [], []
    for prompt in range(30):
        for x, y in (("m1", "m2"), ("m1", "m3")):
            true = rng.choice(["left", "right", "tie"])
            votes = [true if rng.random() < 0.7 else rng.choice(["left", "right", "tie"]) for _ in range(5)]
            judge = true if rng.random() < 0.6 else "left"
            base = {"prompt": prompt, "model_x": x, "model_y": y}
            lines += [{**base, "judge": "human", "worker": rng.randint(0, 9), "winner": v} for v in votes]
            lines.append({**base, "judge": "gpt", "worker": None, "winner": judge})
            gold.append(mode(votes, None))
            said.append(judge)
    # Two votes of one worker on one pair count once where they are one and not at all where they differ.
    lines = [line for i, line in enumerate(lines) if line["worker"] is None or not any(
        {**line, "winner": 0} == {**other, "winner": 0} for other in lines[:i]
    )]  # fmt: skip
    kept: dict[tuple[int, str], list[str]] = {}
    for line in lines:
        if line["judge"] == "human":
            kept.setdefault((line["prompt"], line["model_y"]), []).append(line["winner"])
    gold = [mode(votes, None) for votes in kept.values()]
    path = write_jsonl(tmp_path / "crowd.jsonl", lines)
    figures = found(
        tmp_path,
        path,
        id=["prompt", "model_x", "model_y"],
        prompt="prompt",
        by="judge",
        people="human",
        worker="worker",
        says="winner",
        model_a="model_x",
        model_b="model_y",
    )
    assert figures["items"] == 60
    assert figures["prompts"] == 30
    names = {"left": "a", "right": "b", "tie": "tie", None: None}
    check(figures["judges"]["gpt"], [names[g] for g in gold], [names[s] for s in said])  # type: ignore[misc]
    assert figures["people"]["labels"] == sum(line["judge"] == "human" for line in lines)


# ---- 7: no label at all


def test_without_labels_the_judge_is_told_to_be_steady_not_right(tmp_path: Path) -> None:
    records = [{k: v for k, v in r.items() if k != "human"} for r in both_orders()]
    path = write_csv(tmp_path / "x.csv", records)
    figures = found(tmp_path, path, judges={"j": "ab/ba"})
    check_orders(figures["judges"]["j"]["order"], records)
    assert "accuracy" not in figures["judges"]["j"]
    assert "juries" not in figures
    page = (tmp_path / "out" / "agreement.md").read_text(encoding="utf-8")
    assert "no labels by people" in page


# ---- several files, and what is missing


def test_files_are_joined_by_id_and_filtered(tmp_path: Path) -> None:
    records = verdicts()
    labels = write_csv(tmp_path / "labels.csv", [{"id": r["id"], "human": r["human"]} for r in records])
    lines = [
        {"id": r["id"], "judge": judge, "style": style, "said": r[judge] if style == "plain" else "a"}
        for r in reversed(records)
        for judge in ("good", "bad")
        for style in ("plain", "cot")
    ]
    said = write_jsonl(tmp_path / "said.jsonl", lines)
    figures = found(
        tmp_path,
        [labels, said],
        id="id",
        labels="human",
        by=["judge", "style"],
        says="said",
        where={"style": "plain"},
    )
    assert set(figures["judges"]) == {"good/plain", "bad/plain"}
    check(figures["judges"]["good/plain"], *columns(records, "human", "good"))


def test_ids_that_do_not_meet_are_pointed_out_and_numbers_meet_in_any_form(tmp_path: Path) -> None:
    labels = write_csv(tmp_path / "labels.csv", [{"id": i, "human": "ab"[i % 2]} for i in range(6)])
    said = [{"id": float(i), "j": "ab"[i % 2]} for i in range(6)]
    joined: dict[str, Any] = {"id": "id", "labels": "human", "judges": {"j": "j"}}
    figures = found(tmp_path, [labels, write_jsonl(tmp_path / "said.jsonl", said)], **joined)
    assert figures["judges"]["j"]["labelled_and_judged"] == 6
    other = write_jsonl(tmp_path / "other.jsonl", [{**line, "id": f"x{line['id']}"} for line in said])
    figures = found(tmp_path, [labels, other], **joined)
    assert figures["items"] == 12
    assert "do the ids of the files" in (tmp_path / "out" / "agreement.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"labels": "humen", "judges": {"g": "good"}}, "no column 'humen'; did you mean 'human'?"),
        ({"labels": "human", "judges": {"g": "x/y/z"}}, "one / at the most"),
        ({"labels": "human", "judges": {"g": "a,b,c"}}, "scores are two"),
        ({"labels": "human", "judges": {"g": "good"}, "sawp": 1}, "Extra inputs"),
        ({"labels": "human", "judges": {"g": "good"}, "where": {"id": "nobody"}}, "no record passes"),
        ({"labels": "human", "by": "id"}, "go together"),
        ({"labels": "human"}, "nobody judges"),
    ],
)
def test_mistakes_in_a_mapping_are_told(tmp_path: Path, mapping: dict[str, Any], message: str) -> None:
    path = write_csv(tmp_path / "labels.csv", verdicts())
    with pytest.raises(RecipeError) as caught:
        found(tmp_path, path, **mapping)
    assert message in str(caught.value)


def test_an_id_twice_in_a_file_that_has_one_line_an_item_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "labels.csv", [*verdicts(3), *verdicts(1)])
    with pytest.raises(RecipeError, match="comes a second time"):
        found(tmp_path, path, id="id", labels="human", judges={"g": "good"})


def test_a_file_that_is_not_there_or_of_no_known_kind(tmp_path: Path) -> None:
    for name, message in (("none.csv", "no such file"), ("x.docx", "cannot tell the format")):
        with pytest.raises(RecipeError, match=message):
            found(tmp_path, tmp_path / name, labels="human", judges={"g": "good"})


def test_columns_may_hold_the_marks_of_the_short_form(tmp_path: Path) -> None:
    names = {"good": "org/good,v1+x", "bad": "org/bad"}
    records = [{**r, **{names[k]: r[k] for k in names}, "org/s+a": 1, "org/s+b": 2} for r in verdicts()]
    path = write_csv(tmp_path / "x.csv", records)
    judges = {"good": names["good"], "both": f"{names['good']}/{names['bad']}", "s": "org/s+a,org/s+b"}
    figures = found(tmp_path, path, labels="human", judges=judges)
    check(figures["judges"]["good"], *columns(records, "human", "good"))
    assert figures["judges"]["both"]["order"]["both_orders"] == 60
    assert figures["judges"]["s"]["sides"]["a_rate"]["value"] == 0


def test_a_list_of_responses_in_each_record(tmp_path: Path) -> None:
    rng = random.Random(12)
    records = [
        {
            "id": i,
            "responses": [
                {"model": m, "first": rng.randint(1, 9), "second": rng.randint(1, 9)} for m in "xyz"
            ],
        }
        for i in range(20)
    ]
    path = write_jsonl(tmp_path / "x.jsonl", records)
    figures = found(
        tmp_path, path, each="responses", id=["id", "model"], kind="scores", judges={"j": "first/second"}
    )
    assert figures["items"] == 60
    order = figures["judges"]["j"]["order"]
    both = [[r[place] for record in records for r in record["responses"]] for place in ("first", "second")]
    assert order["points_for_being_first"]["value"] == pytest.approx(np.mean(np.subtract(*both)))
    assert order["kappa_between_orders"]["value"] == pytest.approx(cohen_kappa_score(*both))
    assert order["kendall_between_orders"] == pytest.approx(kendalltau(*both).statistic)


def test_costs_by_judge_column_and_tokens(tmp_path: Path) -> None:
    records = [{**r, "read": 1000 + i, "wrote": 100, "usd": 0.25} for i, r in enumerate(verdicts())]
    path = write_csv(tmp_path / "x.csv", records)
    judges = {
        "good": {"columns": "good", "tokens": ["read", "wrote"], "price": {"input": 2, "output": 10}},
        "bad": {"verdict": "bad", "cost": "usd"},
    }
    figures = found(tmp_path, path, labels="human", judges=judges)
    assert figures["judges"]["good"]["cost"] == pytest.approx((1029.5 * 2 + 1000) / 1e6)
    assert figures["judges"]["bad"]["cost"] == pytest.approx(0.25)
    assert figures["juries"]["cost_unit"] == "USD"


def test_a_list_in_a_cell_of_text(tmp_path: Path) -> None:
    records = [
        {"people": "['a', 'b', 'a']", "j": '["a", "a"]'},
        {"people": "['b', 'b', 'tie']", "j": "[]"},
    ] * 3
    figures = found(tmp_path, write_csv(tmp_path / "x.csv", records), labels="people", judges={"j": "j"})
    assert figures["people"]["labels"] == 18
    assert figures["judges"]["j"]["judged"] == 3
    assert figures["judges"]["j"]["accuracy"]["value"] == 1


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_there_or_missing_is_measured_without_a_fault(tmp_path: Path, n: int, seed: int) -> None:
    """Few items, silent judges, one label only, texts of one length, one prompt: every figure is a number or none."""
    rng = random.Random(seed)
    sides = ["a", "b", "tie", ""] if seed % 2 else ["a", ""]
    records = []
    for i in range(n):
        record: dict[str, Any] = {
            "id": i,
            "prompt": "p" if seed < 3 else i,
            "silent": "",
            "silent2": "invalid",
        }
        record |= {name: rng.choice(sides) for name in ("h1", "h2", "j1", "j2", "swapped")}
        record |= {"s1": rng.choice([-1, 3, 4]), "s2": rng.choice([3, 4]), "one": "x", "two": "y " * seed}
        record |= {"m1": "gpt-4o", "m2": "llama-3-8b"}
        records.append(record)
    path = write_csv(tmp_path / "x.csv", records)
    pairs = found(
        tmp_path,
        path,
        id="id",
        prompt="prompt",
        a="one",
        b="two",
        model_a="m1",
        model_b="m2",
        labels=["h1", "h2"],
        judges={"gpt-4": "j1/swapped", "llama": "j2", "none": "silent/silent2", "s": "s1,s2"},
        kind="pairs",
    )
    assert pairs["judges"]["none"]["judged"] == 0
    if "people" in pairs:
        assert pairs["judges"]["none"]["accuracy"]["value"] is None
    scores = found(tmp_path, path, kind="scores", labels="s1", judges={"s": "s2", "none": "silent"}, a="one")
    if "people" in scores:
        assert scores["judges"]["none"]["kendall"]["value"] is None


def test_a_crowd_of_many_needs_no_column_for_each(tmp_path: Path) -> None:
    lines = [
        {"id": i, "worker": f"w{3 * i + k}", "vote": "aab"[k], "j": "a" if i % 2 else "b"}
        for i in range(40)
        for k in range(3)
    ]
    path = write_jsonl(tmp_path / "x.jsonl", lines)
    figures = found(tmp_path, path, id="id", labels="vote", worker="worker", judges={"j": "j"})
    assert figures["people"]["annotators"] == 120
    assert figures["people"]["labels"] == 120
    assert figures["judges"]["j"]["accuracy"]["value"] == 0.5
    assert figures["people"]["kappa_pooled"] == pytest.approx(
        cohen_kappa_score(list("aabaab"), list("abaaba"))
    )


def test_a_reply_with_a_verdict_and_scores_is_one(tmp_path: Path) -> None:
    records = [
        {"human": "a", "said": "a", "sa": 7, "sb": 5},
        {"human": "b", "said": "b", "sa": "", "sb": ""},
        {"human": "b", "said": "", "sa": 2, "sb": 5},
        {"human": "a", "said": "", "sa": "", "sb": 4},
    ]
    path = write_csv(tmp_path / "x.csv", records)
    figures = found(
        tmp_path, path, labels="human", judges={"j": {"verdict": "said", "score_a": "sa", "score_b": "sb"}}
    )
    judge = figures["judges"]["j"]
    assert (judge["replies"], judge["unparsed"]["count"], judge["judged"]) == (4, 1, 3)
    assert judge["accuracy"]["value"] == 1
    assert sum(gap["n"] for gap in judge["by_gap"]) == 2


def test_probabilities_are_verdicts(tmp_path: Path) -> None:
    records = [{"human": h, "p": p} for h, p in zip("abba", (0.9, 0.2, 0.61, 0.5), strict=True)]
    figures = found(
        tmp_path, write_csv(tmp_path / "x.csv", records), kind="pairs", labels="human", judges={"j": "p"}
    )
    assert figures["judges"]["j"]["accuracy"]["value"] == 0.5
    assert figures["judges"]["j"]["sides"]["tie_rate"]["value"] == 0.25
    assert any("probability" in note for note in figures["notes"])


def test_people_who_score_the_two_responses(tmp_path: Path) -> None:
    rng = random.Random(13)
    records = []
    for _ in range(50):
        true = [rng.uniform(1, 10) for _ in "ab"]
        records.append(
            {
                f"{who}_{side}": round(t + rng.gauss(0, n))
                for who, n in (("h1", 1), ("h2", 1), ("j", 2))
                for side, t in zip("ab", true, strict=True)
            }
        )
    path = write_csv(tmp_path / "x.csv", records)
    figures = found(tmp_path, path, labels=["h1_a,h1_b", "h2_a,h2_b"], judges={"j": "j_a,j_b"}, invalid=[])
    sign = {1: "a", 0: "tie", -1: "b"}
    votes = [[sign[int(np.sign(r[f"{h}_a"] - r[f"{h}_b"]))] for h in ("h1", "h2")] for r in records]
    check(
        figures["judges"]["j"],
        [mode(v, None) for v in votes],
        [sign[int(np.sign(r["j_a"] - r["j_b"]))] for r in records],
    )  # type: ignore[misc]
    means = [(r[f"h1_{s}"] + r[f"h2_{s}"]) / 2 for r in records for s in "ab"]
    said = [r[f"j_{s}"] for r in records for s in "ab"]
    assert figures["judges"]["j"]["score_kendall"]["value"] == pytest.approx(
        kendalltau(said, means).statistic
    )
    assert figures["judges"]["j"]["score_spearman"]["value"] == pytest.approx(
        spearmanr(said, means).statistic
    )


def test_minus_one_is_no_score_also_beside_cells_that_are_no_number(tmp_path: Path) -> None:
    """A set of numbers that holds a NaN has a least one by luck only, so many draws are tried."""
    for seed in range(40):
        rng = random.Random(seed)
        records = [
            {
                "id": i,
                "human": rng.choice("AB"),
                "a": rng.choice(["nan", "-1", 2, 5, 8]),
                "b": rng.randint(1, 9),
            }
            for i in range(20)
        ]
        figures = found(tmp_path, write_csv(tmp_path / "x.csv", records), labels="human", judges={"j": "a,b"})
        assert figures["judges"]["j"]["judged"] == sum(r["a"] not in ("nan", "-1") for r in records), seed
