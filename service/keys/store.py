"""Queries about API keys."""

import re
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ARRAY, Row, Text, bindparam, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import ApiKey
from tunesmith.service.keys.secrets import KEY_PREFIX, new_secret
from tunesmith.tuning.errors import InvalidRequest, NotFound
from tunesmith.tuning.values.hashes import sha256_of_text

_PROJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_USED_LATELY = func.coalesce(ApiKey.last_used_at, text("'-infinity'")) > func.now() - text("interval '1 minute'")
_FIND = select(ApiKey.key_sha256, ApiKey.id, ApiKey.project, ApiKey.role, _USED_LATELY.label("is_used_lately")).where(
    ApiKey.key_sha256 == func.any(bindparam("hashes", type_=ARRAY(Text))), ApiKey.revoked_at.is_(None)
)
_TOUCH = (
    update(ApiKey)
    .where(
        ApiKey.id.in_(
            select(ApiKey.id)
            .where(ApiKey.id == func.any(bindparam("key_ids", type_=ARRAY(Text))), ~_USED_LATELY)
            .with_for_update(skip_locked=True, key_share=True)
        )
    )
    .values(last_used_at=func.now())
)


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


async def find(connection: AsyncConnection, hashes: Sequence[str]) -> Sequence[Row[str, str, str, str, bool]]:
    """`key_sha256`, `id`, `project`, `role` and `is_used_lately` of those keys that have not been revoked."""
    return (await connection.execute(_FIND, {"hashes": list(hashes)})).all()


async def touch(connection: AsyncConnection, key_ids: Sequence[str]) -> None:
    """Remember that these keys were used, without ever waiting for another request that does the same."""
    await connection.execute(_TOUCH, {"key_ids": list(key_ids)})


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
