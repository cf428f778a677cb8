"""Stages that add to pairs what a trainer can use beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from synthpref.core.parse import Parsed
from synthpref.core.seam import Ask, Completion
from synthpref.core.stage import Calls, Load, PromptName, Role, RowStage
from synthpref.core.types import Pair, Row
from synthpref.stages.asking import Question, ask_all
from synthpref.stages.synth_ask import is_refusal


class Rationale(RowStage):
    """Asks, for each pair, why the chosen response is better (Data-centric human preference with rationales,
    arXiv:2407.14477, where general and specific rationales are told apart).

    The two responses are shown as A and B in an order drawn by seed (`facts["rationale_shown"]`: "ab" when
    chosen stood first), and the model is told which was preferred: it explains a verdict, it does not give
    one. A pair that has a rationale keeps it. A reply that is empty, cut off, filtered or refused is asked for once
    more; then the rationale stays None and `facts["rationale_missing"]` says why. No pair is lost.
    """

    model: Role
    """The role that explains."""
    kind: Literal["general", "specific", "both"] = "general"
    """`general`: one paragraph on what makes the difference. `specific`: one that quotes the details. `both`:
    two requests; the `rationale` column then holds the general paragraph, a blank line and the specific one,
    and each stands alone under `facts["rationales"]`."""
    prompt_general: PromptName = "enrich/rationale_general"
    """The template that asks for a general rationale; it gets `prompt`, `response_a`, `response_b` and
    `preferred` ("A" or "B")."""
    prompt_specific: PromptName = "enrich/rationale_specific"
    """The template that asks for a specific rationale; it gets the same."""
    reask: PromptName = "enrich/reask"
    """The template that asks once more for a reply that could not be used; it gets `why` and `shape`."""

    @property
    def _templates(self) -> dict[str, str]:
        every = {"general": self.prompt_general, "specific": self.prompt_specific}
        return every if self.kind == "both" else {self.kind: every[self.kind]}

    def needs(self) -> set[str]:
        return {"samples", "pairs"}

    def load(self, samples: int) -> Load:
        """One pair a row is assumed: how many a row will have is not known before the run."""
        return Load(samples, (Calls(self.model, len(self._templates), reads=2),))

    async def run(self, row: Row, ask: Ask) -> Row:
        open_pairs = [i for i, pair in enumerate(row.pairs) if pair.rationale is None]
        shown = {i: ask.rng.choice(("ab", "ba")) for i in open_pairs}
        asked = [(i, kind) for i in open_pairs for kind in self._templates]
        questions = [self._question(row, row.pairs[i], shown[i], kind, ask) for i, kind in asked]
        replies = await ask_all(ask, questions, reask=self.reask, needed=False)
        pairs = list(row.pairs)
        for i in open_pairs:
            found = {kind: reply.parsed for (j, kind), [reply] in zip(asked, replies, strict=True) if j == i}
            pairs[i] = _explained(pairs[i], found, shown[i])
        return replace(row, pairs=tuple(pairs))

    def _question(self, row: Row, pair: Pair, shown: str, kind: str, ask: Ask) -> Question[str]:
        texts = [row.samples[pair.chosen].text, row.samples[pair.rejected].text]
        first, second = texts if shown == "ab" else texts[::-1]
        messages = ask.prompt(
            self._templates[kind],
            prompt=row.prompt_text,
            response_a=first,
            response_b=second,
            preferred="A" if shown == "ab" else "B",
        )
        return Question(messages, _paragraph, self.model, "the paragraph, as plain text,")


def _paragraph(reply: Completion) -> Parsed[str]:
    """The text of a reply, or why it is no rationale."""
    text = reply.text.strip()
    if is_refusal(text):
        return Parsed(None, "refused")
    return Parsed(text) if text else Parsed(None, "empty reply")


def _explained(pair: Pair, replies: dict[str, Parsed[str]], shown: str) -> Pair:
    """The pair with the rationales that could be used, and the reason for each that could not."""
    good = {kind: parsed.value for kind, parsed in replies.items() if parsed.value}
    missing = {kind: parsed.why for kind, parsed in replies.items() if not parsed.value}
    facts = {**pair.facts, "rationale_shown": shown}
    if len(replies) > 1 and good:
        facts["rationales"] = good
    if missing:
        facts["rationale_missing"] = missing
    return replace(pair, rationale="\n\n".join(good.values()) or None, facts=facts)
