"""The start of every job, whatever asked for it: machines that could take it, its first events and its wake-up."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.database.tables import Event, Job, Model
from tunesmith.service.database.transactions import once
from tunesmith.service.jobs import store
from tunesmith.service.jobs.transitions import apply_transition
from tunesmith.service.jobs.waiting import told
from tunesmith.service.outbox import store as outbox
from tunesmith.service.planning import fit as machines
from tunesmith.service.workers import store as workers
from tunesmith.tuning.errors import DoesNotFit
from tunesmith.tuning.state import JobTransition

_KNOWN_FOR = timedelta(days=7)  # a class of machine that was here this recently may come back


@dataclass(frozen=True)
class Start:
    """A new job that is in line already, its first events, and the classes of worker to wake: nothing is stored yet."""

    job: Job
    history: Sequence[Event]
    wake: Sequence[str]


async def find_machines(
    session: AsyncSession, wanted: machines.PlanningQuery, *, silence: timedelta
) -> machines.MachineFit:
    """Which live machines could take the job, or why it waits.

    Raises:
        DoesNotFit: nothing about the way to train is left to us, and no machine known here could ever do it.
    """
    live = await once(session, "live machines", lambda: _live(session, silence=silence))
    fit = machines.find_fit(wanted, live)
    if fit.classes or (wanted.spec.method == "auto" and wanted.pinned is None):
        return fit
    known = [machines.emptied(worker) for worker in await workers.find_known(session, within=_KNOWN_FOR)]
    if known and not (best := machines.find_fit(wanted, known)).classes:
        hint = "Let the method be 'auto', or connect a worker with more memory first."
        raise DoesNotFit(f"No worker known here could do this. {best.reason}", param="tunesmith.method", hint=hint)
    return fit


def start(
    job: Job,
    *,
    model: Model,
    fit: machines.MachineFit,
    at: datetime,
    before: Sequence[Event] = (),
    warnings: Sequence[str] = (),
) -> Start:
    """Put a new job into the line. It has told `before` of itself; `warnings` are about its files."""
    history = [
        *before,
        events.new(job, f"Created {events.noun(job).lower()}: {job.id}", data={"model": model.name}),
        events.new(job, f"Validating training file: {job.training_file}"),
        events.new(job, "Files validated, moving job to queued state"),
        *(events.new(job, warning, level="warn") for warning in warnings),
    ]
    job.waiting_reason = fit.reason
    history += told(job)
    apply_transition(job, JobTransition.FILES_VALID, at=at)
    return Start(job, history, wake=fit.classes)


async def record(session: AsyncSession, *starts: Start) -> list[Job]:
    """Store new jobs with their events and wake-ups; returns the jobs as they are stored."""
    if not starts:
        return []
    jobs = await store.add(session, [one.job for one in starts])
    await store.add_events(session, [event for one in starts for event in one.history])
    await outbox.wake_later(session, [worker_class for one in starts for worker_class in one.wake])
    return jobs


async def _live(session: AsyncSession, *, silence: timedelta) -> list[machines.Machine]:
    return [machines.current(worker) for worker in await workers.find_live(session, silence=silence)]
