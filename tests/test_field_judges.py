"""Parsers, verifiers and statistics on replies of real judges and solutions of real models."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

import field
from synthpref.core.agreement import agreement, kappa
from synthpref.core.answer import numeric_answer
from synthpref.core.parse import parse_choice, parse_score, parse_winner
from synthpref.core.types import Row, Sample
from synthpref.stages.verify import Verify
from synthpref.testing import run_stage

pytestmark = pytest.mark.field


def records(name: str) -> list[dict[str, Any]]:
    return field.records(f"{name}.jsonl.gz")


def test_every_recorded_three_way_verdict_is_read_from_its_reply() -> None:
    names = {"1": "first", "2": "second", "3": "tie", None: "invalid"}
    seen: Counter[tuple[str, str]] = Counter()
    for record in records("qlora_vicuna/pairwise_threeclass"):
        parsed = parse_choice(record["rationale"], {"1", "2", "3"})
        assert (parsed.value is None) == (parsed.why is not None)
        seen[names[parsed.value], record["winner"]] += 1
    assert sum(seen.values()) == 4480
    # Two replies name one verdict in their first line and another one in their last.
    unread = sum(n for (read, recorded), n in seen.items() if read == "invalid" != recorded)
    assert unread == 2
    assert all(read in (recorded, "invalid") for read, recorded in seen), seen
    assert seen["invalid", "invalid"] == 13


def test_verdicts_in_prose_are_read_as_recorded_or_not_at_all() -> None:
    """Each reasoned verdict of two judges, in both orders; "a" is the one shown first, not the one stored first."""
    seen: Counter[str] = Counter()
    for record in records("llmbar/judgments"):
        for order in ("ab", "ba"):
            reply = record.get(f"rationale_{order}")
            if record["strategy"] != "CoT" or not reply:
                continue
            letter = parse_winner(reply, ties=False).value
            recorded = record[order]
            shown_as = {"a": "A", "b": "B"} if order == "ab" else {"a": "B", "b": "A"}
            if letter is None:
                seen["neither" if recorded is None else "unread"] += 1
            else:
                seen["same" if letter == shown_as.get(recorded) else "different"] += 1
    assert seen["different"] == 0
    assert seen["same"] > 1600
    assert seen["unread"] / seen.total() < 0.01


@pytest.mark.parametrize("name", ["qlora_vicuna/relative_scores", "vicuna_blog_eval/reviews"])
def test_scores_in_prose_are_those_recorded_for_the_one_they_are_said_of(name: str) -> None:
    """These reviews give two scores apart from their text; some repeat one in the text."""
    said_of = re.compile(r"Assistant (\d)(?: \w+)? a score of (\d+)\.\s*$")
    read = checked = 0
    for record in records(name):
        if "pos" in record:
            mine, other = record["score"], record["gpt35_score"]
            first, second = (mine, other) if record["pos"] == 1 else (other, mine)
        else:
            first, second = record["score_1"], record["score_2"]
        score = parse_score(record["rationale"], (1, 10), integer=False).value
        read += score is not None
        named = said_of.search(record["rationale"])
        if named and -1 not in (first, second):
            checked += 1
            assert score == {"1": first, "2": second}[named[1]] == float(named[2])
    assert read > checked > (200 if name.startswith("qlora") else 10)


def both_orders() -> tuple[list[str], list[str]]:
    """The verdicts on each pair, by who was shown first, un-swapped."""
    turned = {"first": "second", "second": "first"}
    verdicts = {
        (r["id"], r["first"], r["second"]): r["winner"] for r in records("qlora_vicuna/pairwise_threeclass")
    }
    one, other = [], []
    for (prompt, a, b), winner in sorted(verdicts.items()):
        swapped = verdicts.get((prompt, b, a))
        if a < b and swapped is not None and "invalid" not in (winner, swapped):
            one.append(winner)
            other.append(turned.get(swapped, swapped))
    return one, other


def test_kappa_between_the_orders_is_that_of_sklearn() -> None:
    one, other = both_orders()
    assert len(one) > 2200
    assert set(one) == {"first", "second", "tie"}
    ours = kappa(one, other)
    assert ours == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)
    assert agreement(one, other) == pytest.approx(float(np.mean(np.array(one) == np.array(other))))
    # A judge with a liking for a place: far from chance, and far from sure.
    assert 0.1 < (ours or 0) < 0.9


@pytest.mark.parametrize(("kind", "unread"), [("numeric", 0), ("math", 7)])
def test_answers_agree_with_all_recorded_correctness(kind: str, unread: int) -> None:
    rows, truth = [], []
    for record in records("gsm8k/multi"):
        assert numeric_answer(record["gold_solution"]).value == numeric_answer(record["gold"]).value
        samples = tuple(Sample(r["text"], model=r["model"]) for r in record["responses"])
        prompt = ({"role": "user", "content": record["prompt"]},)
        rows.append(Row(id=f"{record['id']:04}", prompt=prompt, samples=samples, reference=record["gold"]))
        truth += [float(r["correct"]) for r in record["responses"]]
    made = run_stage(Verify.model_validate({"kind": kind}), rows)
    scores = [value for one in made if isinstance(one, Row) for value in one.values("verified")]
    assert len(scores) == 2636
    # Seven solutions end before they name an answer; "numeric" reads their last number.
    assert scores.count(None) == unread
    assert all(score in (None, right) for score, right in zip(scores, truth, strict=True))


def test_every_worked_reference_holds_a_number() -> None:
    answers = [record["answer"] for record in records("gsm8k/train")]
    assert len(answers) == 7473
    for answer in answers:
        gold = answer.rsplit("####", 1)[1].strip().replace(",", "")
        assert numeric_answer(answer).value == float(gold)
