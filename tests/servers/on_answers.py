"""Questions about how many answers come, with which seeds, counts, ends and log-probabilities."""

from __future__ import annotations

import asyncio
from typing import Any

from asker import LIMIT, LONG, Asker

from synthpref.core.parse import parse_score

GLYPHS = "世界 🙂!"
MANY = 9


async def n_answers(ask: Asker) -> str:
    answers = await ask("Tell me a word.", n=4, seed=5, temperature=1.0, max_tokens=LIMIT)
    assert 1 <= len(answers) <= 4
    return f"{len(answers)} of 4"


async def n_differ(ask: Asker) -> str:
    answers = await ask("Write any sentence.", n=4, seed=5, temperature=1.5, max_tokens=24)
    return "yes" if len({answer.text for answer in answers}) > 1 else "no"


async def usage_of_n(ask: Asker) -> str:
    answers = await ask(LONG, n=4, seed=5, temperature=1.0, max_tokens=LIMIT)
    usage = answers[0].usage
    assert all(answer.usage is None for answer in answers[1:])
    if usage is None:
        return "none"
    if any(answer.ended != "cut" for answer in answers):
        return "not seen: an answer ended by itself"
    return {LIMIT: "one choice", 4 * LIMIT: "all choices"}.get(
        usage.completion_tokens, str(usage.completion_tokens)
    )


async def same_seed(ask: Asker) -> str:
    texts = [
        (await ask.one("Write any sentence.", max_tokens=24, seed=9, temperature=1.0)).text for _ in range(2)
    ]
    other = (await ask.one("Write any sentence.", max_tokens=24, seed=10, temperature=1.0)).text
    return f"{'same' if texts[0] == texts[1] else 'another'} text; another seed: {'same' if other == texts[0] else 'another'} text"


async def seed_of_second(ask: Asker) -> str:
    both = await ask("Write any sentence.", max_tokens=24, n=2, seed=20, temperature=1.0)
    alone = await ask.one("Write any sentence.", max_tokens=24, seed=21, temperature=1.0)
    return "seed + 1" if len(both) == 2 and both[1].text == alone.text else "its own"


async def token_limit(ask: Asker) -> str:
    answer = await ask.one(LONG, max_tokens=LIMIT, seed=1)
    assert answer.ended == "cut", answer
    return str((await ask(LONG, max_tokens=LIMIT, seed=1))[0].finish_reason)


async def tokens_at_the_limit(ask: Asker) -> str:
    (answer,) = await ask(LONG, max_tokens=LIMIT, seed=1)
    counted = answer.usage.completion_tokens if answer.usage else None
    return {None: "not counted", LIMIT: "as many as max_tokens"}.get(counted, f"{counted} for {LIMIT}")


async def own_end(ask: Asker) -> str:
    answer = await ask.one("Say one.", say="one")
    assert (answer.text, answer.ended) == ("one", "whole")
    return str(answer.finish_reason)


async def stop_text(ask: Asker) -> str:
    answer = await ask.one("Say it.", say="one two three", role={"stop": ["two"]}, stop=("two",))
    assert answer.ended == "whole"
    assert answer.text.strip() in ("one", "one two")
    return "left out" if answer.text.strip() == "one" else "kept"


async def logprobs(ask: Asker) -> str:
    (answer,) = await ask("Say any word.", logprobs=3, max_tokens=LIMIT, seed=1)
    assert answer.logprobs
    assert all(token.logprob <= 1e-6 for token in answer.logprobs)
    joined = "".join(token.token for token in answer.logprobs)
    fits = (
        "the text"
        if joined == answer.text
        else "the text and more"
        if answer.text in joined
        else "another text"
    )
    return f"{len(answer.logprobs[0].top)} of 3 alternatives; tokens spell {fits}"


async def more_than_slots(ask: Asker) -> str:
    if error := await ask.error("Tell me a word.", n=MANY, max_tokens=2):
        # The run stops at once, and says which setting helps.
        assert error.kind == "unsupported", error
        assert "set many: false" in str(error), error
        return "refused: `many: false` helps"
    return f"{len(await ask('Tell me a word.', n=MANY, max_tokens=2))} of {MANY}"


async def prompt_of_n(ask: Asker) -> str:
    alone, four = [(await ask("Tell me a word.", n=n, max_tokens=2))[0].usage for n in (1, 4)]
    if alone is None or four is None:
        return "not counted"
    return {1: "once", 4: "once for each"}.get(four.prompt_tokens // alone.prompt_tokens, "oddly")


async def silent(ask: Asker) -> str:
    answer = await ask.one("Say one.", role={"extra_body": ask.silent})
    assert (answer.text, answer.ended) == ("", "whole"), answer
    counted = answer.usage.completion_tokens if answer.usage else "no"
    return f"{answer.finish_reason}, {counted} token counted"


async def full_context(ask: Asker) -> str:
    short, longer = [(await ask("word " * k, max_tokens=1))[0].usage for k in (10, 20)]
    assert short
    assert longer
    each = (longer.prompt_tokens - short.prompt_tokens) / 10
    fitting = int((ask.context - short.prompt_tokens - 40) / each)
    role = {"extra_body": {"ignore_eos": True}}
    answer = await ask.one("word " * fitting, max_tokens=200, role=role)
    assert answer.ended == "cut", answer
    assert answer.usage
    assert answer.usage.completion_tokens < 200
    return str(answer.finish_reason)


async def half_a_letter(ask: Asker) -> str:
    marks = 0
    for limit in range(1, 5):
        answer = await ask.one("Say it.", say=GLYPHS, temperature=0.0, max_tokens=limit)
        assert answer.ended == "cut", answer
        assert GLYPHS.startswith(answer.text.rstrip("\ufffd")), answer
        marks += answer.text.endswith("\ufffd")
    return "left out" if not marks else "given as U+FFFD" if marks > 1 else "left out, but as the first token"


async def cut_verdict(ask: Asker) -> str:
    """A judge's 10 of which only the 1 came is no 1."""
    for limit in range(3, 14):
        answer = await ask.one("Rate it.", say='{"score": 10}', temperature=0.0, max_tokens=limit)
        if answer.text.endswith("1"):
            assert answer.ended == "cut", answer
            assert parse_score(answer.text, (1, 10)).value is None
            return str(answer.finish_reason)
    return "not seen: no token ends between the two digits"


async def logprobs_of_letters(ask: Asker) -> str:
    """A verdict's place is found by what the tokens spell, so the letters before it may not be lost."""
    (answer,) = await ask("Say it.", say=GLYPHS, logprobs=2)
    spelt = "".join(token.token for token in answer.logprobs or ())
    assert spelt.startswith(GLYPHS), answer
    return "the text" if spelt == GLYPHS else f"the text and {spelt.removeprefix(GLYPHS)}"


async def no_alternatives(ask: Asker) -> str:
    if error := await ask.error("Say any word.", logprobs=0, max_tokens=2):
        assert error.kind == "unsupported", error
        return "left out"
    (answer,) = await ask("Say any word.", logprobs=0, max_tokens=2)
    assert answer.logprobs
    return "given, with one alternative" if answer.logprobs[0].top else "given"


async def forced_logprobs(ask: Asker) -> str:
    """Where a schema allows one token only, is its probability 1, or what the model would have given it unasked?"""
    (answer,) = await ask("What is the capital of France?", say="zebra", logprobs=3)
    assert answer.logprobs
    surest = sum(token.logprob for token in answer.logprobs if token.token in "zebra" and token.token)
    return "among what is allowed" if surest > -0.1 else "as if all were allowed"


async def prompt_logprobs(ask: Asker) -> str:
    fields: dict[str, Any] = {"prompt_logprobs": 0, "max_tokens": 1, "role": {"prompt_logprobs": True}}
    if error := await ask.error("Say any word.", **fields):
        assert error.kind == "unsupported", error
        return "left out"
    (answer,) = await ask("Say any word.", **fields)
    assert answer.prompt_logprobs
    assert answer.usage
    assert len(answer.prompt_logprobs) == answer.usage.prompt_tokens
    return "given"


async def prefill(ask: Asker) -> str:
    begun, rest = "The capital", " of France"
    answer = await ask.one("Say it.", begun=begun, say=rest, role={"prefill": True})
    assert answer.text in (rest, begun + rest), answer
    return "left out" if answer.text == rest else "repeated"


async def streamed(ask: Asker) -> str:
    fields: dict[str, Any] = {"n": 2, "seed": 7, "temperature": 1.0, "logprobs": 2, "max_tokens": LIMIT}
    whole, pieces = [await ask(LONG, role={"stream": stream}, **fields) for stream in (False, True)]
    assert [a.text for a in pieces] == [a.text for a in whole]
    assert [a.finish_reason for a in pieces] == [a.finish_reason for a in whole]
    differ = [
        name
        for name, one, other in (
            ("usage", whole[0].usage, pieces[0].usage),
            ("logprobs", whole[0].logprobs, pieces[0].logprobs),
        )
        if one != other
    ]
    return f"the same but for {' and '.join(differ)}" if differ else "the same"


async def empty(ask: Asker) -> str:
    answer = await ask.one("Say it.", say="one", stop=("one",))
    assert answer.text.strip() == ""
    return str(answer.finish_reason)


async def other_letters(ask: Asker) -> str:
    answer = await ask.one("Say it.", say="Grüße, 世界 🙂!")
    assert answer.text == "Grüße, 世界 🙂!"
    return "whole"


async def many_at_once(ask: Asker) -> str:
    answers = await asyncio.gather(*(ask.one("Say one.", say="one") for _ in range(16)))
    assert {answer.text for answer in answers} == {"one"}
    return "16 of 16"
