"""The body of an invitation."""

from pydantic import ConfigDict, Field

from tunesmith.tuning.values.base import Value


class InvitationCreate(Value):
    """A machine to invite."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "gpu-1"}]})

    name: str | None = Field(default=None, min_length=1, max_length=100)
    """What the worker shall be called; null leaves it to the machine."""
    expires_in_seconds: int = Field(default=3600, ge=60, le=30 * 86400)
    """For so long it can join."""
