"""What judge.pair, jury.pair and reward.pair have in common: who meets whom, in which order they are shown, and the
scores that come of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from synthpref.core.ranking import bradley_terry, elo, win_rate
from synthpref.core.schedule import Meeting, Schedule, all_pairs, meetings, round_robin, swiss_round
from synthpref.core.seam import Ask
from synthpref.core.stage import Made, RowStage
from synthpref.core.stats import mean
from synthpref.core.types import Comparison, Row, Score
from synthpref.stages.comparing import Comparing

Method = Literal["bradley_terry", "elo", "win_rate", "mean"]


class Scheduled(RowStage):
    """Base of the stages that set responses against each other, two at a time: who meets whom, and what comes of it."""

    name: str = Field(default="compared", min_length=1)
    """The name of the comparisons and of the score."""
    schedule: Schedule = "all"
    """Which responses meet: "all" with all; "round_robin", `rounds` rounds in which each is compared once;
    "swiss", the same with rounds of responses that have done about equally well so far; or "anchor", each with
    the one `against` which all are measured."""
    rounds: int | None = Field(default=None, ge=1)
    """For schedule: round_robin or swiss: how often each response is compared (about, where their number is odd)."""
    against: int | None = Field(default=None, ge=0)
    """For schedule: anchor: the index of that one. To give it is to choose that schedule."""
    swap: bool = True
    """Ask in both orders. Without it, one order is drawn by lot for each two responses."""
    score: Method = "bradley_terry"
    """How comparisons become a score: by wins, as strengths in log-odds ("bradley_terry", 0 is the row's average),
    ratings ("elo", 1500 is the average), or the share of wins with a tie as half ("win_rate"); or as the "mean" of
    the scores given, where the verdict is scores."""
    prior: float = Field(default=0.1, gt=0)
    """For score: bradley_terry: how many drawn games against an average response each one starts with. The larger,
    the further in are pulled the strengths of those that won or lost everything."""

    @model_validator(mode="before")
    @classmethod
    def _anchored(cls, data: Any) -> Any:
        anchored = isinstance(data, dict) and data.get("against") is not None
        return {"schedule": "anchor", **data} if anchored else data

    @model_validator(mode="after")
    def _scheduled(self) -> Self:
        in_rounds = self.schedule in ("round_robin", "swiss")
        if in_rounds and self.rounds is None:
            raise ValueError(f"schedule: {self.schedule} needs rounds, how often each response is compared")
        if self.rounds is not None and not in_rounds:
            raise ValueError("rounds is for schedule: round_robin or swiss; remove it, or set one of these")
        if self.schedule == "anchor" and self.against is None:
            raise ValueError("schedule: anchor needs against, the index of the response to compare with")
        if self.schedule != "anchor" and self.against is not None:
            raise ValueError("against is for schedule: anchor; remove one of the two")
        if self.score != "bradley_terry" and "prior" in self.model_fields_set:
            raise ValueError("prior is for score: bradley_terry; remove it, or set that")
        return self

    def gives(self) -> set[str]:
        return {f"score:{self.name}", f"comparisons:{self.name}"}

    def questions(self, samples: int) -> int:
        """How often two of so many samples are shown, in one order."""
        anchored = self.schedule == "anchor"
        pairs = max(0, samples - 1) if anchored else meetings(samples, self.rounds or samples)
        return pairs * (2 if self.swap else 1)

    def waves(self, there: list[int], made: Sequence[Comparison], ask: Ask) -> Iterator[list[Meeting]]:
        """What can be asked at once; a Swiss round looks at what was `made` of those before it."""
        if self.schedule == "all":
            yield all_pairs(there)
        elif self.schedule == "round_robin":
            yield [pair for part in round_robin(there, self.rounds or 0, ask.rng) for pair in part]
        elif self.schedule == "anchor":
            yield [(i, self.against) for i in there if i != self.against] if self.against in there else []
        else:
            for _ in range(self.rounds or 0):
                points = dict.fromkeys(there, 0.0)
                for c in made:
                    points[c.a] += 0.0 if c.p is None else c.p
                    points[c.b] += 0.0 if c.p is None else 1 - c.p
                yield swiss_round(there, points, {(c.a, c.b) for c in made}, ask.rng)

    def orders(self, pair: Meeting, ask: Ask) -> list[Meeting]:
        """In which orders the two are shown."""
        a, b = pair
        if self.swap:
            return [(a, b), (b, a)]
        return [(a, b) if ask.rng.random() < 0.5 else (b, a)]


class Tournament(Comparing, Scheduled):
    """Base of those whose judge is asked in words."""

    @model_validator(mode="after")
    def _mean_of_scores(self) -> Self:
        if self.score == "mean" and self.verdict != "scores":
            raise ValueError("score: mean is of the scores given; set verdict: scores, or another score")
        return self

    def met(self, judges: Sequence[str]) -> Made:
        """How a score of comparisons comes about."""
        # Against one response alone, it is a win, a tie or a loss in each order.
        coarse = self.schedule == "anchor" and self.score != "mean" and self.extract != "expected"
        levels = (3 if self.ties else 2) if coarse else None
        return Made(tuple(judges), levels, 2 if self.swap else 1, one_order=not self.swap)

    def scored(self, row: Row, made: Sequence[Comparison]) -> list[Score]:
        """A Score for each sample."""
        return self.every(row, rated(row, self.asked(row), made, self.score, self.prior))


def rated(
    row: Row, asked: Sequence[int], made: Sequence[Comparison], method: Method, prior: float
) -> dict[int, Score]:
    """A Score for each of the samples `asked` about, or the reason why it has none."""
    values = _values(len(row.samples), made, method, prior)
    return {i: _score(i, values[i], made) for i in asked}


def _score(i: int, value: float | None, made: Sequence[Comparison]) -> Score:
    if value is not None:
        return Score(value)
    mine = [c for c in made if i in (c.a, c.b)]
    whys = [vote.why for c in mine for vote in c.votes if vote.failed and vote.why]
    if whys:
        return Score(None, f"no verdict on it: {whys[0]}")
    return Score(None, "no outcome: its votes are tied" if mine else "nothing to compare with")


def _values(samples: int, made: Sequence[Comparison], method: Method, prior: float) -> list[float | None]:
    outcomes = [(c.a, c.b, c.p) for c in made if c.p is not None]
    if method == "bradley_terry":
        return bradley_terry(samples, outcomes, prior=prior)
    if method == "elo":
        return elo(samples, outcomes)
    if method == "win_rate":
        return win_rate(samples, outcomes)
    given: list[list[float]] = [[] for _ in range(samples)]
    for c in made:
        for vote in c.votes:
            if vote.scores:
                given[c.a].append(vote.scores[0])
                given[c.b].append(vote.scores[1])
    return [mean(scores) if scores else None for scores in given]
