from __future__ import annotations

from typing import Any

import pytest

from synthpref.core.errors import RecipeError
from synthpref.engine.recipe_yaml import expand, parse, set_values, without_secrets


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\na: 2", "'a' comes twice, in line 1 and in line 2"),
        ("m:\n  b: {x: 1}\n  c: 2\n  b: 3", "'b' comes twice, in line 2 and in line 4"),
        ("a: [1, 2", "line"),
        ("a: b: c", "line 1, column"),
        ("a: !!python/object:os.system {}", "not valid YAML"),
    ],
)
def test_bad_yaml_is_refused_with_its_place(text: str, found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        parse(text)


def test_variables_come_from_the_environment_with_defaults_and_types() -> None:
    tree = {"url": "${URL}/v1", "n": "${N:-4}", "key": "${API_KEY}", "t": "${T}", "x": ["${NO:-}"]}
    env = {"URL": "http://a", "API_KEY": "sk-1234567890", "T": "0.5"}
    filled, problems, secrets = expand(tree, env)
    assert filled == {"url": "http://a/v1", "n": 4, "key": "sk-1234567890", "t": 0.5, "x": [""]}
    assert problems == []
    assert secrets == {"sk-1234567890"}


def test_each_variable_that_is_not_set_is_named_with_its_path() -> None:
    _, problems, _ = expand({"models": {"a": {"base_url": "${ONE}"}}, "stages": ["${TWO}"]}, {})
    assert [p.path for p in problems] == ["models.a.base_url", "stages[0]"]
    assert "ONE" in problems[0].message
    assert "export ONE" in problems[0].fix


def test_a_saved_recipe_shows_the_variable_and_not_the_secret() -> None:
    written: dict[str, Any] = {"key": "${API_KEY}", "auth": "Bearer sk-abc-literal", "url": "${URL}", "n": 1}
    filled, _, _ = expand(written, {"API_KEY": "sk-1234567890", "URL": "http://h"})
    shown = without_secrets(filled, written, {"sk-1234567890", "sk-abc-literal"})
    assert shown == {"key": "${API_KEY}", "auth": "[secret]", "url": "http://h", "n": 1}


def recipe() -> dict[str, Any]:
    return {
        "models": {"policy": {"temperature": 1.0}},
        "stages": [{"sample.n": {"n": 2}}, "filter.dedup", {"jury": None}],
    }


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("models.policy.temperature=0.7", ("models", "policy", "temperature"), 0.7),
        ("stages.0.n=8", ("stages", 0, "sample.n", "n"), 8),
        ("stages.sample.n.n=8", ("stages", 0, "sample.n", "n"), 8),
        ("stages.filter.dedup.on=prompt", ("stages", 1, "filter.dedup", "on"), "prompt"),
        ("stages.jury.models=[a, b]", ("stages", 2, "jury", "models"), ["a", "b"]),
        ("limits.max_cost_usd=20", ("limits", "max_cost_usd"), 20),
        ("name=x=y", ("name",), "x=y"),
    ],
)
def test_a_setting_changes_one_field(setting: str, path: tuple[str | int, ...], value: Any) -> None:
    tree: Any = recipe()
    set_values(tree, [setting])
    for step in path:
        tree = tree[step]
    assert tree == value


@pytest.mark.parametrize("setting", ["models.policy.temperature", "stages.7.n=1", "stages.sample.m.n=1"])
def test_a_setting_that_leads_nowhere_is_refused(setting: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        set_values(recipe(), [setting])
