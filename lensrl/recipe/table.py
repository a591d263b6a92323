"""The base class of all tables of a recipe: strict, immutable, finite."""

from __future__ import annotations

from typing import Annotated, Any, get_args

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
            if field is not None and _takes_numbers(field.annotation) and any(isinstance(v, bool) for v in values):
                raise ValueError(f"{name} cannot be {'true' if True in values else 'false'}")
        return data


def _takes_numbers(annotation: Any) -> bool:
    """Return whether a value of this type may be, or hold, a number. A literal holds texts."""
    return annotation in (int, float) or any(map(_takes_numbers, get_args(annotation)))
