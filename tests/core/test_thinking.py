"""Thinking apart from the answer, and answers about thinking left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpref.core.seam import Completion, TokenLogprob
from synthpref.core.thinking import join_thinking, read_completion, split_thinking
from synthpref.core.types import Usage

HARMONY = "<|channel|>analysis<|message|>We need to answer.<|end|><|start|>assistant<|channel|>final<|message|>Four."
SPLIT = [
    ("<think>\nHm.\n</think>\n\nSo.", "Hm.", "So."),
    ("  \n<think>Hm.</think>So.", "Hm.", "So."),
    ("<think></think>\n\nSo.", None, "So."),
    ("<think>\n\n</think>\n\nSo.", None, "So."),
    ("<THINK>Hm.</THINK>So.", "Hm.", "So."),
    ("<thinking>Hm.</thinking>\nSo.", "Hm.", "So."),
    ("<thought>\nHm.\n</thought>\nSo.", "Hm.", "So."),
    ("<seed:think>Hm.</seed:think>So.", "Hm.", "So."),
    ("[THINK]Hm.[/THINK]So.", "Hm.", "So."),
    ("◁think▷Hm.◁/think▷So.", "Hm.", "So."),
    ("<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>So.<|END_RESPONSE|>", "Hm.", "So."),
    ("<|begin_of_thought|>Hm.<|end_of_thought|>\n\n<|begin_of_solution|>So.<|end_of_solution|>", "Hm.", "So."),
    ("<think>Hm.</think>\n<answer>So.</answer>", "Hm.", "So."),
    # The opening tag stood in the prompt.
    ("Hm.\n</think>\n\nSo.", "Hm.", "So."),
    ("Hm.</think>So.", "Hm.", "So."),
    ("Two and two is 4.</think>{\"score\": 4}", "Two and two is 4.", '{"score": 4}'),
    ("</think>\n\nSo.", None, "So."),
    ("Hm, `x`\n</think>\nSo.", "Hm, `x`", "So."),
    ("Hm.\n</think>", "Hm.", ""),
    # Several blocks.
    ("<think>Hm.</think><think>Well.</think>So.", "Hm.\n\nWell.", "So."),
    ("<think>Hm.</think>\nWait, no.\n</think>\n\nSo.", "Hm.\n\nWait, no.", "So."),
    # Thinking about tags.
    ("<think>They ask about `</think>` tags.</think>A tag.", "They ask about `</think>` tags.", "A tag."),
    ("<think>A <think> in here.</think>So.", "A <think> in here.", "So."),
    ("<think>```\nopen block\n</think>\nSo.", "```\nopen block", "So."),
    # The answer is about tags.
    ("<think>Hm.</think>Write `</think>` last.", "Hm.", "Write `</think>` last."),
    ("<think>Hm.</think>```\n</think>\n```", "Hm.", "```\n</think>\n```"),
    # Harmony.
    (HARMONY, "We need to answer.", "Four."),
    (f"<|start|>assistant{HARMONY}<|return|>", "We need to answer.", "Four."),
    ("<|channel|>final<|message|>Four.<|return|>", None, "Four."),
    ("<|channel|>analysis<|message|>A.<|end|><|start|>assistant<|channel|>commentary<|message|>B.<|end|>"
     "<|start|>assistant<|channel|>final <|constrain|>json<|message|>{\"score\": 3}<|end|>", "A.\n\nB.", '{"score": 3}'),
    ("analysisWe need a number.assistantfinalFour.", "We need a number.", "Four."),
    # What a chat template leaves at the end.
    ("So.<|im_end|>", None, "So."),
    ("So.<|eot_id|>\n", None, "So."),
    ("So.<|im_end|><|endoftext|>", None, "So."),
    ("So.</s>", None, "So."),
    ("So.<｜end▁of▁sentence｜>", None, "So."),
    ("So.<end_of_turn>\n", None, "So."),
    ("<think>Hm.</think>So.<|im_end|>", "Hm.", "So."),
]  # fmt: skip
KEPT = [
    "So it is.",
    "",
    "Write </think> to end it.",
    "To end it, write </think>",
    "To end it, write </think>\nThen answer.",
    "The tags <think> and </think> surround a model's reasoning.",
    "<think> tags are written by reasoning models.",
    "<think> and </think> are the tags of reasoning models.",
    "Models such as R1 write `<think>` first and `</think>` last.\n\nThat is all.",
    "Use this:\n```xml\n<think>\nreasoning\n</think>\nanswer\n```\nIt parses well.",
    "Use this:\n\n    <think>reasoning</think>\n",
    "~~~\nHm.\n</think>\n~~~\nSo.",
    'The stop text is "</think>". Set it.',
    "It ends with '</think>'.\nThen the answer comes.",
    "A template has\n<think>\n...\n</think>\nin it.",
    "The token <|im_end|> ends a turn in ChatML.",
    "Its last token is `<|im_end|>`",
    "<s>old</s>",
    "a <| b |> c in F#",
    "x <|> y",
    "analysis of the finals: a draw",
    "analysis: the final says so",
    "if a < b and c > d: think",
    "[THINKING] is no tag",
]


@pytest.mark.parametrize(("text", "thought", "answer"), SPLIT)
def test_thinking_is_no_part_of_the_answer(text: str, thought: str | None, answer: str) -> None:
    split = split_thinking(text)
    assert (split.thought, split.answer, split.closed) == (thought, answer, True)


@pytest.mark.parametrize("text", KEPT)
def test_an_answer_about_tags_keeps_them(text: str) -> None:
    completion = Completion(text=text, finish_reason="stop")
    assert read_completion(completion) is completion


@pytest.mark.parametrize(
    "text",
    ["<think>Hm, well. The score is 7.", "<think>", "[THINK]Hm", "<|channel|>analysis<|message|>Score: 7",
     "<think>They ask of </thinking>"],
)  # fmt: skip
@pytest.mark.parametrize("word", ["stop", None, "length", "max_tokens"])
def test_thinking_without_an_end_is_a_cut_and_empty_answer(text: str, word: str | None) -> None:
    made = read_completion(Completion(text=text, finish_reason=word))
    assert (made.text, made.ended) == ("", "cut")


def test_both_kinds_of_reasoning_are_kept_once() -> None:
    one = Completion(text="<think>B.</think>So.", reasoning="A.")
    assert read_completion(one).reasoning == "A.\n\nB."
    twice = Completion(text="<think>A.</think>So.", reasoning="A.")
    assert read_completion(twice).reasoning == "A."


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        (["<think>", "3", "</think>", "\n\n", "7"], ["7"]),
        (["<think>", "3", "</think>", "7", "<|im_end|>"], ["7"]),
        (["3", "</think>", "Score", ": ", "7", "<|im_end|>"], ["Score", ": ", "7"]),
        (["<think>", "3"], []),
    ],
)
def test_tokens_of_the_thinking_go_too(tokens: list[str], kept: list[str]) -> None:
    text = "".join(tokens)
    logprobs = tuple(TokenLogprob(token, -0.5) for token in tokens)
    made = read_completion(Completion(text=text, logprobs=logprobs))
    assert [token.token for token in made.logprobs or ()] == kept


@pytest.mark.parametrize(
    ("text", "tokens", "kept"),
    [
        ("7", ["3", "</think>", "7", "<|im_end|>"], ["7"]),
        ("7", ["<think>", "3 or 7", "</think>", "\n\n7", ""], ["\n\n7"]),
        ("Score: 7", ["Score", ": ", "3", "</think>", "Score", ": ", "7"], ["Score", ": ", "7"]),
        ("7", ["7"], ["7"]),
        ("", ["{", '"score": 3', "}"], []),
    ],
)
def test_tokens_of_thinking_that_the_server_took_out_of_the_text_go_too(
    text: str, tokens: list[str], kept: list[str]
) -> None:
    """As llama.cpp and vLLM give them: the text is the answer alone, the tokens are those of the whole."""
    logprobs = tuple(TokenLogprob(token, -0.5) for token in tokens)
    made = read_completion(Completion(text=text, reasoning="Is it 3?", logprobs=logprobs))
    assert [token.token for token in made.logprobs or ()] == kept
    assert (made.text, made.reasoning) == (text, "Is it 3?")


def test_no_finish_reason_and_as_many_tokens_as_there_may_be_is_a_cut() -> None:
    answer = Completion(text="half an ans", usage=Usage(10, 16))
    assert read_completion(answer, limit=16).ended == "cut"
    assert read_completion(answer, limit=17).ended == "whole"
    assert read_completion(answer).ended == "whole"
    stopped = Completion(text="just so long", finish_reason="stop", usage=Usage(10, 16))
    assert read_completion(stopped, limit=16).ended == "whole"


words = st.text(st.characters(blacklist_characters="<>[]◁▷`|｜\"'“”‘’«»()~"), max_size=60).map(str.strip)


@given(words.filter(bool), words.filter(lambda text: bool(text) and not text.startswith("analysis")))
def test_what_is_joined_is_split_again(thought: str, answer: str) -> None:
    split = split_thinking(join_thinking(thought, answer))
    assert (split.thought, split.answer) == (thought, answer)


@given(st.text(max_size=300))
def test_splitting_once_is_enough_and_nothing_is_added(text: str) -> None:
    split = split_thinking(text)
    assert split.answer in text
    assert split.thought is None or all(part in text for part in split.thought.split("\n\n"))


def test_a_long_text_is_split_in_good_time() -> None:
    for piece in (
        "`",
        "```\n",
        "<think",
        "</think> a",
        "<|a|>",
        "analysisA",
        "<think>`</think>`",
        "<|channel|>a",
    ):
        text = piece * (60_000 // len(piece))
        split_thinking(text)
        split_thinking("<think>" + text)
