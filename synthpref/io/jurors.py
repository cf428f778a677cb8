"""What jurors said of the same things, counted: how far they agree, who stands apart, and what was not asked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from synthpref.core.agreement import Level, Rated, defined
from synthpref.core.types import Vote
from synthpref.core.votes import ballots, by_voter
from synthpref.io.tally import share

_KINDS = 20_000
"""Different sets of ballots that are told apart; things with others beyond these do not count for alpha."""


class _Juror:
    def __init__(self) -> None:
        self.model = ""
        self.cast = self.failed = self.not_asked = self.judged = self.with_majority = 0
        self.reliability: float | None = None

    def facts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "votes": self.cast,
            "failed": self.failed,
            "not_asked": self.not_asked,
            "with_majority_share": share(self.with_majority, self.judged),
            "reliability": self.reliability,
        }


class Jurors:
    """The counts of one score's or comparison's votes. Only votes with a role count: those of a jury or a debate.

    Where a jury stops early, the jurors that come late are asked about what is disputed, and agree the less.
    """

    def __init__(self, level: Level) -> None:
        self.level = level
        self.kinds: Counter[tuple[float, ...]] = Counter()
        self.jurors: defaultdict[str, _Juror] = defaultdict(_Juror)

    def add(self, votes: Sequence[Vote]) -> None:
        """The votes on one thing."""
        votes = [vote for vote in votes if vote.role]
        if not votes:
            return
        for vote in votes:
            juror = self.jurors[vote.role]
            juror.model = vote.judge
            juror.cast += vote.value is not None
            juror.failed += vote.failed
            juror.not_asked += not vote.asked
            if vote.reliability is not None:
                juror.reliability = vote.reliability
        said = {
            mine[0].role: self._label(ballot)
            for mine, ballot in zip(by_voter(votes), ballots(votes), strict=True)
            if ballot is not None
        }
        counts = Counter(said.values()).most_common(2)
        clear = len(said) > 1 and (len(counts) == 1 or counts[0][1] > counts[1][1])
        for role, label in said.items():
            self.jurors[role].judged += clear
            self.jurors[role].with_majority += clear and label == counts[0][0]
        kind = tuple(sorted(said.values()))
        if len(kind) > 1 and (kind in self.kinds or len(self.kinds) < _KINDS):
            self.kinds[kind] += 1

    def _label(self, ballot: float) -> float:
        """A verdict is who won; a score keeps four digits, so that those of one scale stay few."""
        return float((ballot > 0.5) - (ballot < 0.5)) if self.level == "nominal" else float(f"{ballot:.4g}")

    def facts(self) -> dict[str, Any] | None:
        """None where there was no jury."""
        if not self.jurors:
            return None
        saved = sum(juror.not_asked for juror in self.jurors.values())
        asked = sum(juror.cast + juror.failed for juror in self.jurors.values())
        return {
            "alpha": self._alpha(),
            "alpha_level": self.level,
            "judged_by_several": self.kinds.total(),
            "replies": asked,
            "replies_saved": saved,
            "replies_saved_share": share(saved, saved + asked),
            "jurors": {name: juror.facts() for name, juror in sorted(self.jurors.items())},
        }

    def _alpha(self) -> float | None:
        kinds = list(self.kinds)
        rated = Rated.of(kinds, self.level)
        times = [float(self.kinds[kinds[i]]) for i in rated.kept]
        return (
            defined(rated.alpha(np.bincount(rated.kind, weights=times)[None, :].astype(float)))
            if times
            else None
        )
