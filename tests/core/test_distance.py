"""Words, n-grams, ROUGE-L, sketches, and the selection that covers."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpref.core.distance import (
    GramCounts,
    Vectors,
    _neighbours,
    common_length,
    cover,
    farthest_first,
    gram_hashes,
    ngrams,
    normalise,
    rouge_l,
    sketch,
    unit,
    unit32,
    words,
)

texts = st.text(alphabet="abc AB.,+-\n日本é", max_size=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Why is the sky blue?", ["why", "is", "the", "sky", "blue"]),
        ("What is 2+2?", ["what", "is", "2", "+", "2"]),
        ("What is 2-2?", ["what", "is", "2", "-", "2"]),
        ("don't (stop)!", ["don", "t", "stop"]),
        ("日本語 and 日本", ["日", "本", "語", "and", "日", "本"]),
        ("Straße", ["strasse"]),
        ("C++ & C#", ["c", "+", "+", "&", "c", "#"]),
        ("cafe\u0301", ["café"]),
        ("… . ,", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_normalise_keeps_what_matters() -> None:
    assert normalise("  Hello\n\tWORLD ") == "hello world"
    assert normalise("2+2?") != normalise("2-2?")


@pytest.mark.parametrize(
    ("tokens", "n", "expected"),
    [
        ("a b c", 2, {"a b", "b c"}),
        ("a b", 2, {"a b"}),
        ("a", 3, {"a"}),
        ("", 3, set()),
        ("a a a a", 2, {"a a"}),
    ],
)
def test_ngrams(tokens: str, n: int, expected: set[str]) -> None:
    assert ngrams(tokens.split(), n) == expected


def table_lcs(a: list[str], b: list[str]) -> int:
    """The textbook table, to compare with."""
    line = [0] * (len(b) + 1)
    for x in a:
        before = line[:]
        for j, y in enumerate(b):
            line[j + 1] = before[j] + 1 if x == y else max(line[j], before[j + 1])
    return line[-1]


@given(st.lists(st.sampled_from("abcd"), max_size=90), st.lists(st.sampled_from("abcde"), max_size=90))
def test_common_length_is_that_of_the_table(a: list[str], b: list[str]) -> None:
    assert common_length(a, b) == table_lcs(a, b) == common_length(b, a)


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ("police killed the gunman", "police kill the gunman", 0.75),
        ("police killed the gunman", "the gunman kill police", 0.5),
        ("the same", "The same.", 1.0),
        ("one", "two", 0.0),
        ("", "", 1.0),
        ("", "one", 0.0),
        ("a b c d", "a b", 2 / 3),
    ],
)
def test_rouge_l(a: str, b: str, value: float) -> None:
    assert rouge_l(words(a), words(b)) == pytest.approx(value)


@given(texts, texts)
def test_rouge_l_is_symmetric_and_bounded(a: str, b: str) -> None:
    value = rouge_l(words(a), words(b))
    assert 0.0 <= value <= 1.0
    assert value == rouge_l(words(b), words(a))
    assert rouge_l(words(a), words(a)) == 1.0


def cosine(a: list[float], b: list[float]) -> float:
    x, y = unit([a, b])
    return float(x @ y)


def test_rows_of_length_one_also_of_the_largest_and_smallest_numbers() -> None:
    assert cosine([1, 0], [0, 2]) == 0.0
    assert cosine([1, 1], [2, 2]) == pytest.approx(1.0)
    assert cosine([1, 0], [-3, 0]) == -1.0
    assert cosine([0, 0], [1, 0]) == 0.0
    assert cosine([1e300, 1e300], [1e-300, 0]) == pytest.approx(2**-0.5)


def test_gram_hashes_are_the_same_in_every_process() -> None:
    code = "from synthpref.core.distance import gram_hashes; print(gram_hashes('the sky is blue').tolist())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(gram_hashes("the sky is blue").tolist())
    assert len(gram_hashes("the sky is blue")) == 4 + 3


def test_a_lone_surrogate_is_a_text_like_any_other() -> None:
    assert len(gram_hashes("\ud800 broken")) == len(gram_hashes("x broken"))


def sketches(*given_texts: str) -> Vectors:
    hashes = [gram_hashes(text) for text in given_texts]
    counts = GramCounts()
    for one in hashes:
        counts.add(one)
    return np.stack([sketch(one, counts) for one in hashes])


def test_sketches_are_close_where_texts_are() -> None:
    vectors = sketches(
        "Write a poem about the sea in winter",
        "Write a short poem about the winter sea",
        "Compute the integral of x squared",
        "Compute the integral of x cubed",
        "?!",
        "",
    )
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(6), abs=1e-6)
    near = [cosine(vectors[0], vectors[1]), cosine(vectors[2], vectors[3])]
    far = [cosine(vectors[i], vectors[j]) for i in (0, 1) for j in (2, 3)]
    assert min(near) > 0.25 > max(far)
    assert cosine(vectors[4], vectors[5]) == pytest.approx(1.0)


def test_what_every_text_says_weighs_little() -> None:
    frame = "You are a helpful assistant. Please answer as well as you can: {}"
    vectors = sketches(
        *(frame.format(word) for word in ("apples", "pears", "trains", "music", "apples apples"))
    )
    assert cosine(vectors[0], vectors[1]) < 0.2
    assert cosine(vectors[0], vectors[4]) > cosine(vectors[0], vectors[1]) + 0.3


points = st.integers(2, 14).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(-4, 4), min_size=3, max_size=3).filter(any), min_size=n, max_size=n
    )
)


def rows(values: list[list[int]]) -> Vectors:
    return unit(np.array(values, dtype=np.float64)).astype(np.float32)


def radius(vectors: Vectors, kept: list[int]) -> float:
    """The greatest Euclidean distance of a row to its nearest kept one."""
    gaps = np.linalg.norm(vectors[:, None, :] - vectors[None, kept, :], axis=2)
    return float(gaps.min(axis=1).max())


@given(points, st.integers(1, 4))
def test_k_center_is_within_twice_the_best(values: list[list[int]], k: int) -> None:
    vectors = rows(values)
    k = min(k, len(vectors))
    found = farthest_first(vectors, k)[0]
    best = min(radius(vectors, list(kept)) for kept in itertools.combinations(range(len(vectors)), k))
    assert len(set(found)) == k
    # Distances are rounded to 5 digits, of squares: hence the slack.
    assert radius(vectors, found) <= 2 * best + 0.01


@given(points, st.sampled_from([0.0, 0.3, 0.9]))
def test_the_order_holds_all_rows_and_additions_fall(values: list[list[int]], typical: float) -> None:
    vectors = rows(values)
    order, added = farthest_first(vectors, None, typical)
    assert sorted(order) == list(range(len(vectors)))
    assert all(a >= b - 1e-6 for a, b in itertools.pairwise(added))
    assert farthest_first(vectors, 2, typical)[0] == order[:2]


def test_no_rows() -> None:
    empty = np.zeros((0, 3), dtype=np.float32)
    assert farthest_first(empty) == ([], [])
    assert cover(empty, 0, random.Random(0)).tolist() == []


def clusters(n: int, groups: int, dims: int, seed: int, spread: float = 0.02) -> tuple[Vectors, np.ndarray]:
    draws = np.random.default_rng(seed)
    centers = draws.standard_normal((groups, dims))
    labels = np.arange(n) % groups
    noise = spread * draws.standard_normal((n, dims))
    return unit(centers[labels] + noise).astype(np.float32), labels


@pytest.mark.parametrize("block", [4096, 64])
def test_a_small_cover_takes_one_of_each_cluster(block: int) -> None:
    vectors, labels = clusters(600, 12, 32, seed=1)
    kept = cover(vectors, 12, random.Random(0), block=block)
    assert sorted(labels[kept].tolist()) == list(range(12))


@pytest.mark.parametrize("block", [4096, 64])
def test_copies_go_first_with_and_without_blocks(block: int) -> None:
    draws = np.random.default_rng(2)
    single = unit(draws.standard_normal((300, 24))).astype(np.float32)
    vectors = np.concatenate([single, np.repeat(single[:1], 300, axis=0)])
    kept = set(cover(vectors, 300, random.Random(0), block=block).tolist())
    # At most one copy for each block: 600 rows are halved into 16 of 64 or fewer.
    assert len(kept - set(range(300))) <= (16 if block == 64 else 1)
    assert len(kept) == 300


def test_mmr_leaves_the_outlier_out_and_k_center_takes_it() -> None:
    draws = np.random.default_rng(3)
    crowd = np.array([1.0, 0, 0, 0]) + 0.3 * draws.standard_normal((100, 4))
    vectors = unit(np.concatenate([crowd, [[-1.0, 0, 0, 0]]])).astype(np.float32)
    assert 100 in cover(vectors, 5, random.Random(0))
    assert 100 not in cover(vectors, 5, random.Random(0), typical=0.7)


@given(st.integers(1, 300), st.integers(0, 5))
def test_cover_returns_k_sorted_rows_and_the_same_each_time(k: int, seed: int) -> None:
    vectors, _ = clusters(200, 9, 8, seed=4)
    kept = cover(vectors, k, random.Random(seed), block=32).tolist()
    assert kept == sorted(set(kept))
    assert len(kept) == min(k, 200)
    assert kept == cover(vectors, k, random.Random(seed), block=32).tolist()


def test_cover_beats_a_random_draw() -> None:
    vectors, _ = clusters(2000, 40, 16, seed=5, spread=0.2)
    chance = radius(vectors, random.Random(0).sample(range(2000), 100))
    assert radius(vectors, cover(vectors, 100, random.Random(0)).tolist()) < 0.8 * chance
    assert radius(vectors, cover(vectors, 100, random.Random(0), block=256).tolist()) < 0.9 * chance


@given(st.integers(1, 400), st.integers(1, 50))
def test_blocks_hold_every_row_once_and_stay_small(n: int, block: int) -> None:
    """So the work of a cover is at most n * block distances, whatever k is."""
    vectors, _ = clusters(n, 3, 4, seed=6)
    parts = _neighbours(vectors, block, np.random.default_rng(0))
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert all(0 < len(part) <= block for part in parts)
    assert len(parts) <= max(1, 2 * n // block)


def test_unit32() -> None:
    assert unit32([3, 4]).tolist() == pytest.approx([0.6, 0.8])
    assert unit32([0, 0]).tolist() == [0.0, 0.0]
