"""Any order of what users, workers and the keeper do to one job, against what its life promises."""

from datetime import UTC, datetime

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.attempts.outcomes import Policy, close, decide_next, lose
from tunesmith.service.database.tables import Attempt, Event, Job
from tunesmith.service.jobs.transitions import apply_transition
from tunesmith.tuning.errors import Category, Failure, InvalidTransition
from tunesmith.tuning.state import FINAL_STATES, TRANSITIONS, JobState, JobTransition, Outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = Policy(retry_seconds=5, max_lost_attempts=4, jitter=0.5)
MAX_ATTEMPTS = 4
MAX_KILLS = 3
FLAKY = Failure(code="flaky", message="The disk hiccuped.", category=Category.TRANSIENT, retryable=True)
KILLED = Failure(code="trainer_killed", message="SIGKILL", category=Category.WORKER_LOST, retryable=True)
HOPELESS = Failure(code="invalid_row", message="Row 7 is empty.", category=Category.USER_ERROR)


Ending = tuple[Outcome, Failure | None]
ENDINGS: tuple[Ending, ...] = (
    (Outcome.LOST, None),
    (Outcome.FAILED, FLAKY),
    (Outcome.FAILED, KILLED),
    (Outcome.FAILED, HOPELESS),
    (Outcome.PREEMPTED, None),
    (Outcome.CANCELLED, None),
    (Outcome.PAUSED, None),
    (Outcome.SUCCEEDED, None),
)


class LifeOfAJob(RuleBasedStateMachine):
    """One job after another and its attempts in memory, changed by the code that changes the rows.

    The attempts of some jobs all end in the same way and nobody cancels those: chance alone would seldom use up a
    budget.
    """

    @initialize(always=st.none() | st.sampled_from(ENDINGS[:3]))
    def accept(self, always: Ending | None) -> None:
        self.session = AsyncSession(autoflush=False)
        self.always = always
        self.attempts: list[Attempt] = []
        self.cancel_was_accepted = False
        self.end: JobState | None = None
        self.job = Job(
            id="ftjob-1",
            state=JobState.VALIDATING_FILES,
            epoch=0,
            event_seq=0,
            attempts_used=0,
            max_attempts=MAX_ATTEMPTS,
            attempts_lost=0,
            attempts_preempted=0,
        )
        apply_transition(self.job, JobTransition.FILES_VALID, at=NOW)

    @property
    def is_running(self) -> bool:
        return self.job.state == JobState.RUNNING

    @rule(ending=st.sampled_from(ENDINGS))
    def go_on(self, ending: Ending) -> None:
        """Whatever is next: a claim, the end of the attempt, a resume, or another job."""
        match self.job.state:
            case JobState.QUEUED:
                self._claim()
            case JobState.RUNNING:
                self._end(*(self.always or ending))
            case JobState.PAUSED:
                apply_transition(self.job, JobTransition.RESUME, at=NOW)
            case _:
                self.accept(always=self.always)

    @rule()
    def cancel(self) -> None:
        if self.end is not None or self.always is not None:
            return
        if self.is_running:
            self.job.cancel_requested_at = NOW
        else:
            apply_transition(self.job, JobTransition.CANCEL, at=NOW)
        self.cancel_was_accepted = True

    @rule()
    def pause(self) -> None:
        if self.is_running:
            self.job.pause_requested_at = NOW
        elif self.job.state == JobState.QUEUED:
            apply_transition(self.job, JobTransition.PAUSE, at=NOW)

    @rule(transition=st.sampled_from(JobTransition))
    def try_what_is_not_allowed(self, transition: JobTransition) -> None:
        if (JobState(self.job.state), transition) not in TRANSITIONS:
            with pytest.raises(InvalidTransition):
                apply_transition(self.job, transition, at=NOW)

    @invariant()
    def an_end_stays(self) -> None:
        self.end = self.end or (JobState(self.job.state) if self.job.state in FINAL_STATES else None)
        assert self.end is None or self.job.state == self.end
        assert (self.job.finished_at is not None) == (self.end is not None)

    @invariant()
    def a_running_job_has_one_owner_and_no_other_has_any(self) -> None:
        owners = [attempt.epoch for attempt in self.attempts if attempt.ended_at is None]
        assert owners == ([self.job.epoch] if self.is_running else [])

    @invariant()
    def an_accepted_cancel_wins(self) -> None:
        if self.cancel_was_accepted:
            assert self.job.state in {JobState.RUNNING, JobState.CANCELLED}

    @invariant()
    def every_ending_is_counted_once_and_within_its_budget(self) -> None:
        outcomes = [attempt.outcome for attempt in self.attempts]
        counted = self.job.attempts_used - self.is_running - (self.job.state == JobState.SUCCEEDED)
        assert counted == outcomes.count(Outcome.FAILED) <= MAX_ATTEMPTS
        assert self.job.attempts_lost == outcomes.count(Outcome.LOST) <= POLICY.max_lost_attempts
        assert self.job.attempts_preempted == outcomes.count(Outcome.PREEMPTED)
        assert self._kills() <= MAX_KILLS

    @invariant()
    def a_job_in_line_has_some_of_every_budget_left(self) -> None:
        if self.job.state == JobState.QUEUED:
            assert self.job.attempts_used < MAX_ATTEMPTS
            assert self.job.attempts_lost < POLICY.max_lost_attempts
            assert self._kills() < MAX_KILLS

    @invariant()
    def a_failure_says_why_and_the_history_has_no_gap(self) -> None:
        assert (self.job.failure is not None) == (self.job.state == JobState.FAILED)
        told = sorted(row.seq for row in self.session.new if isinstance(row, Event))
        assert told == list(range(1, self.job.event_seq + 1))

    def _claim(self) -> None:
        self.job.epoch += 1
        self.job.attempts_used += 1
        self.attempts.append(Attempt(id=f"attempt-{self.job.epoch}", epoch=self.job.epoch, worker_id="worker-1"))
        apply_transition(self.job, JobTransition.CLAIM, at=NOW)

    def _end(self, outcome: Outcome, failure: Failure | None) -> None:
        attempt = self.attempts[-1]
        if outcome is Outcome.LOST:
            lose(self.session, self.job, attempt, at=NOW, reason="Silent.", policy=POLICY)
            return
        close(attempt, outcome, failure=failure, at=NOW)
        if outcome is Outcome.SUCCEEDED and self.job.cancel_requested_at is None:
            apply_transition(self.job, JobTransition.SUCCEED, at=NOW)
            return
        kills = self._kills() if failure else 0
        decide_next(
            self.session, self.job, outcome=outcome, failure=failure, kills=kills, fruitless=0, at=NOW, policy=POLICY
        )

    def _kills(self) -> int:
        return sum((attempt.failure or {}).get("code") == KILLED.code for attempt in self.attempts)


TestLifeOfAJob = LifeOfAJob.TestCase
TestLifeOfAJob.settings = settings(
    phases=(Phase.generate, Phase.shrink), max_examples=40, stateful_step_count=50, database=None, deadline=None
)
