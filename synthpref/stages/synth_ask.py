"""What all words of prompt synthesis share: asking for new prompts, and what cannot serve as one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from synthpref.core.distance import normalise, words
from synthpref.core.reply import Parsed
from synthpref.core.seam import Ask, Completion
from synthpref.core.stage import PromptName, Role, RowStage
from synthpref.core.texts import parse_prompts, parse_text_field
from synthpref.core.types import Row
from synthpref.stages.asking import Question, ask_all, ask_parsed

SHORT = 80
"""Words up to which a text that opens like a refusal is taken for one (WizardLM, arXiv:2304.12244, section 3:
"sorry" in less than 80 words)."""

_HELP = (
    r"(?:help|assist|comply|provide|create|generate|write|rewrite|evolve|produce|fulfil|answer|continue|engage"
    r"|do (?:that|this)|support|offer|share|discuss)"
)
_REFUSAL = re.compile(
    rf"[\W_]*(?:(?:i(?:['’]?m| am)?|we(?:['’]re| are)?|but|very|so|really|deeply)\s+)*"
    rf"(?:sorry\b|apologi[sz]e\b|(?:my )?apologies\b|unfortunately,? (?:i|we)\b|as an? (?:ai|language model)\b"
    rf"|(?:must|have to) decline\b|(?:unable|not able) to {_HELP}\b"
    rf"|(?:can(?:not|['’]?t| not)|won['’]?t|will not) {_HELP}\b)",
    re.IGNORECASE,
)
_LEAKS = (
    "given prompt",
    "rewritten prompt",
    "created prompt",
    "evolved prompt",
    "original prompt",
    "prompt above",
)
_MARK = re.compile(r"<</?[^<>\n]+ [0-9a-f]{8,}>>")
_BLANK = re.compile(r"<[^<>]*>")
_STOPS = """
a an and are as at be but by for from had has have he her his i if in is it its me my no not of on or our she so
than that the their them then there they this to us was we were will with yes you your
"""
_STOP_WORDS = frozenset(_STOPS.split())


def is_refusal(text: str) -> bool:
    """True for a short text that opens like a refusal. "Write a note that says sorry" does not."""
    return _REFUSAL.match(text) is not None and len(text.split()) < SHORT


def unfit(prompt: str, given: str = "") -> str:
    """Why a text cannot serve as a new prompt, in a fixed phrase; "" when it can.

    The rules are those by which Evol-Instruct eliminates failed evolutions (WizardLM, arXiv:2304.12244,
    section 3): a refusal, nothing but punctuation and stop words, words of the asking prompt, no change.
    `given` is the text the prompt was made from: what stands in it already is no leak.
    """
    if not any(word[0].isalnum() for word in set(words(prompt)) - _STOP_WORDS):
        return "no words"
    if is_refusal(prompt):
        return "refused"
    lower, source = normalise(prompt), normalise(given)
    copied = [leak for leak in _LEAKS if leak in lower and leak not in source]
    marks = [mark for mark in _MARK.findall(prompt) if mark not in given]
    if copied or marks or _BLANK.fullmatch(prompt.strip()):
        return "prompt leak"
    return "unchanged" if lower == source else ""


class Writer(RowStage):
    """Base of the stages that ask a model for new prompts."""

    model: Role
    """The role that writes."""
    reask: PromptName = "synth/reask"
    """The template that asks once more for a reply that could not be used; it gets `why` and `shape`."""

    async def write_one(self, ask: Ask, template: str, **values: Any) -> tuple[str, str]:
        """One new prompt and "", or "" and why there is none."""
        schema, shape = _form("prompt", {"type": "string"}, '"<the new prompt>"')

        def parse(completion: Completion) -> Parsed[str]:
            return parse_text_field(completion.text, "prompt")

        question = Question(
            ask.prompt(template, shape=shape, **values), parse, self.model, shape, response_format=schema
        )
        [reply] = await ask_parsed(ask, question, reask=self.reask)
        return reply.parsed.value or "", (reply.parsed.why or "").split(":")[0]

    async def write_many(
        self, ask: Ask, template: str, jobs: Sequence[Mapping[str, Any]], counts: Sequence[int], given: str
    ) -> list[list[str]]:
        """For each job (the template's values) up to its count of new prompts, no two of them alike but for
        case and space; `given` is the text they are made from."""
        questions = []
        for values, count in zip(jobs, counts, strict=True):
            item = "1 string" if count == 1 else f"{count} strings, each a prompt of its own"
            schema, shape = _form(
                "prompts", {"type": "array", "items": {"type": "string"}}, f"[<exactly {item}>]"
            )
            messages = ask.prompt(template, shape=shape, **values)
            questions.append(Question(messages, _reader(given), self.model, shape, response_format=schema))
        replies = await ask_all(ask, questions, reask=self.reask)
        found: list[list[str]] = []
        seen: set[str] = set()
        for [reply], count in zip(replies, counts, strict=True):
            found.append([])
            for prompt in reply.parsed.value or []:
                if len(found[-1]) < count and normalise(prompt) not in seen:
                    seen.add(normalise(prompt))
                    found[-1].append(prompt)
        return found


def _form(key: str, schema: Mapping[str, Any], words: str) -> tuple[dict[str, Any], str]:
    """The response_format for one property, and the JSON in words."""
    body = {
        "type": "object",
        "properties": {key: schema},
        "required": [key],
        "additionalProperties": False,
    }
    json_schema = {"name": key, "strict": True, "schema": body}
    return {"type": "json_schema", "json_schema": json_schema}, f'{{"{key}": {words}}}'


def _reader(given: str) -> Callable[[Completion], Parsed[list[str]]]:
    """A parser of replies that hold several prompts: those that can serve, or why there is none."""

    def parse(completion: Completion) -> Parsed[list[str]]:
        if _REFUSAL.match(completion.text):
            # However long it is: its list, if it has one, is of reasons or of offers.
            return Parsed(None, "refused")
        prompts = parse_prompts(completion.text)
        good = [prompt for prompt in prompts if not unfit(prompt, given)]
        return (
            Parsed(good)
            if good
            else Parsed(None, unfit(prompts[0], given) if prompts else "no prompts found")
        )

    return parse


def born(row: Row, word: str) -> int:
    """The highest number that a child of this row has from the stage `word`."""
    numbers: Mapping[str, int] = row.scratch.get("born", {})
    return numbers.get(word, 0)


def remember(row: Row, word: str, number: int) -> Row:
    """The row, knowing that its children from `word` are numbered up to `number`: the same word may stand in
    a recipe twice, and ids must stay apart."""
    return replace(row, scratch={**row.scratch, "born": {**row.scratch.get("born", {}), word: number}})
