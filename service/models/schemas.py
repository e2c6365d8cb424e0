"""Bodies of the model routes."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.tuning.messages import FileRef


class RegisterModel(BaseModel):
    """A set of files that are one model. `config` is the content of its config.json; without files only its shape."""

    model_config = ConfigDict(extra="forbid")

    name: str
    files: Annotated[tuple[FileRef, ...], Field(min_length=1, max_length=10_000)] | None = None
    config: dict[str, Any]
