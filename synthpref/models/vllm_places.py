"""Which devices each engine gets, and whether the models of a recipe have room beside each other."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from synthpref.core.errors import BackendError, Problem
from synthpref.models import vllm_args as arguments
from synthpref.models.turns import at_odds

VISIBLE = "CUDA_VISIBLE_DEVICES"
SHARE = 0.92
"""What an engine takes of a device where `gpu_memory_utilization` is not given."""


class Spec(Protocol):
    """What is looked at of a role."""

    @property
    def model(self) -> str: ...
    @property
    def engine(self) -> Mapping[str, Any]: ...
    @property
    def engines(self) -> int: ...
    @property
    def devices(self) -> tuple[str, ...]: ...
    @property
    def placement(self) -> str: ...
    @property
    def backend(self) -> str: ...

    def start_arguments(self) -> dict[str, Any]: ...
    def alike(self) -> list[Any]: ...


def of(spec: Spec) -> list[tuple[str, str | None]]:
    """A name and the devices of each engine; None for those that the environment leaves. Raises BackendError."""
    names = [spec.model] if spec.engines == 1 else [f"{spec.model} ({i + 1})" for i in range(spec.engines)]
    there = visible_devices(os.environ.get(VISIBLE), len(glob.glob("/dev/nvidia[0-9]*")))
    if not spec.devices and (spec.engines == 1 or not there):
        return [(name, None) for name in names]
    if missing := [name for name in spec.devices if there and name not in there]:
        said = f"{spec.model}: there is no device {missing[0]!r}; there are: {', '.join(there)}"
        raise BackendError("unsupported", said)
    try:
        groups = device_groups(spec.devices or there, devices_each(spec.engine), spec.engines)
    except ValueError as error:
        raise BackendError("unsupported", f"{spec.model}: {error}") from None
    return [(name, ",".join(group)) for name, group in zip(names, groups, strict=True)]


def problems(roles: Mapping[str, Spec]) -> list[Problem]:
    """Roles that share an engine and do not say the same of it, and devices that are promised more than once."""
    keys = {}
    for role, spec in roles.items():
        started_with = {**spec.start_arguments(), "enable_sleep_mode": None}
        keys[role] = arguments.signature(spec.backend, started_with, *spec.alike())
    found = at_odds(keys, roles)
    if found or arguments.on_cpu():
        return found
    first: dict[str, str] = {}
    for role, key in keys.items():
        first.setdefault(key, role)
    return _crowded({role: roles[role] for role in first.values()})


def _crowded(fleets: Mapping[str, Spec]) -> list[Problem]:
    """Those that are awake together beside the largest of those that are awake in turn, device by device."""
    for device in sorted({device for spec in fleets.values() for device in used(spec)}):
        here = {role: spec for role, spec in fleets.items() if device in used(spec)}
        shares = {
            role: float(spec.engine.get("gpu_memory_utilization") or SHARE) for role, spec in here.items()
        }
        in_turn = [role for role, spec in here.items() if spec.placement == "in_turn"]
        most = max(in_turn, key=lambda role: shares[role], default=None)
        beside = [role for role in here if role not in in_turn or role == most]
        total = sum(shares[role] for role in beside)
        if len(beside) > 1 and total > 1:
            named = ", ".join(f"models.{role} {shares[role]:g}" for role in beside)
            said = f"device {device} is to give {total:g} of its memory at a time ({named})"
            fix = (
                "lower engine.gpu_memory_utilization so that they fit together, give each `devices` of its own, or "
                "`placement: in_turn` to all of them"
            )
            return [Problem(f"models.{beside[-1]}.engine", said, fix)]
    return []


def used(spec: Spec) -> tuple[str, ...]:
    many = devices_each(spec.engine) * spec.engines
    if spec.devices:
        return spec.devices[:many]
    # By the names that `devices` has for them. Fewer than it takes are those of another machine than the engine's.
    there = visible_devices(os.environ.get(VISIBLE), many)
    return tuple(there[:many] if len(there) >= many else map(str, range(many)))


def devices_each(engine: Mapping[str, Any]) -> int:
    """How many devices one engine takes."""
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    each = 1
    for name in sizes:
        each *= int(engine.get(name) or 1)
    return each


def device_groups(visible: Sequence[str], each: int, engines: int) -> list[list[str]]:
    """The devices of each engine, in order. Raises ValueError where there are too few."""
    if len(visible) < each * engines:
        raise ValueError(
            f"{engines} x {each} devices are asked for, and there are {len(visible)}: lower engines, or "
            "engine.tensor_parallel_size, or let CUDA_VISIBLE_DEVICES name more"
        )
    return [list(visible[i * each : (i + 1) * each]) for i in range(engines)]


def visible_devices(setting: str | None, count: int) -> list[str]:
    """The devices that CUDA_VISIBLE_DEVICES leaves, by the names it has for them; all `count` where it is not set."""
    if setting is None:
        return [str(i) for i in range(count)]
    return [name for part in setting.split(",") if (name := part.strip())]
