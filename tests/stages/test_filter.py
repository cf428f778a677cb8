"""filter.dedup and filter.diversity: what goes, what stays, and that every row comes out once."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from synthpref.core.distance import ngrams, rouge_l, words
from synthpref.core.seam import Completion, Request
from synthpref.core.stage import Barrier, Calls, Load, RowStage
from synthpref.core.types import Drop, Origin, Pair, Row, Sample
from synthpref.stages.filter import Dedup, Diversity, _bands
from synthpref.testing import run_stage

SKY = "Explain in simple words why the sky is blue during the day and red when the sun goes down"


def row(id: str, prompt: str, *responses: str, system: str | None = None, **fields: Any) -> Row:
    turns = [{"role": "user", "content": prompt}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    return Row(id=id, prompt=tuple(turns), samples=tuple(Sample(r) for r in responses), **fields)


class Stream:
    """Rows that can be iterated again and again, as from a disk, in the order of their ids."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows, self.passes = sorted(rows, key=lambda r: r.id), 0

    def __iter__(self) -> Iterator[Row]:
        self.passes += 1
        return iter(self.rows)


def outcome(stage: Barrier, rows: list[Row], seed: int = 0) -> dict[str, Drop | None]:
    """What became of each row, by id; None where it goes on."""
    found: dict[str, Drop | None] = {}
    for item in stage.run(Stream(rows), random.Random(seed)):
        one, drop = item if isinstance(item, tuple) else (item, None)
        assert one.id not in found
        assert one in rows
        found[one.id] = drop
    assert set(found) == {r.id for r in rows}
    return found


def kept(stage: Barrier, rows: list[Row], seed: int = 0) -> list[str]:
    return sorted(id for id, drop in outcome(stage, rows, seed).items() if drop is None)


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a or b else 1.0


every_method = pytest.mark.parametrize("method", ["minhash", "rouge_l", "exact"])


@every_method
def test_copies_go_and_the_first_by_id_stays(method: Any) -> None:
    rows = [row("c", SKY), row("a", SKY.upper() + " \n"), row("b", "Something else entirely"), row("d", SKY)]
    found = outcome(Dedup(method=method), rows)
    assert found == {
        "a": None,
        "b": None,
        "c": Drop("duplicate", "of a, prompt compared"),
        "d": Drop("duplicate", "of a, prompt compared"),
    }


@pytest.mark.parametrize(("method", "measure"), [("minhash", "Jaccard 0.84"), ("rouge_l", "ROUGE-L 0.97")])
def test_near_copies_go_and_the_drop_names_the_row(method: Any, measure: str) -> None:
    rows = [row("a", SKY), row("b", SKY + " today"), row("c", "How do I bake bread without yeast at home?")]
    found = outcome(Dedup(method=method), rows)
    drop = found.pop("b")
    assert found == {"a": None, "c": None}
    assert drop is not None
    assert drop.reason == "near-duplicate"
    assert drop.detail.startswith("of a, ")
    assert kept(Dedup(method="exact"), rows) == ["a", "b", "c"]
    likeness = (
        jaccard(ngrams(words(SKY), 3), ngrams(words(SKY + " today"), 3))
        if method == "minhash"
        else rouge_l(words(SKY), words(SKY + " today"))
    )
    assert f"{measure.split()[0]} {likeness:.2f}" in drop.detail


def test_operators_tell_prompts_apart() -> None:
    rows = [row("a", "What is 2+2?"), row("b", "What is 2-2?"), row("c", "What is 2*2?")]
    assert kept(Dedup(), rows) == ["a", "b", "c"]


def test_a_shared_system_message_makes_no_duplicates_and_a_different_one_no_copies() -> None:
    long = "You are a patient teacher who explains everything to children with many examples. " * 20
    rows = [row("a", "Why is the sky blue?", system=long), row("b", "Who wrote Faust?", system=long)]
    assert kept(Dedup(), rows) == ["a", "b"]
    for method in ("minhash", "rouge_l", "exact"):
        rows = [row("a", SKY, system="Answer in German."), row("b", SKY, system="Answer in French.")]
        assert kept(Dedup(method=method), rows) == ["a", "b"]
        rows.append(row("c", SKY + " today", system="Answer in French."))
        assert kept(Dedup(method=method), rows) == (["a", "b", "c"] if method == "exact" else ["a", "b"])


def test_a_source_row_stays_before_what_was_made_from_another() -> None:
    """By id alone the child a.synth-1 would come before the row b of the source."""
    made = row("a.synth-1", SKY, trail=(Origin("synth", "a"),))
    rows = [row("a", "Name three colours"), made, row("b", SKY)]
    assert outcome(Dedup(), rows)["a.synth-1"] == Drop("duplicate", "of b, prompt compared")
    assert kept(Dedup(), rows) == ["a", "b"]


@pytest.mark.parametrize(
    ("on", "expected"),
    [("prompt", ["a"]), ("chosen", ["a"]), ("rejected", ["a", "b"]), ("responses", ["a", "b"])],
)
def test_what_is_compared(on: Any, expected: list[str]) -> None:
    pair = (Pair(0, 1, "test"),)
    rows = [
        row("a", SKY, "The air scatters blue light.", "No idea, sorry.", pairs=pair),
        row("b", SKY, "The air scatters blue light.", "Ask somebody else about it.", pairs=pair),
    ]
    assert kept(Dedup(on=on), rows) == expected
    needs = {"prompt": set(), "responses": {"samples"}}.get(on, {"pairs"})
    assert Dedup(on=on).needs() == Diversity(keep=1, on=on).needs() == needs


def test_a_row_without_the_text_has_no_duplicates() -> None:
    rows = [row("a", "x"), row("b", "y")]
    assert kept(Dedup(on="chosen"), rows) == ["a", "b"]
    assert kept(Dedup(), [row("a", "???"), row("b", "!"), row("c", "???")]) == ["a", "b"]


prompts = st.lists(
    st.lists(
        st.sampled_from(["red", "green", "blue", "sky", "sea", "why", "how"]), min_size=1, max_size=8
    ).map(" ".join),
    max_size=12,
)


@settings(max_examples=60)
@given(prompts, st.sampled_from(["minhash", "rouge_l"]), st.sampled_from([0.5, 0.7, 0.9, 1.0]), st.randoms())
def test_no_two_that_stay_are_alike_and_each_that_goes_is(
    texts: list[str], method: Any, threshold: float, shuffle: random.Random
) -> None:
    rows = [row(f"r{i:02}", text) for i, text in enumerate(texts)]
    stage = Dedup(method=method, threshold=threshold, ngram=1)
    found = outcome(stage, rows)
    text = {r.id: r.prompt_text for r in rows}

    def likeness(a: str, b: str) -> float:
        return rouge_l(words(a), words(b)) if method == "rouge_l" else jaccard(set(words(a)), set(words(b)))

    staying = [id for id, drop in found.items() if drop is None]
    for id, drop in found.items():
        if drop is not None:
            twin = drop.detail.split(",")[0].removeprefix("of ")
            assert twin in staying
            assert twin < id
            assert likeness(text[id], text[twin]) >= threshold - 1e-9
    if method == "rouge_l":  # MinHash may miss one in a hundred at the threshold itself
        for i, a in enumerate(staying):
            assert all(likeness(text[a], text[b]) < threshold for b in staying[:i])
    shuffle.shuffle(rows)
    assert outcome(stage, rows) == found


def test_minhash_finds_nearly_all_at_the_threshold() -> None:
    """300 rows, each with a twin of Jaccard 0.82: at least 97 % are found."""
    draws = random.Random(1)
    rows = []
    for i in range(300):
        tokens = [f"w{draws.randrange(10**6)}" for _ in range(200)]
        twin = tokens[:180] + [f"w{draws.randrange(10**6)}" for _ in range(20)]
        rows += [row(f"{i:03}a", " ".join(tokens)), row(f"{i:03}b", " ".join(twin))]
    dropped = {id for id, drop in outcome(Dedup(ngram=1), rows).items() if drop}
    assert dropped <= {r.id for r in rows if r.id.endswith("b")}
    assert len(dropped) >= 291


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_the_bands_reach_ninety_nine_in_a_hundred(threshold: float) -> None:
    bands = _bands(threshold, 128)
    width = 128 // bands
    assert bands * width == 128
    assert 1 - (1 - threshold**width) ** bands >= 0.99


def test_no_rows_and_one_row() -> None:
    for stage in (Dedup(), *Diversity(keep=0.5).expand()):
        assert isinstance(stage, Barrier)
        assert outcome(stage, []) == {}
        assert kept(stage, [row("a", "x")]) == ["a"]


def test_dedup_keeps_little_of_a_row() -> None:
    """What is kept for a row does not grow with its text (beyond what rensa holds, which is the same for all)."""

    class Fresh:
        def __init__(self, count: int) -> None:
            self.count = count

        def __iter__(self) -> Iterator[Row]:
            draws = random.Random(2)
            for i in range(self.count):
                body = " ".join(f"w{draws.randrange(10**6)}" for _ in range(500))
                yield row(f"{i:04}", f"question {i}", body)

    def peak(count: int) -> int:
        tracemalloc.start()
        ended = sum(1 for _ in Dedup(on="responses").run(Fresh(count), random.Random(0)))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert ended == count
        return found

    peak(2)
    text, hashes = 500 * 7, 500 * 8
    assert (peak(80) - peak(20)) / 60 < min(text, hashes) / 3


# ---- diversity

TOPICS = {
    "sky": "why is the {} sky blue in the morning",
    "bread": "how do I bake {} bread at home",
    "rust": "write a {} function in rust that sorts numbers",
    "law": "summarise the {} law of contracts for a student",
}


def topical(per_topic: int) -> list[Row]:
    fills = ["big", "small", "old", "new", "soft", "hard", "short", "long", "cold", "warm"]
    return [
        row(f"{topic}-{i}", text.format(fills[i])) for topic, text in TOPICS.items() for i in range(per_topic)
    ]


def cut(stage: Diversity) -> Barrier:
    [part] = stage.expand()
    assert isinstance(part, Barrier)
    return part


def test_few_rows_are_kept_from_every_topic() -> None:
    rows = topical(10)
    found = outcome(cut(Diversity(keep=4)), rows)
    assert {id.split("-")[0] for id, drop in found.items() if drop is None} == set(TOPICS)
    drops = [drop for drop in found.values() if drop]
    assert drops == [Drop("covered by others", "4 of 40 rows are kept")] * 36


@pytest.mark.parametrize(
    ("keep", "left"),
    [(0.5, 20), (0.01, 1), (1, 40), (1.0, 40), (2, 2), (40, 40), (500, 40), (0.99, 40), (0.26, 10)],
)
def test_how_many_are_kept(keep: float, left: int) -> None:
    assert len(kept(cut(Diversity(keep=keep)), topical(10))) == left


def test_diversity_is_the_same_each_time_and_for_any_order() -> None:
    rows = topical(10)
    first = kept(cut(Diversity(keep=0.3)), rows)
    assert first == kept(cut(Diversity(keep=0.3)), rows[::-1])
    assert first == kept(cut(Diversity(keep=0.3, typical=0.0)), rows, seed=9)


def embed(request: Request) -> list[Completion]:
    """A direction for each topic, with a small part of its own."""
    assert request.kind == "embed"
    text = request.messages[0]["content"]
    vector = [float(word in text) for word in ("sky", "bread", "rust", "law")]
    return [Completion(vector=(*vector, 0.001 * len(text)))]


def test_with_a_model_the_embeddings_decide() -> None:
    rows = topical(5)
    stage = Diversity(keep=4, model="encoder")
    first, second = stage.expand()
    assert isinstance(first, RowStage)
    assert isinstance(second, Barrier)
    made = run_stage(stage, rows, embed)
    staying = [one for one in made if isinstance(one, Row)]
    assert {one.id.split("-")[0] for one in staying} == set(TOPICS)
    assert len(made) == 20
    assert all(one.scratch == {} for one in staying)
    assert all(one == next(r for r in rows if r.id == one.id) for one in staying)


def test_scratch_of_others_is_left_alone() -> None:
    [made] = run_stage(Diversity(keep=1, model="encoder"), [row("a", "sky", scratch={"mine": 1})], embed)
    assert isinstance(made, Row)
    assert made.scratch == {"mine": 1}


def test_a_dropped_row_is_given_back_whole() -> None:
    [first, second] = Diversity(keep=1, model="encoder").expand()
    assert isinstance(second, Barrier)
    rows = [replace(r, scratch={}) for r in topical(2)]
    embedded = [made for made in run_stage(first, rows, embed) if isinstance(made, Row)]
    assert all(made.scratch for made in embedded)
    for item in second.run(Stream(embedded), random.Random(0)):
        one = item[0] if isinstance(item, tuple) else item
        assert one in rows


@pytest.mark.parametrize(
    ("vector", "message"),
    [((), "no usable embedding: 0 numbers"), ((float("nan"), 1.0), "no usable embedding: 2 numbers")],
)
def test_a_bad_embedding_is_an_error_and_no_vector(vector: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_stage(
            Diversity(keep=1, model="encoder"), [row("a", "sky")], lambda r: [Completion(vector=vector)]
        )


def test_embeddings_of_different_lengths_are_an_error_that_names_the_row() -> None:
    def uneven(request: Request) -> list[Completion]:
        return [Completion(vector=(1.0,) * (2 if "sky" in request.messages[0]["content"] else 3))]

    with pytest.raises(ValueError, match="row b: an embedding of 3 numbers, where others have 2"):
        run_stage(Diversity(keep=1, model="encoder"), [row("a", "sky"), row("b", "sea")], uneven)


def test_nothing_to_embed_is_a_drop() -> None:
    made = run_stage(Diversity(keep=1, on="chosen", model="encoder"), [row("a", "sky")], embed)
    assert made == [Drop("nothing to compare", "the row has no chosen text")]


def test_what_diversity_tells_the_plan() -> None:
    plain, asking = Diversity(keep=0.8), Diversity(keep=0.8, model="encoder")
    assert plain.load(8) == Load(8, rows=0.8)
    assert asking.load(8) == Load(8, (Calls("encoder", 1, reads=1),), rows=0.8)
    assert Diversity(keep=100).load(8).rows == 1.0
    assert plain.requires() == {}
    assert asking.requires() == {"encoder": {"embed"}}
    assert list(asking.marked("model role")) == [("model", "encoder")]


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Diversity, {"keep": 0}, "greater than 0"),
        (Diversity, {"keep": 2.5}, "neither a share"),
        (Diversity, {"keep": 0.5, "typical": 1}, "less than 1"),
        (Diversity, {"keep": float("nan")}, "greater than 0|finite"),
        (Diversity, {"keep": float("inf")}, "finite"),
        (Dedup, {"threshold": 0}, "greater than 0"),
        (Dedup, {"threshold": 1.1}, "less than or equal to 1"),
        (Dedup, {"ngram": 0}, "greater than or equal to 1"),
        (Dedup, {"on": "title"}, "Input should be 'prompt'"),
    ],
)
def test_bad_fields_are_refused(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind(**fields)


@pytest.mark.parametrize("kind", [Dedup, Diversity])
def test_every_field_is_documented(kind: Any) -> None:
    assert kind.__doc__
    assert all(field.description for field in kind.model_fields.values())
