"""Queries about API keys."""

import re
from datetime import datetime

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import ApiKey
from tunesmith.service.keys.secrets import KEY_PREFIX, new_secret
from tunesmith.tuning.errors import InvalidRequest, NotFound
from tunesmith.tuning.values.hashes import sha256_of_text

_PROJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


async def create(session: AsyncSession, *, name: str, role: str, project: str) -> str:
    """Store a new key and return it; it is never shown again.

    Raises:
        InvalidRequest: the project's name has characters that a model's name could not carry.
    """
    if not _PROJECT.fullmatch(project):
        raise InvalidRequest(f"A project is 1 to 40 of a-z, 0-9 and '-', not {project!r}.", param="project")
    key = new_secret(KEY_PREFIX)
    session.add(
        ApiKey(id=new_id("key"), name=name, role=role, project=project, key_sha256=sha256_of_text(key), hint=key[-4:])
    )
    await session.flush()
    return key


async def find(session: AsyncSession, key: str) -> ApiKey | None:
    """The row of a key that has not been revoked."""
    query = select(ApiKey).where(ApiKey.key_sha256 == sha256_of_text(key), ApiKey.revoked_at.is_(None))
    return (await session.execute(query)).scalar_one_or_none()


async def touch(session: AsyncSession, key: ApiKey) -> None:
    """Remember that the key was used, once a minute, without ever waiting for another request that does the same."""
    stale = (
        select(ApiKey.id)
        .where(ApiKey.id == key.id, func.coalesce(ApiKey.last_used_at, text("'-infinity'")) < _a_minute_ago())
        .with_for_update(skip_locked=True, key_share=True)
    )
    await session.execute(update(ApiKey).where(ApiKey.id.in_(stale)).values(last_used_at=func.now()))


async def every(session: AsyncSession) -> list[ApiKey]:
    """All keys, newest first."""
    return list((await session.execute(select(ApiKey).order_by(ApiKey.id.desc()))).scalars())


async def revoke(session: AsyncSession, *, key_id: str, now: datetime) -> None:
    """From the next request on, the key opens nothing.

    Raises:
        NotFound: there is no such key.
    """
    key = await session.get(ApiKey, key_id)
    if key is None:
        raise NotFound(f"No key {key_id!r}.", param="id")
    key.revoked_at = key.revoked_at or now


def _a_minute_ago() -> object:
    return func.now() - text("interval '1 minute'")
