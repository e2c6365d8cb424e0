"""Why a job waits: kept on its row, and told once per distinct reason in its history."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.database.tables import Job


def note_reason(session: AsyncSession, job: Job, reason: str | None) -> bool:
    """Store why no worker can take the job now; None when one can. The row is locked. Returns whether that is news."""
    if job.waiting_reason == reason:
        return False
    job.waiting_reason = reason
    if reason is not None:
        events.append(session, job, f"Waiting: {reason}", level="warn")
    return True
