"""`synthpref agree` on recorded verdicts, against figures computed with pandas, scikit-learn and statsmodels alone."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score
from statsmodels.stats.contingency_tables import mcnemar

import field
from synthpref.agreeing import Asked, agree, mapping_of
from synthpref.core.juries import Choice
from synthpref.core.measure import Settings

pytestmark = pytest.mark.field


def measured(
    out: Path, names: list[str], *, resamples: int = 200, choice: Choice | None = None, **mapping: Any
) -> Any:
    tree = {"files": [str(field.data_file(name)) for name in names], **mapping}
    settings = Settings(resamples=resamples)
    agree(Asked(mapping_of(tree), Path(), settings, choice or Choice(splits=20), out=out))
    return json.loads((out / "agreement.json").read_text(encoding="utf-8"))


def frame(name: str) -> pd.DataFrame:
    return pd.read_json(field.data_file(name), lines=True, compression="gzip", dtype=False)


# ---- qlora_vicuna: verdicts of one judge in both orders, no labels


def both_orders() -> pd.DataFrame:
    """A line for each two models and prompt: what was said with either shown first, as names of models."""
    data = frame("qlora_vicuna/pairwise_threeclass.jsonl.gz")
    names = {"first": data["first"], "second": data["second"]}
    data["said"] = data["winner"].where(~data["winner"].isin(names), None)
    for place, models in names.items():
        data.loc[data["winner"] == place, "said"] = models
    data["pair"] = [tuple(sorted(both)) for both in zip(data["first"], data["second"], strict=True)]
    data["turn"] = (data["first"] > data["second"]).map({False: "one", True: "other"})
    return data.pivot(index=["id", "pair"], columns="turn", values="said").reset_index()


def test_three_way_verdicts_in_both_orders(tmp_path: Path) -> None:
    figures = measured(
        tmp_path,
        ["qlora_vicuna/pairwise_threeclass.jsonl.gz"],
        id="id",
        prompt="id",
        first="first",
        second="second",
        judges={"gpt-4": "winner"},
    )
    judge = figures["judges"]["gpt-4"]
    table = both_orders()
    assert figures["items"] == len(table) == 2240
    read = table[(table["one"] != "invalid") & (table["other"] != "invalid")]
    order = judge["order"]
    assert order["both_orders"] == len(read)
    assert judge["unparsed"]["count"] == int((table[["one", "other"]] == "invalid").to_numpy().sum()) == 13
    # A model's name means another side in each pair, so sides are by place in the pair.
    sides = [
        [
            0 if said == pair[0] else 1 if said == pair[1] else 2
            for said, pair in zip(read[turn], read["pair"], strict=True)
        ]
        for turn in ("one", "other")
    ]
    assert order["kappa_between_orders"]["value"] == pytest.approx(cohen_kappa_score(*sides), abs=1e-12)
    differ = read[read["one"] != read["other"]]
    tied = (differ["one"] == "tie") | (differ["other"] == "tie")
    assert (order["hard_flips"], order["soft_flips"]) == (int((~tied).sum()), int(tied.sum()))
    assert order["flip_rate"]["value"] == pytest.approx((~tied).sum() / len(read))
    data = frame("qlora_vicuna/pairwise_threeclass.jsonl.gz")
    winners = data["winner"].value_counts()
    assert order["first_rate"]["value"] == pytest.approx(
        winners["first"] / (winners["first"] + winners["second"])
    )
    assert order["first_rate"]["n"] == winners["first"] + winners["second"]
    low, high = order["first_rate"]["low"], order["first_rate"]["high"]
    assert 0.5 < low < order["first_rate"]["value"] < high


def test_scores_in_both_orders(tmp_path: Path) -> None:
    figures = measured(
        tmp_path,
        ["qlora_vicuna/relative_scores.jsonl.gz"],
        id=["id", "model"],
        prompt="id",
        order="pos",
        judges={"gpt-4": "score,gpt35_score"},
    )
    data = frame("qlora_vicuna/relative_scores.jsonl.gz")
    unread = (data["score"] == -1) | (data["gpt35_score"] == -1)
    judge = figures["judges"]["gpt-4"]
    assert judge["unparsed"]["count"] == int(unread.sum()) == 60
    data = data[~unread].assign(sign=np.sign(data["score"] - data["gpt35_score"]))
    wide = data.pivot(index=["id", "model"], columns="pos", values=["sign", "score", "gpt35_score"]).dropna()
    one, other = wide["sign"][1], wide["sign"][2]
    order = judge["order"]
    assert order["both_orders"] == len(wide)
    assert order["hard_flips"] == int((one * other == -1).sum())
    assert order["soft_flips"] == int(((one == 0) ^ (other == 0)).sum())
    assert order["kappa_between_orders"]["value"] == pytest.approx(
        cohen_kappa_score(one.astype(int), other.astype(int)), abs=1e-12
    )
    gain = (wide["score"][1] - wide["score"][2] + wide["gpt35_score"][2] - wide["gpt35_score"][1]) / 2
    assert order["points_for_being_first"]["value"] == pytest.approx(gain.mean())
    first_won = int(
        ((data["sign"] > 0) & (data["pos"] == 1)).sum() + ((data["sign"] < 0) & (data["pos"] == 2)).sum()
    )
    assert order["first_won"] == first_won
    assert order["first_rate"]["value"] == pytest.approx(first_won / int((data["sign"] != 0).sum()))


# ---- llmbar: one label, six judges by seventeen ways of asking, both orders


LLMBAR: dict[str, Any] = {
    "id": "id",
    "prompt": "prompt",
    "a": "response_a",
    "b": "response_b",
    "labels": "label",
    "by": ["judge", "strategy"],
    "says": "ab/ba",
}
LLMBAR_FILES = ["llmbar/pairs.jsonl.gz", "llmbar/judgments.jsonl.gz"]


def test_accuracy_and_swap_consistency_of_every_judge_and_strategy(tmp_path: Path) -> None:
    figures = measured(tmp_path, LLMBAR_FILES, resamples=100, **LLMBAR)
    labels = frame("llmbar/pairs.jsonl.gz").set_index("id")["label"]
    said = frame("llmbar/judgments.jsonl.gz")
    said["label"] = said["id"].map(labels)
    groups = said.groupby(["judge", "strategy"])
    assert {f"{judge}/{strategy}" for judge, strategy in groups.groups} == set(figures["judges"])
    assert len(figures["judges"]) == 65
    for (judge, strategy), lines in groups:
        found = figures["judges"][f"{judge}/{strategy}"]
        for order in ("ab", "ba"):
            read = lines[lines[order].notna()]
            by_order = found["by_order"][order]
            assert by_order["accuracy"]["value"] == pytest.approx(accuracy_score(read["label"], read[order]))
            assert by_order["kappa"]["value"] == pytest.approx(
                cohen_kappa_score(read["label"], read[order]), abs=1e-12
            )
        both = lines[lines["ab"].notna() & lines["ba"].notna()]
        assert found["order"]["same_rate"]["value"] == pytest.approx((both["ab"] == both["ba"]).mean())
        assert found["order"]["hard_flips"] == int((both["ab"] != both["ba"]).sum())
        # A verdict that hangs on the order is a tie, and where one order is missing the other speaks.
        verdict = lines["ab"].where(lines["ab"] == lines["ba"], "tie")
        verdict = verdict.where(lines["ab"].notna(), lines["ba"]).where(lines["ba"].notna(), lines["ab"])
        there = verdict.notna()
        assert found["accuracy"]["value"] == pytest.approx((verdict == lines["label"])[there].mean())
        assert found["kappa"]["value"] == pytest.approx(
            cohen_kappa_score(lines["label"][there], verdict[there]), abs=1e-12
        )
        assert found["unparsed"]["count"] == int(lines[["ab", "ba"]].isna().to_numpy().sum())


@pytest.mark.parametrize("strategy", ["CoT", "Vanilla"])
def test_every_jury_of_the_judges_of_a_strategy(tmp_path: Path, strategy: str) -> None:
    figures = measured(tmp_path, LLMBAR_FILES, where={"strategy": strategy}, **LLMBAR)
    labels = frame("llmbar/pairs.jsonl.gz").set_index("id")["label"]
    said = frame("llmbar/judgments.jsonl.gz").query("strategy == @strategy")
    verdicts = {}
    for judge, lines in said.groupby("judge"):
        lines = lines.set_index("id").reindex(labels.index)
        one, other = lines["ab"], lines["ba"]
        both = one.where(one == other, "tie")
        both = both.where(one.notna(), other).where(other.notna(), one)
        verdicts[f"{judge}/{strategy}"] = both
    assert len(verdicts) == 6
    everything = {frozenset(j["judges"]): j for j in figures["juries"]["all"]}
    assert len(everything) == 63
    best = -1.0
    for size in range(1, 7):
        for jury in combinations(verdicts, size):
            votes = pd.concat([verdicts[name] for name in jury], axis=1)
            counts = pd.DataFrame({side: (votes == side).sum(axis=1) for side in ("a", "b", "tie")})
            most = counts.max(axis=1)
            verdict = counts.idxmax(axis=1).where(counts.eq(most, axis=0).sum(axis=1) == 1, "tie")
            there = most > 0
            kappa = cohen_kappa_score(labels[there], verdict[there])
            best = max(best, kappa)
            found = everything[frozenset(jury)]
            assert found["kappa"] == pytest.approx(kappa, abs=1e-12)
            assert found["accuracy"] == pytest.approx(accuracy_score(labels[there], verdict[there]))
    assert figures["juries"]["best"]["kappa"]["value"] == pytest.approx(best)


def test_the_best_judge_is_called_better_only_where_mcnemar_and_the_bootstrap_say_so(tmp_path: Path) -> None:
    figures = measured(tmp_path, LLMBAR_FILES, resamples=1000, where={"strategy": "CoT"}, **LLMBAR)
    labels = frame("llmbar/pairs.jsonl.gz").set_index("id")["label"]
    said = frame("llmbar/judgments.jsonl.gz").query("strategy == 'CoT'")
    right = {}
    for judge, lines in said.groupby("judge"):
        lines = lines.set_index("id").reindex(labels.index)
        one, other = lines["ab"], lines["ba"]
        agreed = one.where(one == other, "tie").where(one.notna(), other).where(other.notna(), one)
        right[f"{judge}/CoT"] = (agreed == labels).where(agreed.notna())
    lines = figures["ranking"]
    assert len(lines) == 5
    for line in lines:
        one, other = right[line["first"]], right[line["second"]]
        both = one.notna() & other.notna()
        table = pd.crosstab(one[both].astype(bool), other[both].astype(bool)).reindex(
            index=[True, False], columns=[True, False], fill_value=0
        )
        assert line["p_accuracy"] == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-6)
        assert line["p_accuracy_adjusted"] >= line["p_accuracy"]
        assert line["better"] == (line["p_kappa_adjusted"] <= 0.05)
        assert (line["kappa_difference"]["low"] > 0) == line["better"]


# ---- llmfao: crowd votes, two judges


def test_the_crowds_majority_against_two_judges(tmp_path: Path) -> None:
    figures = measured(
        tmp_path,
        ["llmfao/comparisons.jsonl.gz"],
        id=["prompt", "model_x", "model_y"],
        prompt="prompt",
        model_a="model_x",
        model_b="model_y",
        by="judge",
        people="human",
        worker="worker",
        says="winner",
    )
    data = frame("llmfao/comparisons.jsonl.gz")
    key = ["prompt", "model_x", "model_y"]
    people = data[data["judge"] == "human"]
    counts = people.groupby([*key, "winner"]).size().unstack(fill_value=0)
    most = counts.max(axis=1)
    gold = counts.idxmax(axis=1)[counts.eq(most, axis=0).sum(axis=1) == 1]
    assert figures["people"]["labels"] == len(people) == 8931
    assert figures["people"]["labelled"] == len(gold)
    assert figures["people"]["no_majority"] == len(counts) - len(gold)
    rights = {}
    for judge in ("gpt4", "gpt3"):
        verdict = data[data["judge"] == judge].set_index(key)["winner"].reindex(gold.index)
        found = figures["judges"][judge]
        assert found["kappa"]["value"] == pytest.approx(cohen_kappa_score(gold, verdict), abs=1e-12)
        assert found["accuracy"]["value"] == pytest.approx(accuracy_score(gold, verdict))
        two = (gold != "tie") & (verdict != "tie")
        assert found["kappa_two_way"]["value"] == pytest.approx(
            cohen_kappa_score(gold[two], verdict[two]), abs=1e-12
        )
        assert found["kappa"]["low"] < found["kappa"]["value"] < found["kappa"]["high"]
        rights[judge] = verdict == gold
    only = [int((rights[x] & ~rights[y]).sum()) for x, y in (("gpt4", "gpt3"), ("gpt3", "gpt4"))]
    (line,) = figures["ranking"]
    assert [line["only_first_right"], line["only_second_right"]] == only


# ---- prometheus: three replies to each, no labels


def test_how_much_repeats_vary(tmp_path: Path) -> None:
    figures = measured(
        tmp_path,
        ["prometheus/vicuna_eval.jsonl.gz"],
        prompt="idx",
        a="response",
        judges={"gpt-4": "gpt4_scores"},
    )
    scores = np.array(frame("prometheus/vicuna_eval.jsonl.gz")["gpt4_scores"].tolist(), float)
    repeats = figures["judges"]["gpt-4"]["repeats"]
    assert figures["kind"] == "scores"
    assert repeats["items"] == 320
    assert repeats["replies"] == 960
    assert repeats["variance"] == pytest.approx(pd.DataFrame(scores).var(axis=1, ddof=1).mean())
    assert repeats["all_the_same"] == pytest.approx((np.ptp(scores, axis=1) == 0).mean())
    assert repeats["largest_range"] == np.ptp(scores, axis=1).max()
