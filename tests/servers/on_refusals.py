"""Questions that a server may refuse, and whether synthpref understands how."""

from __future__ import annotations

import json

from asker import Asker

from synthpref.core.errors import RETRIED

SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["score"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA}}


def heeds(text: str) -> bool:
    """Whether the text is what FORMAT asks for."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and set(found) == {"score"} and found["score"] in range(1, 10)


async def json_schema(ask: Asker) -> str:
    answer = await ask.one("Rate it with JSON.", response_format=FORMAT, seed=1)
    return "heeded" if heeds(answer.text) else "not heeded"


async def too_long(ask: Asker) -> str:
    error = await ask.error("word " * 2 * ask.context)
    assert error
    assert error.kind == "context_length"
    return error.kind


async def unknown_model(ask: Asker) -> str:
    error = await ask.error("Say one.", role={"model": "no/such-model"})
    assert error is None or error.kind == "not_found", error
    return "refused" if error else "answered all the same"


async def odd_schema(ask: Asker) -> str:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 7}}}
    error = await ask.error("Say one.", response_format=schema)
    assert error is None or error.kind == "unsupported", error
    assert error is None or "set structured_output: false" in str(error), error
    return "refused" if error else "answered all the same"


async def odd_format(ask: Asker) -> str:
    error = await ask.error("Say one.", response_format={"type": "verse"}, max_tokens=2)
    assert error is None or error.kind == "unsupported", error
    assert error is None or "set structured_output: false" in str(error), error
    return "refused" if error else "answered all the same"


async def embeddings(ask: Asker) -> str:
    """A chat server has none, however often it is asked."""
    error = await ask.error("Say one.", kind="embed", role={"serves": "embeddings"})
    assert error is None or error.kind not in RETRIED, error
    return f"refused with HTTP {error.status}" if error else "given"
