"""A made-up world of answers, each of which has a true quality that can be read back from its text alone.

An answer consists of sentences. Some open with words that are graded strong (+1), plain (0) or weak (-1), and
the rest is filler, which counts for nothing; so length and quality are independent. The quality is three times
the mean grade, hence within about -3 to 3, with a jitter by a hash of the text that makes it continuous.
Quality is in units of the spread of an ordinary policy: about -3 (hopeless) to 3 (flawless), 0 in the middle.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist

from synthpref.models import phrases

SLOTS = 8
"""Graded sentences in an answer of ordinary length; short answers have fewer."""
BEST = 3.0
WORDS_PER_SLOT = 20
CUT_SHORT, REFUSED = 0.5, -2.5
"""What an answer that breaks off loses; and the quality of a refusal."""

_GRADES = {
    **dict.fromkeys(phrases.STRONG, 1),
    **dict.fromkeys(phrases.PLAIN, 0),
    **dict.fromkeys(phrases.WEAK, -1),
}
_OPENINGS = re.compile("|".join(re.escape(opening) for opening in sorted(_GRADES, key=len, reverse=True)))
_BY_GRADE = {1: phrases.STRONG, 0: phrases.PLAIN, -1: phrases.WEAK}
_WORD = re.compile(r"[^\W\d_][\w'’-]{3,30}")
_ENDED = re.compile(r"[.!?…][\"'”’)\]*_`]*\s*\Z")
_SEEN = 4000
"""Of a long text, this many characters at each end are looked at for its words."""


def uniform(*parts: object) -> float:
    """A number between 0 and 1 that depends on the parts alone."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:7], "big") + 0.5) / 2**56


def normal(*parts: object) -> float:
    """A draw from the standard normal distribution that depends on the parts alone."""
    return NormalDist().inv_cdf(uniform(*parts))


@lru_cache(maxsize=4096)
def quality(text: str) -> float:
    """The true quality of a text. One that is not of this world has a standard normal quality by its hash;
    an empty one has the worst there is."""
    if not text.strip():
        return -BEST
    if text.strip() in phrases.REFUSALS:
        return REFUSED
    grades = [_GRADES[opening] for opening in _OPENINGS.findall(text)]
    if not grades:
        return normal("foreign", text)
    whole = BEST * (sum(grades) + _jitter(text) / 2) / len(grades)
    return whole if _ENDED.search(text[-20:]) else whole - CUT_SHORT


def _jitter(text: str) -> float:
    return 2 * uniform("jitter", text) - 1


def topics(text: str) -> list[str]:
    """Words and word pairs of a text that an answer to it may speak of, in order, at least four."""
    part = text if len(text) <= 2 * _SEEN else f"{text[:_SEEN]} {text[-_SEEN:]}"
    found: dict[str, None] = {}
    last: re.Match[str] | None = None
    for match in _WORD.finditer(part):
        word = match[0].lower()
        if word in phrases.STOP_WORDS:
            last = None
            continue
        found[word] = None
        if last is not None and part[last.end() : match.start()] == " ":
            found[f"{last[0].lower()} {word}"] = None
        last = match
    if len(found) < 4:
        found |= dict.fromkeys(("the question", "a good answer", "the first step", "the whole"))
    return list(found)


def _filled(pattern: str, about: Sequence[str], rng: random.Random) -> str:
    a, b = rng.sample(about, 2)
    return pattern.format(a=a, b=b)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def compose(prompt: str, target: float, length: float, rng: random.Random) -> str:
    """An answer to `prompt` with a quality near `target` (as far as the ends of the scale allow) and about
    `length` words."""
    about = topics(prompt)
    slots = min(SLOTS, max(1, int(length / WORDS_PER_SLOT)))
    wanted = max(-slots, min(slots, target / BEST * slots))
    graded = []
    for grade in _split(round(wanted), slots, rng):
        statement = _filled(rng.choice(phrases.STATEMENTS), about, rng)
        graded.append(f"{rng.choice(_BY_GRADE[grade])} {statement}{rng.choice(phrases.TAILS)}.")
    words = sum(sentence.count(" ") + 1 for sentence in graded)
    while words < length - 5:
        filler = _capital(_filled(rng.choice(phrases.FILLERS), about, rng))
        graded.insert(rng.randrange(len(graded)), filler)
        words += filler.count(" ") + 1
    text = _paragraphs(graded, rng)[:-1]
    # Grades make steps; the jitter of a fitting ending makes up for what is between two of them.
    endings = [f"{text}{tail}." for tail in dict.fromkeys(phrases.TAILS)]
    return min(endings, key=lambda ending: abs(_jitter(ending) / 2 - (wanted - round(wanted))))


def _split(total: int, slots: int, rng: random.Random) -> list[int]:
    """`slots` grades of -1, 0 and 1, in any order, that sum up to `total`."""
    sign = 1 if total >= 0 else -1
    pairs = rng.randint(0, (slots - abs(total)) // 2)
    grades = [sign] * abs(total) + [1, -1] * pairs
    grades += [0] * (slots - len(grades))
    rng.shuffle(grades)
    return grades


def _paragraphs(sentences: Sequence[str], rng: random.Random) -> str:
    parts, at = [], 0
    while at < len(sentences):
        size = rng.randint(3, 6)
        parts.append(" ".join(sentences[at : at + size]))
        at += size
    return "\n\n".join(parts)


def new_prompt(about: str, rng: random.Random) -> str:
    """A prompt that nobody asked before. `about` is what it starts from ("" for anything)."""
    subjects = list(phrases.SUBJECTS)
    subject = rng.choice(subjects)
    known = topics(about) if about.strip() else []
    if known and rng.random() < 0.5:
        subject = f"{rng.choice(known)} in {subject}" if rng.random() < 0.5 else rng.choice(known)
    text = _demand(rng.choice(phrases.TASKS), subject, rng)
    if rng.random() < 0.6:
        text += f" {_demand(rng.choice(phrases.DEMANDS), rng.choice(subjects), rng)}"
    return _capital(text)


def harder_prompt(prompt: str, rng: random.Random) -> str:
    """`prompt` with one or two demands more."""
    demands = rng.sample(phrases.DEMANDS, rng.choice((1, 1, 2)))
    subject = rng.choice(topics(prompt))
    return f"{prompt.rstrip()} " + " ".join(_demand(demand, subject, rng) for demand in demands)


def _demand(pattern: str, subject: str, rng: random.Random) -> str:
    return pattern.format(x=subject, reader=rng.choice(phrases.READERS), n=rng.randint(2, 9))


def reasoning(prompt: str, seen: float, rng: random.Random) -> str:
    """What a judge says who sees a quality of `seen`."""
    level = "high" if seen > 0.7 else "low" if seen < -0.7 else "middle"
    about = topics(prompt)
    return " ".join(_filled(one, about, rng) for one in rng.sample(phrases.REASONS[level], 2))


def rationale(prompt: str, preferred: str, other: str, rng: random.Random) -> str:
    """Why one response was preferred to another, with a few words of both."""
    about = topics(prompt)
    said = rng.sample(phrases.RATIONALES, 3)
    quoted = rng.sample(phrases.QUOTING, 2)
    good, bad = _quote(preferred, rng), _quote(other, rng)
    sentences = [*(_filled(one, about, rng) for one in said), *(q.format(good=good, bad=bad) for q in quoted)]
    rng.shuffle(sentences)
    return " ".join(sentences)


def _quote(text: str, rng: random.Random) -> str:
    words = text[:_SEEN].split()
    at = rng.randrange(max(1, len(words) - 5))
    return " ".join(words[at : at + 6]).strip(" .,:;")


def vector(text: str, size: int) -> tuple[float, ...]:
    """An embedding of length 1: words and word pairs, hashed with a sign. Texts with words in common are near."""
    values = [0.0] * size
    words = [word.lower() for word in re.findall(r"\w+", text)]
    for gram in (*words, *map(" ".join, pairwise(words))):
        digest = hashlib.blake2b(gram.encode(), digest_size=8).digest()
        values[int.from_bytes(digest[:7], "big") % size] += 1.0 if digest[7] & 1 else -1.0
    norm = math.sqrt(math.fsum(value * value for value in values))
    if norm == 0.0:
        values[0] = norm = 1.0
    return tuple(value / norm for value in values)


def chances(values: Sequence[float], centre: float, sd: float, floor: float = 1e-9) -> list[float]:
    """The probability of each of `values` (evenly spaced, rising), as that of its bin under a normal curve;
    what lies beyond the ends counts for the ends."""
    if sd < 1e-6:
        nearest = min(values, key=lambda value: abs(value - centre))
        weights = [1.0 if value == nearest else 0.0 for value in values]
    else:
        below = NormalDist(centre, sd).cdf
        edges = [0.0, *(below((a + b) / 2) for a, b in pairwise(values)), 1.0]
        weights = [high - low for low, high in pairwise(edges)]
    total = math.fsum(weights) + floor * len(weights)
    return [(weight + floor) / total for weight in weights]
