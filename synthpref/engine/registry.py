"""The one table of names: stages, backends, readers and exporters, each as "module:object".

Built-ins stand here as strings, so that nothing is imported before a recipe says its name. Third parties add
theirs by entry points in the groups synthpref.stages, synthpref.backends, synthpref.readers and
synthpref.exporters; a recipe adds local files by `plugins: [./my_stages.py]`, each of which holds a dict
STAGES, BACKENDS, READERS or EXPORTERS from name to object. Two things of one name are an error.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any, Literal

from synthpref.core.errors import Problem, RecipeError

Kind = Literal["stages", "backends", "readers", "exporters"]

BUILT_IN: dict[Kind, dict[str, str]] = {
    "stages": {
        "synth.bootstrap": "synthpref.stages.synth:Bootstrap",
        "synth.evolve": "synthpref.stages.synth:Evolve",
        "synth.persona": "synthpref.stages.synth:Persona",
        "synth.corpus": "synthpref.stages.synth:Corpus",
        "sample.n": "synthpref.stages.sample:N",
        "judge.point": "synthpref.stages.judge:Point",
        "judge.pair": "synthpref.stages.judge:Pair",
        "judge.list": "synthpref.stages.judge:List",
        "judge.aspects": "synthpref.stages.judge_aspects:Aspects",
        "judge.principles": "synthpref.stages.judge_principles:Principles",
        "jury": "synthpref.stages.jury:Jury",
        "jury.pair": "synthpref.stages.jury_pair:JuryPair",
        "debate": "synthpref.stages.debate:Debate",
        "score.combine": "synthpref.stages.score:Combine",
        "score.users": "synthpref.stages.users:Users",
        "score.yesno": "synthpref.stages.followup:YesNo",
        "score.followup": "synthpref.stages.followup:Followup",
        "score.density_ratio": "synthpref.stages.logprob:DensityRatio",
        "score.implicit": "synthpref.stages.logprob:Implicit",
        "score.reference": "synthpref.stages.logprob:Reference",
        "score.perplexity": "synthpref.stages.logprob:Perplexity",
        "reward": "synthpref.stages.reward:Reward",
        "reward.pair": "synthpref.stages.reward:RewardPair",
        "verify": "synthpref.stages.verify:Verify",
        "pair.extremes": "synthpref.stages.pair:Extremes",
        "pair.mu_sigma": "synthpref.stages.pair:MuSigma",
        "pair.min_of_k": "synthpref.stages.pair:MinOfK",
        "pair.threshold": "synthpref.stages.pair:Threshold",
        "pair.ranked": "synthpref.stages.pair:Ranked",
        "pair.verified": "synthpref.stages.pair:Verified",
        "pair.random": "synthpref.stages.pair:Random",
        "enrich.rationale": "synthpref.stages.enrich:Rationale",
        "filter.dedup": "synthpref.stages.filter:Dedup",
        "filter.diversity": "synthpref.stages.filter:Diversity",
    },
    "backends": {
        "openai": "synthpref.models.openai:OpenAI",
        "simulated": "synthpref.models.simulated:Simulated",
        "vllm": "synthpref.models.vllm:VLLM",
        "vllm-serve": "synthpref.models.vllm_serve:VLLMServe",
        "local": "synthpref.models.local:Local",
    },
    "readers": {
        "jsonl": "synthpref.io.read:jsonl",
        "json": "synthpref.io.read:json",
        "csv": "synthpref.io.read:csv",
        "parquet": "synthpref.io.read:parquet",
        "txt": "synthpref.io.read:txt",
    },
    "exporters": {
        "trl-preference": "synthpref.io.export:TrlPreference",
        "trl-preference-standard": "synthpref.io.export:TrlPreferenceStandard",
        "trl-implicit": "synthpref.io.export:TrlImplicit",
        "trl-kto": "synthpref.io.export:TrlKto",
        "trl-reward": "synthpref.io.export:TrlReward",
        "trl-prompt-only": "synthpref.io.export:TrlPromptOnly",
        "sft": "synthpref.io.export:Sft",
    },
}


@cache
def _installed(group: str) -> EntryPoints:
    """The entry points of a group; what is installed is looked through once."""
    return entry_points(group=group)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A fix for a name that is not among the known ones."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there is: {', '.join(sorted(known)) or 'none'}"


class Registry:
    """All names that a recipe may use. Raises RecipeError on a name that is taken, or a plugin file that
    cannot be loaded."""

    def __init__(self, plugins: Sequence[Path] = ()) -> None:
        self._table: dict[Kind, dict[str, str | EntryPoint | object]] = {
            kind: dict(names) for kind, names in BUILT_IN.items()
        }
        self._from: dict[tuple[Kind, str], str] = {}
        self._digests: dict[str, str] = {}
        for kind in BUILT_IN:
            for point in _installed(f"synthpref.{kind}"):
                origin = point.dist.name if point.dist else point.value
                self._digests[origin] = point.dist.version if point.dist else ""
                self._add(kind, point.name, point, origin)
        for path in plugins:
            self._local(path)

    def _add(self, kind: Kind, name: str, thing: object, origin: str) -> None:
        if name in self._table[kind]:
            taken = self._from.get((kind, name), "synthpref itself")
            message = f"{origin} adds {name!r} to {kind}, but {taken} has that name already"
            raise RecipeError([Problem("plugins", message, "rename or uninstall one of the two")])
        self._table[kind][name] = thing
        self._from[kind, name] = origin

    def _local(self, path: Path) -> None:
        where = f"plugins: {path}"
        if not path.is_file():
            raise RecipeError([Problem(where, "no such file", "the path is relative to the recipe")])
        name = f"synthpref_plugin_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise RecipeError([Problem(where, "not a Python file", "name a .py file")])
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise RecipeError([Problem(where, f"{type(error).__name__}: {error}", "fix the file")]) from error
        self._digests[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        tables = [(kind, getattr(module, kind.upper(), {})) for kind in BUILT_IN]
        if not any(table for _, table in tables):
            fix = "add e.g. STAGES = {'my.stage': MyStage}"
            raise RecipeError([Problem(where, "holds no STAGES, BACKENDS, READERS or EXPORTERS", fix)])
        for kind, table in tables:
            for key, thing in table.items():
                self._add(kind, key, thing, str(path))

    def names(self, kind: Kind) -> list[str]:
        return sorted(self._table[kind])

    def origin(self, kind: Kind, name: str) -> str:
        """Who added the name: "" for a built-in, a distribution, or a file."""
        return self._from.get((kind, name), "")

    def digest(self, kind: Kind, name: str) -> str:
        """A hash of the local plugin file that holds the thing, or the version of its distribution; "" for a
        built-in."""
        return self._digests.get(self.origin(kind, name), "")

    def get(self, kind: Kind, name: str, path: str = "") -> Any:
        """The class or function called `name`. Raises RecipeError, at `path`, when there is none or when a
        package that it needs is not installed."""
        if name not in self._table[kind]:
            fix = did_you_mean(name, self.names(kind))
            raise RecipeError([Problem(path or kind, f"no {kind.removesuffix('s')} named {name!r}", fix)])
        thing = self._table[kind][name]
        try:
            if isinstance(thing, EntryPoint):
                return thing.load()
            if isinstance(thing, str):
                module, _, attribute = thing.partition(":")
                return getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            fix = f"install it: pip install {error.name}" if error.name else "check the installation"
            raise RecipeError([Problem(path or kind, f"{name!r} cannot be loaded: {error}", fix)]) from error
        return thing

    def all(self, kind: Kind) -> Iterator[tuple[str, Any]]:
        for name in self.names(kind):
            yield name, self.get(kind, name)
