"""A small recipe of rounds, and hooks that tell what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PROMPTS = [
    f"What is {thing} good for?" for thing in ("a pump", "yeast", "a lock", "a dam", "a sundial", "rust")
]
Tree = dict[str, Any]


def recipe(hook: str | None = None, count: int = 3, **head: Any) -> Tree:
    return {
        "name": "tried",
        "seed": 7,
        "rounds": {"count": count} | ({"hook": hook} if hook else {}),
        "models": {
            "policy": {"backend": "simulated", "model": "policy", "length": 40},
            "judge": {"backend": "simulated", "model": "judge"},
        },
        "source": {"rows": PROMPTS},
        "stages": [
            {"sample.n": {"model": "policy", "n": 4}},
            {"judge.point": {"model": "judge", "name": "helpful"}},
            {"pair.extremes": {"score": "helpful"}},
        ],
        "limits": {"max_reject_rate": 0},
        "allow": ["one_judge"],
        **head,
    }


BETTER = 'echo "models.policy.skill=$ROUND" > $SYNTHPREF_NEXT'


def noting(folder: Path, then: str = BETTER) -> str:
    return f'echo "$ROUND" >> "{folder}/hooked"; {then}'


def hooked(folder: Path) -> list[int]:
    path = folder / "hooked"
    return [int(line) for line in path.read_text("utf-8").split()] if path.exists() else []
