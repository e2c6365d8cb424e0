"""Bodies of the routes about keys and projects."""

from typing import Annotated

from pydantic import ConfigDict, Field

from tunesmith.service.keys.lifecycle import LONGEST_NAME
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.words import KeyRole

_LONGEST_SECONDS = 10 * 365 * 86400
Lifetime = Annotated[int, Field(ge=1, le=_LONGEST_SECONDS)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class KeyCreate(Value):
    """A key to make."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "nightly", "project": "research"}]})

    name: str = Field(min_length=1, max_length=LONGEST_NAME)
    """Who or what will use it."""
    role: KeyRole = KeyRole.MEMBER
    """What it may do."""
    project: str = "default"
    """The project whose objects it sees."""
    expires_in_seconds: Lifetime | None = None
    """When it opens nothing more; null for a key without an end."""


class KeyRotation(Value):
    """A key to put in another's place."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap_seconds": 3600}]})

    overlap_seconds: int = Field(default=86400, ge=0, le=90 * 86400)
    """For so long both are valid."""


class KeyExpiry(Value):
    """When a key shall end."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"expires_in_seconds": 86400}]})

    expires_in_seconds: Lifetime | None
    """Counted from now; null lets it have no end."""


class ProjectChange(Value):
    """Limits to set. What is left out stays as it is; null gives a limit back to the service's settings."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"running_jobs": 4, "gpu_hours_per_month": 200}]})

    running_jobs: Count | None = None
    """Jobs that may run at a time."""
    queued_jobs: Count | None = None
    """Jobs that may stand in line."""
    stored_bytes: Count | None = None
    """Bytes of files, checkpoints and results."""
    gpu_hours_per_month: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    """GPU hours of a calendar month in UTC."""
