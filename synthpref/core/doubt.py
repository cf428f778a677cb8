"""How sure a label is: the probability that chosen is preferred, from the votes behind it, with its interval. Pure.

As in Beyond the Binary (arXiv:2412.03822), which judges each pair many times over and lets the share of the votes
stand for the share of people. What is estimated is how such judges would vote, not the truth: judges may all be
wrong in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from synthpref.core.intervals import wilson
from synthpref.core.ranking import Outcome, probabilities
from synthpref.core.stats import mean
from synthpref.core.types import Comparison, Pair, Row, Sample
from synthpref.core.votes import ballots, by_juror


def doubted(row: Row, pairs: Sequence[Pair], score: str) -> list[Pair]:
    """The pairs, each with `p`, its 95 % interval, `agreement` and `votes`, as far as the row can tell.

    `p` comes from the first of these that there is, under the name of the score:
    1. Votes of comparisons between the two: the mean of the ballots, 1 for chosen, 0 for rejected, a tie half. A
       ballot is all that one juror said, or one reply where there is one judge. Where jurors were weighed by their
       reliability, p is the outcome that this gave.
    2. Comparisons with others: what the Bradley-Terry strengths of the two say, with the interval of their
       difference, which covers 96 to 100 %. No votes, and no agreement.
    3. Votes on each response by itself, judge by judge and repeat by repeat: how often the vote on chosen was the
       higher one, equal as half.

    Otherwise the interval is Wilson's (1927) on as many draws as there are ballots. Taken over all p, it covers 95 to 96 % for
    any number of ballots from 2 to 32, as Jeffreys' does, and at the worst p at least 91 % from 10 ballots on, where
    Jeffreys' has 87 % (below 10: 83 and 87 %). Ballots with ties vary less than draws of 0 and 1, so that it is wide
    for them. A single ballot gives p = 1 and an interval from 0.21: that is all it can tell.

    `agreement` is the share of the ballots on the label's side; a tie is not, and a judge without a verdict is not
    counted.

    Both are optimistic for a pair that was picked as the best and the worst of many by the same votes: luck is part
    of what made them stand out. Votes that had no part in choosing the pair are free of it. And where a jury stopped
    early, the votes that are missing are such as could not have helped the loser.
    """
    compared = [c for c in row.comparisons if c.name == score]
    met: dict[frozenset[int], list[Comparison]] = {}
    for c in compared:
        met.setdefault(frozenset((c.a, c.b)), []).append(c)
    direct = [_direct(met.get(frozenset((pair.chosen, pair.rejected)), []), pair) for pair in pairs]
    missing = [pair for pair, found in zip(pairs, direct, strict=True) if found is None]
    ranked = iter(_ranked(row, compared, missing))
    made = []
    for pair, found in zip(pairs, direct, strict=True):
        known = found or next(ranked)
        made.append(known or _by_sample(row.samples[pair.chosen], row.samples[pair.rejected], pair, score))
    return made


def _direct(met: Sequence[Comparison], pair: Pair) -> Pair | None:
    """The pair with what the comparisons of the two say; None where there is none with an outcome."""
    values = [v if c.a == pair.chosen else 1 - v for c in met for v in ballots(c.votes) if v is not None]
    outcomes = [c.p if c.a == pair.chosen else 1 - c.p for c in met if c.p is not None]
    if not values and not outcomes:
        return None
    if not values:
        return replace(pair, p=mean(outcomes))
    weighed = any(vote.reliability is not None for c in met for vote in c.votes)
    return _told(pair, values, mean(outcomes) if weighed and outcomes else mean(values))


def _ranked(row: Row, compared: Iterable[Comparison], pairs: Sequence[Pair]) -> list[Pair | None]:
    """Each pair with what the strengths of the two say; None for one that met nobody."""
    outcomes: list[Outcome] = [(c.a, c.b, c.p) for c in compared if c.p is not None]
    if not outcomes or not pairs:
        return [None] * len(pairs)
    found = probabilities(len(row.samples), outcomes, [(pair.chosen, pair.rejected) for pair in pairs])
    return [
        None if chance is None else replace(pair, p=chance[0], p_low=chance[1], p_high=chance[2])
        for pair, chance in zip(pairs, found, strict=True)
    ]


def _by_sample(chosen: Sample, rejected: Sample, pair: Pair, score: str) -> Pair:
    """The pair with what the votes on each of the two say; as it was where there are none."""
    sides = [by_juror(s.scores[score].votes if score in s.scores else ()) for s in (chosen, rejected)]
    values: list[float] = []
    for voter, votes in sides[0].items():
        both = zip(votes, sides[1].get(voter, []), strict=False)
        won = [_half(a.value, b.value) for a, b in both if a.value is not None and b.value is not None]
        # What a juror of several said is one ballot; what one judge said again and again are several.
        values += [mean(won)] if won and votes[0].role else won
    return _told(pair, values, mean(values)) if values else pair


def _half(a: float, b: float) -> float:
    return ((a > b) - (a < b) + 1) / 2


def _told(pair: Pair, values: Sequence[float], p: float) -> Pair:
    n = len(values)
    interval = wilson(min(max(p * n, 0.0), n), n)
    for_chosen = sum(value > 0.5 for value in values)
    return replace(pair, p=p, p_low=interval.low, p_high=interval.high, agreement=for_chosen / n, votes=n)
