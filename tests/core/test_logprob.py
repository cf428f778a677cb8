"""Where a text stands among a prompt's tokens, and the formulas that are made of its log-probabilities."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthpref.core.logprob import (
    Span,
    after,
    between,
    followup_score,
    implicit_reward,
    log_ratio,
    perplexity,
    yes_share,
)
from synthpref.core.reply import QUOTED
from synthpref.core.seam import TokenLogprob

LOGPROB = st.floats(-50, 0)
SPANS = st.lists(LOGPROB, min_size=1, max_size=8)


def tokens(*words: str, first: bool = True) -> list[TokenLogprob | None]:
    """A prompt's tokens; each is as probable as it is short."""
    made: list[TokenLogprob | None] = [TokenLogprob(word, -float(len(word))) for word in words]
    return [None, *made] if first else made


SPLIT = ("\ufffd", "\ufffd")
"""A character of which each of two tokens has a part."""


def span(*logprobs: float, words: str = "") -> Span:
    return Span(tuple(TokenLogprob(words or f"w{i}", p) for i, p in enumerate(logprobs)))


# ---- places


def test_what_comes_after_the_prompt() -> None:
    found = after(
        tokens("user", ":", "Why?", "bot:", "So", " it", " is"),
        tokens("user", ":", "Why?", "bot:"),
        "So it is",
    )
    assert found.value is not None
    assert found.value.texts == ["So", " it", " is"]
    assert found.value.total == -8
    assert found.value.mean == pytest.approx(-8 / 3)


@pytest.mark.parametrize(
    ("whole", "before", "text", "why"),
    [
        (("a", "\n\n", "So"), ("a", "\n"), "\nSo", "the prompt alone has other tokens from the 3th on"),
        (("a", "b"), ("a", "b"), "So", "no tokens of the text are left"),
        (("a",), ("a", "b"), "So", "other tokens"),
        (
            ("a", "<think></think>", "So"),
            ("a",),
            "So",
            "the model was shown '<think></think>So' in place of 'So'",
        ),
        (("a", "S"), ("a",), "So", "in place of"),
        (("a", "<think></think>", "So ", *SPLIT), ("a",), "So ☂", "the model was shown '<think>"),
        (("a", "So ", *SPLIT), ("a",), "So ☂ it", "in place of"),
    ],
)
def test_what_does_not_fit_is_no_span(
    whole: tuple[str, ...], before: tuple[str, ...], text: str, why: str
) -> None:
    found = after(tokens(*whole), tokens(*before), text)
    assert found.value is None
    assert (found.why or "").startswith("not aligned: ")
    assert why in (found.why or "")


def test_blanks_at_the_ends_may_be_cut_off_and_parts_of_characters_cannot_be_compared() -> None:
    assert after(tokens("a", "So", "."), tokens("a"), " So. \n").value is not None
    for text in ("☂", "☂☁", "☂ ☁"):
        assert after(tokens("a", *SPLIT), tokens("a"), text).value is not None
    for blank in ("\u3000", "\u2003"):
        assert after(tokens("a", "So", *SPLIT, "it"), tokens("a"), f"So{blank}it").value is not None


def test_a_first_token_that_nothing_foretells_has_no_place_in_a_span() -> None:
    found = after(tokens("o"), [], "So")
    assert found.value is None
    assert "nothing foretells" in (found.why or "")


def test_what_stands_between() -> None:
    frame = tokens("user", "\n", "<end>", "\n", "bot")
    found = between(tokens("user", "\n", "Thank", " you", "<end>", "\n", "bot"), frame, "Thank you")
    assert found.value is not None
    assert found.value.texts == ["Thank", " you"]


def test_a_text_that_begins_or_ends_as_its_surroundings_do_is_told_by_its_words() -> None:
    frame = tokens("(", "x", ")")
    found = between(tokens("(", "x", ")", "yes", ")"), frame, ")yes")
    assert found.value is not None
    assert found.value.texts == [")", "yes"]
    found = between(tokens("(", "x", "yes", "x", ")"), frame, "yesx")
    assert found.value is not None
    assert found.value.texts == ["yes", "x"]


@pytest.mark.parametrize(
    ("whole", "text"),
    [
        (("(", "x", ")"), ""),
        (("(", ")"), "yes"),
        (("[", "x", "yes", ")"), "yes"),
        (("(", "x", "yes", ")"), "no"),
        (("(", "x", "yes", "y", ")"), "yesz"),
    ],
)
def test_what_does_not_fit_between_is_no_span(whole: tuple[str, ...], text: str) -> None:
    found = between(tokens(*whole), tokens("(", "x", ")"), text)
    assert found.value is None
    assert (found.why or "").startswith("not aligned: ")


WORDS = st.lists(st.sampled_from(["a", "b", "ab", " ", "\n", "<e>"]), max_size=6)


@given(WORDS, WORDS, WORDS)
def test_a_text_is_found_or_nothing_is(head: list[str], text: list[str], tail: list[str]) -> None:
    whole, said = tokens(*head, *text, *tail), "".join(text)
    found = between(whole, tokens(*head, *tail), said)
    if found.value is not None:
        assert "".join("".join(found.value.texts).split()) == "".join(said.split())
        assert len(found.value.tokens) == len(text)
    found = after(tokens(*head, *text), tokens(*head), said)
    assert (found.value is not None) == bool(text)
    if found.value is not None:
        assert found.value.texts == text


# ---- formulas


@pytest.mark.parametrize(
    ("read", "expected"), [((0.0,), 1.0), ((-math.log(8),) * 5, 8.0), ((-1.0, -3.0), math.e**2)]
)
def test_perplexity(read: tuple[float, ...], expected: float) -> None:
    assert perplexity(span(*read)) == pytest.approx(expected)


def test_a_perplexity_beyond_all_numbers_is_a_number() -> None:
    assert math.isfinite(perplexity(span(-9999.0)))


@given(SPANS, st.data())
def test_ratios(read: list[float], data: st.DataObject) -> None:
    other = data.draw(st.lists(LOGPROB, min_size=len(read), max_size=len(read)))
    over, under = span(*read), span(*other)
    ratio = log_ratio(over, under).value
    assert ratio == pytest.approx(sum(read) - sum(other))
    assert log_ratio(under, over).value == -ratio
    assert log_ratio(over, under, per_token=True).value == pytest.approx(ratio / len(read))
    assert implicit_reward(over, under, 0.1).value == pytest.approx(0.1 * ratio)
    assert log_ratio(over, over).value == 0


def test_models_that_cut_a_text_differently_have_no_ratio() -> None:
    for made in (
        log_ratio(span(-1, -1), span(-1)),
        implicit_reward(span(-1, words="a"), span(-1, words="b"), 1),
    ):
        assert made.value is None
        assert (made.why or "").startswith("other tokens: ")


@given(st.lists(SPANS, min_size=1, max_size=4), st.lists(SPANS, min_size=1, max_size=4))
def test_followups(good: list[list[float]], bad: list[list[float]]) -> None:
    pleased, displeased = [span(*s) for s in good], [span(*s) for s in bad]
    value = followup_score(pleased, displeased)
    means = [[sum(s) / len(s) for s in side] for side in (good, bad)]
    assert value == pytest.approx(sum(means[0]) / len(good) - sum(means[1]) / len(bad))
    assert followup_score(displeased, pleased) == pytest.approx(-value)


def word(said: str, **odds: float) -> TokenLogprob:
    top = tuple((text, math.log(p)) for text, p in odds.items())
    return TokenLogprob(said, dict(top).get(said, -20.0), top)


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        ([word("yes", yes=0.6, no=0.2)], 0.75),
        ([word("no", yes=0.6, no=0.2)], 0.75),
        ([word("yes", yes=0.5, Yes=0.1, YES=0.1, No=0.1, no=0.1, maybe=0.1)], 7 / 9),
        ([word("yes", yes=0.9, maybe=0.1)], 1.0),
        ([word("no", no=0.9)], 0.0),
        ([TokenLogprob("\n", 0.0), word('"', x=0.1), word("yes", yes=0.6, no=0.2)], 0.75),
        # Another word was said there, but the two are what was likely.
        ([word("well", yes=0.6, no=0.3, well=0.1)], 2 / 3),
        # A tokenizer that has only their beginnings.
        ([word("y", y=0.6, n=0.2), word("es", es=1.0)], 0.75),
    ],
)
def test_the_share_of_yes(read: list[TokenLogprob], expected: float) -> None:
    made = yes_share(read).value
    assert made == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("read", "why"),
    [
        (None, "no logprobs"),
        ([], "no word found"),
        ([TokenLogprob("7", 0.0)], "no word found: '7'"),
        ([word("good", good=0.9, yes=0.05)], "too little mass"),
        ([word("good", good=0.9)], "too little mass"),
    ],
)
def test_no_yes_and_no_no_is_no_score(read: list[TokenLogprob] | None, why: str) -> None:
    made = yes_share(read)
    assert made.value is None
    assert (made.why or "").startswith(why)
    assert yes_share([word("good", good=0.9, yes=0.05)], 0.01).value == 1


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (['"', "yes", '"', " is", " what"], QUOTED),
        (["“", "yes", "”", " it", " says"], QUOTED),
        ([">", " ", "yes"], QUOTED),
        (['"', "yes", '"'], None),
        (["**", "yes", "**"], None),
        (["yes", ",", " it", ' says "', "no", '"'], None),
    ],
)
def test_a_yes_that_is_quoted_is_not_the_judges(texts: list[str], why: str | None) -> None:
    made = yes_share([word(text, **{text: 0.9}) for text in texts])
    assert made.why == why
    assert (made.value is None) == (why is not None)
