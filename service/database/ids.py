"""Identifiers: a prefix that tells the kind, then a UUIDv7, so that ids sort by the time they were made."""

from uuid_utils import uuid7


def new_id(prefix: str) -> str:
    """Return for example `ftjob-0192f3...`, 32 hexadecimal digits after the prefix."""
    return f"{prefix}-{uuid7().hex}"
