"""What a failed call means: an HTTP status, or an error object in an answer -> BackendError. Pure.

A status and an error code decide; the text does only where a server gives nothing else, or where what it says is known
to mean something else than its status.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from synthpref.core.errors import BackendError, ErrorKind

SHOWN = 300
PASSING = (408, 409, 421, 424, 425, 499)
"""Statuses below 500 that pass: time-outs, a failed upstream (text-generation-inference's 424), a client gone (499)."""

_UNKNOWN = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|extra (fields|inputs)|not (permitted|allowed)", re.I
)
_TOO_LONG = re.compile(
    r"context.{0,10}(length|window|size)|maximum.{0,20}tokens|prompt is too long|too many tokens"
    r"|(input|prompt).{0,40}(exceeds|longer than)",
    re.I,
)
_FILTERED = re.compile(
    r"content.{0,3}(filter|polic|management|violat|moderat)|safety|moderation|usage (guidelines|polic)|acceptable use"
    r"|flagged|(input|prompt|request|content).{0,40}(blocked|prohibited|inappropriate|sensitive|unsafe|harmful)"
    r"|data.?inspection|responsible.?ai",
    re.I,
)
_NO_MONEY = re.compile(
    r"(insufficient|not enough|out of|used up).{0,20}(credit|balance|quota|funds|budget)"
    r"|\b(no|low|more)\s+(remaining\s+)?(credits?|balance|funds)\b|exceeded.{0,20}(current quota|budget|credit)"
    r"|(credits?|balance|budget|funds)\b.{0,40}(too low|insufficient|exhausted|exceeded|used up|depleted|negative)"
    r"|billing.{0,20}(hard.?limit|not active|required)|payment required|arrearage|overdue",
    re.I,
)
_RATE = re.compile(r"per (second|minute|hour)|rate.?limit|retry in|\b[rt]pm\b", re.I)
_UPSTREAM = re.compile(
    r"provider returned error|upstream|bad gateway|service unavailable|temporarily|overloaded|try again|server is busy"
    r"|out of memory|connection (reset|error|refused)|timed? ?out",
    re.I,
)
"""Words for a passing failure behind a gateway that sends 400."""
_FIXES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"\bn\b['\"`]?\s*[:=>]?.{0,25}(must be|at most|less than|only|equal|support|greater|> ?1)"
            r"|(only|more than) (one|1|a single) (completion|choice|candidate|response|output)"
            r"|(one|1|single) (completion )?choice|multiple (completions|choices|candidates)|candidate_?count|best_of",
            re.I,
        ),
        "set many: false on the role",
    ),
    (
        re.compile(
            r"response.?format|json.?schema|json.?mode|structured.?output|guided|grammar|output.?format|xgrammar|outlines"
            # llama.cpp, where it cannot make a grammar of the schema and the chat template.
            r"|initialize samplers",
            re.I,
        ),
        "set structured_output: false on the role",
    ),
    (
        re.compile(
            r"system.{0,3}(role|message|prompt|instruction)|'?system'?.{0,40}(with this model|not)|developer.{0,3}(role|instruction)"
            r"|roles? must alternate|alternate (between )?user|only user and assistant",
            re.I,
        ),
        "set fold_system: true on the role",
    ),
    (
        re.compile(r"stream(ing)?\b.{0,60}(only|enable|must|require|true|mode)|only.{0,20}stream", re.I),
        "set stream: true on the role",
    ),
    (re.compile(r"prompt_logprobs", re.I), "set prompt_logprobs: false on the role"),
    (re.compile(r"logprobs", re.I), "set logprobs: false on the role"),
    (re.compile(r"\bseed\b", re.I), "set send_seed: false on the role"),
    (
        re.compile(r"^(?!.*use 'max_completion).*max_completion_tokens", re.I),
        "set max_tokens_as: max_tokens on the role",
    ),
    (re.compile(r"\bmax_tokens\b", re.I), "set max_tokens_as: max_completion_tokens on the role"),
    (re.compile(r"continue_final_message|prefill|last message", re.I), "set prefill: false on the role"),
    (re.compile(r"\btemperature\b", re.I), "leave temperature out of the role, and out of its stages"),
    (re.compile(r"\btop_p\b", re.I), "leave top_p out of the role"),
    (
        re.compile(r"chat.?template", re.I),
        "give the server a chat template, or choose an instruction-tuned model",
    ),
)
"""What a server says it does not take, and the setting that leaves it out."""


def http_error(status: int, headers: Mapping[str, str], body: bytes) -> BackendError:
    """What an HTTP status of 300 or more means."""
    if status < 400:
        place = next((value for name, value in headers.items() if name.lower() == "location"), "")
        shown = f"HTTP {status}: base_url redirects to {place.partition('?')[0][:SHOWN] or 'another address'}"
        return BackendError("not_found", f"{shown}; if that is right, write it as base_url", status=status)
    detail = error_detail(body)
    code, parameter, text = (
        str(detail.get("code") or ""),
        str(detail.get("param") or ""),
        str(detail["message"]),
    )
    kind = _kind(status, code, str(detail.get("type") or ""), text, parameter)
    shown = f"HTTP {status}: {text[:SHOWN]}"
    fix = {
        "auth": "check api_key",
        "not_found": "check model and base_url",
        "payment": "the account has no credit left",
        "unsupported": fix_for(parameter, text),
        "bad_request": fix_for(parameter, text),
    }.get(kind)
    return BackendError(
        kind, f"{shown}; {fix}" if fix else shown, status=status, retry_after=retry_after(headers)
    )


def _kind(status: int, code: str, type_: str, text: str, parameter: str) -> ErrorKind:
    # vLLM repeats the status as the code, which says nothing; only then does the text decide.
    wordless = (
        not code or code.isdigit() or code in ("invalid_request_error", "bad_request", "permission_denied")
    )
    codes = {code, type_}
    if status == 402 or codes & {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}:
        return "payment"
    if codes & {"content_filter", "content_policy_violation", "data_inspection_failed"}:
        return "content_filter"
    if status in (400, 403, 422, 429) and _NO_MONEY.search(text) and not _RATE.search(text):
        return "payment"
    if status == 429:
        return "rate_limit"
    if status in (404, 501):
        # 501 is a server that will never do this: llama.cpp's for embeddings, where it serves a chat model.
        return "not_found"
    if status in (401, 403):
        # Of a gateway some prompts are refused so, and the key is good.
        if _FILTERED.search(f"{code} {text}"):
            return "content_filter"
        return "auth"
    if status in PASSING or (status >= 500 and not _is_unsupported(code, parameter, text, certain=True)):
        return "transient"
    if code == "context_length_exceeded" or (wordless and _TOO_LONG.search(text)):
        return "context_length"
    if _is_unsupported(code, parameter, text):
        return "unsupported"
    if wordless and _FILTERED.search(text):
        return "content_filter"
    return "transient" if wordless and _UPSTREAM.search(text) else "bad_request"


def _is_unsupported(code: str, parameter: str, text: str, *, certain: bool = False) -> bool:
    """Whether the endpoint says that it does not take a parameter that a setting of the role leaves out. `certain` asks
    for a code that says so, where the status says something else."""
    named = code.startswith(("unsupported", "unknown")) or (not certain and bool(_UNKNOWN.search(text)))
    first = _FIXES[:4]
    plain = not certain and any(pattern.search(text) for pattern, _ in first)
    return (named or plain) and fix_for(parameter, text) is not None


def fix_for(parameter: str, text: str) -> str | None:
    """The setting that leaves out what the endpoint does not take, if that is what it complains of."""
    found = (fix for where in (parameter, text) if where for pattern, fix in _FIXES if pattern.search(where))
    return next(found, None)


def error_inside(answer: Any) -> BackendError | None:
    """The error that some gateways send with status 200. It is this answer's: it says nothing of other calls."""
    inside = answer.get("error") if isinstance(answer, Mapping) else None
    if not inside:
        return None
    code = inside.get("code") if isinstance(inside, Mapping) else None
    found = int(str(code)) if str(code).isdigit() else 0
    status = found if 400 <= found < 600 else 502
    error = http_error(status, {}, orjson.dumps({"error": inside}))
    if error.kind != "transient":
        return error
    return BackendError("transient", str(error), status=200)


def no_error_inside(answer: Any) -> None:
    """Raise what `error_inside` finds."""
    if error := error_inside(answer):
        raise error


def odd(answer: Any, error: Exception | str) -> BackendError:
    """An answer of another shape than the wire's."""
    why = error if isinstance(error, str) else type(error).__name__
    return BackendError(
        "unreadable", f"the answer has an unknown shape ({why}): {repr(answer)[:SHOWN]}", status=200
    )


def error_detail(body: bytes) -> dict[str, Any]:
    """The error object of a body, whatever its form; its text under "message"."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"message": body[:SHOWN].decode("utf-8", "replace").strip() or "no message"}
    outer = found if isinstance(found, Mapping) else {}
    for key in ("error", "detail", "message"):
        if isinstance(found, Mapping) and found.get(key):
            found = found[key]
            break
    if isinstance(found, Mapping):
        return {**found, "message": found.get("message") or str(dict(found))}
    return {"code": outer.get("code"), "type": outer.get("error_type"), "message": str(found)}


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds to wait, from retry-after-ms or Retry-After (seconds or an HTTP date)."""
    lower = {key.lower(): value for key, value in headers.items()}
    try:
        if "retry-after-ms" in lower:
            return max(0.0, float(lower["retry-after-ms"]) / 1000)
        text = lower.get("retry-after", "")
        if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
            return float(text)
        when = parsedate_to_datetime(text) if text else None
    except (ValueError, TypeError):
        return None
    if when is None:
        return None
    return max(0.0, (when.astimezone(UTC) - (now or datetime.now(UTC))).total_seconds())
