"""What all parts of a recipe are: frozen pydantic models whose fields are their YAML, their schema and their docs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

MOST = 10**15
"""No count, limit or size of a recipe is larger; what is was written by mistake."""


class Settings(BaseModel):
    """Base of stages, roles, sources, exporters and what stands in them. A key that is not known is refused, and so is a
    number that is none (NaN, infinity) or absurd."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any, info: ValidationInfo) -> Any:
        # A seed may be any number of 64 bits.
        most = 2**63 - 1 if info.field_name == "seed" else MOST
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) > most:
            raise ValueError(f"the number is too large; {most:.3g} is the most")
        return value
