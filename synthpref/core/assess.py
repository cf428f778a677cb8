"""All figures of `synthpref agree` at once, as agreement.json holds them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from synthpref.core import bias
from synthpref.core.annotators import among_people, with_people
from synthpref.core.judged import NONE, JudgeTable, Table
from synthpref.core.juries import Choice, best_juries
from synthpref.core.measure import Figures, Measure, Settings
from synthpref.core.panel import agreed, between, ranking
from synthpref.core.self_preference import Families


def assess(
    table: Table,
    settings: Settings | None = None,
    choice: Choice | None = None,
    families: Mapping[str, str] | None = None,
) -> Figures:
    """What can be said of the judges: against the labels, where there are some; of themselves in any case."""
    measure = Measure(table, settings)
    labelled = bool(table.labelled.any())
    related = Families(measure, families or {})
    found: Figures = {
        "kind": "pairs" if table.pairs else "scores",
        "items": len(table.ids),
        "prompts": len(set(table.prompts)),
        "level": measure.settings.level,
        "resamples": measure.settings.resamples,
        "swap": measure.settings.swap,
        "notes": list(table.notes),
    }
    if labelled:
        found["people"] = among_people(measure) | (
            {"length": length} if (length := bias.people_length(measure)) else {}
        )
    found["judges"] = {judge.name: _judge(measure, related, judge, labelled) for judge in table.judges}
    if labelled:
        found["ranking"] = ranking(measure)
        found["agreed"] = agreed(measure)
        found["juries"] = best_juries(measure, choice or Choice())
    found["between"] = between(measure)
    found["leakage"] = related.leakage() if table.pairs else []
    return found


def _judge(measure: Measure, related: Families, judge: JudgeTable, labelled: bool) -> Figures:
    said = measure.verdicts[judge.name]
    failed = sum(judge.failed.values())
    found: Figures = {
        "replies": judge.asked,
        "unparsed": {"count": failed, "share": failed / max(judge.asked, 1), "reasons": dict(judge.failed)},
        "judged": int((said != NONE).sum()),
        "cost": judge.cost,
    }
    if labelled:
        found |= {**measure.agreement(judge), "with_people": with_people(measure, judge)}
    parts: Figures = {"order": bias.order(measure, judge)}
    if measure.table.pairs:
        parts |= {"sides": bias.sides(measure, judge), "self_preference": related.own(judge)}
    parts |= {"length": bias.length(measure, judge), "repeats": bias.repeats(measure, judge)}
    return found | {name: part for name, part in parts.items() if part}
