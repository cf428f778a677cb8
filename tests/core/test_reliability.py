"""Jurors weighed by nothing but their votes: as an independent reckoning has it, and better than a head count."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from crowdkit.aggregation import DawidSkene

from synthpref.core.reliability import Observation, dawid_skene

ACCURACY = (0.9, 0.85, 0.55, 0.5, 0.45)


def crowd(
    seed: int, accuracy: tuple[float, ...], *, things: int = 200, labels: int = 3
) -> tuple[list[int], list[Observation]]:
    """True labels, and jurors of so much accuracy, who are wrong either way alike."""
    rng = random.Random(seed)
    truth = [rng.randrange(labels) for _ in range(things)]
    seen = []
    for thing, right in enumerate(truth):
        for juror, share in enumerate(accuracy):
            wrong = rng.choice([label for label in range(labels) if label != right])
            seen.append((thing, juror, right if rng.random() < share else wrong))
    return truth, seen


def by_crowd_kit(seen: list[Observation], things: int, labels: int) -> tuple[np.ndarray, dict[int, float]]:
    """The same by another implementation: what is assumed before the first vote is votes on made-up things."""
    votes, truths = list(seen), {}
    for truth in range(labels):
        wrong = [label for label in range(labels) if label != truth]
        for label in [*wrong, *[truth] * 2 * len(wrong)]:
            truths[number := things + len(truths)] = truth
            votes += [(number, juror, label) for juror in {juror for _, juror, _ in seen}]
    model = DawidSkene(n_iter=100, tol=-math.inf)
    model.fit(pd.DataFrame(votes, columns=["task", "worker", "label"]), pd.Series(truths))
    every = range(labels)
    right = {j: sum(model.priors_[k] * model.errors_.loc[(j, k), k] for k in every) for _, j, _ in seen}
    return model.probas_.loc[range(things), every].to_numpy(), right


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("seed", "labels"), [(1, 2), (3, 5)])
def test_it_is_what_another_implementation_finds(seed: int, labels: int) -> None:
    _, seen = crowd(seed, ACCURACY, labels=labels)
    found = dawid_skene(seen, 200, 5, labels)
    share, right = by_crowd_kit(seen, 200, labels)
    assert found.labels == pytest.approx(share, abs=1e-7)
    assert found.reliability == pytest.approx([right[juror] for juror in range(5)], abs=1e-7)


def test_it_beats_the_head_count_where_jurors_differ_and_ranks_them() -> None:
    accuracy = (0.95, 0.8, 0.55, 0.5, 0.5)
    ours = heads = 0
    for seed in range(2):
        truth, seen = crowd(seed, accuracy, labels=2)
        found = dawid_skene(seen, len(truth), len(accuracy), 2, iterations=40)
        votes = [Counter(label for _, _, label in seen[i : i + 5]) for i in range(0, len(seen), 5)]
        ours += sum(int(np.argmax(p)) == t for p, t in zip(found.labels, truth, strict=True))
        heads += sum(count.most_common(1)[0][0] == t for count, t in zip(votes, truth, strict=True))
        assert min(found.reliability[:2]) > 0.7 > max(found.reliability[2:])
    assert ours / 400 > heads / 400 + 0.1


def test_the_order_of_the_votes_does_not_show() -> None:
    _, seen = crowd(4, ACCURACY, things=40)
    one = dawid_skene(seen, 40, 5, 3, iterations=10)
    other = dawid_skene(random.Random(0).sample(seen, len(seen)), 40, 5, 3, iterations=10)
    assert (one.labels == other.labels).all()
    assert one.reliability == other.reliability
    assert np.allclose(one.labels.sum(axis=1), 1)


def test_few_votes_make_nobody_infallible_and_no_vote_tells_nothing() -> None:
    two = dawid_skene([(0, 0, 0), (0, 1, 0)], 2, 2, 2, iterations=20)
    assert 0.6 < two.labels[0, 0] < 0.95
    assert two.labels[1].tolist() == [0.5, 0.5]
    assert all(0.6 < share < 0.8 for share in two.reliability)
    split = dawid_skene([(0, 0, 0), (0, 1, 1)], 1, 2, 2, iterations=20)
    assert split.labels[0].tolist() == pytest.approx([0.5, 0.5])
    assert dawid_skene([], 2, 0, 0).labels.shape == (2, 0)
    assert dawid_skene([], 1, 2, 1, iterations=2).labels.tolist() == [[1.0]]
