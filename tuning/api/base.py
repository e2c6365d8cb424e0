"""What every answer stands on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic_core.core_schema import definitions_schema

from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.json_objects import Json

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

Record = TypeVar("Record", bound=Value)


class Answer(Value):
    """A part of an answer, in which a newer service may have more keys. What is not known yet is null."""

    model_config = ConfigDict(
        extra="allow",  # kept, so that `--output json` prints what came; mypy refuses to build one with a wrong key
        defer_build=True,  # the command imports all of them and reads one or two
        json_schema_serialization_defaults_required=True,
    )


@dataclass(frozen=True)
class Recorded:
    """Marks JSON that is shown as it was stored, by whichever version stored it.

    It is not checked against `model`, which is what this version stores and how the documents describe it.
    """

    model: type[BaseModel]

    def __get_pydantic_json_schema__(self, _schema: "CoreSchema", handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        """The schema of the model, as a definition with its name and not as a part of whatever holds it."""
        return handler(definitions_schema(self.model.__pydantic_core_schema__, []))


def recorded(model: type[Record], json: Json) -> Record:
    """Read JSON that another version may have stored; keys that it added are kept.

    Raises:
        ValidationError: a key is missing or means something else.
    """
    return model.model_validate(json, extra="allow")
