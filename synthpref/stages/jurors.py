"""Who sits on a jury, and how they are asked: all at once, or in waves until the outcome is certain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from synthpref.core.seam import Ask, Capability
from synthpref.core.settings import Settings
from synthpref.core.stage import Calls, PromptName, Role
from synthpref.core.types import Vote
from synthpref.core.votes import NOT_ASKED, Rule
from synthpref.stages.judging import Extracted

Thing = TypeVar("Thing", bound=Hashable)
Wave = Sequence[tuple[Thing, "Juror"]]

WEIGHED: Final = "dawid_skene"
NOT_WEIGHED = "votes not weighed yet"


class Juror(Settings):
    """One seat: a model role, and what it is told. Two seats may have the same role, by different names."""

    model: Role
    """The role that judges."""
    name: str = Field(default="", min_length=1)
    """The juror's name in votes and reports; the role's where it is not given."""
    repeats: int | None = Field(default=None, ge=1)
    """Replies to each question, if not as many as the jury's `repeats`. Together they are one vote."""
    rubric: str | None = Field(default=None, min_length=1)
    """What this juror judges by, if not by the jury's `rubric`."""
    prompt: PromptName | None = None
    """This juror's template, if not the jury's."""

    @property
    def title(self) -> str:
        return self.name or self.model

    def silent(self, ask: Ask, votes: int) -> list[Vote]:
        """In place of the votes that it was not asked for."""
        judge = ask.info(self.model).name
        return [Vote(judge, None, NOT_ASKED, role=self.title, asked=False)] * votes

    def named(self, vote: Vote) -> Vote:
        return replace(vote, role=self.title)


def _by_role(juror: Any) -> Any:
    """The name of a role as a seat for it."""
    return {"model": juror} if isinstance(juror, str) else juror


Seat = Annotated[Juror, BeforeValidator(_by_role, json_schema_input_type=str | Juror)]


class Bench(Extracted):
    """Base of the juries. A juror whose reply cannot be parsed casts no vote: it counts as nothing, neither low
    nor as a tie."""

    judges: tuple[Seat, ...] = Field(min_length=2)
    """The jurors, in the order in which they are asked: names of roles, or {model, name, repeats, rubric, prompt}. Each
    has one vote."""
    at_least: int = Field(default=1, ge=1)
    """Jurors whose vote must have a value, or there is no outcome."""
    stop_early: bool = False
    """Ask no more jurors than it takes: as many as could settle the vote at best, then those that are still needed,
    and so on. The outcome is the same as if all had been asked; the others' votes are kept as not asked. Saves
    calls and costs waiting, one wave after the other. Not for reducers that every vote moves."""

    @model_validator(mode="after")
    def _seated(self) -> Self:
        titles = [juror.title for juror in self.judges]
        twice = [title for title in titles if titles.count(title) > 1]
        if twice:
            raise ValueError(
                f"judges: {twice[0]!r} sits on the jury twice; give one of them a name of its own"
            )
        if self.at_least > len(self.judges):
            raise ValueError(f"at_least: {self.at_least} votes cannot come from {len(self.judges)} judges")
        reducer = getattr(self, "reducer", None)
        if self.stop_early and reducer in ("mean", WEIGHED):
            raise ValueError(
                f"stop_early: every vote moves the outcome of reducer {reducer}; take majority or multimode"
            )
        return self

    def requires(self) -> dict[str, set[Capability]]:
        return {juror.model: self.abilities() for juror in self.judges}

    def calls(self, requests: float, reads: float) -> tuple[Calls, ...]:
        """So many requests to each juror."""
        return tuple(Calls(j.model, requests, n=self.replies(j), reads=reads) for j in self.judges)

    def replies(self, juror: Juror) -> int:
        return juror.repeats or self.repeats

    def criteria(self) -> list[tuple[str, str]]:
        own = [(f"judges[{i}].rubric", juror.rubric) for i, juror in enumerate(self.judges) if juror.rubric]
        return [*super().criteria(), *own]

    def told(self, juror: Juror) -> Self:
        """This stage as the juror sees it."""
        return self.model_copy(update={"rubric": juror.rubric}) if juror.rubric else self

    async def poll(
        self,
        things: Sequence[Thing],
        hear: Callable[[Wave[Thing]], Awaitable[list[list[Vote]]]],
        ballot: Callable[[Sequence[Vote]], float | None],
        rule: Rule,
        ends: tuple[float, float],
    ) -> dict[Thing, list[list[Vote]]]:
        """The votes on each thing, by juror, those of the jurors asked. `hear` asks one wave and gives the votes of
        each of its members; what is asked in which wave follows from the replies alone."""
        heard: dict[Thing, list[list[Vote]]] = {thing: [] for thing in things}
        while True:
            wave: list[tuple[Thing, Juror]] = []
            for thing, cast in heard.items():
                left = self.judges[len(cast) :]
                if self.stop_early:
                    values = [value for votes in cast if (value := ballot(votes)) is not None]
                    sure = rule.decided(values, len(left), ends)
                    left = () if sure else left[: rule.fewest(values, len(left), ends)]
                wave += [(thing, juror) for juror in left]
            if not wave:
                return heard
            for (thing, _), votes in zip(wave, await hear(wave), strict=True):
                heard[thing].append(votes)
