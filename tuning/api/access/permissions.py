"""Permissions: which other projects may ask a checkpoint."""

from typing import Literal

from tunesmith.tuning.api.lists import Named, Page


class PermissionObject(Named):
    """That a project may ask one checkpoint of another project."""

    id: str
    """Its identifier, `cp-...`."""
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    """Always `checkpoint.permission`."""
    created_at: int
    """When it was given, in Unix seconds."""
    project_id: str
    """The project that may ask."""


class PermissionPage(Page[PermissionObject]):
    """Permissions of one checkpoint."""
