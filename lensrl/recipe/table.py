"""The base class of all tables of a recipe: strict, immutable, finite."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(gt=0, le=1)]


class Table(BaseModel):
    """A table of a recipe.

    It refuses unknown keys, infinities, NaN, and true or false in place of a number. It does not change after reading.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_booleans_as_numbers(cls, data: Any) -> Any:
        """Refuse true and false where a number is expected: pydantic would read true as 1."""
        for name, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(name)
            values = value if isinstance(value, list) else [value]
            if field is not None and field.annotation is not bool and any(isinstance(v, bool) for v in values):
                raise ValueError(f"{name} cannot be {'true' if True in values else 'false'}")
        return data
