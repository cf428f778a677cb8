"""What a run may still spend: the most that a call may cost is reserved before it is sent.

Spent and reserved together never pass a cap, so a run ends below it. It passes the cap by no more than what calls cost
beyond their reservation. The most is known where an answer has `max_tokens`. Elsewhere one call is sent for each role and
stage until the first answer, and then as many as half of what is left pays for, by what answers have cost with a margin.
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, sqrt
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from synthpref.core.seam import ModelSpec, Price, Request
from synthpref.core.tokens import size_of
from synthpref.core.types import Usage

TEMPLATE_TOKENS = 64
"""What a chat template may add to a message, as long as nothing is known of it."""
PROMPT_MARGIN = 1.25
"""For prompts, over the most tokens a byte that the role counted so far."""
CAUTION = 3.0
"""The margin of an answer without `max_tokens` is 1 + this / sqrt(calls that were answered)."""
MEMORY = 500
"""Calls that the means look back on."""
PROBE_TOKENS = 4096
"""Reserved for each answer of the first call of a role without `max_tokens`, or what is left."""
PROBE_SHARE = 0.1
"""Of what is left, that a role's calls with `max_tokens` reserve before its first answer: what is not known yet is how
long its prompts are."""
LOOSE_SHARE = 0.5
"""Of what is left, that calls without `max_tokens` reserve at once."""
UNFIT = 64
"""Calls too dear for what is left that are looked past while others are under way."""
BIT = 1e-9
"""So small a part of a cap is the error of floating point."""

Verdict = Literal["go", "wait", "pass"]
"""`pass`: it has to wait, and those behind it do not."""


class Amount(NamedTuple):
    """US dollars and tokens; infinite for a cap that is not set."""

    usd: float = 0.0
    tokens: float = 0.0

    def plus(self, other: Amount) -> Amount:
        return Amount(self.usd + other.usd, self.tokens + other.tokens)

    def less(self, other: Amount) -> Amount:
        return Amount(self.usd - other.usd, self.tokens - other.tokens)

    def times(self, factor: float) -> Amount:
        """0 times an infinite cap is no cap."""
        return Amount(*(x if x == inf else x * factor for x in self))

    def within(self, other: Amount) -> bool:
        return self.usd <= other.usd and self.tokens <= other.tokens


NONE = Amount()


class Account:
    """What the calls of one role in one stage have used, and what the next ones may use."""

    def __init__(self, spec: ModelSpec, before: float = 0.0) -> None:
        self.before = before
        """Tokens of an answer in earlier starts of the run, on average; 0 where there was none."""
        self.price, self.dearest = spec.pays(), spec.pays_at_most()
        self.full = spec.price
        self.calls = 0
        """Calls that were answered."""
        self.held, self.reserved = 0, NONE
        """Calls under way, and what is reserved for them."""
        self._rate, self._longest_prompt = 0.0, 0.0
        self._each, self._most_each = 0.0, 0.0

    def need(self, request: Request, *, alone: bool = False) -> Amount:
        """The most that the request may use. Where `alone`, an answer without a bound is taken to be as long as others
        were, without a margin: nothing else can pass the cap with it."""
        if request.max_tokens is not None:
            each = max(float(request.max_tokens), self._most_each)
        elif request.kind != "chat":
            each = self._most_each
        elif not self.calls:
            # What one call needs to find out is its prompt at least; how much more is not known.
            each = self.before or (0.0 if alone else PROBE_TOKENS)
        else:
            each = self._each * (1 if alone else 1 + CAUTION / sqrt(self.calls))
        return _amount(self._prompt(request), each * request.n, self.dearest)

    def _prompt(self, request: Request) -> float:
        base = _base(request)
        if not self.calls:
            return base
        # Linear in the bytes, but where a prompt of the endpoint's own is counted with a short one.
        return min(PROMPT_MARGIN * self._rate * base, max(base, PROMPT_MARGIN * self._longest_prompt))

    def learn(self, request: Request, answers: int, usage: Usage) -> Amount:
        """Note what a call has used; what it cost."""
        self.calls += 1
        each = usage.completion_tokens / max(answers, 1)
        self._each += (each - self._each) / min(self.calls, MEMORY)
        self._most_each = max(self._most_each, each)
        self._rate = max(self._rate, usage.prompt_tokens / max(_base(request), 1))
        self._longest_prompt = max(self._longest_prompt, usage.prompt_tokens)
        return self.paid(usage)

    def paid(self, usage: Usage) -> Amount:
        price = self.full if usage.live else self.price
        return _amount(usage.prompt_tokens, usage.completion_tokens, price)


def _loose(request: Request) -> bool:
    """Whether it is not known beforehand how long an answer may be."""
    return request.max_tokens is None and request.kind == "chat"


def _base(request: Request) -> float:
    """More tokens than this a prompt hardly has: a token is a byte or more, and the chat template adds some."""
    return sum(size_of(message["content"]) + TEMPLATE_TOKENS for message in request.messages)


def _amount(prompt: float, completion: float, price: Price | None) -> Amount:
    usd = (prompt * price.input + completion * price.output) / 1e6 if price else 0.0
    return Amount(usd, prompt + completion)


@dataclass(eq=False)
class Hold:
    """A call, and what is reserved for it once it may be sent."""

    account: Account
    request: Request
    name: str
    loose: bool
    """Whether nothing bounds its answers."""
    reserved: Amount = NONE
    open: bool = False
    """Whether that is so now."""
    turn: asyncio.Future[bool] | None = field(default=None, repr=False)

    @property
    def what(self) -> str:
        bound = self.request.max_tokens
        return f"{self.name}, n {self.request.n}, " + (f"max_tokens {bound:,}" if bound else "no max_tokens")


class Budget:
    """Hands out what may be spent, to the oldest rows first. Where nothing is under way and no call that waits fits, it
    calls `dry` with the reason."""

    def __init__(
        self,
        caps: Amount,
        spent: Amount,
        dry: Callable[[str], object],
        before: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """`before` has the tokens of an answer by role, where earlier starts of the run know them."""
        self.caps, self.spent, self.before, self._dry = caps, spent, before, dry
        self.reserved = NONE
        self.held = 0
        """Calls under way."""
        self._loose = NONE
        self._loose_held = 0
        self._accounts: dict[tuple[str, str], Account] = {}
        self._waiting: list[tuple[int, int, Hold]] = []
        self._numbers = itertools.count()
        self._blocked = False
        """Whether one waits that those behind it may not overtake."""
        self._closed = False

    @property
    def waiting(self) -> int:
        """Calls that wait for room."""
        return len(self._waiting)

    def account(self, role: str, stage: str, spec: ModelSpec) -> Account:
        found = self._accounts.get((role, stage))
        if found is None:
            found = self._accounts[role, stage] = Account(spec, self.before.get(role, 0.0))
        return found

    async def hold(self, role: str, stage: str, spec: ModelSpec, request: Request) -> Hold | None:
        """Reserve for a call, when there is room for it; None when the run ends first."""
        call = Hold(
            self.account(role, stage, spec),
            request,
            f"models.{role} in {stage.removesuffix('/0')}",
            _loose(request),
        )
        return call if await self.take(call) else None

    async def take(self, call: Hold) -> bool:
        """Wait until the call may be sent; False when the run ends first."""
        if self._closed:
            return False
        if not self._blocked and self._verdict(call) == "go":
            self._open(call)
            return True
        call.turn = asyncio.get_running_loop().create_future()
        insort(self._waiting, (call.request.priority, next(self._numbers), call))
        if not self.held:
            self._serve()
        try:
            return await call.turn
        except asyncio.CancelledError:
            self._waiting = [one for one in self._waiting if one[2] is not call]
            self.release(call)
            self._serve()
            raise

    def used(self, call: Hold, answers: int, usage: Usage) -> None:
        """The call was answered."""
        self.spent = self.spent.plus(call.account.learn(call.request, answers, usage))

    def lost(self, call: Hold, usage: Usage) -> None:
        """An answer came that is of no use, and has to be paid for. To ask again takes another reservation."""
        self.spent = self.spent.plus(call.account.paid(usage))
        self.release(call)

    def release(self, call: Hold) -> None:
        """What is reserved for the call, if anything is, is free."""
        if not call.open:
            return
        account, call.open = call.account, False
        self.held -= 1
        account.held -= 1
        self.reserved = self.reserved.less(call.reserved) if self.held else NONE
        account.reserved = account.reserved.less(call.reserved) if account.held else NONE
        if call.loose:
            self._loose_held -= 1
            self._loose = self._loose.less(call.reserved) if self._loose_held else NONE
        if self._waiting:
            self._serve()

    def allow(self, caps: Amount) -> None:
        """Set other caps."""
        self.caps = caps
        self._serve()

    def close(self) -> None:
        """The run ends: nobody waits any more."""
        self._closed = True
        for _, _, call in self._waiting:
            if call.turn and not call.turn.done():
                call.turn.set_result(False)
        self._waiting = []

    def least(self) -> tuple[Amount, str] | None:
        """What the cheapest of the calls that wait needs, and which that is; None where none waits."""
        calls = (call for _, _, call in self._waiting)
        needs = ((call.account.need(call.request, alone=True), call.what) for call in calls)
        return min(needs, default=None)

    # ---- who goes

    @property
    def room(self) -> Amount:
        """What is not spent yet."""
        return self.caps.less(self.spent)

    def _verdict(self, call: Hold) -> Verdict:
        room = self.room
        free = room.less(self.reserved)
        account, alone = call.account, not self.held
        if call.loose and not account.calls:
            if account.held or not self._fits(account.need(call.request, alone=True), free):
                return "pass"
            call.reserved = Amount(*map(min, account.need(call.request), free))
            return "go"
        need = call.reserved = account.need(call.request, alone=alone)
        if not self._fits(need, free):
            cheapest = account.need(call.request, alone=True)
            return "wait" if self.held and self._fits(cheapest, room) else "pass"
        if call.loose and self._loose_held and not self._loose.plus(need).within(room.times(LOOSE_SHARE)):
            return "wait"
        probed = account.calls or not account.held
        if not probed and not account.reserved.plus(need).within(room.times(PROBE_SHARE)):
            return "pass"
        return "go"

    def _fits(self, need: Amount, free: Amount) -> bool:
        slack = Amount(*(BIT * cap if cap < inf else 0.0 for cap in self.caps))
        return need.within(free.plus(slack))

    def _open(self, call: Hold) -> None:
        call.open = True
        self.held += 1
        self.reserved = self.reserved.plus(call.reserved)
        call.account.held += 1
        call.account.reserved = call.account.reserved.plus(call.reserved)
        if call.loose:
            self._loose_held += 1
            self._loose = self._loose.plus(call.reserved)

    def _serve(self) -> None:
        """Let go who can, in order. A call that fits only when others have come back is waited for; one that is dearer
        than all that is left is not."""
        waiting, self._waiting = self._waiting, []
        self._blocked, unfit = False, 0
        for i, entry in enumerate(waiting):
            call = entry[2]
            if call.turn is None or call.turn.done():
                continue  # who waited was cancelled
            verdict = self._verdict(call)
            if verdict == "go":
                self._open(call)
                call.turn.set_result(True)
                continue
            self._waiting.append(entry)
            unfit += verdict == "pass"
            if verdict == "wait" or (unfit > UNFIT and self.held):
                self._blocked = verdict == "wait"
                self._waiting += waiting[i + 1 :]
                break
        if self._waiting and not self.held and (least := self.least()):
            self._dry(spent_up(self.caps, self.spent, *least))


def spent_up(caps: Amount, spent: Amount, need: Amount, what: str) -> str:
    """Why nothing more is sent: the cheapest call that waits is `what`, and needs more than is left."""
    for name, cap, used, needed in zip(("max_cost_usd", "max_tokens"), caps, spent, need, strict=True):
        if needed <= cap - used:
            continue
        show = _usd if name == "max_cost_usd" else _tokens
        fix = "raise the limit, then run the same command again"
        if not used:
            fix = f"{fix}, or lower n or max_tokens"
        return (
            f"the budget of {show(cap)} (limits.{name}) is spent: {show(used)} so far, and the next call ({what}) "
            f"may take {show(needed)}; {fix}"
        )
    return "the budget is spent"


def _usd(value: float) -> str:
    return f"${value:.2f}" if value >= 1 else f"${value:.3g}"


def _tokens(value: float) -> str:
    return f"{value:,.0f} tokens"


def caps_of(limits: Any) -> Amount | None:
    """The caps of a recipe's limits; None where it has none."""
    usd, tokens = limits.max_cost_usd, limits.max_tokens
    if usd is None and tokens is None:
        return None
    return Amount(inf if usd is None else usd, inf if tokens is None else tokens)
