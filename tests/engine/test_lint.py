"""The warnings of `check`: each fires where it should and nowhere else, and is silenced by its name."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from typer.testing import CliRunner

from synthpref import job
from synthpref.cli import app
from synthpref.core import reach
from synthpref.core.errors import RecipeError
from synthpref.core.rules import mu_sigma
from synthpref.core.stage import Made, Takes
from synthpref.engine import lint
from synthpref.engine import recipe as recipes
from synthpref.engine.lint import OF_THE_SOURCE, WARNINGS, Described, Model, Ruled, Scored, Shown, Warned
from synthpref.engine.plan import Plan
from synthpref.engine.recipe import Allowed

REPO = Path(__file__).parents[2]


def model(name: str, *families: str, context: int | None = None, longest: int | None = None) -> Model:
    return Model(name, families, context, longest)


GPT, GPT_MINI, QWEN = model("gpt-5", "gpt"), model("gpt-5-mini", "gpt"), model("Qwen/Qwen3-8B", "qwen")
DISTILLED = model("DeepSeek-R1-Distill-Qwen-7B", "qwen", "deepseek")
UNKNOWN, STRANGER = model("house-judge"), model("house-policy")


def met(judge: Model, writer: Model) -> Described:
    scored = Scored(
        "stages[1].judge.point", "good", Made(("judge",)), {"judge": "stages[1].judge.point.model"}
    )
    return Described({"judge": judge, "policy": writer}, {"policy": writer}, (scored,))


def judged(*judges: Model, of: tuple[str, ...] = (), **made: Any) -> Described:
    models = {f"j{i}": judge for i, judge in enumerate(judges)}
    first = Scored("stages[1].judge", "good", Made(tuple(models), **made))
    other = Scored("stages[2].combine", "sum", Made((), of=("good", "sum", *of)))
    return Described(models, {}, (first, other), (Ruled("stages[3].pair", Takes("good"), 8),))


def ruled(takes: Takes, samples: int, **made: Any) -> Described:
    scored = Scored("stages[1].judge", "good", Made(("j0",), **made))
    return Described({"j0": GPT}, {}, (scored,), (Ruled("stages[2].pair", takes, samples),))


def shows(context: int | None, writer: Model, texts: float = 2, reply: int | None = 100) -> Described:
    models = {"judge": model("j", context=context, longest=reply), "policy": writer}
    return Described(models, {"policy": writer}, (), (), (Shown("stages[1].j", "judge", texts, 300),))


BEST, SWEET = Takes("good", best=True), Takes("good", best=True, sigmas=2.0)
COMBINED = Takes("sum")

TABLE: list[tuple[str, Described, bool]] = [
    ("same_model", met(GPT, GPT), True),
    ("same_model", met(model("qwen3-8b:latest"), QWEN), True),
    ("same_model", met(UNKNOWN, UNKNOWN), True),
    ("same_model", met(GPT, GPT_MINI), False),
    ("same_model", met(UNKNOWN, STRANGER), False),
    ("same_family", met(GPT, GPT_MINI), True),
    ("same_family", met(DISTILLED, QWEN), True),
    ("same_family", met(model("deepseek-chat", "deepseek"), DISTILLED), True),
    ("same_family", met(GPT, QWEN), False),
    ("same_family", met(GPT, GPT), False),
    ("same_family", met(UNKNOWN, STRANGER), False),
    ("one_judge", judged(GPT), True),
    ("one_judge", judged(GPT, model("openai/gpt-5", "gpt")), True),
    ("one_judge", judged(GPT, QWEN), False),
    ("one_judge", judged(), False),
    ("no_swap", judged(GPT, one_order=True), True),
    ("no_swap", judged(GPT), False),
    ("lower_is_better", ruled(BEST, 8, lower_is_better=True), True),
    ("lower_is_better", ruled(BEST, 8), False),
    ("lower_is_better", ruled(Takes("another"), 8, lower_is_better=True), False),
    ("coarse_scale", ruled(BEST, 32, levels=5), True),
    ("coarse_scale", ruled(BEST, 32, levels=10), False),
    ("coarse_scale", ruled(BEST, 200, levels=10), True),
    ("coarse_scale", ruled(BEST, 32, levels=5, votes=4), False),
    ("coarse_scale", ruled(BEST, 32), False),
    ("coarse_scale", ruled(BEST, 2, levels=5), False),
    ("coarse_scale", ruled(BEST, 1, levels=2), False),
    ("coarse_scale", ruled(Takes("good"), 32, levels=5), False),
    ("coarse_scale", ruled(Takes("brought", best=True), 32, levels=5), False),
    ("unreachable", ruled(SWEET, 5), True),
    ("unreachable", ruled(SWEET, 16), True),
    ("unreachable", ruled(SWEET, 32), True),
    ("unreachable", ruled(SWEET, 64), False),
    ("unreachable", ruled(SWEET, 1), False),
    ("unreachable", ruled(Takes("good", sigmas=1.0), 8), False),
    ("unreachable", ruled(Takes("good", sigmas=5.0), 200), True),
    ("unreachable", ruled(Takes("good", quantile=0.023), 22), True),
    ("unreachable", ruled(Takes("good", quantile=0.023), 23), False),
    ("unreachable", ruled(BEST, 5), False),
    ("short_context", shows(2000, model("p", longest=1024)), True),
    ("short_context", shows(2448, model("p", longest=1024)), False),
    ("short_context", shows(2447, model("p", longest=1024)), True),
    ("short_context", shows(None, model("p", longest=1024)), False),
    ("short_context", shows(1000, model("p")), True),
    ("short_context", shows(1250, model("p")), False),
]


@pytest.mark.parametrize(("name", "described", "fires"), TABLE)
def test_a_warning_fires_where_it_should(name: str, described: Described, fires: bool) -> None:
    found = list(WARNINGS[name](described))
    assert bool(found) is fires
    assert {warned.name for warned in found} <= {name}
    assert all(w.path.startswith("stages[") and w.found and w.why and w.fix for w in found)


def test_every_warning_is_tried_both_ways_and_can_be_allowed() -> None:
    assert (
        {name for name, _, fires in TABLE if fires}
        == {name for name, _, f in TABLE if not f}
        == set(WARNINGS)
    )
    assert set(get_args(Allowed)) == {*WARNINGS, *OF_THE_SOURCE}


def test_all_writers_that_are_kin_stand_in_one_warning() -> None:
    scored = tuple(
        Scored("stages[1].j", name, Made(("judge",)), {"judge": "stages[1].j.model"}) for name in "abc"
    )
    writers = {"p": GPT_MINI, "gpt-4-0613": model("gpt-4-0613", "gpt"), "q": QWEN, "r": GPT}
    described = Described({"judge": GPT}, writers, scored)
    [kin] = WARNINGS["same_family"](described)
    assert "of one family with p (gpt-5-mini), gpt-4-0613: gpt" in kin.found
    [own] = WARNINGS["same_model"](described)
    assert "judge (gpt-5) judges its own answers (those of r)" in own.found


def test_the_judges_of_a_score_that_is_made_of_others_are_found() -> None:
    described = judged(GPT, of=("gone",))
    assert described.judges("sum") == ("j0",)
    combined = Described(described.models, {}, described.scores, (Ruled("stages[3].pair", COMBINED, 8),))
    assert [w.name for w in WARNINGS["one_judge"](combined)] == ["one_judge"]


def test_a_warning_says_its_numbers() -> None:
    [coarse] = WARNINGS["coarse_scale"](ruled(BEST, 32, levels=5))
    assert "5 values" in coarse.found
    assert "73 %" in coarse.found
    assert "(10 values are enough" in coarse.fix
    [bound] = WARNINGS["unreachable"](ruled(SWEET, 5))
    assert "1.79 sigma" in bound.found
    [often] = WARNINGS["unreachable"](ruled(SWEET, 32))
    assert "about 7" in often.found
    assert "pair.min_of_k" in often.fix
    [context] = WARNINGS["short_context"](shows(2000, model("p", longest=1024)))
    assert "2,448 tokens" in context.found
    assert "2 texts of 1,024" in context.found


# ---- the figures


@pytest.mark.parametrize(
    ("n", "share"), [(3, 1), (5, 1), (10, 1), (16, 0.98), (32, 0.71), (50, 0.43), (100, 0.10), (200, 0.005)]
)
def test_how_often_mu_minus_two_sigma_is_the_minimum(n: int, share: float) -> None:
    """Figures of 100,000 draws of n numbers each, made elsewhere; the tolerance is four standard errors of the count made here."""
    rounds = max(100, reach.DRAWS // n)
    assert abs(reach.was_minimum(n, 2.0) - share) <= 4 * (share * (1 - share) / rounds) ** 0.5 + 0.005


def test_from_how_many_the_rule_is_mostly_in_force() -> None:
    enough = reach.from_how_many(2.0, 0.5)
    assert enough is not None
    assert 40 <= enough <= 50
    assert reach.was_minimum(enough, 2.0) <= 0.5 < reach.was_minimum(enough - 8, 2.0)
    assert reach.from_how_many(4.5, 0.5) is None


def test_very_many_responses_and_values_are_no_burden() -> None:
    assert reach.was_minimum(10**9, 2.0) == 0
    assert reach.was_minimum(10**9, 9.0) == 1
    assert reach.shared_best(32, 10**9) < 0.01


def test_no_number_lies_further_from_the_mean_than_the_bound() -> None:
    for n in (2, 5, 6, 40):
        for ddof in (0, 1):
            values = [0.0, *[1.0] * (n - 1)]
            mean = sum(values) / n
            sd = (sum((v - mean) ** 2 for v in values) / (n - ddof)) ** 0.5
            assert reach.furthest(n, ddof) == pytest.approx(mean / sd)


def test_how_often_the_best_is_shared_against_draws() -> None:
    rng = random.Random(1)
    for n, levels in ((2, 5), (8, 5), (32, 5), (32, 10), (16, 28)):
        step = reach.SPAN / (levels - 1)
        shared = 0
        for _ in range(2000):
            drawn = [
                max(0, min(levels - 1, round((rng.gauss(0, 1) + reach.SPAN / 2) / step))) for _ in range(n)
            ]
            shared += drawn.count(max(drawn)) > 1
        assert abs(shared / 2000 - reach.shared_best(n, levels)) < 0.045


def test_a_finer_scale_ties_less_and_the_fewest_levels_are_found() -> None:
    shares = [reach.shared_best(32, levels) for levels in (5, 10, 20, 50, 100)]
    assert shares == sorted(shares, reverse=True)
    needed = reach.levels_needed(32, 0.5)
    assert needed is not None
    assert reach.shared_best(32, needed) <= 0.5 < reach.shared_best(32, needed - 1)
    assert reach.levels_needed(10_000, 0.001, most=20) is None


@pytest.mark.parametrize("quantile", [0.023, 0.05, 0.1, 0.25, 0.5])
def test_from_how_many_a_quantile_is_not_the_minimum(quantile: float) -> None:
    def rejected(n: int) -> int:
        made = mu_sigma([float(i) for i in range(n)], range(n), quantile=quantile)
        assert isinstance(made, list)
        return made[0].rejected

    enough = reach.quantile_from(quantile)
    assert rejected(enough) > 0
    assert enough < 4 or rejected(enough - 1) == 0


# ---- whole recipes


def recipe(folder: Path, *stages: Any, models: dict[str, Any] | None = None, **head: Any) -> Path:
    roles = {"policy": {"model": "p", "max_tokens": 500}, "judge": {"model": "j"}, "second": {"model": "k"}}
    tree = {
        "name": "linted",
        "models": {
            role: {"backend": "simulated", "length": 30} | roles.get(role, {}) | (models or {}).get(role, {})
            for role in {**roles, **(models or {})}
        },
        "source": {"rows": ["How do heat pumps work?", "Why do we have leap years?"]},
        "stages": list(stages),
        **head,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def warned(path: Path) -> list[Warned]:
    loaded = job.load(path)
    return job.warnings(loaded, job.estimate(loaded))


def found(path: Path) -> list[tuple[str, str]]:
    return [(w.name, w.path) for w in warned(path)]


SAMPLE = {"sample.n": {"model": "policy", "n": 8}}
POINT = {"judge.point": {"model": "judge", "name": "good"}}
JURY = {"jury": {"judges": ["judge", "second"], "name": "good"}}
EXTREMES = {"pair.extremes": {"score": "good"}}


def test_a_jury_of_two_families_on_a_fine_scale_has_no_warning(tmp_path: Path) -> None:
    assert found(recipe(tmp_path, SAMPLE, JURY, EXTREMES)) == []


@pytest.mark.parametrize(("form", "told"), [("perplexity", ["lower_is_better"]), ("mean", []), ("sum", [])])
def test_pairs_by_a_perplexity_are_the_wrong_way_round(tmp_path: Path, form: str, told: list[str]) -> None:
    by = {"score.perplexity": {"model": "judge", "form": form, "name": "good"}}
    path = recipe(tmp_path, SAMPLE, by, EXTREMES, allow=["one_judge"])
    assert found(path) == [(name, "stages[2].pair.extremes") for name in told]


def test_each_warning_is_found_in_a_recipe_under_its_path(tmp_path: Path) -> None:
    path = recipe(
        tmp_path,
        {"sample.n": {"model": "policy", "n": 32}},
        {"judge.point": {"model": "judge", "name": "good", "scale": [1, 5]}},
        {"judge.pair": {"model": "second", "name": "compared", "swap": False}},
        {"pair.mu_sigma": {"score": "good"}},
        models={
            "policy": {"model": "gpt-4o"},
            "judge": {"model": "o3", "context_length": 700},
            "second": {"model": "openai/gpt-4o"},
        },
    )
    assert found(path) == [
        ("same_family", "stages[1].judge.point.model"),
        ("short_context", "stages[1].judge.point.model"),
        ("same_model", "stages[2].judge.pair.model"),
        ("no_swap", "stages[2].judge.pair"),
        ("one_judge", "stages[3].pair.mu_sigma"),
        ("coarse_scale", "stages[3].pair.mu_sigma"),
        ("unreachable", "stages[3].pair.mu_sigma"),
    ]


@pytest.mark.parametrize(
    ("judge", "families", "names"),
    [
        ("gpt-4o", {}, {"same_model"}),
        ("gpt-5-mini", {}, {"same_family"}),
        ("gpt-5-mini", {"judge": {"family": "house"}}, set()),
        ("Qwen3-8B", {}, set()),
        ("house", {"judge": {"family": "GPT"}}, {"same_family"}),
        ("house", {"judge": {"family": "x"}, "policy": {"family": "X"}}, {"same_family"}),
    ],
)
def test_a_family_that_is_named_goes_before_the_table(
    tmp_path: Path, judge: str, families: dict[str, Any], names: set[str]
) -> None:
    models = {"policy": {"model": "gpt-4o"} | families.get("policy", {})}
    models["judge"] = {"model": judge} | families.get("judge", {})
    assert {name for name, _ in found(recipe(tmp_path, SAMPLE, JURY, EXTREMES, models=models))} == names


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        (POINT, {"one_judge", "coarse_scale"}),
        ({"judge.point": {"model": "judge", "name": "good", "repeats": 4, "scale": [1, 5]}}, {"one_judge"}),
        (
            {"judge.point": {"model": "judge", "name": "good", "extract": "expected", "scale": [1, 5]}},
            {"one_judge"},
        ),
        (
            {"judge.point": {"model": "judge", "name": "good", "integer": False, "scale": [1, 5]}},
            {"one_judge"},
        ),
        ({"judge.pair": {"model": "judge", "name": "good"}}, {"one_judge"}),
        ({"judge.pair": {"model": "judge", "name": "good", "swap": False}}, {"one_judge", "no_swap"}),
        ({"judge.pair": {"model": "judge", "name": "good", "against": 0}}, {"one_judge", "coarse_scale"}),
        ({"judge.list": {"model": "judge", "name": "good", "scale": [1, 100]}}, {"one_judge", "no_swap"}),
        ({"judge.list": {"model": "judge", "name": "good", "repeats": 3}}, {"one_judge"}),
        ({"judge.aspects": {"model": "judge", "name": "good", "scale": [1, 5]}}, {"one_judge"}),
        ({"reward": {"model": "judge", "name": "good"}}, {"one_judge"}),
        ({"judge.principles": {"model": "judge", "name": "good"}}, {"one_judge"}),
        ({"jury.pair": {"judges": ["judge", "second"], "name": "good"}}, set()),
        ({"jury.pair": {"judges": ["judge", "second"], "name": "good", "swap": False}}, {"no_swap"}),
        ({"jury.pair": {"judges": ["judge", "second"], "name": "good", "against": 0}}, {"coarse_scale"}),
        ({"debate": {"judges": ["judge"], "name": "good"}}, {"one_judge"}),
        ({"debate": {"judges": ["judge", "second"], "name": "good", "reducer": "median"}}, {"coarse_scale"}),
        (
            {"debate": {"judges": ["judge", "second"], "name": "good", "about": "pair", "swap": False}},
            {"no_swap"},
        ),
        (JURY, set()),
        ({"jury": {"judges": ["judge", "second"], "name": "good", "reducer": "median", "scale": [1, 5]}}, {"coarse_scale"}),
        ({"jury": {"judges": ["judge", "twin"], "name": "good"}}, {"one_judge"}),
    ],
)  # fmt: skip
def test_every_word_that_judges_says_how_its_score_comes_about(
    tmp_path: Path, stage: dict[str, Any], names: set[str]
) -> None:
    sample = {"sample.n": {"model": "policy", "n": 64}}
    path = recipe(tmp_path, sample, stage, EXTREMES, models={"twin": {"model": "j"}})
    assert {name for name, _ in found(path)} == names


@pytest.mark.parametrize(("other", "names"), [("judge", {"one_judge"}), ("second", set())])
def test_a_combined_score_is_the_word_of_the_judges_of_its_parts(
    tmp_path: Path, other: str, names: set[str]
) -> None:
    stages = [
        {"judge.point": {"model": "judge", "name": "a"}},
        {"judge.point": {"model": other, "name": "b"}},
        {"score.combine": {"weights": {"a": 1, "b": 2}, "name": "good"}},
    ]
    assert {name for name, _ in found(recipe(tmp_path, SAMPLE, *stages, EXTREMES))} == names


def test_scores_that_no_model_gives_have_no_judge(tmp_path: Path) -> None:
    rows = [{"prompt": "a?", "answers": ["x", "y"], "reference": "x"}]
    source = {"rows": rows, "samples": {"column": "answers"}, "reference": "reference"}
    stages = ({"verify": {"kind": "exact", "name": "right"}}, {"pair.verified": {"score": "right"}})
    assert found(recipe(tmp_path, *stages, source=source)) == []


def test_answers_that_the_source_brings_are_known_by_their_model_and_length(tmp_path: Path) -> None:
    answers = [{"text": "word " * 4000, "model": "gpt-4-0613"}, {"text": "short", "model": "vicuna-13b"}]
    source = {
        "rows": [{"prompt": "a?", "answers": answers}],
        "samples": {"column": "answers", "text": "text", "model": "model"},
    }
    models = {"judge": {"model": "gpt-4o", "context_length": 4096}, "second": {"model": "claude-3"}}
    assert found(recipe(tmp_path, JURY, EXTREMES, source=source, models=models)) == [
        ("same_family", "stages[0].jury.judges[0].model"),
        ("short_context", "stages[0].jury.judges[0].model"),
    ]


PLUGIN = '''
from synthpref.core.stage import Calls, Load, Role, RowStage
from synthpref.core.types import Score


class Mine(RowStage):
    """A judge that says nothing of itself."""

    model: Role

    def gives(self):
        return {"score:mine"}

    def load(self, samples):
        return Load(samples, (Calls(self.model, samples, reads=1),))


STAGES = {"mine": Mine}
'''


def test_a_plugin_that_tells_nothing_is_known_by_what_it_reads(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN, encoding="utf-8")
    stages = (SAMPLE, {"mine": {"model": "judge"}}, {"pair.extremes": {"score": "mine"}})
    path = recipe(tmp_path, *stages, plugins=["mine.py"], models={"judge": {"model": "p"}})
    assert found(path) == [("same_model", "stages[1].mine.model"), ("one_judge", "stages[2].pair.extremes")]


# ---- what a recipe allows, and what the commands do


def test_a_recipe_allows_a_warning_by_its_name(tmp_path: Path) -> None:
    assert [name for name, _ in found(recipe(tmp_path, SAMPLE, POINT, EXTREMES))] == ["one_judge"]
    assert found(recipe(tmp_path, SAMPLE, POINT, EXTREMES, allow=["one_judge"])) == []
    assert [n for n, _ in found(recipe(tmp_path, SAMPLE, POINT, EXTREMES, allow=["no_swap"]))] == [
        "one_judge"
    ]
    with pytest.raises(RecipeError, match="allow"):
        job.load(recipe(tmp_path, SAMPLE, POINT, EXTREMES, allow=["two_judges"]))


def test_check_tells_warnings_in_full_and_strict_fails_on_them(tmp_path: Path) -> None:
    path = str(recipe(tmp_path, SAMPLE, POINT, EXTREMES))
    plain = CliRunner().invoke(app, ["check", path])
    assert plain.exit_code == 0
    for part in (
        "one_judge",
        "stages[2].pair.extremes",
        "2408.08688",
        "use jury",
        "1 warning",
        "nothing was asked",
    ):
        assert part in plain.output, part
    strict = CliRunner().invoke(app, ["check", "--strict", path])
    assert (strict.exit_code, strict.output) == (2, plain.output)
    silent = str(recipe(tmp_path, SAMPLE, POINT, EXTREMES, allow=["one_judge"]))
    quiet = CliRunner().invoke(app, ["check", "--strict", silent])
    assert quiet.exit_code == 0
    assert "no warnings" in quiet.output


def test_run_tells_each_warning_in_a_line_before_the_first_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(recipe(tmp_path, SAMPLE, POINT, EXTREMES))

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("the first call")

    monkeypatch.setattr(job, "run", refuse)
    done = CliRunner().invoke(app, ["run", path, "--out", str(tmp_path / "run")])
    assert str(done.exception) == "the first call"
    assert "warning: stages[2].pair.extremes: the score 'good' is the word of one model" in done.output
    assert done.output.count("warning") == 1


def test_what_is_allowed_changes_no_answer(tmp_path: Path) -> None:
    first = job.load(recipe(tmp_path, SAMPLE, POINT, EXTREMES))
    other = job.load(
        recipe(
            tmp_path,
            SAMPLE,
            POINT,
            EXTREMES,
            allow=["one_judge"],
            models={"judge": {"family": "x", "context_length": 9}},
        )
    )
    stages = [(use, part) for use in first.uses for part in use.parts]
    assert first.digest(stages) == other.digest(stages)


SHIPPED = [
    *sorted(path for path in (REPO / "recipes").rglob("*.yaml") if path.parent.name != "data"),
    REPO / "examples" / "plugin" / "recipe.yaml",
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.relative_to(REPO).as_posix())
def test_a_shipped_recipe_has_no_warning_that_it_does_not_allow(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Field recipes are looked at without their data, as if each row brought 37 samples or none."""
    for name, value in {"OPENAI_API_KEY": "sk-test", "SYNTHPREF_URL": "http://127.0.0.1:9/v1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SYNTHPREF_DATA", "/nowhere")
    if path.parent.name == "field":
        loaded = recipes.load(path)
        estimate = Plan(1, (), 50.0, 37 if loaded.source.samples else 0)
    else:
        # A warning needs no model, and so not what a model needs.
        monkeypatch.setattr("synthpref.models.local.installed", lambda: True)
        loaded = job.load(path)
        estimate = job.estimate(loaded)
    assert [str(w) for w in job.warnings(loaded, estimate)] == []
    text = path.read_text(encoding="utf-8")
    bare = loaded.head.model_copy(update={"allow": ()})
    fired = {w.name for w in lint.warnings(replace(loaded, head=bare), estimate)}
    assert set(loaded.head.allow) <= fired, "a recipe allows a warning that it does not get"
    if loaded.head.allow:
        before, _, after = text.partition("\nallow:")
        assert "#" in after.splitlines()[0] or before.splitlines()[-1].startswith("# "), "say why"
