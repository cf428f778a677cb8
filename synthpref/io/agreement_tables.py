"""Figures of `synthpref agree` as tables, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from synthpref.io.agreement_format import (
    Block,
    Figures,
    chance,
    get,
    money,
    number,
    percent,
    signed,
    small_share,
)


def by_kappa(found: Figures) -> list[tuple[str, Figures]]:
    """The judges, best first."""

    def key(item: tuple[str, Figures]) -> float:
        value = (item[1].get("kappa") or {}).get("value")
        return -9.0 if value is None else value

    return sorted(found["judges"].items(), key=key, reverse=True)


def judges(found: Figures) -> Block:
    """The table that is shown first: a line a judge."""
    pairs = found["kind"] == "pairs"
    labelled = bool(found.get("people"))
    columns: list[tuple[str, Any]] = [
        ("judge", lambda name, j: name),
        ("judged", lambda name, j: f"{j['judged']:,}"),
    ]
    if labelled:
        columns += [
            ("accuracy", lambda name, j: percent(j["accuracy"])),
            ("kappa", lambda name, j: number(j["kappa"])),
        ]
    if labelled and pairs:
        columns.append(("without ties", lambda name, j: percent(j["accuracy_two_way"]["value"])))
    if labelled and not pairs:
        columns += [
            ("within 1", lambda name, j: percent(j["within_one"]["value"])),
            ("Kendall", lambda name, j: number(j["kendall"])),
            ("Spearman", lambda name, j: number(j["spearman"])),
        ]
    optional: list[tuple[str, Any]] = [
        ("flips", lambda name, j: percent(get(j, "order", "flip_rate", "value"))),
        ("first wins", lambda name, j: percent(get(j, "order", "first_rate", "value"))),
        ("first is worth", lambda name, j: number(get(j, "order", "points_for_being_first", "value"))),
        ("longer wins", lambda name, j: percent(get(j, "length", "longer_rate", "value"))),
        ("own family", lambda name, j: signed(get(j, "self_preference", "self_preference", "value"))),
        ("spread", lambda name, j: number(get(j, "repeats", "standard_deviation"))),
        ("unparsed", lambda name, j: small_share(j["unparsed"]["share"])),
        ("a judgment", lambda name, j: money(j["cost"])),
    ]
    items = by_kappa(found)
    for title, cell in optional:
        if any(cell(name, judge) not in ("–", "0 %") for name, judge in items):
            columns.append((title, cell))
    lines = [tuple(str(cell(name, judge)) for _, cell in columns) for name, judge in items]
    note = "Accuracy: the verdict is the label, a tie being a label of its own."
    if labelled and pairs:
        note += " Without ties: of the items where label and verdict both name a winner."
    return Block("Judges", tuple(title for title, _ in columns), lines, note if labelled else "")


def blocks(found: Figures) -> Iterator[Block]:
    """Every table, the most important first."""
    yield judges(found)
    for maker in (_juries, _detail, _rules, _against, _people, _ranking, _agreed, _gaps, _orders, _sides, _length, _own, _leakage,
                  _repeats, _unparsed, _between):  # fmt: skip
        yield from (block for block in maker(found) if block.lines)


def juries(found: Figures) -> Block | None:
    """The juries by size; None where there are none."""
    return next(iter(_juries(found)), None)


def _juries(found: Figures) -> Iterator[Block]:
    juries = found.get("juries") or {}
    if "by_size" not in juries:
        return
    cost = "jurors" if juries["cost_unit"] == "jurors" else "USD"
    lines = [
        (
            str(line["size"]),
            f"{line['juries']:,}",
            number(line["mean_kappa"]),
            number(line["best"]["kappa"]),
            percent(line["best"]["accuracy"]),
            " + ".join(line["best"]["judges"]),
            money(line["best"]["cost"]) if cost == "USD" else f"{line['best']['cost']:.0f}",
        )
        for line in juries["by_size"]
    ]
    header = ("jurors", "juries", "mean kappa", "best kappa", "its accuracy", "the best", f"cost ({cost})")
    note = f"Every jury of these judges, by the rule `{juries['rule']}`. The best of many looks better than it is."
    yield Block("Juries", header, lines, note)


def _detail(found: Figures) -> Iterator[Block]:
    lines = []
    for name, judge in by_kappa(found):
        if "credit" in judge:
            orders = [percent(get(judge, "by_order", order, "accuracy", "value")) for order in ("ab", "ba")]
            lines.append(
                (
                    name,
                    f"{judge['labelled_and_judged']:,}",
                    f"{judge['accuracy_two_way']['n']:,}",
                    percent(judge["accuracy_two_way"]),
                    number(judge["kappa_two_way"]),
                    percent(judge["credit"]),
                    *orders,
                )
            )
    header = (
        "judge", "labelled and judged", "neither a tie", "accuracy of these", "kappa of these", "a tie as half",
        "a first", "b first",
    )  # fmt: skip
    note = "A tie as half: of the items whose label is no tie. The last two: accuracy in either order."
    yield Block("Agreement in detail", header, lines, note)


def _rules(found: Figures) -> Iterator[Block]:
    rules = (found.get("juries") or {}).get("by_rule") or {}
    lines = [
        (
            rule,
            size,
            number(of["mean_kappa"]),
            number(of["best_kappa"]),
            " + ".join(of.get("best_judges", ())),
        )
        for rule, sizes in rules.items()
        for size, of in sizes.items()
        if size != "1"
    ]
    yield Block("Juries by rule", ("rule", "jurors", "mean kappa", "best kappa", "the best"), lines)


def _comparison(lines: Sequence[Figures]) -> list[tuple[str, ...]]:
    return [
        (
            line["first"],
            line["second"],
            f"{line['n']:,}",
            number(line["kappa_difference"]),
            chance(line["p_kappa_adjusted"]),
            f"{line['only_first_right']} : {line['only_second_right']}",
            chance(line["p_accuracy_adjusted"]),
            "better" if line["better"] else "no difference shown",
        )
        for line in lines
    ]


_COMPARED = (
    "the first", "the second", "items", "kappa, difference", "p", "only one right", "p (McNemar)", "the first is"
)  # fmt: skip


def _against(found: Figures) -> Iterator[Block]:
    against = (found.get("juries") or {}).get("best_against") or []
    lines = [
        (*line[:5], chance(of["p_of_choice_adjusted"]), *line[5:])
        for line, of in zip(_comparison(against), against, strict=True)
    ]
    note = (
        "p values are adjusted for the number of lines (Holm). The best was chosen by these same labels: the second p is "
        "that of so large a lead for the best of all juries (White's reality check), and both must be small."
    )
    header = (*_COMPARED[:5], "p, chosen", *_COMPARED[5:])
    yield Block("The best jury against cheaper ones", header, lines, note)


def _ranking(found: Figures) -> Iterator[Block]:
    note = (
        "On the items that both judged. p values are adjusted for the number of all pairs of judges (Holm)."
    )
    yield Block("The best judge against the others", _COMPARED, _comparison(found.get("ranking") or []), note)


def _people(found: Figures) -> Iterator[Block]:
    people = found.get("people") or {}
    lines = [
        ("annotators", f"{people.get('annotators', 0):,}"),
        ("labels", f"{people.get('labels', 0):,}"),
        ("items with no majority, left out", f"{people.get('no_majority', 0):,}"),
    ]
    if "gold" in people:
        lines.append(("labels by side", ", ".join(f"{side} {n:,}" for side, n in people["gold"].items())))
    if "alpha" in people:
        lines += [
            ("Krippendorff's alpha", number(people["alpha"])),
            ("items on which all agree", percent(people["unanimous"])),
            ("kappa of any two of them", number(people["kappa_pooled"])),
        ]
        lines += [(f"kappa of {names}", number(figure)) for names, figure in people.get("kappas", {}).items()]
        lines += [
            (f"kappa of {judge} with any one of them", number(figures["with_people"].get("kappa_pooled")))
            for judge, figures in by_kappa(found)
            if figures.get("with_people")
        ]
    yield Block("People", ("", ""), lines if people else [])


def _agreed(found: Figures) -> Iterator[Block]:
    lines = [
        (f"{line['at_least']} of {line['of']}", percent(line["coverage"]), percent(line["accuracy"]))
        for line in found.get("agreed") or []
    ]
    note = (
        "What is left, and how right it is, when only items are kept on which so many judges name one label."
    )
    yield Block("Keeping what judges agree on", ("judges that agree", "kept", "accuracy"), lines, note)


def _gaps(found: Figures) -> Iterator[Block]:
    lines = [
        (name, gap["gap"], f"{gap['n']:,}", percent(gap["share"]), percent(gap))
        for name, judge in by_kappa(found)
        for gap in judge.get("by_gap", ())
    ]
    yield Block("Agreement by score gap", ("judge", "gap", "items", "share", "accuracy"), lines)
    ranks = [
        (
            name,
            number(judge["kendall"]),
            number(judge["spearman"]),
            number(judge.get("score_kendall")),
            number(judge.get("score_spearman")),
        )
        for name, judge in by_kappa(found)
        if "by_gap" in judge
    ]
    note = "The gap of the two scores against the share of people for a; each score against people's, where they gave scores."
    header = ("judge", "Kendall, gap", "Spearman, gap", "Kendall, scores", "Spearman, scores")
    yield Block("Order of scores", header, ranks, note)


def _orders(found: Figures) -> Iterator[Block]:
    lines = []
    for name, judge in by_kappa(found):
        if order := judge.get("order"):
            lines.append(
                (
                    name,
                    f"{order['both_orders']:,}",
                    percent(order.get("flip_rate")),
                    percent(order.get("soft_rate")),
                    number(order["kappa_between_orders"]),
                    percent(order.get("first_rate")),
                    f"{order['hard_flips_to_the_first']:,} of {order['hard_flips']:,}"
                    if "hard_flips" in order
                    else "–",
                    number(order.get("points_for_being_first")),
                )
            )
    header = (
        "judge", "in both orders", "another winner", "to or from a tie", "kappa of the orders", "first wins",
        "flips to the first", "points for being first",
    )  # fmt: skip
    yield Block("Order", header, lines)


def _sides(found: Figures) -> Iterator[Block]:
    lines = [
        (
            name,
            percent(sides["a_rate"]),
            percent(sides.get("people_a_rate")),
            percent(sides["tie_rate"]),
            percent(sides.get("people_tie_rate")),
        )
        for name, judge in by_kappa(found)
        if (sides := judge.get("sides"))
    ]
    header = ("judge", "a wins", "a wins by people", "ties", "ties by people")
    note = "On the same items. Where a was always shown first, this is the liking for the first place."
    yield Block("Sides", header, lines, note)


def _length(found: Figures) -> Iterator[Block]:
    people = (found.get("people") or {}).get("length") or {}
    lines = [
        (
            name,
            percent(length.get("longer_rate")),
            number(length.get("longer_than_people")),
            percent(get(judge, "sides", "a_rate", "value")),
            percent(length.get("a_at_equal_length")),
        )
        for name, judge in by_kappa(found)
        if "longer_rate" in (length := judge.get("length", {}))
    ]
    if people and lines:
        own = (percent(people["longer_rate"]), "", "", percent(people["a_at_equal_length"]))
        lines.append(("people", *own))
    header = ("judge", "longer wins", "more than with people", "a wins", "a wins at equal length")
    yield Block("Length", header, lines)
    models = [
        (name, model, f"{of['n']:,}", percent(of["wins"]), percent(of["at_equal_length"]))
        for name, judge in by_kappa(found)
        for model, of in get(judge, "length", "models", default={}).items()
    ]
    header = ("judge", "model", "pairs", "wins", "wins at equal length")
    yield Block("Models by length", header, models)


def _own(found: Figures) -> Iterator[Block]:
    lines = [
        (
            name,
            own["family"],
            f"{own['n']:,}",
            percent(own["own_wins"]),
            f"{percent(own.get('own_wins_by_them'))} ({own.get('against', 'nobody')})",
            number(own.get("self_preference")),
        )
        for name, judge in by_kappa(found)
        if (own := judge.get("self_preference"))
    ]
    header = ("judge", "family", "pairs", "its own win", "they win by others", "difference")
    yield Block("Own family", header, lines)


def _leakage(found: Figures) -> Iterator[Block]:
    lines = [
        (line["first"], line["second"], f"{line['n']:,}", percent(line["score"]))
        for line in found.get("leakage") or []
    ]
    note = "The Preference Leakage Score (arXiv:2502.01534): 0 where each judge treats both families alike."
    yield Block("Preference leakage", ("judge", "judge", "pairs", "score"), lines, note)


def _repeats(found: Figures) -> Iterator[Block]:
    lines = [
        (
            name,
            f"{of['items']:,}",
            percent(of["all_the_same"]),
            number(of["alpha"]),
            number(of.get("variance"), 3),
            number(of.get("largest_range"), 1),
        )
        for name, judge in by_kappa(found)
        if (of := judge.get("repeats"))
    ]
    header = ("judge", "items", "all replies the same", "alpha of replies", "variance", "largest range")
    yield Block("Repeats", header, lines)


def _unparsed(found: Figures) -> Iterator[Block]:
    lines = [
        (name, f"{n:,}", why)
        for name, judge in by_kappa(found)
        for why, n in judge["unparsed"]["reasons"].items()
    ]
    yield Block("Replies without a verdict", ("judge", "replies", "why"), lines)


def _between(found: Figures) -> Iterator[Block]:
    kappas = (found.get("between") or {}).get("kappas") or {}
    lines = [(names, number(value)) for names, value in kappas.items()]
    yield Block("Judges with each other", ("judges", "kappa"), lines)
