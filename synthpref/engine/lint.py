"""Warnings about a sound recipe: what will make its labels worth less than they cost, told before the first call.

`describe` gathers what is known of a recipe without a call; each warning is a pure function of that description.
A recipe silences a warning by its name: `allow: [one_judge]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from synthpref.core import reach
from synthpref.core.families import families_of
from synthpref.core.seam import ModelSpec
from synthpref.core.source import Remark
from synthpref.core.stage import ROLE, Made, Takes
from synthpref.engine.plan import ANSWER_TOKENS, VERDICT_TOKENS, Plan, template_tokens
from synthpref.engine.recipe import Recipe, Use

MOSTLY = 0.5
"""Share of the rows from which on a rule is said not to work."""


@dataclass(frozen=True)
class Warned:
    """One warning: which, where, what was found, why it matters, and what to do about it."""

    name: str
    path: str
    found: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.found} ({self.name})"


@dataclass(frozen=True)
class Model:
    """What a role is, as far as warnings go."""

    name: str
    families: tuple[str, ...] = ()
    context_length: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Scored:
    """A score, the stage that gives it, and how it comes about. `paths` says where each of its roles is named."""

    path: str
    score: str
    made: Made
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ruled:
    """A pair rule, what it takes, and the samples on a row when it does."""

    path: str
    takes: Takes
    samples: int


@dataclass(frozen=True)
class Shown:
    """Requests that show a role so many candidate texts at once, beside so many tokens of other words."""

    path: str
    role: str
    texts: float
    words: float


@dataclass(frozen=True)
class Described:
    """A recipe, as far as warnings go."""

    models: Mapping[str, Model]
    writers: Mapping[str, Model] = field(default_factory=dict)
    """Who writes candidates: roles by name, and models of the source's samples."""
    scores: tuple[Scored, ...] = ()
    rules: tuple[Ruled, ...] = ()
    shown: tuple[Shown, ...] = ()

    def made(self, score: str) -> Made:
        """How it comes about, where a stage gives it."""
        return next((scored.made for scored in self.scores if scored.score == score), Made())

    def judges(self, score: str) -> tuple[str, ...]:
        """The roles whose word a score is, those of the scores that it is made of included."""
        found: dict[str, None] = {}
        todo, seen = [score], set[str]()
        while todo:
            name = todo.pop()
            for scored in self.scores:
                if scored.score == name and name not in seen:
                    found |= dict.fromkeys(scored.made.judges)
                    todo += scored.made.of
            seen.add(name)
        return tuple(found)


def warnings(recipe: Recipe, plan: Plan, seen: Sequence[Remark] = ()) -> list[Warned]:
    """The warnings about the recipe, and of its source's first records what was `seen` there, without what the recipe
    allows; in the order of its parts."""
    described = describe(recipe, plan)
    made = [Warned(r.name, r.path, r.found, r.why, r.fix) for r in seen if r.name not in recipe.head.allow]
    made += [w for name, warn in WARNINGS.items() if name not in recipe.head.allow for w in warn(described)]
    place = {use.path: i for i, use in enumerate(recipe.uses)}
    once: dict[tuple[str, str], Warned] = {}
    for w in made:
        once.setdefault((w.name, w.path), w)
    return sorted(
        once.values(), key=lambda w: next((i for path, i in place.items() if w.path.startswith(path)), -1)
    )


def describe(recipe: Recipe, plan: Plan) -> Described:
    """What can be known without a call. The samples on a row are counted as the plan counts them."""
    models = {role: _model(spec) for role, spec in recipe.models.items()}
    samples = plan.brought
    writers = {name: Model(name, families_of(name), None, longest) for name, longest in plan.writers.items()}
    scores, rules, shown = list[Scored](), list[Ruled](), list[Shown]()
    for use in recipe.uses:
        load = use.stage.load(samples)
        if load.samples > samples:
            wrote = [calls.model for calls in load.calls if not calls.reads]
            writers |= {role: models[role] for role in wrote or [calls.model for calls in load.calls]}
        paths = _paths(use)
        scores += [Scored(use.path, name, m, paths) for name, m in use.stage.makes(samples).items()]
        if takes := use.stage.takes():
            rules.append(Ruled(use.path, takes, load.samples))
        words = plan.prompt_tokens + template_tokens(recipe, use)
        shown += [
            Shown(paths.get(calls.model, use.path), calls.model, calls.reads, words)
            for calls in load.calls
            if calls.reads
        ]
        samples = load.samples
    return Described(models, writers, tuple(scores), tuple(rules), tuple(shown))


def _paths(use: Use) -> dict[str, str]:
    return {role: f"{use.path}.{path}" for path, role in use.stage.marked(ROLE)}


def _model(spec: ModelSpec) -> Model:
    families = (spec.family.lower(),) if spec.family else families_of(spec.model)
    return Model(spec.model, families, spec.context_length, spec.max_tokens)


# ---- who judges whom

_LEAKAGE = (
    "a judge prefers what its own kind wrote: Preference Leakage (arXiv:2502.01534) finds its leakage score at 23.6 % "
    "where judge and writer are one model, 19 to 22 % where one learned from the other, and 3 to 9 % within a family"
)


def same_model(d: Described) -> Iterator[Warned]:
    for path, judge in _judges(d):
        if own := [w for w in d.writers if _same(d.models[judge], d.writers[w])]:
            told = f"{_who(d, judge)} judges its own answers (those of {', '.join(own)})"
            yield Warned("same_model", path, told, _LEAKAGE, "judge with a model of another family")


def same_family(d: Described) -> Iterator[Warned]:
    for path, judge in _judges(d):
        mine = d.models[judge]
        kin = {
            name: next(family for family in mine.families if family in writer.families)
            for name, writer in d.writers.items()
            if set(mine.families) & set(writer.families) and not _same(mine, writer)
        }
        if kin:
            wrote = [
                name if name == d.writers[name].name else f"{name} ({d.writers[name].name})" for name in kin
            ]
            families = dict.fromkeys(kin.values())
            told = f"{_who(d, judge)} is of one family with {', '.join(wrote)}: {', '.join(families)}"
            fix = f"judge with another family; if the table of families is wrong, set models.{judge}.family"
            yield Warned("same_family", path, told, _LEAKAGE, fix)


def _judges(d: Described) -> Iterator[tuple[str, str]]:
    """(path, role) of each judge, once for each place where it is named."""
    found = {(s.paths.get(judge, s.path), judge): None for s in d.scores for judge in s.made.judges}
    yield from found


def _same(a: Model, b: Model) -> bool:
    return _bare(a.name) == _bare(b.name)


def _bare(name: str) -> str:
    return name.lower().rsplit("/", 1)[-1].removesuffix(":latest")


def _who(d: Described, role: str) -> str:
    return f"{role} ({d.models[role].name})"


def one_judge(d: Described) -> Iterator[Warned]:
    for rule in d.rules:
        judges = d.judges(rule.takes.score)
        if len({_bare(d.models[judge].name) for judge in judges}) == 1:
            several = f" in {len(judges)} roles" if len(judges) > 1 else ""
            told = f"the score {rule.takes.score!r} is the word of one model alone, {_who(d, judges[0])}{several}"
            why = (
                "its errors and tastes become the labels, and repeats do not average them out; in The Fellowship of "
                "the LLMs (arXiv:2408.08688) the best of 57 juries agrees with people more than the best of six "
                "judges on two of three sets (kappa .428 against .389, .429 against .410; but .673 against .688)"
            )
            fix = "use jury or jury.pair with models of several families, or measure this judge: `synthpref agree`"
            yield Warned("one_judge", rule.path, told, why, fix)


def no_swap(d: Described) -> Iterator[Warned]:
    for scored in d.scores:
        if scored.made.one_order:
            told = f"responses are shown side by side in one order only for {scored.score!r}"
            why = (
                "judges lean to a place: 13 to 24 % of recorded verdicts name the other winner when the order is "
                "swapped, and MT-Bench (arXiv:2306.05685) asks in both orders for this reason"
            )
            fix = (
                "ask in both orders (swap: true), or with a list raise repeats: each has an order of its own"
            )
            yield Warned("no_swap", scored.path, told, why, fix)


# ---- what the pair rule can do with n scores


def lower_is_better(d: Described) -> Iterator[Warned]:
    for rule in d.rules:
        if d.made(rule.takes.score).lower_is_better:
            told = f"chosen will have a high {rule.takes.score!r}, of which a low one is the better"
            why = "a pair rule holds the higher score for the better response, so the labels are the wrong way round"
            fix = (
                "a form of the score that grows with quality (score.perplexity: form: mean), or another score"
            )
            yield Warned("lower_is_better", rule.path, told, why, fix)


def coarse_scale(d: Described) -> Iterator[Warned]:
    for rule in d.rules:
        made = d.made(rule.takes.score)
        if not rule.takes.best or made.levels is None or rule.samples < 2:
            continue
        levels = (made.levels - 1) * made.votes + 1
        shared = reach.shared_best(rule.samples, levels)
        if shared > MOSTLY:
            told = (
                f"{rule.takes.score!r} can have {levels} values, so among {rule.samples} responses the highest is "
                f"shared by several in about {100 * shared:.0f} % of the rows, and the lowest too"
            )
            why = (
                "which of those that tie becomes chosen is a draw by lot; counted for normal scores with the scale's "
                "ends at three standard deviations, and judges bunch more than that"
            )
            needed = reach.levels_needed(rule.samples, MOSTLY)
            enough = f" ({needed} values are enough to bring it under one half)" if needed else ""
            fix = f"a finer scale{enough}, extract: expected, more repeats, or a jury with reducer: mean"
            yield Warned("coarse_scale", rule.path, told, why, fix)


def unreachable(d: Described) -> Iterator[Warned]:
    for rule in d.rules:
        n, takes = rule.samples, rule.takes
        if n < 2:
            continue
        if takes.quantile is not None:
            enough = reach.quantile_from(takes.quantile)
            if n < enough:
                told = f"with {n} responses the one nearest to the quantile {takes.quantile:g} is always the lowest"
                yield Warned("unreachable", rule.path, told, _MINIMUM, f"sample {enough} or more")
            continue
        if takes.sigmas is None or (share := reach.was_minimum(n, takes.sigmas, takes.ddof)) <= MOSTLY:
            continue
        furthest = reach.furthest(n, takes.ddof)
        bound = (
            f"no response can lie further than {furthest:.2f} sigma below the mean"
            if takes.sigmas >= furthest
            else f"of normal scores the pick is the lowest in about {100 * share:.0f} % of the rows"
        )
        told = f"mu - {takes.sigmas:g} sigma lies mostly below all {n} responses: {bound}"
        enough_n = reach.from_how_many(takes.sigmas, MOSTLY, takes.ddof)
        fix = f"sample about {enough_n} or more, " if enough_n else ""
        yield Warned("unreachable", rule.path, told, _MINIMUM, f"{fix}take a smaller k, or pair.min_of_k")


_MINIMUM = (
    "the rule then does what pair.extremes does, and the gain that arXiv:2502.16825 finds for mu - 2 sigma at n = 200 "
    "is not to be had; of n numbers none lies further than (n-1)/sqrt(n) sigma from the mean"
)


# ---- what the judge can read


def short_context(d: Described) -> Iterator[Warned]:
    longest = [writer.max_tokens for writer in d.writers.values()]
    known = [tokens for tokens in longest if tokens is not None]
    bounded = bool(known) and None not in longest
    text = max(known) if bounded else max([ANSWER_TOKENS, *known])
    said = (
        "the longest that a writer may give"
        if bounded
        else "an ordinary answer; the writers have no max_tokens"
    )
    for shown in d.shown:
        model = d.models[shown.role]
        if model.context_length is None:
            continue
        reply = model.max_tokens or VERDICT_TOKENS
        need = shown.words + shown.texts * text + reply
        if need > model.context_length:
            told = (
                f"a request to {_who(d, shown.role)} may need about {need:,.0f} tokens, and its context_length is "
                f"{model.context_length:,}: {shown.texts:g} texts of {text:,} ({said}), {shown.words:,.0f} of prompt "
                f"and template, {reply:,} for the reply"
            )
            why = "the endpoint refuses what is too long, or cuts it off, and the judge then scores what it did not see"
            fix = "a role with a longer context, a smaller max_tokens for the writers, or fewer texts in a request"
            yield Warned("short_context", shown.path, told, why, fix)


WARNINGS: Mapping[str, Callable[[Described], Iterator[Warned]]] = {
    "same_model": same_model,
    "same_family": same_family,
    "one_judge": one_judge,
    "no_swap": no_swap,
    "lower_is_better": lower_is_better,
    "coarse_scale": coarse_scale,
    "unreachable": unreachable,
    "short_context": short_context,
}
OF_THE_SOURCE = ("same_score", "fixed_turn")
"""Warnings that the source's first records give."""
