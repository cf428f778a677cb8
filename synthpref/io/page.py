"""A report as the page that a person reads: what to know first, then the figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synthpref.io.tally import table

Report = Mapping[str, Any]


def markdown(report: Report) -> str:
    """The report as a page: what to know first, then the figures."""
    parts = [f"# Report: {report.get('name', 'a run')}", _state(report)]
    parts += ["## What to know", "\n".join(f"- {line}" for line in report["statements"])]
    for title, text in (
        ("Where the rows went", _books(report)),
        ("Pairs", _pairs(report)),
        ("Scores", _scores(report)),
        ("What stages found", _notes(report)),
        ("Comparisons", _comparisons(report)),
        ("Jurors", _jurors(report)),
        ("Length", _length(report)),
        ("Responses", _samples(report)),
        ("Calls and cost", _usage(report)),
    ):
        if text:
            parts += [f"## {title}", text]
    return "\n\n".join(parts) + "\n"


def _state(report: Report) -> str:
    version = f"synthpref {report.get('version', '')}".strip()
    state = str(report.get("state", ""))
    reason = f": {report['stop_reason']}" if report.get("stop_reason") else ""
    return f"{state.capitalize()}{reason}. {version}, recipe fingerprint `{report.get('fingerprint', '')}`."


def _books(report: Report) -> str:
    books = report.get("books", {})
    text = table(list(books), [list(books.values())]) if books else ""
    lines = [
        (stage["stage"], how, reason, count)
        for stage in report.get("stages", ())
        for how in ("dropped", "rejected")
        for reason, count in stage.get(how, {}).items()
    ]
    if not lines:
        return text
    return f"{text}\n\n{table(('stage', 'rows were', 'reason', 'rows'), lines)}"


_SPREAD = ("n", "mean", "min", "q05", "q50", "q95", "max")
"""As many as leave room for a name in 80 columns; report.json has more."""


def spread_table(spreads: Mapping[str, Mapping[str, Any] | None]) -> str:
    """One line for each distribution that has values."""
    lines = [(name, *(spread[key] for key in _SPREAD)) for name, spread in spreads.items() if spread]
    return table(("", *_SPREAD), lines) if lines else ""


def certainty(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """How far apart and how sure the pairs are, by what a table calls it."""
    return {
        "margin": pairs["margin"],
        "p, chosen is preferred": pairs["p"],
        "p, lower end of its interval": pairs["p_low"],
        "agreement": pairs["agreement"],
        "votes behind p": pairs["votes"],
    }


def _pairs(report: Report) -> str:
    pairs = report["pairs"]
    parts = [spread_table(certainty(pairs))]
    for name, rule in pairs["rules"].items():
        parts.append(f"### {name}: {rule['pairs']:,} pairs")
        parts.append(spread_table({k: v.get("numbers") for k, v in rule["facts"].items()}))
        lines = [(k, value, n) for k, v in rule["facts"].items() for value, n in v.get("counts", {}).items()]
        parts.append(table(("fact", "value", "pairs"), lines) if lines else "")
    return "\n\n".join(filter(None, parts))


def _scores(report: Report) -> str:
    scores = report["scores"]
    lines = [
        (name, what, reason, n)
        for name, score in scores.items()
        for what, found in (("samples", score["failed"]), ("votes", score["votes_failed"]))
        for reason, n in found.items()
    ]
    failed = table(("score", "without a value", "why", "count"), lines) if lines else ""
    return "\n\n".join(filter(None, [spread_table({k: s["values"] for k, s in scores.items()}), failed]))


def _notes(report: Report) -> str:
    """Of each stage that noted something: single facts, then a table of those that are by name."""
    parts = []
    for stage in report.get("stages", ()):
        if not (notes := stage.get("notes")):
            continue
        parts.append(f"### {stage['stage']}")
        columns = {name: value for name, value in notes.items() if isinstance(value, Mapping)}
        single = [(name, value) for name, value in notes.items() if name not in columns]
        parts.append(table(("fact", "value"), single) if single else "")
        names = dict.fromkeys(name for column in columns.values() for name in column)
        lines = [(name, *(column.get(name, "—") for column in columns.values())) for name in names]
        parts.append(table(("", *columns), lines) if lines else "")
    return "\n\n".join(filter(None, parts))


def _comparisons(report: Report) -> str:
    keys = ["asked", "decided", "ties", "both_orders", "flipped", "first_shown_won", "second_shown_won"]
    keys += ["triples", "cyclic_triples"]
    lines = [(name, *(c[key] for key in keys)) for name, c in report["comparisons"].items()]
    failed = [
        (name, why, n) for name, c in report["comparisons"].items() for why, n in c["votes_failed"].items()
    ]
    parts = [table(("", *(key.replace("_", " ") for key in keys)), lines) if lines else ""]
    parts.append(table(("comparison", "votes failed", "count"), failed) if failed else "")
    return "\n\n".join(filter(None, parts))


def juries(report: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of each jury or debate, by the name of its comparisons or its score."""
    found = {name: c["jury"] for name, c in report["comparisons"].items() if c["jury"]}
    return found | {n: s["jury"] for n, s in report["scores"].items() if s["jury"] and n not in found}


def _jurors(report: Report) -> str:
    found = juries(report)
    keys = ("judged_by_several", "replies", "replies_saved")
    lines = [(name, _or_dash(jury["alpha"]), *(jury[key] for key in keys)) for name, jury in found.items()]
    if not lines:
        return ""
    each = [
        (name, juror, *(_or_dash(facts[key]) for key in _JUROR))
        for name, jury in found.items()
        for juror, facts in jury["jurors"].items()
    ]
    whole = table(("", "Krippendorff's alpha", *(key.replace("_", " ") for key in keys)), lines)
    return f"{whole}\n\n{table(('', 'juror', *(key.replace('_', ' ') for key in _JUROR)), each)}"


_JUROR = ("model", "votes", "failed", "not_asked", "with_majority_share", "reliability")


def _or_dash(value: Any) -> Any:
    return "—" if value is None else value


def _length(report: Report) -> str:
    length = report["length"]
    sides = {"chosen, words": length["chosen_words"], "rejected, words": length["rejected_words"]}
    return spread_table(sides)


def _samples(report: Report) -> str:
    samples = report["samples"]
    models = [(name, m["samples"], m["chosen"], m["rejected"]) for name, m in samples["models"].items()]
    if not models:
        return ""
    reasons = table(("finish reason", "responses"), list(samples["finish_reasons"].items()))
    return f"{table(('model', 'responses', 'chosen', 'rejected'), models)}\n\n{reasons}"


def _usage(report: Report) -> str:
    keys = ("requests", "completions", "replayed", "prompt_tokens", "completion_tokens", "cost_usd")
    lines = [
        (role, model.get("model", ""), *("—" if model.get(key) is None else model[key] for key in keys))
        for role, model in report.get("models", {}).items()
    ]
    return table(("role", "model", *(key.replace("_", " ") for key in keys)), lines) if lines else ""
