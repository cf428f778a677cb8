"""Filters over all rows: near-duplicates out, and a subset that covers the rest.

Both are barriers. What they keep in memory for a row is small (stated at each class); what is larger
lies in a temporary file for as long as the barrier runs.
"""

from __future__ import annotations

import base64
import random
import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, BinaryIO, Literal, Self, cast

import numpy as np
from pydantic import Field, model_validator

from synthpref.core.distance import (
    GramCounts,
    Vectors,
    cover,
    gram_hashes,
    ngrams,
    normalise,
    rouge_l,
    sketch,
    unit32,
    words,
)
from synthpref.core.seam import Ask, Capability
from synthpref.core.stage import Barrier, Calls, Load, Role, RowStage, Stage
from synthpref.core.types import Drop, Row

On = Literal["prompt", "chosen", "rejected", "responses"]
_VECTOR = "filter.diversity"
_PERMUTATIONS = 128


def _texts(row: Row, on: On) -> list[str]:
    """The texts of a row that are compared. A system message is not: rows that share a long one would
    all look alike."""
    if on == "prompt":
        return [message["content"] for message in row.prompt if message["role"] != "system"]
    if on == "responses":
        return [sample.text for sample in row.samples]
    numbers = (pair.chosen if on == "chosen" else pair.rejected for pair in row.pairs)
    return [row.samples[i].text for i in dict.fromkeys(numbers)]


def _setting(row: Row, on: On) -> str:
    """What must be equal for two rows to be duplicates at all: the system messages, where prompts are
    compared."""
    if on != "prompt":
        return ""
    return "\n".join(normalise(m["content"]) for m in row.prompt if m["role"] == "system")


def _needs(on: On) -> set[str]:
    return {"prompt": set[str](), "responses": {"samples"}}.get(on, {"pairs"})


class Dedup(Barrier):
    """Drops rows that say what another row said: exactly (but for case and white space), or nearly.

    Of two, the one nearer to the source stays (a prompt from the source before one that was made from
    it), then the first by id. A row without the text that is compared has no duplicates. Memory for each
    row kept: about 3 KB with `minhash`, 8 bytes a word with `rouge_l`, 100 bytes with `exact`. Time
    grows with the rows; with `rouge_l` it grows with their square, so keep that to some tens of
    thousands of short texts.
    """

    on: On = "prompt"
    """Which text is compared: the `prompt`, the `chosen` or the `rejected` responses, or all `responses`."""
    method: Literal["minhash", "rouge_l", "exact"] = "minhash"
    """How near-duplicates are found: `minhash`, by the share of common word n-grams (Jaccard);
    `rouge_l`, by the longest common subsequence of words, as self-instruct does; or `exact`, not at all."""
    threshold: float = Field(default=0.8, gt=0, le=1)
    """From which similarity on a row is a near-duplicate. Self-instruct uses 0.7 with `rouge_l`."""
    ngram: int = Field(default=3, ge=1)
    """Words in an n-gram, for `minhash`."""

    def needs(self) -> set[str]:
        return _needs(self.on)

    def run(self, rows: Iterable[Row], rng: random.Random) -> Iterator[Row | tuple[Row, Drop]]:
        exact: dict[bytes, str] = {}
        with tempfile.TemporaryFile() as file:
            near: _MinHashIndex | _RougeIndex | None = None
            if self.method == "minhash":
                near = _MinHashIndex(self.threshold, self.ngram, file)
            elif self.method == "rouge_l":
                near = _RougeIndex(self.threshold)
            # A child's id sorts beside its parent's, before other rows of the source; these must come first.
            for depth in sorted({len(row.trail) for row in rows}):
                for row in rows:
                    if len(row.trail) == depth:
                        drop = self._duplicate(row, exact, near)
                        yield (row, drop) if drop else row

    def _duplicate(
        self, row: Row, exact: dict[bytes, str], near: _MinHashIndex | _RougeIndex | None
    ) -> Drop | None:
        """Why the row goes; None when it stays, and is then known to the indices."""
        parts = [normalise(text) for text in _texts(row, self.on)]
        text = "\n".join(parts)
        if not text.strip():
            return None
        setting = _setting(row, self.on)
        key = blake2b("\0".join([setting, *parts]).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key in exact:
            return Drop("duplicate", f"of {exact[key]}, {self.on} compared")
        if near is not None:
            found = near.find_or_add(row.id, setting, text)
            if found is not None:
                twin, likeness = found
                measure = "Jaccard" if self.method == "minhash" else "ROUGE-L"
                return Drop("near-duplicate", f"of {twin}, {measure} {likeness:.2f}, {self.on} compared")
        exact[key] = row.id
        return None


class _MinHashIndex:
    """Texts kept so far, found again by MinHash (rensa) and then compared by their real sets of n-grams,
    which lie hashed in `file`."""

    def __init__(self, threshold: float, ngram: int, file: Any) -> None:
        from rensa import RMinHash, RMinHashLSH

        self._make = RMinHash
        self._lsh = RMinHashLSH(threshold, _PERMUTATIONS, _bands(threshold, _PERMUTATIONS))
        self._threshold, self._ngram = threshold, ngram
        self._file = cast(BinaryIO, file)
        self._ids: list[str] = []
        self._ends = array("Q", [0])

    def find_or_add(self, id: str, setting: str, text: str) -> tuple[str, float] | None:
        """The first kept text that is near enough, with its similarity; or None, and the text is kept."""
        # Texts under different system messages share no n-gram.
        mark = blake2b(setting.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest() if setting else ""
        grams = sorted(ngrams(words(text), self._ngram))
        if not grams:
            return None
        tokens = [(mark + gram).encode("utf-8", "surrogatepass") for gram in grams]
        hashes = np.unique(np.array(self._make.hash_token_sets([tokens])[0], dtype=np.uint64))
        signature = self._make(_PERMUTATIONS, 1)
        signature.update(tokens)
        for number in sorted(self._lsh.query(signature)):
            likeness = self._likeness(hashes, number)
            if likeness >= self._threshold:
                return self._ids[number], likeness
        self._lsh.insert(len(self._ids), signature)
        self._ids.append(id)
        self._file.seek(self._ends[-1])
        self._ends.append(self._ends[-1] + self._file.write(hashes.tobytes()))
        return None

    def _likeness(self, hashes: Any, number: int) -> float:
        self._file.seek(self._ends[number])
        kept = np.frombuffer(self._file.read(self._ends[number + 1] - self._ends[number]), dtype=np.uint64)
        shared = len(np.intersect1d(hashes, kept, assume_unique=True))
        return shared / (len(hashes) + len(kept) - shared)


def _bands(threshold: float, permutations: int) -> int:
    """The fewest bands with which at least 99 % of the pairs at the threshold meet: 1 - (1 - t^r)^b."""
    divisors = [b for b in range(1, permutations + 1) if permutations % b == 0]
    enough = (b for b in divisors if 1 - (1 - threshold ** (permutations // b)) ** b >= 0.99)
    return next(enough, permutations)


class _RougeIndex:
    """Texts kept so far, compared by their words where enough of them are shared to matter at all."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._ids: list[str] = []
        self._texts: list[array[int]] = []
        self._lengths = array("I")
        self._numbers: dict[str, int] = {}
        # Who holds a word for the k-th time under a system message: shared entries bound the common subsequence.
        self._holders: defaultdict[tuple[str, int, int], array[int]] = defaultdict(lambda: array("I"))

    def find_or_add(self, id: str, setting: str, text: str) -> tuple[str, float] | None:
        """The first kept text that is near enough, with its similarity; or None, and the text is kept."""
        tokens = array("I", (self._numbers.setdefault(w, len(self._numbers)) for w in words(text)))
        if not tokens:
            return None
        held = Counter[int]()
        keys = []
        for token in tokens:
            held[token] += 1
            keys.append((setting, token, held[token]))
        for number in self._likely(keys):
            likeness = rouge_l(tokens, self._texts[number])
            if likeness >= self._threshold:
                return self._ids[number], likeness
        for key in keys:
            self._holders[key].append(len(self._ids))
        self._ids.append(id)
        self._texts.append(tokens)
        self._lengths.append(len(tokens))
        return None

    def _likely(self, keys: Sequence[tuple[str, int, int]]) -> list[int]:
        shared = np.zeros(len(self._ids), dtype=np.intc)
        for key in keys:
            if key in self._holders:
                shared[np.frombuffer(self._holders[key], dtype=np.uintc)] += 1
        together = np.frombuffer(self._lengths, dtype=np.uintc) + float(len(keys)) if self._ids else shared
        likely: list[int] = np.flatnonzero(2.0 * shared >= self._threshold * together - 1e-9).tolist()
        return likely


class Diversity(Stage):
    """Keeps the rows that together cover all rows best, so that what is said often gives way to what is
    said seldom: greedy k-center over embeddings of a `model`, or over n-grams where none is given.

    Up to 2,048 rows are compared with one another; more are cut into blocks of neighbours, and time
    grows with rows times 2,048. Vectors lie on disk: 1 KB a row without a model.
    """

    keep: float = Field(gt=0, allow_inf_nan=False)
    """How much is kept: a share up to 1 (0.8), or from 2 on a number of rows."""
    on: On = "prompt"
    """Which text is compared: the `prompt`, the `chosen` or the `rejected` responses, or all `responses`."""
    model: Role | None = None
    """Model role whose embeddings say what is alike; word n-grams where none is given."""
    typical: float = Field(default=0.0, ge=0, lt=1)
    """How much being close to the mean counts against being far from what is kept (MMR). 0 keeps
    outliers first; 0.3 leaves the oddest out."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.keep > 1 and self.keep != int(self.keep):
            raise ValueError(f"keep {self.keep:g} is neither a share (up to 1) nor a whole number of rows")
        return self

    def needs(self) -> set[str]:
        return _needs(self.on)

    def requires(self) -> dict[str, set[Capability]]:
        return {self.model: {"embed"}} if self.model else {}

    def load(self, samples: int) -> Load:
        calls = (Calls(self.model, 1, reads=samples if self.on == "responses" else 1),) if self.model else ()
        return Load(samples, calls, rows=min(self.keep, 1.0))

    def expand(self) -> Sequence[Stage]:
        cut = _Cut(keep=self.keep, on=self.on, typical=self.typical, embedded=self.model is not None)
        return [_Embed(model=self.model, on=self.on), cut] if self.model else [cut]


class _Embed(RowStage):
    """Leaves the vector of the row's text for the barrier."""

    model: Role
    on: On

    async def run(self, row: Row, ask: Ask) -> Row | Drop:
        text = "\n\n".join(_texts(row, self.on))
        if not text.strip():
            return Drop("nothing to compare", f"the row has no {self.on} text")
        vector = np.array(await ask.embed(text, model=self.model), dtype="<f4")
        if not vector.size or not np.isfinite(vector).all():
            raise ValueError(f"model {self.model!r} gave no usable embedding: {vector.size} numbers")
        return replace(row, scratch={**row.scratch, _VECTOR: base64.b64encode(vector.tobytes()).decode()})


class _Cut(Barrier):
    """Chooses among all rows; memory for each row: some tens of bytes."""

    keep: float
    on: On
    typical: float
    embedded: bool

    def run(self, rows: Iterable[Row], rng: random.Random) -> Iterator[Row | tuple[Row, Drop]]:
        with tempfile.TemporaryFile() as file:
            write = self._embeddings if self.embedded else self._sketches
            n = write(rows, cast(BinaryIO, file))
            file.flush()
            k = min(n, int(self.keep)) if self.keep > 1 else max(1, round(self.keep * n))
            kept = set(cover(_stored(file, n), k, rng, typical=self.typical).tolist()) if n else set[int]()
            for i, row in enumerate(rows):
                scratch = {key: value for key, value in row.scratch.items() if key != _VECTOR}
                row = replace(row, scratch=scratch)
                yield row if i in kept else (row, Drop("covered by others", f"{k} of {n} rows are kept"))

    def _embeddings(self, rows: Iterable[Row], file: BinaryIO) -> int:
        n, width = 0, None
        for row in rows:
            vector = np.frombuffer(base64.b64decode(row.scratch[_VECTOR]), dtype="<f4")
            width = width or vector.size
            if vector.size != width:
                raise ValueError(
                    f"row {row.id}: an embedding of {vector.size} numbers, where others have {width}"
                )
            file.write(unit32(vector).tobytes())
            n += 1
        return n

    def _sketches(self, rows: Iterable[Row], file: BinaryIO) -> int:
        counts, n = GramCounts(), 0
        for row in rows:
            counts.add(gram_hashes("\n\n".join(_texts(row, self.on))))
        for row in rows:
            file.write(sketch(gram_hashes("\n\n".join(_texts(row, self.on))), counts).tobytes())
            n += 1
        return n


def _stored(file: Any, n: int) -> Vectors:
    """The n vectors in the file, read from disk as they are used."""
    return np.memmap(file, dtype=np.float32, mode="r").reshape(n, -1)
