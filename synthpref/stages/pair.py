"""Pair construction: which two responses of a row become chosen and rejected.

The rules themselves are pure functions in `core.rules`; here is what they all share: which samples may
be paired, in what order ties are broken, and what a row without a pair is dropped for. A sample is
paired only if it has a value for the score, is not empty, was not cut off by a filter and is not truncated
(unless asked for). Samples with the same text are one response, whose score is the mean of theirs: whichever of
their scores stood for all of them, luck would decide which text is rejected more often. No rule asks a model:
pairing again costs nothing.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from synthpref.core import rules
from synthpref.core.doubt import doubted
from synthpref.core.rules import Outcome, Scores
from synthpref.core.seam import Ask
from synthpref.core.stage import RowStage, Takes
from synthpref.core.types import Drop, Pair, Row, Score


def _checked_point(text: str) -> str:
    rules.point(text)
    return text


class PairStage(RowStage):
    """What all pair rules share. A rule of your own derives from this and defines `choose`."""

    score: str
    """Name of the score that decides, as an earlier stage or the source gave it."""
    min_margin: float = Field(default=0.0, ge=0)
    """Smallest difference of score between chosen and rejected; a pair below it is not made."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Smallest probability that chosen is preferred, by the votes of the judges (`p` of a pair); a pair below it, or
    one whose votes tell none, is not made."""
    min_p_low: float | None = Field(default=None, ge=0, le=1)
    """The same for the lower end of its 95 % interval. 0.5 asks that chosen leads by more than chance; that takes 4
    votes for and none against, or more."""
    min_agreement: float | None = Field(default=None, ge=0, le=1)
    """Smallest share of the votes on the label's side; a pair below it, or one without votes on the two, is not
    made."""
    truncated: Literal["exclude", "keep"] = "exclude"
    """What to do with responses that were cut off by the token limit: `exclude` them, or `keep` and pair
    them."""

    def needs(self) -> set[str]:
        return {"samples", f"score:{self.score}"}

    def gives(self) -> set[str]:
        return {"pairs"}

    def takes(self) -> Takes:
        return Takes(self.score)

    def choose(self, scores: Scores, eligible: Sequence[int], rng: random.Random) -> Outcome:
        """The pairs that the rule makes of the eligible samples, or why it makes none."""
        raise NotImplementedError

    async def run(self, row: Row, ask: Ask) -> Row | Drop:
        given = row
        eligible, left_out, copies = self._eligible(row, row.values(self.score))
        row = _merged(row, self.score, copies)
        scores = row.values(self.score)
        made: Outcome
        if len(eligible) < 2:
            made = _too_few(row, len(eligible), left_out)
        else:
            made = self._wide_enough(self.choose(scores, eligible, ask.rng))
        if isinstance(made, list):
            made = self._sure_enough(self._told(row, made))
        if isinstance(made, list):
            made = _new(row, made)
        if isinstance(made, Drop):
            if row.pairs:
                return given
            detail = "; ".join(part for part in (made.detail, _listed(left_out)) if part)
            return Drop(made.reason, detail)
        return replace(given, pairs=(*row.pairs, *(_counted(row, pair, copies) for pair in made)))

    def _eligible(self, row: Row, scores: Scores) -> tuple[list[int], Counter[str], dict[int, list[int]]]:
        """Indices that may be paired, how many samples were left out for what, and the copies of one text that each
        index stands for.

        Their order is drawn from the texts, so that neither the place nor the model of a sample decides
        a tie.
        """
        left_out: Counter[str] = Counter()
        copies: defaultdict[str, list[int]] = defaultdict(list)
        for i, sample in enumerate(row.samples):
            value = scores[i]
            if sample.empty:
                left_out["empty"] += 1
            elif sample.filtered:
                left_out["filtered"] += 1
            elif sample.truncated and self.truncated == "exclude":
                left_out["truncated"] += 1
            elif value is None:
                left_out["without a score"] += 1
            else:
                copies[sample.text.strip()].append(i)
        left_out["a copy of another"] = sum(map(len, copies.values())) - len(copies)
        place = {text: _place(row.id, text) for text in copies}
        order = sorted(copies, key=place.__getitem__)
        several = {found[0]: found for found in copies.values() if len(found) > 1}
        return [copies[text][0] for text in order], +left_out, several

    def _wide_enough(self, made: Outcome) -> Outcome:
        if isinstance(made, Drop):
            return made
        kept = [pair for pair in made if not rules.outscores(self.min_margin, pair.margin or 0.0)]
        if kept:
            return kept
        widest = max(pair.margin or 0.0 for pair in made)
        return Drop("margin too small", f"the widest is {widest:g}")

    def _told(self, row: Row, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs with the name of their score, and with how sure they are."""
        named = [replace(pair, facts={"score": self.score, **pair.facts}) for pair in pairs]
        return doubted(row, named, self.score)

    def _sure_enough(self, made: Outcome) -> Outcome:
        for least, field, reason in (
            (self.min_p, "p", "probability too low"),
            (self.min_p_low, "p_low", "probability too unsure"),
            (self.min_agreement, "agreement", "too little agreement"),
        ):
            if least is None or isinstance(made, Drop):
                continue
            known = [(pair, value) for pair in made if (value := getattr(pair, field)) is not None]
            if not known:
                return Drop("no votes to be sure by", f"the score {self.score!r} gives a pair no {field}")
            kept = [pair for pair, value in known if not rules.outscores(least, value)]
            highest = max(value for _, value in known)
            made = kept or Drop(reason, f"the highest {field} is {highest:.3g}, {least:g} asked for")
        return made


def _merged(row: Row, score: str, copies: Mapping[int, Sequence[int]]) -> Row:
    """The row with, on the first of the copies of a text, the mean of their scores, and the votes on all of them."""
    if not copies:
        return row
    samples = list(row.samples)
    for first, found in copies.items():
        scores = [row.samples[i].scores[score] for i in found]
        values = sorted(s.value for s in scores if s.value is not None)
        # Of equal values exactly that value: a sum of them may differ by rounding.
        mean = values[0] if values[0] == values[-1] else math.fsum(values) / len(values)
        merged = Score(mean, votes=tuple(vote for s in scores for vote in s.votes))
        samples[first] = replace(samples[first], scores={**samples[first].scores, score: merged})
    return replace(row, samples=tuple(samples))


def _counted(row: Row, pair: Pair, copies: Mapping[int, Sequence[int]]) -> Pair:
    """The pair; where a side of it stands for copies, with how many these are and the mean of their scores."""
    facts = dict(pair.facts)
    for side, i in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if i in copies:
            facts |= {
                f"{side}_copies": len(copies[i]),
                f"{side}_score": row.samples[i].scores[facts["score"]].value,
            }
    return replace(pair, facts=facts)


def _place(row_id: str, text: str) -> bytes:
    return hashlib.sha256(f"{row_id}\n{text}".encode("utf-8", "surrogatepass")).digest()


def _too_few(row: Row, eligible: int, left_out: Counter[str]) -> Drop:
    if not row.samples:
        return Drop("no samples")
    if eligible:
        return Drop("all texts equal" if left_out["a copy of another"] else "one usable sample")
    return Drop("no scores" if left_out["without a score"] else "no usable sample")


def _listed(left_out: Counter[str]) -> str:
    return "left out: " + ", ".join(f"{n} {why}" for why, n in left_out.items()) if left_out else ""


def _new(row: Row, made: Sequence[Pair]) -> Outcome:
    """The pairs that say something new: not one that the row holds, and not the opposite of one."""

    def texts(pair: Pair) -> tuple[str, str]:
        return row.samples[pair.chosen].text.strip(), row.samples[pair.rejected].text.strip()

    held = {texts(pair) for pair in row.pairs}
    fresh = [pair for pair in made if texts(pair) not in held and texts(pair)[::-1] not in held]
    return fresh or Drop("pair already made")


class Extremes(PairStage):
    """The highest score over the lowest: one pair a row."""

    def takes(self) -> Takes:
        return Takes(self.score, best=True)

    def choose(self, scores: Scores, eligible: Sequence[int], rng: random.Random) -> Outcome:
        return rules.extremes(scores, eligible)


class MuSigma(PairStage):
    """Rejected is the response nearest to mu - k*sigma of the row's own scores, not the worst one: the
    sweet spot of arXiv:2502.16825. Made for many samples: below 6 it is always the minimum, and with
    normal scores it is the minimum for 98 % of rows at n = 16, 71 % at 32, 43 % at 50, 10 % at 100. The
    report says how often the rule was in force. A text that was sampled several times counts once."""

    k: float = Field(default=2.0, ge=0, le=100)
    """How many standard deviations below the mean the rejected response is sought."""
    quantile: float | None = Field(default=None, gt=0, lt=1)
    """Seek rejected at this quantile of the row's scores instead of at mu - k*sigma, e.g. 0.023 (which
    is where mu - 2 sigma lies in a normal distribution); for skewed or bounded scores."""
    chosen: Annotated[str, AfterValidator(_checked_point)] = "max"
    """The chosen response: `max`, or the one nearest to a point such as `mu+2sigma`, `mu+sigma` or `mu`."""
    tolerance: float | None = Field(default=None, ge=0)
    """How far from the target, in standard deviations, the nearest response may lie; beyond it
    `fallback` applies. Without it, `fallback` applies where the target lies below every response."""
    fallback: Literal["min", "drop"] = "min"
    """What to do where the rule cannot be kept: take the lowest score (`min`), or `drop` the row."""
    ddof: Literal[0, 1] = 1
    """Divide by n - ddof in the standard deviation. The paper does not say which; 1 is the estimate from
    a sample."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.quantile is not None and "k" in self.model_fields_set:
            raise ValueError("k and quantile are two ways to set the same target; give one of them")
        at = rules.point(self.chosen)
        if at is not None and self.quantile is None and at <= -self.k:
            raise ValueError(
                f"chosen {self.chosen!r} does not lie above the rejected point mu-{self.k:g}sigma"
            )
        return self

    def takes(self) -> Takes:
        sigmas = self.k if self.quantile is None else None
        return Takes(self.score, self.chosen == "max", sigmas, self.ddof, self.quantile)

    def choose(self, scores: Scores, eligible: Sequence[int], rng: random.Random) -> Outcome:
        return rules.mu_sigma(
            scores,
            eligible,
            k=self.k,
            chosen=self.chosen,
            quantile=self.quantile,
            tolerance=self.tolerance,
            fallback=self.fallback,
            ddof=self.ddof,
        )


class MinOfK(PairStage):
    """The highest score over the lowest of k responses drawn at random: the form that arXiv:2502.16825
    gives for any number of samples. On normal scores its rejected lies near mu - 1.2 sigma, however many
    samples there are."""

    k: int = Field(default=5, ge=1)
    """How many responses are drawn."""

    def takes(self) -> Takes:
        return Takes(self.score, best=True)

    def choose(self, scores: Scores, eligible: Sequence[int], rng: random.Random) -> Outcome:
        return rules.min_of_k(scores, eligible, k=self.k, rng=rng)


class Threshold(PairStage):
    """Every pair of responses whose scores are far enough apart: by `min_margin`, or by `eta` as in RS-DPO
    (arXiv:2402.10038). Makes up to n(n-1)/2 pairs a row."""

    eta: float | None = Field(default=None, gt=0, lt=1)
    """Keep pairs with sigmoid(difference / tau) above this, e.g. 0.85."""
    tau: float = Field(default=1.0, gt=0)
    """Scale of the difference in the sigmoid; only with `eta`."""
    max_pairs: int | None = Field(default=None, ge=1)
    """Most pairs of one row; all where it is not given."""
    take: Literal["widest", "random"] = "widest"
    """Which pairs are kept where there are more than `max_pairs`."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not {"eta", "min_margin"} & self.model_fields_set:
            raise ValueError("say how far apart the scores must be: give min_margin, or eta (and tau)")
        if self.eta is None and "tau" in self.model_fields_set:
            raise ValueError("tau scales eta; give eta too")
        return self

    def choose(self, scores: Scores, eligible: Sequence[int], rng: random.Random) -> Outcome:
        return rules.threshold(
            scores,
            eligible,
            margin=self.min_margin,
            eta=self.eta,
            tau=self.tau,
            max_pairs=self.max_pairs,
            rng=rng if self.take == "random" else None,
        )


class Ranked(PairStage):
    """Pairs along the whole order of the responses by score, from easy to hard where `pairing` is `best`
    (arXiv:2403.07230 trains on them in that order)."""

    pairing: Literal["best", "adjacent", "halves"] = "best"
    """`best`: the first over each of the others, the last one first. `adjacent`: each over the next.
    `halves`: the upper half over the lower half, each response once."""
    ranks: tuple[Annotated[int, Field(ge=2)], ...] = ()
    """With `best`: which ranks are rejected, in this order, e.g. [4, 3, 2]; all where none is given."""
    max_pairs: int | None = Field(default=None, ge=1)
    """Most pairs of one row, the first in order; all where it is not given."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.ranks and self.pairing != "best":
            raise ValueError("ranks are for pairing: best")
        if len(set(self.ranks)) < len(self.ranks):
            raise ValueError(f"ranks {list(self.ranks)} name a rank twice")
        return self

    def takes(self) -> Takes:
        return Takes(self.score, best=True)

    def choose(self, scores: Scores, eligible: Sequence[int], rng: random.Random) -> Outcome:
        return rules.ranked(
            scores,
            eligible,
            pairing=self.pairing,
            ranks=self.ranks or None,
            margin=self.min_margin,
            max_pairs=self.max_pairs,
        )


class Verified(PairStage):
    """A right answer over a wrong one, by a score of 1 and 0 (of `verify`, or any with a bar for right
    and wrong). Rows with all answers right, or all wrong, are dropped."""

    right: float = 1.0
    """Lowest score of a right answer."""
    wrong: float = 0.0
    """Highest score of a wrong answer; what lies between is in no pair."""
    max_pairs: int | None = Field(default=4, ge=1)
    """Most pairs of one row, drawn at random and spread over the answers; all right-wrong pairs where it
    is null."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not rules.outscores(self.right, self.wrong):
            raise ValueError(f"wrong ({self.wrong:g}) must lie below right ({self.right:g})")
        return self

    def choose(self, scores: Scores, eligible: Sequence[int], rng: random.Random) -> Outcome:
        return rules.verified(
            scores, eligible, right=self.right, wrong=self.wrong, max_pairs=self.max_pairs, rng=rng
        )


class Random(PairStage):
    """Two responses drawn at random among those whose scores differ, the higher one chosen: the baseline
    to compare a rule with."""

    max_pairs: int = Field(default=1, ge=1)
    """How many different pairs are drawn."""

    def choose(self, scores: Scores, eligible: Sequence[int], rng: random.Random) -> Outcome:
        return rules.random_pairs(scores, eligible, margin=self.min_margin, max_pairs=self.max_pairs, rng=rng)
