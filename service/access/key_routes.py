"""`/v1/keys`: an admin makes, lists, rotates, ends and revokes keys."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from tunesmith.service.access.schemas import KeyCreate, KeyExpiry, KeyRotation
from tunesmith.service.database.tables import ApiKey
from tunesmith.service.database.transactions import now
from tunesmith.service.keys import lifecycle, store
from tunesmith.service.keys.lifecycle import NewKey
from tunesmith.service.web.auth import AdminKey
from tunesmith.service.web.bodies import documented, json_body
from tunesmith.service.web.dependencies import DbSession
from tunesmith.tuning.api.access.keys import KeyList, KeyObject, NewKeyObject

router = APIRouter(prefix="/v1/keys", tags=["keys and projects"])

KeyId = Annotated[str, Path(description="The key's id, `key-...`.")]


@router.post("", openapi_extra=documented(KeyCreate))
async def create_key(
    caller: AdminKey, request: Annotated[KeyCreate, json_body(KeyCreate)], session: DbSession
) -> NewKeyObject:
    """Make a key. The answer has it, and nothing shows it again. Admins only."""
    made = await lifecycle.create(
        session,
        name=request.name,
        role=request.role.value,
        project=request.project,
        actor=caller.actor,
        lifetime=_lifetime(request.expires_in_seconds),
    )
    return _new_key_object(made, at=await now(session))


@router.get("")
async def list_keys(
    _caller: AdminKey,
    session: DbSession,
    project: Annotated[str | None, Query(description="Only keys of this project.")] = None,
) -> KeyList:
    """All keys, newest first, without what opens doors. Admins only."""
    at = await now(session)
    return KeyList(data=[_key_object(key, at=at) for key in await store.every(session, project=project)])


@router.post("/{key_id}/rotate", openapi_extra=documented(KeyRotation))
async def rotate_key(
    key_id: KeyId, caller: AdminKey, request: Annotated[KeyRotation, json_body(KeyRotation)], session: DbSession
) -> NewKeyObject:
    """Make a key in the place of this one, which goes on for a while, a day unless told otherwise. Admins only."""
    overlap = timedelta(seconds=request.overlap_seconds)
    made = await lifecycle.rotate(session, key_id, overlap=overlap, actor=caller.actor)
    return _new_key_object(made, at=await now(session))


@router.post("/{key_id}/expiry", openapi_extra=documented(KeyExpiry))
async def set_key_expiry(
    key_id: KeyId, caller: AdminKey, request: Annotated[KeyExpiry, json_body(KeyExpiry)], session: DbSession
) -> KeyObject:
    """Say when a key shall end. Admins only."""
    lifetime = _lifetime(request.expires_in_seconds)
    key = await lifecycle.set_expiry(session, key_id, lifetime=lifetime, actor=caller.actor)
    return _key_object(key, at=await now(session))


@router.delete("/{key_id}")
async def revoke_key(key_id: KeyId, caller: AdminKey, session: DbSession) -> KeyObject:
    """Revoke a key: it opens nothing from now on, in other processes of the API after five seconds. Admins only."""
    key = await lifecycle.revoke(session, key_id, actor=caller.actor)
    return _key_object(key, at=await now(session))


def _lifetime(seconds: int | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _key_object(key: ApiKey, *, at: datetime) -> KeyObject:
    return KeyObject(**_facts(key, at=at))


def _new_key_object(made: NewKey, *, at: datetime) -> NewKeyObject:
    return NewKeyObject(**_facts(made.row, at=at) | {"object": "tunesmith.new_key"}, key=made.key)


def _facts(key: ApiKey, *, at: datetime) -> dict[str, Any]:
    moments = ("created_at", "last_used_at", "expires_at", "revoked_at")
    words = {name: getattr(key, name) for name in ("id", "name", "role", "project", "hint")}
    times = {name: _seconds(getattr(key, name)) for name in moments}
    return words | times | {"status": lifecycle.status_of(key, at=at)}


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
