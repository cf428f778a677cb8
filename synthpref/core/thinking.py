"""Splits what a model thought from what it answered, where both stand in one text. Pure.

Servers without a parser for reasoning leave it in the content: between tags (Qwen3, DeepSeek-R1, Magistral, Kimi), with
the opening tag in the prompt and so not in the answer (R1's and QwQ's chat templates), or as channels (gpt-oss's
harmony format). A draft in there is no answer, and a draft verdict is no verdict.

An answer *about* such tags keeps them: a tag in a code block, in backticks or quotation marks, or in the middle of a
sentence is part of the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from synthpref.core.finish import ending_of
from synthpref.core.seam import Completion, TokenLogprob

_NAMES = r"(?:\w+:)?(?:think(?:ing)?|thoughts?)"
_ABOUT = r"(?![ \t]+(?:is|are|was|were|has|means?|marks?|tags?|blocks?|tokens?|elements?|markers?|sections?|(?:and|or|to|…|\.\.\.)[ \t]+</)\b)"
"""What follows a tag that begins a sentence about it: "<think> tags are ..."."""
_OPEN = re.compile(
    rf"(?:<(?P<tag>{_NAMES})>|\[(?P<square>THINK)\]|(?P<kimi>◁think▷)|(?P<cohere><\|START_THINKING\|>)"
    r"|<\|begin_of_(?P<begun>thought|thinking)\|>|(?P<pipes><\|think(?:ing)?\|>)|(?P<unused><unused94>)(?:thought\n)?)"
    rf"{_ABOUT}",
    re.IGNORECASE,
)
_CLOSE = {
    "square": r"\[/THINK\]",
    "kimi": "◁/think▷",
    "cohere": r"<\|END_THINKING\|>",
    "pipes": r"<\|/think(?:ing)?\|>|<\|end_think(?:ing)?\|>",
    "unused": "<unused95>",
}
_ANY_CLOSE = re.compile(
    rf"</{_NAMES}>|{'|'.join(_CLOSE.values())}|<\|end_of_(?:thought|thinking)\|>", re.IGNORECASE
)
_WRAPPED = re.compile(
    r"\s*(?:<answer>(?P<answer>.*)</answer>|<\|begin_of_solution\|>(?P<solution>.*?)(?:<\|end_of_solution\|>|\Z)"
    r"|<\|START_RESPONSE\|>(?P<response>.*?)(?:<\|END_RESPONSE\|>|\Z))\s*\Z",
    re.DOTALL | re.IGNORECASE,
)
"""What some of these models put around their answer. It goes only where thinking stood before it."""

_CHANNEL = re.compile(
    r"(?:<\|start\|>\s*assistant[^<]*)?<\|channel\|>\s*(?P<name>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(?P<text>.*?)(?=<\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|<\|channel\|>|\Z)(?P<end><\|\w+\|>)?",
    re.DOTALL,
)
_BARE_CHANNELS = re.compile(
    r"\s*analysis(?=[A-Z0-9\"'(])(?P<thought>.*)assistantfinal(?P<text>.*)\Z", re.DOTALL
)
"""Harmony from a server that leaves special tokens out and their names in."""

_TRAILING = re.compile(
    r"(?:\s*(?:<\|[^<>|\n]{1,40}\|>|<｜[^<>｜\n]{1,40}｜>|<(?:eos|end_of_turn|end_of_utterance|start_of_turn|pad)>"
    r"|\[/INST\]))+\s*\Z"
)
_SENTENCE_END = re.compile(r"</s>\s*\Z")
SPECIAL = re.compile(r"<\|[^<>|\n]{1,40}\|>|<｜[^<>｜\n]{1,40}｜>")
"""A chat template's token in a text, where it has no business."""
_SUSPECT = re.compile(r"[<\[◁](?!\s)|\s*analysis\S")
_CODE = re.compile(
    r"^[ \t]*(?P<fence>```+|~~~+)(?s:.*?)(?:^[ \t]*(?P=fence)[^\n]*$|\Z)|(?P<ticks>`+)(?!`)[^\n]+?(?<!`)(?P=ticks)(?!`)",
    re.MULTILINE,
)
_SENTENCE_ENDS = ".!?…:;)]}*`\"'”"
_BEGINNING = re.compile(r"[ \t]*(?:\n|\Z|[A-Z0-9{\[\"'*#$\\(<]|[^\x00-\x7f])")
"""What an answer may begin with, on the line where thinking ended."""
NEAR = 40
"""Characters beside a tag that are looked at."""
_QUOTES = {("`", "`"), ('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»"), ("(", ")")}


@dataclass(frozen=True, slots=True)
class Split:
    """A text taken apart. `closed` is False where the thinking never came to its end; there is then no answer."""

    thought: str | None
    answer: str
    closed: bool = True


def split_thinking(text: str) -> Split:
    """The thinking and the answer of a reply.

    >>> split_thinking("<think>Two and two?</think>Four.")
    Split(thought='Two and two?', answer='Four.', closed=True)
    """
    whole = Split(None, text)
    if not _SUSPECT.search(text):
        return whole
    found = _channels(text) or _tagged(text) or whole
    return replace(found, answer=_without_trailing(found.answer))


def _channels(text: str) -> Split | None:
    """By harmony's channels: "final" is the answer, all others are thinking."""
    if bare := _BARE_CHANNELS.match(text):
        return Split(bare["thought"].strip(), bare["text"])
    first = _CHANNEL.search(text)
    if not first or text[: first.start()].strip():
        return None
    messages = list(_CHANNEL.finditer(text))
    finals = [message for message in messages if message["name"] == "final"]
    thoughts = [m["text"].strip() for m in messages if m["name"] != "final" and m["text"].strip()]
    thought = "\n\n".join(thoughts) or None
    if not finals:
        return Split(thought, "", closed=False)
    return Split(thought, finals[-1]["text"])


def _tagged(text: str) -> Split | None:
    """By tags: blocks that stand first, and what comes before a closing tag that has no opening one."""
    thoughts: list[str] = []
    at = 0
    while opened := _OPEN.match(text, at + _blank(text, at)):
        closings = list(_closing(opened).finditer(text, opened.end()))
        if not closings:
            thoughts.append(text[opened.end() :].strip())
            return Split(_joined(thoughts), "", closed=False)
        # Thinking about such tags has some in code; where there are no others, the first one has to do.
        closed = next((c for c in closings if not _is_quoted(text, c)), closings[0])
        thoughts.append(text[opened.end() : closed.start()].strip())
        at = closed.end()
    answer = text[at:]
    if (orphan := _orphan(answer)) is not None:
        thoughts.append(answer[: orphan.start()].strip())
        answer = answer[orphan.end() :]
    if len(answer) == len(text):
        return None
    if wrapped := _WRAPPED.match(answer):
        answer = wrapped[wrapped.lastgroup or 0]
    return Split(_joined(thoughts), answer.strip())


def _closing(opened: re.Match[str]) -> re.Pattern[str]:
    if tag := opened["tag"]:
        return re.compile(rf"</{re.escape(tag)}>", re.IGNORECASE)
    if begun := opened["begun"]:
        return re.compile(rf"<\|end_of_{begun}\|>", re.IGNORECASE)
    return re.compile(_CLOSE[opened.lastgroup or ""], re.IGNORECASE)


def _orphan(text: str) -> re.Match[str] | None:
    """The last closing tag whose opening tag the prompt held: none stands in the text before it, and it is no word of a
    sentence, of code or of a quotation."""
    closings = list(_ANY_CLOSE.finditer(text))
    if not closings or _OPEN.search(text, 0, closings[0].start()):
        return None
    code = [match.span() for match in _CODE.finditer(text)]
    for closing in reversed(closings):
        inside = any(start <= closing.start() < end for start, end in code)
        if not inside and not _is_quoted(text, closing) and _is_boundary(text, closing):
            return closing
    return None


def _is_quoted(text: str, tag: re.Match[str]) -> bool:
    """Whether the tag stands in backticks or quotation marks of its own."""
    before, after = text[tag.start() - 1 : tag.start()], text[tag.end() : tag.end() + 1]
    return (before, after) in _QUOTES


def _is_boundary(text: str, closing: re.Match[str]) -> bool:
    """Whether thinking ends here: at the beginning of a line, between two sentences, or where the tag stands between
    two words without a space, as no sentence would have it."""
    before = text[max(0, closing.start() - NEAR) : closing.start()]
    after = text[closing.end() : closing.end() + NEAR]
    if not before.strip(" \t") or before.rstrip(" \t").endswith("\n"):
        return True
    if not before[-1].isspace() and after and not after[0].isspace():
        return True
    ended = not before[-1].isspace() or before.rstrip()[-1] in _SENTENCE_ENDS
    return ended and bool(_BEGINNING.match(after))


def _blank(text: str, at: int) -> int:
    found = re.compile(r"\s*").match(text, at)
    return len(found[0]) if found else 0


def _joined(thoughts: Sequence[str]) -> str | None:
    return "\n\n".join(thought for thought in thoughts if thought) or None


def _without_trailing(answer: str) -> str:
    """The answer without the special tokens that a chat template ends it with."""
    if trailing := _TRAILING.search(answer):
        answer = answer[: trailing.start()]
    if "<s>" not in answer and (trailing := _SENTENCE_END.search(answer)):
        answer = answer[: trailing.start()]
    return answer


def join_thinking(thought: str | None, answer: str) -> str:
    """The text of a reasoning model's reply, as chat templates of Qwen3 and DeepSeek-R1 write it."""
    return f"<think>\n{thought}\n</think>\n\n{answer}" if thought else answer


def read_completion(completion: Completion, limit: int | None = None) -> Completion:
    """The completion as stages see it, made from what the backend gave and the journal keeps: thinking is apart, and an
    answer that is cut is called so.

    `limit` is the most tokens that this answer could have, where `completion.usage` counts it alone: an endpoint that
    gives no finish reason, and as many tokens as there may be, has cut it.
    """
    finish, usage = completion.finish_reason, completion.usage
    counts = usage is not None and not usage.estimated
    if finish is None and limit is not None and usage and counts and usage.completion_tokens >= limit:
        finish = "length"
    split = split_thinking(completion.text)
    if not split.closed and ending_of(finish) == "whole":
        finish = "length"
    thoughts = [thought for thought in (completion.reasoning, split.thought) if thought]
    # A server with a parser of its own takes thinking out of the text, and leaves it among the tokens.
    logprobs = completion.logprobs
    if split.answer == completion.text and (not thoughts or (split.thought is None and logprobs is None)):
        return completion if finish == completion.finish_reason else replace(completion, finish_reason=finish)
    return replace(
        completion,
        text=split.answer,
        finish_reason=finish,
        reasoning="\n\n".join(dict.fromkeys(thoughts)) or None,
        logprobs=None if logprobs is None else _tokens_of(logprobs, split.answer),
    )


def _tokens_of(tokens: Sequence[TokenLogprob], answer: str) -> tuple[TokenLogprob, ...]:
    """The tokens that spell the answer. It is looked for from the end, because a backend may give tokens that are not
    in its text (the last one of a chat template), or a text that begins before its tokens do."""
    start = "".join(token.token for token in tokens).rfind(answer) if answer else -1
    kept, at = [], 0
    for token in tokens if start >= 0 else ():
        end = at + len(token.token)
        if end > start and at < start + len(answer):
            kept.append(token)
        at = end
    return tuple(kept)
