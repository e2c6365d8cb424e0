"""The only place that changes a job's state, by the transition table of `tuning.state`."""

from datetime import datetime

from tunesmith.service.database.tables import Job
from tunesmith.tuning.errors import InvalidTransition
from tunesmith.tuning.state import FINAL_STATES, TRANSITIONS, JobState, JobTransition


def apply_transition(job: Job, transition: JobTransition, *, at: datetime) -> None:
    """Follow one edge of the table. `at` is the database's clock.

    Raises:
        InvalidTransition: the table has no such edge.
    """
    state = TRANSITIONS.get((JobState(job.state), transition))
    if state is None:
        raise InvalidTransition(state=job.state, transition=transition)
    if state is JobState.QUEUED:
        job.queued_at = job.queued_at or at
    if state is JobState.RUNNING:
        job.started_at = job.started_at or at
    else:
        job.estimated_finish_at = None
        job.eta_seconds = None
    if state in FINAL_STATES:
        job.finished_at = at
        job.waiting_reason = None
    job.state = state
