"""The fields of `mode: batch`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from synthpref.core.settings import Settings


class Batching(Settings):
    """How `mode: batch` gathers requests and waits for them. None of it can change an answer."""

    max_requests: int = Field(default=50_000, ge=1)
    """The most requests in one batch."""
    max_bytes: int = Field(default=200_000_000, ge=1)
    """The most bytes in the file of one batch."""
    min_requests: int = Field(default=200, ge=1)
    """While another batch is under way, fewer are held back, because its answers will bring more."""
    wait_s: float = Field(default=3600.0, gt=0)
    """Seconds after which gathered requests are sent, however few they are."""
    quiet_s: float = Field(default=2.0, gt=0)
    """A batch is sent when nothing has moved for so many seconds, but for other batches."""
    poll_s: float = Field(default=30.0, gt=0)
    """The most seconds between two looks at a batch; a young one is looked at more often."""
    window: str = "24h"
    """What is asked for as completion_window."""
    rows: int = Field(default=20_000, ge=1)
    """Rows under way at once. More of them make fewer and larger batches, and take more memory."""
    live_below: int = Field(default=0, ge=0)
    """When no batch is under way, and fewer requests than this are left to be sent, they are asked one by one at the
    full price."""
    on_stop: Literal["leave", "cancel"] = "leave"
    """What becomes of batches under way when the run is stopped: the next start takes them up, or they are cancelled,
    and what they had answered by then is paid for and kept."""
