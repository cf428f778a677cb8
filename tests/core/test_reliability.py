"""Jurors weighed by nothing but their votes: as an independent reckoning has it, and better than a head count."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings
from collections import Counter

import numpy as np
import pytest

from synthpref.core import reliability
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


def by_hand(seen: list[Observation], things: int, jurors: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """The same model in plain numpy: pseudo-votes in the tables, majority shares to begin with, then E and M."""
    told = np.zeros((things, jurors, labels))
    for thing, juror, label in seen:
        told[thing, juror, label] += 1
    share = told.sum(axis=1) / told.sum(axis=(1, 2))[:, None]
    extra = np.where(np.eye(labels) > 0, 2 * max(1, labels - 1), 1)
    made_up = extra.sum(axis=1)
    for _ in range(500):
        prior = (share.sum(axis=0) + made_up) / (things + made_up.sum())
        table = np.einsum("tl,tjk->jlk", share, told) + extra[None]
        table = table / table.sum(axis=2, keepdims=True)
        log = np.log(prior)[None] + np.einsum("tjk,jlk->tl", told, np.log(table))
        new = np.exp(log - log.max(axis=1, keepdims=True))
        new /= new.sum(axis=1, keepdims=True)
        if np.abs(new - share).max() < 1e-12:
            break
        share = new
    return share, np.einsum("l,jll->j", prior, table)


@pytest.mark.parametrize(("seed", "labels"), [(1, 2), (3, 5)])
def test_it_is_what_another_implementation_finds(seed: int, labels: int) -> None:
    _, seen = crowd(seed, ACCURACY, labels=labels)
    found = dawid_skene(seen, 200, 5, labels)
    share, right = by_hand(seen, 200, 5, labels)
    assert np.abs(found.labels - share).max() < 1e-3
    assert np.abs(np.array(found.reliability) - right).max() < 1e-4


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


def test_the_order_of_the_votes_does_not_show_and_nothing_is_said_aloud() -> None:
    _, seen = crowd(4, ACCURACY, things=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
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


def test_without_crowd_kit_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "crowdkit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "crowdkit", None)
    assert not reliability.available()
    with pytest.raises(ImportError, match=r"pip install 'synthpref\[jury\]'"):
        dawid_skene([(0, 0, 0)], 1, 1, 2)


def test_crowd_kit_is_not_loaded_before_it_is_used() -> None:
    code = "import sys, synthpref.stages.jury, synthpref.stages.jury_pair; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"crowdkit", "pandas", "sklearn", "scipy"} & set(out.split())
