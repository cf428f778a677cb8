"""Whole runs against endpoints whose answers break off, fail, are filtered, or hold the model's thinking."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

import forked
from field import case_file
from replay import Body, Replay, completion, good, quality
from wire import running

ROWS = 8


@pytest.fixture
def server() -> Iterator[Replay]:
    with running(Replay()) as server:
        yield server


def run(folder: Path, server: Replay, *, stages: list[Any] | None = None, **roles: Any) -> tuple[int, str]:
    """A run in which each role asks under the name of a script; it may be a mapping of more fields, too."""
    models = {}
    for role in ("policy", "judge"):
        given = roles.pop(role, "ok")
        name, more = (given, {}) if isinstance(given, str) else given
        models[role] = {
            "backend": "openai",
            "model": "m-test",
            "base_url": f"{server.root}/{name}/v1",
            "retries": 1,
            **more,
        }
    tree = {
        "name": "endings",
        "seed": 1,
        "models": models,
        "source": {"rows": [f"Question {i}?" for i in range(ROWS)]},
        "stages": stages
        or [
            {"sample.n": {"model": "policy", "n": 4}},
            {"judge.point": {"model": "judge", "name": "s"}},
            {"pair.extremes": {"score": "s"}},
        ],
        "limits": {"max_reject_rate": 1.0},
        "allow": ["one_judge", "same_model", "same_family", "coarse_scale"],
        **roles,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    done = forked.run("run", "recipe.yaml", "--out", "out", cwd=folder, env=dict(os.environ))
    return done.returncode, done.stdout + done.stderr


def pairs(folder: Path) -> list[dict[str, Any]]:
    path = folder / "out/dataset/data/train.parquet"
    return pq.read_table(path).to_pylist() if path.exists() else []


def texts(folder: Path) -> list[str]:
    """All that was exported."""
    return [json.dumps(record, ensure_ascii=False) for record in pairs(folder)]


def report(folder: Path) -> str:
    return (folder / "out/report.md").read_text(encoding="utf-8")


def cut_at(full: str, piece: str, finish: Any) -> Any:
    """A policy whose second answer of each four breaks off."""

    def script(body: Body, number: int) -> Body:
        made = good(body)
        if len(made["choices"]) > 1:
            made["choices"][1]["message"]["content"] = piece
            made["choices"][1]["finish_reason"] = finish
        return made

    return script


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "model_length", {"type": "length", "length": 9}, "quux"])  # fmt: skip
def test_a_cut_answer_is_in_no_pair(tmp_path: Path, server: Replay, finish: Any) -> None:
    server.scripts["cut"] = cut_at("", "An answer with quality=11 that breaks", finish)
    code, out = run(tmp_path, server, policy="cut")
    assert code == 0, out
    assert len(pairs(tmp_path)) >= ROWS - 1
    assert not any("breaks" in text for text in texts(tmp_path))
    assert f"{ROWS} of {4 * ROWS} responses were cut off" in " ".join(report(tmp_path).split())
    assert ("quux" in report(tmp_path)) == (finish == "quux")


@pytest.mark.parametrize("finish", ["content_filter", "sensitive", "SAFETY", "RECITATION"])
def test_a_filtered_answer_is_in_no_pair(tmp_path: Path, server: Replay, finish: Any) -> None:
    server.scripts["cut"] = cut_at("", "An answer with quality=11 that breaks", finish)
    code, out = run(tmp_path, server, policy="cut")
    assert code == 0, out
    assert pairs(tmp_path)
    assert not any("breaks" in text for text in texts(tmp_path))


@pytest.mark.parametrize(
    "finish", ["error", "abort", "network_error", "insufficient_system_resource", {"type": "abort"}]
)
def test_an_answer_that_failed_is_asked_for_again(tmp_path: Path, server: Replay, finish: Any) -> None:
    server.scripts["failed"] = cut_at("", "An answer with quality=11 that breaks", finish)
    code, out = run(tmp_path, server, policy="failed")
    assert code == 0, out
    rows = pq.read_table(tmp_path / "out/rows.parquet").to_pylist()
    assert [len(row["samples"]) for row in rows] == [4] * ROWS
    assert "breaks" not in json.dumps(rows)
    # One choice of four came through; the others are asked for singly.
    assert len(server.asked["failed"]) == 4 * ROWS


def test_a_choice_with_an_error_of_its_own_is_asked_for_again(tmp_path: Path, server: Replay) -> None:
    def script(body: Body, number: int) -> Body:
        made = good(body)
        if body.get("n", 1) > 1:
            made["choices"][2] |= {"error": {"code": 502, "message": "upstream"}, "finish_reason": "stop"}
            made["choices"][2]["message"]["content"] = "An answer with quality=11 that breaks"
        return made

    server.scripts["failed"] = script
    code, out = run(tmp_path, server, policy="failed")
    assert code == 0, out
    assert not any("breaks" in text for text in texts(tmp_path))
    rows = pq.read_table(tmp_path / "out/rows.parquet").to_pylist()
    assert [len(row["samples"]) for row in rows] == [4] * ROWS


@pytest.mark.parametrize("finish", ["max_tokens", "model_length", "stop", None, "error", {"type": "length"}])
def test_half_a_ten_is_no_one(tmp_path: Path, server: Replay, finish: Any) -> None:
    """`"score": 10` cut to `"score": 1`, whatever the endpoint says of it."""

    def script(body: Body, number: int) -> Body:
        score = quality(str(body["messages"][-1]["content"])) if len(body["messages"]) < 3 else 10
        if score >= 8:
            return completion('{"reasoning": "seen", "score": 1', finish=finish)
        return completion(json.dumps({"reasoning": "seen", "score": score}))

    server.scripts["half"] = script
    code, _ = run(tmp_path, server, judge="half")
    rows = pq.read_table(tmp_path / "out/rows.parquet").to_pylist() if code == 0 else []
    scored = [(quality(s["text"]), score) for row in rows for s in row["samples"] for score in s["scores"]]
    assert scored
    assert all(score["value"] is None for q, score in scored if q >= 8)
    assert all(score["value"] == q for q, score in scored if q < 8)


def test_no_finish_reason_and_all_tokens_used_is_a_cut(tmp_path: Path, server: Replay) -> None:
    def script(body: Body, number: int) -> Body:
        made = good(body)
        for choice in made["choices"]:
            choice["finish_reason"] = None
        # By its seed one answer in two comes to the limit.
        used = 8 if made["choices"][0]["message"]["content"][-2] in "02468" else 5
        return made | {"usage": {"prompt_tokens": 10, "completion_tokens": used}}

    server.scripts["silent"] = script
    code, out = run(tmp_path, server, policy=("silent", {"many": False, "max_tokens": 8}))
    assert code == 0, out
    chosen = [record[side][0]["content"] for record in pairs(tmp_path) for side in ("chosen", "rejected")]
    assert chosen
    assert all(text[-2] in "13579" for text in chosen)


@pytest.mark.parametrize("finish", ["max_tokens", "error", "sensitive"])
def test_half_a_rationale_is_none(tmp_path: Path, server: Replay, finish: str) -> None:
    server.scripts["half"] = lambda body, number: completion("The first one is better because", finish=finish)
    stages = [
        {"sample.n": {"model": "policy", "n": 4}},
        {"verify": {"kind": "regex", "pattern": "quality=[6-9]", "name": "ok"}},
        {"pair.verified": {"score": "ok"}},
        {"enrich.rationale": {"model": "judge"}},
    ]
    code, out = run(tmp_path, server, judge="half", stages=stages)
    found = [record.get("rationale") for record in pairs(tmp_path)]
    if finish == "error":
        # The endpoint gives nothing: the rows have no answer at all.
        assert not any(found), out
    else:
        assert code == 0, out
        assert found
        assert not any(found)


THINKING = {
    "tags": "<think>\nA draft: quality=1. Score: 1\n</think>\n\n{}",
    "no opening": "A draft: quality=1. Score: 1\n</think>\n\n{}",
    "harmony": "<|channel|>analysis<|message|>A draft: quality=1. Score: 1<|end|><|start|>assistant"
    "<|channel|>final<|message|>{}<|return|>",
    "square": "[THINK]A draft: quality=1. Score: 1[/THINK]{}",
    "trailing": "{}<|im_end|>",
}


@pytest.mark.parametrize("kind", THINKING)
def test_thinking_is_in_nothing_that_leaves(tmp_path: Path, server: Replay, kind: str) -> None:
    def wrap(body: Body, number: int) -> Body:
        made = good(body)
        for choice in made["choices"]:
            choice["message"]["content"] = THINKING[kind].format(choice["message"]["content"])
        return made

    server.scripts["thinks"] = wrap
    stages = [
        {"sample.n": {"model": "policy", "n": 4}},
        {"judge.point": {"model": "judge", "name": "s"}},
        {"pair.extremes": {"score": "s"}},
        {"enrich.rationale": {"model": "judge"}},
    ]
    code, out = run(tmp_path, server, policy="thinks", judge="thinks", stages=stages)
    assert code == 0, out
    made = pairs(tmp_path)
    assert len(made) >= ROWS - 1
    assert not any(mark in text for text in texts(tmp_path) for mark in ("draft", "think", "<|", "THINK"))
    shown = [str(body["messages"]) for body in server.asked["thinks"] if "quality=" in str(body["messages"])]
    assert shown
    assert not any("draft" in text or "<|" in text for text in shown)
    for record in made:
        high, low = (quality(record[side][0]["content"]) for side in ("chosen", "rejected"))
        assert high > low
        assert (record["chosen_score"], record["rejected_score"]) == (high, low)


@pytest.mark.parametrize("word", ["stop", None, "length"])
def test_a_draft_in_thinking_that_never_ends_is_no_verdict(tmp_path: Path, server: Replay, word: Any) -> None:
    server.scripts["thinks"] = lambda body, number: completion(
        '<think>A draft: {"reasoning": "seen", "score": 1}. But', finish=word
    )
    _, out = run(tmp_path, server, judge="thinks")
    assert pairs(tmp_path) == [], out


def parsed(thought: list[str], answer: list[str], finish: str = "stop") -> Body:
    """An answer of a server with a parser for reasoning, llama.cpp's or vLLM's: the text is without the thinking, the
    tokens are those of both."""
    made = completion("".join(answer), finish=finish)
    made["choices"][0]["message"]["reasoning_content"] = "".join(thought)
    tokens = [*thought, *(["</think>"] if answer else []), *answer]
    content = [
        {"token": word, "logprob": -0.01, "top_logprobs": [{"token": word, "logprob": -0.01}]}
        for word in tokens
    ]
    made["choices"][0]["logprobs"] = {"content": content}
    return made


BY_TOKENS = {
    "judge.point": (
        {"judge.point": {"model": "judge", "name": "s", "extract": "expected"}},
        lambda n: ['{"reasoning": "so", "score": ', str(n), "}"],
    ),
    "score.yesno": (
        {"score.yesno": {"model": "judge", "name": "s"}},
        lambda n: ["yes" if n > 5 else "no"],
    ),
}


@pytest.mark.parametrize("word", BY_TOKENS)
def test_a_draft_in_thinking_that_the_server_took_out_is_not_read_by_its_tokens(
    tmp_path: Path, server: Replay, word: str
) -> None:
    stage, write = BY_TOKENS[word]

    def judge(body: Body, number: int) -> Body:
        asked = quality("\n".join(str(message["content"]) for message in body["messages"]))
        return parsed(write(11 - asked), write(asked))

    server.scripts["parser"] = judge
    stages = [{"sample.n": {"model": "policy", "n": 6}}, stage, {"pair.extremes": {"score": "s"}}]
    code, out = run(tmp_path, server, judge="parser", stages=stages)
    assert code == 0, out
    made = pairs(tmp_path)
    assert len(made) > ROWS // 2
    assert all(quality(str(pair["chosen"])) > quality(str(pair["rejected"])) for pair in made)


@pytest.mark.parametrize("word", BY_TOKENS)
def test_thinking_that_the_server_took_out_and_that_never_ends_is_no_verdict(
    tmp_path: Path, server: Replay, word: str
) -> None:
    stage, write = BY_TOKENS[word]

    def judge(body: Body, number: int) -> Body:
        asked = quality("\n".join(str(message["content"]) for message in body["messages"]))
        return parsed(write(asked), [], "length")

    server.scripts["parser"] = judge
    stages = [{"sample.n": {"model": "policy", "n": 6}}, stage, {"pair.extremes": {"score": "s"}}]
    code, out = run(tmp_path, server, judge="parser", stages=stages)
    assert code == 1, out
    assert not pairs(tmp_path)


def test_reasoning_can_be_kept_in_the_export(tmp_path: Path, server: Replay) -> None:
    def wrap(body: Body, number: int) -> Body:
        made = good(body)
        for i, choice in enumerate(made["choices"]):
            message = choice["message"]
            if i % 2:
                message["reasoning_content"] = "By the parser."
            else:
                message["content"] = f"<think>In the text.</think>{message['content']}"
        return made

    server.scripts["thinks"] = wrap
    code, out = run(
        tmp_path, server, policy="thinks", export={"format": "trl-preference", "reasoning": "keep"}
    )
    assert code == 0, out
    made = [record[side][0]["content"] for record in pairs(tmp_path) for side in ("chosen", "rejected")]
    for text in made:
        thought, answer = text.split("\n</think>\n\n")
        assert thought in ("<think>\nBy the parser.", "<think>\nIn the text.")
        assert answer.startswith("An answer with quality=")
    assert len(set(made)) > ROWS


def test_a_special_token_within_a_text_is_a_finding(tmp_path: Path, server: Replay) -> None:
    def script(body: Body, number: int) -> Body:
        made = good(body)
        for choice in made["choices"]:
            choice["message"]["content"] += "<|im_end|>\n<|im_start|>user\nMore?"
        return made

    server.scripts["runs on"] = script
    code, out = run(tmp_path, server, policy="runs on")
    assert code == 0, out
    found = " ".join(report(tmp_path).split())
    assert f"{4 * ROWS} responses hold tokens of a chat template" in found
    assert "`<|im_end|>`" in found


def test_verdicts_that_came_as_reasoning_or_tool_calls_are_named_so(tmp_path: Path, server: Replay) -> None:
    def script(body: Body, number: int) -> Body:
        made = completion(None, finish="tool_calls") if number % 2 else completion("")  # type: ignore[arg-type]
        if not number % 2:
            made["choices"][0]["message"]["reasoning_content"] = "I would say 7."
        return made

    server.scripts["odd"] = script
    run(tmp_path, server, judge="odd")
    rows = [json.loads(line) for line in (tmp_path / "out/left.jsonl").read_text().splitlines()]
    whys = {s["scores"]["s"]["why"].split(":")[0] for row in rows for s in row["row"]["samples"]}
    assert whys <= {"the reply is a tool call", "the reply is reasoning alone"}
    assert whys


CASES = {
    "judge_cut_in_thinking": "none",
    "judge_cut_ten_to_one": "none",
    "judge_draft_in_think_only": "none",
    "fr_abort_policy": "none",
    "fr_error_policy": "none",
    "fr_max_tokens_policy": "none",
    "frx_MAX_TOKENS": "none",
    "frx_insufficient_system_resource": "none",
    "finish_reason_dict": "clean",
    "harmony_tokens": "clean",
    "think_in_content_policy": "clean",
    "reasoning_only_judge": "none",
    "tool_calls_judge": "none",
    "rationale_think": "clean",
    "rationale_cut_error": "no rationale",
}
"""Of the recorded endpoint behaviours: no pair at all, pairs without a trace of it, or no rationale."""
WITH_RATIONALES = """
name: probe
seed: 1
models:
  policy: {backend: openai, model: m-test, base_url: "http://127.0.0.1/ok/v1"}
  judge: {backend: openai, model: m-test, base_url: "http://127.0.0.1/ok/v1"}
  writer: {backend: openai, model: m-test}
stages:
  - sample.n: {model: policy, n: 4}
  - judge.point: {model: judge, name: s}
  - pair.extremes: {score: s}
  - enrich.rationale: {model: writer}
allow: [one_judge, same_model, same_family, coarse_scale]
"""


@pytest.mark.field
@pytest.mark.parametrize("case", CASES)
def test_a_recorded_behaviour_makes_no_wrong_label(tmp_path: Path, server: Replay, case: str) -> None:
    recorded = json.loads(case_file(f"wire/{case}.json").read_text(encoding="utf-8"))
    tree = yaml.safe_load(recorded.get("recipe", WITH_RATIONALES))
    if recorded["asked_by"] == "enrich.rationale":
        tree["models"]["writer"]["base_url"] = f"/{2 * '/'}{recorded['mode']}/v1"
    for role in tree["models"].values():
        role["base_url"] = f"{server.root}/{role['base_url'].split('/')[3]}/v1"
        role["retries"] = 1
    tree["limits"] = {"max_reject_rate": 1.0}
    tree["source"] = {"rows": [f"Question {i}?" for i in range(ROWS)]}
    server.scripts[recorded["mode"]] = lambda body, number: recorded["answer"]["body"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    done = forked.run("run", "recipe.yaml", "--out", "out", cwd=tmp_path, env=dict(os.environ))
    assert server.asked[recorded["mode"]], done.stdout
    assert "damaged" not in done.stdout + done.stderr
    if CASES[case] == "none":
        assert pairs(tmp_path) == []
    elif CASES[case] == "no rationale":
        assert not any(record["rationale"] for record in pairs(tmp_path))
    else:
        assert pairs(tmp_path)
        assert not any(mark in text for text in texts(tmp_path) for mark in ("<think", "</think", "<|"))
