"""Invitations: how another machine becomes a worker."""

from typing import Literal

from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.api.lists import Listing


class InvitationObject(Answer):
    """An invitation, without its token."""

    id: str
    """Its identifier, `invite-...`."""
    object: Literal["tunesmith.invitation", "tunesmith.new_invitation"] = "tunesmith.invitation"
    """Always `tunesmith.invitation`, or `tunesmith.new_invitation` where the token is in the answer."""
    name: str | None
    """What the worker shall be called; null leaves it to the machine."""
    status: str
    """`open`, `used` or `expired`."""
    created_at: int
    """When it was made, in Unix seconds."""
    expires_at: int
    """Until when it can be used, in Unix seconds."""
    used_at: int | None
    """When a worker joined with it, in Unix seconds; null if none has."""
    key_id: str | None
    """The key that the worker has from it; null if none has joined."""


class NewInvitation(InvitationObject):
    """An invitation that was made just now: the only answer with the token, and all that a machine needs to join."""

    token: str
    """What lets one worker join, once."""
    url: str | None
    """Where workers reach the service; null where nobody has told the service its own address."""
    wheel: str
    """File name of the package that the service runs itself, under `/internal/package/`."""
    wheel_sha256: str
    """SHA-256 of that file in hexadecimal."""


class InvitationList(Listing[InvitationObject]):
    """All invitations, newest first."""
