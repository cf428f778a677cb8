"""Recorded and hostile replies of judges, read by the parsers as they are now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import field
from synthpref.core.parse import parse_choice, parse_score, parse_winner

pytestmark = pytest.mark.field

READINGS = Path(__file__).parent / "readings.json"
"""What was read from each recorded reply, in order, while the last verdict of a reply still counted whatever it was;
"-" for nothing. `7*3` are three sevens."""
Recorded = Iterator[tuple[str, list[str]]]
"""Replies, each with the responses that it is about."""


def records(name: str) -> list[dict[str, Any]]:
    return field.records(f"{name}.jsonl.gz")


def texts(name: str) -> dict[str, dict[str, str]]:
    return {r["id"]: {x["model"]: x["text"] for x in r["responses"]} for r in records(name)}


def three_ways(name: str) -> Recorded:
    shown = texts("qlora_vicuna/multi")
    for r in records(name):
        yield r["rationale"], [shown[r["id"]].get(r[side], "") for side in ("first", "second")]


def relative(name: str) -> Recorded:
    shown = texts("qlora_vicuna/multi")
    for r in records(name):
        yield r["rationale"], [shown[r["id"]].get(r["model"], "")]


def reviews(name: str) -> Recorded:
    shown = texts("vicuna_blog_eval/multi")
    for r in records(name):
        yield r["rationale"], [text for model, text in shown[r["id"]].items() if model in r["pair"]]


def llmbar(name: str) -> Recorded:
    shown = {r["id"]: [r["response_a"], r["response_b"]] for r in records("llmbar/pairs")}
    file, strategy = name.split(", ")
    for r in records(file):
        for order in ("ab", "ba"):
            if r["strategy"] == strategy and (reply := r.get(f"rationale_{order}")):
                yield reply, shown[r["id"]]


def feedback(name: str) -> Recorded:
    for r in records(name):
        for reply in r["gpt4_feedback"]:
            if reply:
                yield reply, [r["response"]]


STYLES = {
    "qlora_vicuna/pairwise_threeclass": three_ways,
    "qlora_vicuna/relative_scores": relative,
    "vicuna_blog_eval/reviews": reviews,
    "llmbar/judgments, CoT": llmbar,
    "llmbar/judgments, Swap_CoT": llmbar,
    "prometheus/vicuna_eval": feedback,
}


def read(style: str, reply: str, others: list[str]) -> str:
    if style.endswith("threeclass"):
        value: object = parse_choice(reply, {"1", "2", "3"}, others=others).value
    elif style.startswith("llmbar"):
        value = parse_winner(reply, ties=False, others=others).value
    else:
        score = parse_score(reply, (1, 10), integer=False, others=others).value
        value = None if score is None else f"{score:g}"
    return "-" if value is None else str(value)


def before(style: str) -> list[str]:
    runs = (run.split("*") for run in json.loads(READINGS.read_text(encoding="utf-8"))[style].split())
    return [value for value, *times in runs for _ in range(int(times[0]) if times else 1)]


def test_benign_replies_are_read_as_before() -> None:
    """At least 99 % of those that were read, the same, in each style and where the responses are known as well."""
    alone_same = known_same = total = 0
    for style, recorded in STYLES.items():
        pairs = list(zip(recorded(style), before(style), strict=True))
        had = [(reply, others, value) for (reply, others), value in pairs if value != "-"]
        alone = sum(read(style, reply, []) == value for reply, _, value in had)
        known = [read(style, reply, [text for text in others if text]) for reply, others, _ in had]
        same = sum(now == value for now, (*_, value) in zip(known, had, strict=True))
        assert all(now in ("-", value) for now, (*_, value) in zip(known, had, strict=True)), style
        assert alone / len(had) >= 0.99, (style, alone, len(had))
        alone_same, known_same, total = alone_same + alone, known_same + same, total + len(had)
    assert total == 8456
    assert alone_same / total >= 0.999
    assert known_same / total >= 0.99


def hostile() -> list[dict[str, Any]]:
    path = field.data_file("../cases/judge/replies.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("asked", [["reasoning", "score"], ["score"]])
def test_hostile_replies_are_read_rightly(asked: list[str]) -> None:
    replies = hostile()
    kept = missing = 0
    for r in replies:
        value = parse_score(r["reply"], (1, 10), asked=asked, others=[r["candidate"]]).value
        assert value != r["candidates_claim"], r
        if r["right"] == "missing":
            assert value is None, r
            missing += 1
        else:
            kept += value == r["right"]
    assert len(replies) == 238
    assert kept / (len(replies) - missing) >= 0.99
