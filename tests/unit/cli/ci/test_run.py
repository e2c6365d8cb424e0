"""A run of a pipeline sits out restarts, and Ctrl-C leaves the job or cancels it."""

from pathlib import Path
from typing import Any

import pytest

from tests import answers
from tests.unit.cli.test_follow import Clock
from tunesmith.cli.ci.job_file import load
from tunesmith.cli.ci.run import Run, Terms
from tunesmith.cli.client import Client, ServiceError, Unreachable
from tunesmith.cli.exit_codes import ExitCode
from tunesmith.cli.rendering.live_view import PlainView
from tunesmith.tuning.api.history import EventObject
from tunesmith.tuning.api.jobs import JobObject, JobWaiting
from tunesmith.tuning.api.lists import Page
from tunesmith.tuning.api.metrics import MetricPoint, SampleObject

AWAY = Unreachable("No answer.")


class Service(Client):
    """Answers what a script says, call by call; the last entry of each stays."""

    def __init__(self, *, refuses_to: str | None = None, **script: list[Any]) -> None:
        self._script, self._refuses_to = script, refuses_to
        self.acted: list[str] = []

    def _next(self, name: str) -> Any:
        answers_left = self._script[name]
        answer = answers_left.pop(0) if len(answers_left) > 1 else answers_left[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def list_jobs(self, **_: Any) -> Any:
        return Page[JobObject](data=self._next("earlier"), has_more=False, first_id=None, last_id=None)

    def create_job(self, _body: Any, *, idempotency_key: str) -> JobObject:  # noqa: ARG002
        return answers.job(self._next("created"))

    def job(self, job_id: str) -> JobObject:
        return answers.job(job_id, status=self._next("status"))

    def waiting(self, job_id: str) -> JobWaiting:
        return answers.waiting(job_id, place=1, own=0, others=0, starts_at=None)

    def events_since(self, _job_id: str, *, seen: frozenset[str] = frozenset()) -> list[EventObject]:  # noqa: ARG002
        return []

    def metrics(self, _job_id: str, *, after_step: int | None = None) -> list[MetricPoint]:  # noqa: ARG002
        return list(self._next("metrics"))

    def samples(self, _job_id: str) -> list[SampleObject]:
        return []

    def act_on_job(self, job_id: str, action: str) -> JobObject:
        if action == self._refuses_to:
            raise ServiceError("It has ended.", http_status=409)
        self.acted.append(f"{action} {job_id}")
        return answers.job(job_id)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def run_of(service: Service, tmp_path: Path, clock: Clock, **terms: Any) -> Run:
    path = tmp_path / "job.yaml"
    path.write_text("model: my-base\ntraining_file: file-1\n")
    usual = {"timeout_seconds": None, "patience_seconds": 60.0, "cancels_on_interrupt": False}
    agreed = Terms("key", is_new=False, **{**usual, **terms})
    return Run(service, load(path), agreed, view=PlainView(tell=lambda _: None), clock=clock, sleep=clock.sleep)


def test_a_service_that_restarts_at_every_turn_is_waited_for(tmp_path: Path, clock: Clock) -> None:
    full = ServiceError("busy", http_status=503)
    service = Service(
        earlier=[AWAY, [], full, []],
        created=[AWAY, "ftjob-1"],
        status=[AWAY, "queued", AWAY, "running", full, "succeeded"],
        metrics=[[], AWAY, [], AWAY, []],
    )
    run = run_of(service, tmp_path, clock)
    ending = run.wait(run.submit_or_attach())
    assert (ending.code, ending.job and ending.job.id) == (ExitCode.SUCCEEDED, "ftjob-1")


def test_a_service_that_stays_away_ends_the_patience(tmp_path: Path, clock: Clock) -> None:
    run = run_of(Service(earlier=[AWAY]), tmp_path, clock)
    with pytest.raises(Unreachable):
        run.submit_or_attach()
    assert 60 <= clock.now < 70


def test_what_must_change_is_not_waited_for(tmp_path: Path, clock: Clock) -> None:
    run = run_of(Service(earlier=[ServiceError("no key", http_status=401)]), tmp_path, clock)
    with pytest.raises(ServiceError):
        run.submit_or_attach()
    assert clock.now == 0


@pytest.mark.parametrize(("cancels", "acted"), [(False, []), (True, ["cancel ftjob-1"])])
def test_an_interrupt_leaves_the_job_and_says_how_to_attach_or_cancels_it(
    tmp_path: Path, clock: Clock, cancels: bool, acted: list[str]
) -> None:
    service = Service(status=["running", KeyboardInterrupt()], metrics=[[]])
    ending = run_of(service, tmp_path, clock, cancels_on_interrupt=cancels).wait(answers.job("ftjob-1"))
    assert (ending.code, service.acted) == (ExitCode.INTERRUPTED, acted)
    assert bool(ending.hints) is not cancels
    assert cancels or "tunesmith watch ftjob-1" in ending.hints[0]


def test_a_service_that_stays_away_from_a_job_ends_with_the_job_in_the_report(tmp_path: Path, clock: Clock) -> None:
    for status in (["running", AWAY], ["running", KeyboardInterrupt()]):
        service = Service(status=status, metrics=[[]], refuses_to="cancel")
        ending = run_of(service, tmp_path, clock, cancels_on_interrupt=True).wait(answers.job("ftjob-1"))
        assert ending.code is (ExitCode.UNREACHABLE if AWAY in status else ExitCode.INTERRUPTED)
        assert ending.job is not None
        assert "tunesmith watch ftjob-1" in ending.hints[0]
        assert "was cancelled" not in ending.headline


def test_the_time_counts_over_restarts(tmp_path: Path, clock: Clock) -> None:
    service = Service(status=[AWAY, AWAY, "running"], metrics=[[]])
    ending = run_of(service, tmp_path, clock, timeout_seconds=30).wait(answers.job("ftjob-1"))
    assert ending.code is ExitCode.TIMED_OUT
    assert 30 <= clock.now <= 32


def test_a_long_job_is_asked_about_less_and_less(tmp_path: Path, clock: Clock) -> None:
    class Long(Service):
        polls = 0

        def job(self, job_id: str) -> JobObject:
            self.polls += 1
            return answers.job(job_id, status="running" if clock.now < 4 * 3600 else "succeeded")

    service = Long(metrics=[[]])
    ending = run_of(service, tmp_path, clock).wait(answers.job("ftjob-1"))
    assert ending.code is ExitCode.SUCCEEDED
    assert 14_400 <= clock.now <= 14_410
    assert service.polls < 1600
