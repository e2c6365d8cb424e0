"""Who acts, and what can be done that stays on record."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Action(StrEnum):
    """What somebody did, as the audit log names it."""

    KEY_CREATED = "key.created"
    KEY_ROTATED = "key.rotated"
    KEY_EXPIRY_SET = "key.expiry_set"
    KEY_REVOKED = "key.revoked"
    PROJECT_LIMITS_SET = "project.limits_set"
    WORKER_INVITED = "worker.invited"
    INVITATION_WITHDRAWN = "invitation.withdrawn"
    WORKER_JOINED = "worker.joined"
    WORKER_TRUSTED = "worker.trusted"
    CHECKPOINT_SHARED = "checkpoint.shared"
    CHECKPOINT_UNSHARED = "checkpoint.unshared"
    MODEL_REGISTERED = "model.registered"
    MODEL_FETCHED = "model.fetched"
    MODEL_DELETED = "model.deleted"


@dataclass(frozen=True)
class Actor:
    """Who acts: a key with its name, or somebody at the service's own command."""

    key_id: str | None
    name: str


OPERATOR: Final = Actor(None, "tunesmith-service")
