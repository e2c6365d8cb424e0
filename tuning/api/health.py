"""Whether the service lives and what it needs is there."""

from typing import Literal

from tunesmith.tuning.api.base import Answer


class Health(Answer):
    """The process answers."""

    status: Literal["ok"] = "ok"
    """Always `ok`."""


class Readiness(Answer):
    """Whether jobs can be taken in and handed out."""

    status: Literal["ready", "not_ready"]
    """`not_ready` comes with status 503."""
    version: str
    """Of the process that answers, as the front page and `/openapi.json` say it."""
    checks: dict[str, str]
    """`database`, `store` and `broker`: `ok`, or what is wrong. Without its broker the service is ready too."""
    database_clock_ahead_seconds: float | None = None
    """How far the database's clock, by which leases end and jobs come due, is ahead of that of the service's host;
    less than 0 where it is behind, null where it could not be read."""
    store_free_bytes: int | None
    """Free space of the disk that holds the object store; null where that is no disk of the service's machine."""
