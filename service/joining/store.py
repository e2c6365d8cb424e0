"""Queries about invitations."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.access_tables import Invitation


async def find(session: AsyncSession, token_sha256: str) -> Invitation | None:
    """The invitation of a token."""
    query = select(Invitation).where(Invitation.token_sha256 == token_sha256)
    return (await session.execute(query)).scalar_one_or_none()


async def lock(session: AsyncSession, invitation_id: str) -> Invitation | None:
    """The invitation's row, locked: two that join with one token come one after the other."""
    query = select(Invitation).where(Invitation.id == invitation_id).with_for_update()
    return (await session.execute(query.execution_options(populate_existing=True))).scalar_one_or_none()


async def every(session: AsyncSession) -> list[Invitation]:
    """Newest first."""
    return list((await session.execute(select(Invitation).order_by(Invitation.id.desc()))).scalars())
