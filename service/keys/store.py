"""Queries about API keys."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Row,
    SQLColumnExpression,
    Text,
    bindparam,
    exists,
    func,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tunesmith.service.database.tables import ApiKey
from tunesmith.tuning.words import KeyRole

_VALID = ApiKey.revoked_at.is_(None) & (func.coalesce(ApiKey.expires_at, text("'infinity'")) > func.now())
_USED_LATELY = func.coalesce(ApiKey.last_used_at, text("'-infinity'")) > func.now() - text("interval '1 minute'")
_LINEAGE = func.coalesce(ApiKey.lineage, ApiKey.id)
_FIND = select(
    ApiKey.key_sha256,
    ApiKey.id,
    ApiKey.name,
    ApiKey.project,
    ApiKey.role,
    _LINEAGE.label("lineage"),
    _USED_LATELY.label("is_used_lately"),
).where(ApiKey.key_sha256 == func.any(bindparam("hashes", type_=ARRAY(Text))), _VALID)
_FIND_ENDS = select(ApiKey.key_sha256, func.least(ApiKey.revoked_at, ApiKey.expires_at).label("ended_at")).where(
    ApiKey.key_sha256 == func.any(bindparam("hashes", type_=ARRAY(Text))), ~_VALID
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
_ADMIN_LOCK = 0x61646D696E  # whoever takes an admin's key away waits for others who do: one must be left


async def find(connection: AsyncConnection, hashes: Sequence[str]) -> Sequence[Row[str, str, str, str, str, str, bool]]:
    """`key_sha256`, `id`, `name`, `project`, `role`, `lineage` and `is_used_lately` of those keys that are valid."""
    return (await connection.execute(_FIND, {"hashes": list(hashes)})).all()


async def find_ends(connection: AsyncConnection, hashes: Sequence[str]) -> Sequence[Row[str, datetime]]:
    """`key_sha256`, and when the key was revoked or ran out, of those that are valid no more."""
    return (await connection.execute(_FIND_ENDS, {"hashes": list(hashes)})).all()


async def touch(connection: AsyncConnection, key_ids: Sequence[str]) -> None:
    """Remember that these keys were used, without ever waiting for another request that does the same."""
    await connection.execute(_TOUCH, {"key_ids": list(key_ids)})


async def every(session: AsyncSession, *, project: str | None = None) -> list[ApiKey]:
    """All keys, or those of a project, newest first."""
    query = select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id.desc())
    if project is not None:
        query = query.where(ApiKey.project == project)
    return list((await session.execute(query)).scalars())


async def lock(session: AsyncSession, key_id: str) -> ApiKey | None:
    """The key's row, locked."""
    query = select(ApiKey).where(ApiKey.id == key_id).with_for_update(key_share=True)
    return (await session.execute(query)).scalar_one_or_none()


async def has_lasting_admin(session: AsyncSession, *, but: str) -> bool:
    """Whether another valid admin's key has no end. Until the transaction ends nobody else asks."""
    await session.execute(select(func.pg_advisory_xact_lock(_ADMIN_LOCK)))
    lasting = (ApiKey.role == KeyRole.ADMIN, ApiKey.id != but, ApiKey.revoked_at.is_(None), ApiKey.expires_at.is_(None))
    return bool((await session.execute(select(exists().where(*lasting)))).scalar_one())


async def is_known(session: AsyncSession, key_sha256: str) -> bool:
    """Whether a key has this hash, valid or not."""
    return bool((await session.execute(select(exists().where(ApiKey.key_sha256 == key_sha256)))).scalar_one())


async def has_valid(session: AsyncSession, *, role: str) -> bool:
    """Whether any key of this role opens doors."""
    return bool((await session.execute(select(exists().where(ApiKey.role == role, _VALID)))).scalar_one())


def may_register(owner: SQLColumnExpression[str | None], lineage: str) -> ColumnElement[bool]:
    """Whether keys of `lineage` may register an id: it is theirs or nobody's, or no key of its owner opens doors."""
    owners = select(ApiKey.id).where(owner == _LINEAGE, _VALID).correlate_except(ApiKey)
    return owner.is_(None) | (owner == lineage) | ~exists(owners)
