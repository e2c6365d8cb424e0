"""What all who wait have around them: workers, what those run, and projects that may start no more."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.projects.limits import Allowances, allowances
from tunesmith.service.queue import store
from tunesmith.service.queue.store import Running
from tunesmith.service.settings import Settings
from tunesmith.service.workers import store as workers
from tunesmith.tuning.values.units import plural

_MOST_NAMED = 2  # jobs


class InLine(Protocol):
    """A queued job, as much of it as a sentence needs."""

    @property
    def project(self) -> str:
        """Whose it is."""

    @property
    def not_before(self) -> datetime:
        """Till when it pauses before its next attempt."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a job that waits: its place, from 1, and what it waits for."""

    place: int
    waits_for: str


@dataclass(frozen=True)
class Surroundings:
    """At one moment. `slots` by worker class are those of live workers that take jobs."""

    slots: Mapping[str, int]
    running: Sequence[Running]
    allowed: Allowances
    _of_projects: dict[str, tuple[str, bool]] = field(default_factory=dict, repr=False, compare=False)

    def waits_for(self, job: InLine, *, place: int, at: datetime) -> str:
        """In plain words. Of jobs of other projects only their number is told."""
        if job.not_before > at:
            return f"An attempt has ended; the next one is made at {job.not_before:%Y-%m-%d %H:%M:%S} UTC."
        reason, is_in_turn = self._of_project(job.project)
        return f"{reason}; {_ahead(place - 1)}." if is_in_turn else reason

    def _of_project(self, project: str) -> tuple[str, bool]:
        """What every job of the project waits for, and whether that is its turn."""
        if project not in self._of_projects:
            self._of_projects[project] = self._reason(project)
        return self._of_projects[project]

    def _reason(self, project: str) -> tuple[str, bool]:
        own = sum(running.project == project for running in self.running)
        if self.allowed.of(project).is_full(own):
            return f"The project {project!r} runs {plural(own, 'job')}, the most that it may at a time.", False
        if self.allowed.is_full(project, own):
            return f"The project {project!r} has used the GPU hours that it may this month.", False
        if not self.slots:
            return "No worker is connected. The job starts as soon as one is.", False
        return self._on_workers(project), True

    def _on_workers(self, project: str) -> str:
        busy = Counter(running.worker_class for running in self.running)
        classes = [self._on_class(name, busy=busy[name], project=project) for name in sorted(self.slots)]
        is_full = all(busy[name] >= slots for name, slots in self.slots.items())
        return f"{'Waits for a free worker' if is_full else 'Waits for a worker to take it'}: {', '.join(classes)}"

    def _on_class(self, name: str, *, busy: int, project: str) -> str:
        slots = max(self.slots[name], busy)
        if not busy:
            return f"{slots} of class {name} {'is' if slots == 1 else 'are'} idle"
        running = [run for run in self.running if run.worker_class == name]
        own = [run.job_id for run in running if run.project == project][:_MOST_NAMED]
        others = len(running) - len(own)
        jobs = [
            *own,
            *([f"{others} other{'s' if others > 1 else ''}" if own else plural(others, "job")] if others else []),
        ]
        return f"{busy} of {slots} of class {name} {'is' if busy == 1 else 'are'} busy with {' and '.join(jobs)}"


async def look(session: AsyncSession, settings: Settings) -> Surroundings:
    """As they are now: three small queries, and one more where GPU hours are limited."""
    slots = await workers.count_slots(session, silence=settings.worker_silence)
    return Surroundings(slots, await store.find_running(session), await allowances(session, settings))


def _ahead(jobs: int) -> str:
    return f"{plural(jobs, 'job')} {'is' if jobs == 1 else 'are'} ahead" if jobs else "no job is ahead"
