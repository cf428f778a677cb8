"""LoRA adapters of a role: their names, what is seen of one that is here, and what tells it from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

CONFIG = "adapter_config.json"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as max_lora_rank."""
USUAL_RANK = 16


def check(lora: str | None, loras: Mapping[str, str]) -> None:
    """Raise ValueError for a name that is not in the map, and for a folder that holds no adapter."""
    if lora is not None and loras and lora not in loras:
        close = get_close_matches(lora, loras, n=1)
        fix = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(loras)}"
        raise ValueError(f"lora: no {lora!r} in loras; {fix}")
    for path in paths(lora, loras).values():
        if is_folder(path):
            _rank(path)


def paths(lora: str | None, loras: Mapping[str, str], name: str = "adapter") -> dict[str, str]:
    """The adapters of the engine, by name; one that is alone is called `name`."""
    return dict(loras) or ({name: lora} if lora else {})


def is_folder(path: str) -> bool:
    """Whether it is one on this machine, rather than a name on the Hub (which has one slash and no dot before it)."""
    return Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") != 1


def arguments(found: Iterable[str]) -> dict[str, Any]:
    """What an engine with these adapters is started with: room for each of them, and for the rank of the highest."""
    given = list(found)
    if not given:
        return {}
    made: dict[str, Any] = {"enable_lora": True}
    if len(given) > 1:
        made["max_loras"] = len(given)
    rank = max([_rank(path) for path in given if is_folder(path)], default=0)
    if rank > USUAL_RANK:
        made["max_lora_rank"] = next((r for r in RANKS if r >= rank), rank)
    return made


def identity(path: str | None) -> str | None:
    """What tells an adapter from others: of a folder what is in it, so that one that is trained again at the same
    place is another, and one that is moved is not; of one on the Hub its name."""
    if path is None or not Path(path).is_dir():
        return path
    files = sorted(
        p for p in Path(path).expanduser().iterdir() if p.suffix in (".json", ".safetensors", ".bin")
    )
    return _digest(tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in files))


@lru_cache(maxsize=256)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    made = hashlib.sha256()
    for path, _, size in files:
        made.update(f"{Path(path).name} {size}\n".encode())
        with open(path, "rb") as file:
            made.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256 {made.hexdigest()[:32]}"


def _rank(path: str) -> int:
    """Raises ValueError where there is no adapter."""
    try:
        return int(json.loads((Path(path) / CONFIG).read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"lora: {path} is no folder with an adapter as peft saves it ({CONFIG} with its rank `r`)"
        ) from None
