"""The base of every value in this package: frozen, closed to unknown keys."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """An immutable record. Unknown keys are an error, so that a typo is never silently ignored.

    The docstring under a field is its description in the documents that are made of a record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)
