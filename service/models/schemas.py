"""Bodies of the model routes."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from tunesmith.tuning.messages import FileRef
from tunesmith.tuning.models.hub import HubCommit
from tunesmith.tuning.values.base import Value


class FetchModel(Value):
    """A repository of the model hub that is to become a base model."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "main"}]}
    )

    id: Annotated[str, Field(max_length=300)]
    """`owner/name`; what jobs will call it too."""
    revision: Annotated[str, Field(max_length=300)] | None = None
    """A branch, tag or commit; the commit that it stands for now is recorded. Absent: `main`, or what is there."""


class RegisterModel(Value):
    """A set of files that are one model, or its shape alone."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "my-base", "config": {"model_type": "llama", "hidden_size": 4096}}]}
    )

    name: str
    """What jobs will call it."""
    files: Annotated[tuple[FileRef, ...], Field(min_length=1, max_length=10_000)] | None = None
    """The files of the set, config.json and safetensors among them; absent to register only the shape."""
    config: dict[str, Any]
    """The content of its config.json."""
    hub: HubCommit | None = None
    """Where it comes from, so that the adapters on it name it; a later registration without it leaves it as it is."""
