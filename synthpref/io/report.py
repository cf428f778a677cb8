"""What the numbers say about the labels of a run: counted in one pass over its rows, then put in plain words.

`build` gives plain values: what report.json holds. The page of them is made in page.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from synthpref.core.finish import is_known
from synthpref.core.ranking import cycles
from synthpref.core.thinking import SPECIAL
from synthpref.core.types import Comparison, Pair, Row, Sample, Vote
from synthpref.io.findings import statements
from synthpref.io.jurors import Jurors
from synthpref.io.tally import Frequent, Reasons, Spread, Values, ordered, share

Report = dict[str, Any]


def build(rows: Iterable[Row], summary: Mapping[str, Any]) -> Report:
    """Count the rows. `summary` is the run's own account: books, stages, models (see summary.json)."""
    tally = Tally()
    for row in rows:
        tally.add(row)
    return tally.report(summary)


MOST_SPECIAL = 1000
"""Kinds of special tokens that are counted."""


class _Scored:
    def __init__(self) -> None:
        self.values, self.failed, self.vote_failed = Spread(), Reasons(), Reasons()
        self.missing = self.votes = 0
        self.jurors = Jurors("interval")


class _Model:
    def __init__(self) -> None:
        self.samples = self.chosen = self.rejected = 0


class _Compared:
    def __init__(self) -> None:
        self.failed = Reasons()
        self.asked = self.decided = self.ties = self.both_orders = self.flipped = 0
        self.votes = self.first_won = self.second_won = self.triples = self.cyclic = 0
        self.in_words = False
        self.cycle: list[Any] | None = None
        self.jurors = Jurors("nominal")


class _Rule:
    def __init__(self) -> None:
        self.pairs = 0
        self.margins = Spread()
        self.facts: defaultdict[str, Values] = defaultdict(Values)


class Tally:
    """The counts of the rows that came by so far."""

    def __init__(self) -> None:
        self.rows = self.paired_rows = self.pairs = self.rationales = self.samples = self.empty = 0
        self.copies = 0
        self.truncated = self.filtered = self.reasoned = self.special_samples = 0
        self.special: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.margins, self.per_row = Spread(), Spread()
        self.ps, self.p_lows, self.agreements, self.votes = Spread(), Spread(), Spread(), Spread()
        self.sure = self.plain = 0
        self.words, self.chosen_words, self.rejected_words = Spread(), Spread(), Spread()
        self.longer: Counter[str] = Counter()
        self.chosen = Frequent()
        self.finish: Counter[str] = Counter()
        self.licences: Counter[str] = Counter()
        self.rules: defaultdict[str, _Rule] = defaultdict(_Rule)
        self.scores: defaultdict[str, _Scored] = defaultdict(_Scored)
        self.models: defaultdict[str, _Model] = defaultdict(_Model)
        self.compared: defaultdict[str, _Compared] = defaultdict(_Compared)

    def through(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, each counted on its way."""
        for row in rows:
            self.add(row)
            yield row

    def report(self, summary: Mapping[str, Any]) -> Report:
        found = {**summary, **self.facts()}
        found["statements"] = statements(found)
        return found

    def add(self, row: Row) -> None:
        self.rows += 1
        self.licences[row.licence or "not named"] += 1
        self.per_row.add(len(row.samples))
        texts = [sample.text.strip() for sample in row.samples if not sample.empty]
        self.copies += len(texts) - len(set(texts))
        names = {name for sample in row.samples for name in sample.scores}
        for sample in row.samples:
            self._sample(sample, names)
        for comparison in row.comparisons:
            self._comparison(comparison)
        self._cycles(row)
        self.paired_rows += bool(row.pairs)
        self.chosen.add(row.samples[pair.chosen].text for pair in row.pairs)
        for pair in row.pairs:
            self._pair(row, pair)

    def _sample(self, sample: Sample, names: set[str]) -> None:
        self.samples += 1
        self.empty += sample.empty
        self.truncated += sample.truncated
        self.filtered += sample.filtered
        self.reasoned += sample.reasoning is not None
        if (special := set(SPECIAL.findall(sample.text))) and len(self.special) < MOST_SPECIAL:
            self.special.update(special)
        self.special_samples += bool(special)
        if not is_known(sample.finish_reason):
            self.unknown[str(sample.finish_reason)] += 1
        self.words.add(len(sample.text.split()))
        self.finish[sample.finish_reason or "not given"] += 1
        self.models[sample.model or "not named"].samples += 1
        for name in names:
            scored, score = self.scores[name], sample.scores.get(name)
            if score is None:
                scored.missing += 1
                continue
            if score.value is None:
                scored.failed.add(score.why)
            else:
                scored.values.add(score.value)
            scored.jurors.add(score.votes)
            for vote in score.votes:
                scored.votes += vote.asked
                if vote.failed:
                    scored.vote_failed.add(vote.why)

    def _comparison(self, comparison: Comparison) -> None:
        found = self.compared[comparison.name]
        found.asked += 1
        found.decided += comparison.p is not None
        found.ties += comparison.p == 0.5 and not comparison.flipped
        valid = [vote for vote in comparison.votes if vote.value is not None]
        # Only a pair seen in both orders can show that its verdict hangs on the order.
        if {"ab", "ba"} <= {vote.shown for vote in valid}:
            found.both_orders += 1
            found.flipped += comparison.flipped
        found.jurors.add(comparison.votes)
        for vote in comparison.votes:
            found.votes += vote.asked
            found.in_words |= bool(vote.reply)
            if vote.failed:
                found.failed.add(vote.why)
            elif vote.value is not None:
                won = _first_won(vote)
                found.first_won += won is True
                found.second_won += won is False

    def _cycles(self, row: Row) -> None:
        outcomes: defaultdict[str, list[tuple[int, int, float]]] = defaultdict(list)
        for c in row.comparisons:
            if c.p is not None:
                outcomes[c.name].append((c.a, c.b, c.p))
        for name, games in outcomes.items():
            # Three make the smallest circle.
            if len(games) > 2:
                found, counted = cycles(len(row.samples), games), self.compared[name]
                counted.triples += found.complete
                counted.cyclic += found.cyclic
                if found.example and counted.cycle is None:
                    counted.cycle = [row.id, *found.example]

    def _pair(self, row: Row, pair: Pair) -> None:
        chosen, rejected = row.samples[pair.chosen], row.samples[pair.rejected]
        self.pairs += 1
        self.rationales += pair.rationale is not None
        rule = self.rules[pair.rule]
        rule.pairs += 1
        if pair.margin is not None:
            self.margins.add(pair.margin)
            rule.margins.add(pair.margin)
        if pair.p is not None:
            self.ps.add(pair.p)
            self.sure += (pair.p_low or 0.0) > 0.5
            self.plain += _plain(row, pair)
        for spread, value in (
            (self.p_lows, pair.p_low),
            (self.agreements, pair.agreement),
            (self.votes, pair.votes),
        ):
            if value is not None:
                spread.add(value)
        for name, value in pair.facts.items():
            rule.facts[name].add(value)
        words = len(chosen.text.split()), len(rejected.text.split())
        self.chosen_words.add(words[0])
        self.rejected_words.add(words[1])
        self.longer["chosen" if words[0] > words[1] else "rejected" if words[0] < words[1] else "equal"] += 1
        self.models[chosen.model or "not named"].chosen += 1
        self.models[rejected.model or "not named"].rejected += 1

    def facts(self) -> Report:
        decided = self.longer["chosen"] + self.longer["rejected"]
        return {
            "rows": self.rows,
            "licences": ordered(self.licences),
            "pairs": {
                "count": self.pairs,
                "rows_with_pairs": self.paired_rows,
                "with_rationale": self.rationales,
                "most_chosen": self.chosen.most(),
                "margin": self.margins.facts(),
                "margin_bins": self.margins.bins(),
                "p": self.ps.facts(),
                "p_low": self.p_lows.facts(),
                "agreement": self.agreements.facts(),
                "votes": self.votes.facts(),
                "p_low_above_half": self.sure,
                "plain": self.plain,
                "rules": {
                    name: {
                        "pairs": rule.pairs,
                        "margin": rule.margins.facts(),
                        "facts": {k: facts for k, v in sorted(rule.facts.items()) if (facts := v.facts())},
                    }
                    for name, rule in sorted(self.rules.items())
                },
            },
            "scores": {
                name: {
                    "values": scored.values.facts(),
                    "bins": scored.values.bins(),
                    "failed": scored.failed.facts(),
                    "not_scored": scored.missing,
                    "votes": scored.votes,
                    "votes_failed": scored.vote_failed.facts(),
                    "jury": scored.jurors.facts(),
                }
                for name, scored in sorted(self.scores.items())
            },
            "length": {
                "words": self.words.facts(),
                "chosen_words": self.chosen_words.facts(),
                "rejected_words": self.rejected_words.facts(),
                "longer": {side: self.longer[side] for side in ("chosen", "rejected", "equal")},
                "chosen_longer_share": share(self.longer["chosen"], decided),
            },
            "comparisons": {
                name: {
                    "asked": c.asked,
                    "decided": c.decided,
                    "ties": c.ties,
                    "both_orders": c.both_orders,
                    "flipped": c.flipped,
                    "flipped_share": share(c.flipped, c.both_orders),
                    "votes": c.votes,
                    "in_words": c.in_words,
                    "votes_failed": c.failed.facts(),
                    "first_shown_won": c.first_won,
                    "second_shown_won": c.second_won,
                    "first_shown_share": share(c.first_won, c.first_won + c.second_won),
                    "triples": c.triples,
                    "cyclic_triples": c.cyclic,
                    "cycle": c.cycle,
                    "jury": c.jurors.facts(),
                }
                for name, c in sorted(self.compared.items())
            },
            "samples": {
                "count": self.samples,
                "per_row": self.per_row.facts(),
                "empty": self.empty,
                "copies": self.copies,
                "truncated": self.truncated,
                "filtered": self.filtered,
                "with_reasoning": self.reasoned,
                "with_special_tokens": self.special_samples,
                "special_tokens": dict(self.special.most_common(5)),
                "unknown_finish_reasons": ordered(self.unknown),
                "finish_reasons": ordered(self.finish),
                "models": {
                    name: {"samples": m.samples, "chosen": m.chosen, "rejected": m.rejected}
                    for name, m in sorted(self.models.items())
                },
            },
        }


def _first_won(vote: Vote) -> bool | None:
    """Whether the response that was shown first won; None for a tie, or where the order is not known."""
    if vote.value is None or vote.value == 0.5 or vote.shown not in ("ab", "ba"):
        return None
    return (vote.value > 0.5) == (vote.shown == "ab")


def _plain(row: Row, pair: Pair) -> bool:
    """Whether all that is known is one number for each, in no words: a reward model's, or the source's."""
    scores = [row.samples[i].scores.get(pair.facts.get("score", "")) for i in (pair.chosen, pair.rejected)]
    votes = [vote for score in scores if score for vote in score.votes]
    return pair.votes == 1 and bool(votes) and not any(vote.reply for vote in votes)
