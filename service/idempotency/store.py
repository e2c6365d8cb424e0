"""Queries about idempotency keys. One whose time is over counts as if it were not there."""

from datetime import timedelta
from typing import cast

from sqlalchemy import Table, bindparam, delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import IdempotencyKey

_LIFETIME = timedelta(hours=24)

_NEW = insert(cast(Table, IdempotencyKey.__table__)).values(
    project=bindparam("project"),
    key=bindparam("key"),
    request_sha256=bindparam("request_sha256"),
    job_id=bindparam("job_id"),
    expires_at=func.now() + _LIFETIME,
)
_ADD = _NEW.on_conflict_do_update(
    index_elements=["project", "key"],
    set_={
        "request_sha256": _NEW.excluded.request_sha256,
        "job_id": _NEW.excluded.job_id,
        "created_at": func.now(),
        "expires_at": _NEW.excluded.expires_at,
    },
    where=IdempotencyKey.expires_at < func.now(),
).returning(IdempotencyKey.job_id)


async def add(session: AsyncSession, key: str, *, project: str, request_sha256: str, job_id: str) -> bool:
    """Store the key for this job unless there is one; whether it was stored. Waits for a copy that is in flight."""
    values = {"project": project, "key": key, "request_sha256": request_sha256, "job_id": job_id}
    return (await session.execute(_ADD, values)).scalar_one_or_none() is not None


async def get(session: AsyncSession, key: str, *, project: str) -> IdempotencyKey:
    """The key, which exists."""
    return await session.get_one(IdempotencyKey, (project, key))


async def prune(session: AsyncSession) -> None:
    """Forget every key whose time is over."""
    expired = delete(IdempotencyKey).where(IdempotencyKey.expires_at < func.now())
    await session.execute(expired.execution_options(synchronize_session=False))
