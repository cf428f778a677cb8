"""Figures of `synthpref agree` as tables, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

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

Cell = Callable[[Figures], str]


def _share(*way: str) -> Cell:
    return lambda figures: percent(get(figures, *way))


def _figure(*way: str, digits: int = 2) -> Cell:
    return lambda figures: number(get(figures, *way), digits)


def _count(*way: str) -> Cell:
    return lambda figures: f"{get(figures, *way):,}"


def by_kappa(found: Figures) -> list[tuple[str, Figures]]:
    """The judges, best first."""

    def key(item: tuple[str, Figures]) -> float:
        value = (item[1].get("kappa") or {}).get("value")
        return -9.0 if value is None else value

    return sorted(found["judges"].items(), key=key, reverse=True)


def judges(found: Figures) -> Block:
    """The table that is shown first: a line a judge."""
    pairs, labelled = found["kind"] == "pairs", bool(found.get("people"))
    columns: dict[str, Cell] = {"judged": _count("judged")}
    if labelled:
        columns |= {"accuracy": _share("accuracy"), "kappa": _figure("kappa")}
    if labelled and pairs:
        columns["without ties"] = _share("accuracy_two_way", "value")
    if labelled and not pairs:
        columns |= {
            "within 1": _share("within_one", "value"),
            "Kendall": _figure("kendall"),
            "Spearman": _figure("spearman"),
        }
    items = by_kappa(found)
    optional: dict[str, Cell] = {
        "flips": _share("order", "flip_rate", "value"),
        "first wins": _share("order", "first_rate", "value"),
        "first is worth": _figure("order", "points_for_being_first", "value"),
        "longer wins": _share("length", "longer_rate", "value"),
        "own family": lambda judge: signed(get(judge, "self_preference", "self_preference", "value")),
        "spread": _figure("repeats", "standard_deviation"),
        "unparsed": lambda judge: small_share(judge["unparsed"]["share"]),
        "a judgment": lambda judge: money(judge["cost"]),
    }
    columns |= {
        title: cell
        for title, cell in optional.items()
        if any(cell(judge) not in ("–", "0 %") for _, judge in items)
    }
    lines = [(name, *(cell(judge) for cell in columns.values())) for name, judge in items]
    note = "Accuracy: the verdict is the label, a tie being a label of its own."
    if labelled and pairs:
        note += " Without ties: of the items where label and verdict both name a winner."
    return Block("Judges", ("judge", *columns), lines, note if labelled else "")


def _by_judge(
    found: Figures, title: str, columns: Mapping[str, Cell], *part: str, note: str = "", having: str = ""
) -> Block:
    """A line for each judge that has the part of the figures (and in it `having`), a column for each cell of it."""
    parts = [(name, get(judge, *part)) for name, judge in by_kappa(found)]
    lines = [
        (name, *(cell(of) for cell in columns.values()))
        for name, of in parts
        if of and (not having or having in of)
    ]
    return Block(title, ("judge", *columns), lines, note)


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
    columns: dict[str, Cell] = {
        "labelled and judged": _count("labelled_and_judged"),
        "neither a tie": _count("accuracy_two_way", "n"),
        "accuracy of these": _share("accuracy_two_way"),
        "kappa of these": _figure("kappa_two_way"),
        "a tie as half": _share("credit"),
        "a first": _share("by_order", "ab", "accuracy", "value"),
        "b first": _share("by_order", "ba", "accuracy", "value"),
    }
    note = "A tie as half: of the items whose label is no tie. The last two: accuracy in either order."
    yield _by_judge(found, "Agreement in detail", columns, note=note, having="credit")


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
    note = "The gap of the two scores against the share of people for a; each score against people's, where they gave scores."
    columns: dict[str, Cell] = {
        "Kendall, gap": _figure("kendall"),
        "Spearman, gap": _figure("spearman"),
        "Kendall, scores": _figure("score_kendall"),
        "Spearman, scores": _figure("score_spearman"),
    }
    yield _by_judge(found, "Order of scores", columns, note=note, having="by_gap")


def _orders(found: Figures) -> Iterator[Block]:
    def flips(order: Figures) -> str:
        if "hard_flips" not in order:
            return "–"
        return f"{order['hard_flips_to_the_first']:,} of {order['hard_flips']:,}"

    columns: dict[str, Cell] = {
        "in both orders": _count("both_orders"),
        "another winner": _share("flip_rate"),
        "to or from a tie": _share("soft_rate"),
        "kappa of the orders": _figure("kappa_between_orders"),
        "first wins": _share("first_rate"),
        "flips to the first": flips,
        "points for being first": _figure("points_for_being_first"),
    }
    yield _by_judge(found, "Order", columns, "order")


def _sides(found: Figures) -> Iterator[Block]:
    columns: dict[str, Cell] = {
        "a wins": _share("a_rate"),
        "a wins by people": _share("people_a_rate"),
        "ties": _share("tie_rate"),
        "ties by people": _share("people_tie_rate"),
    }
    note = "On the same items. Where a was always shown first, this is the liking for the first place."
    yield _by_judge(found, "Sides", columns, "sides", note=note)


def _length(found: Figures) -> Iterator[Block]:
    columns: dict[str, Cell] = {
        "longer wins": _share("length", "longer_rate"),
        "more than with people": _figure("length", "longer_than_people"),
        "a wins": _share("sides", "a_rate", "value"),
        "a wins at equal length": _share("length", "a_at_equal_length"),
    }
    lines = [
        (name, *(cell(judge) for cell in columns.values()))
        for name, judge in by_kappa(found)
        if get(judge, "length", "longer_rate")
    ]
    people = get(found, "people", "length")
    if people and lines:
        lines.append(("people", percent(people["longer_rate"]), "", "", percent(people["a_at_equal_length"])))
    yield Block("Length", ("judge", *columns), lines)
    models = [
        (name, model, f"{of['n']:,}", percent(of["wins"]), percent(of["at_equal_length"]))
        for name, judge in by_kappa(found)
        for model, of in get(judge, "length", "models", default={}).items()
    ]
    header = ("judge", "model", "pairs", "wins", "wins at equal length")
    yield Block("Models by length", header, models)


def _own(found: Figures) -> Iterator[Block]:
    columns: dict[str, Cell] = {
        "family": lambda own: own["family"],
        "pairs": _count("n"),
        "its own win": _share("own_wins"),
        "they win by others": lambda own: (
            f"{percent(own.get('own_wins_by_them'))} ({own.get('against', 'nobody')})"
        ),
        "difference": _figure("self_preference"),
    }
    yield _by_judge(found, "Own family", columns, "self_preference")


def _leakage(found: Figures) -> Iterator[Block]:
    lines = [
        (line["first"], line["second"], f"{line['n']:,}", percent(line["score"]))
        for line in found.get("leakage") or []
    ]
    note = "The Preference Leakage Score (arXiv:2502.01534): 0 where each judge treats both families alike."
    yield Block("Preference leakage", ("judge", "judge", "pairs", "score"), lines, note)


def _repeats(found: Figures) -> Iterator[Block]:
    columns: dict[str, Cell] = {
        "items": _count("items"),
        "all replies the same": _share("all_the_same"),
        "alpha of replies": _figure("alpha"),
        "variance": _figure("variance", digits=3),
        "largest range": _figure("largest_range", digits=1),
    }
    yield _by_judge(found, "Repeats", columns, "repeats")


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
