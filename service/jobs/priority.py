"""How far ahead of others a job may be put, and by whom."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.database.tables import Job
from tunesmith.service.jobs import store
from tunesmith.service.web.auth import Caller
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Forbidden, InvalidTransition
from tunesmith.tuning.state import FINAL_STATES

MEMBER_PRIORITY = 10  # up or down; each step is worth half an hour of waiting


def check_priority(priority: int, *, role: str, param: str) -> None:
    """Refuse what takes an admin.

    Raises:
        Forbidden: a member asks for more than members may.
    """
    if role != "admin" and abs(priority) > MEMBER_PRIORITY:
        raise Forbidden(
            f"A key of role {role!r} may give a priority from -{MEMBER_PRIORITY} to {MEMBER_PRIORITY}, not {priority}.",
            code=ErrorCode.PRIORITY_TOO_HIGH,
            param=param,
            hint="Choose one within these limits, or ask an admin.",
        )


def within_limits(priority: int, *, role: str) -> int:
    """The nearest priority that this role may give."""
    return priority if role == "admin" else max(-MEMBER_PRIORITY, min(priority, MEMBER_PRIORITY))


async def change_priority(session: AsyncSession, job_id: str, priority: int, *, caller: Caller) -> Job:
    """Move a job that has not ended in the line; asking twice is harmless.

    Raises:
        NotFound: no such job here.
        Forbidden: the priority takes an admin, or an admin gave the one that it has.
        InvalidTransition: the job has ended.
    """
    check_priority(priority, role=caller.role, param="priority")
    job = await store.find(session, job_id, project=caller.project, lock=True)
    if job.state in FINAL_STATES:
        raise InvalidTransition(state=job.state, transition="change its priority")
    check_priority(job.priority, role=caller.role, param="priority")
    if job.priority != priority:
        events.append(session, job, f"Priority changed from {job.priority} to {priority}")
        job.priority = priority
        await session.flush()
    return job
