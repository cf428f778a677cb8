"""synthpref: preference data from prompts and model endpoints, by recipe.

    from synthpref import RowStage, Row, Ask     # what a plugin needs
    from synthpref.testing import run_stage      # what its tests need
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthpref.core.errors import (
        BackendError,
        ExportError,
        JournalError,
        Problem,
        RecipeError,
        RunStopped,
        StageError,
        SynthprefError,
    )
    from synthpref.core.seam import Ask, Backend, Completion, ModelSpec, Request
    from synthpref.core.stage import Barrier, Calls, Load, PromptName, Role, RowStage, Stage
    from synthpref.core.types import Comparison, Drop, Message, Origin, Pair, Row, Sample, Score, Usage, Vote

__version__ = "0.1.0"

_HOMES = {
    "errors": "BackendError ExportError JournalError Problem RecipeError RunStopped StageError SynthprefError",
    "seam": "Ask Backend Completion ModelSpec Request",
    "stage": "Barrier Calls Load PromptName Role RowStage Stage",
    "types": "Comparison Drop Message Origin Pair Row Sample Score Usage Vote",
}
_HOME = {name: f"synthpref.core.{module}" for module, names in _HOMES.items() for name in names.split()}
__all__ = sorted([*_HOME, "__version__"])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `synthpref --help` does not pay for pydantic.
    if name not in _HOME:
        raise AttributeError(f"module 'synthpref' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
