"""One stage, in full: its fields are its YAML and its docs, and `run` takes a row and returns it with more on it."""

from __future__ import annotations

import re

from synthpref import Ask, Row, RowStage, Sample, Score


class Readability(RowStage):
    """Score each sample by Flesch reading ease: higher is easier (R. Flesch, J. Applied Psychology 32, 1948)."""

    name: str = "readability"
    """Name of the score."""
    shortest: int = 5
    """Samples with fewer words get no score."""

    def needs(self) -> set[str]:
        return {"samples"}

    def gives(self) -> set[str]:
        return {f"score:{self.name}"}

    async def run(self, row: Row, ask: Ask) -> Row:
        return row.scored(self.name, [self.score(sample) for sample in row.samples])

    def score(self, sample: Sample) -> Score:
        words = re.findall(r"[A-Za-z']+", sample.text)
        if len(words) < self.shortest:
            return Score(why=f"fewer than {self.shortest} words")
        sentences = max(len(re.findall(r"[.!?]+(?=\s|$)", sample.text)), 1)
        syllables = sum(max(len(re.findall(r"[aeiouy]+", word.lower())), 1) for word in words)
        return Score(206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words))
