"""What sways a judge that should not: the place, the length, its own family, and chance from one reply to the
next. Pure; plain values, as agreement.json holds them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthpref.core.agreement import kendall, spearman
from synthpref.core.bootstrap import How
from synthpref.core.intervals import alpha_estimate
from synthpref.core.judged import NONE, TIE, A, B, Codes, Floats, JudgeTable, codes, mean_share
from synthpref.core.measure import Figures, Mask, Measure
from synthpref.core.ranking import length_controlled, logistic

LEAST = 10
"""Fewer comparisons than this say nothing of a model or a family."""


def order(measure: Measure, judge: JudgeTable) -> Figures:
    """What the order does to the judge's verdicts.

    A flip is hard where the two orders name different winners, soft where one calls a tie and the other a winner.
    `first_rate` is the share of verdicts with a winner that fell to the response shown first.
    """
    if set(judge.shares) != {"ab", "ba"}:
        return {}
    if not measure.table.pairs:
        return _score_order(measure, judge)
    said = {name: codes(shares) for name, shares in judge.shares.items()}
    one, other = said["ab"], said["ba"]
    both = (one != NONE) & (other != NONE)
    hard = both & (one != other) & (one != TIE) & (other != TIE)
    soft = both & (one != other) & ~hard
    first = [(one == A), (other == B)]
    decided = [((one == A) | (one == B)), ((other == A) | (other == B))]
    hits = sum(f.astype(float) for f in first)
    n = sum(d.astype(float) for d in decided)
    any_ = n > 0
    found: Figures = {
        "both_orders": int(both.sum()),
        "hard_flips": int(hard.sum()),
        "soft_flips": int(soft.sum()),
        "flip_rate": measure.share(hard, both),
        "soft_rate": measure.share(soft, both),
        "same_rate": measure.share(one == other, both),
        "kappa_between_orders": measure.kappa(one, other, both),
        "first_won": int(hits.sum()),
        "winners_named": int(n.sum()),
        "first_rate": {**measure.ratio(hits, n, any_), "n": int(n.sum())},
        "hard_flips_to_the_first": int((hard & (one == A)).sum()),
    }
    if set(judge.scores) == {"ab", "ba"}:
        # By how much a response's score is higher when it is shown first.
        gain = judge.scores["ab"] - judge.scores["ba"]
        shift = (gain[:, 0] - gain[:, 1]) / 2
        found["points_for_being_first"] = measure.mean(shift, ~np.isnan(shift))
    return found


def _score_order(measure: Measure, judge: JudgeTable) -> Figures:
    """What being shown first does to the score of a response."""
    one, other = judge.shares["ab"], judge.shares["ba"]
    both = ~np.isnan(one) & ~np.isnan(other)
    labels = [measure.labels(values) for values in (one, other)]
    return {
        "both_orders": int(both.sum()),
        "same_rate": measure.share(labels[0] == labels[1], both),
        "kappa_between_orders": measure.kappa(labels[0], labels[1], both),
        "kendall_between_orders": kendall(one[both].tolist(), other[both].tolist()),
        "points_for_being_first": measure.mean(one - other, both),
    }


def sides(measure: Measure, judge: JudgeTable) -> Figures:
    """How often the judge prefers a, which is the first one where nothing else is said; against how often people
    do, on the same items."""
    said, gold = measure.verdicts[judge.name], measure.gold
    decided = (said == A) | (said == B)
    found = {
        "a_rate": measure.share(said == A, decided),
        "tie_rate": measure.share(said == TIE, said != NONE),
    }
    both = decided & ((gold == A) | (gold == B))
    if both.any():
        found["people_a_rate"] = measure.share(gold == A, both)
        found["people_tie_rate"] = measure.share(gold == TIE, (said != NONE) & (gold != NONE))
    return found


def length(measure: Measure, judge: JudgeTable) -> Figures:
    """How often the judge prefers the longer response, against how often people do; and what is left of a win rate
    when both are of equal length."""
    table = measure.table
    gap = table.words[:, 0] - table.words[:, 1]
    if not table.pairs:
        return _score_length(measure, judge)
    unequal = ~np.isnan(gap) & (gap != 0)
    if not unequal.any():
        return {}
    said, gold = measure.verdicts[judge.name], measure.gold
    longer = np.where(gap > 0, A, B)
    decided = unequal & ((said == A) | (said == B))
    labelled = unequal & ((gold == A) | (gold == B))
    both = decided & labelled
    found: Figures = {"longer_rate": measure.share(said == longer, decided)}
    if both.any():
        more = (said == longer).astype(float) - (gold == longer)
        found["longer_than_people"] = measure.mean(more, both)
        found["log_odds_for_longer"] = _given_label(said, gold, longer, both)
    wins = mean_share(judge, measure.settings.swap)
    found["a_at_equal_length"] = at_equal_length(measure, wins)
    found |= {"models": models} if (models := _models_at_equal_length(measure, wins, gap)) else {}
    return found


def people_length(measure: Measure) -> Figures:
    """How often people prefer the longer response, and how often a at equal length."""
    table, gold = measure.table, measure.gold
    gap = table.words[:, 0] - table.words[:, 1]
    unequal = ~np.isnan(gap) & (gap != 0)
    if not table.pairs or not unequal.any():
        return {}
    longer = np.where(gap > 0, A, B)
    labelled = unequal & ((gold == A) | (gold == B))
    rate = measure.share(gold == longer, labelled)
    return {"longer_rate": rate, "a_at_equal_length": at_equal_length(measure, shares_of(gold))}


def at_equal_length(measure: Measure, wins: Floats) -> Figures | None:
    """How often a would win by these shares, were both of equal length."""
    gap = measure.table.words[:, 0] - measure.table.words[:, 1]
    mask = ~np.isnan(wins) & ~np.isnan(gap)
    if mask.sum() < LEAST:
        return None
    how = measure.how(mask)
    how["resamples"] = min(400, how["resamples"])
    return asdict(length_controlled(wins[mask].tolist(), gap[mask].tolist(), **how))


def _models_at_equal_length(measure: Measure, wins: Floats, gap: Floats) -> Figures:
    """Each model's win rate by the judge's preferences, as it is and at equal length."""
    table = measure.table
    names = sorted({name for both in table.models for name in both if name})
    if not 2 <= len(names) <= 100:
        return {}
    found = {}
    a, b = (np.array([both[side] or "" for both in table.models]) for side in (0, 1))
    for name in names:
        mask = ((a == name) | (b == name)) & (a != b) & ~np.isnan(wins) & ~np.isnan(gap)
        if mask.sum() < LEAST:
            continue
        own = np.where(a == name, wins, 1 - wins)
        further = np.where(a == name, gap, -gap)
        how: How = {**measure.how(mask), "resamples": 200}
        controlled = length_controlled(own[mask].tolist(), further[mask].tolist(), **how)
        found[name] = {
            "n": int(mask.sum()),
            "wins": float(own[mask].mean()),
            "at_equal_length": asdict(controlled),
        }
    return found


def _given_label(said: Codes, gold: Codes, longer: NDArray[Any], both: Mask) -> float:
    """The log-odds that being longer adds to being preferred by the judge, beside the label of people."""
    x = np.stack([np.where(gold[both] == longer[both], 1.0, -1.0), np.ones(int(both.sum()))], axis=1)
    return float(logistic(x, (said == longer)[both].astype(float), ridge=0.1)[1])


def _score_length(measure: Measure, judge: JudgeTable) -> Figures:
    words, found = measure.table.words[:, 0], {}
    if judge.values is None or np.isnan(words).all():
        return {}
    for name, values in (
        ("length_correlation", judge.values),
        ("people_length_correlation", measure.table.gold),
    ):
        there = ~np.isnan(words) & ~np.isnan(values)
        if there.sum() >= LEAST:
            found[name] = spearman(values[there].tolist(), words[there].tolist())
    return found


def repeats(measure: Measure, judge: JudgeTable) -> Figures:
    """How much the judge's answers vary when it is asked the same again. Needs no label."""
    several = [r for r in judge.repeats if len(r.values) > 1]
    if not several:
        return {}
    of_verdicts = measure.table.pairs and not judge.scores
    values = [np.array(r.values) for r in several]
    same = np.array([len(set(v.tolist())) == 1 for v in values])
    prompts = [measure.table.prompts[r.item] for r in several]
    how: How = {**measure.how(np.ones(0, bool)), "clusters": prompts}
    found: Figures = {
        "items": len(several),
        "replies": int(sum(map(len, values))),
        "all_the_same": float(same.mean()),
        "alpha": asdict(
            alpha_estimate([v.tolist() for v in values], "nominal" if of_verdicts else "interval", **how)
        ),
    }
    if not of_verdicts:
        variances = np.array([v.var(ddof=1) for v in values])
        found |= {
            "variance": float(variances.mean()),
            "standard_deviation": float(np.sqrt(variances.mean())),
            "largest_range": float(max(v.max() - v.min() for v in values)),
        }
    return found


def shares_of(labels: Codes) -> Floats:
    return np.select([labels == A, labels == B, labels == TIE], [1.0, 0.0, 0.5], np.nan)
