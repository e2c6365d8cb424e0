"""Locks on names rather than rows, for what has no row yet. They are held until the transaction ends."""

from collections.abc import Collection

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

# In one order for everybody, so that no two transactions wait for one another.
_LOCK = text(
    "SELECT pg_advisory_xact_lock(lock) FROM ("
    "SELECT DISTINCT hashtextextended(name, 0) AS lock FROM unnest(CAST(:names AS text[])) AS name ORDER BY lock"
    ") AS locks"
)


async def lock_names(session: AsyncSession, names: Collection[str]) -> None:
    """Wait until no other transaction holds any of these names."""
    await session.execute(_LOCK, {"names": list(names)})
