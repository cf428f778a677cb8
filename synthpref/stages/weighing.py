"""The second part of a jury whose votes are weighed by reliability: a barrier, because a juror is known by all of
its votes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from synthpref.core.reliability import Observation, Weighed, dawid_skene
from synthpref.core.stage import Barrier
from synthpref.core.types import Comparison, Row, Score, Vote
from synthpref.core.verdicts import Disagree, leaning, outcome
from synthpref.core.votes import by_voter, too_few
from synthpref.stages.comparing import values_of
from synthpref.stages.tournament import Method, rated

MOST_LABELS = 10
"""Numbers on a scale. A juror's table has the square of it in entries, each to be learned from its votes."""


@dataclass
class _Polled:
    """The run's votes in numbers: some 100 bytes each."""

    jurors: dict[str, int] = field(default_factory=dict)
    labels: dict[float, int] = field(default_factory=dict)
    seen: list[Observation] = field(default_factory=list)
    things: int = 0

    def add(self, cast: Iterable[tuple[str, float]]) -> None:
        """The votes on the next thing, as (juror, value)."""
        for juror, value in cast:
            place = self.jurors.setdefault(juror, len(self.jurors))
            self.seen.append((self.things, place, self.labels.setdefault(value, len(self.labels))))
        self.things += 1

    def weigh(self) -> Weighed:
        return dawid_skene(self.seen, self.things, len(self.jurors), len(self.labels))

    def means(self, weighed: Weighed) -> Iterator[float]:
        """For each thing in turn the mean of the values by their probability."""
        values = list(self.labels)
        return (float(sum(p * v for p, v in zip(row, values, strict=True))) for row in weighed.labels)

    def told(self, votes: Sequence[Vote], weighed: Weighed) -> tuple[Vote, ...]:
        """The votes, each with its juror's reliability."""
        known = {juror: weighed.reliability[place] for juror, place in self.jurors.items()}
        return tuple(replace(vote, reliability=known.get(vote.role)) for vote in votes)


def juror_verdict(votes: Sequence[Vote], disagree: Disagree, *, by_majority: bool) -> float | None:
    """What one juror says of two responses by its votes in one order or both; None where it says nothing."""
    shown = dict.fromkeys(vote.shown for vote in votes if vote.asked)
    sides = [[vote for vote in votes if vote.shown == order] for order in shown]
    return outcome(values_of(sides), disagree=disagree, by_majority=by_majority)


def _values(votes: Sequence[Vote]) -> list[tuple[str, float]]:
    return [(vote.role, vote.value) for vote in votes if vote.value is not None]


class WeighScores(Barrier):
    """Makes one score of the votes on each response."""

    name: str
    at_least: int

    def run(self, rows: Iterable[Row], rng: random.Random) -> Iterator[Row]:
        polled = _Polled()
        for row in rows:
            for score in self._found(row):
                polled.add(_values(score.votes))
        weighed = polled.weigh()
        means = polled.means(weighed)
        for row in rows:
            scores = [sample.scores[self.name] for sample in row.samples]
            yield row.scored(
                self.name, [self._settled(s, next(means), polled, weighed) if s.votes else s for s in scores]
            )

    def _found(self, row: Row) -> Iterator[Score]:
        return (score for sample in row.samples if (score := sample.scores[self.name]).votes)

    def _settled(self, score: Score, mean: float, polled: _Polled, weighed: Weighed) -> Score:
        votes = polled.told(score.votes, weighed)
        if len(_values(votes)) < self.at_least:
            return Score(None, too_few(votes, self.at_least), votes)
        return Score(mean, votes=votes)


class WeighComparisons(Barrier):
    """Makes one outcome of the votes on each comparison, and scores of the outcomes."""

    name: str
    at_least: int
    disagree: Disagree
    by_majority: bool
    score: Method
    prior: float

    def run(self, rows: Iterable[Row], rng: random.Random) -> Iterator[Row]:
        polled = _Polled()
        for row in rows:
            for comparison in self._found(row):
                ballots = self._ballots(comparison)
                # Which of the two is called `a` means nothing, so each is weighed as either.
                polled.add(ballots)
                polled.add((juror, 1 - value) for juror, value in ballots)
        weighed = polled.weigh()
        means = polled.means(weighed)
        for row in rows:
            made = [self._settled(c, next(means), 1 - next(means), polled, weighed) for c in self._found(row)]
            kept = tuple(c for c in row.comparisons if c.name != self.name)
            row = replace(row, comparisons=(*kept, *made))
            yield row.scored(self.name, self._scores(row, made))

    def _found(self, row: Row) -> Iterator[Comparison]:
        return (comparison for comparison in row.comparisons if comparison.name == self.name)

    def _ballots(self, comparison: Comparison) -> list[tuple[str, float]]:
        cast = (
            (votes[0].role, juror_verdict(votes, self.disagree, by_majority=self.by_majority))
            for votes in by_voter(comparison.votes)
        )
        return [(juror, leaning(value)) for juror, value in cast if value is not None]

    def _settled(
        self, comparison: Comparison, one: float, other: float, polled: _Polled, weighed: Weighed
    ) -> Comparison:
        enough = len(self._ballots(comparison)) >= self.at_least
        votes = polled.told(comparison.votes, weighed)
        return replace(comparison, p=(one + other) / 2 if enough else None, votes=votes)

    def _scores(self, row: Row, made: Sequence[Comparison]) -> list[Score]:
        """New scores for the responses that were compared; what the others have stays."""
        before = [sample.scores[self.name] for sample in row.samples]
        compared = {i for c in made for i in (c.a, c.b)}
        found = rated(row, sorted(compared), made, self.score, self.prior)
        return [found.get(i, score) for i, score in enumerate(before)]
