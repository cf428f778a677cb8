from __future__ import annotations

import io
import json
import random
import re
import statistics
from dataclasses import replace
from typing import Any

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from made import full, paired
from synthpref import view
from synthpref.core.types import Comparison, Pair, Row, Sample, Score, Vote
from synthpref.io import page, report
from synthpref.io.findings import percent
from synthpref.io.tally import OTHER, Frequent, Reasons, Spread, table

SUMMARY: dict[str, Any] = {
    "name": "tried",
    "version": "0.1.0",
    "fingerprint": "abc",
    "state": "finished",
    "stop_reason": "",
    "books": {"input": 10, "added": 2, "exported": 9, "dropped": 2, "rejected": 1},
    "stages": [
        {"stage": "sample.n", "dropped": {}, "rejected": {"context_length": 1}},
        {"stage": "pair.mu_sigma", "dropped": {"all scores equal": 2}, "rejected": {}},
    ],
    "models": {
        "policy": {
            "model": "m",
            "backend": "openai",
            "licence": "mit",
            "requests": 12,
            "completions": 48,
            "replayed": 3,
            "prompt_tokens": 1000,
            "completion_tokens": 2000,
            "cost_usd": 1.25,
        }
    },
}


def built(*rows: Row, **changes: Any) -> report.Report:
    found = report.build(iter(rows), {**SUMMARY, **changes})
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found, allow_nan=False))
    return found


def said(found: report.Report, part: str) -> str:
    """The one statement that holds the part."""
    (line,) = [line for line in found["statements"] if part in line]
    return line


def test_the_books_and_the_reasons() -> None:
    found = built(paired(1))
    assert "Of 12 rows (of them 2 made from others), 9 came through, 2 were dropped and 1 rejected" in said(
        found, "Of 12"
    )
    text = page.markdown(found)
    assert "| pair.mu_sigma | dropped | all scores equal | 2 |" in text
    assert "| sample.n | rejected | context_length | 1 |" in text
    assert "read 1,000 tokens and wrote 2,000 for $1.25." in said(found, "tokens")
    assert "not every model" not in said(found, "tokens")


def test_how_often_the_rule_was_in_force() -> None:
    def row(i: int, below: bool, lowest: bool) -> Row:
        missed = "target below every sample" if below else None
        facts = {"below_all": below, "was_min": lowest, "missed": missed, "target": -1.5, "n": 2}
        return paired(i, pairs=(Pair(0, 1, "mu_sigma", margin=6.0, facts=facts),))

    rows = [row(i, i < 78, i < 84) for i in range(100)]
    found = built(*rows, paired(101))
    rule = found["pairs"]["rules"]["mu_sigma"]
    assert rule["pairs"] == 100
    assert rule["facts"]["below_all"]["counts"] == {"yes": 78, "no": 22}
    assert rule["facts"]["was_min"]["counts"] == {"yes": 84, "no": 16}
    assert rule["facts"]["target"]["numbers"]["mean"] == -1.5
    assert "lay below every response of the row for 78 % of the pairs" in said(found, "lay below")
    assert "in force for 22 % of the pairs" in said(found, "in force for")
    assert "the row's minimum for 84 % of the pairs" in said(found, "row's minimum")
    assert found["pairs"]["rules"]["extremes"]["pairs"] == 1


def test_a_rule_that_was_always_in_force_is_not_scolded() -> None:
    facts = {"below_all": False, "was_min": False, "missed": None}
    found = built(*(paired(i, pairs=(Pair(0, 1, "mu_sigma", 6.0, facts=facts),)) for i in range(9)))
    assert "for 0 % of the pairs" in said(found, "lay below")
    assert "in force for 100 % of the pairs" in said(found, "in force for")
    assert "More responses" not in said(found, "row's minimum")


def lengthy(chosen: int, rejected: int, i: int) -> Row:
    samples = (Sample("w " * chosen), Sample("v " * rejected))
    return paired(i, samples=samples, pairs=(Pair(0, 1, "extremes", 1.0),))


def test_length_bias() -> None:
    rows = [lengthy(20 if i < 68 else 10, 15, i) for i in range(100)] + [lengthy(5, 5, 101)]
    found = built(*rows)
    assert found["length"]["longer"] == {"chosen": 68, "rejected": 32, "equal": 1}
    assert found["length"]["chosen_longer_share"] == 0.68
    assert said(found, "longer") == (
        "Chosen is longer than rejected in 68 % of the pairs of unequal length (mean 17 against 15 words). "
        "A model trained on this also learns to write more."
    )
    mirrored = built(*(lengthy(15, 20 if i < 68 else 10, i) for i in range(100)))
    assert "learns to write less" in said(mirrored, "longer")


def test_a_few_pairs_do_not_make_a_bias() -> None:
    assert "learns" not in said(built(*(lengthy(20 if i < 7 else 10, 15, i) for i in range(10))), "longer")


def judged(shown: str, value: float) -> Vote:
    return Vote("j", value, shown=shown)


def test_flips_and_position() -> None:
    def comparison(*votes: Vote, flipped: bool = False) -> Comparison:
        values = [v.value for v in votes if v.value is not None]
        return Comparison("c", 0, 1, statistics.fmean(values) if values else None, flipped, votes)

    agree_a = comparison(judged("ab", 1.0), judged("ba", 1.0))
    agree_b = comparison(judged("ab", 0.0), judged("ba", 0.0))
    first = comparison(judged("ab", 1.0), judged("ba", 0.0), flipped=True)
    tie = comparison(judged("ab", 0.5), judged("ba", 0.5))
    one_order = comparison(judged("ab", 1.0))
    unread = comparison(Vote("j", None, why="no verdict"), Vote("j", None, why="no verdict"))
    rows = [paired(1, comparisons=(agree_a, agree_b, first, tie, one_order, unread))] * 10
    found = built(*rows)["comparisons"]["c"]
    assert found["asked"] == 60
    assert found["decided"] == 50
    assert found["both_orders"] == 40
    assert found["flipped"] == 10
    assert found["flipped_share"] == 0.25
    assert found["ties"] == 10
    # Shown first won: agree_a once, agree_b once, first twice, one_order once; second: agree_a and agree_b once.
    assert (found["first_shown_won"], found["second_shown_won"]) == (50, 20)
    assert found["votes_failed"] == {"no verdict": 20}
    lines = built(*rows)
    assert "25 % of the 40 pairs of responses judged in both orders" in said(lines, "both orders")
    assert "won 71 % of the verdicts without a tie. The judge leans to the first." in said(
        lines, "shown first"
    )
    assert "18 % of the verdicts of 'c' could not be read." in said(lines, "could not be read")


# ---- juries


def by_juror(**said: float | None) -> tuple[Vote, ...]:
    return tuple(
        Vote(f"m-{role}", value, None if value is not None else "empty reply", role=role, shown="ab")
        for role, value in said.items()
    )


def jury(*votes: tuple[Vote, ...]) -> Row:
    """A row whose first two responses were compared by a jury, as often as there are votes."""
    games = tuple(
        Comparison("voted", 0, 1, sum(v.value or 0 for v in cast) / len(cast), votes=cast) for cast in votes
    )
    return paired(1, comparisons=games)


def test_how_jurors_agree_and_who_stands_apart() -> None:
    units = [(1, 1, 1), (1, 1, 0), (0, 0, 1), (1, 1, 0.5), (0, 0, 0), (1, 0, 0.5), (0, None, 0)]
    votes = [by_juror(a=a, b=b, c=c) for a, b, c in units]
    found = built(jury(*votes))
    told = found["comparisons"]["voted"]["jury"]
    ours = told["alpha"]
    data = np.array([[np.nan if v is None else v for v in unit] for unit in units], dtype=float).T
    assert ours == pytest.approx(krippendorff.alpha(data, level_of_measurement="nominal"))
    # Of the six with a most frequent verdict, c was on its side in three.
    shares = {name: juror["with_majority_share"] for name, juror in told["jurors"].items()}
    assert shares == {"a": 1, "b": 1, "c": 0.5}
    assert told["jurors"]["b"] == {
        "model": "m-b", "votes": 6, "failed": 1, "not_asked": 0, "with_majority_share": 1.0, "reliability": None,
    }  # fmt: skip
    assert f"Krippendorff's alpha {ours:.2f}" in said(found, "alpha")
    assert "That is weak" in said(found, "alpha")
    assert "a sided with the most frequent verdict most often (100 %), c least often (50 %)" in said(
        found, "sided"
    )
    text = page.markdown(found)
    assert "## Jurors" in text
    assert "| voted | c | m-c | 7 | 0 | 0 | 0.5 | — |" in text


def test_scores_of_a_jury_are_compared_as_numbers() -> None:
    units = [(8, 7), (3, 4), (9, 9), (2, 5)]
    samples = tuple(
        Sample(f"t{i}", scores={"jury": Score(1.0, votes=by_juror(a=a, b=b))})
        for i, (a, b) in enumerate(units)
    )
    told = built(paired(1, samples=samples, pairs=()))["scores"]["jury"]["jury"]
    expected = krippendorff.alpha(np.array(units, dtype=float).T, level_of_measurement="interval")
    assert told["alpha"] == pytest.approx(expected)
    assert told["judged_by_several"] == 4


def test_what_was_not_asked_is_saved_and_no_failure() -> None:
    silent = Vote("m-c", None, "not asked: the outcome was certain", role="c", asked=False)
    found = built(jury((*by_juror(a=1, b=1), silent), by_juror(a=1, b=0, c=1)))
    told = found["comparisons"]["voted"]["jury"]
    assert (told["replies"], told["replies_saved"]) == (5, 1)
    assert found["comparisons"]["voted"]["votes"] == 5
    assert found["comparisons"]["voted"]["votes_failed"] == {}
    assert "stopping early saved 1 replies, 17 %" in said(found, "saved")


def test_reliabilities_are_told() -> None:
    votes = tuple(replace(v, reliability=r) for v, r in zip(by_juror(a=1, b=0), (0.9, 0.625), strict=True))
    found = built(jury(votes))
    assert "estimated to be right in: a 90 %, b 62 %" in said(found, "estimated")


def test_votes_without_a_role_are_no_jury() -> None:
    assert built(full())["comparisons"]["compared"]["jury"] is None
    assert "## Jurors" not in page.markdown(built(full()))


def test_circles_are_counted_and_shown() -> None:
    def games(*outcomes: tuple[int, int, float]) -> tuple[Comparison, ...]:
        return tuple(Comparison("compared", a, b, p) for a, b, p in outcomes)

    circle = paired(1, comparisons=games((0, 1, 1), (1, 2, 1), (0, 2, 0)))
    order = paired(2, comparisons=games((0, 1, 1), (1, 2, 1), (0, 2, 1)))
    found = built(circle, order)
    assert found["comparisons"]["compared"]["triples"] == 2
    assert found["comparisons"]["compared"]["cyclic_triples"] == 1
    assert found["comparisons"]["compared"]["cycle"] == ["row-001", 0, 1, 2]
    line = said(found, "circle")
    assert "50 % of the triples" in line
    assert "in row row-001, response 0 beats 1, 1 beats 2 and 2 beats 0" in line
    assert not [line for line in built(order)["statements"] if "circle" in line]


def test_how_sure_the_pairs_are() -> None:
    pair = Pair(0, 1, "extremes", 6.0, p=0.8, p_low=0.4, p_high=0.9, agreement=0.75, votes=4)
    found = built(
        paired(1, pairs=(pair,)), paired(2, pairs=(replace(pair, p=1.0, p_low=0.6, votes=8),)), paired(3)
    )
    line = said(found, "preferred with probability")
    assert "probability 0.90 in the mean, resting on 4 votes in the median; for 50 % of the pairs" in line
    assert found["pairs"]["p_low_above_half"] == 1
    assert found["pairs"]["agreement"]["mean"] == 0.75
    assert "| agreement | 2 |" in page.markdown(found)
    assert "min_p_low" in said(built(paired(1, pairs=(pair,))), "preferred with probability")


def test_failures_are_counted_by_kind_and_never_as_numbers() -> None:
    rows = [
        paired(
            i,
            samples=(
                Sample("a", scores={"s": Score(4.0, votes=(Vote("j", 4.0), Vote("j", None, why="cut off")))}),
                Sample("b", scores={"s": Score(None, why=f"off the scale: {i}, near 'x{i}'")}),
                Sample("c"),
            ),
            pairs=(),
        )
        for i in range(5)
    ]
    found = built(*rows)["scores"]["s"]
    assert found["values"]["n"] == 5
    assert (found["values"]["min"], found["values"]["max"]) == (4.0, 4.0)
    assert found["failed"] == {"off the scale: …, near …": 5}
    assert found["votes_failed"] == {"cut off": 5}
    assert found["not_scored"] == 5
    assert "50 % of the scores 's' have no value" in said(built(*rows), "no value")


CONSTANT = "This answer was made with care, covers all that was asked, and leaves nothing to be wished for"


def wins(*texts: str) -> list[Row]:
    """Rows in each of which one of the texts is chosen."""
    return [
        replace(paired(i), samples=(Sample(text), Sample(f"another answer to question {i}, which is worse")))
        for i, text in enumerate(texts)
    ]


def different(n: int) -> list[str]:
    return [" ".join(f"w{i}x{j}" for j in range(12)) for i in range(n)]


def test_an_answer_that_wins_for_many_prompts_is_named() -> None:
    found = built(*wins(*[CONSTANT] * 6, *different(20)))
    assert found["pairs"]["most_chosen"] == {"text": CONSTANT[:80], "rows": 6}
    assert "was chosen in at least 6 rows (23 %): `This answer was made" in said(found, "One answer wins")


def test_an_answer_that_changes_a_few_words_is_the_same_nearly() -> None:
    texts = [f"{CONSTANT}, in matter number {i} as in all others" for i in range(20)]
    most = built(*wins(*texts, *different(20)))["pairs"]["most_chosen"]
    assert 10 <= most["rows"] <= 20


@pytest.mark.parametrize(
    "texts",
    [
        different(30),
        [*[CONSTANT] * 4, *different(10)],
        [*[CONSTANT] * 5, *different(300)],
        ["Yes.", "42", "Paris", "B"] * 10,
        [f"{CONSTANT.split()[i]} {text}" for i, text in enumerate(different(15))],
        [],
    ],
)  # fmt: skip
def test_answers_that_differ_or_are_few_or_short_are_not_named(texts: list[str]) -> None:
    assert not [line for line in built(*wins(*texts))["statements"] if "One answer wins" in line]


def test_of_many_texts_the_frequent_one_is_found_in_bounded_memory() -> None:
    frequent, rng = Frequent(), random.Random(0)
    texts = different(5000) + [CONSTANT] * 150
    rng.shuffle(texts)
    for text in texts:
        frequent.add([text, text])
    most = frequent.most()
    assert most is not None
    assert most["text"] == CONSTANT[:80]
    assert 150 - len(texts) / (Frequent.KEPT + 1) <= most["rows"] <= 150
    assert len(frequent.counts) <= Frequent.KEPT
    assert frequent.counts.keys() == frequent.shown.keys()


def test_a_text_without_spaces_is_made_of_its_signs() -> None:
    frequent = Frequent()
    for _ in range(2):
        frequent.add(["これはとても良い答えです"])
    assert frequent.most() == {"text": "これはとても良い答えです", "rows": 2}


def test_responses() -> None:
    samples = (
        Sample("a", model="m1", finish_reason="stop"),
        Sample("b", model="m2", finish_reason="length"),
        Sample(" ", model="m2", finish_reason="stop"),
        Sample("d"),
    )
    found = built(paired(1, samples=samples, pairs=(Pair(0, 1, "r"),), licence="mit"))
    assert found["samples"]["finish_reasons"] == {"stop": 2, "length": 1, "not given": 1}
    assert (found["samples"]["truncated"], found["samples"]["empty"]) == (1, 1)
    assert found["samples"]["models"]["m1"] == {"samples": 1, "chosen": 1, "rejected": 0}
    assert found["samples"]["models"]["m2"] == {"samples": 2, "chosen": 0, "rejected": 1}
    assert found["licences"] == {"mit": 1}
    assert "1 of 4 responses were cut off" in said(found, "cut off")


def test_simulated_models_are_named_first() -> None:
    models = {"policy": {**SUMMARY["models"]["policy"], "backend": "simulated"}}
    assert "simulated" in built(paired(1), models=models)["statements"][0]
    assert not any("simulated" in line for line in built(paired(1))["statements"])


@pytest.mark.parametrize("rows", [[], [replace(paired(1), samples=(), pairs=())], [full()]])
def test_a_report_of_little(rows: list[Row]) -> None:
    found = built(*rows, models={}, stages=[], books={})
    text = page.markdown(found)
    assert text.startswith("# Report: tried\n")
    assert "nan" not in text
    assert "inf" not in text


def test_reports_do_not_hang_on_the_order_of_rows() -> None:
    rows = [paired(i, licence=f"l{i % 3}") for i in range(40)] + [full()]
    mixed = random.Random(3).sample(rows, len(rows))
    assert built(*rows) == built(*mixed)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_a_spread_is_that_of_the_numbers(values: list[float]) -> None:
    spread = Spread()
    for value in values:
        spread.add(value)
    found = spread.facts()
    assert found is not None
    assert (found["n"], found["min"], found["max"]) == (len(values), min(values), max(values))
    assert found["mean"] == pytest.approx(statistics.fmean(values), abs=1e-6)
    ordered = sorted(values)
    for key, q in (("q05", 0.05), ("q25", 0.25), ("q50", 0.5), ("q75", 0.75), ("q95", 0.95)):
        at = next(v for i, v in enumerate(ordered) if i + 1 >= q * len(values))
        assert found[key] == pytest.approx(at, rel=1e-3)
    assert sum(count for *_, count in spread.bins()) == len(values)


def test_memory_does_not_grow_with_the_rows() -> None:
    spread, reasons = Spread(), Reasons()
    rng = random.Random(0)
    for _ in range(50_000):
        spread.add(rng.random())
        reasons.add("".join(rng.choices("abcdef", k=8)))
    assert len(spread.counts) < 40_000
    assert len(reasons.counts) == 201
    assert reasons.counts.total() == 50_000
    assert reasons.counts[OTHER] > 49_000


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.5, "50 %"),
        (0.0321, "3.2 %"),
        (0.994, "99.4 %"),
        (0.00001, "under 0.1 %"),
        (0.99999, "over 99.9 %"),
        (None, "none"),
    ],
)
def test_percent(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_a_table_cannot_be_broken_by_what_is_in_it() -> None:
    assert table(("a", "b"), [("x|y\nz", 1234)]) == "| a | b |\n| --- | ---: |\n| x\\|y z | 1,234 |"


def test_names_and_values_are_whole_in_a_terminal_of_80_columns() -> None:
    heads = ["reward.helpfulness", "reward.correctness", "reward.complexity", "reward.verbosity"]
    heads.append(f"reward.{'a_head_with_a_name_that_is_long_' * 3}")
    values = (7.772e-05, -2.345, 2.345, 0.0)
    samples = tuple(Sample(f"s{i}", scores={h: Score(v) for h in heads}) for i, v in enumerate(values))
    text = page.markdown(built(*(paired(i, samples=samples, pairs=()) for i in range(300))))
    shown = Console(width=80, file=io.StringIO(), record=True)
    shown.print(view.page(text))
    lines = shown.export_text()
    assert "…" not in lines
    for head in heads[:-1]:
        assert f"\n {head} " in lines
    assert re.search(r" 1.943e-05 +-2\.345 ", lines)
    assert heads[-1] in "".join(line.split(" ")[1] for line in lines.split("\n") if line.startswith(" "))


def by_vote(*pairs: Pair, reply: str) -> report.Report:
    """The report of pairs made by a score that rests on one vote, from a judge that replied or a model that did not."""
    score = [Score(v, votes=(Vote("m", v, reply=reply),)) for v in (2.0, 1.0)]
    samples = tuple(Sample(f"s{i}", scores={"good": one}) for i, one in enumerate(score))
    return built(*(paired(i, samples=samples, pairs=(pair,)) for i, pair in enumerate(pairs)))


ONE = Pair(
    0, 1, "extremes", 1.0, p=1.0, p_low=0.2065, p_high=1.0, agreement=1.0, votes=1, facts={"score": "good"}
)


def test_what_no_pair_can_reach_is_not_advised() -> None:
    found = by_vote(ONE, reply="2")
    line = said(found, "preferred with probability")
    assert "resting on 1 vote in the median" in line
    assert "with 1 vote no pair can reach it; it takes 4" in line
    assert "keeps only" not in line
    three = by_vote(ONE, replace(ONE, votes=3, p_low=0.4385), reply="2")
    assert "with 3 votes no pair can reach it; it takes 4" in said(three, "preferred")
    lost = by_vote(replace(ONE, votes=5, p=0.6, p_low=0.23), reply="2")
    assert "`min_p_low: 0.5` in the pair stage would keep none of them." in said(lost, "preferred")
    sure = replace(ONE, votes=4, p_low=0.51)
    assert "keeps only the sure ones" in said(by_vote(ONE, ONE, sure, reply="2"), "preferred")


def test_a_plain_score_is_not_called_a_vote() -> None:
    found = by_vote(ONE, ONE, reply="")
    assert not [line for line in found["statements"] if "vote" in line or "min_p_low" in line]
    assert "rest on one plain score for each response" in said(found, "plain score")


@pytest.mark.parametrize(("reply", "advice"), [("A", "a clearer rubric, would help"), ("", "another model")])
def test_a_rubric_is_advised_where_there_is_one(reply: str, advice: str) -> None:
    votes = (Vote("j", 1.0, reply=reply, shown="ab"), Vote("j", 0.0, reply=reply, shown="ba"))
    found = built(paired(1, comparisons=(Comparison("c", 0, 1, 0.5, True, votes),)))
    assert advice in said(found, "when they were swapped")
    assert ("rubric" in said(found, "when they were swapped")) == bool(reply)
