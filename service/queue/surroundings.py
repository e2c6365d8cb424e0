"""What all who wait have around them: workers, what those run, and projects that may start no more."""

import math
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

_MOST_NAMED = 2  # jobs, and classes that do not fit
_LONGEST_MINUTES = 120  # from here on hours are told
Fitting = frozenset[str] | None  # classes of live workers; None: not known, so all that there are


class InLine(Protocol):
    """A queued job, as much of it as a sentence needs."""

    @property
    def project(self) -> str:
        """Whose it is."""

    @property
    def not_before(self) -> datetime:
        """Till when it pauses before its next attempt."""

    @property
    def question_sha256(self) -> str | None:
        """The same for jobs that fit the same machines."""


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
    _reasons: dict[tuple[str, Fitting], tuple[str, bool]] = field(default_factory=dict, repr=False, compare=False)

    def waits_for(self, job: InLine, *, place: int, fitting: Fitting, at: datetime) -> str:
        """In plain words; `fitting` are the classes that could take it. Of others' jobs only their number is told."""
        if job.not_before > at:
            return f"An attempt has ended; the next one is made at {job.not_before:%Y-%m-%d %H:%M:%S} UTC."
        reason, is_in_turn = self._known_reason(job.project, fitting)
        return f"{reason}; {_ahead(place - 1)}." if is_in_turn else reason

    def _known_reason(self, project: str, fitting: Fitting) -> tuple[str, bool]:
        """What every job of the project that fits these classes waits for, and whether that is its turn."""
        if (project, fitting) not in self._reasons:
            self._reasons[project, fitting] = self._reason(project, fitting)
        return self._reasons[project, fitting]

    def _reason(self, project: str, fitting: Fitting) -> tuple[str, bool]:
        own = sum(running.project == project for running in self.running)
        if self.allowed.of(project).is_full(own):
            return f"The project {project!r} runs {plural(own, 'job')}, the most that it may at a time.", False
        if self.allowed.is_full(project, own):
            return f"The project {project!r} has used the GPU hours that it may this month.", False
        if not self.slots:
            return "No worker is connected. The job starts as soon as one is.", False
        return self._on_workers(project, fitting), True

    def _on_workers(self, project: str, fitting: Fitting) -> str:
        names = sorted(self.slots if fitting is None else fitting)
        busy = Counter(running.worker_class for running in self.running)
        on_classes = ", ".join(self._on_class(name, busy=busy[name], project=project) for name in names)
        is_full = all(busy[name] >= self.slots[name] for name in names)
        parts = [f"{'Waits for a free worker' if is_full else 'Waits for a worker to take it'}: {on_classes}"]
        remaining = [run.remaining_seconds for run in self.running if run.worker_class in names]
        if is_full and remaining:
            parts.append(f"the next is expected to be free in about {_duration(min(remaining))}")
        parts += _misfits(sorted(set(self.slots).difference(names)))
        return "; ".join(parts)

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


def _duration(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return plural(minutes, "minute") if minutes < _LONGEST_MINUTES else plural(round(minutes / 60), "hour")


def _misfits(names: Sequence[str]) -> list[str]:
    """What is told of classes that could not take the job."""
    if len(names) > _MOST_NAMED:
        return [f"it does not fit {len(names)} other classes"]
    return [f"it does not fit class {' nor '.join(names)}"] if names else []


def _ahead(jobs: int) -> str:
    return f"{plural(jobs, 'job')} {'is' if jobs == 1 else 'are'} ahead" if jobs else "no job is ahead"
