"""YAML as a recipe needs it: duplicate keys refused, ${VAR} from the environment, --set on top.

A leaf that held a secret goes back to its ${VAR} when the recipe is saved, so that a saved recipe can be run
again and holds no key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import yaml

from synthpref.core.errors import Problem, RecipeError

_VAR = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.I)
_SECRET_PLACE = re.compile(r"\.api_key(\[\d+\])?$|\.headers(\.|$)")
_LOGIN = re.compile(r"://([^/@\s:]+)(?::([^/@\s]*))?@")
_SHELL = "rounds.hook"
"""A line that the shell fills in itself."""
LONG_ENOUGH = 8
"""Shorter secrets ("EMPTY", "test") are hidden where they stand, but not looked for in other texts."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Refuses a key that comes twice, where PyYAML would keep the last one."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if key in seen:
            message = f"the key {key!r} comes twice, in line {seen[key]} and in line {line}"
            raise RecipeError([Problem("", message, "remove one")])
        seen[key] = line
    mapping: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return mapping


# Truth values as in YAML 1.2: a field called `on` is a text, not true.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse(text: str) -> Any:
    """The YAML text as plain values. Raises RecipeError with line and column, and where it is much larger than it looks:
    nine levels of aliases in aliases are a billion values."""
    try:
        if len(text) > LONGEST:
            raise RecipeError(
                [Problem("", f"{len(text):,} characters", "a recipe has no more than a million")]
            )
        tree = yaml.load(text, _Loader)
        _bounded(tree)
        return tree
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(
            [Problem(where, f"not valid YAML: {error.problem}", "check the indentation")]
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise RecipeError([Problem("", f"not valid YAML: {str(error)[:200]}")]) from None
    except RecursionError:
        raise RecipeError([Problem("", "mappings or lists nested too deeply", "flatten them")]) from None


LONGEST = 1_000_000
MOST_VALUES = 100_000


def _bounded(tree: Any) -> None:
    """Raise RecipeError where there are more values than a recipe can have, or a number of more than 64 bits."""
    left, seen = [tree], 0
    while left:
        one = left.pop()
        seen += 1
        if seen > MOST_VALUES:
            fix = "write out what its aliases (*name) stand for, or put data into a file"
            raise RecipeError(
                [Problem("", f"more than {MOST_VALUES:,} values, with each use of an alias", fix)]
            )
        if isinstance(one, int) and not isinstance(one, bool) and abs(one) >= 2**63:
            raise RecipeError(
                [Problem("", f"a number of {one.bit_length()} bits is too large", "64 bits are the most")]
            )
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def dump(tree: Any) -> str:
    """The plain values as YAML text."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(tree, Dumper=dumper, sort_keys=False, allow_unicode=True, width=110))


def leaves(tree: Any, change: Callable[[str, str], Any], path: str = "") -> Any:
    """A copy of the tree with every text replaced by `change(path, text)`."""
    if isinstance(tree, Mapping):
        return {k: leaves(v, change, f"{path}.{k}" if path else str(k)) for k, v in tree.items()}
    if isinstance(tree, list):
        return [leaves(v, change, f"{path}[{i}]") for i, v in enumerate(tree)]
    return change(path, tree) if isinstance(tree, str) else tree


def names(text: str) -> list[str]:
    """The variables of the environment that a recipe's text names."""
    return sorted({match["name"] for match in _VAR.finditer(text)})


def expand(tree: Any, env: Mapping[str, str]) -> tuple[Any, list[Problem], set[str]]:
    """(the tree with ${VAR} and ${VAR:-default} filled in, variables that are not set, secret values).

    A text that is one ${VAR} and nothing else may become a number or a truth value. A hook is left to its shell.
    """
    problems: list[Problem] = []
    secrets: set[str] = set()

    def fill(path: str, text: str) -> Any:
        if path == _SHELL:
            return text

        def value(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            found = env.get(name) or default
            if found is None:
                instead = f"write ${{{name}:-default}}"
                # A variable of rounds that stands for nothing is PREVIOUS in the first of them.
                missing = (
                    Problem(path, f"{name} is empty here: no round comes before the first", instead)
                    if "ROUND" in env and name == "PREVIOUS"
                    else Problem(
                        path, f"the environment variable {name} is not set", f"export {name}=... or {instead}"
                    )
                )
                problems.append(missing)
                return ""
            if name in env and _SECRET_NAME.search(name):
                secrets.add(found)
            return found

        filled = _VAR.sub(value, text)
        if _SECRET_PLACE.search(path):
            secrets.add(filled.removeprefix("Bearer "))
        secrets.update(word for login in _LOGIN.findall(filled) for word in login if word)
        if "base_url" in path and "@" in filled:
            secrets.update(filled.split("://")[-1].rpartition("@")[0].split(":"))
        if filled != text and _VAR.fullmatch(text) and re.fullmatch(r"-?\d{1,9}(\.\d+)?|true|false", filled):
            return yaml.safe_load(filled)
        return filled

    return leaves(tree, fill), problems, secrets


def set_values(tree: Any, settings: Sequence[str]) -> None:
    """Apply `path=value` to the tree in place: models.policy.temperature=0.7, stages.1.n=4 or
    stages.sample.n.n=4. Raises RecipeError when the path leads nowhere."""
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            raise RecipeError([Problem(f"--set {setting}", "no value", "write --set path.to.field=value")])
        *way, last = path.split(".")
        place: Any = tree
        while way:
            place = _step(place, way, setting)
        if isinstance(place, list) and last.isdigit() and int(last) < len(place):
            place[int(last)] = parse(value)
        elif isinstance(place, dict):
            place[last] = parse(value)
        else:
            raise RecipeError(
                [Problem(f"--set {setting}", f"nothing called {last!r} there", "check the path")]
            )


def _step(place: Any, way: list[str], setting: str) -> Any:
    key = way.pop(0)
    if isinstance(place, dict):
        if not isinstance(place.get(key), (dict, list)):
            place[key] = {}
        return place[key]
    if isinstance(place, list):
        if key.isdigit() and int(key) < len(place):
            return _config(place, int(key))
        dotted = f"{key}.{way[0]}" if way else key
        for word in (dotted, key):
            at = [
                i for i, item in enumerate(place) if item == word or (isinstance(item, dict) and word in item)
            ]
            if len(at) > 1:
                message = f"{word!r} stands {len(at)} times in the list"
                raise RecipeError([Problem(f"--set {setting}", message, "use its number, counted from 0")])
            if at:
                del way[: word.count(".")]
                return _config(place, at[0])
    raise RecipeError([Problem(f"--set {setting}", f"nothing called {key!r} there", "check the path")])


def _config(items: list[Any], index: int) -> Any:
    """The fields of the item: those of the stage, where the item is `- word: {fields}`."""
    item = items[index]
    if isinstance(item, str):
        items[index] = {item: {}}
        return items[index][item]
    if isinstance(item, dict) and len(item) == 1:
        word = next(iter(item))
        item[word] = {} if item[word] is None else item[word]
        return item[word]
    return item


def without_secrets(filled: Any, written: Any, secrets: set[str]) -> Any:
    """The filled tree for saving: a leaf with a secret is shown as it was written, if that holds none."""
    original: dict[str, str] = {}
    leaves(written, lambda path, text: original.setdefault(path, text))

    def holds(path: str, text: str) -> bool:
        return (text in secrets and bool(_SECRET_PLACE.search(path))) or redact(text, secrets) != text

    def hide(path: str, text: str) -> str:
        before = original.get(path, "")
        if not holds(path, text):
            return text
        return before if _VAR.search(before) and not holds(path, before) else "[secret]"

    return leaves(filled, hide)


def redact(text: str, secrets: Collection[str]) -> str:
    """The text with every secret replaced that is long enough to be told from other words."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= LONG_ENOUGH:
            text = text.replace(secret, "[secret]")
    return text
