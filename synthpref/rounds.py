"""Rounds of one recipe: each a run in a folder of its own (engine/rounds.py), with a hook after it (engine/hook.py).

What has happened is read from the folders at every start, so a run of rounds goes on wherever it was stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from synthpref import job
from synthpref.core.errors import Problem, RecipeError, RunStopped
from synthpref.core.source import Source
from synthpref.engine import folder as folders
from synthpref.engine import hook, rounds
from synthpref.engine import recipe as recipes
from synthpref.engine.plan import Plan
from synthpref.engine.recipe import Recipe
from synthpref.engine.registry import Registry
from synthpref.engine.runner import Books
from synthpref.io import read, side_by_side

Walk = Callable[[Recipe, Path], job.Result]
"""Runs one round, or goes on with it."""


@dataclass(frozen=True)
class Asked:
    """Which rounds are meant: of the recipe at `path`, with `settings` as of --set, in `folder`."""

    path: Path
    settings: Sequence[str]
    folder: Path

    def recipe(self, number: int, more: Sequence[str] = ()) -> Recipe:
        """The recipe of one round: an ordinary one, that could be run by itself. Raises RecipeError."""

        def check(source: Source, base: Path, registry: Registry) -> list[Problem]:
            return [] if self.awaited(source, number) else read.problems(source, base, registry)

        hooked = rounds.settings_before(self.folder, number)
        variables = rounds.variables(self.folder, number)
        try:
            settings = [*self.settings, *hooked, *more]
            found = recipes.load(self.path, settings, check_source=check, variables=variables)
        except RecipeError as error:
            if told := [line for line in hooked if any(_is_about(p, line) for p in error.problems)]:
                message = f"hooks of rounds before round {number} have set {', '.join(told)}"
                fix = f"keep a place for it in the recipe, or take it out of {rounds.DONE} in the round's folder"
                raise RecipeError([*error.problems, Problem(str(self.folder), message, fix)]) from None
            raise
        name = f"{found.name}-round-{number}"
        tree = {key: value for key, value in found.tree.items() if key != "rounds"} | {"name": name}
        return replace(found, head=found.head.model_copy(update={"name": name, "rounds": None}), tree=tree)

    def awaited(self, source: Source, number: int) -> bool:
        """Whether the source of the round is what the round before has still to write."""
        before = rounds.home(self.folder, number - 1).resolve()
        return (source.path or "").startswith(f"{before}{os.sep}") and not (before / "summary.json").exists()

    def plans(self, count: int) -> Iterator[tuple[int, Recipe, Plan | None]]:
        """(number, recipe, what it will ask for, if its source is there already) of each round.

        Raises RecipeError with all problems of the first round that has some.
        """
        for number in range(1, count + 1):
            try:
                recipe = self.recipe(number)
            except RecipeError as error:
                told = [Problem(f"round {number}: {p.path}", p.message, p.fix) for p in error.problems]
                raise RecipeError(told) from None
            yield number, recipe, None if self.awaited(recipe.source, number) else job.estimate(recipe)


def run(asked: Asked, wanted: rounds.Rounds, walk: Walk, tell: hook.Tell) -> job.Result | None:
    """Run the rounds that are not done; how the last of them ended, None where all were done before.

    Raises SynthprefError, or KeyboardInterrupt when it was told twice to stop.
    """
    folder = asked.folder
    if (folder / folders.JOURNAL).exists():
        fix = "name another with --out"
        raise RecipeError([Problem(str(folder), "holds a run without rounds", fix)])
    result = None
    folders.made(folder)
    with folders.held(folder):
        rounds.order(folder)
        for number, at in rounds.homes(folder)[wanted.count :]:
            tell(f"round {number}: more than the recipe's {wanted.count}; {at} is left as it is")
        for number in range(1, wanted.count + 1):
            at = rounds.home(folder, number)
            if rounds.is_done(at):
                tell(f"round {number} of {wanted.count}: done{_edited(asked, number)}")
                continue
            result = _round(asked, wanted, number, walk, tell)
            if result.stopped:
                break
    return result


def _round(asked: Asked, wanted: rounds.Rounds, number: int, walk: Walk, tell: hook.Tell) -> job.Result:
    at, line = rounds.home(asked.folder, number), wanted.hooked(number)
    recipe = replace(asked.recipe(number), spent=rounds.spent_before(asked.folder, number))
    tell(f"round {number} of {wanted.count}: {at}")
    at_work = hook.working(at) is not None
    # A dataset that a hook has been given stands, unless the hook failed.
    given = at_work or hook.ended(at) == 0
    result = _as_left(at) if given else walk(recipe, at)
    if result.stopped or (line is None and number == wanted.count):
        return result
    ended = hook.Ended()
    if at_work:
        ended = hook.wait(at, tell)
    elif line and not given:
        if not result.records:
            return replace(result, stopped=f"{at}/dataset is empty, so its hook is not run", failed=True)
        told = rounds.environment(asked.folder, number, wanted)
        ended = hook.run(line, at, recipe.base, told, tell)
    if ended.told and ended.code != 0:
        return replace(result, stopped="interrupted while the hook was at work, which will be run again")
    if ended.code != 0:
        how = "was killed" if ended.code is None else f"ended with exit code {ended.code}"
        tell(recipe.redact(hook.last_lines(at)))
        return replace(result, stopped=f"the hook of round {number} {how}; see {at}/hook.log", failed=True)
    # What a hook has written that failed, and is no more in the recipe, counts for nothing.
    settings, wrong = _set(asked, number) if line or given else ([], "")
    if wrong:
        return replace(result, stopped=wrong, failed=True)
    folders.write_json(at / rounds.DONE, {"round": number, "settings": settings})
    return replace(result, stopped="interrupted") if ended.told else result


def _as_left(at: Path) -> job.Result:
    """How the round ended, as it lies there."""
    summary = folders.finished(at)
    left = job.reasons(summary["stages"])
    return job.Result(at, Books(**summary["books"]), records=summary["records"], left=left)


def _set(asked: Asked, number: int) -> tuple[list[str], str]:
    """What the hook has set, and what is wrong with the next round's recipe then."""
    path = rounds.home(asked.folder, number) / "next.txt"
    fix = f"; mend {path} or the recipe (the hook will not be run again)"
    try:
        settings = rounds.settings_of(path.read_text(encoding="utf-8")) if path.exists() else []
    except UnicodeDecodeError as error:
        return [], f"what the hook of round {number} has set is not UTF-8 at byte {error.start}{fix}"
    if not settings:
        return [], ""
    if beside := [line for line in settings if line.partition("=")[0].partition(".")[0] == "rounds"]:
        return [], f"the hook of round {number} cannot set {beside[0]}: rounds are those of the recipe{fix}"
    try:
        following = asked.recipe(number + 1, settings)
    except RecipeError as error:
        return [], f"what the hook of round {number} has set makes no recipe: {error}{fix}"
    if any(following.redact(line) != line for line in settings):
        return [], f"the hook of round {number} has set a secret; write ${{NAME}} of a variable instead{fix}"
    return settings, ""


def _is_about(problem: Problem, setting: str) -> bool:
    """Whether a setting may have led to the problem."""
    path = setting.partition("=")[0]
    return problem.path == f"--set {setting}" or (bool(problem.path) and path.startswith(problem.path))


def _edited(asked: Asked, number: int) -> str:
    """What to say of a done round whose recipe would be another today."""
    at = rounds.home(asked.folder, number)
    before = yaml.safe_load((at / "recipe.yaml").read_text(encoding="utf-8"))
    try:
        changes = list(folders.changes(before, asked.recipe(number).tree))
    except RecipeError:
        changes = ["it makes no recipe of this round any more"]
    listed = "; ".join(changes[:3]) + ("; …" if len(changes) > 3 else "")
    return f", before the recipe was edited ({listed}); it stands as it was made" if changes else ""


# ---- looking at rounds


def status(folder: Path) -> list[str]:
    """How far each round has come, and its hook, in lines."""
    lines = []
    for _, at in rounds.homes(folder):
        lines += folders.status(at) if (at / folders.JOURNAL).exists() else [f"{at.name}: not begun"]
        code = hook.ended(at)
        if rounds.is_done(at):
            set_ = json.loads((at / rounds.DONE).read_text(encoding="utf-8"))["settings"]
            lines.append(f"done; later rounds have {', '.join(set_)}" if set_ else "done")
        elif hook.working(at) is not None:
            lines.append(f"its hook is at work; see {at}/hook.log")
        elif code is not None:
            lines.append(f"its hook ended with exit code {code}; see {at}/hook.log")
    return lines


def report(folder: Path) -> str:
    """The finished rounds side by side, as Markdown. Raises RunStopped where none is finished."""
    homes = dict(rounds.homes(folder))
    for number, at in list(homes.items()):
        try:
            folders.finished(at)
        except RunStopped:
            if number == 1:
                raise
            del homes[number]
    reports = {n: json.loads((at / "report.json").read_text(encoding="utf-8")) for n, at in homes.items()}
    return side_by_side.page(folder.name, reports, side_by_side.wins(list(homes.values())))
