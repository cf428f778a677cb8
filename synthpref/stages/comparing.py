"""What judges of two responses have in common: the question, the verdict, and votes on a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synthpref.core.parse import Parsed, parse_winner
from synthpref.core.seam import Ask, Completion
from synthpref.core.stats import mean
from synthpref.core.types import Comparison, Row, Vote
from synthpref.stages.asking import Question, Reply
from synthpref.stages.judging import Judged, criterion, verdict_form, vote
from synthpref.stages.own_words import own_verdict

SHARE = {"A": 1.0, "B": 0.0, "tie": 0.5}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one reply says of two responses. `share` is how far the one that was shown first is preferred: 1 where
    it wins, 0 where it loses, 0.5 for a tie."""

    share: float


class Comparing(Judged):
    """Base of the stages that show a judge two responses at a time."""

    ties: bool = True
    """Let the judge call a tie."""

    def pair_question(
        self, row: Row, first: int, second: int, ask: Ask, prompt: str, model: str, n: int = 1
    ) -> Question[Verdict]:
        """What to ask about two samples, shown in this order as A and B, for one verdict a reply."""
        menu = ["A", "B", "tie"] if self.ties else ["A", "B"]
        words = f'"<{", ".join(menu[:-1])} or {menu[-1]}>"'
        response_format, shape = verdict_form({"winner": {"type": "string", "enum": menu}}, {"winner": words})
        shown = [row.samples[first].text, row.samples[second].text]
        messages = ask.prompt(
            prompt,
            response_a=shown[0],
            response_b=shown[1],
            rubric=criterion(self.rubric, ask),
            ties=self.ties,
            shape=shape,
            **self.shared(row),
        )

        def read(text: str) -> dict[str, Parsed[str]]:
            return {"": parse_winner(text, ties=self.ties)}

        def parse(completion: Completion) -> Parsed[Verdict]:
            said = own_verdict(completion.text, shown, read)[""]
            verdict = None if said.value is None else Verdict(SHARE[said.value])
            return Parsed(verdict, said.why, said.rationale)

        return Question(messages, parse, model, shape, n, response_format)


def pair_vote(judge: str, reply: Reply[Verdict], *, swapped: bool) -> Vote:
    """A reply as a vote on the comparison's `a`, which was shown as B if `swapped`."""
    said = reply.parsed
    share = None if said.value is None else said.value.share
    for_a = 1 - share if swapped and share is not None else share
    return vote(judge, reply, Parsed(for_a, said.why, said.rationale), "ba" if swapped else "ab")


def comparison(name: str, a: int, b: int, sides: Sequence[Sequence[Vote]]) -> Comparison:
    """The outcome of the votes in each order."""
    counted = [[vote.value for vote in side if vote.value is not None] for side in sides]
    values = [value for side in counted for value in side]
    leans = {mean(side) > 0.5 for side in counted if side and mean(side) != 0.5}
    votes = tuple(vote for side in sides for vote in side)
    return Comparison(name, a, b, mean(values) if values else None, len(leans) == 2, votes)
