"""Where prompt templates are found: the user's folders first, then those that come with the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped(kind: str) -> Path:
    """The folder of shipped "prompts" or "recipes": inside an installed package, or at the root of a
    checkout, because an editable install does not map them."""
    inside = PACKAGE / f"_{kind}"
    return inside if inside.is_dir() else PACKAGE.parent / kind


def prompt_source(folders: Sequence[Path] = (), base: Path = Path()) -> Callable[[str], str | None]:
    """A reader of templates by name. "judge/point" is looked for in `folders`, then among the shipped ones;
    a name that ends in .j2 is a path, relative to `base`."""

    def read(name: str) -> str | None:
        places = (
            [base / name]
            if name.endswith(".j2")
            else [f / f"{name}.j2" for f in (*folders, shipped("prompts"))]
        )
        found = next((place for place in places if place.is_file()), None)
        return found.read_text(encoding="utf-8") if found else None

    return read
