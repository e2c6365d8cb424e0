"""What was done to keys, projects, workers and models."""

from typing import Literal

from tunesmith.tuning.api.lists import Named, Page
from tunesmith.tuning.values.json_objects import Json


class AuditObject(Named):
    """One thing that somebody did."""

    object: Literal["tunesmith.audit_entry"] = "tunesmith.audit_entry"
    """Always `tunesmith.audit_entry`."""
    at: int
    """When, in Unix seconds."""
    actor: str
    """Name of the key that did it, or `tunesmith-service` for the command on the service's host."""
    key_id: str | None
    """Id of that key; null for the command."""
    action: str
    """What was done, such as `key.revoked`."""
    subject: str
    """What it was done to."""
    details: Json
    """More about it. Never a secret."""


class AuditPage(Page[AuditObject]):
    """Newest first."""
