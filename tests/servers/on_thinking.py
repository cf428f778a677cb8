"""Questions about where a model's thinking stands: in the text, or apart where the server has a parser for it."""

from __future__ import annotations

from typing import Any

import pytest
from asker import Asker, Thinker
from on_refusals import FORMAT, heeds

from synthpref.core.seam import Completion
from synthpref.core.thinking import read_completion


async def thinking(ask: Asker) -> str:
    (raw,) = await ask("Say it.", say="<think>so</think>yes")
    answer = read_completion(raw)
    assert (answer.text, answer.reasoning, answer.ended) == ("yes", "so", "whole")
    return "in the text" if "<think>" in raw.text else "apart"


async def unclosed_thinking(ask: Asker) -> str:
    (raw,) = await ask("Say it.", say="<think>so the score is 7")
    answer = read_completion(raw)
    assert (answer.text, answer.ended) == ("", "cut")
    return "in the text" if "<think>" in raw.text else "apart"


async def opened_by_the_prompt(ask: Asker) -> str:
    """As the templates of R1 and QwQ do: the answer begins in the middle of the thinking."""
    if ask.opened is None:
        pytest.skip("no such server")
    (raw,) = await ask.opened()("Say it.", say="so</think>yes")
    answer = read_completion(raw)
    assert (answer.text, answer.reasoning, answer.ended) == ("yes", "so", "whole")
    return (
        "in the text, with its opening tag"
        if "<think>" in raw.text
        else "in the text, without its opening tag"
    )


async def schema_where_opened(ask: Asker) -> str:
    if ask.opened is None:
        pytest.skip("no such server")
    opened = ask.opened()
    if error := await opened.error("Rate it.", response_format=FORMAT, max_tokens=16):
        assert error.kind == "unsupported", error
        assert "set structured_output: false" in str(error), error
        return "refused"
    answer = await opened.one("Rate it.", response_format=FORMAT, temperature=0.0)
    return "heeded" if heeds(answer.text) else "not heeded"


def _thinker(ask: Asker) -> Thinker:
    if ask.thinker is None:
        pytest.skip("no such server")
    return ask.thinker()


async def _thought(server: Thinker, **fields: Any) -> Completion:
    """An answer "yes" that has thinking before it. A model of random weights may not come to an end at once."""
    for seed in range(20):
        (raw,) = await server.ask(
            "Say it.", seed=seed, temperature=1.0, role={"extra_body": server.thinking("yes")}, **fields
        )
        if raw.finish_reason == "stop" and len(raw.text + (raw.reasoning or "")) > len("yes"):
            break
    return raw


async def parsed(ask: Asker) -> str:
    raw = await _thought(_thinker(ask))
    answer = read_completion(raw)
    assert (answer.text, answer.ended) == ("yes", "whole")
    assert answer.reasoning
    return "apart" if raw.text == "yes" else "in the text"


async def parsed_unclosed(ask: Asker) -> str:
    server = _thinker(ask)
    (raw,) = await server.ask("Say it.", max_tokens=8, role={"extra_body": server.unclosed})
    answer = read_completion(raw, 8)
    assert (answer.text, answer.ended) == ("", "cut")
    assert answer.reasoning
    return f"apart, and the text is {'empty' if raw.text == '' else 'not empty'}"


async def parsed_logprobs(ask: Asker) -> str:
    """A draft verdict in the thinking has tokens too; those that a stage sees are the answer's alone."""
    raw = await _thought(_thinker(ask), logprobs=2)
    assert raw.logprobs
    answer = read_completion(raw)
    assert answer.logprobs
    assert "".join(token.token for token in answer.logprobs).strip() == "yes"
    return "the answer alone" if raw.logprobs == answer.logprobs else "the thinking and the answer"


async def parsed_logprobs_unclosed(ask: Asker) -> str:
    server = _thinker(ask)
    (raw,) = await server.ask("Say it.", max_tokens=8, logprobs=2, role={"extra_body": server.unclosed})
    assert not read_completion(raw, 8).logprobs
    return "the thinking" if raw.logprobs else "nothing"
