"""A recipe is edited and its run goes on: what the change calls for is asked, and nothing else.

One check for all edits: what is asked after the edit is what a fresh run of the edited recipe asks, less what had
been asked before; and what comes out is, byte for byte, what comes out of the fresh run.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from noted import NOTED

from synthpref import job
from synthpref.engine.prompts import shipped
from synthpref.engine.registry import BUILT_IN, Registry
from synthpref.models.local import Local
from synthpref.models.openai import OpenAI
from synthpref.models.simulated import Simulated
from synthpref.models.vllm import VLLM
from synthpref.models.vllm_serve import VLLMServe
from wire import Server, serving

Tree = dict[str, Any]
ABSENT = object()
"""In a change: the field is taken away."""
ROWS = [
    {
        "prompt": f"How does {matter} work, and what is it good for?",
        "reference": f"{i}",
        "who": f"a {matter} maker",
    }
    for i, matter in enumerate(("a heat pump", "a sundial", "yeast", "an abacus", "a lock"))
]
GOOD = {"reward": {"model": "scorer", "name": "good"}}


def recipe(stages: list[Any], rows: list[Any] = ROWS, models: Tree | None = None, **head: Any) -> Tree:
    roles = {
        "policy": {"model": "policy", "length": 30, "empty": 0.05},
        "other": {"model": "other", "length": 30},
        "writer": {"model": "writer", "malformed": 0.4},
        "broken": {"model": "broken", "malformed": 0.9},
        "judge": {"model": "judge", "malformed": 0.4},
        "second": {"model": "second"},
        "unsure": {"model": "unsure", "noise": 2, "position_bias": 1},
        "explainer": {"model": "explainer", "refuse": 0.4},
        "scorer": {"model": "scorer"},
    }
    # Few slots make few workers, of which each run starts all.
    named = {name: {"backend": "noted", "concurrency": 2, **fields} for name, fields in roles.items()}
    return {
        "name": "edited",
        "seed": 7,
        "plugins": ["my_backend.py"],
        "models": named | (models or {}),
        "source": {"rows": rows, "reference": "reference"},
        "stages": stages,
        "limits": {"max_reject_rate": 1},
        **head,
    }


def run(folder: Path, tree: Tree) -> Counter[bytes]:
    """Run the recipe into `folder`/run, or go on with what is there; what was asked."""
    (folder / "my_backend.py").write_text("from noted import BACKENDS\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text(json.dumps(tree), encoding="utf-8")
    NOTED.clear()
    result = job.run(job.load(folder / "recipe.yaml"), folder / "run")
    assert not result.stopped
    return NOTED.copy()


def made(folder: Path) -> dict[str, bytes]:
    """What a run leaves that its rows decide."""
    files = [folder / "run/rows.parquet", folder / "run/left.jsonl", *(folder / "run/dataset/data").iterdir()]
    return {file.name: file.read_bytes() for file in files}


def check(tmp_path: Path, before: Tree, after: Tree, first: Path | None = None) -> tuple[int, int, int]:
    """Edit one into the other, both ways; (asked by the edit, by a fresh run after it, by one before it)."""
    edited, fresh = tmp_path / "edited", tmp_path / "fresh"
    fresh.mkdir()
    if first:
        shutil.copytree(first, edited)
        asked = Counter({line.encode(): 1 for line in (first / "asked").read_text("utf-8").splitlines()})
    else:
        edited.mkdir()
        asked = run(edited, before)
    was = made(edited)
    whole = run(fresh, after)
    wanted, bought = whole - asked, run(edited, after)
    assert bought == wanted, (
        f"{(bought - wanted).total()} asked in vain, {(wanted - bought).total()} not asked"
    )
    assert made(edited) == made(fresh)
    assert run(edited, before).total() == 0, "the first recipe's answers are kept"
    assert made(edited) == was
    return bought.total(), whole.total(), asked.total()


# ---- every field of every stage


@dataclass(frozen=True)
class Edit:
    """A change of a stage's fields; whether it asks anything; what the fields are before it, beside the usual."""

    to: Tree
    asks: bool
    first: Tree = field(default_factory=dict)


FREE, ASKS = False, True
JUDGED: dict[str, Edit] = {
    "rubric": Edit({"rubric": "honesty"}, ASKS),
    "reference": Edit({"reference": True}, ASKS),
    "reasoning": Edit({"reasoning": "after"}, ASKS),
    "reask": Edit({"reask": "mine:judge/reask"}, ASKS),
    "again": Edit({"again": 2}, ASKS),
    "model": Edit({"model": "second"}, ASKS),
    "name": Edit({"name": "another"}, FREE),
    "prompt": Edit({"prompt": "mine:judge/point"}, ASKS),
}
SCALED = JUDGED | {"scale": Edit({"scale": [1, 5]}, ASKS), "integer": Edit({"integer": False}, ASKS)}
MANY: Tree = {"extract": "majority", "repeats": 4}
FINE: Tree = {"scale": [1, 20]}
EXTRACTED: dict[str, Edit] = {
    "repeats": Edit({"repeats": 2}, ASKS),
    "extract": Edit({"extract": "expected"}, ASKS),
    "min_mass": Edit({"min_mass": 0.999}, FREE, {"extract": "expected"}),
}
BENCH = {name: SCALED[name] for name in SCALED if name != "model"} | {
    "judges": Edit({"judges": ["judge", {"model": "second", "rubric": "depth"}]}, ASKS),
    "reasoning": Edit({"reasoning": "after"}, ASKS),
    "repeats": Edit({"repeats": 2}, ASKS),
    "extract": Edit({"extract": "expected"}, ASKS),
    "min_mass": Edit({"min_mass": 0.999}, FREE, {"extract": "expected"}),
    "at_least": Edit({"at_least": 2}, FREE),
    "stop_early": Edit({"stop_early": True}, FREE, {"reducer": "majority"}),
}
PAIRED: dict[str, Edit] = {
    "score": Edit({"score": "again"}, FREE),
    "min_margin": Edit({"min_margin": 0.7}, FREE),
    "min_p": Edit({"min_p": 0.6}, FREE),
    "min_p_low": Edit({"min_p_low": 0.5}, FREE),
    "min_agreement": Edit({"min_agreement": 1}, FREE),
    "truncated": Edit({"truncated": "keep"}, FREE),
}
MOST = {"max_pairs": Edit({"max_pairs": 2}, FREE, {"max_pairs": 1})}
WRITTEN: dict[str, Edit] = {
    "model": Edit({"model": "other"}, ASKS),
    "reask": Edit({"reask": "mine:synth/reask"}, ASKS, {"model": "broken"}),
    "per_row": Edit({"per_row": 3}, ASKS),
}
ENSEMBLE = [{"model": "policy", "n": 2}, {"model": "other", "system": "Be brief."}]
SCHEMA = {"type": "object"}
ROUTED: Tree = {"prefixes": ["chat", "reasoning"], "router": "second"}
LEARNED: Tree = {"fit": "label", "scores": ["good", "again"], "weights": ABSENT}

USUAL: dict[str, Tree] = {
    "synth.bootstrap": {"model": "writer", "per_row": 2, "examples": 3},
    "synth.evolve": {"model": "writer"},
    "synth.persona": {"model": "writer", "per_row": 2},
    "synth.corpus": {"model": "writer", "per_row": 2},
    "sample.n": {"model": "policy", "n": 2},
    "judge.point": {"model": "judge"},
    "judge.pair": {"model": "judge"},
    "judge.list": {"model": "judge"},
    "judge.aspects": {"model": "judge"},
    "judge.principles": {"model": "judge", "draw": 2},
    "jury": {"judges": ["judge", "second"]},
    "score.combine": {"weights": {"good": 1, "again": 2}},
    "score.users": {"scores": ["good", "again"], "users": 2},
    "jury.pair": {"judges": ["judge", "second"]},
    "debate": {"judges": ["judge", "second"]},
    "reward": {"model": "scorer"},
    "reward.pair": {"model": "scorer"},
    "score.yesno": {"model": "judge"},
    "score.followup": {"model": "judge"},
    "score.density_ratio": {"strong": "judge", "weak": "second"},
    "score.implicit": {"policy": "judge", "reference": "second"},
    "score.reference": {"model": "judge"},
    "score.perplexity": {"model": "judge"},
    "verify": {"kind": "regex", "pattern": "a.*sundial"},
    "pair.threshold": {"min_margin": 0.2},
    "enrich.rationale": {"model": "explainer"},
    "filter.diversity": {"keep": 0.6},
}
"""Fields that a stage has before each of its edits."""

# Free of calls is a change that leaves every request as it was, and one that only takes requests away.
EDITS: dict[str, dict[str, Edit]] = {
    "synth.bootstrap": WRITTEN
    | {
        "examples": Edit({"examples": 2}, ASKS),
        "machine": Edit({"machine": 0}, ASKS, {"rounds": 2}),
        "longest": Edit({"longest": 50}, ASKS),
        "rounds": Edit({"rounds": 2}, ASKS),
        "threshold": Edit({"threshold": 0.2}, FREE),
        "keep_seeds": Edit({"keep_seeds": False}, FREE),
        "prompt": Edit({"prompt": "mine:synth/bootstrap"}, ASKS),
    },
    "synth.evolve": {
        "model": WRITTEN["model"],
        "reask": WRITTEN["reask"],
        "rounds": Edit({"rounds": 2}, ASKS),
        "operations": Edit({"operations": ["synth/evolve_deepen"]}, ASKS),
        "check": Edit({"check": False}, ASKS),
        "checker": Edit({"checker": "judge"}, ASKS),
        "prompt_check": Edit({"prompt_check": "mine:synth/gain"}, ASKS),
        "keep_original": Edit({"keep_original": False}, FREE),
        "keep_steps": Edit({"keep_steps": True}, ASKS, {"rounds": 2, "check": False}),
    },
    "synth.persona": WRITTEN
    | {
        "personas": Edit({"personas": ["a retired miller", "a young nurse"]}, ASKS),
        "column": Edit({"column": "who"}, ASKS),
        "prompt": Edit({"prompt": "mine:synth/persona"}, ASKS),
    },
    "synth.corpus": WRITTEN
    | {
        "column": Edit({"column": "who"}, ASKS),
        "kinds": Edit({"kinds": ["a riddle"]}, ASKS),
        "ground": Edit({"ground": True}, ASKS),
        "prompt": Edit({"prompt": "mine:synth/corpus"}, ASKS),
    },
    "sample.n": {
        "model": Edit({"model": "other"}, ASKS),
        "n": Edit({"n": 4}, ASKS),
        "temperature": Edit({"temperature": 0.3}, ASKS),
        "max_tokens": Edit({"max_tokens": 20}, ASKS),
        "system": Edit({"system": "Be brief."}, ASKS),
        "system_prompt": Edit({"system_prompt": "sample/truthful"}, ASKS),
        "models": Edit({"models": ENSEMBLE, "model": ABSENT, "n": ABSENT}, ASKS),
        "when": Edit({"when": "always"}, FREE),
    },
    "judge.point": SCALED | EXTRACTED | {"tie": Edit({"tie": "lowest"}, FREE, {**MANY, **FINE})},
    "judge.pair": JUDGED
    | EXTRACTED
    | {
        "scale": Edit({"scale": [1, 5]}, ASKS, {"verdict": "scores"}),
        "integer": Edit({"integer": False}, ASKS, {"verdict": "scores"}),
        "prompt": Edit({"prompt": "mine:judge/pair"}, ASKS),
        "verdict": Edit({"verdict": "scores"}, ASKS),
        "schedule": Edit({"schedule": "round_robin", "rounds": 1}, FREE),
        "rounds": Edit({"rounds": 2}, ASKS, {"schedule": "swiss", "rounds": 1}),
        "against": Edit({"against": 0}, FREE),
        "swap": Edit({"swap": False}, FREE),
        "disagree": Edit({"disagree": "tie"}, FREE, {"model": "unsure"}),
        "reasks": Edit({"reasks": 3}, ASKS, {"disagree": "reask", "model": "unsure"}),
        "repeats": Edit({"repeats": 2}, ASKS),
        "ties": Edit({"ties": False}, ASKS),
        "score": Edit({"score": "win_rate"}, FREE),
        "prior": Edit({"prior": 2.0}, FREE),
    },
    "judge.list": SCALED
    | EXTRACTED
    | {
        "reask": Edit({"reask": "mine:judge/reask"}, ASKS, {"model": "broken"}),
        "again": Edit({"again": 2}, ASKS, {"model": "broken"}),
        "prompt": Edit({"prompt": "mine:judge/list"}, ASKS),
        "ties": Edit({"ties": False}, ASKS),
        "tie": Edit({"tie": "lowest"}, FREE, {**MANY, **FINE}),
    },
    "judge.aspects": {name: SCALED[name] for name in SCALED if name != "rubric"}
    | {
        "aspects": Edit({"aspects": ["clarity", "depth"]}, ASKS),
        "faults": Edit({"faults": ["honesty"]}, FREE),
        "per_call": Edit({"per_call": "one"}, ASKS),
        "repeats": Edit({"repeats": 2}, ASKS),
        "prompt": Edit({"prompt": "mine:judge/aspects"}, ASKS),
        "again": Edit({"again": 2}, ASKS, {"model": "broken"}),
        "reasoning": Edit({"reasoning": "after"}, ASKS),
        "extract": Edit({"extract": "expected"}, ASKS),
        "min_mass": Edit({"min_mass": 0.999}, FREE, {"extract": "expected"}),
        "tie": Edit({"tie": "lowest"}, FREE, {"extract": "majority", "repeats": 2}),
    },
    "judge.principles": {name: SCALED[name] for name in SCALED if name != "rubric"}
    | EXTRACTED
    | {
        "again": Edit({"again": 2}, ASKS, {"model": "broken"}),
        "principles": Edit({"principles": ["warm", "plain"]}, ASKS),
        "draw": Edit({"draw": {"min": 3, "max": 4}}, ASKS),
        "negate": Edit({"negate": 0}, FREE),
        "verdict": Edit({"verdict": "winner"}, ASKS),
        "ties": Edit({"ties": False}, ASKS),
        "score": Edit({"score": "win_rate"}, FREE),
        "prior": Edit({"prior": 2.0}, FREE),
        "prompt": Edit({"prompt": "mine:judge/principle"}, ASKS),
    },
    "jury": BENCH
    | {
        "tie": Edit({"tie": "lowest"}, FREE, {"reducer": "majority"}),
        "reducer": Edit({"reducer": "median"}, FREE),
    },
    "jury.pair": BENCH
    | {
        "prompt": Edit({"prompt": "mine:judge/pair"}, ASKS),
        "verdict": Edit({"verdict": "scores"}, ASKS),
        "ties": Edit({"ties": False}, ASKS),
        "scale": Edit({"scale": [1, 5]}, ASKS, {"verdict": "scores"}),
        "integer": Edit({"integer": False}, ASKS, {"verdict": "scores"}),
        "schedule": Edit({"schedule": "round_robin", "rounds": 1}, FREE),
        "rounds": Edit({"rounds": 2}, ASKS, {"schedule": "round_robin", "rounds": 1}),
        "against": Edit({"against": 0}, FREE),
        "swap": Edit({"swap": False}, FREE),
        "score": Edit({"score": "win_rate"}, FREE),
        "prior": Edit({"prior": 2.0}, FREE),
        "disagree": Edit({"disagree": "average"}, FREE),
        "reducer": Edit({"reducer": "mean"}, FREE),
        "tie": Edit({"tie": "abstain"}, FREE),
    },
    "debate": {name: SCALED[name] for name in SCALED if name != "model"}
    | {
        "reasoning": Edit({"reasoning": "after"}, ASKS),
        "judges": Edit({"judges": ["second", "judge"]}, ASKS),
        "about": Edit({"about": "pair"}, ASKS),
        "personas": Edit({"personas": {"a cook": "You cook.", "a baker": "You bake."}}, ASKS),
        "rounds": Edit({"rounds": 1}, ASKS),
        "words": Edit({"words": 50}, ASKS),
        "swap": Edit({"swap": False}, FREE, {"about": "pair"}),
        "reducer": Edit({"reducer": "median"}, FREE),
        "tie": Edit({"tie": "lowest"}, FREE, {"reducer": "majority"}),
        "at_least": Edit({"at_least": 3}, FREE),
        "prompt": Edit({"prompt": "mine:judge/debate"}, ASKS),
        "prompt_verdict": Edit({"prompt_verdict": "mine:judge/debate_verdict"}, ASKS),
    },
    "score.combine": {
        "name": Edit({"name": "another"}, FREE),
        "weights": Edit({"weights": {"good": 3, "again": -1}}, FREE),
        "standardise": Edit({"standardise": "run"}, FREE),
        "fit": Edit({**LEARNED, "weights": ABSENT}, FREE),
        "scores": Edit({"scores": ["good", "again", "label"], "fit": "more"}, FREE, LEARNED),
        "penalty": Edit({"penalty": "l1"}, FREE, LEARNED),
        "folds": Edit({"folds": 2}, FREE, LEARNED),
    },
    "score.yesno": {
        "model": Edit({"model": "second"}, ASKS),
        "rubric": Edit({"rubric": "honesty"}, ASKS),
        "min_mass": Edit({"min_mass": 0.999}, FREE),
        "prompt": Edit({"prompt": "mine:score/yesno"}, ASKS),
        "name": Edit({"name": "another"}, FREE),
    },
    "score.followup": {
        "model": Edit({"model": "second"}, ASKS),
        "aspects": Edit({"aspects": ["helpfulness", "clarity"]}, ASKS),
        "name": Edit({"name": "another"}, FREE),
    },
    "score.density_ratio": {
        "strong": Edit({"strong": "other"}, ASKS),
        "weak": Edit({"weak": "other"}, ASKS),
        "per_token": Edit({"per_token": True}, FREE),
        "prefixes": Edit({"prefixes": ["safety"]}, ASKS),
        "router": Edit({"router": {"column": "kind"}}, FREE, ROUTED),
        "prompt_route": Edit({"prompt_route": "mine:score/route"}, ASKS, ROUTED),
        "reask": Edit({"reask": "mine:score/reask"}, ASKS, {**ROUTED, "router": "broken"}),
        "name": Edit({"name": "another"}, FREE),
    },
    "score.implicit": {
        "policy": Edit({"policy": "other"}, ASKS),
        "reference": Edit({"reference": "other"}, ASKS),
        "beta": Edit({"beta": 0.5}, FREE),
        "name": Edit({"name": "another"}, FREE),
    },
    "score.users": {
        "scores": Edit({"scores": ["again"]}, FREE),
        "users": Edit({"users": 3}, FREE),
        "per_row": Edit({"per_row": 1}, FREE),
        "standardise": Edit({"standardise": "none"}, FREE),
        "name": Edit({"name": "another"}, FREE),
    },
    "score.reference": {
        "model": Edit({"model": "second"}, ASKS),
        "per_token": Edit({"per_token": True}, FREE),
        "prompt": Edit({"prompt": "mine:score/final"}, ASKS),
        "name": Edit({"name": "another"}, FREE),
    },
    "score.perplexity": {
        "model": Edit({"model": "second"}, ASKS),
        "form": Edit({"form": "mean"}, FREE),
        "name": Edit({"name": "another"}, FREE),
    },
    "reward": {
        "model": Edit({"model": "second"}, ASKS),
        "head": Edit({"head": "reward"}, FREE),
        "heads": Edit({"heads": ["good"], "head": "good"}, FREE),
        "name": Edit({"name": "another"}, FREE),
    },
    "reward.pair": {
        "model": Edit({"model": "second"}, ASKS),
        "name": Edit({"name": "another"}, FREE),
        "schedule": Edit({"schedule": "round_robin", "rounds": 1}, FREE),
        "rounds": Edit({"rounds": 1}, FREE, {"schedule": "swiss", "rounds": 2}),
        "against": Edit({"against": 0}, FREE),
        "swap": Edit({"swap": False}, FREE),
        "score": Edit({"score": "elo"}, FREE),
        "prior": Edit({"prior": 0.5}, FREE),
    },
    "verify": {
        "kind": Edit({"kind": "numeric", "pattern": ABSENT}, FREE),
        "name": Edit({"name": "another"}, FREE),
        "answer": Edit({"answer": "(sundial)"}, FREE, {"kind": "exact", "pattern": ABSENT}),
        "ignore_case": Edit({"ignore_case": True}, FREE),
        "tolerance": Edit({"tolerance": 3}, FREE, {"kind": "numeric", "pattern": ABSENT}),
        "pattern": Edit({"pattern": "yeast"}, FREE),
        "json_schema": Edit({"json_schema": SCHEMA, "kind": "json_schema", "pattern": ABSENT}, FREE),
        "function": Edit({"function": "operator:truth", "kind": "python", "pattern": ABSENT}, FREE),
        "missing": Edit({"missing": "wrong"}, FREE, {"kind": "numeric", "pattern": ABSENT}),
    },
    "pair.extremes": PAIRED,
    "pair.mu_sigma": PAIRED
    | {
        "k": Edit({"k": 0.5}, FREE),
        "quantile": Edit({"quantile": 0.3}, FREE),
        "chosen": Edit({"chosen": "mu+sigma"}, FREE),
        "tolerance": Edit({"tolerance": 0.1}, FREE),
        "fallback": Edit({"fallback": "drop"}, FREE),
        "ddof": Edit({"ddof": 0}, FREE),
    },
    "pair.min_of_k": PAIRED | {"k": Edit({"k": 1}, FREE)},
    "pair.threshold": PAIRED
    | {
        "max_pairs": Edit({"max_pairs": 1}, FREE),
        "eta": Edit({"eta": 0.6}, FREE),
        "tau": Edit({"tau": 3.0}, FREE, {"eta": 0.6}),
        "take": Edit({"take": "random"}, FREE, {"max_pairs": 1}),
    },
    "pair.ranked": PAIRED
    | MOST
    | {"pairing": Edit({"pairing": "adjacent"}, FREE), "ranks": Edit({"ranks": [3]}, FREE)},
    "pair.verified": PAIRED
    | MOST
    | {"right": Edit({"right": 0.5}, FREE), "wrong": Edit({"wrong": -0.5}, FREE)},
    "pair.random": PAIRED | MOST,
    "enrich.rationale": {
        "model": Edit({"model": "second"}, ASKS),
        "kind": Edit({"kind": "both"}, ASKS),
        "prompt_general": Edit({"prompt_general": "mine:enrich/rationale_general"}, ASKS),
        "prompt_specific": Edit(
            {"prompt_specific": "mine:enrich/rationale_specific"}, ASKS, {"kind": "both"}
        ),
        "reask": Edit({"reask": "mine:enrich/reask"}, ASKS),
    },
    "filter.dedup": {
        "on": Edit({"on": "chosen"}, FREE),
        "method": Edit({"method": "rouge_l"}, FREE),
        "threshold": Edit({"threshold": 0.2}, FREE),
        "ngram": Edit({"ngram": 1}, FREE, {"threshold": 0.3}),
    },
    "filter.diversity": {
        "keep": Edit({"keep": 0.4}, FREE),
        "on": Edit({"on": "responses"}, ASKS, {"model": "scorer"}),
        "model": Edit({"model": "scorer"}, ASKS),
        "typical": Edit({"typical": 0.5}, ASKS),  # another row goes on, and is explained
    },
}
CASES = [(word, name) for word, edits in EDITS.items() for name in edits]


def stages(word: str, fields: Tree) -> list[Any]:
    """A short recipe around the stage: samples and scores where it needs them, pairs where it makes none."""
    mine, family = {word: fields}, word.partition(".")[0]
    name = fields.get("name") or Registry().get("stages", word).model_fields.get("name")
    pairs = {"pair.extremes": {"score": getattr(name, "default", name)}}
    again = {"reward": {"model": "second", "name": "again"}}
    labels = [
        {"judge.point": {"model": role, "name": name}}
        for role, name in (("second", "label"), ("other", "more"))
    ]
    before: dict[str, list[Any]] = {
        "synth": [],
        "sample": [],
        "pair": [{"sample.n": {"model": "policy", "n": 5}}, GOOD, again],
        "enrich": [{"sample.n": {"model": "policy", "n": 2}}, GOOD, {"pair.extremes": {"score": "good"}}],
        "score": [{"sample.n": {"model": "policy", "n": 3}}, GOOD, again, *labels],
    }
    before["filter"] = before["enrich"]
    after: dict[str, list[Any]] = {
        "synth": [{"sample.n": {"model": "policy", "n": 2}}, GOOD, {"pair.extremes": {"score": "good"}}],
        "sample": [GOOD, {"pair.extremes": {"score": "good"}}],
        "pair": [],
        "enrich": [],
        "filter": [{"enrich.rationale": {"model": "second"}}],
    }
    scored = [{"sample.n": {"model": "policy", "n": 3}}]
    return [*before.get(family, scored), mine, *after.get(family, [pairs])]


def usual(word: str, first: Tree) -> Tree:
    fields = {**({"score": "good"} if word.startswith("pair.") else {}), **USUAL.get(word, {}), **first}
    return {name: value for name, value in fields.items() if value is not ABSENT}


def with_templates(folder: Path, fields: Tree) -> Tree:
    """`mine:NAME` is a copy of a shipped template with a word more in it, as a file beside the recipe."""
    for name, value in fields.items():
        if isinstance(value, str) and value.startswith("mine:"):
            text = (shipped("prompts") / f"{value[5:]}.j2").read_text(encoding="utf-8")
            path = folder / f"{value[5:].replace('/', '_')}.j2"
            path.write_text(
                text.replace("{% block user %}", "{% block user %}\nWell now.\n"), encoding="utf-8"
            )
            fields = {**fields, name: str(path)}
    return fields


@pytest.fixture(scope="module")
def firsts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The run before the edit: made once for all edits that start from the same fields."""

    @cache
    def first(word: str, fields: str) -> Path:
        folder = tmp_path_factory.mktemp("first")
        asked = run(folder, recipe(stages(word, json.loads(fields))))
        assert set(asked.values()) <= {1}, "two answers that cannot be told apart"
        (folder / "asked").write_bytes(b"\n".join(asked))
        return folder

    return lambda word, fields: first(word, json.dumps(fields))


def test_every_field_of_every_stage_is_edited_here() -> None:
    there = {word: set(Registry().get("stages", word).model_fields) for word in BUILT_IN["stages"]}
    assert {word: set(edits) for word, edits in EDITS.items()} == there, (
        "enter each field of each stage in EDITS, with a change of it, and whether that asks anything"
    )


@pytest.mark.parametrize(("word", "name"), CASES, ids=[f"{word}.{name}" for word, name in CASES])
def test_an_edit_of_a_stage(tmp_path: Path, firsts: Any, word: str, name: str) -> None:
    this = EDITS[word][name]
    fields = usual(word, this.first)
    changed = {k: v for k, v in {**fields, **with_templates(tmp_path, this.to)}.items() if v is not ABSENT}
    assert fields != changed
    before, after = recipe(stages(word, fields)), recipe(stages(word, changed))
    bought, whole, _ = check(tmp_path, before, after, firsts(word, fields))
    assert bool(bought) == this.asks
    assert bought < whole or word.startswith(("synth.", "sample.")), "what stands before the stage is kept"


# ---- every field of every model


PLAIN = [
    {"sample.n": {"model": "policy", "n": 2}},
    {"judge.point": {"model": "judge", "name": "good", "again": 0}},
    {"pair.extremes": {"score": "good"}},
]
REWARDED = [*PLAIN[:1], {"reward": {"model": "scorer", "name": "good"}}, PLAIN[2]]
SHARED: dict[str, Any] = {
    "model": "policy-2",
    "temperature": 0.5,
    "top_p": 0.9,
    "max_tokens": 25,
    "stop": ["the"],
    "price": {"input": 1, "output": 2},
    "licence": "mit",
    "family": "house",
    "context_length": 9,
    "retries": 2,
    "structured_output": False,
    "logprobs": False,
    "concurrency": 3,
}
SIMULATED: dict[str, Any] = SHARED | {
    "skill": 1.0,
    "spread": 2.0,
    "length": 60,
    "noise": 0.1,
    "taste": 0.2,
    "position_bias": 0.3,
    "length_bias": 0.4,
    "susceptibility": 0.5,
    "heads": ["help"],
    "malformed": 0.2,
    "chatty": 0.2,
    "refuse": 0.2,
    "empty": 0.2,
    "truncate": 0.2,
    "error": 0.3,
    "latency_s": 0.001,
}
OPENAI: dict[str, Any] = SHARED | {
    "base_url": lambda url: url.replace("127.0.0.1", "localhost"),
    "api_key": "sk-another",
    "headers": {"x-team": "b"},
    "prompt_logprobs": True,
    "prefill": True,
    "many": False,
    "fold_system": True,
    "stream": True,
    "send_seed": False,
    "max_tokens_as": "max_completion_tokens",
    "extra_body": {"top_k": 5},
    "rpm": 6000,
    "tpm": 6_000_000,
    "timeout_s": 30,
    "transport": "sdk",
    "mode": "batch",
    "batch": {"max_requests": 5},
}
IN_PROCESS: dict[str, Edit] = {
    **{
        name: Edit({name: SHARED[name]}, ASKS)
        for name in ("model", "temperature", "top_p", "max_tokens", "stop")
    },
    **{
        name: Edit({name: SHARED[name]}, FREE)
        for name in ("price", "licence", "family", "context_length", "retries")
    },
    "structured_output": Edit({"structured_output": False}, ASKS),
    "engine": Edit({"engine": {"max_model_len": 9}}, ASKS),
    "engines": Edit({"engines": 2}, FREE),
    "devices": Edit({"devices": ["1"]}, FREE),
    "serves": Edit({"serves": "reward"}, ASKS),
    "sampling": Edit({"sampling": {"top_k": 5}}, ASKS),
    "chat_template": Edit({"chat_template": "{{ messages }}"}, ASKS),
    "chat_template_kwargs": Edit({"chat_template_kwargs": {"enable_thinking": False}}, ASKS),
    "reasoning_parser": Edit({"reasoning_parser": "qwen3"}, ASKS),
    "lora": Edit({"lora": "somebody/adapter"}, ASKS),
    "loras": Edit({"loras": {"polite": "somebody/adapter"}}, FREE),
    "placement": Edit({"placement": "in_turn"}, FREE),
    "block": Edit({"block": 64}, FREE),
}
"""Fields of a model in an engine of the run's own."""

HERE: dict[str, Edit] = {
    **{
        name: Edit({name: SHARED[name]}, ASKS)
        for name in ("model", "temperature", "top_p", "max_tokens", "stop")
    },
    **{
        name: Edit({name: SHARED[name]}, FREE)
        for name in ("price", "licence", "family", "context_length", "retries")
    },
    "revision": Edit({"revision": "v2"}, ASKS),
    "serves": Edit({"serves": "reward"}, ASKS),
    "device": Edit({"device": "cpu"}, FREE),
    "dtype": Edit({"dtype": "float32"}, ASKS),
    "trust_remote_code": Edit({"trust_remote_code": True}, ASKS),
    "top_k": Edit({"top_k": 5}, ASKS),
    "chat_template": Edit({"chat_template": "{{ messages }}"}, ASKS),
    "chat_template_kwargs": Edit({"chat_template_kwargs": {"enable_thinking": False}}, ASKS),
    "batch": Edit({"batch": 2}, FREE),
    "placement": Edit({"placement": "in_turn"}, FREE),
    "block": Edit({"block": 64}, FREE),
}
"""Fields of a model in the process of the run."""
OF_A_SCORER = {"serves": "reward", "reward_path": "/pooling", "reward_form": {}}
"""Fields that mean something to a reward model's role only, and what they are changed to."""


def bought(folder: Path, tree: Tree) -> int:
    """Requests made by a start of the run, as its summary counts them."""
    run(folder, tree)
    summary = json.loads((folder / "run/summary.json").read_text(encoding="utf-8"))
    return sum(model["requests"] for model in summary["models"].values())


def test_every_field_of_every_model_is_edited_here() -> None:
    there = {"backend"} | set(SIMULATED)
    assert there == set(Simulated.model_fields)
    assert {"backend"} | set(OPENAI) | set(OF_A_SCORER) == set(OpenAI.model_fields)
    assert {"backend"} | set(IN_PROCESS) == set(VLLM.model_fields)
    assert {"backend", "start_s"} | set(IN_PROCESS) == set(VLLMServe.model_fields)
    assert {"backend"} | set(HERE) == set(Local.model_fields)
    assert set(BUILT_IN["backends"]) == {"openai", "simulated", "local", "vllm", "vllm-serve"}


@pytest.mark.parametrize("name", [*IN_PROCESS, "start_s"])
def test_an_edit_of_an_engine(name: str) -> None:
    """By its identity, which is what the key of an answer has of it: an engine is none that a test can have here."""
    edit = IN_PROCESS.get(name, Edit({"start_s": 9}, FREE))
    for kind in (VLLM, VLLMServe) if name in IN_PROCESS else (VLLMServe,):
        before, after = (
            kind(**{"model": "policy", **fields}) for fields in (edit.first, {**edit.first, **edit.to})
        )
        assert before != after
        assert (before.identity() != after.identity()) == edit.asks


@pytest.mark.parametrize("name", HERE)
def test_an_edit_of_a_model_that_runs_here(name: str) -> None:
    """By its identity, which is what the key of an answer has of it."""
    before, after = Local(model="policy"), Local(**{"model": "policy", **HERE[name].to})
    assert before != after
    assert (before.identity() != after.identity()) == HERE[name].asks


NEUTRAL_ONES = {
    "price",
    "licence",
    "family",
    "context_length",
    "retries",
    "concurrency",
    "error",
    "latency_s",
}


@pytest.mark.parametrize("name", SIMULATED)
def test_an_edit_of_a_simulated_model(tmp_path: Path, name: str) -> None:
    usual = {"backend": "noted", "model": "policy", "length": 30}
    before = recipe(PLAIN, ROWS[:2], {"policy": usual})
    after = recipe(PLAIN, ROWS[:2], {"policy": usual | {name: SIMULATED[name]}})
    edited, fresh = tmp_path / "edited", tmp_path / "fresh"
    edited.mkdir()
    fresh.mkdir()
    whole, was = bought(edited, before), made(edited)
    again = bought(edited, after)
    assert (again >= len(ROWS[:2])) if name not in NEUTRAL_ONES else again == 0
    assert again <= whole
    bought(fresh, after)
    assert made(edited) == made(fresh)
    assert bought(edited, before) == 0
    assert made(edited) == was


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        for name in ("policy", "policy-2", "judge"):
            server.worlds[name] = Simulated(model=name, length=30)
        yield server


AT_THE_DOOR = {
    *("price", "licence", "family", "context_length", "retries", "concurrency", "rpm", "tpm", "timeout_s"),
    *("transport", "base_url", "api_key", "headers", "logprobs", "prompt_logprobs", "many", "max_tokens_as"),
    *("mode", "batch", "stream"),
}
"""Fields of an endpoint that cannot change what a model answers."""


@pytest.mark.parametrize("name", OPENAI)
def test_an_edit_of_an_endpoint(tmp_path: Path, server: Server, name: str) -> None:
    if name == "transport":
        pytest.importorskip("openai")
    usual = {"backend": "openai", "base_url": server.url, "api_key": "sk-one", "headers": {"x-team": "a"}}
    judge = {**usual, "model": "judge"}
    value = OPENAI[name](server.url) if callable(OPENAI[name]) else OPENAI[name]
    usual |= {"model": "policy", "max_tokens": 40}
    before = recipe(PLAIN, ROWS[:2], {"policy": usual, "judge": judge})
    after = recipe(PLAIN, ROWS[:2], {"policy": usual | {name: value}, "judge": judge})
    tmp_path = tmp_path / "edited"
    tmp_path.mkdir()
    first = bought(tmp_path, before)
    was, at = made(tmp_path), server.requests
    again = bought(tmp_path, after)
    assert server.requests - at == again
    assert again == 0 if name in AT_THE_DOOR else first >= again >= len(ROWS[:2])
    for role in ("policy", "judge"):
        asked = [body for body in server.bodies[at:] if body["model"].startswith(role)]
        assert name in AT_THE_DOOR or role == "judge" or asked
    assert bought(tmp_path, before) == 0
    assert made(tmp_path) == was


def test_an_edit_of_a_reward_models_endpoint(tmp_path: Path, server: Server) -> None:
    """Its kind, and where on the server it is."""
    scorer = {"backend": "openai", "base_url": server.url, "model": "policy", "serves": "reward"}
    form = {"request": {"model": "{model}", "messages": "{messages}"}, "scores": "data.0.probs"}
    fields: list[Tree] = [{}, {"reward_path": "/pooling"}, {}, {"reward_form": form}, {"reward_form": form}]
    fields.append({"reward_form": {**form, "scores": "data.0.probs.0"}})
    counts = [bought(tmp_path, recipe(REWARDED, ROWS[:2], {"scorer": {**scorer, **f}})) for f in fields]
    assert counts == [6, 4, 0, 4, 0, 4]
    chat = {**scorer, "serves": "chat", "model": "judge"}
    assert bought(tmp_path, recipe(PLAIN, ROWS[:2], {"judge": chat})) == 4


# ---- prompts, rows, and the head of a recipe


JUDGED_PLAIN = [
    *PLAIN[:1],
    {"judge.point": {"model": "judge", "name": "good", "rubric": "clarity"}},
    PLAIN[2],
]


@pytest.mark.parametrize(
    "name", ["judge/point", "judge/_fair", "judge/rubrics/clarity", "judge/reask", "judge/pair"]
)
def test_an_edit_of_a_template_or_of_one_that_it_includes(tmp_path: Path, name: str) -> None:
    before = recipe(JUDGED_PLAIN)
    mine = tmp_path / "mine" / f"{name}.j2"
    mine.parent.mkdir(parents=True)
    text = (shipped("prompts") / f"{name}.j2").read_text(encoding="utf-8")
    mine.write_text(
        text.replace("e", "e ", 1) if "rubrics" in name else text.replace(". ", ".  ", 1), encoding="utf-8"
    )
    assert mine.read_text(encoding="utf-8") != text
    after = before | {"prompts": [str(mine.parents[name.count("/")])]}
    again, whole, _ = check(tmp_path, before, after)
    sampled = 2 * len(ROWS)
    if name == "judge/pair":
        assert again == 0, "no stage uses it"
    elif name == "judge/reask":
        assert 0 < again < sampled
    else:
        assert again == whole - sampled, "every judgement and no sample"


def test_n_raised_from_8_to_16_buys_8_and_keeps_the_first_8_as_they_were(tmp_path: Path) -> None:
    def tree(n: int) -> Tree:
        return recipe(
            [{"sample.n": {"model": "other", "n": n}}, GOOD, {"pair.ranked": {"score": "good"}}], ROWS[:2]
        )

    assert check(tmp_path, tree(8), tree(16))[::2] == (2 * 16, 2 * 16), (
        "8 samples and 8 scores to a row, and as many more"
    )
    seen = []
    for n in (8, 16):
        run(tmp_path / "edited", tree(n))
        rows = job.rows.read_rows(tmp_path / "edited/run/rows.parquet")
        seen.append({row.id: [(s.text, s.seed) for s in row.samples] for row in rows})
    for id, samples in seen[0].items():
        assert seen[1][id][:8] == samples
        assert len(set(seen[1][id])) == 16


MOVED: dict[str, tuple[list[Any], int]] = {
    "added": ([ROWS[0], {**ROWS[0], "prompt": "And what is a clock?"}, *ROWS[1:]], 1),
    "removed": ([*ROWS[:2], *ROWS[3:]], 0),
    "reordered": (ROWS[::-1], 0),
    "duplicated": ([*ROWS, ROWS[1]], 1),
    "replaced": ([*ROWS[:4], {**ROWS[4], "prompt": "And what is a key?"}], 1),
}


@pytest.mark.parametrize("how", MOVED)
def test_rows_of_the_source(tmp_path: Path, how: str) -> None:
    rows, new = MOVED[how]
    path = [*PLAIN, "filter.dedup", {"enrich.rationale": {"model": "second"}}]
    again, whole, _ = check(tmp_path, recipe(path), recipe(path, rows))
    assert (again == 0) if not new else 4 <= again < whole / 2


HEADS: dict[str, tuple[Tree, bool]] = {
    "seed": ({"seed": 8}, True),
    "description": ({"description": "Pairs."}, False),
    "limits": ({"limits": {"max_reject_rate": 0.9}}, False),
    "prompts": ({"prompts": ["."]}, False),
    "rounds": ({"rounds": 3}, False),
    "part": ({"source": {"rows": ROWS, "reference": "reference", "part": "3/2"}}, False),
    "export": ({"export": {"format": "trl-kto"}}, False),
    "source": ({"source": {"rows": ROWS, "reference": "reference", "licence": "who"}}, False),
}


@pytest.mark.parametrize("name", HEADS)
def test_an_edit_of_the_head(tmp_path: Path, name: str) -> None:
    change, all_anew = HEADS[name]
    again, whole, _ = check(tmp_path, recipe(PLAIN), recipe(PLAIN) | change)
    assert again == (whole if all_anew else 0)
