"""How many calls an endpoint gets at once: the law, with time handed in, so that it needs no clock.

Little's law is all it goes by: with a load of k calls and a latency R an endpoint serves k / R a second. So each
answer tells how good the load was at which it started, and two loads are compared by the logarithm of that,
averaged over their answers. Logarithms, because one answer in a hundred may be fifty times as long as the others.

- **Start.** Each answer that speaks for more load raises the limit, so it multiplies with each round trip. It
  ends when a load brings no more than half of it did. Latency may grow as long as throughput does: that is what a
  GPU's batch does. Where only latency grows the calls queue, as at vLLM, which never says 429.
- **After it** the limit rests, and now and then a step up or down is tried and judged against the rest before it.
- **A refusal** lowers the limit to what the endpoint held besides, which is then left alone for a while. Where
  nothing at all is served, single calls ask in growing pauses, and the first good answer starts again.
"""

from __future__ import annotations

from math import floor, inf, log, log2, sqrt

START = 16.0
"""So few calls do no harm anywhere, even in line: only an endpoint that refuses, or is late, gets fewer."""
EASY, EASY_SHARE = 64.0, 0.25
"""Up to here, or up to this share of the most, each answer lets three more calls in; beyond it, one."""
PAYS = 0.2
"""The limit grows while twice the load brings 2 ** PAYS of the throughput. A batch that brings so much more is at
1 - PAYS of what it could ever bring."""
STEP = 1.25
UP_PAYS, DOWN_PAYS = 0.15, 0.05
"""As PAYS, for a step up that is to be kept, and for a step down that is not. Between them lies peace."""
LEAST = 32
"""Fewest calls by which a load is judged."""
ENOUGH = 0.9
"""The share of those calls that must have ended. Without the last ones nothing hangs on the slowest; judged by the
first to end, which are the shortest, each load would look better than it is."""
CERTAIN = 0.07
"""A standard error, in logarithms, that is small enough to decide by."""
REST = 2
"""Judgements between steps; twice as many after each that was not kept, up to:"""
LONGEST_REST, LONGEST_COSTLY = 4, 16
"""The second after steps that cost throughput while they were tried."""
MEMORY = 16
"""Judgements that the rest looks back on."""
CUT = 0.9
BREATH_S, LONGEST_BREATH_S = 0.25, 5.0
"""Pauses between single calls while nothing is served."""
CEILING_S, LONGEST_CEILING_S = 15.0, 60.0
"""How long a load that was refused is left alone; longer where it was refused before, or costs a long pause."""
PAUSES, LONGEST_PAUSED_S = 30.0, 300.0
"""...in pauses that the endpoint asked for."""


class Ticket:
    """One call under way, for the law's use."""

    __slots__ = ("epoch", "load", "started", "weight")

    def __init__(self) -> None:
        self.started, self.load, self.epoch = 0.0, 0, -1
        self.weight = 1
        """Answers asked for, where these and not calls take the places."""


class _Mean:
    """A mean with its uncertainty."""

    __slots__ = ("mean", "n", "squares")

    def __init__(self) -> None:
        self.n, self.mean, self.squares = 0.0, 0.0, 0.0

    def add(self, x: float) -> None:
        self.n += 1
        off = x - self.mean
        self.mean += off / self.n
        self.squares += off * (x - self.mean)

    def merge(self, other: _Mean, most: float) -> None:
        """Take in another's values; the own count for `most` at the most, so that old ones fade."""
        if self.n > most:
            self.squares *= most / self.n
            self.n = most
        n = self.n + other.n
        if not n:
            return
        off = other.mean - self.mean
        self.squares += other.squares + off * off * self.n * other.n / n
        self.mean += off * other.n / n
        self.n = n

    @property
    def error2(self) -> float:
        """The square of the standard error; with few values nothing is certain."""
        return (self.squares + 0.1) / max(self.n - 1, 0.5) / self.n


class Limit:
    """The limit of one endpoint. Times are in seconds, from any fixed start."""

    def __init__(self, most: int = 256, value: float = START) -> None:
        self._most = most
        self.in_flight = 0
        self.paused_until = -inf
        self._epoch = 0
        self._cut_at = -inf
        self._refused = 0
        """Refusals since the last good answer, a burst counted once."""
        self._good = 0
        """Good answers since the last cut."""
        self._dark = False
        """Whether nothing at all was served at the last refusal."""
        self._before = value
        """The limit before the refusals began."""
        self._ceiling, self._ceiling_until, self._ceiling_for = inf, -inf, CEILING_S
        self._bins: dict[int, _Mean] = {}
        self._starting = True
        self._go(value)

    @property
    def most(self) -> int:
        return self._most

    @most.setter
    def most(self, most: int) -> None:
        self._most = most
        self._set(self.value)

    def _set(self, value: float) -> None:
        self.value = max(1.0, min(value, self._most))
        self.places = int(self.value)

    def _go(self, value: float) -> None:
        """Take a new limit; only calls that start from now on judge it: any in the start, a number after it."""
        self._set(value)
        self._epoch += 1
        self._size = self._open = inf if self._starting else max(LEAST, self.places)
        self._ended = 0
        self._seen = _Mean()

    # ---- calls

    def start(self, now: float, ticket: Ticket) -> None:
        self.in_flight += 1
        ticket.started, ticket.load = now, self.in_flight
        ticket.epoch = self._epoch if self._open > 0 else -1
        self._open -= 1

    def end(self, now: float, ticket: Ticket) -> None:
        self.in_flight -= 1
        if ticket.epoch == self._epoch:
            self._ended += 1
            if self._ended >= ENOUGH * self._size:
                self._judge(now)

    def answered(self, now: float, ticket: Ticket) -> None:
        """A call was answered well; `end` comes after. Only calls of a limit that is in use judge it."""
        self._good += 1
        if self._refused:
            self._refused = 0
            if self._dark:
                self._again(now)
                return
        if ticket.epoch != self._epoch:
            return
        if self.in_flight < self.places:
            self._go(self.value)
            return
        took = max(now - ticket.started, 1e-6)
        if self._starting:
            self._climb(now, ticket.load, log(ticket.load / took))
        else:
            self._seen.add(log(self.places / took))

    # ---- the start

    def _climb(self, now: float, load: int, good: float) -> None:
        """Note what an answer says for its load, in bins of half an octave, and grow or settle."""
        at = floor(2 * log2(load))
        here = self._bins.setdefault(at, _Mean())
        here.add(good)
        half = self._bins.get(at - 2)
        if half is None or half.n < 4:
            self._grow(now)
            return
        if good >= half.mean + log(2) / 2:
            self._grow(now)
        gain = here.mean - half.mean - PAYS * log(2)
        if here.n >= LEAST / 4 and gain < -sqrt(here.error2 + half.error2):
            self._settle()
        elif here.n >= 4 * max(LEAST, self.value):
            self._rest_at(self.value)

    def _grow(self, now: float) -> None:
        top = self._ceiling if now < self._ceiling_until else inf
        if self.value < top:
            easy = max(EASY, EASY_SHARE * self._most)
            self._set(min(self.value + (3 if self.value < easy else 1), top))

    def _settle(self) -> None:
        """Rest at the least load that surely does as well as the best, give or take; steps down are for later."""
        sure = {at: m.mean - sqrt(m.error2) for at, m in self._bins.items()}
        best = max(sure.values())
        at = min(at for at, mean in sure.items() if mean >= best - 0.1)
        self._rest_at(min(self.value, max(START, 2 ** ((at + 1) / 2))))

    def _rest_at(self, value: float) -> None:
        """Rest; of so few calls that judging them takes long, start again from there."""
        self._starting = value < START and value < self._most
        self._bins = {}
        self._step = 0
        self._rest, self._tried = _Mean(), {1: _Mean(), -1: _Mean()}
        # A start ends beyond what pays rather than before it, so the first step is one down.
        self._due, self._wait = {1: REST, -1: 1}, {1: REST, -1: REST}
        self._go(value)

    # ---- after it

    def _judge(self, now: float) -> None:
        if self._step:
            self._judge_step(now)
            return
        self._rest.merge(self._seen, MEMORY * self._size)
        for way in self._due:
            self._due[way] -= 1
        for way in (1, -1):
            if self._due[way] <= 0 and self._try(now, way):
                return
        self._go(self.value)

    def _try(self, now: float, way: int) -> bool:
        """Start a step up or down, if there is room for one."""
        refuses = now < self._ceiling_until
        top = min(self._most, self._ceiling if refuses else inf)
        value = min(self.value * STEP, top) if way > 0 else max(self.value / STEP, START)
        # Where it refuses what is too much, what it takes does not queue: there is no use in less.
        if int(value) == self.places or (value > self.value) != (way > 0) or (way < 0 and refuses):
            return False
        self._step, self._home = way, self.value
        self._go(value)
        return True

    def _judge_step(self, now: float) -> None:
        way, change = self._step, log(self.value / self._home)
        tried = self._tried[way]
        tried.merge(self._seen, inf)
        gain = tried.mean - self._rest.mean
        beyond = gain - (UP_PAYS if way > 0 else DOWN_PAYS) * change
        error = sqrt(tried.error2 + self._rest.error2)
        if abs(beyond) < 2 * error and error > CERTAIN:
            # More of whichever is known less.
            if self._rest.n < tried.n:
                self._step, self._due[way] = 0, 1
                self._go(self._home)
            else:
                self._go(self.value)
            return
        self._step = 0
        self._tried = {1: _Mean(), -1: _Mean()}
        if beyond < 0:
            longest = LONGEST_COSTLY if gain < -2 * error else LONGEST_REST
            self._wait[way] = self._due[way] = min(2 * self._wait[way], longest)
            self._go(self._home)
            return
        if way > 0 and gain > 0.6 * change and beyond > 2 * error:
            # All of it paid: there is much more to be had.
            self._bins = {floor(2 * log2(int(self._home))): self._rest}
            self._starting = True
            self._go(self.value)
            return
        self._wait[way], self._wait[-way] = REST, REST
        self._due[-way] = REST
        self._rest = tried
        if not self._try(now, way):
            self._due[way] = REST
            self._go(self.value)

    # ---- when it suffers

    def suffered(
        self, now: float, ticket: Ticket, *, refused: bool = True, retry_after: float | None = None
    ) -> None:
        """The endpoint said "too many", or (not refused) did not answer in time; `end` comes after."""
        if retry_after is not None:
            self.paused_until = max(self.paused_until, now + retry_after)
        held = self.in_flight - 1.0
        if ticket.started < self._cut_at:
            # One burst is one cut, but each refusal of it tells what the endpoint really holds.
            if refused and held < self.value:
                self._dark = not held
                self._ceiling = max(1.0, min(self._ceiling, held))
                self._rest_at(held)
            return
        if self.value > self._before or now > self._cut_at + CEILING_S:
            self._before = self.value
        self._cut_at = now
        if not refused:
            self._rest_at(self.value * CUT)
            return
        self._refused += 1
        if self._refused > 1:
            breath = min(BREATH_S * 2.0 ** min(self._refused - 2, 10), LONGEST_BREATH_S)
            self.paused_until = max(self.paused_until, now + breath)
        self._dark = not held
        known = now < self._ceiling_until and ticket.load > self._ceiling
        again = self._good >= LEAST and 0.9 < max(1.0, held) / self._ceiling < 1.2
        self._good = 0
        self._ceiling_for = min(2 * self._ceiling_for, LONGEST_CEILING_S) if again else CEILING_S
        self._ceiling_for = max(self._ceiling_for, min(PAUSES * (retry_after or 0.0), LONGEST_PAUSED_S))
        self._ceiling, self._ceiling_until = max(1.0, held), now + self._ceiling_for
        self._rest_at(min(held, self.value if known else self.value * CUT))

    def _again(self, now: float) -> None:
        """The endpoint is back after it served nothing: what that says of loads is nothing."""
        self._dark = False
        self._ceiling, self._ceiling_until, self._ceiling_for = self._before, now + CEILING_S, CEILING_S
        self._bins = {}
        self._starting = True
        self._go(self.value)


class Fixed(Limit):
    """A limit that is known: of so many places a call takes as many as its answers, and starts while one is free. So
    they are always full, and the call that fills them is all that there is beyond them."""

    def __init__(self, most: int) -> None:
        super().__init__(most, most)

    @property
    def most(self) -> int:
        return self._most

    @most.setter
    def most(self, most: int) -> None:
        self._most = most
        self._set(most)

    def start(self, now: float, ticket: Ticket) -> None:
        self.in_flight += ticket.weight

    def end(self, now: float, ticket: Ticket) -> None:
        self.in_flight -= ticket.weight

    def answered(self, now: float, ticket: Ticket) -> None:
        pass

    def suffered(
        self, now: float, ticket: Ticket, *, refused: bool = True, retry_after: float | None = None
    ) -> None:
        pass
