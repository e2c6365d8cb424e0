"""Queries about idempotency keys. One whose time is over counts as if it were not there."""

from datetime import timedelta

from sqlalchemy import ColumnElement, delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import IdempotencyKey

_LIFETIME = timedelta(hours=24)


async def add(session: AsyncSession, key: str, *, project: str, request_sha256: str, job_id: str) -> bool:
    """Store the key for this job unless there is one; whether it was stored. Waits for a copy that is in flight."""
    await _delete_expired(session, IdempotencyKey.project == project, IdempotencyKey.key == key)
    row = insert(IdempotencyKey).values(
        project=project, key=key, request_sha256=request_sha256, job_id=job_id, expires_at=func.now() + _LIFETIME
    )
    inserted = await session.execute(row.on_conflict_do_nothing().returning(IdempotencyKey.job_id))
    return inserted.scalar_one_or_none() is not None


async def get(session: AsyncSession, key: str, *, project: str) -> IdempotencyKey:
    """The key, which exists."""
    return await session.get_one(IdempotencyKey, (project, key))


async def prune(session: AsyncSession) -> None:
    """Forget every key whose time is over."""
    await _delete_expired(session)


async def _delete_expired(session: AsyncSession, *among: ColumnElement[bool]) -> None:
    expired = delete(IdempotencyKey).where(IdempotencyKey.expires_at < func.now(), *among)
    await session.execute(expired.execution_options(synchronize_session=False))
