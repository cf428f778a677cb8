"""Everything that led to a pair, as a person reads it in a terminal.

All is plain text under headings, so that it reads the same in a pipe. Texts by models are shown in full, with
control characters made visible: a reply cannot move the cursor or colour the screen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from rich.text import Text

from synthpref.core.seam import Completion, Request
from synthpref.core.types import Comparison, Pair, Row, Sample, Vote

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_HEAD, _FACT, _GOOD, _BAD = "bold cyan", "dim", "green", "red"


class _Page:
    """Lines of text with an indent and a style each."""

    def __init__(self) -> None:
        self.text = Text()

    def line(self, text: str, style: str = "", indent: int = 0) -> None:
        self.text.append(" " * indent + safe(text) + "\n", style)

    def block(self, text: str, indent: int = 2, style: str = "") -> None:
        """A text of many lines, with a bar at its left."""
        for line in safe(text).splitlines() or [""]:
            self.text.append(" " * indent + "│ ", _FACT)
            self.text.append(line + "\n", style)

    def facts(self, facts: Mapping[str, Any], indent: int = 0) -> None:
        if line := _facts(facts):
            self.line(line, _FACT, indent)

    def head(self, text: str) -> None:
        self.text.append(f"\n{safe(text)}\n", _HEAD)


def safe(text: str) -> str:
    """The text with control characters (but line break and tab) shown as \\x1b and the like."""
    text = text.replace("\r\n", "\n")
    return _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}" if ord(m[0]) < 256 else f"\\u{ord(m[0]):04x}", text)


def show_row(row: Row) -> Text:
    """The row's prompt, where it came from, each response with its scores and verdicts, each comparison, and
    the pairs with their rule."""
    page = _Page()
    page.line(f"Row {row.id}", "bold")
    for step in row.trail:
        made = f"made by {step.stage} from row {step.parent}" + (f", {step.model}" if step.model else "")
        page.line(made + (f": {step.note}" if step.note else ""), _FACT)
    page.facts({"licence": row.licence, **row.meta})
    page.head("Prompt")
    for message in row.prompt:
        page.line(f"{message['role']}:", _FACT, 2)
        page.block(message["content"])
    if row.reference is not None:
        page.head("Reference")
        page.block(row.reference)
    roles = _roles(row.pairs)
    for i, sample in enumerate(row.samples):
        _sample(page, i, sample, roles.get(i, []))
    for comparison in row.comparisons:
        _comparison(page, comparison)
    for i, pair in enumerate(row.pairs):
        _pair(page, i, pair, row)
    return page.text


def show_left(kind: str, stage: str, reason: str, detail: str) -> Text:
    """Why a row is not in the dataset: `kind` is "drop" or "reject"."""
    page = _Page()
    page.head({"drop": "Dropped", "reject": "Rejected"}.get(kind, kind) + f" by {stage}: {reason}")
    if detail:
        page.block(detail)
    return page.text


def show_calls(asked: Iterable[tuple[str, str, str, Request, list[Completion]]]) -> Text:
    """Each (stage, role, model, request, answers): the prompt as it was sent, and the replies."""
    page = _Page()
    for stage, role, model, request, answers in asked:
        page.head(f"{stage} asked {role} ({model})")
        settings = {
            "kind": None if request.kind == "chat" else request.kind,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
            "stop": request.stop or None,
            "format": "JSON schema" if request.response_format else None,
        }
        page.facts(settings)
        for message in request.messages:
            page.line(f"{message['role']}:", _FACT, 2)
            page.block(message["content"])
        for answer in answers:
            tokens: Any = answer.usage.completion_tokens if answer.usage else None
            if answer.usage and answer.usage.estimated:
                tokens = f"about {tokens}"
            facts = {"finish_reason": answer.finish_reason, "seed": answer.seed, "tokens": tokens}
            page.line(f"reply: {_facts(facts)}", _GOOD, 2)
            if answer.reasoning:
                page.line("reasoning:", _FACT, 4)
                page.block(answer.reasoning, 4)
            page.block(_answer(answer), 4)
    return page.text


def _answer(answer: Completion) -> str:
    if answer.values is not None:
        return _facts(answer.values)
    if answer.vector is not None:
        return f"a vector of {len(answer.vector)} numbers"
    return answer.text


def _facts(facts: Mapping[str, Any]) -> str:
    """name: value · name: value, without those that are None; texts plain, all else as JSON."""

    def shown(value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, float):
            return f"{value:.4g}"
        return orjson.dumps(value, default=str).decode()

    return " · ".join(f"{name}: {shown(value)}" for name, value in facts.items() if value is not None)


def _roles(pairs: Iterable[Pair]) -> dict[int, list[str]]:
    roles: dict[int, list[str]] = {}
    for pair in pairs:
        roles.setdefault(pair.chosen, []).append("chosen")
        roles.setdefault(pair.rejected, []).append("rejected")
    return {i: list(dict.fromkeys(names)) for i, names in roles.items()}


def _number(value: float | None) -> str:
    return "no value" if value is None else f"{value:.4g}"


def _sample(page: _Page, i: int, sample: Sample, roles: list[str]) -> None:
    page.head(f"Response {i}" + (f" ({', '.join(roles)})" if roles else ""))
    facts = {"model": sample.model or None, "finish_reason": sample.finish_reason, "seed": sample.seed}
    parent = None if sample.parent is None else f"response {sample.parent}"
    page.line(_facts({**facts, **sample.params, "made from": parent}) or "brought by the source", _FACT)
    if sample.reasoning:
        page.line("reasoning:", _FACT, 2)
        page.block(sample.reasoning)
    page.block(sample.text if not sample.empty else "(empty)", style="" if not sample.empty else _BAD)
    for name, score in sample.scores.items():
        why = f" ({score.why})" if score.why else ""
        page.line(f"{name}: {_number(score.value)}{why}", _BAD if score.value is None else _GOOD, 2)
        for vote in score.votes:
            _vote(page, vote)


def _vote(page: _Page, vote: Vote) -> None:
    shown = f", shown as {vote.shown}" if vote.shown else ""
    why = f" ({vote.why})" if vote.why else ""
    judge = f"{vote.role} ({vote.judge})" if vote.role and vote.role != vote.judge else vote.judge
    given = "" if vote.scores is None else f", by scores {vote.scores[0]:g} and {vote.scores[1]:g}"
    trust = "" if vote.reliability is None else f", reliability {vote.reliability:.2f}"
    page.line(f"{judge}{shown}: {_number(vote.value)}{given}{why}{trust}", indent=4)
    if vote.rationale:
        page.block(vote.rationale, 6)
    if vote.reply and vote.reply != vote.rationale:
        page.line("reply:", _FACT, 6)
        page.block(vote.reply, 6, _FACT)


def _comparison(page: _Page, comparison: Comparison) -> None:
    p = comparison.p
    verdict = "no verdict" if p is None else f"response {comparison.a} won {p:.0%}"
    flipped = ", flipped when the order was swapped" if comparison.flipped else ""
    page.head(f"{comparison.name}: response {comparison.a} against {comparison.b}: {verdict}{flipped}")
    for vote in comparison.votes:
        _vote(page, vote)


def _pair(page: _Page, i: int, pair: Pair, row: Row) -> None:
    page.head(f"Pair {i}: response {pair.chosen} over response {pair.rejected}, by {pair.rule}")
    known = pair.p_low is not None and pair.p_high is not None
    interval = f"{pair.p_low:.2f} to {pair.p_high:.2f}" if known else None
    sure = {"p": pair.p, "95 %": interval, "agreement": pair.agreement, "votes": pair.votes}
    page.facts({"margin": pair.margin, **sure, **pair.facts}, 2)
    for label, index, style in (("chosen", pair.chosen, _GOOD), ("rejected", pair.rejected, _BAD)):
        scores = {name: _number(score.value) for name, score in row.samples[index].scores.items()}
        page.line(f"{label}: response {index}. {_facts(scores)}", style, 2)
    if pair.rationale:
        page.line("rationale:", _FACT, 2)
        page.block(pair.rationale)
