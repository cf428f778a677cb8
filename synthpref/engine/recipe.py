"""A YAML file -> a Recipe. Every mistake that can be seen without a call is found here, all at once, each
with its YAML path, what was found, and a fix."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import orjson
from jinja2 import TemplateError
from pydantic import BaseModel, Field, ValidationError

from synthpref import __version__
from synthpref.core.errors import Problem, RecipeError
from synthpref.core.export import Exporter
from synthpref.core.seam import SERVES, ModelSpec
from synthpref.core.settings import Settings
from synthpref.core.source import Source
from synthpref.core.stage import PROMPT, ROLE, Barrier, RowStage, Stage
from synthpref.core.template import Prompts
from synthpref.engine import recipe_yaml
from synthpref.engine.prompts import prompt_source
from synthpref.engine.registry import Registry, did_you_mean
from synthpref.engine.rounds import FIRST, Rounds, Spent

T = TypeVar("T", bound=BaseModel)
Allowed = Literal[
    "same_model",
    "same_family",
    "one_judge",
    "no_swap",
    "lower_is_better",
    "coarse_scale",
    "unreachable",
    "short_context",
    "same_score",
    "fixed_turn",
]
SourceCheck = Callable[[Source, Path, Registry], list[Problem]]


class Limits(Settings):
    """When a run stops by itself. It can be resumed with the same command, or with higher limits."""

    max_cost_usd: float | None = Field(default=None, gt=0)
    """The most to be spent over all starts of the run; needs a `price` on every model. What a call may cost is reserved
    before it is sent: with `max_tokens` on a role the cap is not passed."""
    max_tokens: int | None = Field(default=None, gt=0)
    """The most tokens to be read and written over all starts of the run, likewise."""
    max_reject_rate: float = Field(default=0.1, ge=0, le=1)
    """Stop when more than this share of the rows is rejected (of those started, from 20 on, and at the end)."""


class RecipeHead(Settings):
    """The top level of a recipe: what is not a list or a mapping of other things."""

    name: str = Field(pattern=r"^[\w][\w.-]*$")
    """Names the run folder and the dataset."""
    description: str = ""
    """One or two sentences for the dataset card."""
    seed: int = 0
    """Every draw of the run follows from it; another seed asks every model anew."""
    plugins: tuple[str, ...] = ()
    """Python files with stages, backends, readers or exporters of your own, relative to the recipe."""
    prompts: tuple[str, ...] = ()
    """Folders looked through for prompt templates before the shipped ones, relative to the recipe."""
    limits: Limits = Limits()
    """When the run stops by itself."""
    rounds: Rounds | None = None
    """How many rounds to run, each in a folder of its own, and what is done after each; or only how many."""
    allow: tuple[Allowed, ...] = ()
    """Names of warnings of `synthpref check` that are meant so, and not to be given."""


@dataclass(frozen=True)
class Use:
    """One item of the recipe's `stages`: a word, and the parts it expands to."""

    label: str
    """The word, with "#2" where it comes a second time; names the stage in reports and in the journal."""
    path: str
    word: str
    stage: Stage
    digest: str = ""

    @property
    def parts(self) -> Sequence[Stage]:
        return self.stage.expand()


@dataclass(frozen=True)
class Origin:
    """What `load` was given, for who has to load the same recipe somewhere else."""

    path: Path = Path()
    settings: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe, ready to run."""

    head: RecipeHead
    models: Mapping[str, ModelSpec]
    source: Source
    uses: Sequence[Use]
    export: Exporter
    base: Path
    prompts: Prompts
    registry: Registry
    tree: Any = None
    """The recipe as plain values, without secrets."""
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    spent: Spent = field(default_factory=Spent)
    origin: Origin = field(default_factory=Origin, repr=False)

    @property
    def name(self) -> str:
        return self.head.name

    @property
    def seed(self) -> int:
        return self.head.seed

    def saved(self) -> str:
        """The recipe as YAML, without secrets; it can be run again."""
        return recipe_yaml.dump(self.tree)

    @property
    def fingerprint(self) -> str:
        """Two recipes that have the same make the same of a row."""
        return self.digest([(use, part) for use in self.uses for part in use.parts]).hex()

    def digest(self, uses: Sequence[tuple[Use, Stage]]) -> bytes:
        """What the given stages make of a row depends on this, and on the row, and on nothing else."""
        roles = {role for _, stage in uses for _, role in stage.marked(ROLE)}
        prompts = {name for _, stage in uses for _, name in stage.marked(PROMPT)}
        what = {
            "version": __version__,
            "seed": self.seed,
            "stages": [(use.label, use.digest, part.model_dump(mode="json")) for use, part in uses],
            "models": {role: (self._made_by(role), self.models[role].identity()) for role in sorted(roles)},
            "prompts": {name: self.prompts.digest(name) for name in sorted(prompts)},
        }
        return hashlib.sha256(orjson.dumps(what, option=orjson.OPT_SORT_KEYS)).digest()[:16]

    def _made_by(self, role: str) -> str:
        return self.registry.digest("backends", self.models[role].backend)

    def redact(self, text: str) -> str:
        """The text with every known secret replaced."""
        return recipe_yaml.redact(text, self.secrets)


def load(
    path: Path,
    settings: Sequence[str] = (),
    *,
    env: Mapping[str, str] = os.environ,
    check_source: SourceCheck | None = None,
    change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    variables: Mapping[str, str] = FIRST,
) -> Recipe:
    """Read and check a recipe. `settings` are --set values; `check_source` looks at the source's files; `change`
    makes another recipe of the plain values before they are looked at; `variables` are those of a round, where the
    recipe has rounds.

    Raises RecipeError with every problem found.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(
            [Problem(str(path), f"not UTF-8 at byte {error.start}", "save it as UTF-8")]
        ) from None
    except OSError as error:
        raise RecipeError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    written = recipe_yaml.parse(text)
    if not isinstance(written, dict):
        raise RecipeError([Problem(str(path), "a recipe is a mapping", "start with name:, models:, ...")])
    recipe_yaml.set_values(written, settings)
    if change is not None:
        written = change(written)
    if written.get("rounds") is not None:
        env = {**env, **variables}
    tree, problems, secrets = recipe_yaml.expand(written, env)
    try:
        made = _Draft(tree, path.parent, problems).recipe(written, secrets, check_source)
        return replace(made, origin=Origin(path, tuple(settings), variables))
    except RecipeError as error:
        hidden = [
            [recipe_yaml.redact(t, secrets) for t in (p.path, p.message, p.fix)] for p in error.problems
        ]
        raise RecipeError([Problem(*texts) for texts in hidden]) from None


class _Draft:
    """A recipe in the making: each section adds its problems, and what is sound goes on to the next check."""

    def __init__(self, tree: dict[str, Any], base: Path, problems: list[Problem]) -> None:
        self.tree, self.base, self.problems = tree, base, problems
        self.unset = list(problems)

    def recipe(self, written: Any, secrets: set[str], check_source: SourceCheck | None) -> Recipe:
        known = [*RecipeHead.model_fields, "models", "source", "stages", "export"]
        for key in self.tree:
            if key not in known:
                self.add(str(key), f"unknown key {key!r}", did_you_mean(str(key), known))
        head = self.build(
            RecipeHead, {k: v for k, v in self.tree.items() if k in RecipeHead.model_fields}, ""
        )
        registry = Registry([self.base / p for p in head.plugins] if head else [])
        prompts = Prompts(prompt_source([self.base / f for f in head.prompts] if head else [], self.base))
        models = self.models(registry)
        source = self.build(Source, self.section("source"), "source")
        if source and check_source:
            self.problems += check_source(source, self.base, registry)
        uses = self.stages(registry)
        export = self.section("export") if "export" in self.tree else {"format": "trl-preference"}
        exporter = self.named(registry, "exporters", export, "format", "export")
        for beside in dict.fromkeys(type(spec).beside for spec in models.values()):
            self.problems += beside(models)
        if not self.problems or (source and uses):
            self.check(uses, models, source, exporter, prompts)
        if head:
            self.check_limits(head.limits, models)
        if self.problems or not (head and source and isinstance(exporter, Exporter)):
            # What a variable that is not set left empty is no mistake of its own.
            empty = {problem.path for problem in self.unset}
            others = [p for p in self.problems[len(self.unset) :] if p.path not in empty]
            raise RecipeError([*self.unset, *others])
        secrets |= {secret for spec in models.values() for secret in spec.secrets() if secret}
        shown = recipe_yaml.without_secrets(self.tree, written, secrets)
        return Recipe(
            head, models, source, uses, exporter, self.base, prompts, registry, shown, frozenset(secrets)
        )

    def add(self, path: str, message: str, fix: str = "") -> None:
        self.problems.append(Problem(path, message, fix))

    def section(self, name: str) -> Any:
        value = self.tree.get(name)
        if value is None:
            self.add(name, "missing", f"add a section {name}:")
            return None
        return value

    def build(self, kind: type[T], value: Any, path: str) -> T | None:
        """The pydantic object, or None with its problems noted."""
        if value is None and path:
            return None
        if not isinstance(value, dict):
            self.add(path, f"a mapping was expected, not {_short(value)}", "write field: value lines")
            return None
        try:
            return kind.model_validate(value, context={"base": self.base})
        except ValidationError as error:
            for detail in error.errors():
                self.problems.append(_problem(kind, path, detail, value))
            return None

    def named(self, registry: Registry, kind: Any, value: Any, key: str, path: str) -> Any:
        """The object of a section that names its own kind by one of its keys."""
        if not isinstance(value, dict) or not isinstance(value.get(key), str):
            self.add(path, f"no {key!r}", f"add {key}: one of {', '.join(registry.names(kind))}")
            return None
        try:
            return self.build(registry.get(kind, value[key], f"{path}.{key}"), value, path)
        except RecipeError as error:
            self.problems += error.problems
            return None

    def models(self, registry: Registry) -> dict[str, ModelSpec]:
        value = self.tree.get("models") or {}
        if not isinstance(value, dict):
            self.add(
                "models", f"a mapping was expected, not {_short(value)}", "write role: {backend: ..., ...}"
            )
            return {}
        built = {
            str(role): self.named(registry, "backends", v, "backend", f"models.{role}")
            for role, v in value.items()
        }
        self.broken = {role for role, spec in built.items() if spec is None}
        return {role: spec for role, spec in built.items() if spec is not None}

    def stages(self, registry: Registry) -> list[Use]:
        items = self.tree.get("stages")
        if not isinstance(items, list) or not items:
            self.add("stages", "a list with at least one stage was expected", "write - word: {field: value}")
            return []
        uses: list[Use] = []
        seen: dict[str, int] = {}
        self.all_stages_known = True
        for i, item in enumerate(items):
            word: Any = item
            fields: Any = {}
            if isinstance(item, dict) and len(item) == 1:
                word, fields = next(iter(item.items()))
            if not isinstance(word, str):
                self.add(
                    f"stages[{i}]",
                    f"one stage was expected, not {_short(item)}",
                    "write - word: {field: value}",
                )
                self.all_stages_known = False
                continue
            path = f"stages[{i}].{word}"
            try:
                stage = self.build(registry.get("stages", word, f"stages[{i}]"), fields or {}, path)
            except RecipeError as error:
                self.problems += error.problems
                stage = None
            if stage is None:
                self.all_stages_known = False
                continue
            seen[word] = seen.get(word, 0) + 1
            label = word if seen[word] == 1 else f"{word}#{seen[word]}"
            uses.append(Use(label, path, word, stage, registry.digest("stages", word)))
        return uses

    def check(
        self,
        uses: Sequence[Use],
        models: Mapping[str, ModelSpec],
        source: Source | None,
        exporter: Any,
        prompts: Prompts,
    ) -> None:
        """Roles, capabilities, templates, and that each stage finds on a row what it needs."""
        have = source.facts() if source else set()
        for use in uses:
            self.check_roles(use, models)
            for path, name in use.stage.marked(PROMPT):
                try:
                    prompts.digest(name)
                except (TemplateError, OSError, UnicodeDecodeError) as error:
                    message = f"the prompt template {name!r} cannot be used: {type(error).__name__}: {error}"
                    self.add(f"{use.path}.{path}", message, "name a template in prompts/ or a .j2 file")
            if source and self.all_stages_known:
                for fact in sorted(use.stage.needs() - have):
                    if fact.startswith("meta:") and "meta:*" in have:
                        continue
                    self.add(use.path, *_lacking(fact, have))
                for fact in sorted(use.stage.gives() & have):
                    if fact.startswith("score:"):
                        self.add(use.path, f"there is a score {fact[6:]!r} already", "give it another `name`")
            have |= use.stage.gives()
            if not all(isinstance(part, RowStage | Barrier) for part in use.parts):
                self.add(use.path, "is neither a RowStage nor a Barrier", "derive the class from one of them")
        if isinstance(exporter, Exporter) and source and self.all_stages_known:
            for fact in sorted(exporter.needs() - have):
                if not (fact.startswith("meta:") and "meta:*" in have):
                    self.add("export", *_lacking(fact, have))

    def check_roles(self, use: Use, models: Mapping[str, ModelSpec]) -> None:
        able = use.stage.requires()
        for path, role in use.stage.marked(ROLE):
            if role in self.broken:
                continue
            if role not in models:
                fix = did_you_mean(role, [*models, *self.broken])
                self.add(f"{use.path}.{path}", f"no model role {role!r} in models", fix)
                continue
            spec = models[role]
            for capability in sorted(able.get(role, set()) - spec.able()):
                message = (
                    f"needs {capability!r}, which models.{role} (backend {spec.backend!r}) does not have"
                )
                fix = f"it has: {', '.join(sorted(spec.able()))}"
                serves = type(spec).model_fields.get("serves")
                for word in get_args(serves.annotation) if serves else ():
                    if SERVES.get(word) == capability:
                        fix = f"set models.{role}.serves: {word}, if the model is for that; {fix}"
                self.add(f"{use.path}.{path}", message, fix)

    def check_limits(self, limits: Limits, models: Mapping[str, ModelSpec]) -> None:
        if limits.max_cost_usd is not None:
            for role, spec in models.items():
                if spec.price is None:
                    fix = f"add models.{role}.price: {{input: ..., output: ...}} in USD per million tokens"
                    self.add("limits.max_cost_usd", f"models.{role} has no price to count with", fix)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fields(kind: type[BaseModel], steps: Sequence[str | int]) -> list[str]:
    """What may stand where the steps lead to; nothing where that is not for one class to say."""
    for step in steps:
        field = kind.model_fields.get(str(step))
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        models = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if len(models) != 1:
            return []
        kind = models[0]
    return list(kind.model_fields)


def _problem(kind: type[BaseModel], path: str, detail: Any, value: Mapping[str, Any]) -> Problem:
    where = path
    for step in detail["loc"]:
        where += f"[{step}]" if isinstance(step, int) else f".{step}" if where else str(step)
    if detail["type"] == "extra_forbidden":
        *outer, name = detail["loc"]
        fields = _fields(kind, outer)
        message = f"unknown field {name!r}"
        if not outer and issubclass(kind, ModelSpec):
            message = f"backend {value['backend']} has no field {name!r}"
        return Problem(where, message, did_you_mean(str(name), fields) if fields else "remove it")
    if detail["type"] == "missing":
        return Problem(where, "missing", f"add {detail['loc'][-1]}: ...")
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error" and isinstance(detail["input"], dict):
        # Of fields together: what it says is what there is to say.
        return Problem(where, message)
    found = "" if "Secret" in str(detail.get("ctx")) else f" (found: {_short(detail['input'])})"
    return Problem(
        where, message[:1].lower() + message[1:] + found, "see `synthpref stages` or `synthpref schema`"
    )


def _lacking(fact: str, have: set[str]) -> tuple[str, str]:
    kind, _, name = fact.partition(":")
    if kind == "score":
        scores = [f[6:] for f in have if f.startswith("score:")]
        fix = did_you_mean(name, scores) if scores else "put a judge, jury, reward or verify stage before it"
        return f"no earlier stage makes a score {name!r}", fix
    if kind == "samples":
        return "no samples at this point", "put sample.n before it, or map source.samples to a column"
    if kind == "pairs":
        return "no pairs at this point", "put a pair stage before it"
    if kind == "reference":
        return "the rows have no reference answer", "map source.reference to a column"
    if kind == "meta":
        return f"the source has no column {name!r}", did_you_mean(
            name, [f[5:] for f in have if f.startswith("meta:")]
        )
    return f"nothing before it gives {fact!r}", "put a stage before it that does"
