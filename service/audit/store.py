"""Queries about what was done."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.audit.actions import Action, Actor
from tunesmith.service.database.access_tables import AuditEntry


def record(session: AsyncSession, actor: Actor, action: Action, subject: str, **details: Any) -> None:
    """Put an action on record, in the transaction that carries it out. Never give it a secret."""
    row = AuditEntry(key_id=actor.key_id, actor=actor.name, action=action, subject=subject, details=details)
    session.add(row)


async def page(session: AsyncSession, *, before: int | None, limit: int) -> list[AuditEntry]:
    """Newest first, behind the entry of this number."""
    query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    if before is not None:
        query = query.where(AuditEntry.id < before)
    return list((await session.execute(query)).scalars())
