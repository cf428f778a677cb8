"""What a person sees of a run: rich in a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from synthpref.core.types import Usage
from synthpref.engine.lint import Warned
from synthpref.engine.plan import ASSUMPTIONS, Plan
from synthpref.engine.progress import Progress

if TYPE_CHECKING:
    from rich.markdown import Markdown

PLAIN_EVERY_S = 10.0


@contextmanager
def watching(console: Console, progress: Progress) -> Iterator[None]:
    """Show the counters until the block ends: live in a terminal, else a line every ten seconds."""
    if console.is_terminal:

        class Now:
            def __rich__(self) -> Text:
                return Text(progress.line())

        with Live(Now(), console=console, refresh_per_second=4):
            yield
        return
    done = threading.Event()

    def lines() -> None:
        while not done.wait(PLAIN_EVERY_S):
            console.print(progress.line(), markup=False, highlight=False, soft_wrap=True)

    thread = threading.Thread(target=lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        console.print(progress.line(), markup=False, highlight=False, soft_wrap=True)


def warning_lines(warned: Sequence[Warned]) -> list[Text]:
    """Each warning in full: what was found, why it matters, what to do."""
    lines = []
    for one in warned:
        line = Text()
        line.append(f"warning: {one.name}", style="bold yellow")
        line.append(f"\n  {one.path}: {one.found}\n  why: {one.why}\n  do:  {one.fix}")
        lines.append(line)
    return lines


def page(text: str) -> Markdown:
    """Markdown with its tables whole: a word too wide for its column goes on in the next line, where rich cuts it."""
    # Only `report` needs it, and it takes a tenth of a second.
    from rich.markdown import Markdown, TableDataElement

    class Cell(TableDataElement):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self.content.overflow = "fold"

    class Page(Markdown):
        elements: ClassVar = {**Markdown.elements, "th_open": Cell, "td_open": Cell}

    return Page(text)


def plan_table(plan: Plan) -> Table:
    """Requests, tokens and cost by stage and role."""
    table = Table(title=f"{plan.rows:,} rows", title_justify="left", caption=f"Assumed: {ASSUMPTIONS}.")
    table.add_column("stage", overflow="fold")
    table.add_column("role", overflow="fold")
    for name in ("a row", "requests", "tokens in", "out", "USD"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in plan.lines:
        tokens = (_short(line.usage.prompt_tokens), _short(line.usage.completion_tokens))
        table.add_row(
            line.stage, line.role, f"{line.per_row:g}", f"{line.requests:,.0f}", *tokens, _usd(line.cost)
        )
    table.add_section()
    tokens = (_short(plan.usage.prompt_tokens), _short(plan.usage.completion_tokens))
    table.add_row("all", "", "", f"{plan.requests:,.0f}", *tokens, _usd(plan.cost))
    return table


def alike(plans: Sequence[Plan | None]) -> list[tuple[str, Plan | None]]:
    """Rounds one after the other with the same plan, taken together: ("Rounds 1 to 3, each", plan)."""
    found = []
    for plan, together in groupby(enumerate(plans, 1), key=lambda numbered: numbered[1]):
        first, *others = [number for number, _ in together]
        name = f"Rounds {first} to {others[-1]}, each" if others else f"Round {first}"
        found.append((name, plan))
    return found


def sum_line(plans: Sequence[Plan | None]) -> str:
    """What all rounds will ask for together, as far as it is known."""
    known = [plan for plan in plans if plan]
    usage = sum((plan.usage for plan in known), Usage())
    costs = [plan.cost for plan in known if plan.cost is not None]
    of = f"All {len(plans)} rounds" if len(known) == len(plans) else f"{len(known)} of {len(plans)} rounds"
    return (
        f"{of}: {sum(plan.requests for plan in known):,.0f} requests, {_short(usage.prompt_tokens)} tokens in, "
        f"{_short(usage.completion_tokens)} out, {f'{_usd(sum(costs))} USD' if costs else 'no price'}"
    )


def turns_line(plan: Plan) -> str:
    """Which models are awake in turn, and how often they change; "" where none are."""
    if not plan.in_turn:
        return ""
    count = f"{plan.changes:,} change{'' if plan.changes == 1 else 's'}"
    return (
        f"awake in turn: {', '.join(plan.in_turn)}; about {count} between them (a larger `block` makes fewer)"
    )


def _usd(cost: float | None) -> str:
    return "no price" if cost is None else f"{cost:,.2f}"


def _short(count: float) -> str:
    """1234567 -> 1.2M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return f"{count:.0f}"
