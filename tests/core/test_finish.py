"""Finish reasons of many endpoints, and how the answers ended."""

from __future__ import annotations

from typing import Any

import pytest

from synthpref.core.finish import ending_of, finish_word, is_known
from synthpref.core.seam import Completion
from synthpref.core.types import Sample

WORDS = {
    "whole": [
        *(
            "stop",
            "STOP",
            "end_turn",
            "eos",
            "eos_token",
            "EOS",
            "stop_sequence",
            "stop_token",
            "stopped_word",
        ),
        *(
            "complete",
            "COMPLETE",
            "completed",
            "done",
            "finished",
            "success",
            "tool_calls",
            "tool_use",
            "function_call",
        ),
        *(
            "FinishReason.STOP",
            "finish_reason_stop",
            "FINISH_REASON_STOP",
            "endTurn",
            "end_of_turn",
            "matched_stop",
        ),
    ],
    "cut": [
        *(
            "length",
            "LENGTH",
            "max_tokens",
            "MAX_TOKENS",
            "maxTokens",
            "model_length",
            "max_length",
            "token_limit",
        ),
        *("context_length", "context_window_exceeded", "model_context_window_exceeded", "max_output_tokens"),
        *(
            "stopped_limit",
            "FinishReason.MAX_TOKENS",
            "FINISH_REASON_MAX_TOKENS",
            "truncated",
            "incomplete",
            "cutoff",
        ),
        *("token_budget", "repetition", "ERROR_LIMIT"),
    ],
    "filtered": [
        *(
            "content_filter",
            "CONTENT_FILTER",
            "content_filtered",
            "sensitive",
            "safety",
            "SAFETY",
            "RECITATION",
        ),
        *(
            "PROHIBITED_CONTENT",
            "BLOCKLIST",
            "SPII",
            "IMAGE_SAFETY",
            "guardrail_intervened",
            "refusal",
            "ERROR_TOXIC",
        ),
        *("moderation", "policy_violation", "LANGUAGE", "content_policy"),
    ],
    "failed": [
        *("error", "ERROR", "abort", "aborted", "network_error", "insufficient_system_resource", "timeout"),
        *(
            "time_limit",
            "rate_limit",
            "cancelled",
            "canceled",
            "USER_CANCEL",
            "engine_overloaded",
            "server_error",
        ),
        *("MALFORMED_FUNCTION_CALL", "interrupted", "failed", "unavailable"),
    ],
}


@pytest.mark.parametrize(("ending", "word"), [(e, w) for e, words in WORDS.items() for w in words])
def test_each_endpoint_has_its_own_word(ending: str, word: str) -> None:
    assert (ending_of(word), is_known(word)) == (ending, True)
    assert Completion(text="x", finish_reason=word).ended == ending
    sample = Sample("x", finish_reason=word)
    assert sample.truncated == (ending in ("cut", "failed"))
    assert sample.filtered == (ending == "filtered")


def test_no_word_is_whole_and_a_word_that_nobody_knows_is_cut() -> None:
    assert ending_of(None) == "whole"
    assert (ending_of("quux"), is_known("quux")) == ("cut", False)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("stop", "stop"),
        (None, None),
        ("", None),
        (" length ", "length"),
        ({"type": "stop", "matched": 2}, "stop"),
        ({"type": "length", "length": 16}, "length"),
        ({"type": "abort", "message": "gone"}, "abort"),
        ({"reason": "max_tokens"}, "max_tokens"),
        ({"matched": 2}, None),
        ({"type": 3}, None),
        (["stop"], None),
        (1, None),
        (True, None),
    ],
)
def test_an_object_gives_its_type_and_what_is_no_word_gives_none(given: Any, word: str | None) -> None:
    assert finish_word(given) == word
