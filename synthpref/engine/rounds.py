"""Rounds of a recipe: RUN/round-1, RUN/round-2, ..., each a run folder of its own, with what its hook left there.

round.json    the round is done: its dataset stands, and its hook has ended well; with what that set for later rounds
hook.log      what the hook printed
hook.exit     its exit code, written by what started it, so that it is known whoever was killed
hook.lock     held while the hook is at work; with its process group
next.txt      settings for the rounds after it, as the hook wrote them

A round that is done is never touched again: a model may have been trained on it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, GetJsonSchemaHandler, model_validator

from synthpref.core.errors import Problem, RecipeError
from synthpref.core.settings import Settings

DONE = "round.json"
FIRST = {"ROUND": "1", "PREVIOUS": ""}
"""What may stand in a recipe of rounds, in the first of them."""


class Rounds(Settings):
    """Several runs of one recipe, one after the other, and what happens between them."""

    count: int = Field(ge=1)
    """How many. It may be raised later, and the run goes on."""
    hook: str | None = Field(default=None, pattern=r"\S")
    """A line for the shell, run in the recipe's folder once a round's dataset is written: to train the model on it,
    to load it anew. It finds the folder in $SYNTHPREF_DATASET, and may write settings for the rounds to come into
    the file $SYNTHPREF_NEXT, each on a line, as for --set."""
    after_last: bool = True
    """Whether the hook is run after the last round too."""

    @model_validator(mode="before")
    @classmethod
    def _counted(cls, given: Any) -> Any:
        """`rounds: 3` is short for `rounds: {count: 3}`."""
        return {"count": given} if isinstance(given, int) and not isinstance(given, bool) else given

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer", "minimum": 1}, handler(core)]}

    def hooked(self, number: int) -> str | None:
        """The hook that follows the round."""
        return self.hook if number < self.count or self.after_last else None


@dataclass(frozen=True)
class Spent:
    """What the rounds before have used: the limits hold over all of them."""

    cost_usd: float = 0.0
    tokens: int = 0


def home(folder: Path, number: int) -> Path:
    """The run folder of a round."""
    return folder / f"round-{number}"


def homes(folder: Path) -> list[tuple[int, Path]]:
    """The rounds that have begun, in order."""
    numbers = sorted(
        int(found.name.removeprefix("round-"))
        for found in folder.glob("round-*")
        if found.is_dir() and found.name.removeprefix("round-").isdecimal()
    )
    return [(number, home(folder, number)) for number in numbers]


def single(folder: Path) -> Path:
    """The folder, unless it is one of rounds. Raises RecipeError."""
    if rounds := homes(folder):
        fix = f"name one of them, such as {rounds[-1][1]}, or another folder"
        raise RecipeError([Problem(str(folder), "holds the rounds of a run", fix)])
    return folder


def variables(folder: Path, number: int) -> dict[str, str]:
    """What ${ROUND} and ${PREVIOUS} stand for."""
    if number == 1:
        return FIRST
    return {"ROUND": str(number), "PREVIOUS": str(home(folder, number - 1).resolve())}


def environment(folder: Path, number: int, rounds: Rounds) -> dict[str, str]:
    """What a hook is told, beside what stands in a recipe."""
    at = home(folder, number).resolve()
    return variables(folder, number) | {
        "SYNTHPREF_ROUND": str(number),
        "SYNTHPREF_ROUNDS": str(rounds.count),
        "SYNTHPREF_RUN": str(folder.resolve()),
        "SYNTHPREF_DATASET": str(at / "dataset"),
        "SYNTHPREF_NEXT": str(at / "next.txt"),
    }


def is_done(at: Path) -> bool:
    return (at / DONE).exists()


def settings_of(text: str) -> list[str]:
    """The settings in a file that a hook wrote: one on a line; empty ones and those that begin with # say nothing."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def settings_before(folder: Path, number: int) -> list[str]:
    """What the hooks of the rounds before have set, the last word last."""
    found: list[str] = []
    for earlier in range(1, number):
        done = home(folder, earlier) / DONE
        if done.exists():
            found += json.loads(done.read_text(encoding="utf-8"))["settings"]
    return found


def spent_before(folder: Path, number: int) -> Spent:
    """What the rounds before have used, over all their starts."""
    cost, tokens = 0.0, 0
    for earlier in range(1, number):
        summary = json.loads((home(folder, earlier) / "summary.json").read_text(encoding="utf-8"))
        for role in summary["models"].values():
            cost += role["cost_usd"] or 0.0
            tokens += role["prompt_tokens"] + role["completion_tokens"]
    return Spent(cost, tokens)


def order(folder: Path) -> None:
    """Raises RecipeError unless every round that has begun follows one that is done."""
    for number, at in homes(folder):
        before = home(folder, number - 1)
        if number > 1 and not is_done(before):
            fix = f"put it back; or remove {at} and those after it, to make them again"
            raise RecipeError([Problem(str(before), f"is not done, and {at.name} follows it", fix)])
