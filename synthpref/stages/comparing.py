"""What judges of two responses have in common: the question, the verdict, and votes on a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from pydantic import model_validator

from synthpref.core.expected import NO_TOKENS, TOP, mean_of, menu_odds, spoken, superiority
from synthpref.core.parse import Parsed, parse_winner
from synthpref.core.seam import Ask, Completion
from synthpref.core.stage import PromptName
from synthpref.core.types import Comparison, Row, Vote
from synthpref.core.verdicts import Disagree, flipped, leaning, outcome
from synthpref.stages.asking import Question, Reply
from synthpref.stages.judging import Extracted, Shown, vote
from synthpref.stages.named import all_named, named_form, odds_named, read_named, without_ties

SHARE = {"A": 1.0, "B": 0.0, "tie": 0.5}
SIDES = ["A", "B"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one reply says of two responses. `share` is how far the one that was shown first is preferred: 1 where
    it wins, 0 where it loses, 0.5 for a tie, or the probability that it wins. `scores` are those of both, if the
    reply gave any."""

    share: float
    scores: tuple[float, float] | None = None


class Comparing(Extracted):
    """Base of the stages that show a judge two responses at a time."""

    verdict: Literal["winner", "scores"] = "winner"
    """What the judge says of two responses: which is the better one ("winner"), or a score on `scale` for each
    ("scores"), where the higher one wins and equal ones are a tie."""
    ties: bool = True
    """Let the judge call a tie, or give two equal scores. Without it, such a reply is asked for again."""
    prompt: PromptName = "judge/pair"
    """The template (judge/pair_scores where the verdict is scores)."""

    @model_validator(mode="before")
    @classmethod
    def _template(cls, data: Any) -> Any:
        scores = isinstance(data, dict) and data.get("verdict") == "scores"
        return {"prompt": "judge/pair_scores", **data} if scores else data

    @model_validator(mode="after")
    def _compared(self) -> Self:
        unused = sorted({"scale", "integer"} & self.model_fields_set)
        if self.verdict == "winner" and unused:
            raise ValueError(f"{unused[0]} is for verdict: scores; remove it, or set that")
        return self

    def pair_question(
        self, row: Row, first: int, second: int, ask: Ask, prompt: str, model: str, n: int = 1
    ) -> Question[Verdict]:
        """What to ask about two samples, shown in this order as A and B, for one verdict a reply."""
        shown = [row.samples[first].text, row.samples[second].text]
        menu = ["A", "B", "tie"] if self.ties else ["A", "B"]
        if self.verdict == "winner":
            words = f'"<{", ".join(menu[:-1])} or {menu[-1]}>"'
            response_format, shape = self.form(
                {"winner": {"type": "string", "enum": menu}}, {"winner": words}
            )
        else:
            inner, in_words = named_form(SIDES, *self.number())
            response_format, shape = self.form({"scores": inner}, {"scores": in_words})
        messages = ask.prompt(
            prompt,
            response_a=shown[0],
            response_b=shown[1],
            ties=self.ties,
            shape=shape,
            **self.criterion(row, ask),
            **self.shared(row),
            **self.limits(),
        )

        seen = self.shown(row, ["winner" if self.verdict == "winner" else "scores"], shown)

        def parse(completion: Completion) -> Parsed[Verdict]:
            if self.verdict == "winner":
                return self._winner(completion, seen, menu)
            return self._scores(completion, seen)

        logprobs = None if self.expects is None else TOP
        return Question(messages, parse, model, shape, n, response_format, logprobs)

    def _winner(self, completion: Completion, shown: Shown, menu: list[str]) -> Parsed[Verdict]:
        def read(text: str) -> Parsed[str]:
            return parse_winner(text, ties=self.ties, asked=shown.asked, others=shown.others)

        if self.expects is None:
            said = read(completion.text)
            verdict = None if said.value is None else Verdict(SHARE[said.value])
            return Parsed(verdict, said.why, said.rationale)
        tokens = completion.logprobs or ()
        said = read(spoken(tokens)) if tokens else NO_TOKENS
        odds = menu_odds(tokens, said, menu, min_mass=self.expects)
        share = None if odds.value is None else sum(SHARE[word] * p for word, p in odds.value.items())
        return Parsed(None if share is None else Verdict(min(1.0, share)), odds.why, odds.rationale)

    def _scores(self, completion: Completion, shown: Shown) -> Parsed[Verdict]:
        if self.expects is None:
            named = read_named(completion, SIDES, self.scale, self.integer, shown)
            both = all_named(named if self.ties else without_ties(named))
            a, b = named["A"].value, named["B"].value
            if both.value is None or a is None or b is None:
                return Parsed(None, both.why, both.rationale)
            return Parsed(Verdict(leaning(0.5 + a - b), (a, b)), None, both.rationale)
        odds = odds_named(completion, SIDES, self.scale, shown, self.expects)
        both = all_named({side: mean_of(odds[side], self.scale) for side in SIDES})
        first, second = odds["A"].value, odds["B"].value
        if both.value is None or first is None or second is None:
            return Parsed(None, both.why, both.rationale)
        means = [both.value[side].value or 0.0 for side in SIDES]
        return Parsed(Verdict(superiority(first, second), (means[0], means[1])), None, both.rationale)


def pair_vote(judge: str, reply: Reply[Verdict], *, swapped: bool) -> Vote:
    """A reply as a vote on the comparison's `a`, which was shown as B if `swapped`."""
    said = reply.parsed
    share, scores = (said.value.share, said.value.scores) if said.value else (None, None)
    for_a = 1 - share if swapped and share is not None else share
    made = vote(judge, reply, Parsed(for_a, said.why, said.rationale), "ba" if swapped else "ab")
    return replace(made, scores=scores[::-1] if swapped and scores else scores)


Votes = Sequence[Sequence[Vote]]
"""Those of each order of showing."""


def comparison(
    name: str,
    a: int,
    b: int,
    sides: Votes,
    more: Votes = (),
    *,
    disagree: Disagree = "average",
    by_majority: bool = False,
) -> Comparison:
    """The outcome of the votes in each order, and of those asked for again (core.verdicts.outcome)."""
    first, second = values_of(sides), values_of(more)
    p = outcome(first, second, disagree=disagree, by_majority=by_majority)
    votes = tuple(vote for side in (*sides, *more) for vote in side)
    return Comparison(name, a, b, p, flipped(first), votes)


def values_of(sides: Votes) -> list[list[float]]:
    """The verdicts that could be read, side by side."""
    return [[vote.value for vote in side if vote.value is not None] for side in sides]
