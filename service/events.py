"""The one way a line is added to a job's history, and how a line is shown."""

from typing import Any, Literal

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.jsonb_safe import storable
from tunesmith.service.database.tables import Event, Job
from tunesmith.tuning.api.history import EventObject
from tunesmith.tuning.words import JobKind

Level = Literal["info", "warn", "error"]
Kind = Literal["message", "metrics"]


_NOUNS = {JobKind.TRAINING: "Fine-tuning job", JobKind.EVALUATION: "Evaluation"}


def noun(job: Job) -> str:
    """What a job's history calls it at the beginning of a line."""
    return _NOUNS[JobKind(job.kind or JobKind.TRAINING)]


def append(
    session: AsyncSession,
    job: Job,
    message: str,
    *,
    level: Level = "info",
    kind: Kind = "message",
    data: dict[str, Any] | None = None,
) -> None:
    """Add an event. The caller holds the lock on the job's row, so its counter has no gaps and no repeats."""
    session.add(new(job, message, level=level, kind=kind, data=data))


def new(
    job: Job, message: str, *, level: Level = "info", kind: Kind = "message", data: dict[str, Any] | None = None
) -> Event:
    """The next event of a job; whoever makes it stores it in the same transaction."""
    job.event_seq += 1
    return Event(
        job_id=job.id, seq=job.event_seq, type=kind, level=level, message=storable(message), data=storable(data)
    )


def event_id(event: Event | Row[Any]) -> str:
    """Derived, not stored: the job and the place in its history."""
    return f"ftevent-{event.job_id.removeprefix('ftjob-')}-{event.seq}"


def event_object(event: Event | Row[Any]) -> EventObject:
    """The API's event."""
    return EventObject(
        id=event_id(event),
        created_at=int(event.created_at.timestamp()),
        level=event.level,
        message=event.message,
        type=event.type,
        data=event.data,
    )
