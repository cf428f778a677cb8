"""A report's figures as sentences that a person understands, with what follows from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from synthpref.core.intervals import wilson

_LENGTH_BIAS = 0.6
_POSITION_BIAS = 0.05
_FLIPPED = 0.1
_SAME, _SAME_ROWS = 0.02, 5
_PAIRS_A_WEIGHT = 10
_ALPHA = 0.667
"""The least alpha from which conclusions may tentatively be drawn (Krippendorff, Content Analysis, chapter 11)."""


def statements(report: Mapping[str, Any]) -> list[str]:
    """What to know before training on the pairs, most important first."""
    makers = (
        _simulated,
        _books,
        _certainty,
        _rules,
        _failures,
        _same,
        _learned,
        _jurors,
        _order,
        _circles,
        _length,
        _samples,
        _cost,
    )
    return [line for maker in makers for line in maker(report)]


def percent(share: float | None) -> str:
    """0.0321 -> "3 %"; small shares keep a digit, and only nothing is 0 %."""
    if share is None:
        return "none"
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    digits = 1 if share < 0.1 or share > 0.99 else 0
    text = f"{100 * share:.{digits}f}"
    return "under 0.1 %" if text == "0.0" else "over 99.9 %" if text == "100.0" else f"{text} %"


def is_simulated(report: Mapping[str, Any]) -> bool:
    """Whether any of the run's models was the simulated backend."""
    return any(model.get("backend") == "simulated" for model in report.get("models", {}).values())


def _simulated(report: Mapping[str, Any]) -> Iterator[str]:
    if is_simulated(report):
        yield "**The models were simulated.** The texts and labels show the machinery; do not train on them."


def _books(report: Mapping[str, Any]) -> Iterator[str]:
    books = report.get("books") or {}
    entered = books.get("input", 0) + books.get("added", 0)
    pairs = report["pairs"]
    if entered:
        made = f" (of them {books['added']:,} made from others)" if books.get("added") else ""
        yield (
            f"Of {entered:,} rows{made}, {books['exported']:,} came through, {books['dropped']:,} were dropped "
            f"and {books['rejected']:,} rejected; they hold {pairs['count']:,} pairs."
        )


def _certainty(report: Mapping[str, Any]) -> Iterator[str]:
    pairs = report["pairs"]
    p, votes = pairs["p"], pairs["votes"]
    if not p:
        return
    if pairs["plain"] == p["n"]:
        yield "The pairs rest on one plain score for each response: how sure they are is not known, only their margin."
        return
    rests = f", resting on {_votes(votes['q50'])} in the median" if votes else ""
    sure = pairs["p_low_above_half"] / p["n"]
    few = ""
    if sure < 0.5:
        few = f" More votes on each pair would tell; `min_p_low: 0.5` in the pair stage {_kept(sure, votes)}."
    yield (
        f"By the votes, chosen is preferred with probability {p['mean']:.2f} in the mean{rests}; for "
        f"{percent(sure)} of the pairs the 95 % interval lies above one half.{few}"
    )


def _kept(sure: float, votes: Mapping[str, Any] | None) -> str:
    if sure:
        return "keeps only the sure ones"
    needed = next(n for n in count(1) if wilson(n, n).low > 0.5)
    if votes and votes["max"] < needed:
        return f"would keep none: with {_votes(votes['max'])} no pair can reach it; it takes {needed}"
    return "would keep none of them"


def _votes(n: float) -> str:
    return f"{n:g} vote" if n == 1 else f"{n:g} votes"


def _jurors(report: Mapping[str, Any]) -> Iterator[str]:
    compared, scored = report["comparisons"], report["scores"]
    found = {name: s["jury"] for name, s in scored.items() if s["jury"]}
    found |= {name: c["jury"] for name, c in compared.items() if c["jury"]}
    for name, jury in found.items():
        if jury["alpha"] is not None:
            weak = (
                " That is weak: look for a clearer rubric, or better judges."
                if jury["alpha"] < _ALPHA
                else ""
            )
            late = (
                ", where those asked late were asked about what was disputed" if jury["replies_saved"] else ""
            )
            yield (
                f"{name}: its jurors agree with Krippendorff's alpha {jury['alpha']:.2f} (1 is perfect, 0 is chance) "
                f"over {jury['judged_by_several']:,} things that several judged{late}.{weak}"
            )
        shares = {n: j["with_majority_share"] for n, j in jury["jurors"].items()}
        known = {n: value for n, value in shares.items() if value is not None}
        if len(known) > 2:
            low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
            yield (
                f"{name}: {high} sided with the most frequent verdict most often ({percent(known[high])}), {low} "
                f"least often ({percent(known[low])})."
            )
        trusted = {n: j["reliability"] for n, j in jury["jurors"].items() if j["reliability"] is not None}
        if trusted:
            told = ", ".join(f"{n} {percent(value)}" for n, value in trusted.items())
            yield f"{name}: by all votes together, the jurors are estimated to be right in: {told}."
        if jury["replies_saved"]:
            yield (
                f"{name}: stopping early saved {jury['replies_saved']:,} replies, "
                f"{percent(jury['replies_saved_share'])} of those that asking everybody would have taken."
            )


def _rules(report: Mapping[str, Any]) -> Iterator[str]:
    for name, rule in report["pairs"]["rules"].items():
        facts, pairs = rule["facts"], rule["pairs"]
        below, missed, lowest = (_yes(facts, fact) for fact in ("below_all", "missed", "was_min"))
        if "below_all" in facts:
            yield (
                f"{name}: the target (mu minus k sigma) lay below every response of the row for "
                f"{percent(below / pairs)} of the pairs, so the rule was the minimum there."
            )
        if "missed" in facts:
            yield (
                f"{name}: the rule was in force for {percent(1 - missed / pairs)} of the pairs; for the others "
                "the minimum was taken instead."
            )
        if "was_min" in facts:
            advice = ""
            if lowest / pairs > 0.5:
                advice = " More responses a row, or a finer scale, would bring it into force."
            yield (
                f"{name}: rejected was the row's minimum for {percent(lowest / pairs)} of the pairs, "
                f"where it does as `pair.extremes` does.{advice}"
            )


def _learned(report: Mapping[str, Any]) -> Iterator[str]:
    for stage in report.get("stages", ()):
        notes = stage.get("notes", {})
        if "users" in notes:
            near = notes["too near to another"]
            left = f", {near:,} more left out as too near to another" if near else ""
            yield f"{notes['score']}: labels are those of {notes['users']:,} made-up users{left}."
        if notes.get("mean") and "alone" not in notes:
            told = (f"{name} ({mean:.6g}, {notes['sd'][name]:.6g})" for name, mean in notes["mean"].items())
            yield f"{notes['score']}: scores were standardised by (mean, standard deviation): {', '.join(told)}."
        if "alone" in notes:
            heavy = [name for name, share in notes["share"].items() if share >= 0.1][:3]
            few = (
                f" That is few for {len(notes['alone'])} weights."
                if notes["pairs"] < _PAIRS_A_WEIGHT * len(notes["alone"])
                else ""
            )
            best, alone = max(notes["alone"].items(), key=lambda item: max(item[1], 1 - item[1]))
            yield (
                f"{notes['score']}: its weights were learned from {notes['pairs']:,} pairs labelled by "
                f"{notes['label']}; it puts {percent(notes['accuracy'])} of held-out pairs in the labelled "
                f"order, where {best} alone does {percent(max(alone, 1 - alone))}. Most weight is on "
                f"{', '.join(heavy) or 'none'}.{few}"
            )


def _yes(facts: Mapping[str, Any], name: str) -> int:
    """Pairs for which the fact is true, or is a text (a reason)."""
    counts = facts.get(name, {}).get("counts", {})
    return sum(n for value, n in counts.items() if value not in ("no", "none"))


def _failures(report: Mapping[str, Any]) -> Iterator[str]:
    for name, score in report["scores"].items():
        failed, valued = sum(score["failed"].values()), (score["values"] or {"n": 0})["n"]
        if failed:
            why = next(iter(score["failed"]))
            yield (
                f"{percent(failed / (failed + valued))} of the scores {name!r} have no value (most often: {why}); "
                "those responses are in no pair made by it."
            )
        votes = sum(score["votes_failed"].values())
        if votes and not failed:
            yield f"{percent(votes / score['votes'])} of the votes behind {name!r} held no verdict."
    for name, compared in report["comparisons"].items():
        failed = sum(compared["votes_failed"].values())
        if failed:
            yield f"{percent(failed / compared['votes'])} of the verdicts of {name!r} could not be read."


def _same(report: Mapping[str, Any]) -> Iterator[str]:
    pairs = report["pairs"]
    most = pairs.get("most_chosen")
    if most and most["rows"] >= max(_SAME_ROWS, _SAME * pairs["rows_with_pairs"]):
        text = " ".join(most["text"].split()).replace("`", "'")
        yield (
            f"One answer wins for many prompts: the same text, or nearly, was chosen in at least {most['rows']:,} rows "
            f"({percent(most['rows'] / pairs['rows_with_pairs'])}): `{text}`. Unless these prompts all call for it, as a "
            "refusal may be called for, the judge is taken in by it (arXiv:2410.07137)."
        )


def _order(report: Mapping[str, Any]) -> Iterator[str]:
    for name, compared in report["comparisons"].items():
        flipped, first = compared["flipped_share"], compared["first_shown_share"]
        if flipped is not None:
            help = "more judges, or a clearer rubric," if compared["in_words"] else "another model"
            advice = f" That is a lot: {help} would help." if flipped > _FLIPPED else ""
            yield (
                f"{name}: {percent(flipped)} of the {compared['both_orders']:,} pairs of responses judged in both "
                f"orders got a different winner when they were swapped.{advice}"
            )
        if first is not None:
            side = ""
            votes = compared["first_shown_won"] + compared["second_shown_won"]
            if abs(first - 0.5) > max(_POSITION_BIAS, 1 / math.sqrt(votes)):
                side = f" The judge leans to the {'first' if first > 0.5 else 'second'}."
            yield f"{name}: the response shown first won {percent(first)} of the verdicts without a tie.{side}"


def _circles(report: Mapping[str, Any]) -> Iterator[str]:
    for name, compared in report["comparisons"].items():
        if compared["cyclic_triples"]:
            row, a, b, c = compared["cycle"]
            share = percent(compared["cyclic_triples"] / compared["triples"])
            yield (
                f"{name}: {share} of the triples of responses that all met go round in a circle (in row {row}, "
                f"response {a} beats {b}, {b} beats {c} and {c} beats {a}); no order of them fits the verdicts."
            )


def _length(report: Mapping[str, Any]) -> Iterator[str]:
    length = report["length"]
    share = length["chosen_longer_share"]
    if share is None:
        return
    means = length["chosen_words"]["mean"], length["rejected_words"]["mean"]
    unequal = length["longer"]["chosen"] + length["longer"]["rejected"]
    told = ""
    # Two standard errors: what few pairs show may be chance.
    if abs(share - 0.5) > max(_LENGTH_BIAS - 0.5, 1 / math.sqrt(unequal)):
        told = f" A model trained on this also learns to write {'more' if share > 0.5 else 'less'}."
    yield (
        f"Chosen is longer than rejected in {percent(share)} of the pairs of unequal length "
        f"(mean {means[0]:.0f} against {means[1]:.0f} words).{told}"
    )


def _samples(report: Mapping[str, Any]) -> Iterator[str]:
    samples = report["samples"]
    for what, text in (
        ("truncated", "were cut off"),
        ("filtered", "were taken away or cut short by a content filter"),
        ("empty", "are empty"),
    ):
        if samples.get(what):
            yield f"{samples[what]:,} of {samples['count']:,} responses {text}."
    if samples.get("copies"):
        yield (
            f"{samples['copies']:,} of {samples['count']:,} responses repeat the text of another one of their row. Copies "
            "count as one response, with the mean of their scores."
        )
    if unknown := samples.get("unknown_finish_reasons"):
        words = ", ".join(repr(word) for word in unknown)
        yield (
            f"The endpoint ended {sum(unknown.values()):,} responses with a finish_reason that is not known ({words}); "
            "they count as cut off, and pairs leave them out."
        )
    if special := samples.get("special_tokens"):
        tokens = ", ".join(f"`{token}`" for token in special)
        yield (
            f"{samples['with_special_tokens']:,} responses hold tokens of a chat template ({tokens}) within their text. "
            "Unless the prompts ask for them, the server's chat template or stop tokens are wrong."
        )
    models = {name: m for name, m in samples["models"].items() if m["chosen"] + m["rejected"]}
    if len(models) > 1:
        best = max(models, key=lambda name: models[name]["chosen"] / max(models[name]["samples"], 1))
        won = models[best]
        yield (
            f"{best} was chosen most for its number of responses: {won['chosen']:,} times, against "
            f"{won['rejected']:,} times rejected."
        )


def _cost(report: Mapping[str, Any]) -> Iterator[str]:
    models = list(report.get("models", {}).values())
    tokens = [sum(m.get(key) or 0 for m in models) for key in ("prompt_tokens", "completion_tokens")]
    if not any(tokens):
        return
    priced = [m["cost_usd"] for m in models if m.get("cost_usd") is not None]
    unpriced = [
        role
        for role, m in report.get("models", {}).items()
        if m.get("cost_usd") is None and m.get("completions")
    ]
    estimated = sum(m.get("estimated") or 0 for m in models)
    answers = sum(m.get("completions") or 0 for m in models)
    about = "about " if estimated else ""
    least = "at least " if unpriced else about
    cost = f" for {least}${sum(priced):,.2f}" if priced else ""
    said = [f"no price for: {', '.join(unpriced)}"] if priced and unpriced else []
    said += [f"usage estimated for {estimated:,} of {answers:,} answers"] if estimated else []
    partly = f" ({'; '.join(said)})" if said else ""
    yield f"The models read {about}{tokens[0]:,} tokens and wrote {about}{tokens[1]:,}{cost}{partly}."
