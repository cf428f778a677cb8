"""Figures of `synthpref agree` as sentences: what to know before the judge is paid, most important first. "Better" is
said only where a test says it."""

from __future__ import annotations

from collections.abc import Iterator

from synthpref.io.agreement_format import Figures, number, percent

_FEW = 100
_LEANS = 0.05


def statements(found: Figures) -> list[str]:
    """What the figures say."""
    makers = (_labels, _best, _itself, _chance, _juries, _filter, _order, _length, _own, _unparsed, _repeats)
    return [line for maker in makers for line in maker(found)] + list(found.get("notes", ()))


def _labels(found: Figures) -> Iterator[str]:
    people = found.get("people")
    if not people:
        yield "There are no labels by people: this says how steady the judges are, not how right."
        return
    if not any(judge["labelled_and_judged"] for judge in found["judges"].values()):
        yield "No item has both a label and a verdict: do the ids of the files name the same items?"
    if people["labelled"] < _FEW:
        yield (
            f"Only {people['labelled']:,} items have a label, so the intervals are wide: "
            "a difference that they do not show may still be there."
        )
    if people["no_majority"]:
        yield (
            f"{people['no_majority']:,} items have no label, as no answer was given by more people than any other "
            "(--no-majority tie counts them as ties)."
        )
    alpha = people.get("alpha")
    if alpha and alpha["value"] is not None:
        pooled = people["kappa_pooled"]
        told = "" if pooled is None else f" Two of them agree with kappa {pooled:.2f} on average."
        yield f"People agree among themselves with Krippendorff's alpha {number(alpha)}.{told}"


def _ranked(found: Figures) -> list[tuple[str, Figures]]:
    known = [(n, j) for n, j in found["judges"].items() if (j.get("kappa") or {}).get("value") is not None]
    best = found["ranking"][0]["first"] if found.get("ranking") else ""
    return sorted(known, key=lambda item: (item[0] == best, item[1]["kappa"]["value"]), reverse=True)


def _best(found: Figures) -> Iterator[str]:
    ranked = _ranked(found)
    if not ranked:
        return
    name, judge = ranked[0]
    best = "" if len(ranked) == 1 else " best of the judges"
    yield (
        f"{name} agrees with people{best}: it gives the label of {percent(judge['accuracy'])} of "
        f"{judge['labelled_and_judged']:,} items; kappa {number(judge['kappa'])}."
    )
    pooled = (judge.get("with_people") or {}).get("kappa_pooled")
    people = found["people"].get("kappa_pooled")
    if pooled is not None and people is not None:
        yield (
            f"With any one person it agrees with kappa {pooled:.2f}; people do so with each other with {people:.2f}."
        )
    lines = found.get("ranking") or []
    better = [line["second"] for line in lines if line["better"]]
    equal = [line["second"] for line in lines if not line["better"]]
    if better:
        yield f"It is better than {_listed(better)} (paired bootstrap of kappa, adjusted p at most 0.05)."
    if equal:
        yield f"Between it and {_listed(equal)} no difference is shown."


def _itself(found: Figures) -> Iterator[str]:
    """A judge that agrees with every label may be the one that gave them."""
    same = [
        name
        for name, judge in _ranked(found)
        if judge["accuracy"]["value"] == 1.0 and judge["accuracy"]["n"] >= MANY
    ]
    if same:
        yield (
            f"{_listed(same)} agrees with every label of {MANY} items or more. Look whether the labels are people's, and "
            "not the judge's own."
        )


MANY = 20


def _chance(found: Figures) -> Iterator[str]:
    none = [n for n, j in _ranked(found) if j["kappa"]["low"] is not None and j["kappa"]["low"] <= 0]
    if none:
        yield f"Not shown to agree with people better than chance: {_listed(none)}."


def _juries(found: Figures) -> Iterator[str]:
    juries = found.get("juries") or {}
    if "skipped" in juries:
        yield f"No jury was looked at: {juries['skipped']}."
    if "best" not in juries:
        return
    if "items_note" in juries:
        yield juries["items_note"]
    best, cheapest = juries["best"], juries["cheapest_not_worse"]
    expected = juries.get("expected") or {}
    if len(best["judges"]) > 1:
        hope = ""
        if expected:
            hope = (
                f" It was chosen among {juries['juries']:,} by these labels; chosen on one half of the prompts and "
                f"measured on the other, such a choice has {expected['kappa_of_the_best_jury']:.2f} "
                f"(the best single judge {expected['kappa_of_the_best_single']:.2f})."
            )
        yield f"The best jury is {' + '.join(best['judges'])}, with kappa {number(best['kappa'])}.{hope}"
        single = " + ".join(juries["best_single"]["judges"])
        for line in juries["best_against"]:
            if line["second"] == single:
                word = "better than" if line["better"] else "not shown to be better than"
                yield f"That jury is {word} {single} alone."
    else:
        yield f"No jury of these has a higher kappa than {best['judges'][0]} alone."
    tops = {
        rule: max((of["best_kappa"] for of in sizes.values() if of["best_kappa"] is not None), default=-1.0)
        for rule, sizes in juries["by_rule"].items()
        if rule != "abstain"  # it answers fewer items, so its kappa is of others
    }
    rule = max(tops, key=lambda name: tops[name])
    if tops[rule] > best["kappa"]["value"] + 1e-9:
        yield f"By another rule the best jury has kappa {tops[rule]:.2f} on these labels: --rule {rule}."
    if cheapest["judges"] != best["judges"]:
        cost = f"{cheapest['cost']:.0f} in place of {best['cost']:.0f} jurors"
        if juries["cost_unit"] == "USD":
            cost = (
                f"{100 * cheapest['cost'] / best['cost']:.0f} % of the cost"
                if best["cost"]
                else "free as well"
            )
        yield (
            f"The cheapest that is not shown to be worse is {' + '.join(cheapest['judges'])} ({cost}), with kappa "
            f"{number(cheapest['kappa'])}."
        )


def _filter(found: Figures) -> Iterator[str]:
    lines = [line for line in found.get("agreed") or [] if line["accuracy"]["value"] is not None]
    if len(lines) > 1:
        all_ = lines[-1]
        yield (
            f"Where {all_['at_least']} of {all_['of']} judges agree, which is {percent(all_['coverage'])} of the items, "
            f"they give the label of {percent(all_['accuracy'])}."
        )


def _order(found: Figures) -> Iterator[str]:
    for name, judge in _first_few(found):
        order = judge.get("order")
        points = (order or {}).get("points_for_being_first")
        if points and points["low"] is not None and (points["low"] > 0 or points["high"] < 0):
            yield f"{name}: to be shown first is worth {number(points)} points."
        if not order or order.get("flip_rate", {}).get("value") is None:
            continue
        first, lean = order["first_rate"], ""
        if first["low"] is not None and (first["low"] > 0.5 or first["high"] < 0.5):
            side = "first" if first["value"] > 0.5 else "second"
            strong = "" if abs(first["value"] - 0.5) > _LEANS else " slightly"
            lean = f" It leans{strong} to the response shown {side}, which wins {percent({**first, 'value': max(first['value'], 1 - first['value']), 'low': None})}."
        yield (
            f"{name}: swapping the order names another winner for {percent(order['flip_rate'])} of the pairs, and makes "
            f"or unmakes a tie for {percent(order['soft_rate'])}.{lean}"
        )


def _length(found: Figures) -> Iterator[str]:
    for name, judge in _first_few(found):
        length = judge.get("length") or {}
        more = length.get("longer_than_people")
        if more and more["low"] is not None and (more["low"] > 0 or more["high"] < 0):
            word = "more" if more["value"] > 0 else "less"
            yield (
                f"{name} prefers the longer response {word} often than people do on the same pairs, by "
                f"{abs(100 * more['value']):.0f} points."
            )


def _own(found: Figures) -> Iterator[str]:
    for name, judge in _first_few(found):
        own = (judge.get("self_preference") or {}).get("self_preference")
        if own and own["low"] is not None and (own["low"] > 0 or own["high"] < 0):
            family, whose = judge["self_preference"]["family"], judge["self_preference"]["against"]
            word = "more" if own["value"] > 0 else "less"
            yield f"{name} lets its own family ({family}) win {word} often than {whose} do, by {abs(100 * own['value']):.0f} points."


def _unparsed(found: Figures) -> Iterator[str]:
    for name, judge in _first_few(found):
        if judge["unparsed"]["share"] >= 0.01:
            why = next(iter(judge["unparsed"]["reasons"]), "no reason given")
            yield f"{name}: {100 * judge['unparsed']['share']:.0f} % of its replies hold no verdict (most often: {why})."


def _repeats(found: Figures) -> Iterator[str]:
    for name, judge in _first_few(found):
        if repeats := judge.get("repeats"):
            spread = repeats.get("standard_deviation")
            told = f", with a standard deviation of {spread:.2f}" if spread is not None else ""
            yield f"{name}: asked again, all its answers are the same for {100 * repeats['all_the_same']:.0f} % of the items{told}."


def _first_few(found: Figures) -> list[tuple[str, Figures]]:
    """The judges that sentences are made about: the best of many."""
    items = _ranked(found) or list(found["judges"].items())
    return items[:4]


def _listed(names: list[str]) -> str:
    shown = names if len(names) <= 6 else [*names[:5], f"{len(names) - 5} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
