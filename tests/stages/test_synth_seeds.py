from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from field import records
from synthpref.core.distance import rouge_l, words
from synthpref.core.seam import Request
from synthpref.core.stage import PROMPT, ROLE
from synthpref.core.template import fenced
from synthpref.core.types import Drop, Row
from synthpref.stages.synth_seeds import WORD, Bootstrap, DrawExamples, RefuseNear
from synthpref.testing import row, run_stage

NOUNS = [
    "river",
    "bridge",
    "poem",
    "engine",
    "garden",
    "treaty",
    "recipe",
    "planet",
    "violin",
    "budget",
    "harbour",
    "glacier",
    "novel",
    "vaccine",
    "castle",
]

Made = Sequence[Row | Drop]


def rows_of(made: Made) -> list[Row]:
    return [one for one in made if isinstance(one, Row)]


def drops_of(made: Made) -> list[Drop]:
    return [one for one in made if isinstance(one, Drop)]


def seeds(n: int) -> list[Row]:
    return [row(f"Tell of {NOUNS[i % 15]} {i} {'x' * i}", id=f"s{i:02}") for i in range(n)]


def shown(request: Request) -> list[str]:
    return [text for _, text in fenced(request.messages[1]["content"])]


def inventor() -> Callable[[Request], list[str]]:
    """A model whose every prompt is like no other."""
    numbers = count()

    def answer(request: Request) -> list[str]:
        fresh = [f"a{next(numbers)} b{next(numbers)} c{next(numbers)}" for _ in range(4)]
        return [json.dumps({"prompts": fresh})]

    return answer


def test_each_seed_is_shown_among_others_and_gets_its_own_children() -> None:
    seen: list[list[str]] = []

    def answer(request: Request) -> list[str]:
        seen.append(shown(request))
        return [json.dumps({"prompts": [f"{len(seen)}a {len(seen)}b", f"{len(seen)}c {len(seen)}d"]})]

    pool = seeds(20)
    made = rows_of(run_stage(Bootstrap(model="m", per_row=2), pool, answer))
    assert len(seen) == 20
    for seed, examples in zip(pool, seen, strict=True):
        assert seed.prompt_text in examples
        assert len(set(examples)) == 8
        assert set(examples) <= {s.prompt_text for s in pool}
    assert len(made) == 60
    for number, seed in enumerate(pool, 1):
        children = [m for m in made if m.id.startswith(f"{seed.id}.")]
        assert [c.id for c in children] == [f"{seed.id}.synth.bootstrap-{n}" for n in (1, 2)]
        assert [c.prompt_text for c in children] == [f"{number}a {number}b", f"{number}c {number}d"]
        assert {(c.trail[0].stage, c.trail[0].parent, c.trail[0].note) for c in children} == {
            (WORD, seed.id, "round 1")
        }
    assert all(WORD not in m.scratch for m in made)


def test_the_seed_stands_anywhere_among_the_examples() -> None:
    places: set[int] = set()
    pool = {s.prompt_text for s in seeds(1)}

    def answer(request: Request) -> list[str]:
        places.update(i for i, text in enumerate(shown(request)) if text in pool)
        return [json.dumps({"prompts": ["x y z"]})]

    run_stage(Bootstrap(model="m"), seeds(40), answer)
    assert len(places) > 1


def test_a_near_duplicate_of_a_seed_or_of_another_new_prompt_is_dropped() -> None:
    # s2's id sorts after the children of s1, and its prompt must still win against them.
    pool = [row("Name a river in Peru.", id="s1"), row("Write a poem about a long cold winter.", id="s2")]
    replies = {
        "s1": ["Write a poem about a long, cold winter!", "List five bridges of Rome by age."],
        "s2": ["List five bridges of Rome by age, please.", "Explain how violins are tuned."],
    }
    asked = iter(["s1", "s2"])
    made = run_stage(
        Bootstrap(model="m", per_row=2), pool, lambda request: [json.dumps({"prompts": replies[next(asked)]})]
    )
    assert sorted(m.id for m in rows_of(made)) == [
        "s1",
        "s1.synth.bootstrap-2",
        "s2",
        "s2.synth.bootstrap-2",
    ]
    assert [(d.reason, d.detail.split(",")[0]) for d in drops_of(made)] == [
        ("near-duplicate", "of s2"),
        ("near-duplicate", "of s1.synth.bootstrap-2"),
    ]


def test_seeds_stay_however_alike_they_are() -> None:
    pool = [row("Name a river.", id=f"s{i}") for i in range(4)]
    made = run_stage(Bootstrap(model="m"), pool, lambda request: [json.dumps({"prompts": ["Name a river!"]})])
    assert [m.id for m in rows_of(made)] == ["s0", "s1", "s2", "s3"]


def test_in_the_second_round_new_prompts_are_examples_but_are_not_written_from() -> None:
    seen: list[list[str]] = []
    invent = inventor()

    def answer(request: Request) -> list[str]:
        seen.append(shown(request))
        return invent(request)

    pool = seeds(12)
    made = rows_of(run_stage(Bootstrap(model="m", rounds=2), pool, answer))
    texts = {s.prompt_text for s in pool}
    assert len(seen) == 24
    assert all(set(examples) <= texts for examples in seen[:12])
    for examples in seen[12:]:
        assert len(set(examples)) == 8
        assert len([e for e in examples if e not in texts]) == 2
    assert len(made) == 12 + 2 * 48
    assert len({m.id for m in made}) == len(made)
    assert {m.trail[0].note for m in made if m.trail} == {"round 1", "round 2"}
    assert sorted(m.id for m in made if m.id.startswith("s03.")) == [
        f"s03.synth.bootstrap-{n}" for n in range(1, 9)
    ]


def test_a_prompt_of_an_earlier_round_stays_before_one_of_a_later_round() -> None:
    # In the second round s1 invents what s2 invented in the first; by id alone s1's would come first.
    replies = iter([["alpha beta gamma"], ["delta epsilon zeta"], ["delta epsilon zeta"], ["eta theta iota"]])
    pool = [row("Name a river.", id="s1"), row("Write a poem about winter.", id="s2")]
    made = run_stage(
        Bootstrap(model="m", rounds=2), pool, lambda request: [json.dumps({"prompts": next(replies)})]
    )
    assert {m.id for m in rows_of(made) if m.trail} == {
        "s1.synth.bootstrap-1",
        "s2.synth.bootstrap-1",
        "s2.synth.bootstrap-2",
    }


def test_seeds_may_leave_at_the_end_and_are_counted() -> None:
    def answer(request: Request) -> list[str]:
        return (
            ["Sorry, no."]
            if "Name a river." in shown(request)[0]
            else [json.dumps({"prompts": ["alpha beta"]})]
        )

    pool = [row("Name a river.", id="s1"), row("Write a poem about winter.", id="s2")]
    made = run_stage(Bootstrap(model="m", keep_seeds=False, examples=1), pool, answer)
    assert [m.id for m in rows_of(made)] == ["s2.synth.bootstrap-1"]
    assert sorted(d.reason for d in drops_of(made)) == ["no prompts", "seed not kept"]


def test_a_seed_that_nothing_came_of_stays_where_seeds_are_kept() -> None:
    pool = [row("Name a river.", id="s1")]
    [made] = run_stage(Bootstrap(model="m"), pool, lambda request: ["Sorry, no."])
    assert isinstance(made, Row)
    assert (made.id, made.trail) == ("s1", ())


def test_a_prompt_of_a_megabyte_is_no_example_for_others() -> None:
    long = row("y" * 1_000_000, id="s00")
    pool = [long, *seeds(6)[1:]]
    sizes: dict[bool, list[int]] = {True: [], False: []}

    def answer(request: Request) -> list[str]:
        sizes[long.prompt_text in shown(request)].append(len(request.messages[1]["content"]))
        return [json.dumps({"prompts": ["alpha beta"]})]

    run_stage(Bootstrap(model="m"), pool, answer)
    assert len(sizes[True]) == 1, "only its own request shows it"
    assert max(sizes[False]) < 10_000


def test_the_same_rows_and_seed_draw_the_same_examples() -> None:
    pool = seeds(30)
    part = DrawExamples(examples=8, machine=2, longest=4000)

    def drawn(number: int) -> list[object]:
        return [r.scratch[WORD]["examples"] for r in part.run(pool, random.Random(number))]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_pool_beyond_its_limit_is_drawn_from_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthpref.stages.synth_seeds.POOL", 10)
    pool = [row(f"prompt {i}", id=f"s{i:03}") for i in range(200)]
    rows = DrawExamples(examples=8, machine=2, longest=4000).run(pool, random.Random(3))
    others = {e for r in rows for e in r.scratch[WORD]["examples"] if e != r.prompt_text}
    assert len(others) <= 10
    assert any(int(e.split()[1]) > 20 for e in others), "not only the first rows"


prompts = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), min_size=1, max_size=6), min_size=1, max_size=12
)


@settings(max_examples=150)
@given(prompts, prompts, st.sampled_from([0.5, 0.7, 1.0]))
def test_what_stays_is_far_from_all_before_it_and_what_goes_is_near(
    old: list[list[str]], new: list[list[str]], threshold: float
) -> None:
    rows = [row(" ".join(w), id=f"s{i:02}") for i, w in enumerate(old)]
    rows += [row(" ".join(w), id=f"s{i:02}.n", scratch={WORD: {"round": 1}}) for i, w in enumerate(new)]
    out = list(RefuseNear(threshold=threshold).run(sorted(rows, key=lambda r: r.id), random.Random(0)))
    stay = [o for o in out if isinstance(o, Row)]
    assert len(out) == len(rows)
    assert {r.id for r in rows if not r.scratch} <= {r.id for r in stay}
    known = [r.prompt_text for r in rows if not r.scratch]
    for one in sorted((r for r in rows if r.scratch), key=lambda r: r.id):
        near = max(rouge_l(words(one.prompt_text), words(other)) for other in known) >= threshold
        assert near == (one not in stay)
        if not near:
            known.append(one.prompt_text)


def test_what_the_recipe_check_and_the_plan_see() -> None:
    stage = Bootstrap(model="m", rounds=2, per_row=3)
    assert {role for _, role in stage.marked(ROLE)} == {"m"}
    assert {name for _, name in stage.marked(PROMPT)} == {"synth/bootstrap", "synth/reask"}
    load = stage.load(0)
    assert [(c.model, c.requests) for c in load.calls] == [("m", 2)]
    assert load.rows == 7
    assert len(stage.expand()) == 7


@pytest.mark.field
def test_the_175_seed_tasks() -> None:
    tasks = records("seeds/self_instruct_seed_tasks.jsonl.gz")
    pool = [row(task["instruction"], id=f"{i:03}") for i, task in enumerate(tasks)]
    assert len(pool) == 175

    invent = inventor()

    def answer(request: Request) -> list[str]:
        # Two prompts that are there already in other words, and four that are not.
        old = shown(request)
        fresh = json.loads(invent(request)[0])["prompts"]
        return [json.dumps({"prompts": [old[0] + " Please.", old[1].upper(), *fresh]})]

    made = run_stage(Bootstrap(model="m", per_row=6), pool, answer)
    kept, dropped = rows_of(made), drops_of(made)
    assert {s.id for s in pool} <= {m.id for m in kept}
    assert {d.reason for d in dropped} == {"near-duplicate"}
    new = [m for m in kept if m.trail]
    assert len(new) + len(dropped) + 175 == len(made)
    assert all(max(rouge_l(words(m.prompt_text), words(s.prompt_text)) for s in pool) < 0.7 for m in new)
    # " Please." makes a new prompt only of one that has a word or two.
    assert 700 <= len(new) < 710
