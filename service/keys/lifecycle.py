"""A key from its making to its end. Each step stands in the audit log of the same transaction."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.audit import store as audit
from tunesmith.service.audit.actions import Action, Actor
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import ApiKey
from tunesmith.service.database.transactions import now
from tunesmith.service.keys import store
from tunesmith.service.keys.secrets import KEY_PREFIX, new_secret
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, NotFound
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.tuning.words import KeyRole

LONGEST_NAME = 100
_PROJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class NewKey:
    """A key as it is shown once; the row has its hash alone."""

    row: ApiKey
    key: str


def check_project(project: str) -> str:
    """The same name.

    Raises:
        InvalidRequest: it has characters that a model's name could not carry.
    """
    if not _PROJECT.fullmatch(project):
        raise InvalidRequest(f"A project is 1 to 40 of a-z, 0-9 and '-', not {project!r:.60}.", param="project")
    return project


async def create(
    session: AsyncSession, *, name: str, role: str, project: str, actor: Actor, lifetime: timedelta | None = None
) -> NewKey:
    """Make and store a key.

    Raises:
        InvalidRequest: the project's name cannot be one.
    """
    key = new_secret(KEY_PREFIX)
    row = await add(session, name=name, role=role, project=project, key_sha256=sha256_of_text(key), hint=key[-4:])
    if lifetime is not None:
        row.expires_at = await now(session) + lifetime
    audit.record(session, actor, Action.KEY_CREATED, row.id, name=name, role=role, project=project)
    return NewKey(row, key)


async def add(session: AsyncSession, *, name: str, role: str, project: str, key_sha256: str, hint: str) -> ApiKey:
    """Store a key that somebody made, of which this service gets the hash.

    Raises:
        InvalidRequest: the project's name cannot be one, or there is a key with this hash.
    """
    if await store.is_known(session, key_sha256):
        raise InvalidRequest("There is a key with this hash already.", param="key_sha256", hint="Make another key.")
    row = ApiKey(
        id=new_id("key"), name=name, role=role, project=check_project(project), key_sha256=key_sha256, hint=hint
    )
    session.add(row)
    await session.flush()
    return row


async def rotate(session: AsyncSession, key_id: str, *, overlap: timedelta, actor: Actor) -> NewKey:
    """A new key in the place of one that goes on for `overlap`, or to its own end if that is sooner.

    Raises:
        NotFound: no such key.
        InvalidRequest: it opens nothing any more.
    """
    old = await _find_valid(session, key_id)
    key = new_secret(KEY_PREFIX)
    row = await add(
        session, name=old.name, role=old.role, project=old.project, key_sha256=sha256_of_text(key), hint=key[-4:]
    )
    row.expires_at = old.expires_at
    row.lineage = old.lineage or old.id
    until = await now(session) + overlap
    old.expires_at = min(old.expires_at, until) if old.expires_at else until
    audit.record(
        session, actor, Action.KEY_ROTATED, old.id, new_key=row.id, overlap_seconds=round(overlap.total_seconds())
    )
    return NewKey(row, key)


async def set_expiry(session: AsyncSession, key_id: str, *, lifetime: timedelta | None, actor: Actor) -> ApiKey:
    """Let a key end after `lifetime` from now, or never.

    Raises:
        NotFound: no such key.
        InvalidRequest: it opens nothing any more, or it is the last admin's key without an end.
    """
    key = await _find_valid(session, key_id)
    if lifetime is not None:
        await _leave_an_admin(session, key)
    key.expires_at = None if lifetime is None else await now(session) + lifetime
    audit.record(session, actor, Action.KEY_EXPIRY_SET, key.id, expires_at=_text(key.expires_at))
    return key


async def revoke(session: AsyncSession, key_id: str, *, actor: Actor) -> ApiKey:
    """From the next request on, the key opens nothing. Saying so twice is harmless.

    Raises:
        NotFound: no such key.
        InvalidRequest: it is the last admin's key without an end.
    """
    key = await _find(session, key_id)
    if key.revoked_at is None:
        await _leave_an_admin(session, key)
        key.revoked_at = await now(session)
        audit.record(session, actor, Action.KEY_REVOKED, key.id, name=key.name)
    return key


def status_of(key: ApiKey, *, at: datetime) -> str:
    """`valid`, `expired` or `revoked`."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= at else "valid"


async def _find(session: AsyncSession, key_id: str) -> ApiKey:
    key = await store.lock(session, key_id)
    if key is None:
        raise NotFound(f"No key {key_id!r:.120}.", code=ErrorCode.KEY_NOT_FOUND, param="key_id")
    return key


async def _find_valid(session: AsyncSession, key_id: str) -> ApiKey:
    key = await _find(session, key_id)
    status = status_of(key, at=await now(session))
    if status != "valid":
        message = f"The key {key_id} is {status}."
        raise InvalidRequest(message, code=ErrorCode.KEY_HAS_ENDED, param="key_id", hint="Create a new one.")
    return key


async def _leave_an_admin(session: AsyncSession, key: ApiKey) -> None:
    if key.role == KeyRole.ADMIN and not await store.has_lasting_admin(session, but=key.id):
        raise InvalidRequest(
            "This is the last admin's key without an end: without it nobody could make another.",
            code=ErrorCode.LAST_ADMIN_KEY,
            param="key_id",
            hint="Create or rotate to another admin's key first.",
        )


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
