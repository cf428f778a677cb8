"""Reward models over HTTP: vLLM's three paths, services with a JSON of their own, and answers that hold no score."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synthpref import job
from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request
from synthpref.models import reward_form, reward_json
from synthpref.models.openai import OpenAI
from synthpref.models.reward_form import RewardForm
from synthpref.models.simulated import Simulated, answers
from wire import Server, serving, status

PROMPT = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})
SINGLE = {"request": {"q": "{prompt}", "a": "{response}", "m": "{model}"}, "scores": "result.score"}
MANY = {"request": {"pairs": "{items}"}, "item": ["{prompt}", "{response}"], "scores": "scores.*"}
TWO = {"request": {"prompt": "{prompt}", "left": "{a}", "right": "{b}"}, "scores": "logit"}


def graded(text: str, prompt: tuple[dict[str, str], ...] = PROMPT) -> Request:
    return Request(messages=(*prompt, {"role": "assistant", "content": text}), kind="reward")


def compared(a: str, b: str) -> Request:
    both = tuple({"role": "assistant", "content": text} for text in (a, b))
    return Request(messages=(*PROMPT, *both), kind="compare")


def ask(server: Server, *requests: Request, **fields: Any) -> list[Completion | BaseException]:
    """What comes of requests that are under way together."""

    async def go() -> list[Any]:
        serves = "comparisons" if requests[0].kind == "compare" else "reward"
        given = {"model": "m", "base_url": server.url, "serves": serves, **fields}
        backend = OpenAI.model_validate(given).open({})
        try:
            made = await asyncio.gather(*(backend.complete(r) for r in requests), return_exceptions=True)
        finally:
            await backend.aclose()
        return [one if isinstance(one, BaseException) else one[0] for one in made]

    return asyncio.run(go())


def values(made: Completion | BaseException) -> dict[str, float | None]:
    assert isinstance(made, Completion), made
    return dict(made.values or {})


def replying(answer: Callable[[Any], Any], raw: str | None = None) -> Any:
    """A server that answers what the function says of the body; or always the same text."""
    server: list[Server] = []

    def fault(request: web.Request, number: int) -> web.StreamResponse:
        if raw is not None:
            return web.Response(text=raw, content_type="application/json")
        made = answer(server[0].bodies[-1])
        return made if isinstance(made, web.StreamResponse) else web.json_response(made)

    class Kept:
        def __enter__(self) -> Server:
            self.context = serving(fault=fault)
            server.append(self.context.__enter__())
            return server[0]

        def __exit__(self, *error: Any) -> None:
            self.context.__exit__(*error)

    return Kept()


# ---- vLLM's paths


def test_score_reads_prompt_and_response_as_two_texts() -> None:
    with serving() as server:
        (made,) = ask(server, graded("They pump."), reward_path="/score")
        body = server.bodies[-1]
    assert body["text_1"] == "system: Be brief.\n\nuser: Why?"
    assert body["text_2"] == "They pump."
    assert body["use_activation"] is False
    assert "messages" not in body
    pair = ({"role": "user", "content": body["text_1"]}, {"role": "assistant", "content": "They pump."})
    assert values(made) == answers(Simulated(model="m"), Request(messages=pair, kind="reward"))[0].values


@pytest.mark.parametrize("there", ["/classify", "/pooling", "/score"])
def test_auto_finds_the_path_that_is_there_and_stays_with_it(there: str) -> None:
    seen: list[str] = []

    def fault(request: web.Request, number: int) -> web.StreamResponse | None:
        seen.append(request.path)
        return None if request.path == there else status(404)

    requests = [graded(text, PROMPT[1:]) for text in ("a", "b", "c")]
    with serving(fault=fault) as server:
        made = ask(server, *requests, reward_path="auto")
        ask(server, requests[0], reward_path="auto")
    wanted = [answers(Simulated(model="m"), r)[0].values for r in requests]
    assert [values(one) for one in made] == wanted
    assert seen.count(there) == 4
    assert seen[-1] == there


def test_auto_says_so_where_none_is_there_and_other_errors_end_the_search() -> None:
    with serving(fault=lambda request, number: status(404, "no such model")) as server:
        (made,) = ask(server, graded("a"), reward_path="auto")
        assert isinstance(made, BackendError)
        assert made.kind == "not_found"
        assert server.requests == 3
    with serving(fault=lambda request, number: status(400, "bad")) as server:
        (made,) = ask(server, graded("a"), reward_path="auto")
        assert isinstance(made, BackendError)
        assert server.requests == 1


# ---- what is no score


BAD: dict[str, str] = {
    "a word": '{"data": [{"probs": ["high"]}]}',
    "a number in quotation marks": '{"data": [{"probs": ["0.9"]}]}',
    "a truth value": '{"data": [{"probs": [true]}]}',
    "none": '{"data": []}',
    "one too many": '{"data": [{"probs": [1.0]}, {"probs": [2.0]}]}',
    "no head": '{"data": [{"probs": []}]}',
    "another shape": '{"data": [{"label": "good"}]}',
    "a list": "[0.5]",
    "nothing": "",
    "half": '{"data": [{"probs": [0.',
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_score_is_an_error(what: str) -> None:
    with replying(lambda body: None, BAD[what]) as server:
        (made,) = ask(server, graded("a"))
    assert isinstance(made, BackendError)
    assert made.kind == "unreadable"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "null", "1e999", "1" + "0" * 400])
def test_a_number_that_is_none_is_missing_and_costs_no_other_head(number: str) -> None:
    with replying(lambda body: None, f'{{"data": [{{"probs": [1.5, {number}]}}]}}') as server:
        (made,) = ask(server, graded("a"))
    assert values(made) == {"head_0": 1.5, "head_1": None}
    with replying(lambda body: None, f'{{"reward": {number}}}') as server:
        (made,) = ask(server, graded("a"))
    assert values(made) == {"reward": None}


# ---- a JSON of its own


def test_a_form_asks_and_reads_as_it_says() -> None:
    with replying(lambda body: {"result": {"score": len(body["a"])}}) as server:
        (made,) = ask(
            server,
            graded("four"),
            reward_form=SINGLE,
            reward_path="/api/v2",
            headers={"Authorization": "Bearer sesame-open"},
            extra_body={"mode": "raw"},
        )
        assert server.bodies == [
            {"q": "system: Be brief.\n\nuser: Why?", "a": "four", "m": "m", "mode": "raw"}
        ]
        assert server.headers[0]["Authorization"] == "Bearer sesame-open"
    assert values(made) == {"reward": 4.0}


def test_whole_conversations_and_texts_within_texts() -> None:
    form = RewardForm(
        request={"chat": "{messages}", "before": "{context}", "text": "Q: {prompt}\nA: {response} {{}}"},
        scores="x",
    )
    made = reward_form.body(form, "m", [graded("So.", PROMPT[1:])])
    assert made == {
        "chat": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}],
        "before": [{"role": "user", "content": "Why?"}],
        "text": "Q: Why?\nA: So. {}",
    }


@given(st.text(), st.text())
def test_what_a_response_says_is_no_place_to_fill(prompt: str, response: str) -> None:
    form = RewardForm(request={"x": "{response}|{prompt}", "y": ["{response}"]}, scores="s")
    for text in (response, "{prompt}", "{model}{messages}", "{{", "{nothing}"):
        made = reward_form.body(form, "m", [graded(text, ({"role": "user", "content": prompt},))])
        assert made == {"x": f"{text}|{prompt}", "y": [text]}


@pytest.mark.parametrize(
    ("scores", "reply", "heads"),
    [
        ("score", {"score": 2}, {"reward": 2.0}),
        ("0.0.score", [[{"label": "x", "score": -1.5}]], {"reward": -1.5}),
        ("rewards", {"rewards": [1, 2]}, {"head_0": 1.0, "head_1": 2.0}),
        ("out.heads", {"out": {"heads": {"help": 1, "safe": None}}}, {"help": 1.0, "safe": None}),
        ({"help": "h", "safe": "more.1"}, {"h": 3, "more": [0, 4]}, {"help": 3.0, "safe": 4.0}),
    ],
)
def test_scores_stand_where_a_path_says(scores: Any, reply: Any, heads: dict[str, float | None]) -> None:
    form = RewardForm(request="{response}", scores=scores)
    assert reward_form.read(form, reply, 1) == [heads]


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"result": None},
        {"result": {"score": "0.9"}},
        {"result": {"score": "high"}},
        {"result": {"score": True}},
        {"result": {"score": {}}},
        {"result": {"score": []}},
        {"result": "score"},
        {"result": [1]},
        [],
        None,
        7,
    ],
)
def test_a_reply_without_the_score_is_an_error(reply: Any) -> None:
    form = RewardForm.model_validate(SINGLE)
    with pytest.raises(BackendError, match=r"no score where reward_form\.scores says"):
        reward_form.read(form, reply, 1)
    with replying(lambda body: reply) as server:
        (made,) = ask(server, graded("a"), reward_form=SINGLE)
    assert isinstance(made, BackendError)


def test_an_error_inside_an_answer_is_an_error() -> None:
    with replying(lambda body: {"error": {"message": "no memory", "code": 503}}) as server:
        (made,) = ask(server, graded("a"), reward_form=SINGLE)
    assert isinstance(made, BackendError)
    assert (made.kind, made.status) == ("transient", 200)
    assert "HTTP 503: no memory" in str(made)


# ---- several in one request


def test_calls_that_are_under_way_together_are_few_requests() -> None:
    texts = [f"{'x' * i}" for i in range(1, 11)]
    with replying(lambda body: {"scores": [len(a) for _, a in body["pairs"]]}) as server:
        made = ask(server, *map(graded, texts), reward_form={**MANY, "batch": 4})
        assert [len(body["pairs"]) for body in server.bodies] == [4, 4, 2]
    assert [values(one) for one in made] == [{"reward": float(i)} for i in range(1, 11)]


def test_without_a_batch_there_is_one_in_each() -> None:
    with replying(lambda body: {"scores": [1.0] * len(body["pairs"])}) as server:
        ask(server, graded("a"), graded("b"), reward_form=MANY)
        assert [len(body["pairs"]) for body in server.bodies] == [1, 1]


@pytest.mark.parametrize("bad", ["refused", "word", "wrong count", "another shape"])
def test_one_that_cannot_be_scored_costs_no_other_its_score(bad: str) -> None:
    def reply(body: Any) -> Any:
        texts = [answer for _, answer in body["pairs"]]
        if "poison" not in texts:
            return {"scores": [len(text) for text in texts]}
        return {
            "refused": status(400, "cannot read that"),
            "word": {"scores": ["high" if text == "poison" else 1.0 for text in texts]},
            "wrong count": {"scores": [1.0] * (len(texts) + 1)},
            "another shape": {"points": 3},
        }[bad]

    with replying(reply) as server:
        made = ask(server, *map(graded, ("a", "poison", "ccc")), reward_form={**MANY, "batch": 8})
        assert [len(body["pairs"]) for body in server.bodies] == [3, 1, 1, 1]
    assert [values(made[0]), values(made[2])] == [{"reward": 1.0}, {"reward": 3.0}]
    assert isinstance(made[1], BackendError)


def test_a_server_that_is_away_is_not_asked_once_more_for_each() -> None:
    with serving(fault=lambda request, number: status(503)) as server:
        made = ask(server, *map(graded, "abc"), reward_form={**MANY, "batch": 8})
        assert server.requests == 1
    assert all(isinstance(one, BackendError) and one.status == 503 for one in made)
    assert len({id(one) for one in made}) == 3


def test_a_null_in_a_batch_is_missing_for_that_one_alone() -> None:
    with replying(lambda body: None, '{"scores": [1.0, null, NaN, 4]}') as server:
        made = ask(server, *map(graded, "abcd"), reward_form={**MANY, "batch": 4})
        assert server.requests == 1
    assert [values(one)["reward"] for one in made] == [1.0, None, None, 4.0]


@pytest.mark.parametrize(
    ("found", "names", "heads"),
    [
        ([0.5], {0: "LABEL_0"}, {"reward": 0.5}),
        ([1, 2, 3], {0: "LABEL_0", 1: "honest"}, {"head_0": 1, "honest": 2, "head_2": 3}),
        ([1, 2], {1: "second", 0: "first"}, {"first": 1, "second": 2}),
        ([1, 2], {0: "same", 1: "same"}, {"head_0": 1, "head_1": 2}),
        ([1, float("nan")], {}, {"head_0": 1, "head_1": None}),
    ],
)
def test_heads_are_named_by_their_place(found: list[float], names: dict[int, str], heads: Any) -> None:
    assert list(reward_json.named_heads(found, names).items()) == list(heads.items())


# ---- two answers


def test_a_pairwise_service_is_asked_about_two_answers() -> None:
    with replying(lambda body: {"logit": len(body["left"]) - len(body["right"])}) as server:
        made = ask(server, compared("long one", "b"), compared("b", "long one"), reward_form=TWO)
        assert server.bodies[0]["prompt"] == "system: Be brief.\n\nuser: Why?"
    assert sorted(values(one)["reward"] or 0 for one in made) == [-7.0, 7.0]


def test_a_logit_for_each_of_the_two_is_their_difference_and_three_are_no_pair() -> None:
    assert reward_json.preference({"x": 1.5}) == {"reward": 1.5}
    assert reward_json.preference({"a": 3.0, "b": 1.0}) == {"reward": 2.0}
    assert reward_json.preference({"a": 3.0, "b": None}) == {"reward": None}
    with pytest.raises(BackendError, match="3 outputs"):
        reward_json.preference({"a": 1.0, "b": 2.0, "c": 3.0})


def test_vllm_is_given_both_answers_and_names_for_the_template() -> None:
    with serving() as server:
        (made,) = ask(server, compared("a", "b"), extra_body={"chat_template_kwargs": {"think": False}})
        body = server.bodies[-1]
    assert body["chat_template_kwargs"] == {"response_a": "a", "response_b": "b", "think": False}
    assert body["messages"] == list(compared("a", "b").messages)
    assert values(made) == answers(Simulated(model="m"), compared("a", "b"))[0].values


# ---- in a run


def test_a_run_over_a_service_that_fails_now_and_then_invents_nothing(tmp_path: Path) -> None:
    """Rows whose reply has another shape are rejected; a number that is none is a score without a value; the key is
    in no file."""

    def reply(body: Any) -> Any:
        items = body["pairs"]
        if any("bad" in answer for _, answer in items):
            return {"scores": ["high"] * len(items)}
        return {"scores": [None if "none" in answer else float(len(answer)) for _, answer in items]}

    words = ["fine", "bad", "none", "good"]
    rows = [{"prompt": f"Why {w}?", "answers": [w, f"{w} and long", f"{w} and longer yet"]} for w in words]
    with replying(reply) as server:
        tree = {
            "name": "graded",
            "models": {
                "rm": {
                    "backend": "openai",
                    "model": "m",
                    "base_url": server.url,
                    "headers": {"X-Api-Key": "sesame-open-wide"},
                    "serves": "reward",
                    "reward_form": {**MANY, "batch": 8},
                    "retries": 0,
                }
            },
            "source": {"rows": rows, "samples": {"column": "answers"}},
            "stages": [{"reward": {"model": "rm"}}, {"pair.extremes": {"score": "reward"}}],
            "limits": {"max_reject_rate": 1},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        result = job.run(job.load(tmp_path / "recipe.yaml"), tmp_path / "run")
        assert {headers["X-Api-Key"] for headers in server.headers} == {"sesame-open-wide"}
        asked = server.requests
        job.run(job.load(tmp_path / "recipe.yaml"), tmp_path / "run")
        again = [answer for body in server.bodies[asked:] for _, answer in body["pairs"]]
        assert again, "what failed is asked again"
        assert all("bad" in answer for answer in again), "and nothing else"
    assert (result.books.exported, result.books.dropped, result.books.rejected) == (2, 1, 1)
    made = list(job.rows.read_rows(tmp_path / "run/rows.parquet"))
    assert [one.values("reward") for one in made if one.pairs] == [[4.0, 13.0, 19.0]] * 2
    left = [json.loads(line) for line in (tmp_path / "run/left.jsonl").read_text("utf-8").splitlines()]
    reasons = {one["how"]: one for one in left}
    assert reasons["drop"]["reason"] == "no scores"
    why = "no reward: head 'reward' gave no number"
    assert {s["scores"]["reward"]["why"] for s in reasons["drop"]["row"]["samples"]} == {why}
    assert "no score where reward_form.scores says" in reasons["reject"]["detail"]
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"sesame-open-wide" not in path.read_bytes(), path


# ---- recipes that cannot work


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reward_form": {"request": {"q": "{prompt}"}, "scores": "s"}}, "shows no response"),
        ({"reward_form": {"request": "{a}", "scores": "s"}, "serves": "comparisons"}, "shows no two answers"),
        ({"reward_form": {"request": "{response}{a}", "scores": "s"}}, r"no \{a\} where .* serves reward"),
        (
            {
                "reward_form": {"request": ["{a}", "{b}", "{messages}"], "scores": "s"},
                "serves": "comparisons",
            },
            r"no \{messages\} where .* serves comparisons",
        ),
        ({"reward_form": SINGLE, "serves": "chat"}, "for serves: reward or comparisons"),
        ({"reward_form": SINGLE, "reward_path": "auto"}, "reward_path of its own"),
        ({"reward_form": {"request": "{respone}", "scores": "s"}}, r"no \{respone\}"),
        ({"reward_form": {"request": "{response}"}}, "Field required"),
        ({"reward_form": {"request": "{response}", "scores": ""}}, "at least 1"),
        ({"reward_form": {**SINGLE, "batch": 4}}, "a batch needs item"),
        ({"reward_form": {**MANY, "scores": "scores.0"}}, "in each path"),
        ({"reward_form": {**SINGLE, "scores": "a.*"}}, "in each path"),
        ({"reward_form": {**MANY, "scores": "results.*.scores.*"}}, "one .* in each path"),
        ({"reward_form": {**MANY, "request": {"x": "{items}", "q": "{prompt}"}}}, "belongs into item"),
        ({"reward_form": {**MANY, "request": {"x": 1}}}, "goes with"),
        ({"mode": "batch"}, "asked live"),
    ],
)
def test_a_form_that_cannot_work_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        OpenAI.model_validate({"model": "m", "serves": "reward", **fields})


def test_what_can_change_a_score_is_part_of_the_key_and_the_batch_is_not() -> None:
    def identity(**fields: Any) -> str:
        return json.dumps(OpenAI(model="m", serves="reward", **fields).identity(), sort_keys=True)

    form = RewardForm.model_validate(MANY)
    assert "reward_form" not in identity()
    assert identity(reward_form=form) != identity()
    assert identity(reward_form=form.model_copy(update={"batch": 9})) == identity(reward_form=form)
    assert identity(reward_form=form.model_copy(update={"scores": "x.*"})) != identity(reward_form=form)
