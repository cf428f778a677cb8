from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from made import full, paired
from synthpref.core.seam import Completion, Request
from synthpref.core.types import Comparison, Pair, Row, Sample, Score, Usage, Vote
from synthpref.io.show import safe, show_calls, show_left, show_row


def seen(row: Row) -> str:
    console = Console(file=io.StringIO(), soft_wrap=True, highlight=False, width=80)
    console.print(show_row(row))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_everything_that_led_to_a_pair() -> None:
    text = seen(full())
    for part in (
        "Row row-007",
        "made by synth.evolve from row seed-1, writer: made deeper",
        "licence: cc-by-4.0 · topic: sums",
        "user:\n  │ question 7?",
        "Reference\n  │ 42",
        "Response 0 (chosen)\nmodel: m0 · finish_reason: stop · seed: 7 · temperature: 1\n  │ answer 0 to question 7",
        "good: 8\n",
        "Response 1 (rejected)",
        "good: no value (not on the scale: 11)",
        "compared: response 0 against 1: response 0 won 50%, flipped when the order was swapped",
        "j1, shown as ab: 1\n      │ clear\n      reply:\n      │ A",
        "j2: no value (no verdict in the reply)",
        "Pair 0: response 0 over response 1, by extremes\n  margin: 6 · n: 2",
        "chosen: response 0. good: 8",
        "rejected: response 1. good: 2",
        "rationale:\n  │ the first is right",
    ):
        assert part in text, part
    order = [text.index(part) for part in ("Prompt", "Response 0", "compared:", "Pair 0")]
    assert order == sorted(order)


def test_how_sure_a_pair_is_and_who_voted() -> None:
    votes = (
        Vote("gpt", 1.0, role="strict", shown="ab", scores=(8.0, 3.0), reliability=0.875),
        Vote("gpt", None, "not asked: the outcome was certain", role="gpt", asked=False),
    )
    pair = Pair(0, 1, "extremes", 6.0, p=0.8, p_low=0.44, p_high=0.97, agreement=0.75, votes=4)
    one = paired(1, comparisons=(Comparison("voted", 0, 1, 1.0, votes=votes),), pairs=(pair,))
    text = seen(one)
    assert "margin: 6 · p: 0.8 · 95 %: 0.44 to 0.97 · agreement: 0.75 · votes: 4" in text
    assert "strict (gpt), shown as ab: 1, by scores 8 and 3, reliability 0.88" in text
    assert "gpt: no value (not asked: the outcome was certain)" in text


def test_texts_are_shown_as_they_are_and_cannot_touch_the_terminal() -> None:
    odd = Sample("[red]not markup[/red] \x1b[2Jgone\r\nnext\tline \x07 ‮abc \x9b31m", scores={"s": Score(1.0)})
    text = seen(Row(id="r", prompt=({"role": "user", "content": "[bold]"},), samples=(odd, Sample("  "))))
    assert "[red]not markup[/red] \\x1b[2Jgone\n  │ next" in text
    assert "\\x07 \\u202eabc \\x9b31m" in text
    assert "[bold]" in text
    assert "\x1b" not in text
    assert "(empty)" in text
    assert "brought by the source" in text


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "ä → 漢字 🙂", ""])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert safe(text) == text


def test_a_row_with_nothing_on_it() -> None:
    text = seen(Row(id="r", prompt=({"role": "user", "content": "q"},)))
    assert text.strip() == "Row r\n\nPrompt\n  user:\n  │ q"


def test_a_sample_in_two_roles() -> None:
    row = paired(1)
    both = replace(row, pairs=(row.pairs[0], replace(row.pairs[0], chosen=1, rejected=2)))
    assert "Response 1 (rejected, chosen)" in seen(both)


def test_why_a_row_left() -> None:
    text = show_left("drop", "pair.extremes", "all scores equal", "3 samples at 5").plain
    assert text == "\nDropped by pair.extremes: all scores equal\n  │ 3 samples at 5\n"
    assert (
        "Rejected by sample.n: context_length" in show_left("reject", "sample.n", "context_length", "").plain
    )


def test_calls_are_shown_as_they_were_sent() -> None:
    chat = Request(
        messages=({"role": "system", "content": "S"}, {"role": "user", "content": "U\nV"}),
        temperature=0.0,
        response_format={"type": "json_schema"},
    )
    answers = [
        Completion(text="yes", finish_reason="stop", reasoning="well", usage=Usage(3, 4), seed=9),
        Completion(text="", finish_reason="length"),
    ]
    embed = Request(messages=({"role": "user", "content": "E"},), kind="embed")
    reward = Request(messages=({"role": "user", "content": "R"},), kind="reward")
    text = show_calls(
        [
            ("judge.point", "judge", "big-model", chat, answers),
            ("filter.diversity", "vectors", "small", embed, [Completion(vector=(0.1, 0.2))]),
            ("reward", "rm", "rm-1", reward, [Completion(values={"reward": 1.5})]),
        ]
    ).plain
    for part in (
        "judge.point asked judge (big-model)\ntemperature: 0 · format: JSON schema\n  system:\n  │ S\n  user:\n  │ U\n  │ V",
        "reply: finish_reason: stop · seed: 9 · tokens: 4\n    reasoning:\n    │ well\n    │ yes",
        "reply: finish_reason: length\n    │ \n",
        "kind: embed",
        "a vector of 2 numbers",
        "reward: 1.5",
    ):
        assert part in text, part
