"""What a job leaves in the object store."""

from typing import Annotated, Literal

from tunesmith.tuning.api.base import Answer, Recorded
from tunesmith.tuning.api.lists import Listing
from tunesmith.tuning.messages import FileRef
from tunesmith.tuning.values.json_objects import Json


class ArtifactObject(Answer):
    """A set of files of one kind."""

    id: str
    """Its identifier, under which the files are downloaded."""
    object: Literal["tunesmith.artifact"] = "tunesmith.artifact"
    """Always `tunesmith.artifact`."""
    created_at: int
    """When it was complete in the store, in Unix seconds."""
    job_id: str
    """The job that it belongs to."""
    attempt_id: str
    """The attempt that made it."""
    kind: str
    """`adapter`, `model`, `merged_model`, `tokenizer`, `card` or `log`."""
    files: list[Annotated[Json, Recorded(FileRef)]]
    """Its files."""
    metadata: Json
    """What the trainer says of it, free to grow."""


class ArtifactList(Listing[ArtifactObject]):
    """Everything that a job left, newest first."""
