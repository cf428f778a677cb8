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
    from synthpref.core.stage import Barrier, Calls, Load, Made, PromptName, Role, RowStage, Stage, Takes
    from synthpref.core.types import Comparison, Drop, Message, Origin, Pair, Row, Sample, Score, Usage, Vote

__version__ = "0.2.0"

__all__ = [
    "Ask",
    "Backend",
    "BackendError",
    "Barrier",
    "Calls",
    "Comparison",
    "Completion",
    "Drop",
    "ExportError",
    "JournalError",
    "Load",
    "Made",
    "Message",
    "ModelSpec",
    "Origin",
    "Pair",
    "Problem",
    "PromptName",
    "RecipeError",
    "Request",
    "Role",
    "Row",
    "RowStage",
    "RunStopped",
    "Sample",
    "Score",
    "Stage",
    "StageError",
    "SynthprefError",
    "Takes",
    "Usage",
    "Vote",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `synthpref --help` does not pay for pydantic.
    if name in __all__:
        for room in ("errors", "types", "seam", "stage"):
            module = importlib.import_module(f"synthpref.core.{room}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'synthpref' has no attribute {name!r}")
