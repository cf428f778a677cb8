"""Requests and tokens a minute: what a call waits for, so that no minute, as the server counts it, holds more.

A request counts when it is sent. The tokens of a call are known, and counted by most servers, when it ends: until
then it counts for what it is expected to use. What ended is forgotten a minute after its end, less the time that a
call takes, because by then those under way will have ended in its stead.
"""

from __future__ import annotations

from collections import deque
from math import inf, sqrt

from synthpref.models.limit import Ticket

WINDOW_S = 61.0
"""A minute, and a second for a call that was longer on its way to the server than those after it."""
EVEN_S = 59.0
"""A quota that is used evenly is used up in so long, but for what may go at once:"""
BURST_S = 3.0
"""Even use keeps a minute of ends close to the minute of starts before it, and many servers count in seconds."""
DOUBT = 3.0
"""Standard errors kept free for calls under way, of which neither the tokens nor the end are known yet."""
EDGE = 0.56
"""The variance of how many calls end in a time, per call under way and coefficient of variation of their length:
where lengths are log-normal and calls start evenly."""
OUTLIER = 3.0
"""A call that takes so many times the usual does not say what a call takes."""
MEMORY = 500
"""Calls that the means look back on."""


class CountedTicket(Ticket):
    """A call under way, with the tokens it counts for."""

    __slots__ = ("counts", "expected", "share", "used")

    def __init__(self) -> None:
        super().__init__()
        self.used: float | None = None
        """The tokens that it used, once known."""
        self.expected = self.share = 0.0
        self.counts = False
        """Whether its tokens count: not those of a call that started before there was a cap."""


class Caps:
    """The calls of the last minute. A step costs the same however many there are."""

    def __init__(self, rpm: int | None = None, tpm: int | None = None) -> None:
        self.rpm, self.tpm = rpm, tpm
        self.tokens = 0.0
        """Tokens that count now; of calls under way, as expected."""
        self._sent: deque[float] = deque()
        self._ended: deque[tuple[float, float]] = deque()
        """(when it is forgotten, tokens) of each call that ended."""
        self._under_way = 0
        self._known = 0
        self._mean = self._squares = self._took = 0.0
        """Of a call: its tokens, their square, and its seconds."""
        self._variance = 0.0
        """What a call under way adds to the variance of the tokens to be counted."""
        self._even = -inf
        """When the calls so far would be through if they went evenly."""

    @property
    def any(self) -> bool:
        return self.rpm is not None or self.tpm is not None

    def wait(self, now: float, tokens: float) -> float:
        """Seconds until a call of so many tokens may start, or until it is worth asking again; inf where a call
        has to end first. One that is larger than the cap goes alone, not never."""
        sent, ended = self._sent, self._ended
        while sent and sent[0] + WINDOW_S <= now:
            sent.popleft()
        while ended and ended[0][0] <= now:
            self.tokens -= ended.popleft()[1]
        until = self._even - BURST_S
        if self.rpm is not None and len(sent) >= self.rpm:
            until = max(until, sent[-self.rpm] + WINDOW_S)
        if self.tpm is not None and (self._under_way or ended):
            doubt = DOUBT * sqrt(self._variance * self._under_way)
            if self.tokens + tokens + doubt > self.tpm:
                until = max(until, ended[0][0] if ended else inf)
        return max(0.0, until - now)

    def start(self, now: float, ticket: CountedTicket, tokens: float) -> None:
        if self.rpm is not None:
            self._sent.append(now)
        if self.tpm is not None:
            ticket.counts, ticket.expected = True, min(tokens, float(self.tpm))
            self.tokens += ticket.expected
            self._under_way += 1
        ticket.share = self._share(ticket.expected)
        self._even = max(self._even, now) + ticket.share

    def end(self, now: float, ticket: CountedTicket) -> None:
        """A call ended. What it used takes the place of what was expected; what a failed one used is not known."""
        if not ticket.counts:
            return
        used = min(ticket.expected, self._mean) if ticket.used is None else ticket.used
        if ticket.used:
            self._learn(used, now - ticket.started)
        self._under_way -= 1
        self.tokens += used - ticket.expected
        self._even += self._share(used) - ticket.share
        forgotten = now + max(0.0, WINDOW_S - self._took)
        self._ended.append((max(forgotten, self._ended[-1][0]) if self._ended else forgotten, used))

    def _learn(self, tokens: float, took: float) -> None:
        self._known += 1
        weight = 1 / min(self._known, MEMORY)
        self._mean += (tokens - self._mean) * weight
        self._squares += (tokens * tokens - self._squares) * weight
        usual = min(took, OUTLIER * self._took) if self._known > 1 else took
        self._took += (usual - self._took) * weight
        variance = max(0.0, self._squares - self._mean * self._mean)
        self._variance = variance + EDGE * self._squares * sqrt(variance) / self._mean

    def _share(self, tokens: float) -> float:
        """Seconds of an even use of the quota that a call takes."""
        share = 1 / self.rpm if self.rpm is not None else 0.0
        return EVEN_S * (share if self.tpm is None else max(share, tokens / self.tpm))
