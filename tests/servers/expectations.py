"""What an OpenAI-compatible server does, and what synthpref makes of it, each as one question to a real server.

An expectation asks through our own client, asserts what the product needs whatever the server does, and returns in a few
words what the server did. docs/servers.md has these words in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import on_answers
import on_refusals
import on_thinking
from asker import Asker

EXPECTATIONS: Mapping[str, Callable[[Asker], Coroutine[Any, Any, str]]] = {
    "n = 4 gives": on_answers.n_answers,
    "n = 9 gives": on_answers.more_than_slots,
    "the answers to n differ": on_answers.n_differ,
    "usage for n = 4 counts": on_answers.usage_of_n,
    "the prompt of n = 4 is counted": on_answers.prompt_of_n,
    "the same seed gives": on_answers.same_seed,
    "the second answer of n has the seed": on_answers.seed_of_second,
    "finish_reason at the token limit": on_answers.token_limit,
    "completion_tokens at the token limit": on_answers.tokens_at_the_limit,
    "finish_reason where the context is full": on_answers.full_context,
    "finish_reason of JSON at the token limit": on_answers.cut_verdict,
    "half a letter at the token limit is": on_answers.half_a_letter,
    "finish_reason at the model's own end": on_answers.own_end,
    "finish_reason of an empty answer": on_answers.empty,
    "a model that ends at once gives": on_answers.silent,
    "the stop text is": on_answers.stop_text,
    "letters of several tokens arrive": on_answers.other_letters,
    "answered of 16 requests at once": on_answers.many_at_once,
    "in pieces (stream) the answer is": on_answers.streamed,
    "the beginning of an answer (prefill) is": on_answers.prefill,
    "logprobs": on_answers.logprobs,
    "logprobs of letters of several tokens spell": on_answers.logprobs_of_letters,
    "logprobs without alternatives are": on_answers.no_alternatives,
    "logprobs under a schema are": on_answers.forced_logprobs,
    "logprobs of the prompt are": on_answers.prompt_logprobs,
    "thinking stands": on_thinking.thinking,
    "thinking without an end stands": on_thinking.unclosed_thinking,
    "thinking that the template opens stands": on_thinking.opened_by_the_prompt,
    "with a parser for it, thinking stands": on_thinking.parsed,
    "with a parser, thinking without an end stands": on_thinking.parsed_unclosed,
    "with a parser, logprobs are of": on_thinking.parsed_logprobs,
    "with a parser, logprobs without an end are of": on_thinking.parsed_logprobs_unclosed,
    "response_format with a JSON schema is": on_refusals.json_schema,
    "a schema where the template opens the thinking is": on_thinking.schema_where_opened,
    "a schema that is none is": on_refusals.odd_schema,
    "a response_format that is none is": on_refusals.odd_format,
    "a prompt that is too long is refused as": on_refusals.too_long,
    "a model that is not there is": on_refusals.unknown_model,
    "embeddings of a chat server are": on_refusals.embeddings,
}
"""By what the table calls them."""
