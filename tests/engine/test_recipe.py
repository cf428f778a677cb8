"""A recipe's mistakes are found before any call, all at once, each with its path, what was found, and a fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from synthpref import job
from synthpref.core.errors import RecipeError
from synthpref.engine import recipe as recipes
from synthpref.engine.registry import Registry
from synthpref.engine.schema import recipe_schema
from synthpref.models import local

GOOD: dict[str, Any] = {
    "name": "good",
    "models": {
        "policy": {"backend": "simulated", "model": "p"},
        "judge": {"backend": "simulated", "model": "j"},
        "plain": {"backend": "openai", "model": "x", "base_url": "http://127.0.0.1:1/v1", "logprobs": False},
    },
    "source": {"path": "prompts.jsonl", "prompt": "instruction"},
    "stages": [
        {"sample.n": {"model": "policy", "n": 4}},
        {"judge.point": {"model": "judge", "name": "helpful"}},
        {"pair.mu_sigma": {"score": "helpful"}},
        "filter.dedup",
    ],
    "export": {"format": "trl-preference"},
}


def write(folder: Path, tree: Any) -> Path:
    (folder / "prompts.jsonl").write_text('{"instruction": "a"}\n{"instruction": "b"}\n', encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(
        tree if isinstance(tree, str) else yaml.safe_dump(tree, sort_keys=False), encoding="utf-8"
    )
    return path


def problems(folder: Path, tree: Any, *settings: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        job.load(write(folder, tree), settings)
    return [str(problem) for problem in caught.value.problems]


def changed(**sections: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(GOOD)), **sections}


def stages(*items: Any) -> dict[str, Any]:
    return changed(stages=list(items))


def test_a_good_recipe_loads(tmp_path: Path) -> None:
    loaded = job.load(write(tmp_path, GOOD))
    assert [use.label for use in loaded.uses] == ["sample.n", "judge.point", "pair.mu_sigma", "filter.dedup"]


SAMPLE, JUDGE = GOOD["stages"][0], GOOD["stages"][1]
PAIR = {"pair.extremes": {"score": "helpful"}}


@pytest.mark.parametrize(
    ("tree", "found"),
    [
        (
            stages(SAMPLE, {"judge.pont": {"model": "judge"}}),
            "stages[1]: no stage named 'judge.pont'; did you mean 'judge.point'?",
        ),
        (
            stages({"sample.n": {"modle": "policy", "n": 2}}),
            "stages[0].sample.n.modle: unknown field 'modle'; did you mean 'model'?",
        ),
        (
            stages({"sample.n": {"model": "polcy", "n": 2}}),
            "stages[0].sample.n.model: no model role 'polcy' in models; did you mean 'policy'?",
        ),
        (
            stages(SAMPLE, JUDGE, {"pair.extremes": {"score": "helpfull"}}),
            "no earlier stage makes a score 'helpfull'; did you mean 'helpful'?",
        ),
        (stages(JUDGE, PAIR), "stages[0].judge.point: no samples at this point; put sample.n before it"),
        (stages(SAMPLE, JUDGE, JUDGE, PAIR), "stages[2].judge.point: there is a score 'helpful' already"),
        (stages(SAMPLE, JUDGE), "export: no pairs at this point; put a pair stage before it"),
        (
            stages(
                SAMPLE, {"judge.point": {"model": "plain", "name": "helpful", "extract": "expected"}}, PAIR
            ),
            "needs 'logprobs', which models.plain (backend 'openai') does not have",
        ),
        (
            stages(
                SAMPLE, {"judge.point": {"model": "judge", "name": "helpful", "prompt": "judge/nope"}}, PAIR
            ),
            "the prompt template 'judge/nope' cannot be used",
        ),
        (
            stages({"sample.n": {"model": "policy", "n": 0}}, JUDGE, PAIR),
            "greater than or equal to 1 (found: 0)",
        ),
        (
            stages(SAMPLE, {"verify": {"kind": "exact", "name": "helpful"}}, PAIR),
            "the rows have no reference answer; map source.reference",
        ),
        (stages(), "stages: a list with at least one stage was expected"),
        (stages({"sample.n": {}, "judge.point": {}}), "stages[0]: one stage was expected"),
        (changed(soruce={}), "soruce: unknown key 'soruce'; did you mean 'source'?"),
        (changed(source={"path": "gone.jsonl"}), "gone.jsonl"),
        (changed(source={"path": "prompts.jsonl", "prompt": "instructon"}), "'instructon'"),
        (
            changed(models={"policy": {"backend": "opanai", "model": "p"}}),
            "models.policy.backend: no backend named 'opanai'; did you mean 'openai'?",
        ),
        (
            changed(models={"policy": {"model": "p"}}),
            "models.policy: no 'backend'; add backend: one of local, openai, simulated",
        ),
        (changed(export={"format": "dpo"}), "export.format: no exporter named 'dpo'"),
        (
            changed(limits={"max_cost_usd": 5}),
            "limits.max_cost_usd: models.policy has no price to count with; add models.policy.price",
        ),
        (
            stages(SAMPLE, {"reward": {"model": "plain", "name": "helpful"}}, PAIR),
            "(backend 'openai') does not have; set models.plain.serves: reward, if the model is for that; it has: ",
        ),
        (
            stages(SAMPLE, {"reward.pair": {"model": "plain", "name": "helpful"}}, PAIR),
            "set models.plain.serves: comparisons",
        ),
        (
            stages(SAMPLE, JUDGE, PAIR, {"filter.diversity": {"keep": 0.5, "model": "plain"}}),
            "set models.plain.serves: embeddings",
        ),
        (
            changed(models={"policy": {"backend": "simulated", "serves": "reward"}}),
            "models.policy.serves: backend simulated has no field 'serves'; there is: backend, ",
        ),
        (
            changed(models={"policy": {"backend": "simulated", "placement": "in_turn"}}),
            "models.policy.placement: backend simulated has no field 'placement'; there is: backend, ",
        ),
        (
            changed(limits={"max_cost": 5}),
            "limits.max_cost: unknown field 'max_cost'; did you mean 'max_cost_usd'?",
        ),
        (changed(rounds={"cuont": 2}), "rounds.cuont: unknown field 'cuont'; did you mean 'count'?"),
        (changed(name="a/b"), "name: "),
        (changed(name="${NOT_SET_ANYWHERE}"), "the environment variable NOT_SET_ANYWHERE is not set"),
        (changed(plugins=["gone.py"]), "gone.py: no such file"),
        ("name: [", "not valid YAML"),
        ("name: x\nname: y\n", "the key 'name' comes twice, in line 1 and in line 2"),
        ("- a\n- b\n", "a recipe is a mapping"),
        ("", "a recipe is a mapping"),
    ],
)
def test_each_mistake_is_named_with_its_path_and_a_fix(tmp_path: Path, tree: Any, found: str) -> None:
    assert any(found in problem for problem in problems(tmp_path, tree)), problems(tmp_path, tree)


def test_what_a_backend_needs_is_said_and_nothing_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "installed", lambda: False)
    said = problems(tmp_path, changed(models={**GOOD["models"], "judge": {"backend": "local"}}))
    assert said == [f"models.judge: {local.INSTALL}"]


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    tree = stages({"sample.m": {}}, {"judge.point": {"model": "judge", "scale": "x"}}, {"pair.extremes": {}})
    tree["models"]["policy"]["temprature"] = 1
    tree["source"]["prompt"] = "question"
    found = problems(tmp_path, tree, "limits.max_cost=3")
    assert {p.split(":")[0] for p in found} >= {
        "stages[0]", "stages[1].judge.point.scale", "stages[2].pair.extremes.score", "models.policy.temprature",
        "limits.max_cost",
    }  # fmt: skip
    assert any("question" in p for p in found)


def test_a_variable_that_is_not_set_is_one_mistake(tmp_path: Path) -> None:
    tree = changed(source={"path": "${NOT_SET_A}", "prompt": "instruction"})
    tree["models"]["plain"]["base_url"] = "${NOT_SET_B}"
    assert [p.split(": ")[0] for p in problems(tmp_path, tree)] == ["models.plain.base_url", "source.path"]


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match="not UTF-8 at byte 6"):
        job.load(path)
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        job.load(tmp_path / "gone.yaml")


def test_keys_stay_out_of_the_saved_recipe_and_of_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret-1")
    tree = changed()
    tree["models"]["plain"] |= {"api_key": "${MY_KEY}", "headers": {"x-org": "literal-secret-2"}}
    loaded = job.load(write(tmp_path, tree))
    saved = loaded.saved()
    assert "secret-1" not in saved
    assert "secret-2" not in saved
    assert "${MY_KEY}" in saved
    assert "secret" not in repr(loaded.models["plain"])
    assert loaded.redact("Bearer sk-very-secret-1") == "Bearer [secret]"
    tree["models"]["plain"]["base_url"] = 7
    assert not any("secret-" in p for p in problems(tmp_path, tree))


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": "${MY_API_KEY}"},
        {"api_key": ["${MY_API_KEY}"]},
        {"headers": "Bearer ${MY_API_KEY}"},
        {"backend": "${MY_API_KEY}"},
        {"api_key": ["sk-very-secret-key"]},
        {"base_url": "user:sk-very-secret-key@host/v1"},
        {"base_url": "ftp://sk-very-secret-key@host/v1"},
    ],
    ids=str,
)
def test_no_mistake_shows_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-very-secret-key")
    tree = changed()
    tree["models"]["plain"] |= fields
    assert not any("very-secret" in p for p in problems(tmp_path, tree))


def test_a_short_key_hides_itself_and_no_other_word(tmp_path: Path) -> None:
    tree = changed(name="test-run")
    tree["models"]["plain"] |= {"api_key": "test", "base_url": "http://sk-token-as-user@127.0.0.1:1/v1"}
    saved = yaml.safe_load(job.load(write(tmp_path, tree)).saved())
    assert saved["name"] == "test-run"
    assert saved["models"]["plain"]["api_key"] == "[secret]"
    assert "sk-token-as-user" not in str(saved)


def test_a_field_called_on_is_a_field(tmp_path: Path) -> None:
    text = yaml.safe_dump(GOOD).replace("- filter.dedup", "- filter.dedup: {on: chosen}")
    loaded = job.load(write(tmp_path, text))
    assert loaded.uses[-1].stage.on == "chosen"  # type: ignore[attr-defined]
    assert "'on': chosen" in loaded.saved()


MODEL_FIELDS = {
    "model": "other", "temperature": 0.3, "top_p": 0.5, "max_tokens": 77, "stop": ["x"], "extra_body": {"a": 1},
    "structured_output": False,
}  # fmt: skip
NEUTRAL_FIELDS = {
    "base_url": "http://127.0.0.1:2/v1", "api_key": "sk-other-key", "timeout_s": 5, "concurrency": 3, "rpm": 10,
    "tpm": 1000, "retries": 1, "price": {"input": 1, "output": 2}, "licence": "mit", "headers": {"a": "b-value-c"},
}  # fmt: skip


def identity(folder: Path, **fields: Any) -> dict[str, Any]:
    tree = changed()
    tree["models"]["plain"] |= fields
    return job.load(write(folder, tree)).models["plain"].identity()


@pytest.mark.parametrize("field", MODEL_FIELDS)
def test_a_field_that_can_change_an_answer_is_in_the_identity(tmp_path: Path, field: str) -> None:
    assert identity(tmp_path, **{field: MODEL_FIELDS[field]}) != identity(tmp_path)


@pytest.mark.parametrize("field", NEUTRAL_FIELDS)
def test_a_field_that_cannot_change_an_answer_is_not(tmp_path: Path, field: str) -> None:
    assert identity(tmp_path, **{field: NEUTRAL_FIELDS[field]}) == identity(tmp_path)


def digest(folder: Path, tree: Any) -> bytes:
    loaded = job.load(write(folder, tree))
    return loaded.digest([(use, part) for use in loaded.uses for part in use.parts])


def test_the_digest_follows_what_can_change_a_row_and_nothing_else(tmp_path: Path) -> None:
    before = digest(tmp_path, GOOD)
    assert digest(tmp_path, changed(limits={"max_reject_rate": 0.9}, description="x")) == before
    assert digest(tmp_path, changed(seed=1)) != before
    tree = changed()
    tree["models"]["plain"]["temperature"] = 0.1
    assert digest(tmp_path, tree) == before, "no stage uses this role"
    tree["models"]["judge"]["temperature"] = 0.1
    assert digest(tmp_path, tree) != before
    tree = changed()
    tree["stages"][2]["pair.mu_sigma"]["k"] = 1
    assert digest(tmp_path, tree) != before


def test_a_prompt_folder_of_the_recipe_comes_first_and_its_content_counts(tmp_path: Path) -> None:
    before = digest(tmp_path, GOOD)
    mine = tmp_path / "mine" / "judge"
    mine.mkdir(parents=True)
    (mine / "point.j2").write_text("{% block user %}{{ response }}{% endblock %}", encoding="utf-8")
    with_mine = digest(tmp_path, changed(prompts=["mine"]))
    assert with_mine != before
    (mine / "point.j2").write_text("{% block user %}{{ response }}!{% endblock %}", encoding="utf-8")
    assert digest(tmp_path, changed(prompts=["mine"])) not in (with_mine, before)
    (mine / "point.j2").write_text("{% block user %}{{ response", encoding="utf-8")
    assert "cannot be used: TemplateSyntaxError" in problems(tmp_path, changed(prompts=["mine"]))[0]


def test_the_schema_knows_every_word_and_accepts_the_good_recipe() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = recipe_schema(Registry())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(GOOD)) == []
    assert list(validator.iter_errors(stages({"judge.pont": {}})))
    assert list(validator.iter_errors(changed(models={"a": {"backend": "openai", "modle": "x"}})))
    words = {
        word
        for item in schema["properties"]["stages"]["items"]["anyOf"]
        for word in item.get("properties", {})
    }
    assert words >= set(Registry().names("stages"))


def test_settings_change_what_is_loaded(tmp_path: Path) -> None:
    loaded = recipes.load(
        write(tmp_path, GOOD), ["models.policy.temperature=0.7", "stages.sample.n.n=9", "seed=3"]
    )
    assert loaded.models["policy"].temperature == 0.7
    assert loaded.uses[0].stage.n == 9  # type: ignore[attr-defined]
    assert loaded.seed == 3
