"""Follows one job to its end: polls, remembers what was told, and sits out a restart of the service."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tunesmith.cli.client import Client, ServiceError, Unreachable
from tunesmith.tuning.api.history import EventObject
from tunesmith.tuning.api.jobs import JobObject, JobWaiting
from tunesmith.tuning.api.metrics import MetricPoint
from tunesmith.tuning.state import FINAL_STATES, JobState

POLL_SECONDS = 1.0
_LINE_SECONDS = 10.0  # between looks at the line, which costs the service more than a look at the job


class View(Protocol):
    """Where a followed job is shown."""

    def job(self, job: JobObject) -> None:
        """The job as it is now; called on every poll."""

    def waiting(self, waiting: JobWaiting) -> None:
        """Who is ahead of a job in line and when it is expected to start; now and then, before `job`."""

    def event(self, event: EventObject) -> None:
        """One new line of its history."""

    def point(self, point: MetricPoint) -> None:
        """One new metric point."""

    def line(self, text: str) -> None:
        """Anything else worth a line."""

    def lost(self, reason: str) -> None:
        """The service stopped answering."""

    def found(self) -> None:
        """It answers again."""


@dataclass
class Followed:
    """What following knows: the job as last seen, its metric points, and the events that were shown."""

    job: JobObject
    points: list[MetricPoint] = field(default_factory=list)
    seen_events: set[str] = field(default_factory=set)
    is_finished: bool = False
    seen_place: int | None = None
    line_asked_at: float | None = None

    @property
    def last_step(self) -> int:
        """The newest step with a point, 0 before the first."""
        return self.points[-1].step if self.points else 0

    def keep(self, point: MetricPoint) -> bool:
        """Whether the point is news. The newest step is asked for again, since its validation loss may come later."""
        if self.points and self.points[-1].step == point.step:
            is_news = self.points[-1] != point
            self.points[-1] = point
            return is_news
        self.points.append(point)
        return True

    def wants_line(self, job: JobObject, *, now: float) -> bool:
        """Whether it is time to ask about the line: its place has changed, or some seconds have passed."""
        if job.status != JobState.QUEUED:
            return False
        if self.line_asked_at is None or job.tunesmith.queue_position != self.seen_place:
            return True
        return now - self.line_asked_at >= _LINE_SECONDS


def follow(
    client: Client,
    job_id: str,
    *,
    view: View,
    timeout_seconds: float | None = None,
    patience_seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Followed:
    """Show the job until it ends or the time is up; `is_finished` tells which.

    A service that does not answer is waited for, for `patience_seconds` at a time if they are given: else only the
    timeout or a final answer (404, 401) ends it.
    """
    deadline = None if timeout_seconds is None else clock() + timeout_seconds
    followed = Followed(job=client.job(job_id))
    lost_at: float | None = None
    while True:
        try:
            _advance(client, job_id, followed, view, now=clock())
            if lost_at is not None:
                view.found()
            lost_at = None
        except (Unreachable, ServiceError) as error:
            if not _may_pass(error):
                raise
            if lost_at is None:
                view.lost(error.message)
                lost_at = clock()
            if patience_seconds is not None and clock() - lost_at >= patience_seconds:
                raise
        if followed.is_finished or (deadline is not None and clock() >= deadline):
            return followed
        sleep(POLL_SECONDS)


def _advance(client: Client, job_id: str, followed: Followed, view: View, *, now: float) -> None:
    # The job first: what is read after it is at least as new, so a finished job's last events are never missed.
    job = client.job(job_id)
    for event in client.events_since(job_id, seen=frozenset(followed.seen_events)):
        followed.seen_events.add(event.id)
        view.event(event)
    after_step = followed.last_step - 1 if followed.last_step else None
    for point in client.metrics(job_id, after_step=after_step):
        if followed.keep(point):
            view.point(point)
    if followed.wants_line(job, now=now):
        followed.line_asked_at, followed.seen_place = now, job.tunesmith.queue_position
        view.waiting(client.waiting(job_id))
    followed.job = job
    view.job(job)
    followed.is_finished = job.status in FINAL_STATES


def _may_pass(error: Unreachable | ServiceError) -> bool:
    return isinstance(error, Unreachable) or error.http_status == 429 or error.http_status >= 500
