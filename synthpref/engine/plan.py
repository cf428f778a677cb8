"""What a run will ask for, worked out before the first call: requests, tokens and cost by stage and role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from statistics import fmean

from synthpref.core.stage import PROMPT, Calls
from synthpref.core.types import Row, Usage
from synthpref.engine.recipe import Recipe, Use
from synthpref.engine.steps import steps_of

CHARS_PER_TOKEN = 4
ANSWER_TOKENS, VERDICT_TOKENS = 400, 150
SAMPLE_OF_ROWS = 100

ASSUMPTIONS = (
    f"1 token is {CHARS_PER_TOKEN} characters; an answer has {ANSWER_TOKENS} tokens and a verdict "
    f"{VERDICT_TOKENS}, or the role's max_tokens if that is less; prompts are as long as the first "
    f"{SAMPLE_OF_ROWS} of the source; nothing is asked twice, dropped or in the journal already"
)


@dataclass(frozen=True)
class Line:
    """One role's part in one stage, for the whole run; `cost` is in USD, None without a price."""

    stage: str
    role: str
    per_row: float
    requests: float
    answers: float
    usage: Usage
    cost: float | None


@dataclass(frozen=True)
class Plan:
    rows: int
    lines: tuple[Line, ...]
    prompt_tokens: float = 0.0
    """Of a row's prompt."""
    brought: int = 0
    """Samples that a row of the source has."""
    writers: Mapping[str, int] = field(default_factory=dict)
    """The models that wrote those, as the source names them, with the tokens of the longest text of each."""
    in_turn: tuple[str, ...] = ()
    """Roles whose models are awake in turn."""
    changes: int = 0
    """How often one of those models gives way to another."""

    @property
    def requests(self) -> float:
        return sum(line.requests for line in self.lines)

    @property
    def usage(self) -> Usage:
        return sum((line.usage for line in self.lines), Usage())

    @property
    def cost(self) -> float | None:
        """USD of the roles that have a price; None where none has."""
        costs = [line.cost for line in self.lines if line.cost is not None]
        return sum(costs) if costs else None


def plan(recipe: Recipe, rows: Iterable[Row]) -> Plan:
    """The plan for all of `rows`, which is read to its end. Raises RecipeError when a row cannot be read."""
    stream = iter(rows)
    head = list(islice(stream, SAMPLE_OF_ROWS))
    count = len(head) + sum(1 for _ in stream)
    prompt = fmean([len(r.prompt_text) for r in head] or [0]) / CHARS_PER_TOKEN
    brought = samples = round(fmean([len(r.samples) for r in head] or [0]))
    lines, going = [], float(count)
    for use in recipe.uses:
        load = use.stage.load(samples)
        lines += [_line(recipe, use, calls, going, prompt) for calls in load.calls]
        samples, going = load.samples, going * load.rows
    in_turn = tuple(role for role, spec in recipe.models.items() if spec.turn())
    changes = _changes(recipe, lines, count)
    return Plan(count, tuple(lines), prompt, brought, _writers(head), in_turn, changes)


def _changes(recipe: Recipe, lines: Sequence[Line], rows: int) -> int:
    """Each block of rows walks a segment by itself, and finds awake what the block before it asked last."""
    block = max((spec.gathers() for spec in recipe.models.values() if spec.turn()), default=1)
    blocks, total, awake = -(-rows // block), 0, ""
    for step in steps_of(recipe):
        labels = dict.fromkeys(part.use.label for part in step.parts)
        asked = [recipe.models[line.role].turn() for label in labels for line in lines if line.stage == label]
        order = [turn for turn, _ in groupby(filter(None, asked))]
        if order and blocks:
            total += blocks * (len(order) - 1) + (blocks - 1) * (order[0] != order[-1])
            total += awake not in ("", order[0])
            awake = order[-1]
    return total


def _writers(rows: Sequence[Row]) -> dict[str, int]:
    longest: dict[str, int] = {}
    for sample in (sample for row in rows for sample in row.samples):
        longest[sample.model] = max(longest.get(sample.model, 0), len(sample.text) // CHARS_PER_TOKEN)
    return longest


def template_tokens(recipe: Recipe, use: Use) -> float:
    """Of the longest of a stage's templates."""
    texts = [recipe.prompts.text(name) for _, name in use.stage.marked(PROMPT)]
    return max((len(text) for text in texts), default=0) / CHARS_PER_TOKEN


def _line(recipe: Recipe, use: Use, calls: Calls, rows: float, prompt: float) -> Line:
    spec = recipe.models[calls.model]
    longest = spec.max_tokens or ANSWER_TOKENS
    answer = calls.writes or min(longest, VERDICT_TOKENS if calls.reads else ANSWER_TOKENS)
    requests = rows * calls.requests
    usage = Usage(
        round(requests * (prompt + template_tokens(recipe, use) + calls.reads * ANSWER_TOKENS)),
        round(requests * calls.n * answer),
    )
    price = spec.pays()
    cost = price.cost(usage) if price else None
    return Line(use.label, calls.model, calls.requests, requests, requests * calls.n, usage, cost)
