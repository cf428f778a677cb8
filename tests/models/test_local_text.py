"""What surrounds a model that runs in the process of the run, without one: parameters, texts, and the line."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from synthpref import job
from synthpref.core.errors import BackendError, RecipeError
from synthpref.core.seam import Request, TokenLogprob
from synthpref.models.local import Local
from synthpref.models.local_line import Line, Waiting, batch
from synthpref.models.local_text import (
    ended,
    pieces,
    sampling,
    spoken_until,
    template_arguments,
)

ASKED: Any = {"messages": ({"role": "user", "content": "Why?"},)}


def decode(ids: Sequence[int]) -> str:
    """A tokenizer with a token for each byte."""
    return bytes(ids).decode("utf-8", "replace")


@given(st.text(max_size=12), st.text(max_size=6))
def test_pieces_are_the_whole_text_and_hang_on_nothing_that_comes_later(text: str, more: str) -> None:
    ids = list(text.encode("utf-8"))
    found = pieces(decode, ids)
    assert len(found) == len(ids)
    assert "".join(found) == text
    if "\ufffd" not in text + more:
        longer = pieces(decode, [*ids, *more.encode("utf-8")])
        assert longer[: len(ids)] == found


def test_a_character_comes_with_its_last_token_and_a_broken_one_as_it_is() -> None:
    umbrella = list("☂".encode())
    assert pieces(decode, [97, *umbrella, 98]) == ["a", "", "", "☂", "b"]
    assert pieces(decode, [97, *umbrella[:2]]) == ["a", "", "\ufffd"]


def test_parameters_are_the_requests_the_models_or_plain() -> None:
    plain = sampling(Request(**ASKED), None, {}, 50)
    assert (plain.temperature, plain.top_p, plain.top_k, plain.max_tokens) == (1.0, 1.0, 0, 50)
    usual = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "max_new_tokens": 30}
    assert sampling(Request(**ASKED), None, usual, 50).max_tokens == 30
    assert sampling(Request(**ASKED), None, usual, 50).top_k == 20
    asked = Request(**ASKED, temperature=0, top_p=0.5, max_tokens=99, stop=("", "END"))
    made = sampling(asked, 0, usual, 50)
    assert (made.temperature, made.top_p, made.top_k, made.max_tokens) == (0, 0.5, 0, 50)
    assert made.stop == ("END",)
    with pytest.raises(BackendError, match="no room") as caught:
        sampling(Request(**ASKED), None, {}, 0)
    assert caught.value.kind == "context_length"


@pytest.mark.parametrize(
    ("request_", "answers", "goes_on"),
    [
        (Request(**ASKED), True, False),
        (Request(messages=(*ASKED["messages"], {"role": "assistant", "content": "So"})), False, True),
        (
            Request(messages=(*ASKED["messages"], {"role": "assistant", "content": "So"}), kind="reward"),
            False,
            False,
        ),
    ],
)
def test_what_a_template_is_told(request_: Request, answers: bool, goes_on: bool) -> None:
    told = template_arguments(request_, {"enable_thinking": False})
    assert told == {
        "enable_thinking": False,
        "add_generation_prompt": answers,
        "continue_final_message": goes_on,
    }


def test_where_a_text_ends() -> None:
    assert ended("one END two STOP", ("STOP", "END")) == 4
    assert ended("one", ("END",)) is None
    tokens = [TokenLogprob(text, -1) for text in ("one", " E", "ND", " two")]
    assert [t.token for t in spoken_until(tokens, 4)] == ["one", " E"]
    assert spoken_until(tokens, 0) == ()


# ---- the line


def waiting(
    order: int, length: int, kind: str = "chat", weight: int = 1, priority: int = 0, places: int = 3
) -> Any:
    return Waiting(f"{order}", kind, length, weight, places, (priority, order), None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ([waiting(0, 9)], "0"),
        ([waiting(0, 9), waiting(1, 90), waiting(2, 8), waiting(3, 11)], "023"),
        ([waiting(0, 9), waiting(1, 9, "reads"), waiting(2, 99)], "02"),
        ([waiting(0, 9, weight=9), waiting(1, 9)], "0"),
        ([waiting(0, 9, weight=2), waiting(1, 9, weight=2), waiting(2, 9)], "0"),
        ([waiting(0, 9, weight=2), waiting(1, 10, weight=1), waiting(2, 9, weight=1)], "02"),
        (
            [waiting(i, 9, priority=priority, places=2) for i, priority in enumerate((2, 0, 1))],
            "12",
        ),
        ([waiting(0, 9, places=1), waiting(1, 9, places=1)], "0"),
        ([waiting(0, 9), waiting(1, 9, places=2), waiting(2, 9)], "02"),
    ],
)
def test_what_goes_together(line: list[Any], taken: str) -> None:
    assert "".join(one.task for one in batch(line)) == taken


def test_the_line_works_in_one_thread_and_ends_with_its_last_user() -> None:
    threads: list[str] = []
    dropped: list[str] = []
    batches: list[list[int]] = []

    def load() -> None:
        assert len(dropped) == threads.count("load")
        threads.append("load")
        threads.append(threading.current_thread().name)

    def work(taken: Sequence[Waiting[int, int]]) -> None:
        threads.append(threading.current_thread().name)
        batches.append([one.task for one in taken])
        for one in taken:
            if one.task == 3:
                one.failed(BackendError("bad_request", "three"))
            else:
                one.done(one.task * 2)

    def drop() -> None:
        dropped.append(threading.current_thread().name)

    async def go() -> list[Any]:
        line: Line[int, int] = Line("a line", load, work, drop)
        line.use()
        line.use()
        asked = [line.ask(i, kind="x", length=i, places=4) for i in range(6)]
        made = list(await asyncio.gather(*asked, return_exceptions=True))
        await line.aclose()
        assert await line.ask(9, kind="x", length=1) == 18
        await line.rest()
        assert (threads.count("load"), len(dropped)) == (1, 1)
        assert await line.ask(10, kind="x", length=1) == 20
        await line.aclose()
        return made

    made = asyncio.run(go())
    assert isinstance(made[3], BackendError)
    assert [m for i, m in enumerate(made) if i != 3] == [0, 2, 4, 8, 10]
    assert set(threads) == {"a line", "load"}
    assert (threads.count("load"), dropped) == (2, ["a line"] * 2)
    assert sorted(i for taken in batches for i in taken) == [0, 1, 2, 3, 4, 5, 9, 10]
    assert max(map(len, batches)) <= 4
    assert "a line" not in {thread.name for thread in threading.enumerate()}


def test_what_cannot_be_loaded_is_the_answer_to_all() -> None:
    def load() -> None:
        raise BackendError("not_found", "no such model")

    async def go() -> None:
        line: Line[int, int] = Line("a line", load, lambda taken: None, lambda: None).use()
        for _ in range(2):
            with pytest.raises(BackendError, match="no such model") as caught:
                await line.ask(1, kind="x", length=1)
            assert caught.value.kind == "not_found"
        await line.aclose()

    asyncio.run(go())


@pytest.mark.parametrize(("place", "kind"), [("load", "unsupported"), ("work", "bad_request")])
def test_an_error_that_nobody_foresaw_leaves_nobody_waiting(place: str, kind: str) -> None:
    calls: list[str] = []

    def step(name: str) -> None:
        calls.append(name)
        if name == place and calls.count(name) == 1:
            raise ZeroDivisionError("a slip")

    async def go() -> None:
        line: Line[int, int] = Line(
            "a line", lambda: step("load"), lambda taken: work(taken), lambda: None
        ).use()

        def work(taken: Sequence[Waiting[int, int]]) -> None:
            step("work")
            for one in taken:
                one.done(one.task)

        with pytest.raises(BackendError, match="ZeroDivisionError: a slip") as caught:
            await line.ask(1, kind="x", length=1)
        assert caught.value.kind == kind
        if place == "work":
            assert await line.ask(2, kind="x", length=1) == 2
        await line.aclose()

    asyncio.run(go())


# ---- without the packages


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed here")
def test_without_torch_the_check_says_what_to_install(tmp_path: Path) -> None:
    tree = {
        "name": "r",
        "models": {"m": {"backend": "local"}},
        "source": {"rows": [{"prompt": "Why?"}]},
        "stages": [{"sample.n": {"model": "m", "n": 2}}],
        "export": {"format": "trl-prompt-only"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(RecipeError, match=r'models\.m.*pip install "synthpref\[local\]"'):
        job.load(path)
    with pytest.raises(BackendError, match=r"synthpref\[local\]") as caught:
        Local().open({})
    assert caught.value.kind == "unsupported"


def test_a_chat_template_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"nowhere\.jinja cannot be read"):
        Local(chat_template="nowhere.jinja")


def test_what_it_can_do() -> None:
    assert Local(serves="reward").able() == {"reward"}
    assert Local().able() == {"chat", "n", "logprobs", "prompt_logprobs", "prefill"}


def test_roles_on_the_same_weights_are_in_one_place() -> None:
    """Else the one that is always there would load them again beside the model whose turn it is."""
    turn, always = Local(model="m", placement="in_turn"), Local(model="m")
    (problem,) = Local.beside({"policy": turn, "judge": always, "other": Local(model="n")})
    assert problem.path == "models.judge.placement"
    assert "models.policy, whose placement is in_turn" in problem.message
    assert Local.beside({"policy": turn, "judge": turn}) == []
    assert Local.beside({"policy": turn, "grader": Local(model="m", serves="reward")}) == []
