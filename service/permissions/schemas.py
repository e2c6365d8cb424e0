"""Bodies of the routes about permissions."""

from typing import Annotated

from pydantic import ConfigDict, Field

from tunesmith.tuning.values.base import Value


class PermissionsCreate(Value):
    """Which projects may ask a checkpoint."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"project_ids": ["research", "support"]}]})

    project_ids: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)]
    """Names of projects; one that has a permission already keeps it."""
