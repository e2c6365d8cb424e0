"""The base of every value in this package: frozen, closed to unknown keys, its fields described where they are."""

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema


class Value(BaseModel):
    """An immutable record. Unknown keys are an error, so that a typo is never silently ignored.

    The docstring under a field is its description in the documents that are made of a record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: "CoreSchema", handler: "GetJsonSchemaHandler"
    ) -> "JsonSchemaValue":
        """The usual schema with the docstrings of the fields.

        They are read from the source here and not by pydantic's `use_attribute_docstrings`, which does it at every
        import: a third of the time that the command takes to import the client.
        """
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in _field_docstrings(cls).items():
            if name in properties:
                properties[name].setdefault("description", text)
        return schema


def _field_docstrings(kind: type[BaseModel]) -> dict[str, str]:
    """By field, those of base classes too; a field that is declared again has the docstring of its last declaration."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, BaseModel):
            found |= _own_field_docstrings(base)
    return found


def _own_field_docstrings(kind: type[BaseModel]) -> dict[str, str]:
    try:
        file = inspect.getfile(kind)
    except (OSError, TypeError):  # a class that no file holds
        return {}
    return _field_docstrings_in(file).get(kind.__name__, {})


@cache
def _field_docstrings_in(file: str) -> dict[str, dict[str, str]]:
    """By class and field, of a whole file: finding one class after another in it takes forty times as long."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    return {node.name: dict(_documented_fields(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _documented_fields(definition: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement, following in pairwise(definition.body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            yield statement.target.id, inspect.cleandoc(following.value.value)
