"""In whose name a schedule acts."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import ApiKey, Schedule
from tunesmith.service.database.transactions import now
from tunesmith.service.web.auth import Caller
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Forbidden


async def owner_of(session: AsyncSession, schedule: Schedule) -> Caller:
    """Whoever made or replaced the schedule, with the role that the key has.

    Raises:
        Forbidden: the key was revoked or has expired.
    """
    key = await session.get_one(ApiKey, schedule.api_key_id)
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= await now(session)):
        ended = "has expired" if key.revoked_at is None else "was revoked"
        raise Forbidden(
            f"The key {key.name!r}, in whose name {schedule.name} makes jobs, {ended}.",
            code=ErrorCode.OWNER_KEY_REVOKED,
            hint="Replace the schedule with another key: PUT /v1/schedules/{schedule}.",
        )
    return Caller(key_id=key.id, project=schedule.project, role=key.role, name=key.name, lineage=key.lineage or key.id)
