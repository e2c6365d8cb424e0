"""Keys as administrators see them."""

from typing import Literal

from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.api.lists import Listing


class KeyObject(Answer):
    """A key, without what opens doors."""

    id: str
    """Its identifier, `key-...`."""
    object: Literal["tunesmith.key", "tunesmith.new_key"] = "tunesmith.key"
    """Always `tunesmith.key`, or `tunesmith.new_key` where the key itself is in the answer."""
    name: str
    """Who or what uses it."""
    role: str
    """`admin`, `member`, `reader` or `worker`."""
    project: str
    """The project whose objects it sees."""
    hint: str
    """Its last four characters."""
    status: str
    """`valid`, `expired` or `revoked`."""
    created_at: int
    """When it was made, in Unix seconds."""
    last_used_at: int | None
    """When it was used last, to the minute, in Unix seconds; null if it never was."""
    expires_at: int | None
    """When it opens nothing more, in Unix seconds; null if it has no end."""
    revoked_at: int | None
    """When it was revoked, in Unix seconds; null if it was not."""


class NewKeyObject(KeyObject):
    """A key that was made just now: the only answer that has the key itself."""

    key: str
    """What to send as `Authorization: Bearer KEY`."""


class KeyList(Listing[KeyObject]):
    """All keys, newest first."""
