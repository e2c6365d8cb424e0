"""How an attempt ends, and what that means for its job: one place for requeue, retry, poison, cancel and pause.

Every function here is called with the job's row locked. The job's new state is set last, in the same flush as all
else about it, because the database refuses any later change to a finished job.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import SystemRandom

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.database.jsonb_safe import storable
from tunesmith.service.database.tables import Attempt, Job
from tunesmith.service.jobs import deadlines
from tunesmith.service.jobs.transitions import apply_transition
from tunesmith.service.settings import Settings
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.state import JobTransition, Outcome
from tunesmith.tuning.values.units import plural

_LONGEST_PAUSE_SECONDS = 300.0
_POISON_KILLS = 3
_MOST_FRUITLESS = 100  # with pauses of up to five minutes between them: about eight hours
_GIVEN_BACK = (Outcome.PREEMPTED, Outcome.PAUSED, Outcome.CANCELLED)  # nobody's fault: counts against no budget


@dataclass(frozen=True)
class Policy:
    """How often and how soon a job is tried again. `jitter` is from 0 to 1 and keeps retries from coming in step.

    How often it may fail is on its row.
    """

    retry_seconds: float
    max_lost_attempts: int
    jitter: float

    @classmethod
    def of(cls, settings: Settings) -> "Policy":
        """With a jitter of this moment."""
        return cls(
            retry_seconds=settings.retry_seconds,
            max_lost_attempts=settings.max_lost_attempts,
            jitter=SystemRandom().random(),
        )

    def pause(self, ended_badly: int) -> timedelta:
        """Doubles with each attempt that ended so, up to five minutes, and is shortened by up to a quarter."""
        seconds = min(self.retry_seconds * 2.0 ** max(ended_badly - 1, 0), _LONGEST_PAUSE_SECONDS)
        return timedelta(seconds=seconds * (1 - self.jitter / 4))


def lose(session: AsyncSession, job: Job, attempt: Attempt, *, at: datetime, reason: str, policy: Policy) -> None:
    """The worker is gone: its lease ran out, or it started again."""
    failure = Failure(code=ErrorCode.WORKER_LOST, message=reason, category=Category.WORKER_LOST, retryable=True)
    close(attempt, Outcome.LOST, failure=failure, at=at)
    decide_next(session, job, outcome=Outcome.LOST, failure=failure, kills=0, fruitless=0, at=at, policy=policy)


def close(attempt: Attempt, outcome: Outcome, *, failure: Failure | None, at: datetime) -> None:
    """Record the attempt's last word. From here on its token opens nothing."""
    attempt.ended_at = at
    attempt.outcome = outcome
    attempt.failure = storable(failure.model_dump(mode="json")) if failure else None


def decide_next(
    session: AsyncSession,
    job: Job,
    *,
    outcome: Outcome,
    failure: Failure | None,
    kills: int,
    fruitless: int,
    at: datetime,
    policy: Policy,
) -> None:
    """Decide what follows for the job. Both counts are of its attempts, with this one: `kills` of those that killed the
    trainer, `fruitless` of those that were given back since one has got the job further than any before.
    """
    _count(job, outcome)
    job.phase = None
    if deadlines.was_stopped_by_deadline(job):
        fail(session, job, deadlines.missed(job), at=at)
    elif job.cancel_requested_at is not None:
        events.append(session, job, f"{events.noun(job)} cancelled")
        apply_transition(job, JobTransition.CANCEL, at=at)
    elif job.pause_requested_at is not None and _may_pause(job, outcome, policy=policy):
        job.pause_requested_at = None
        events.append(session, job, f"{events.noun(job)} paused")
        apply_transition(job, JobTransition.PAUSE, at=at)
    elif failure is None or outcome in _GIVEN_BACK:
        _queue_again(session, job, fruitless=fruitless, at=at, policy=policy)
    elif outcome is Outcome.LOST:
        _retry_lost(session, job, failure, at=at, policy=policy)
    else:
        _retry_failed(session, job, failure, kills=kills, at=at, policy=policy)


def _may_pause(job: Job, outcome: Outcome, *, policy: Policy) -> bool:
    """A job that has used up a budget fails: paused, it would be back in the line with nothing left of it."""
    return outcome is not Outcome.FAILED and not (
        outcome is Outcome.LOST and job.attempts_lost >= policy.max_lost_attempts
    )


def fail(session: AsyncSession, job: Job, failure: Failure, *, at: datetime) -> None:
    """The job has failed for good."""
    job.failure = storable(failure.model_dump(mode="json"))
    hint = f" {failure.hint}" if failure.hint else ""
    events.append(
        session, job, f"{events.noun(job)} failed: {failure.message}{hint}", level="error", data={"code": failure.code}
    )
    apply_transition(job, JobTransition.FAIL, at=at)


def requeue(job: Job, *, at: datetime, pause: timedelta, reason: str) -> None:
    """Back into the line, in the place that the time of its first queueing gives it; `reason` is why it pauses."""
    job.not_before = at + pause
    if pause:
        job.waiting_reason = f"Tried again at {job.not_before.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC. {reason}"
    apply_transition(job, JobTransition.REQUEUE, at=at)


def _count(job: Job, outcome: Outcome) -> None:
    """A claim counts as used up until its attempt ends otherwise than by failing."""
    if outcome is Outcome.FAILED:
        return
    job.attempts_used -= 1
    if outcome is Outcome.LOST:
        job.attempts_lost += 1
    if outcome is Outcome.PREEMPTED:
        job.attempts_preempted += 1


def _queue_again(session: AsyncSession, job: Job, *, fruitless: int, at: datetime, policy: Policy) -> None:
    """At once when it got further, or for the first time that it did not; then later each time, and not for ever."""
    given_back = f"Workers gave it back {plural(fruitless, 'time')} without a step further."
    if fruitless >= _MOST_FRUITLESS:
        hint = "Look at why the workers stop and give them more time for it, then create it again."
        failure = Failure(
            code=ErrorCode.GIVEN_BACK_TOO_OFTEN, message=given_back, category=Category.WORKER_LOST, hint=hint
        )
        fail(session, job, failure, at=at)
        return
    pause = policy.pause(fruitless - 1) if fruitless > 1 else timedelta(0)
    later = f". {given_back} Trying again in {pause.total_seconds():.0f} s." if pause else ""
    events.append(session, job, f"The worker gave the job back; it is queued again{later}", level="warn")
    requeue(job, at=at, pause=pause, reason=given_back)


def _retry_lost(session: AsyncSession, job: Job, failure: Failure, *, at: datetime, policy: Policy) -> None:
    """The machine was at fault, and another may do it: at once the first time, within a budget of its own."""
    lost, most = job.attempts_lost, policy.max_lost_attempts
    if lost >= most:
        message = f"Lost {plural(lost, 'worker')}, the most that a job may lose. Last: {failure.message}"
        hint = "Look at the logs of the workers, then create it again."
        fail(session, job, failure.model_copy(update={"message": message, "hint": hint}), at=at)
        return
    pause = policy.pause(lost - 1) if lost > 1 else timedelta(0)
    _try_again(session, job, failure, pause=pause, budget=f"worker {lost} of {most} that it may lose", at=at)


def _retry_failed(
    session: AsyncSession, job: Job, failure: Failure, *, kills: int, at: datetime, policy: Policy
) -> None:
    used, most = job.attempts_used, job.max_attempts
    if kills >= _POISON_KILLS:
        fail(session, job, _poison(failure, kills=kills), at=at)
    elif not failure.retryable:
        fail(session, job, failure, at=at)
    elif used >= most:
        message = f"Failed {used} times, the most that it may. Last: {failure.message}"
        fail(session, job, failure.model_copy(update={"message": message} if used > 1 else {}), at=at)
    else:
        budget = f"failure {used} of {most} that it may have"
        _try_again(session, job, failure, pause=policy.pause(used), budget=budget, at=at)


def _try_again(
    session: AsyncSession, job: Job, failure: Failure, *, pause: timedelta, budget: str, at: datetime
) -> None:
    message = f"{failure.message} Trying again in {pause.total_seconds():.0f} s ({budget})."
    events.append(session, job, message, level="warn", data={"code": failure.code})
    requeue(job, at=at, pause=pause, reason=failure.message)


def _poison(failure: Failure, *, kills: int) -> Failure:
    message = f"The job killed its trainer {kills} times and is not tried again. Last: {failure.message}"
    return Failure(
        code=ErrorCode.POISON,
        message=message,
        param=failure.param,
        category=failure.category,
        hint=failure.hint,
        log_tail=failure.log_tail,
        signal=failure.signal,
        rank=failure.rank,
    )
