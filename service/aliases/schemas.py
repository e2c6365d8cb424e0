"""Bodies of the alias routes."""

from typing import Annotated

from pydantic import ConfigDict, Field

from tunesmith.tuning.values.base import Value

Reason = Annotated[str, Field(min_length=1, max_length=512)]
ModelOrAlias = Annotated[str, Field(min_length=1, max_length=256)]


class SetAlias(Value):
    """`PUT /v1/aliases/{name}`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "my-base", "reason": "exact match 0.81 against 0.77", "expected": None}]
        }
    )

    model: ModelOrAlias
    """The model that the alias stands for from now on: one of the project, or a base."""
    reason: Reason | None = None
    """Why, for the history."""
    expected: ModelOrAlias | None = None
    """What it must stand for until now, null for nothing: else 409. Leave it out to set it whatever it stands for."""

    @property
    def has_expectation(self) -> bool:
        """Whether `expected` was given, be it as null."""
        return "expected" in self.model_fields_set


class RollBackAlias(Value):
    """`POST /v1/aliases/{name}/roll_back`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "answers in the wrong language"}]})

    reason: Reason | None = None
    """Why, for the history."""
    expected: ModelOrAlias | None = None
    """What it must stand for until now: else 409."""
