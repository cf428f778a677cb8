"""Requests and tokens a minute: what a call waits for, so that no minute, as the server counts it, holds more."""

from __future__ import annotations

from collections import deque
from math import inf, sqrt

from synthpref.models.limit import Ticket

WINDOW_S = 61.0
"""A minute, and a second for a call that was longer on its way to the server than those after it."""
EVEN_S = 55.0
"""A quota that is used evenly is used up in so long, but for what may go at once:"""
BURST_S = 6.0
"""Servers often count times shorter than a minute."""
DOUBT = 3.0
"""Standard errors kept free for calls under way, of which neither the tokens nor the end are known yet."""


class CountedTicket(Ticket):
    """A call under way, with the tokens it counts for."""

    __slots__ = ("expected", "inside", "share", "used")

    def __init__(self) -> None:
        super().__init__()
        self.used: float | None = None
        """The tokens that it used, once known."""
        self.expected = self.share = 0.0
        self.inside = False


class Caps:
    """The calls of the last minute, by when they started. A step costs the same however many there are."""

    def __init__(self, rpm: int | None = None, tpm: int | None = None) -> None:
        self.rpm, self.tpm = rpm, tpm
        self.tokens = 0.0
        """Tokens of the last minute's calls; of those under way, as expected."""
        self._calls: deque[CountedTicket] = deque()
        self._doubt2 = 0.0
        self._even = -inf
        """When the calls so far would be through if they went evenly."""

    @property
    def any(self) -> bool:
        return self.rpm is not None or self.tpm is not None

    def wait(self, now: float, tokens: float) -> float:
        """Seconds until a call of so many tokens may start, or until it is worth asking again.

        A call larger than the cap goes alone, not never.
        """
        calls = self._calls
        while calls and calls[0].started + WINDOW_S <= now:
            gone = calls.popleft()
            gone.inside = False
            self.tokens -= gone.expected if gone.used is None else gone.used
        until = self._even - BURST_S
        if calls:
            if self.rpm is not None and len(calls) >= self.rpm:
                until = max(until, calls[-self.rpm].started + WINDOW_S)
            if self.tpm is not None and self.tokens + tokens + DOUBT * sqrt(self._doubt2) > self.tpm:
                until = max(until, calls[0].started + WINDOW_S)
        return max(0.0, until - now)

    def start(self, now: float, ticket: CountedTicket, tokens: float) -> None:
        self._calls.append(ticket)
        ticket.inside = True
        if self.tpm is not None:
            ticket.expected = min(tokens, float(self.tpm))
            self.tokens += ticket.expected
            self._doubt2 += ticket.expected**2
        ticket.share = self._share(ticket.expected)
        self._even = max(self._even, now) + ticket.share

    def end(self, ticket: CountedTicket) -> None:
        """A call ended. What it used takes the place of what was expected; where it is not known, that stays."""
        self._doubt2 = max(0.0, self._doubt2 - ticket.expected**2)
        if ticket.used is not None and self.tpm is not None:
            if ticket.inside:
                self.tokens += ticket.used - ticket.expected
            self._even += self._share(ticket.used) - ticket.share

    def _share(self, tokens: float) -> float:
        """Seconds of an even use of the quota that a call takes."""
        share = 1 / self.rpm if self.rpm is not None else 0.0
        return EVEN_S * (share if self.tpm is None else max(share, tokens / self.tpm))
