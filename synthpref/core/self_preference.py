"""Whether a judge favours the answers of its own family of models, beyond what people's labels say of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from synthpref.core.bias import LEAST, shares_of
from synthpref.core.families import family_of
from synthpref.core.judged import NONE, Codes, Floats, JudgeTable
from synthpref.core.measure import Figures, Measure


class Families:
    """Which family each judge is of, and which wrote the responses of each item."""

    def __init__(self, measure: Measure, extra: Mapping[str, str]) -> None:
        self.measure = measure
        table = measure.table
        names = {name for both in table.models for name in both if name}
        known = {name: family_of(name, extra) for name in names}
        self.a, self.b = (
            np.array([(known.get(both[side] or "") or "") for both in table.models]) for side in (0, 1)
        )
        self.of = {judge.name: judge.family or family_of(judge.name, extra) or "" for judge in table.judges}

    def own(self, judge: JudgeTable) -> Figures:
        """Of the pairs of which one response is by the judge's own family: how often the judge lets it win, and how
        often people do (or, without labels, the other judges)."""
        family, measure = self.of[judge.name], self.measure
        if not family:
            return {}
        mine = (self.a == family) != (self.b == family)
        said = self._wins(measure.verdicts[judge.name], family)
        mask = mine & ~np.isnan(said)
        if mask.sum() < LEAST:
            return {}
        found: Figures = {"family": family, "n": int(mask.sum()), "own_wins": measure.mean(said, mask)}
        against, whose = self._wins(measure.gold, family), "people"
        if not (mask & ~np.isnan(against)).any():
            others = [
                self._wins(v, family)
                for name, v in measure.verdicts.items()
                if self.of[name] not in ("", family)
            ]
            if not others:
                return found
            stacked = np.stack(others)
            there = ~np.isnan(stacked)
            against = np.where(
                there.any(axis=0), np.nansum(stacked, axis=0) / np.maximum(there.sum(axis=0), 1), np.nan
            )
            whose = "other judges"
        both = mask & ~np.isnan(against)
        return found | {
            "against": whose,
            "compared_on": int(both.sum()),
            "own_wins_by_them": measure.mean(against, both),
            "self_preference": measure.mean(said - against, both),
        }

    def leakage(self) -> list[Figures]:
        """The Preference Leakage Score of every two judges of different families (arXiv:2502.01534, eq. 3): from
        the pairs of one response by each family, how much more each judge lets its own family win than the two
        judges do on average."""
        found = []
        for one, other in combinations(self.measure.table.judges, 2):
            i, j = self.of[one.name], self.of[other.name]
            if not i or not j or i == j:
                continue
            said = [self.measure.verdicts[judge.name] for judge in (one, other)]
            mask = ((self.a == i) & (self.b == j)) | ((self.a == j) & (self.b == i))
            mask &= (said[0] != NONE) & (said[1] != NONE)
            if mask.sum() < LEAST:
                continue
            rates = [[float(self._wins(verdicts, f)[mask].mean()) for verdicts in said] for f in (i, j)]
            score = leakage_score(rates[0][0], rates[0][1], rates[1][1], rates[1][0])
            names = {"first": one.name, "second": other.name, "families": [i, j]}
            found.append({**names, "n": int(mask.sum()), "win_rates": rates, "score": score})
        return found

    def _wins(self, labels: Codes, family: str) -> Floats:
        """What the response of the family won of each pair of it and another; NaN for none."""
        shares = shares_of(labels)
        own = np.where(self.a == family, shares, 1 - shares)
        return np.where((self.a == family) != (self.b == family), own, np.nan)


def leakage_score(own: float, by_other: float, others_own: float, others_by_first: float) -> float | None:
    """½ ((WR(i,i) - A(i,j)) / A(i,j) + (WR(j,j) - A(j,i)) / A(j,i)), with A the mean of a student's win rates under
    the two judges; None where a student never wins."""
    first, second = (own + by_other) / 2, (others_own + others_by_first) / 2
    if not first or not second:
        return None
    return ((own - first) / first + (others_own - second) / second) / 2
