"""The rounds of a run side by side: what became of the rows, and whether the policy gets better, or only longer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from synthpref.core.types import Row
from synthpref.io.rows import read_rows
from synthpref.io.tally import share, table

Report = Mapping[str, Any]
Lines = dict[str, list[Any]]
_LONGER = 0.1
"""Growth of the mean length from the first to the last round that is spoken of."""


@dataclass
class Won:
    """Prompts that two rounds have both exported, by which round's responses have the higher mean score."""

    better: int = 0
    equal: int = 0
    worse: int = 0

    @property
    def rate(self) -> float | None:
        """Share of the prompts on which the later round is better; an equal one counts half."""
        return share(2 * self.better + self.equal, 2 * (self.better + self.equal + self.worse))


def wins(homes: Sequence[Path]) -> list[dict[str, Won]]:
    """For each round but the first: how its responses compare to those of the round before, by score."""
    return [_won(*(read_rows(home / "rows.parquet") for home in two)) for two in pairwise(homes)]


def _won(before: Iterator[Row], after: Iterator[Row]) -> dict[str, Won]:
    found: dict[str, Won] = {}
    for old, new in _met(before, after):
        was, now = _means(old), _means(new)
        for name in was.keys() & now.keys():
            won = found.setdefault(name, Won())
            won.better += now[name] > was[name]
            won.equal += now[name] == was[name]
            won.worse += now[name] < was[name]
    return dict(sorted(found.items()))


def _met(before: Iterator[Row], after: Iterator[Row]) -> Iterator[tuple[Row, Row]]:
    """Rows of both with one id. Both come in the order of their ids, as a run writes them."""
    new = next(after, None)
    for old in before:
        while new and new.id < old.id:
            new = next(after, None)
        if new and new.id == old.id:
            yield old, new


def _means(row: Row) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for sample in row.samples:
        for name, score in sample.scores.items():
            if score.value is not None:
                values.setdefault(name, []).append(score.value)
    return {name: fmean(of) for name, of in values.items()}


def page(name: str, reports: Mapping[int, Report], won: Sequence[Mapping[str, Won]]) -> str:
    """The reports of rounds, by number, as a page."""
    columns = ["", *(f"round {number}" for number in reports)]
    parts = [f"# Rounds: {name}"]
    if said := list(_statements(reports, won)):
        parts += ["## What to know", "\n".join(f"- {line}" for line in said)]
    sections = (
        ("Where the rows went", _each(reports, _books)),
        ("Pairs", _each(reports, _pairs)),
        ("Scores", _each(reports, _scores) | _won_lines(won)),
        ("Length", _each(reports, _length)),
        ("Responses", _each(reports, _samples)),
        ("Comparisons", _each(reports, _comparisons)),
        ("Calls and cost", _each(reports, _usage)),
    )
    for title, lines in sections:
        if lines:
            parts += [f"## {title}", table(columns, [[what, *values] for what, values in lines.items()])]
    parts.append("Of each round by itself: `synthpref report` of its folder.")
    return "\n\n".join(parts) + "\n"


def _each(reports: Mapping[int, Report], facts: Any) -> Lines:
    """A line for all that any round says, with a dash where another does not."""
    columns = [
        {what: value for what, value in facts(r).items() if value is not None} for r in reports.values()
    ]
    names = dict.fromkeys(what for column in columns for what in column)
    return {what: [column.get(what, "–") for column in columns] for what in names}


def _books(report: Report) -> dict[str, Any]:
    found = {f"rows {how}": count for how, count in report["books"].items()}
    for stage in report["stages"]:
        for how in ("dropped", "rejected"):
            for reason, count in stage[how].items():
                found[f"{how} by {stage['stage']}: {reason}"] = count
    return found


def _pairs(report: Report) -> dict[str, Any]:
    pairs = report["pairs"]
    spreads = {"margin": "margin", "p, chosen is preferred": "p", "agreement": "agreement"}
    return {"pairs": pairs["count"]} | {f"mean {what}": _mean(pairs[key]) for what, key in spreads.items()}


def _scores(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, score in report["scores"].items():
        found[f"{name}: mean"] = _mean(score["values"])
        found[f"{name}: without a value"] = sum(score["failed"].values()) + score["not_scored"]
    return found


def _won_lines(won: Sequence[Mapping[str, Won]]) -> Lines:
    names = dict.fromkeys(name for one in won for name in one)
    return {
        f"{name}: prompts better than a round before": [
            "–", *(_percent(one[name].rate) if name in one else "–" for one in won)
        ]
        for name in names
    }  # fmt: skip


def _length(report: Report) -> dict[str, Any]:
    length = report["length"]
    kinds = {"all responses": "words", "chosen": "chosen_words", "rejected": "rejected_words"}
    found: dict[str, Any] = {f"mean words, {what}": _mean(length.get(key)) for what, key in kinds.items()}
    return found | {"chosen is the longer": _percent(length["chosen_longer_share"])}


def _samples(report: Report) -> dict[str, Any]:
    samples = report["samples"]
    found: dict[str, Any] = {key: samples[key] for key in ("count", "empty", "truncated")}
    several = samples["models"] if len(samples["models"]) > 1 else {}
    for name, model in several.items():
        won = share(model["chosen"], model["chosen"] + model["rejected"])
        found[f"{name}: chosen, of its responses in pairs"] = _percent(won)
    return found


def _comparisons(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, compared in report["comparisons"].items():
        found[f"{name}: flipped with the order"] = _percent(compared["flipped_share"])
        found[f"{name}: won by the first shown"] = _percent(compared["first_shown_share"])
    return found


def _usage(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for role, spent in report["models"].items():
        found[f"{role}: model"] = spent["model"]
        found[f"{role}: tokens"] = spent["prompt_tokens"] + spent["completion_tokens"]
        found[f"{role}: USD"] = spent["cost_usd"]
    return found


def _statements(reports: Mapping[int, Report], won: Sequence[Mapping[str, Won]]) -> Iterator[str]:
    numbers = list(reports)
    for number, one in zip(numbers[1:], won, strict=True):
        for name, found in one.items():
            of = found.better + found.equal + found.worse
            yield (
                f"By {name}, the responses of round {number} are better than those of the round before on "
                f"{_percent(found.rate)} of the {of:,} prompts that both have exported (ties count half)."
            )
    first, last = reports[numbers[0]], reports[numbers[-1]]
    was, now = (_mean(report["length"].get("words")) for report in (first, last))
    if was and now and abs(now / was - 1) >= _LONGER:
        how = "longer" if now > was else "shorter"
        advice = " See whether the judge prefers length: rises in score may be that." if now > was else ""
        yield (
            f"Responses get {how}: {was:.0f} words in the mean in round {numbers[0]}, {now:.0f} in round "
            f"{numbers[-1]}.{advice}"
        )
    made = [_paired(report) for report in (first, last)]
    if None not in made and len(numbers) > 1 and made[1] < made[0] / 2:  # type: ignore[operator]
        yield (
            f"Fewer rows make a pair: {_percent(made[0])} in round {numbers[0]}, {_percent(made[1])} in round "
            f"{numbers[-1]}. Responses that are alike teach little; see what they were dropped for."
        )


def _paired(report: Report) -> float | None:
    books = report["books"]
    return share(report["pairs"]["rows_with_pairs"], books["input"] + books["added"])


def _mean(spread: Mapping[str, Any] | None) -> float | None:
    return spread["mean"] if spread else None


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.0f} %"
