"""Scores that are made of log-probabilities: where a text stands among a prompt's tokens, and the formulas. Pure.

A text's tokens are found by what the model was shown without the text, and never by counting or by looking for the
words: a template may put anything around them. Where the two do not fit, there is no score, and the reason says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from synthpref.core.expected import MIN_MASS, NO_TOKENS, menu_odds
from synthpref.core.reply import QUOTED, Parsed, quoted
from synthpref.core.seam import TokenLogprob

Shown = Sequence[TokenLogprob | None]
"""The tokens of a prompt as a model was shown it; the first, which nothing foretells, may be None."""
YES, NO = "yes", "no"
UNREADABLE = "\ufffd"
"""What stands for a part of a character that is split among tokens."""


@dataclass(frozen=True, slots=True)
class Span:
    """A text, as the tokens that a model reads it in."""

    tokens: tuple[TokenLogprob, ...]

    @property
    def total(self) -> float:
        """The logarithm of the text's probability, given what stands before it."""
        return math.fsum(token.logprob for token in self.tokens)

    @property
    def mean(self) -> float:
        """The same for each token."""
        return self.total / len(self.tokens)

    @property
    def texts(self) -> list[str]:
        return [token.token for token in self.tokens]


def after(whole: Shown, before: Shown, text: str) -> Parsed[Span]:
    """The tokens of `text`, with which `whole` ends; `before` is what the model is shown up to there.

    There is no value where the template or the tokenizer makes something else of the two: where `whole` does not
    begin with the tokens of `before`, or what is left are not the words of the text.
    """
    start = len(before)
    if _texts(whole[:start]) != _texts(before):
        at = _common(whole, before)
        return Parsed(None, f"{_UNALIGNED}: the prompt alone has other tokens from the {at + 1}th on")
    return _span(whole[start:], text)


def between(whole: Shown, frame: Shown, text: str) -> Parsed[Span]:
    """The tokens of `text` within `whole`; `frame` is what the model is shown when the text is empty.

    There is no value where the frame is not what stands before and after the text, and nothing else.
    """
    start = _common(whole, frame)
    end = _common(whole[::-1], frame[::-1])
    long = len(whole) - len(frame)
    if long < 1 or start + end < len(frame):
        return Parsed(None, f"{_UNALIGNED}: what stands around the text has other tokens without it")
    # More than the frame has: the text begins or ends with a token of the frame. What the words say then decides.
    fitting = (_span(whole[at : at + long], text) for at in range(len(frame) - end, start + 1))
    found = [span for span in fitting if span.value is not None]
    return found[0] if len(found) == 1 else Parsed(None, f"{_UNALIGNED}: {len(found)} places fit the text")


_UNALIGNED = "not aligned"


def _span(tokens: Shown, text: str) -> Parsed[Span]:
    if not tokens:
        return Parsed(None, f"{_UNALIGNED}: no tokens of the text are left")
    known = tuple(token for token in tokens if token is not None)
    if len(known) < len(tokens):
        return Parsed(None, f"{_UNALIGNED}: the text begins with a token that nothing foretells")
    said = "".join(token.token for token in known)
    # Blanks at the ends are a template's to cut off, and some tokens do not show those at their beginning.
    if not _reads(said, text):
        return Parsed(None, f"{_UNALIGNED}: the model was shown {quoted(said)} in place of {quoted(text)}")
    return Parsed(Span(known))


def _reads(said: str, text: str) -> bool:
    """Whether the tokens' words are those of the text, as far as they can be read."""
    wanted, places = "".join(text.split()), {0}
    for words, lost in re.findall(f"([^{UNREADABLE}]*)({UNREADABLE}*)", "".join(said.split())):
        # A character that is split has a mark in each of its tokens, and may be a blank.
        places = {
            at + len(words) + more
            for at in places
            if wanted.startswith(words, at)
            for more in range(len(lost) + 1)
        }
    return len(wanted) in places


def _texts(tokens: Shown) -> list[str | None]:
    return [None if token is None else token.token for token in tokens]


def _common(a: Shown, b: Shown) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(_texts(a), _texts(b), strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def perplexity(span: Span) -> float:
    """How many tokens a model wavers between, on average; 1 where it foretells each. The exponent of the negative mean
    log-probability, as usual."""
    return math.exp(min(-span.mean, 700.0))


def log_ratio(over: Span, under: Span, *, per_token: bool = False) -> Parsed[float]:
    """log p_over(text) - log p_under(text), summed over the tokens or for each of them.

    The reward of density ratios (CDR, arXiv:2411.02481), where `over` is the better aligned of two models with one
    tokenizer. There is no value where the two cut the text into other tokens.
    """
    if over.texts != under.texts:
        counts = f"{len(over.tokens)} and {len(under.tokens)}"
        return Parsed(None, f"other tokens: the two models cut the text into {counts}, and not alike")
    ratio = over.total - under.total
    return Parsed(ratio / len(over.tokens) if per_token else ratio)


def implicit_reward(policy: Span, reference: Span, beta: float) -> Parsed[float]:
    """beta (log pi(text) - log pi_ref(text)): the reward that a policy trained by DPO has learned, up to a term that
    responses to one prompt share (arXiv:2305.18290, section 4; labels by it: SPA, arXiv:2406.04412)."""
    ratio = log_ratio(policy, reference)
    return ratio if ratio.value is None else Parsed(beta * ratio.value)


def followup_score(good: Sequence[Span], bad: Sequence[Span]) -> float:
    """The mean of the pleased follow-ups less that of the displeased ones, each by its mean log-probability a token
    (FLR, arXiv:2409.13948). The paper's code averages logits, which no interface gives; the log-probability is what
    carries over."""
    return math.fsum(s.mean for s in good) / len(good) - math.fsum(s.mean for s in bad) / len(bad)


_QUOTATION = re.compile(r"[\s*_]*(?:>|[\"“„«‘'「]\W*\w+\W*[\"”“»’'」]\W*\w)")


def yes_share(tokens: Sequence[TokenLogprob] | None, min_mass: float = MIN_MASS) -> Parsed[float]:
    """p(yes) / (p(yes) + p(no)) at the first token that holds a letter, whichever word was said there
    (arXiv:2502.16182). There is no value where the two words have less than `min_mass` between them, or where that
    word is quoted: on a line that begins with ">", or in quotation marks with more words after them."""
    if tokens is None:
        return NO_TOKENS
    first = next((i for i, t in enumerate(tokens) if any(map(str.isalpha, t.token))), None)
    if first is None:
        return Parsed(None, f"no word found: {quoted(''.join(t.token for t in tokens))}")
    if _QUOTATION.match("".join(token.token for token in tokens)):
        return Parsed(None, QUOTED)
    odds = menu_odds(tokens[first:], Parsed(YES, at=0), (YES, NO), min_mass=min_mass)
    if odds.value is None:
        return Parsed(None, odds.why)
    return Parsed(odds.value.get(YES, 0.0))
