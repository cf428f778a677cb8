"""judge.pair: responses are set against each other, two at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from synthpref.core.ranking import bradley_terry, elo, win_rate
from synthpref.core.schedule import Meeting, Schedule, all_pairs, meetings, round_robin, swiss_round
from synthpref.core.seam import Ask, Capability
from synthpref.core.stage import Calls, Load, Made, Role
from synthpref.core.stats import mean
from synthpref.core.types import Comparison, Row, Score, Vote
from synthpref.core.verdicts import Disagree, flipped
from synthpref.stages.asking import ask_all
from synthpref.stages.comparing import Comparing, comparison, pair_vote, values_of

Sides = list[list[Vote]]


class Pair(Comparing):
    """A judge compares responses two at a time, in both orders, and each gets a score from its wins.

    Every reply is kept as a vote for or against the sample that it is about, whatever letter it was shown
    under. Where the two orders name different winners, the comparison is marked as flipped.
    """

    model: Role
    """The role that judges."""
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
    disagree: Disagree = "average"
    """Where the orders disagree: the "average" of all verdicts; a "tie" unless both orders name the same winner;
    or "reask", both orders are asked again, and the majority of all verdicts decides. The latter helps with a
    judge that is unsure, at a temperature above 0; one that goes by the place says the same again."""
    reasks: int = Field(default=1, ge=1)
    """For disagree: reask: how often, at the most, both orders are asked again."""
    repeats: int = Field(default=1, ge=1)
    """Replies for each two responses and order. With extract: majority, the winner named most often in an order is
    its verdict, and a tie where no single one is."""
    score: Literal["bradley_terry", "elo", "win_rate", "mean"] = "bradley_terry"
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
    def _sensible(self) -> Self:
        given = self.model_fields_set
        in_rounds = self.schedule in ("round_robin", "swiss")
        if in_rounds and self.rounds is None:
            raise ValueError(f"schedule: {self.schedule} needs rounds, how often each response is compared")
        if self.rounds is not None and not in_rounds:
            raise ValueError("rounds is for schedule: round_robin or swiss; remove it, or set one of these")
        if self.schedule == "anchor" and self.against is None:
            raise ValueError("schedule: anchor needs against, the index of the response to compare with")
        if self.schedule != "anchor" and self.against is not None:
            raise ValueError("against is for schedule: anchor; remove one of the two")
        if self.disagree != "average" and not self.swap:
            raise ValueError(f"disagree: {self.disagree} compares the two orders; leave swap: true")
        if self.disagree != "reask" and "reasks" in given:
            raise ValueError("reasks is for disagree: reask; remove it, or set that")
        if self.score == "mean" and self.verdict != "scores":
            raise ValueError("score: mean is of the scores given; set verdict: scores, or another score")
        if self.score != "bradley_terry" and "prior" in given:
            raise ValueError("prior is for score: bradley_terry; remove it, or set that")
        return self

    def gives(self) -> set[str]:
        return {f"score:{self.name}", f"comparisons:{self.name}"}

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: self.abilities()}

    def load(self, samples: int) -> Load:
        if self.schedule == "anchor":
            pairs = max(0, samples - 1)
        else:
            pairs = meetings(samples, self.rounds or samples)
        requests = pairs * (2 if self.swap else 1)
        return Load(samples, (Calls(self.model, requests, n=self.repeats, reads=2 + self.reference),))

    def makes(self, samples: int) -> dict[str, Made]:
        return {self.name: replace(self.met(self.model), one_order=not self.swap)}

    async def run(self, row: Row, ask: Ask) -> Row:
        made: list[Comparison] = []
        for wave in self._waves(self.asked(row), made, ask):
            made += await self._compare(row, wave, ask)
        row = replace(row, comparisons=(*row.comparisons, *made))
        return row.scored(self.name, self._scored(row, made))

    def _waves(self, there: list[int], made: Sequence[Comparison], ask: Ask) -> Iterator[list[Meeting]]:
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

    async def _compare(self, row: Row, pairs: list[Meeting], ask: Ask) -> list[Comparison]:
        first = await self._ask(row, pairs, [self._orders(pair, ask) for pair in pairs], ask)
        more: list[Sides] = [[] for _ in pairs]
        for _ in range(self.reasks if self.disagree == "reask" else 0):
            open_ = [i for i in range(len(pairs)) if flipped(values_of(_by_order([*first[i], *more[i]])))]
            again = [pairs[i] for i in open_]
            replies = await self._ask(row, again, [[(a, b), (b, a)] for a, b in again], ask)
            for i, sides in zip(open_, replies, strict=True):
                more[i] += sides
        rules: dict[str, Any] = {"disagree": self.disagree, "by_majority": self.extract == "majority"}
        return [comparison(self.name, a, b, first[i], more[i], **rules) for i, (a, b) in enumerate(pairs)]

    def _orders(self, pair: Meeting, ask: Ask) -> list[Meeting]:
        a, b = pair
        if self.swap:
            return [(a, b), (b, a)]
        return [(a, b) if ask.rng.random() < 0.5 else (b, a)]

    async def _ask(
        self, row: Row, pairs: list[Meeting], orders: list[list[Meeting]], ask: Ask
    ) -> list[Sides]:
        """For each pair the votes on it, order by order."""
        questions = [
            self.pair_question(row, first, second, ask, self.prompt, self.model, self.repeats)
            for order in orders
            for first, second in order
        ]
        replies = iter(await ask_all(ask, questions, again=self.again, reask=self.reask))
        judge = ask.info(self.model).name
        return [
            [[pair_vote(judge, reply, swapped=first != a) for reply in next(replies)] for first, _ in order]
            for (a, _), order in zip(pairs, orders, strict=True)
        ]

    def _scored(self, row: Row, made: list[Comparison]) -> list[Score]:
        values = self._values(len(row.samples), made)
        whys = [vote.why for c in made for vote in c.votes if vote.why]
        why = f"no verdict on it: {whys[0]}" if whys else "nothing to compare with"
        scores = {i: Score(values[i], why if values[i] is None else None) for i in self.asked(row)}
        return self.every(row, scores)

    def _values(self, samples: int, made: list[Comparison]) -> list[float | None]:
        outcomes = [(c.a, c.b, c.p) for c in made if c.p is not None]
        if self.score == "bradley_terry":
            return bradley_terry(samples, outcomes, prior=self.prior)
        if self.score == "elo":
            return elo(samples, outcomes)
        if self.score == "win_rate":
            return win_rate(samples, outcomes)
        given: list[list[float]] = [[] for _ in range(samples)]
        for c in made:
            for vote in c.votes:
                if vote.scores:
                    given[c.a].append(vote.scores[0])
                    given[c.b].append(vote.scores[1])
        return [mean(scores) if scores else None for scores in given]


def _by_order(sides: Sides) -> Sides:
    """The votes of several rounds of asking, by the order of showing."""
    return [[vote for side in sides for vote in side if vote.shown == shown] for shown in ("ab", "ba")]
