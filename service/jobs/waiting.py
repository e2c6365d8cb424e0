"""Why a job waits: kept on its row, and told once per distinct reason in its history."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.database.tables import Event, Job


def note_reason(session: AsyncSession, job: Job, reason: str | None) -> bool:
    """Store why no worker can take the job now; None when one can. The row is locked. Returns whether that is news."""
    if job.waiting_reason == reason:
        return False
    job.waiting_reason = reason
    session.add_all(told(job))
    return True


def told(job: Job) -> list[Event]:
    """What the history is told about why the job waits now."""
    return [events.new(job, f"Waiting: {job.waiting_reason}", level="warn")] if job.waiting_reason else []
