"""How alike texts and vectors are, and which few of many cover the rest.

Texts are compared as words, sets of n-grams, or sketches: fixed-size vectors into which n-grams are
hashed. Hashes are the same in every process. Vectors are rows of a float32 array, which may lie on disk
(`numpy.memmap`).
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Hashable, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.uint64]

# Scripts written without spaces count letter by letter. Operators are words, for 2+2 is not 2-2; the marks of
# sentences are not.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s.,;:!?'\"`()\[\]{{}}…。、，！？「」“”‘’]")
_DF_SLOTS = 1 << 16


def normalise(text: str) -> str:
    """The text without differences of case, of white space and of how letters are composed."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def words(text: str) -> list[str]:
    """The normalised words of a text, without punctuation."""
    return _WORD.findall(normalise(text))


def ngrams(tokens: Sequence[str], n: int) -> set[str]:
    """Runs of n tokens; all tokens as one run where there are fewer than n. `list(text)` gives those of
    characters."""
    if len(tokens) <= n:
        return {" ".join(tokens)} if tokens else set()
    return {" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def common_length(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence, by the bit-parallel method of Hyyrö (2004):
    O(len(a)·len(b)/64)."""
    places: dict[Hashable, int] = {}
    for i, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << i
    every = (1 << len(a)) - 1
    state = every
    for token in b:
        matched = state & places.get(token, 0)
        state = (state + matched | state - matched) & every
    return len(a) - state.bit_count()


def rouge_l(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """ROUGE-L F-measure of words, 0 to 1: how much of both texts is one common subsequence. Symmetric.

    Self-instruct (arXiv:2212.10560) refuses an instruction with 0.7 or more to one that it has.
    """
    if not a and not b:
        return 1.0
    return 2 * common_length(a, b) / (len(a) + len(b))


def unit(vectors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Each row scaled to length 1; rows of zeros stay."""
    vectors = np.asarray(vectors, dtype=np.float64)
    # Scaled by the largest entry first, so that squares neither overflow nor vanish.
    top = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    scaled = vectors / np.where(top > 0, top, 1.0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    scaled /= np.where(length > 0, length, 1.0)
    return scaled


def unit32(vector: npt.ArrayLike) -> Vectors:
    """One vector, scaled to length 1, as it is stored."""
    row: Vectors = unit(np.asarray(vector)[None, :])[0].astype(np.float32)
    return row


def gram_hashes(text: str, n: int = 2) -> Hashes:
    """64-bit hashes of the text's distinct word n-grams of 1 to n words, sorted."""
    tokens = words(text)
    grams = {gram for size in range(1, n + 1) for gram in ngrams(tokens, size)}
    digests = b"".join(
        blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest() for gram in grams
    )
    return np.sort(np.frombuffer(digests, dtype="<u8").astype(np.uint64))


class GramCounts:
    """In how many texts each n-gram occurs, in a fixed 512 KB however many texts there are; hashes that
    share a slot are counted together."""

    def __init__(self) -> None:
        self.texts = 0
        self._slots = np.zeros(_DF_SLOTS, dtype=np.int64)

    def add(self, hashes: Hashes) -> None:
        self.texts += 1
        self._slots[np.unique(hashes % np.uint64(_DF_SLOTS))] += 1

    def weights(self, hashes: Hashes) -> npt.NDArray[np.float64]:
        """Inverse document frequency of each n-gram: what every text says tells none apart."""
        found = self._slots[hashes % np.uint64(_DF_SLOTS)]
        weights: npt.NDArray[np.float64] = np.log((1.0 + self.texts) / (1.0 + found)) + 1e-3
        return weights


def sketch(hashes: Hashes, counts: GramCounts, dims: int = 256) -> Vectors:
    """A vector of `dims` numbers, of length 1, whose cosines are close to those of the weighted n-gram counts
    (feature hashing with signs). Texts without words all get one same vector."""
    mixed = hashes >> np.uint64(20)
    signs = np.where((hashes >> np.uint64(63)).astype(bool), 1.0, -1.0)
    bins = (mixed % np.uint64(dims)).astype(np.intp)
    vector = np.bincount(bins, weights=signs * counts.weights(hashes), minlength=dims)
    if not vector.any():
        vector[0] = 1.0
    return unit32(vector)


def farthest_first(
    vectors: Vectors, k: int | None = None, typical: float = 0.0
) -> tuple[list[int], list[float]]:
    """Rows in an order of which every beginning covers the rest well, and what each added when it was
    taken.

    The first is the row nearest to the mean; each next has the greatest (1 - typical) * cosine distance
    to the nearest row taken + typical * cosine to the mean. With typical = 0 that is Gonzalez's greedy
    k-center (1985), whose covering radius (Euclidean, which orders unit vectors as the cosine does) is
    at most twice the best possible; above 0 it is MMR (Carbonell and Goldstein, 1998) with the mean as
    its query, which leaves outliers out. Additions never grow along the order. Rows that tie are taken
    in their own order. Rows need length 1. Time O(n·k·dims), memory O(n) beside the vectors.
    """
    n = len(vectors)
    if n == 0:
        return [], []
    mean = unit32(np.mean(vectors, axis=0, dtype=np.float64))
    # Rounded, so that the last digits of a dot product, which depend on the machine, do not decide.
    central = np.round(vectors @ mean, 5)
    nearest = np.full(n, np.inf, dtype=np.float32)
    taken = np.zeros(n, dtype=bool)
    order, added = [int(np.argmax(central))], [float("inf")]
    while True:
        taken[order[-1]] = True
        if len(order) == min(n, k or n):
            return order, added
        np.minimum(nearest, np.round(1.0 - vectors @ vectors[order[-1]], 5), out=nearest)
        worth = np.where(taken, -np.inf, (1.0 - typical) * nearest + typical * central)
        order.append(int(np.argmax(worth)))
        added.append(float(worth[order[-1]]))


def cover(
    vectors: Vectors, k: int, rng: random.Random, *, typical: float = 0.0, block: int = 2048
) -> npt.NDArray[np.intp]:
    """Sorted indices of the k rows that cover all best.

    Up to `block` rows this is the beginning of `farthest_first`. More are cut into blocks of neighbours
    by random hyperplanes, each block is ordered by itself, and the k rows that added most are kept, so
    that crowded blocks give up more than sparse ones; a small k is chosen from among the best `block`
    rows. Time O(n·block·dims), memory O(n) and one block, for any k.
    """
    n = len(vectors)
    if k >= n:
        return np.arange(n)
    if n <= block:
        return np.sort(np.array(farthest_first(vectors, k, typical)[0], dtype=np.intp))
    draws = np.random.default_rng(rng.getrandbits(64))
    added = np.empty(n, dtype=np.float64)
    for rows in _neighbours(vectors, block, draws):
        order, gains = farthest_first(np.ascontiguousarray(vectors[rows]), None, typical)
        added[rows[order]] = gains
    best: npt.NDArray[np.intp] = np.argsort(-added, kind="stable")
    if k > block // 2:
        return np.sort(best[:k])
    # Few are kept of many: the blocks' best are weighed against one another.
    rows = np.sort(best[:block])
    return rows[cover(np.ascontiguousarray(vectors[rows]), k, rng, typical=typical, block=block)]


def _neighbours(vectors: Vectors, block: int, draws: np.random.Generator) -> list[npt.NDArray[np.intp]]:
    """All row numbers in groups of at most `block`, halved again and again at the median of a random
    direction."""
    todo = [np.arange(len(vectors), dtype=np.intp)]
    done = []
    while todo:
        rows = todo.pop()
        if len(rows) <= block:
            done.append(rows)
            continue
        direction = draws.standard_normal((vectors.shape[1],)).astype(np.float32)
        place = np.concatenate([vectors[part] @ direction for part in _chunks(rows)])
        cut = np.argsort(np.round(place, 4), kind="stable")
        half = len(rows) // 2
        todo += [np.sort(rows[cut[half:]]), np.sort(rows[cut[:half]])]
    return done


def _chunks(rows: npt.NDArray[np.intp], size: int = 8192) -> list[npt.NDArray[np.intp]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
