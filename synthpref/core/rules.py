"""From scores to pairs: pure functions that name a better and a worse candidate, or say why there is no
pair.

Each rule takes `scores`, the score of every sample of one prompt (None where it has none), and
`eligible`, the indices that may be paired. It returns Pairs whose indices point into `scores`, or a Drop
with a short fixed reason. All rules keep to this:

- chosen outscores rejected, always; equal scores are a tie and make no pair;
- a sample without a score, or not eligible, is as if it were not there: it is in no pair, no mean, no count;
- the order of `scores` means nothing. Where scores tie, the candidate that stands first in `eligible` is
  taken, so a caller decides ties by that order; draws are made from it too.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, Literal

from synthpref.core.types import Drop, Pair

Scores = Sequence[float | None]
Outcome = list[Pair] | Drop
Candidate = tuple[int, float]
"""Index and score."""

_POINT = re.compile(r"mu(?:(?P<sign>[+-])(?P<times>\d+(?:\.\d+)?)?sigma)?")


def outscores(a: float, b: float) -> bool:
    """Whether a is above b by more than the last digits of floating-point arithmetic: 0.1 + 0.2 ties 0.3."""
    return a > b and not math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def point(text: str) -> float | None:
    """ "mu+2sigma" -> 2.0, "mu-sigma" -> -1.0, "mu" -> 0.0; None for "max". Raises ValueError."""
    if text == "max":
        return None
    match = _POINT.fullmatch(text.replace(" ", ""))
    if match is None:
        raise ValueError(f"{text!r} is neither 'max' nor a point such as 'mu', 'mu+sigma' or 'mu-1.5sigma'")
    if match["sign"] is None:
        return 0.0
    return float(f"{match['sign']}{match['times'] or 1}")


def _contest(scores: Scores, eligible: Iterable[int]) -> list[Candidate] | Drop:
    """(index, score) of the eligible samples that have a score, or why no two of them can be told apart."""
    field = [(i, value) for i in eligible if (value := scores[i]) is not None]
    if not field:
        return Drop("no scores")
    if len(field) == 1:
        return Drop("one score")
    low, high = _bounds(field)
    if not outscores(high, low):
        return Drop("all scores equal", f"{len(field)} samples at {high:g}")
    if not math.isfinite(high - low):
        return Drop("scores too far apart", f"{low:g} to {high:g}")
    return field


def _bounds(field: Sequence[Candidate]) -> tuple[float, float]:
    values = [value for _, value in field]
    return min(values), max(values)


def _pair(better: Candidate, worse: Candidate, rule: str, facts: dict[str, Any] | None = None) -> Pair:
    return Pair(better[0], worse[0], rule, margin=better[1] - worse[1], facts=facts or {})


def _best(field: Sequence[Candidate]) -> Candidate:
    return max(field, key=lambda candidate: candidate[1])


def _worst(field: Sequence[Candidate]) -> Candidate:
    return min(field, key=lambda candidate: candidate[1])


def extremes(scores: Scores, eligible: Sequence[int]) -> Outcome:
    """The highest over the lowest score."""
    field = _contest(scores, eligible)
    if isinstance(field, Drop):
        return field
    return [_pair(_best(field), _worst(field), "extremes", {"n": len(field)})]


def mu_sigma(
    scores: Scores,
    eligible: Sequence[int],
    *,
    k: float = 2.0,
    chosen: str = "max",
    quantile: float | None = None,
    tolerance: float | None = None,
    fallback: Literal["min", "drop"] = "min",
    ddof: Literal[0, 1] = 1,
) -> Outcome:
    """Rejected is the sample nearest to mu - k*sigma of the prompt's own scores, chosen the highest or
    the one nearest to a point such as "mu+2sigma" (arXiv:2502.16825; the rule with n = 200 samples and k
    = 2).

    With `quantile` the target is that quantile of the scores (linear between samples) in place of mu -
    k*sigma; 0.023 is where mu - 2*sigma lies in a normal distribution.

    No sample lies further than (n-1)/sqrt(n) sigmas from the mean (ddof 1), so for n <= 5 and k = 2 the
    rule is the minimum, always, and on skewed or bounded scores it often is for many more. The rule has
    *missed* when the target lies below every sample (without `tolerance`), when the nearest sample is
    further than `tolerance` sigmas from it, or when the nearest does not score below chosen. `fallback`
    then takes the minimum, or drops. The paper names no fallback and no ddof; 1 is the estimate from a
    sample.

    Facts of the pair: n, mu, sigma, target, z (of rejected) and chosen_z (in sigmas), was_min (rejected
    has the lowest score, so the rule equals plain extremes), below_all (the target lies below every
    sample), missed (why the rule was not in force, or None), fallback ("min" where it was used, or
    None).
    """
    at = point(chosen)
    field = _contest(scores, eligible)
    if isinstance(field, Drop):
        return field
    low, high = _bounds(field)
    # All is computed on scores mapped to 0..1, so that no scale of scores overflows, and with fsum, so that
    # the order of the samples cannot change a digit.
    spread = high - low
    unit = [(i, (value - low) / spread) for i, value in field]
    mean = math.fsum(u for _, u in unit) / len(unit)
    sd = math.sqrt(math.fsum((u - mean) ** 2 for _, u in unit) / (len(unit) - ddof))
    target = mean - k * sd if quantile is None else _quantile(sorted(u for _, u in unit), quantile)

    better = _best(unit) if at is None else _nearest(unit, mean + at * sd)
    worse = _nearest(unit, target)
    value = dict(field)
    below_all = outscores(0.0, target)
    missed = None
    if tolerance is None and below_all:
        missed = "target below every sample"
    elif tolerance is not None and abs(worse[1] - target) > tolerance * sd:
        missed = "no sample near the target"
    elif not outscores(value[better[0]], value[worse[0]]):
        missed = "nearest to the target is not below chosen"
    if missed and fallback == "drop":
        return Drop(missed, f"target {low + target * spread:g}, scores {low:g} to {high:g}, n = {len(field)}")
    if missed:
        worse = _worst(unit)
    if not outscores(value[better[0]], value[worse[0]]):
        return Drop("chosen does not outscore rejected", f"both at {value[better[0]]:g}, n = {len(field)}")
    facts = {
        "n": len(field),
        "mu": low + mean * spread,
        "sigma": sd * spread,
        "target": low + target * spread,
        "z": (worse[1] - mean) / sd,
        "chosen_z": (better[1] - mean) / sd,
        "was_min": not outscores(value[worse[0]], low),
        "below_all": below_all,
        "missed": missed,
        "fallback": fallback if missed else None,
    }
    return [_pair((better[0], value[better[0]]), (worse[0], value[worse[0]]), "mu_sigma", facts)]


def _nearest(field: Sequence[Candidate], target: float) -> Candidate:
    """The candidate nearest to the target; the lower of two that are equally near."""
    return min(field, key=lambda candidate: (round(abs(candidate[1] - target), 9), candidate[1]))


def _quantile(ordered: Sequence[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def min_of_k(scores: Scores, eligible: Sequence[int], *, k: int, rng: random.Random) -> Outcome:
    """The highest of all over the lowest of k drawn at random: the form of the rule above that the same paper
    gives for any number of samples, with k = 5. On normal scores the lowest of 5 lies at mu - 1.16 sigma,
    however many samples there are. With k or fewer samples it is the minimum."""
    field = _contest(scores, eligible)
    if isinstance(field, Drop):
        return field
    drawn = rng.sample(field, min(k, len(field)))
    best, worst = _best(field), _worst(drawn)
    if not outscores(best[1], worst[1]):
        return Drop("only best drawn", f"all {len(drawn)} drawn of {len(field)} score {best[1]:g}")
    was_min = not outscores(worst[1], _worst(field)[1])
    return [_pair(best, worst, "min_of_k", {"n": len(field), "k": len(drawn), "was_min": was_min})]


def threshold(
    scores: Scores,
    eligible: Sequence[int],
    *,
    margin: float = 0.0,
    eta: float | None = None,
    tau: float = 1.0,
    max_pairs: int | None = None,
    rng: random.Random | None = None,
) -> Outcome:
    """Every pair whose scores differ by `margin` or more, widest first; with `eta`, only those with
    sigmoid((r_j - r_l) / tau) > eta (RS-DPO, arXiv:2402.10038, Algorithm 1). Grows with the square of the
    samples. Of more than `max_pairs`, the widest are kept, or a random draw where `rng` is given."""
    field = _contest(scores, eligible)
    if isinstance(field, Drop):
        return field
    found = list(_duos(field, margin))
    if eta is not None:
        beyond = tau * math.log(eta / (1 - eta))
        found = [duo for duo in found if outscores(duo[0][1] - duo[1][1], beyond)]
    if not found:
        low, high = _bounds(field)
        return Drop("margin too small", f"the widest is {high - low:g}")
    if rng is not None and max_pairs is not None and len(found) > max_pairs:
        found = rng.sample(found, max_pairs)
    found.sort(key=lambda pair: pair[1][1] - pair[0][1])
    return [_pair(better, worse, "threshold") for better, worse in found[:max_pairs]]


def _duos(field: Sequence[Candidate], margin: float) -> Iterator[tuple[Candidate, Candidate]]:
    """Each two candidates as (better, worse); those that tie, or differ by less than the margin, are
    left out."""
    for a, b in combinations(field, 2):
        better, worse = (a, b) if a[1] > b[1] else (b, a)
        if _apart(better, worse, margin):
            yield better, worse


def _apart(better: Candidate, worse: Candidate, margin: float) -> bool:
    return outscores(better[1], worse[1]) and not outscores(margin, better[1] - worse[1])


def ranked(
    scores: Scores,
    eligible: Sequence[int],
    *,
    pairing: Literal["best", "adjacent", "halves"] = "best",
    ranks: Sequence[int] | None = None,
    margin: float = 0.0,
    max_pairs: int | None = None,
) -> Outcome:
    """Pairs along the order of the scores; rank 1 is the highest.

    best: rank 1 over each lower rank, the lowest first, which is from easy to hard; `ranks` names other
    rejected ranks or another order ([4, 3, 2] is Curry-DPO, arXiv:2403.07230, on four responses).
    adjacent: each rank over the next. halves: rank i over rank i + ceil(n/2), which uses each sample
    once and makes floor(n/2) pairs. Ranks that tie, or differ by less than `margin`, make no pair; ranks
    beyond the number of samples are left out.
    """
    field = _contest(scores, eligible)
    if isinstance(field, Drop):
        return field
    order = sorted(field, key=lambda candidate: -candidate[1])
    n = len(order)
    if pairing == "best":
        wanted = [(1, rank) for rank in (ranks or range(n, 1, -1))]
    elif pairing == "adjacent":
        wanted = [(rank, rank + 1) for rank in range(1, n)]
    else:
        wanted = [(rank, rank + (n + 1) // 2) for rank in range(1, n // 2 + 1)]
    pairs = [
        _pair(order[a - 1], order[b - 1], "ranked", {"n": n, "chosen_rank": a, "rejected_rank": b})
        for a, b in wanted
        if b <= n and _apart(order[a - 1], order[b - 1], margin)
    ]
    if not pairs:
        return Drop("ranks tie or are missing", f"{n} samples, ranks {wanted[:8]}, margin {margin:g}")
    return pairs[:max_pairs]


def verified(
    scores: Scores,
    eligible: Sequence[int],
    *,
    right: float = 1.0,
    wrong: float = 0.0,
    max_pairs: int | None = None,
    rng: random.Random,
) -> Outcome:
    """A right answer (score >= `right`) over a wrong one (score <= `wrong`); those between are in no pair.

    Pairs are drawn at random and spread: no answer is used again before all on its side were used once.
    """
    if not outscores(right, wrong):
        raise ValueError(f"wrong ({wrong:g}) must lie below right ({right:g})")
    field = [(i, value) for i in eligible if (value := scores[i]) is not None]
    rights = [candidate for candidate in field if not outscores(right, candidate[1])]
    wrongs = [candidate for candidate in field if not outscores(candidate[1], wrong)]
    if not field:
        return Drop("no scores")
    low, high = _bounds(field)
    if not math.isfinite(high - low):
        return Drop("scores too far apart", f"{low:g} to {high:g}")
    if not rights or not wrongs:
        reason = "none right" if wrongs else "none wrong" if rights else "none right or wrong"
        if len(wrongs) == len(field):
            reason = "all wrong"
        elif len(rights) == len(field):
            reason = "all right"
        return Drop(reason, f"{len(field)} answers: {len(rights)} right, {len(wrongs)} wrong")
    rng.shuffle(rights)
    rng.shuffle(wrongs)
    duos = _spread(rights, wrongs, max_pairs)
    facts = {"n": len(field), "right": len(rights), "wrong": len(wrongs)}
    return [_pair(a, b, "verified", facts) for a, b in duos]


def _spread(
    lefts: Sequence[Candidate], others: Sequence[Candidate], limit: int | None
) -> Iterator[tuple[Candidate, Candidate]]:
    """The product of both, up to `limit`, walked along its diagonals so that use is even at every length."""
    every, lap = len(lefts) * len(others), math.lcm(len(lefts), len(others))
    for t in range(every if limit is None else min(limit, every)):
        yield lefts[t % len(lefts)], others[(t + t // lap) % len(others)]


def random_pairs(
    scores: Scores, eligible: Sequence[int], *, margin: float = 0.0, max_pairs: int, rng: random.Random
) -> Outcome:
    """Up to `max_pairs` different pairs, each equally likely among all whose scores differ (by `margin`
    or more): the baseline that the other rules are measured against. Grows with the square of the
    samples."""
    field = _contest(scores, eligible)
    if isinstance(field, Drop):
        return field
    duos = list(_duos(field, margin))
    if not duos:
        low, high = _bounds(field)
        return Drop("margin too small", f"the widest is {high - low:g}")
    drawn = rng.sample(duos, min(max_pairs, len(duos)))
    return [_pair(better, worse, "random", {"n": len(field)}) for better, worse in drawn]
