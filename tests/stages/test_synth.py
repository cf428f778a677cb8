from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request
from synthpref.core.stage import PROMPT, ROLE, Barrier
from synthpref.core.template import fenced
from synthpref.core.types import Drop, Row, Sample
from synthpref.stages.synth import Corpus, Evolve, Persona, draw
from synthpref.stages.synth_ask import is_refusal, unfit
from synthpref.testing import row, run_stage

Made = Sequence[Row | Drop]


def rows_of(made: Made) -> list[Row]:
    return [one for one in made if isinstance(one, Row)]


def drops_of(made: Made) -> list[Drop]:
    return [one for one in made if isinstance(one, Drop)]


def texts(request: Request) -> dict[str, str]:
    """What the request shows between marks, by label."""
    return dict(fenced(request.messages[1]["content"]))


def is_check(request: Request) -> bool:
    return "bring something new" in request.messages[1]["content"]


def says(*prompts: str) -> Callable[[Request], list[str]]:
    return lambda request: [json.dumps({"prompts": prompts})]


def evolves(text: str, verdict: str = "yes") -> Callable[[Request], list[str]]:
    """A model that evolves any prompt to `text`, and a judge with one opinion."""

    def answer(request: Request) -> list[str]:
        if is_check(request):
            return [json.dumps({"reasoning": "r", "verdict": verdict})]
        return [json.dumps({"prompt": text})]

    return answer


# ---- what cannot serve as a prompt


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("I'm sorry, but I can't help with that.", "refused"),
        ("I’m very sorry, this is not possible.", "refused"),
        ("Sorry, no.", "refused"),
        ("I cannot rewrite this prompt.", "refused"),
        ("As an AI language model, I have no opinions.", "refused"),
        ("I apologize, but no.", "refused"),
        ("I am unable to provide that.", "refused"),
        ("Unfortunately, I must stop here.", "refused"),
        ("I must decline.", "refused"),
        (" ... ?!", "no words"),
        ("###", "no words"),
        ("It is, and so we are.", "no words"),
        ("#Rewritten Prompt#: Name a river in Peru.", "prompt leak"),
        ("Given prompt: name a river", "prompt leak"),
        ("<<prompt 0a1b2c3d>>\nName a river\n<</prompt 0a1b2c3d>>", "prompt leak"),
        ("<the new prompt>", "prompt leak"),
        ("  name a  RIVER ", "unchanged"),
        ("Name two rivers.", ""),
        ("Write a note that says sorry to a neighbour.", ""),
        ("I can't sleep at night. What should I do?", ""),
        ("What is 2+2?", ""),
        ("列出三条河流。", ""),
        ("Explain `a < b > c` in C++.", ""),
    ],
)
def test_what_cannot_serve_as_a_prompt(prompt: str, why: str) -> None:
    assert unfit(prompt, "Name a river") == why


def test_words_that_the_source_brings_are_no_leak() -> None:
    assert unfit("Mark the given prompt from 1 to 5 and say why.", "Mark the given prompt.") == ""


def test_a_long_text_that_opens_with_sorry_is_no_refusal() -> None:
    assert is_refusal("Sorry " + "word " * 78)
    assert not is_refusal("Sorry " + "word " * 79)


@given(st.text())
def test_every_text_is_fit_or_has_a_reason(text: str) -> None:
    assert unfit(text) in {"", "refused", "no words", "prompt leak", "unchanged"}
    assert unfit(text, text) != ""


# ---- evolve


def test_an_evolution_is_a_child_beside_the_original() -> None:
    original = row(
        "Name a river.", "The Nile", id="r1", licence="cc0", reference="Nile", meta={"topic": "geo"}
    )
    kept, child = rows_of(run_stage(Evolve(model="m"), [original], evolves("Name a river that flows north.")))
    assert replace(kept, scratch={}) == original
    assert child.id == "r1.synth.evolve-1"
    assert child.prompt_text == "Name a river that flows north."
    assert (child.licence, dict(child.meta)) == ("cc0", {"topic": "geo"})
    assert child.samples == ()
    assert child.reference is None, "the reference answers another prompt"
    [step] = child.trail
    assert (step.stage, step.parent, step.model) == ("synth.evolve", "r1", "m")
    assert step.note.startswith("round 1: ")
    assert "failed" not in step.note


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (json.dumps({"prompt": "I'm sorry, I can't help with that."}), "refused"),
        (json.dumps({"prompt": "?!"}), "no words"),
        (json.dumps({"prompt": "The given prompt, but harder"}), "prompt leak"),
        (json.dumps({"prompt": "name a RIVER."}), "unchanged"),
        ("I'm sorry, I can't do that.", "refused"),
        ("", "empty reply"),
        ("Here is a harder one: name two rivers", "no 'prompt' found"),
        (Completion(text='{"prompt": "Name a ri', finish_reason="length"), "cut off"),
        (Completion(text='{"prompt": "Name it"}', finish_reason="content_filter"), "filtered"),
    ],
)
def test_a_failed_evolution_keeps_the_prompt_and_names_the_reason(reply: str | Completion, why: str) -> None:
    [made] = rows_of(
        run_stage(Evolve(model="m", keep_original=False), [row("Name a river.")], lambda r: [reply])
    )
    assert made.id == "row-1"
    assert made.prompt_text == "Name a river."
    assert [step.note.split(" failed: ")[1] for step in made.trail] == [why]


@pytest.mark.parametrize(
    ("verdict", "why"), [("no", "no gain"), ("perhaps", "no verdict"), ("yes and no", "no verdict")]
)
def test_without_a_gain_or_a_verdict_the_evolution_fails(verdict: str, why: str) -> None:
    [made] = rows_of(
        run_stage(Evolve(model="m"), [row("Name a river.")], evolves("Tell me a river.", verdict))
    )
    assert made.prompt_text == "Name a river."
    assert made.trail[0].note.endswith(f"failed: {why}")


def test_the_checker_is_asked_about_both_prompts_and_only_if_wanted() -> None:
    seen: list[dict[str, str]] = []

    def answer(request: Request) -> list[str]:
        if is_check(request):
            seen.append(texts(request))
        return evolves("Name two rivers.")(request)

    run_stage(Evolve(model="m"), [row("Name a river.")], answer)
    assert seen == [{"example 1": "Name a river.", "example 2": "Name two rivers."}]
    run_stage(Evolve(model="m", check=False), [row("Name a river.")], answer)
    assert len(seen) == 1


def test_rounds_build_on_the_last_good_prompt() -> None:
    replies = iter(["Prompt of one.", "Sorry, no.", "Prompt of three."])
    sources: list[str] = []

    def answer(request: Request) -> list[str]:
        sources.append(texts(request)["prompt"])
        return [json.dumps({"prompt": next(replies)})]

    stage = Evolve(model="m", rounds=3, check=False)
    kept, child = rows_of(run_stage(stage, [row("Start here.")], answer))
    assert sources == ["Start here.", "Prompt of one.", "Prompt of one."]
    assert (kept.prompt_text, child.prompt_text) == ("Start here.", "Prompt of three.")
    assert child.id == "row-1.synth.evolve-3"
    assert [s.note.split(":")[0] for s in child.trail] == ["round 1", "round 2", "round 3"]
    assert child.trail[1].note.endswith("failed: refused")


def test_steps_are_kept_where_wanted() -> None:
    numbers = iter(range(1, 10))
    stage = Evolve(model="m", rounds=2, check=False, keep_steps=True)
    made = rows_of(
        run_stage(stage, [row("Start.")], lambda r: [json.dumps({"prompt": f"Prompt {next(numbers)}"})])
    )
    assert [m.prompt_text for m in made] == ["Start.", "Prompt 1", "Prompt 2"]
    assert [m.id for m in made] == ["row-1", "row-1.synth.evolve-1", "row-1.synth.evolve-2"]
    assert [len(m.trail) for m in made] == [0, 1, 2]


def test_the_same_word_twice_makes_no_id_twice() -> None:
    numbers = iter(range(1, 100))

    def answer(request: Request) -> list[str]:
        return [json.dumps({"prompt": f"Prompt number {next(numbers)}"})]

    stage = Evolve(model="m", check=False)
    once = rows_of(run_stage(stage, [row("Start.")], answer))
    twice = rows_of(run_stage(stage, once, answer))
    assert len(twice) == 4
    assert len({one.id for one in twice}) == 4


def test_operations_are_drawn_by_seed_and_all_of_them_occur() -> None:
    rows = [row("Name a river.", id=f"r{i}") for i in range(60)]
    stage = Evolve(model="m", check=False, keep_original=False)

    def operations() -> list[str]:
        return [r.trail[0].note for r in rows_of(run_stage(stage, rows, evolves("Name two rivers.")))]

    first = operations()
    assert first == operations()
    assert {note.removeprefix("round 1: ") for note in first} == {
        "constraints",
        "deepen",
        "concretise",
        "reasoning",
        "breadth",
    }


def test_of_a_conversation_the_last_turn_evolves_and_the_rest_stays() -> None:
    turns = (
        {"role": "system", "content": "You are a guide."},
        {"role": "user", "content": "Name a river."},
        {"role": "assistant", "content": "The Nile."},
        {"role": "user", "content": "And in Peru?"},
    )
    seen: list[dict[str, str]] = []

    def answer(request: Request) -> list[str]:
        seen.append(texts(request))
        return [json.dumps({"prompt": "And in the south of Peru?"})]

    [made] = rows_of(
        run_stage(Evolve(model="m", check=False, keep_original=False), [Row(id="r", prompt=turns)], answer)
    )
    assert made.prompt == (*turns[:3], {"role": "user", "content": "And in the south of Peru?"})
    assert seen[0]["prompt"] == "And in Peru?"
    assert seen[0]["context"].startswith("system: You are a guide.\n\nuser: Name a river.")


def test_a_failed_call_is_an_error_and_no_prompt() -> None:
    def answer(request: Request) -> list[str]:
        raise BackendError("bad_request", "Name an error.")

    for stage in (Evolve(model="m"), Persona(model="m"), Corpus(model="m")):
        with pytest.raises(BackendError):
            run_stage(stage, [row("Name a river.")], answer)


# ---- persona


def test_a_persona_from_a_column_asks_about_the_matter_of_the_row() -> None:
    seen: list[dict[str, str]] = []

    def answer(request: Request) -> list[str]:
        seen.append(texts(request))
        return says("How do I test this well?", "Is this water safe for goats?")(request)

    stage = Persona(model="m", per_row=2, column="who")
    made = rows_of(run_stage(stage, [row("Water quality", meta={"who": "a goat farmer"})], answer))
    assert seen == [{"persona": "a goat farmer", "prompt": "Water quality"}]
    assert [m.id for m in made] == ["row-1.synth.persona-1", "row-1.synth.persona-2"]
    assert [m.prompt_text for m in made] == ["How do I test this well?", "Is this water safe for goats?"]
    assert {m.meta["persona"] for m in made} == {"a goat farmer"}
    assert made[0].trail[0].parent == "row-1"


def test_a_row_may_be_the_persona_itself() -> None:
    seen: list[dict[str, str]] = []

    def answer(request: Request) -> list[str]:
        seen.append(texts(request))
        return says("How much hay for ten goats?")(request)

    [made] = rows_of(run_stage(Persona(model="m"), [row("a goat farmer")], answer))
    assert seen == [{"persona": "a goat farmer"}]
    assert made.meta["persona"] == "a goat farmer"


def test_personas_of_a_list_share_the_prompts_and_never_mix() -> None:
    people = ("a nurse", "a pilot", "a cook")

    def answer(request: Request) -> list[str]:
        who = texts(request)["persona"]
        return says(*(f"Question {i} by {who} on {texts(request)['prompt']}" for i in range(9)))(request)

    stage = Persona(model="m", per_row=5, personas=people)
    rows = [row(f"matter {i}", id=f"r{i}") for i in range(6)]
    made = rows_of(run_stage(stage, rows, answer))
    assert len(made) == 30
    for child in made:
        parent = child.id.split(".")[0]
        assert child.prompt_text.endswith(f"by {child.meta['persona']} on matter {parent[1:]}")
        assert child.trail[0].parent == parent
    assert [c.id for c in made[:5]] == [f"r0.synth.persona-{n}" for n in range(1, 6)]
    assert {c.meta["persona"] for c in made[:5]} == set(people)
    assert made == rows_of(run_stage(stage, rows, answer))


def test_one_persona_without_prompts_costs_only_its_own_and_moves_no_number() -> None:
    def answer(request: Request) -> list[str]:
        who = texts(request)["persona"]
        return ["I can't help with that."] if who == "a pilot" else says(f"Question by {who}?")(request)

    stage = Persona(model="m", per_row=3, personas=("a nurse", "a pilot", "a cook"))
    made = rows_of(run_stage(stage, [row("matter")], answer))
    assert {m.meta["persona"] for m in made} == {"a nurse", "a cook"}
    everyone = rows_of(run_stage(stage, [row("matter")], lambda r: says(f"By {texts(r)['persona']}?")(r)))
    numbers = {m.meta["persona"]: m.id for m in everyone}
    assert {m.meta["persona"]: m.id for m in made} == {k: v for k, v in numbers.items() if k != "a pilot"}


@pytest.mark.parametrize("meta", [{}, {"who": ""}, {"who": None}, {"who": 7}])
def test_a_row_without_its_persona_or_document_is_dropped_and_nothing_asked(meta: dict[str, Any]) -> None:
    assert (
        drops_of(run_stage(Persona(model="m", column="who"), [row("x", meta=meta)]))[0].reason == "no persona"
    )
    [drop] = drops_of(run_stage(Corpus(model="m", column="who"), [row("x", meta=meta)]))
    assert (drop.reason, drop.detail) == ("no document", "the meta column 'who' has no text")


# ---- corpus


def test_a_document_becomes_tasks_of_drawn_kinds() -> None:
    seen: list[str] = []

    def answer(request: Request) -> list[str]:
        seen.append(request.messages[1]["content"])
        return says("Why does the Nile flood?", "Compare the Nile and the Po.")(request)

    stage = Corpus(model="m", per_row=2, kinds=("a why", "a how", "a what"))
    made = rows_of(run_stage(stage, [row("The Nile floods in summer.", id="d1")], answer))
    assert [m.id for m in made] == ["d1.synth.corpus-1", "d1.synth.corpus-2"]
    assert [m.prompt_text for m in made] == ["Why does the Nile flood?", "Compare the Nile and the Po."]
    assert dict(fenced(seen[0])) == {"document": "The Nile floods in summer."}
    assert sum(kind in seen[0] for kind in ("a why", "a how", "a what")) == 2
    assert "will not see the document" in seen[0]


def test_grounded_tasks_carry_the_document() -> None:
    stage = Corpus(model="m", column="text", ground=True)
    document = "The Nile floods\n\nin summer."
    [made] = rows_of(run_stage(stage, [row("ignored", meta={"text": document})], says("When does it flood?")))
    assert made.prompt_text == f"When does it flood?\n\n{document}"
    assert made.trail[0].note == "grounded"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True), st.integers(1, 20))
def test_no_kind_comes_again_before_all_have_come(kinds: list[str], count: int) -> None:
    drawn = draw(kinds, count, random.Random(1))
    assert len(drawn) == count
    for start in range(0, count, len(kinds)):
        turn = drawn[start : start + len(kinds)]
        assert len(set(turn)) == len(turn)


# ---- replies that hold no prompt, or too many


@pytest.mark.parametrize("stage", [Persona(model="m", per_row=2), Corpus(model="m", per_row=2)])
@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, I can't do that. Instead I could:\n1. Write a poem about rivers\n2. Explain what rivers are",
        "",
        "[]",
        json.dumps({"prompts": []}),
        json.dumps({"prompts": ["", "  ", "?"]}),
        json.dumps({"prompts": [1, None, {"x": "y"}]}),
        json.dumps({"prompts": ["I cannot assist with that.", "Sorry."]}),
        json.dumps({"prompts": ["A document on rivers"]}),
        "What a fine document. It is about rivers.",
    ],
)
def test_a_reply_without_prompts_is_asked_once_more_and_then_drops_the_row(stage: Any, reply: str) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> list[str]:
        asked.append(request)
        return [reply]

    [drop] = run_stage(stage, [row("a document on rivers")], answer)
    assert isinstance(drop, Drop)
    assert drop.reason == "no prompts"
    assert len(asked) == 2
    assert asked[1].messages[: len(asked[0].messages)] == asked[0].messages


def test_the_second_reply_is_used() -> None:
    replies = iter(["Sorry, no.", json.dumps({"prompts": ["What is a river?"]})])
    [made] = rows_of(run_stage(Corpus(model="m"), [row("On rivers")], lambda r: [next(replies)]))
    assert made.prompt_text == "What is a river?"


def test_a_backend_without_structured_output_may_answer_with_a_list() -> None:
    def answer(request: Request) -> list[str]:
        assert request.response_format is None
        return ["Here you are:\n1. What is a river?\n2. I can't help with that.\n3. Who owns a river?"]

    made = rows_of(
        run_stage(Corpus(model="m", per_row=3), [row("On rivers")], answer, able=frozenset({"chat"}))
    )
    assert [m.prompt_text for m in made] == ["What is a river?", "Who owns a river?"]
    assert [m.id[-2:] for m in made] == ["-1", "-2"]


def test_no_more_than_asked_for_and_none_twice() -> None:
    reply = says("What is a river?", "what is a  RIVER?", "Who owns it?", "Where is it?")
    made = rows_of(run_stage(Corpus(model="m", per_row=2), [row("On rivers")], reply))
    assert [m.prompt_text for m in made] == ["What is a river?", "Who owns it?"]


def test_structured_output_is_strict_and_the_prompt_ends_with_its_shape() -> None:
    seen: list[Request] = []

    def answer(request: Request) -> list[str]:
        seen.append(request)
        if (
            request.response_format
            and "verdict" in request.response_format["json_schema"]["schema"]["properties"]
        ):
            return [json.dumps({"reasoning": "r", "verdict": "yes"})]
        return [json.dumps({"prompt": "Name two rivers.", "prompts": ["Name two rivers."]})]

    for stage in (Evolve(model="m"), Persona(model="m", per_row=3), Corpus(model="m")):
        run_stage(stage, [row("Name a river.")], answer)
    assert len(seen) == 4
    for request in seen:
        assert request.response_format is not None
        form = request.response_format["json_schema"]
        assert form["strict"] is True
        assert form["schema"]["required"] == list(form["schema"]["properties"])
        assert form["schema"]["additionalProperties"] is False
        ending = request.messages[-1]["content"].rsplit("shape: ", 1)[1]
        assert list(form["schema"]["properties"]) == [
            k for k in ("reasoning", "verdict", "prompt", "prompts") if f'"{k}"' in ending
        ]
    assert '"prompts": [<exactly 3 strings' in seen[2].messages[-1]["content"]


# ---- what the recipe check and the plan see


def test_roles_and_templates_are_found() -> None:
    stage = Evolve(model="m", checker="c", operations=("synth/evolve_deepen", "./mine.j2"))
    assert {role for _, role in stage.marked(ROLE)} == {"m", "c"}
    assert {"synth/evolve_deepen", "./mine.j2", "synth/gain", "synth/reask"} == {
        name for _, name in stage.marked(PROMPT)
    }


def test_the_load_is_what_is_asked() -> None:
    load = Evolve(model="m", checker="c", rounds=2, keep_steps=True).load(0)
    assert [(c.model, c.requests) for c in load.calls] == [("m", 2), ("c", 2)]
    assert load.rows == 3
    assert Evolve(model="m", check=False, keep_original=False).load(0).rows == 1
    assert [c.requests for c in Persona(model="m", per_row=5, personas=("a", "b")).load(0).calls] == [2]
    assert [c.requests for c in Persona(model="m", per_row=5).load(0).calls] == [1]
    assert Corpus(model="m", per_row=4).load(0).rows == 4
    assert Persona(model="m", column="who").needs() == Corpus(model="m", column="who").needs() == {"meta:who"}


@pytest.mark.parametrize(
    ("stage", "fields", "message"),
    [
        (Evolve, {"operations": ()}, "at least 1"),
        (Evolve, {"rounds": 0}, "greater than or equal to 1"),
        (Persona, {"personas": ["a"], "column": "b"}, "not both"),
        (Corpus, {"kinds": ()}, "at least 1"),
        (Corpus, {"topic": "x"}, "Extra inputs"),
    ],
)
def test_what_is_refused(stage: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        stage(model="m", **fields)


def test_no_word_is_a_barrier_in_one_piece() -> None:
    for stage in (Evolve(model="m"), Persona(model="m"), Corpus(model="m")):
        assert not any(isinstance(part, Barrier) for part in stage.expand())


def test_samples_of_the_parent_stay_with_the_parent() -> None:
    parent = row("Name a river.", "The Nile")
    made = rows_of(run_stage(Evolve(model="m", check=False), [parent], evolves("Name two rivers.")))
    assert [m.samples for m in made] == [parent.samples, ()]
    assert isinstance(parent.samples[0], Sample)
