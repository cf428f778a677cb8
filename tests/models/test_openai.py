"""Both transports against a real server: the same Completions, the same error kinds."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request, TokenLogprob
from synthpref.models import reward_json, wire, wire_errors
from synthpref.models.openai import OpenAI
from synthpref.models.simulated import Simulated, answers
from wire import Server, nobody, serving, status

QUESTION = Request(messages=({"role": "user", "content": "How do heat pumps work?"},), seed=3)
TRANSPORTS = ["http", "sdk"]


def ask(url: str | tuple[str, ...], request: Request = QUESTION, **fields: Any) -> list[Completion]:
    async def go() -> list[Completion]:
        backend = OpenAI(model="m", base_url=url, **fields).open({})
        try:
            return await backend.complete(request)
        finally:
            await backend.aclose()

    return asyncio.run(go())


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    if request.param == "sdk":
        pytest.importorskip("openai")
    return str(request.param)


def test_both_transports_give_the_same_completions() -> None:
    pytest.importorskip("openai")
    request = Request(
        messages=QUESTION.messages, n=3, seed=9, temperature=0.7, max_tokens=40, stop=("NEVER SAID",)
    )
    with serving() as server:
        http, sdk = (ask(server.url, request, transport=t) for t in TRANSPORTS)
        assert server.bodies[0] == server.bodies[1]
    assert http == sdk
    assert len({c.text for c in http}) == 3
    assert {c.finish_reason for c in http} == {"length"}
    assert http[0].usage is not None
    assert http[0].usage.completion_tokens > 0
    assert http[1].usage is None


def test_what_is_sent_is_what_the_role_says(transport: str) -> None:
    schema = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object", "properties": {}}},
    }
    request = Request(
        messages=QUESTION.messages, n=2, temperature=0.5, top_p=0.9, max_tokens=50, stop=("END",), seed=11,
        response_format=schema,
    )  # fmt: skip
    with serving() as server:
        ask(
            server.url,
            request,
            transport=transport,
            extra_body={"top_k": 5},
            api_key="sk-key-of-test",
            headers={"x-team": "red"},
        )
        body, headers = server.bodies[0], {k.lower(): v for k, v in server.headers[0].items()}
    assert body == {
        "model": "m", "messages": list(request.messages), "n": 2, "temperature": 0.5, "top_p": 0.9, "max_tokens": 50,
        "stop": ["END"], "seed": 11, "response_format": schema, "top_k": 5,
    }  # fmt: skip
    assert headers["authorization"] == "Bearer sk-key-of-test"
    assert headers["x-team"] == "red"


def test_options_change_what_is_sent() -> None:
    with serving() as server:
        ask(server.url, QUESTION, send_seed=False)
        ask(
            server.url,
            Request(messages=QUESTION.messages, max_tokens=5),
            max_tokens_as="max_completion_tokens",
        )
        assert "seed" not in server.bodies[0]
        assert server.bodies[1]["max_completion_tokens"] == 5


def test_logprobs_embeddings_and_rewards(transport: str) -> None:
    shaped = (
        {"role": "user", "content": 'Rate it. {"reasoning": "<why>", "score": <integer from 1 to 10>}'},
    )
    with serving() as server:
        (answer,) = ask(server.url, Request(messages=shaped, logprobs=5), transport=transport)
        assert answer.logprobs is not None
        assert any(token.top for token in answer.logprobs)
        (vector,) = ask(
            server.url, Request(messages=shaped, kind="embed"), transport=transport, serves="embeddings"
        )
        assert len(vector.vector or ()) > 10
        (reward,) = ask(
            server.url, Request(messages=shaped, kind="reward"), transport=transport, serves="reward"
        )
        assert set(reward.values or {}) == {"reward"}
        assert server.bodies[-1]["use_activation"] is False


def test_logprobs_of_the_prompt_come_with_the_first_answer(transport: str) -> None:
    request = Request(messages=QUESTION.messages, n=2, seed=4, prompt_logprobs=0)
    with serving() as server:
        first, second = ask(server.url, request, transport=transport, prompt_logprobs=True)
        assert server.bodies[0]["prompt_logprobs"] == 0
    (wanted, _) = answers(Simulated(model="m"), request)
    assert first.prompt_logprobs == wanted.prompt_logprobs
    assert first.prompt_logprobs is not None
    assert first.prompt_logprobs[0] is None
    assert [t.token for t in first.prompt_logprobs[1:] if t] == [" How", " do", " heat", " pumps", " work?"]
    assert second.prompt_logprobs is None


def test_the_tokens_of_a_prompt_as_vllm_gives_them() -> None:
    def entry(token: str, logprob: float, rank: int) -> dict[str, Any]:
        return {"decoded_token": token, "logprob": logprob, "rank": rank}

    likely = {"5": entry("b", -0.5, 1), "9": entry("c", -1.5, 2)}
    unlikely = {"7": entry("x", float("-inf"), 80), "5": entry("b", -0.5, 1), "9": entry("c", -1.5, 2)}
    body = {"choices": [{"message": {"content": "hi"}}], "prompt_logprobs": [None, likely, unlikely]}
    best = (("b", -0.5), ("c", -1.5))
    (answer,) = wire.chat_answer(body, prompt_top=2)
    assert answer.prompt_logprobs == (
        None, TokenLogprob("b", -0.5, best), TokenLogprob("x", wire.LEAST, best)
    )  # fmt: skip
    (bare,) = wire.chat_answer(body)
    assert bare.prompt_logprobs == (None, TokenLogprob("b", -0.5), TokenLogprob("x", wire.LEAST))


@pytest.mark.parametrize(("prefill", "last", "asked"), [(True, "assistant", True), (True, "user", False),
                                                        (False, "assistant", False)])  # fmt: skip
def test_a_message_is_gone_on_with_where_the_role_can(prefill: bool, last: str, asked: bool) -> None:
    messages = (*QUESTION.messages, {"role": last, "content": "They move"})
    with serving() as server:
        ask(server.url, Request(messages=messages), prefill=prefill)
        body = server.bodies[0]
    assert body.get("continue_final_message", False) is asked
    assert body.get("add_generation_prompt", True) is not asked


def test_what_a_role_can_do_is_what_its_fields_say() -> None:
    usual = {"chat", "n", "logprobs", "json_schema"}
    assert OpenAI(model="m").able() == usual
    assert OpenAI(model="m", prefill=True, prompt_logprobs=True).able() == {
        *usual,
        "prefill",
        "prompt_logprobs",
    }
    assert OpenAI(model="m", many=False, logprobs=False, structured_output=False).able() == {"chat"}
    assert "prefill" not in OpenAI(model="m").identity(), "what was paid for before there was such a field"
    assert OpenAI(model="m", prefill=True).identity() != OpenAI(model="m").identity()


def test_an_endpoint_without_logprobs_of_the_prompt_is_unsupported(transport: str) -> None:
    with serving(fault=lambda request, number: wire_answer({"content": "hi"})) as server:
        request = Request(messages=QUESTION.messages, prompt_logprobs=0)
        with pytest.raises(BackendError, match="no logprobs of the prompt were given") as caught:
            ask(server.url, request, transport=transport, prompt_logprobs=True)
    assert caught.value.kind == "unsupported"


def test_an_endpoint_without_logprobs_is_unsupported(transport: str) -> None:
    with serving(fault=lambda request, number: wire_answer({"content": "hi"})) as server:
        request = Request(messages=QUESTION.messages, logprobs=5)
        with pytest.raises(BackendError, match="no logprobs were given") as caught:
            ask(server.url, request, transport=transport)
    assert caught.value.kind == "unsupported"


def wire_answer(message: dict[str, Any], **choice: Any) -> Any:
    from aiohttp import web

    return web.json_response({"model": "m", "choices": [{"message": message, **choice}]})


def test_reasoning_is_kept_and_null_content_is_empty_text(transport: str) -> None:
    with serving() as server:
        message = {"content": None, "reasoning_content": "because"}
        server.fault = lambda request, number: wire_answer(message, finish_reason="content_filter")
        (answer,) = ask(server.url, transport=transport)
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("", "because", "content_filter")


def context_too_long() -> Any:
    return status(
        400,
        {"message": "This model's maximum context length is 4096 tokens.", "code": "context_length_exceeded"},
    )


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "500": (lambda: status(500), "transient"),
    "503": (lambda: status(503), "transient"),
    "408": (lambda: status(408), "transient"),
    "429": (lambda: status(429), "rate_limit"),
    "no credit": (lambda: status(429, {"message": "no", "code": "insufficient_quota"}), "payment"),
    "401": (lambda: status(401), "auth"),
    "403": (lambda: status(403), "auth"),
    "404": (lambda: status(404), "not_found"),
    "too long": (context_too_long, "context_length"),
    "filtered": (lambda: status(400, {"message": "no", "code": "content_filter"}), "content_filter"),
    "no schema": (
        lambda: status(400, {"message": "no", "code": "unsupported_parameter", "param": "response_format"}),
        "unsupported",
    ),
    "no seed": (lambda: status(422, "Extra inputs are not permitted: seed"), "unsupported"),
    "400": (lambda: status(400, "messages must end with a user"), "bad_request"),
    "reset": (lambda: "reset", "transient"),
    "half": (lambda: "half", "transient"),
    "not json": (lambda: "not json", "unreadable"),
    "odd shape": (lambda: "odd shape", "unreadable"),
    "hang": (lambda: "hang", "transient"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_kind_on_both_transports(name: str, transport: str) -> None:
    fault, kind = FAULTS[name]
    with serving() as server:
        server.fault = lambda request, number: fault()
        with pytest.raises(BackendError) as caught:
            ask(server.url, transport=transport, timeout_s=0.3 if name == "hang" else 20)
    assert caught.value.kind == kind
    assert "127.0.0.1" in str(caught.value)


def test_an_endpoint_that_is_down_is_unreachable(transport: str) -> None:
    with nobody() as url, pytest.raises(BackendError) as caught:
        ask(url, transport=transport)
    assert caught.value.kind == "unreachable"


@pytest.mark.parametrize(
    "message", ["Unsupported parameter: response_format", "Failed to initialize samplers: std::exception"]
)
def test_unsupported_names_the_field_to_change(message: str) -> None:
    body = json.dumps({"error": {"code": 400, "message": message, "type": "invalid_request_error"}})
    error = wire_errors.http_error(400, {}, body.encode())
    assert error.kind == "unsupported"
    assert "structured_output: false" in str(error)


def test_messages_hold_no_secret(transport: str) -> None:
    with serving() as server:
        echoed = "Incorrect API key provided: sk-secret-of-test; header was tok-planted-1"
        server.fault = lambda request, number: status(401, echoed)
        url = server.url.replace("http://", "http://user:pass-word-2@")
        with pytest.raises(BackendError) as caught:
            ask(url, transport=transport, api_key="sk-secret-of-test", headers={"x-token": "tok-planted-1"})
    for secret in ("sk-secret-of-test", "tok-planted-1", "pass-word-2"):
        assert secret not in str(caught.value)
    assert "Incorrect API key" in str(caught.value)


def test_openais_own_key_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai-env")
    spec = OpenAI(model="m")
    assert spec.key("https://api.openai.com/v1") == "sk-of-openai-env"
    assert spec.key("http://127.0.0.1:8000/v1") is None
    assert "sk-of-openai-env" in spec.secrets()
    assert spec.max_tokens_name("https://api.openai.com/v1") == "max_completion_tokens"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"Retry-After": "Tue, 24 Nov 2026 00:01:30 GMT"}, 90.0),
        ({"Retry-After": "Mon, 23 Nov 2026 00:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert wire_errors.retry_after(headers, datetime(2026, 11, 24, tzinfo=UTC)) == seconds


def test_a_prompt_of_a_megabyte_goes_through(transport: str) -> None:
    request = Request(messages=({"role": "user", "content": "word " * 210_000},))
    with serving() as server:
        assert ask(server.url, request, transport=transport)[0].text


@pytest.mark.parametrize(
    ("answer", "values"),
    [
        ({"reward": 1.5}, {"reward": 1.5}),
        ({"score": -2}, {"reward": -2.0}),
        ({"scores": {"help": 1, "safe": 2}}, {"help": 1.0, "safe": 2.0}),
        ({"data": [{"probs": [0.25]}]}, {"reward": 0.25}),
        ({"data": [{"data": [[1.0, 2.0]]}]}, {"head_0": 1.0, "head_1": 2.0}),
    ],
)
def test_reward_answers_in_their_forms(answer: Any, values: dict[str, float]) -> None:
    assert reward_json.reward_answer(answer)[0].values == values


@pytest.mark.parametrize(
    "answer", [{}, [], None, {"data": []}, {"reward": "high"}, {"scores": {}, "x": 1}, 7]
)
def test_a_reward_that_is_none_is_an_error_and_no_number(answer: Any) -> None:
    with pytest.raises(BackendError, match="unknown shape"):
        reward_json.reward_answer(answer)


def test_roles_on_one_endpoint_share_its_limit_and_the_session() -> None:
    async def go(server: Server) -> None:
        shared: dict[str, Any] = {}
        one = OpenAI(model="a", base_url=server.url, concurrency=3).open(shared)
        two = OpenAI(model="b", base_url=server.url, concurrency=9).open(shared)
        await asyncio.gather(*(b.complete(QUESTION) for b in (one, two) for _ in range(20)))
        await one.aclose()
        assert not shared["http"].closed
        await two.aclose()
        assert "http" not in shared

    with serving(latency_s=0.005) as server:
        asyncio.run(go(server))
        assert server.requests == 40
        assert server.most_in_flight <= 3


def test_one_dead_endpoint_of_three_costs_only_its_calls() -> None:
    async def go(urls: tuple[str, ...]) -> list[str]:
        backend = OpenAI(model="m", base_url=urls).open({})
        kinds = []
        for i in range(30):
            try:
                await backend.complete(Request(messages=QUESTION.messages, seed=i))
                kinds.append("ok")
            except BackendError as error:
                kinds.append(error.kind)
        await backend.aclose()
        return kinds

    with serving() as one, serving() as two, nobody() as dead:
        kinds = asyncio.run(go((one.url, dead, two.url)))
        assert one.requests + two.requests == kinds.count("ok")
    assert set(kinds) <= {"ok", "transient"}
    assert kinds.count("transient") <= 2


def test_worlds_behind_the_server_differ_by_name() -> None:
    with serving(worlds={"m": Simulated(model="m", empty=1.0)}) as server:
        assert ask(server.url)[0].text == ""


@pytest.mark.parametrize("path", ["/classify", "/pooling", "/v1/rewards"])
def test_a_reward_is_the_same_number_by_every_path(path: str) -> None:
    with serving() as server:
        request = Request(
            messages=(*QUESTION.messages, {"role": "assistant", "content": "They pump."}), kind="reward"
        )
        (reward,) = ask(server.url, request, serves="reward", reward_path=path)
    assert reward.values == answers(Simulated(model="m"), request)[0].values


def test_no_choices_at_all_are_no_answers(transport: str) -> None:
    with serving(fault=lambda request, number: "no choices") as server:
        assert ask(server.url, transport=transport) == []


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        7,
        {"choices": None},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": 3}}]},
        {"choices": [{"message": {"content": [{"type": "text"}]}}]},
        {
            "choices": [
                {"message": {"content": "x"}, "logprobs": {"content": [{"token": "a", "logprob": "much"}]}}
            ]
        },
    ],
)
def test_an_answer_of_another_shape_is_a_passing_failure_and_never_a_text(answer: Any) -> None:
    with pytest.raises(BackendError, match="unknown shape") as caught:
        wire.chat_answer(answer)
    assert caught.value.kind == "unreadable"


def test_a_text_in_parts_is_one_text() -> None:
    parts = [{"type": "text", "text": "Yes, "}, {"type": "image"}, {"type": "text", "text": "so."}]
    assert wire.chat_answer({"choices": [{"message": {"content": parts}}]})[0].text == "Yes, so."


@pytest.mark.parametrize(
    ("inside", "kind"),
    [
        ({"code": 429, "message": "slow down"}, "rate_limit"),
        ({"code": 401, "message": "no"}, "auth"),
        ({"message": "upstream broke"}, "transient"),
        ("upstream broke", "transient"),
    ],
)
def test_an_error_inside_a_good_status_has_its_kind(inside: Any, kind: str) -> None:
    for read in (wire.chat_answer, wire.embed_answer, reward_json.reward_answer):
        with pytest.raises(BackendError) as caught:
            read({"error": inside})
        assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("status_", "body", "kind"),
    [
        (429, b'{"error": {"type": "insufficient_quota", "message": "x"}}', "payment"),
        (
            400,
            b'{"error": {"code": 400, "message": "This model\'s maximum context length is 4096 tokens"}}',
            "context_length",
        ),
        (
            400,
            b'{"object": "error", "message": "maximum context length is 8 tokens", "code": 400}',
            "context_length",
        ),
        (
            400,
            b'{"error": {"code": "invalid_value", "message": "context length must be a number"}}',
            "bad_request",
        ),
        (
            400,
            b'{"error": {"code": "invalid_value", "message": "see our content policy page"}}',
            "bad_request",
        ),
        (502, b"<html>Bad gateway</html>", "transient"),
        (
            501,
            b'{"error":{"code":501,"message":"This server does not support embeddings. Start it with `--embeddings`"}}',
            "not_found",
        ),
        (418, b"", "bad_request"),
    ],
)
def test_kinds_follow_codes_and_texts_only_where_there_is_no_code(
    status_: int, body: bytes, kind: str
) -> None:
    assert wire_errors.http_error(status_, {}, body).kind == kind


def test_what_cannot_be_sent_is_the_rows_fault(transport: str) -> None:
    request = Request(messages=({"role": "user", "content": "half a pair: \ud800"},))
    with serving() as server:
        with pytest.raises(BackendError, match="cannot be sent") as caught:
            ask(server.url, request, transport=transport)
        assert server.requests == 0
    assert caught.value.kind == "bad_request"


def test_a_key_may_end_in_a_line_break(transport: str) -> None:
    with serving() as server:
        ask(server.url, transport=transport, api_key="sk-of-a-file\n")
        sent = {k.lower(): v for k, v in server.headers[0].items()}["authorization"]
        server.fault = lambda request, number: status(401, "bad key sk-of-a-file")
        with pytest.raises(BackendError) as caught:
            ask(server.url, transport=transport, api_key="sk-of-a-file\n")
    assert sent == "Bearer sk-of-a-file"
    assert "sk-of-a-file" not in str(caught.value)


def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password of-another-service\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving() as server:
        ask(server.url)
        ask(server.url, api_key="sk-x")
        sent = [{k.lower(): v for k, v in h.items()}.get("authorization") for h in server.headers]
    assert sent == [None, "Bearer sk-x"]


def test_what_the_sdk_reads_from_the_environment_goes_to_openai_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("openai")
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, f"planted-{name.lower()}")
    with serving() as server:
        ask(server.url, transport="sdk")
        assert "planted" not in repr(server.headers)


def test_the_package_openai_is_loaded_by_the_sdk_transport_alone() -> None:
    code = "import sys, synthpref.models.openai; print('openai' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_closing_twice_is_closing_once() -> None:
    async def go(url: str) -> None:
        shared: dict[str, Any] = {}
        one, two = (OpenAI(model="m", base_url=url).open(shared) for _ in range(2))
        await one.complete(QUESTION)
        await one.aclose()
        await one.aclose()
        assert (await two.complete(QUESTION))[0].text
        await two.aclose()

    with serving() as server:
        asyncio.run(go(server.url))


@pytest.mark.parametrize(("hard", "reached"), [(2_000, 400), (300, 172)])
def test_as_many_connections_are_open_as_the_system_allows(hard: int, reached: int) -> None:
    """In a process of its own, whose limit of open files is low to begin with."""
    code = f"""
import asyncio, resource
from synthpref.core.seam import Request
from synthpref.models.openai import OpenAI
resource.setrlimit(resource.RLIMIT_NOFILE, (200, {hard}))

async def main():
    ask = OpenAI(model="m", base_url="http://127.0.0.1:9/v1", concurrency=400)
    backend = ask.open({{}})
    print(backend.endpoints[0].limiter.limit.most, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    await backend.aclose()

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    most, soft = map(int, done.stdout.split())
    assert most == reached
    assert soft == min(hard, 128 + 400)
