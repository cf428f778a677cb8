"""Whole runs against endpoints that refuse a part, a row or a role, that break down for a while, or whose answers can
hardly be read."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from aiohttp import web

import forked
from field import case_file
from replay import Body, Replay, completion, good, quality
from wire import running, status

ROWS = 12
JUDGED = [
    {"sample.n": {"model": "policy", "n": 4}},
    {"judge.point": {"model": "judge", "name": "s"}},
    {"pair.extremes": {"score": "s"}},
]


@pytest.fixture
def server() -> Iterator[Replay]:
    with running(Replay()) as server:
        yield server


def run(
    folder: Path, server: Replay, *, stages: list[Any] | None = None, rows: int = ROWS, **roles: Any
) -> tuple[int, str]:
    """A run in which each role asks under the name of a script; (name, {field: value}) sets more fields."""
    models = {}
    for role in ("policy", "judge", "writer"):
        given = roles.pop(role, "ok")
        name, more = (given, {}) if isinstance(given, str) else given
        url = f"{server.root}/{name}/v1"
        models[role] = {"backend": "openai", "model": "m-test", "base_url": url, "retries": 2, **more}
    tree = {
        "name": "refusals",
        "seed": 1,
        "models": models,
        "source": {"rows": [f"Question {i}?" for i in range(rows)]},
        "stages": stages or JUDGED,
        "limits": {"max_reject_rate": 0.5},
        "allow": ["one_judge", "same_model", "same_family", "coarse_scale"],
        **roles,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    done = forked.run("run", "recipe.yaml", "--out", "out", cwd=folder, env=dict(os.environ))
    return done.returncode, done.stdout + done.stderr


def pairs(folder: Path) -> list[dict[str, Any]]:
    path = folder / "out/dataset/data/train.parquet"
    return pq.read_table(path).to_pylist() if path.exists() else []


def samples(folder: Path) -> list[dict[str, Any]]:
    return [s for row in pq.read_table(folder / "out/rows.parquet").to_pylist() for s in row["samples"]]


def left(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/left.jsonl").read_text("utf-8").splitlines()]


def text_of(body: Body) -> str:
    return "\n".join(str(message["content"]) for message in body["messages"])


def refusing(when: Callable[[Body, int], bool], refusal: Callable[[], web.Response]) -> Any:
    return lambda body, number: refusal() if when(body, number) else good(body)


def filtered() -> web.Response:
    """As Azure says it."""
    return status(400, {"message": "The response was filtered due to the prompt", "code": "content_filter"})


def forbidden() -> web.Response:
    """As OpenRouter says it."""
    return status(
        403, {"code": 403, "message": "Your chosen model requires moderation and your input was flagged"}
    )


# ---- a part's own


@pytest.mark.parametrize("refusal", [filtered, forbidden], ids=["400", "403"])
def test_a_refused_candidate_has_no_score_and_the_others_have_theirs(
    tmp_path: Path, server: Replay, refusal: Any
) -> None:
    server.scripts["picky"] = refusing(lambda body, _: quality(text_of(body)) == 3, refusal)
    code, out = run(tmp_path, server, judge="picky", rows=30)
    assert code == 0, out
    assert left(tmp_path) == []
    assert len(pairs(tmp_path)) == 30
    scores = {quality(s["text"]): s["scores"][0] for s in samples(tmp_path)}
    assert scores[3]["value"] is None
    assert scores[3]["why"].startswith("content_filter: HTTP 4")
    assert all(scores[q]["value"] == q for q in scores if q != 3)


def test_a_refused_second_question_leaves_the_first_reason(tmp_path: Path, server: Replay) -> None:
    def script(body: Body, number: int) -> Any:
        if len(body["messages"]) > 2:
            return status(400, {"message": "The reasoning_content must be passed back", "code": "x"})
        return completion("I would rather not.") if quality(text_of(body)) == 3 else good(body)

    server.scripts["once"] = script
    code, out = run(tmp_path, server, judge="once", rows=30)
    assert code == 0, out
    assert left(tmp_path) == []
    (why,) = {s["scores"][0]["why"].split(":")[0] for s in samples(tmp_path) if quality(s["text"]) == 3}
    assert why == "refused"


def test_a_refused_rationale_is_missing_and_its_pair_stays(tmp_path: Path, server: Replay) -> None:
    stages = [*JUDGED, {"enrich.rationale": {"model": "writer"}}]
    server.scripts["picky"] = refusing(lambda body, number: number % 3 == 0, filtered)
    code, out = run(tmp_path, server, writer="picky", stages=stages)
    assert code == 0, out
    made = pairs(tmp_path)
    assert len(made) == ROWS
    assert sum(record["rationale"] is None for record in made) == ROWS // 3
    server.scripts["never"] = refusing(lambda body, number: number > 0, filtered)
    (tmp_path / "two").mkdir()
    code, out = run(tmp_path / "two", server, writer="never", stages=stages)
    assert code == 0, out
    assert len(pairs(tmp_path / "two")) == ROWS


@pytest.mark.parametrize("name", ["jury", "jury.pair"])
def test_a_juror_that_is_refused_is_one_vote_less(tmp_path: Path, server: Replay, name: str) -> None:
    server.scripts["picky"] = refusing(lambda body, number: number % 4 == 0, filtered)
    stage = {name: {"judges": ["judge", "writer", "policy"], "name": "s"}}
    last = {
        "pair.comparisons" if name == "jury.pair" else "pair.extremes": {}
        if name == "jury.pair"
        else {"score": "s"}
    }
    code, out = run(
        tmp_path,
        server,
        judge="picky",
        stages=[JUDGED[0], stage, last if name == "jury" else {"pair.extremes": {"score": "s"}}],
    )
    assert code == 0, out
    assert left(tmp_path) == []
    assert len(pairs(tmp_path)) == ROWS


@pytest.mark.parametrize("more", [{}, {"many": False}], ids=["at once", "singly"])
def test_one_of_n_that_is_refused_is_missing(tmp_path: Path, server: Replay, more: dict[str, Any]) -> None:
    """Asked for at once, an endpoint that gives one of n is asked for the others singly."""

    def script(body: Body, number: int) -> Any:
        made = good({**body, "n": 1})
        return filtered() if body["seed"] % 5 == 0 and body.get("n", 1) == 1 else made

    server.scripts["picky"] = script
    code, out = run(tmp_path, server, policy=("picky", more), rows=30)
    assert code == 0, out
    assert left(tmp_path) == []
    made = samples(tmp_path)
    assert len(made) == 4 * 30
    refused = [s for s in made if s["finish_reason"] == "content_filter"]
    assert 5 < len(refused) < 50
    assert {s["text"] for s in refused} == {""}
    assert all("content_filter: HTTP 400" in str(s["params"]) for s in refused)
    report = " ".join((tmp_path / "out/report.md").read_text("utf-8").split())
    assert f"{len(refused)} of 120 responses were taken away or cut short by a content filter" in report


def test_a_member_of_an_ensemble_that_is_refused_costs_its_own_samples(
    tmp_path: Path, server: Replay
) -> None:
    server.scripts["never"] = refusing(lambda body, number: number > 0, filtered)
    both = {"models": [{"model": "policy", "n": 2}, {"model": "writer", "n": 2}]}
    code, out = run(tmp_path, server, writer="never", stages=[{"sample.n": both}, *JUDGED[1:]], rows=4)
    assert code == 0, out
    assert left(tmp_path) == []
    assert sum(s["finish_reason"] == "content_filter" for s in samples(tmp_path)) == 6


def test_a_row_of_which_every_sample_was_refused_is_rejected_with_that_reason(
    tmp_path: Path, server: Replay
) -> None:
    server.scripts["picky"] = refusing(lambda body, _: "Question 7?" in text_of(body), filtered)
    code, out = run(tmp_path, server, policy=("picky", {"many": False}))
    assert code == 0, out
    (row,) = left(tmp_path)
    assert (row["how"], row["reason"]) == ("reject", "content_filter")


def test_what_is_missing_for_a_passing_reason_is_tried_again_by_the_next_start(
    tmp_path: Path, server: Replay
) -> None:
    up = {"up": False}
    server.scripts["flaky"] = refusing(
        lambda body, _: quality(text_of(body)) == 3 and not up["up"], lambda: status(500)
    )
    code, out = run(tmp_path, server, judge=("flaky", {"retries": 0}), rows=30)
    assert code == 0, out
    assert any(s["scores"][0]["value"] is None for s in samples(tmp_path))
    asked = len(server.asked["flaky"])
    up["up"] = True
    code, out = run(tmp_path, server, judge=("flaky", {"retries": 0}), rows=30)
    assert code == 0, out
    assert all(s["scores"][0]["value"] == quality(s["text"]) for s in samples(tmp_path))
    again = server.asked["flaky"][asked:]
    assert again
    assert {quality(text_of(body)) for body in again} == {3}


# ---- the row's, the role's


@pytest.mark.parametrize(
    "refusal",
    [
        forbidden,
        lambda: web.json_response(
            {"code": "no permission", "error": "Content violates usage guidelines. Failed check: BIO"},
            status=403,
        ),
        lambda: status(403),
        lambda: status(401),
        lambda: status(404, "not for this prompt"),
        lambda: status(400, {"message": "unsupported", "code": "unsupported_value", "param": "temperature"}),
    ],
    ids=["moderation", "guidelines", "403", "401", "404", "unsupported"],
)
def test_one_row_that_is_refused_while_others_are_answered_is_that_rows(
    tmp_path: Path, server: Replay, refusal: Any
) -> None:
    server.scripts["picky"] = refusing(lambda body, n: "Question 7?" in text_of(body) and n > 4, refusal)
    # One at a time, so that some were answered before.
    code, out = run(tmp_path, server, policy=("picky", {"concurrency": 1}), rows=9)
    assert code == 0, out
    assert len(left(tmp_path)) == 1
    assert len(pairs(tmp_path)) == 8


def test_a_key_that_is_taken_back_half_way_stops_the_run(tmp_path: Path, server: Replay) -> None:
    server.scripts["gone"] = refusing(lambda body, number: number >= 10, lambda: status(401, "revoked"))
    code, out = run(tmp_path, server, policy=("gone", {"concurrency": 1}), rows=60)
    assert code == 1, out
    assert "revoked" in out
    assert "check api_key" in out
    assert len(server.asked["gone"]) <= 10 + 64


ROLE = {
    "n groq": (400, {"message": "'n' : number must be at most 1", "type": "invalid_request_error"}, "many: false"),
    "n llama": (400, {"code": 400, "message": "Only one completion choice is allowed"}, "many: false"),
    "n plain": (422, {"message": "n > 1 is not supported"}, "many: false"),
    "schema": (400, {"message": "This response_format type is unavailable now"}, "structured_output: false"),
    "schema groq": (400, {"message": "This model does not support response format `json_schema`."}, "structured_output: false"),
    "grammar": (400, {"message": "Failed to parse grammar"}, "structured_output: false"),
    "system": (400, {"object": "error", "message": "System role not supported", "code": 400}, "fold_system: true"),
    "system openai": (400, {"message": "Unsupported value: 'messages[0].role' does not support 'system' with this model.", "param": "messages[0].role", "code": "unsupported_value"}, "fold_system: true"),
    "alternate": (400, {"message": "Conversation roles must alternate user/assistant/user/assistant/..."}, "fold_system: true"),
    "stream": (400, {"message": "This model only support stream mode, please enable the stream parameter to access the model. "}, "stream: true"),
    "temperature": (500, {"message": "Unsupported value: 'temperature' does not support 0.7 with this model.", "param": "temperature", "code": "unsupported_value"}, "leave temperature out"),
    "credit 402": (402, {"message": "Insufficient Balance"}, "no credit left"),
    "credit 400": (400, {"message": "Your credit balance is too low to access the API."}, "no credit left"),
    "budget": (400, {"message": "Budget has been exceeded! Current cost: 10.1, Max budget: 10.0"}, "no credit left"),
    "quota": (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, "no credit left"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROLE)
@pytest.mark.parametrize("role", ["policy", "judge"])
def test_what_is_refused_to_the_role_stops_the_run_with_a_hint(
    tmp_path: Path, server: Replay, name: str, role: str
) -> None:
    code, error, hint = ROLE[name]
    server.scripts["never"] = lambda body, number: status(code, error)
    ended, out = run(tmp_path, server, **{role: "never"}, rows=300)
    assert ended == 1, out
    assert hint in out
    assert f"models.{role}" in out
    # Those that had left before the first answer came.
    assert len(server.asked["never"]) <= 256


@pytest.mark.parametrize("rows", [3, 60])
def test_a_400_that_nobody_knows_is_the_roles_where_all_rows_get_it(
    tmp_path: Path, server: Replay, rows: int
) -> None:
    server.scripts["never"] = lambda body, number: status(400, "wrong, in words of its own")
    code, out = run(tmp_path, server, policy="never", rows=rows)
    assert code == 1, out
    assert "wrong, in words of its own" in out


def test_a_folded_system_message_is_in_the_users_turn(tmp_path: Path, server: Replay) -> None:
    def script(body: Body, number: int) -> Any:
        roles = [message["role"] for message in body["messages"]]
        if "system" in roles or any(a == b for a, b in pairwise(roles)):
            return status(400, "System role not supported")
        return good(body)

    server.scripts["gemma"] = script
    sample = {"sample.n": {"model": "policy", "n": 4, "system": "Answer briefly."}}
    code, out = run(
        tmp_path, server, policy=("gemma", {"fold_system": True}), judge=("gemma", {"fold_system": True}),
        stages=[sample, *JUDGED[1:]],
    )  # fmt: skip
    assert code == 0, out
    assert len(pairs(tmp_path)) == ROWS
    assert any(text_of(body).startswith("Answer briefly.\n\nQuestion") for body in server.asked["gemma"])


# ---- what passes


@pytest.mark.parametrize("code", [408, 424, 499, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529])
def test_a_passing_failure_is_asked_again(tmp_path: Path, server: Replay, code: int) -> None:
    server.scripts["flaky"] = refusing(lambda body, number: number % 4 == 0, lambda: status(code))
    ended, out = run(tmp_path, server, policy="flaky")
    assert ended == 0, out
    assert len(pairs(tmp_path)) == ROWS


def test_an_upstream_failure_behind_a_400_is_asked_again(tmp_path: Path, server: Replay) -> None:
    server.scripts["flaky"] = refusing(
        lambda body, number: number % 4 == 0,
        lambda: status(400, {"message": "Provider returned error", "code": 400}),
    )
    ended, out = run(tmp_path, server, policy="flaky")
    assert ended == 0, out
    assert len(pairs(tmp_path)) == ROWS


@pytest.mark.parametrize("code", [424, 500, 503, 520, 522, 529])
def test_no_row_pays_for_an_outage(tmp_path: Path, server: Replay, code: int) -> None:
    """Ten answers, then nothing but failures, for longer than the retries of a call last."""
    began = float("inf")

    def script(body: Body, number: int) -> Any:
        nonlocal began
        if number >= 10:
            began = min(began, time.monotonic())
        return status(code) if 0 <= time.monotonic() - began < 3 else good(body)

    server.scripts["out"] = script
    ended, out = run(tmp_path, server, policy=("out", {"retries": 1, "concurrency": 16}), rows=24)
    assert ended == 0, out
    assert left(tmp_path) == []
    assert len(pairs(tmp_path)) == 24


def test_one_row_at_which_the_server_breaks_down_is_that_rows(tmp_path: Path, server: Replay) -> None:
    server.scripts["flaky"] = refusing(lambda body, _: "Question 7?" in text_of(body), lambda: status(500))
    ended, out = run(tmp_path, server, policy=("flaky", {"retries": 1}))
    assert ended == 0, out
    assert [row["reason"] for row in left(tmp_path)] == ["transient"]


# ---- a 200 that can hardly be read


def raw(body: Body, change: Callable[[str], bytes], kind: str = "application/json") -> web.Response:
    return web.Response(body=change(json.dumps(good(body), ensure_ascii=False)), content_type=kind)


def streamed(text: str) -> bytes:
    whole = json.loads(text)
    events = []
    for choice in whole["choices"]:
        for piece in re.findall(r"\S+\s*", choice["message"]["content"]):
            events.append(
                {"choices": [{"index": choice["index"], "delta": {"content": piece}, "finish_reason": None}]}
            )
        events.append({"choices": [{"index": choice["index"], "delta": {}, "finish_reason": "stop"}]})
    events.append({"choices": [], "usage": whole["usage"], "model": whole["model"]})
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return (": PROCESSING\n\n" + "".join(lines) + "data: [DONE]\n\n").encode()


READABLE: dict[str, Callable[[str], bytes]] = {
    "bom": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "surrogate": lambda text: text.replace("An answer", "An answer \\ud83d").encode(),
    "utf8": lambda text: text.encode().replace(b"An answer", b"An \xe2\x82 answer"),
    "infinity": lambda text: text.replace('"object"', '"odd": -Infinity, "nan": NaN, "object"').encode(),
    "stream": streamed,
    "text parts": lambda text: re.sub(r'"content": ("(?:[^"\\]|\\.)*")', r'"content": [{"type": "text", "text": \1}]', text).encode(),
    "output_text parts": lambda text: re.sub(r'"content": ("(?:[^"\\]|\\.)*")', r'"content": [{"type": "output_text", "text": \1}]', text).encode(),
    "object": lambda text: re.sub(r'"content": ("(?:[^"\\]|\\.)*")', r'"content": {"type": "text", "text": \1}', text).encode(),
    "thinking parts": lambda text: re.sub(r'"content": ("(?:[^"\\]|\\.)*")', r'"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "quality=1"}]}, {"type": "text", "text": \1}]', text).encode(),
    "usage": lambda text: text.replace('"prompt_tokens": 10', '"prompt_tokens": "n/a"').encode(),
    "negative usage": lambda text: text.replace('"prompt_tokens": 10', '"prompt_tokens": -600000').encode(),
    "newlines": lambda text: b"\n\n  " + text.encode() + b"\n",
}  # fmt: skip


@pytest.mark.parametrize("name", READABLE)
def test_an_answer_is_read_where_its_meaning_is_kept(tmp_path: Path, server: Replay, name: str) -> None:
    server.scripts["odd"] = lambda body, number: raw(body, READABLE[name])
    code, out = run(tmp_path, server, policy="odd", judge="odd")
    assert code == 0, out
    made = pairs(tmp_path)
    assert len(made) == ROWS
    assert len(server.asked["odd"]) == 5 * ROWS, "each call once"
    for record in made:
        high, low = (quality(record[side][0]["content"]) for side in ("chosen", "rejected"))
        assert (record["chosen_score"], record["rejected_score"]) == (high, low)


def test_a_log_probability_of_minus_infinity_is_read(tmp_path: Path, server: Replay) -> None:
    def script(body: Body, number: int) -> Any:
        made = good(body)
        tokens = re.findall(r"\d+|\D+?", made["choices"][0]["message"]["content"])
        never = {"token": "\u00e9", "logprob": float("-inf")}
        made["choices"][0]["logprobs"] = {
            "content": [
                {"token": t, "logprob": -0.01, "top_logprobs": [{"token": t, "logprob": -0.01}, never]}
                for t in tokens
            ]
        }
        return web.Response(body=json.dumps(made).encode(), content_type="application/json")

    server.scripts["never"] = script
    judge = {"judge.point": {"model": "judge", "name": "s", "extract": "expected"}}
    code, out = run(tmp_path, server, judge="never", stages=[JUDGED[0], judge, JUDGED[2]])
    assert code == 0, out
    assert len(pairs(tmp_path)) == ROWS
    assert all(s["scores"][0]["value"] == quality(s["text"]) for s in samples(tmp_path))


UNREADABLE: dict[str, Callable[[str], bytes]] = {
    "html": lambda text: b"<html>Welcome</html>",
    "half": lambda text: text[: len(text) // 2].encode(),
    "nothing": lambda text: b"",
    "another shape": lambda text: b'{"surprise": true}',
    "no choices": lambda text: b'{"choices": []}',
    "number as content": lambda text: re.sub(r'"content": "(?:[^"\\]|\\.)*"', '"content": 3', text).encode(),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_answer_that_cannot_be_read_is_retried_twice_and_costs_its_row(
    tmp_path: Path, server: Replay, name: str
) -> None:
    def script(body: Body, number: int) -> Any:
        return raw(body, UNREADABLE[name]) if "Question 7?" in text_of(body) else good(body)

    server.scripts["odd"] = script
    code, out = run(tmp_path, server, policy=("odd", {"retries": 6}))
    assert code == 0, out
    assert [row["reason"] for row in left(tmp_path)] == ["unreadable"]
    assert sum("Question 7?" in text_of(body) for body in server.asked["odd"]) == 3


@pytest.mark.parametrize("name", UNREADABLE)
def test_where_no_call_was_ever_readable_the_run_stops_and_shows_what_came(
    tmp_path: Path, server: Replay, name: str
) -> None:
    server.scripts["odd"] = lambda body, number: raw(body, UNREADABLE[name])
    code, out = run(tmp_path, server, policy=("odd", {"retries": 6}), rows=100)
    assert code == 1, out
    assert {"html": "Welcome", "another shape": "surprise"}.get(name, "models.policy") in out
    assert len(server.asked["odd"]) <= 3 * 100


def test_an_error_within_a_200_costs_its_row_after_the_retries(tmp_path: Path, server: Replay) -> None:
    def script(body: Body, number: int) -> Any:
        flagged = {"error": {"message": "This content was flagged for possible risk", "code": 502}}
        return flagged if "Question 7?" in text_of(body) else good(body)

    server.scripts["odd"] = script
    code, out = run(tmp_path, server, policy="odd")
    assert code == 0, out
    assert len(left(tmp_path)) == 1
    assert sum("Question 7?" in text_of(body) for body in server.asked["odd"]) <= 3


def test_streaming_is_asked_for_where_the_role_says_so(tmp_path: Path, server: Replay) -> None:
    def script(body: Body, number: int) -> Any:
        if not body.get("stream"):
            return status(400, "This model only support stream mode")
        return raw(body, streamed, "text/event-stream")

    server.scripts["streams"] = script
    code, out = run(tmp_path, server, policy=("streams", {"stream": True}))
    assert code == 0, out
    assert len(pairs(tmp_path)) == ROWS
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["models"]["policy"]["completion_tokens"] == 8 * 4 * ROWS


def test_a_stream_that_breaks_off_is_asked_for_again(tmp_path: Path, server: Replay) -> None:
    def script(body: Body, number: int) -> Any:
        whole = raw(body, streamed, "text/event-stream")
        if number % 3 == 0:
            text = str(whole.text).split("data: ")
            return web.Response(text="data: ".join(text[: len(text) // 2]), content_type="text/event-stream")
        return whole

    server.scripts["streams"] = script
    code, out = run(tmp_path, server, policy=("streams", {"stream": True}))
    assert code == 0, out
    assert [s["finish_reason"] for s in samples(tmp_path)] == ["stop"] * 4 * ROWS
    assert all(re.search(r"id \d+\.$", s["text"]) for s in samples(tmp_path))


# ---- the recorded behaviours

ENDS: dict[str, tuple[int, str]] = {
    **dict.fromkeys(("n_refused_groq", "n_refused_llama"), (1, "many: false")),
    **dict.fromkeys(("rf_deepseek", "rf_groq"), (1, "structured_output: false")),
    **dict.fromkeys(("system_refused", "system_refused_openai"), (1, "fold_system: true")),
    **dict.fromkeys(("pay_402", "pay_400_credit", "pay_402_in200"), (1, "no credit left")),
    "stream_only_400": (1, "stream: true"),
    "temp_refused_500": (1, "leave temperature out"),
    **dict.fromkeys(("surrogate_all", "surrogate_one_row", "invalid_utf8", "output_text_parts"), (0, "")),
    # One recorded answer for all: nothing to pair.
    "sse_unasked": (1, "all texts equal"),
    "usage_not_a_number": (0, ""),
}
"""How a run ends where every answer of the endpoint is the recorded one: exit code, and what the console says."""


@pytest.mark.field
@pytest.mark.parametrize("case", ENDS)
def test_a_recorded_behaviour_loses_nothing(tmp_path: Path, server: Replay, case: str) -> None:
    recorded = json.loads(case_file(f"wire/{case}.json").read_text(encoding="utf-8"))
    answer = recorded["answer"]

    def script(body: Body, number: int) -> web.Response:
        inside = answer["body"]
        if "raw" in inside:
            text = re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), inside["raw"])
            data = text.encode("latin-1") if text != inside["raw"] else text.encode()
        else:
            data = json.dumps(inside).encode()
        headers = {name: value for name, value in answer["headers"].items() if name != "Content-Type"}
        kind = answer["headers"]["Content-Type"].split(";")[0]
        return web.Response(body=data, status=answer["status"], headers=headers, content_type=kind)

    server.scripts[recorded["mode"]] = script
    if "recipe" in recorded:
        tree = yaml.safe_load(recorded["recipe"])
        for role in tree["models"].values():
            role["base_url"] = f"{server.root}/{role['base_url'].split('/')[3]}/v1"
        tree["source"] = {"rows": [f"Question {i}?" for i in range(ROWS)]}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        done = forked.run("run", "recipe.yaml", "--out", "out", cwd=tmp_path, env=dict(os.environ))
        code, out = done.returncode, done.stdout + done.stderr
    else:
        role = "judge" if "judge" in recorded["asked_by"] else "policy"
        code, out = run(tmp_path, server, **{role: recorded["mode"]})
    wanted, hint = ENDS[case]
    assert code == wanted, out
    assert hint in out
    assert server.asked[recorded["mode"]]
