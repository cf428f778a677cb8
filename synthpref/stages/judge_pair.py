"""judge.pair: responses are set against each other, two at a time."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Literal

from pydantic import Field

from synthpref.core.parse import Parsed, parse_winner
from synthpref.core.ranking import bradley_terry, win_rate
from synthpref.core.seam import Ask, Completion
from synthpref.core.stage import Calls, Load, PromptName, Role
from synthpref.core.stats import mean
from synthpref.core.types import Comparison, Row, Score, Vote
from synthpref.stages.asking import Question, Reply, ask_all
from synthpref.stages.judging import Judged, criterion, verdict_form, vote
from synthpref.stages.own_words import own_verdict

SHARE = {"A": 1.0, "B": 0.0, "tie": 0.5}


class Pair(Judged):
    """A judge compares responses two at a time, in both orders, and each gets a score from its wins.

    Every reply is kept as a vote for or against the sample that it is about, whatever letter it was shown
    under. Where the two orders name different winners, the comparison is marked as flipped.
    """

    model: Role
    """The role that judges."""
    name: str = Field(default="compared", min_length=1)
    """The name of the comparisons and of the score."""
    against: int | None = Field(default=None, ge=0)
    """Compare each response with the one at this index only, in place of all with all."""
    swap: bool = True
    """Ask in both orders. Without it, one order is drawn by lot for each two responses."""
    repeats: int = Field(default=1, ge=1)
    """Replies for each two responses and order."""
    ties: bool = True
    """Let the judge call a tie."""
    score: Literal["bradley_terry", "win_rate"] = "bradley_terry"
    """How wins become a score: strengths in log-odds (0 is the row's average), or the share of wins with
    a tie as half."""
    prior: float = Field(default=0.1, gt=0)
    """For bradley_terry: how many drawn games against an average response each one starts with. The larger,
    the further in are pulled the strengths of those that won or lost everything."""
    prompt: PromptName = "judge/pair"
    """The template."""

    def gives(self) -> set[str]:
        return {f"score:{self.name}", f"comparisons:{self.name}"}

    def load(self, samples: int) -> Load:
        pairs = samples * (samples - 1) / 2 if self.against is None else max(0, samples - 1)
        requests = pairs * (2 if self.swap else 1)
        return Load(samples, (Calls(self.model, requests, n=self.repeats, reads=2 + self.reference),))

    async def run(self, row: Row, ask: Ask) -> Row:
        pairs = self._schedule(row)
        orders = [
            [(a, b), (b, a)] if self.swap else [(a, b) if ask.rng.random() < 0.5 else (b, a)]
            for a, b in pairs
        ]
        questions = [self._question(row, first, second, ask) for order in orders for first, second in order]
        replies = iter(await ask_all(ask, questions, again=self.again, reask=self.reask))
        judge = ask.info(self.model).name
        made = []
        for (a, b), order in zip(pairs, orders, strict=True):
            sides = [
                [_vote(judge, reply, swapped=first != a) for reply in next(replies)] for first, _ in order
            ]
            made.append(_comparison(self.name, a, b, sides))
        row = replace(row, comparisons=(*row.comparisons, *made))
        return row.scored(self.name, self._scores(row, made))

    def _schedule(self, row: Row) -> list[tuple[int, int]]:
        there = self.asked(row)
        if self.against is None:
            return list(combinations(there, 2))
        return [(i, self.against) for i in there if i != self.against] if self.against in there else []

    def _question(self, row: Row, first: int, second: int, ask: Ask) -> Question[str]:
        menu = ["A", "B", "tie"] if self.ties else ["A", "B"]
        words = f'"<{", ".join(menu[:-1])} or {menu[-1]}>"'
        response_format, shape = verdict_form({"winner": {"type": "string", "enum": menu}}, {"winner": words})
        shown = [row.samples[first].text, row.samples[second].text]
        messages = ask.prompt(
            self.prompt,
            response_a=shown[0],
            response_b=shown[1],
            rubric=criterion(self.rubric, ask),
            ties=self.ties,
            shape=shape,
            **self.shared(row),
        )

        def parse(completion: Completion) -> Parsed[str]:
            def read(text: str) -> dict[str, Parsed[str]]:
                return {"": parse_winner(text, ties=self.ties)}

            return own_verdict(completion.text, shown, read)[""]

        return Question(messages, parse, self.model, shape, self.repeats, response_format)

    def _scores(self, row: Row, made: list[Comparison]) -> list[Score]:
        outcomes = [(c.a, c.b, c.p) for c in made if c.p is not None]
        rate = bradley_terry(len(row.samples), outcomes, prior=self.prior)
        values = rate if self.score == "bradley_terry" else win_rate(len(row.samples), outcomes)
        whys = [vote.why for c in made for vote in c.votes if vote.why]
        why = f"no verdict on it: {whys[0]}" if whys else "nothing to compare with"
        scores = {i: Score(values[i], why if values[i] is None else None) for i in self.asked(row)}
        return self.every(row, scores)


def _vote(judge: str, reply: Reply[str], *, swapped: bool) -> Vote:
    """A reply as a vote on the comparison's `a`, which was shown as B if `swapped`."""
    parsed = reply.parsed
    value = None if parsed.value is None else SHARE[parsed.value]
    for_a = 1 - value if swapped and value is not None else value
    return vote(judge, reply, Parsed(for_a, parsed.why, parsed.rationale), "ba" if swapped else "ab")


def _comparison(name: str, a: int, b: int, sides: list[list[Vote]]) -> Comparison:
    """The outcome of the votes in each order."""
    counted = [[vote.value for vote in side if vote.value is not None] for side in sides]
    values = [value for side in counted for value in side]
    leans = {mean(side) > 0.5 for side in counted if side and mean(side) != 0.5}
    votes = tuple(vote for side in sides for vote in side)
    return Comparison(name, a, b, mean(values) if values else None, len(leans) == 2, votes)
