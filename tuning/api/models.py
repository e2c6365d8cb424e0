"""Models to start from and models that jobs made."""

from typing import Annotated, Literal

from tunesmith.tuning.api.base import Answer, Recorded
from tunesmith.tuning.api.lists import Listing
from tunesmith.tuning.messages import FileRef
from tunesmith.tuning.models.hub import HubCommit
from tunesmith.tuning.values.json_objects import Json


class TunesmithModel(Answer):
    """What Tunesmith adds to a model."""

    kind: Literal["base", "model", "adapter"]
    """`base` when it was registered; else what a job made of one."""
    status: Literal["incomplete", "ready", "shape_only"]
    """`incomplete` while files are missing; `shape_only` can be planned with but not trained."""
    digest: str
    """SHA-256 over the names, lengths and hashes of its files."""
    base_model: str | None
    """The base that it stands on; null for a base."""
    job_id: str | None
    """The job that made it; null for a base."""
    hub: Annotated[Json, Recorded(HubCommit)] | None
    """The repository and commit of the model hub that a base comes from; null where nobody said."""
    files: list[Annotated[Json, Recorded(FileRef)]]
    """Its files."""
    stands_for: str | None = None
    """The model that answers under this name, where the operator lets a name of another service mean one; else null."""
    missing: list[str]
    """SHA-256 of files that the store still lacks, in the answer to a registration; else empty."""


class ModelObject(Answer):
    """A model."""

    id: str
    """Its name."""
    object: Literal["model"] = "model"
    """Always `model`."""
    created: int
    """When it was registered or made, in Unix seconds."""
    owned_by: str
    """The project that made it; `tunesmith` for a base, which all projects share."""
    tunesmith: TunesmithModel
    """Everything that is ours."""


class ModelFetch(Answer):
    """How far a model of the hub has been fetched."""

    object: Literal["model.fetch"] = "model.fetch"
    """Always `model.fetch`."""
    id: str
    """The repository."""
    commit: str
    """The commit that its revision stood for when the fetch began."""
    fetched_bytes: int
    """How much is in the store by now, with what was there before."""
    total_bytes: int
    """The size of all of its files."""


class ModelList(Listing[ModelObject]):
    """Models that can be started from or planned with, newest first."""
