"""Following tells everything once, in order, and ends when the job or the time does."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests import answers
from tunesmith.cli.client import Client, ServiceError, Unreachable
from tunesmith.cli.follow import follow
from tunesmith.cli.rendering.live_view import PlainView, bar, fitted, progress_line
from tunesmith.tuning.api.history import EventObject
from tunesmith.tuning.api.jobs import JobObject, JobWaiting
from tunesmith.tuning.api.metrics import MetricPoint

NOW = 1_800_000_000  # Unix seconds at the clock's zero


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Script(Client):
    """A service that says what the script says, one state per poll."""

    def __init__(
        self,
        *states: str | Exception,
        points: Callable[[int], list[MetricPoint]] = lambda _: [],
        places: Callable[[int], int | None] = lambda _: None,
        starts_at: int | None = None,
    ) -> None:
        self._states = list(states)
        self._points, self._places, self._starts_at = points, places, starts_at
        self.polls = -1
        self.looks_at_line: list[int] = []

    def job(self, job_id: str) -> JobObject:
        self.polls += 1
        state = self._states[min(max(self.polls - 1, 0), len(self._states) - 1)]
        if self.polls and isinstance(state, Exception):
            raise state
        return answers.job(job_id, status=str(state), phase="training", place=self._place)

    @property
    def _place(self) -> int | None:
        return self._places(self.polls)

    def waiting(self, job_id: str) -> JobWaiting:
        self.looks_at_line.append(self.polls)
        return answers.waiting(job_id, place=self._place, own=2, others=1, starts_at=self._starts_at)

    def events_since(self, _job_id: str, *, seen: frozenset[str] = frozenset()) -> list[EventObject]:
        events = [
            answers.event(f"e{n}", message=f"event {n}", level="warn" if n % 2 else "info") for n in range(self.polls)
        ]
        return [event for event in events if event.id not in seen]

    def metrics(self, _job_id: str, *, after_step: int | None = None) -> list[MetricPoint]:
        return [point for point in self._points(self.polls) if after_step is None or point.step > after_step]


def told_by(script: Script, *, clock: Clock, timeout_seconds: float | None = None) -> tuple[list[str], Any]:
    told: list[str] = []
    view = PlainView(tell=told.append, clock=clock, now=lambda: NOW + clock.now)
    followed = follow(script, "ftjob-1", view=view, timeout_seconds=timeout_seconds, clock=clock, sleep=clock.sleep)
    return [line.strip() for line in told], followed


def test_each_change_is_told_once() -> None:
    told, followed = told_by(Script("queued", "queued", "running", "running", "succeeded"), clock=Clock())
    assert followed.is_finished
    states = [line.split()[0] for line in told if "event" not in line]
    assert states == ["queued", "running", "succeeded"]
    assert [line for line in told if "event" in line] == ["warn: event 1", "warn: event 3"]  # `logs` has the others


def test_a_job_in_line_says_who_is_ahead_and_when_it_starts() -> None:
    script = Script(
        *["queued"] * 24, "running", "succeeded", places=lambda poll: 4 if poll < 6 else 3, starts_at=NOW + 95
    )
    told, _ = told_by(script, clock=Clock())
    assert told[:2] == [
        "queued      number 4 in line, 3 jobs ahead, 1 of other projects, starts in about 1m 35s",
        "warn: event 1",
    ]
    line = [text for text in told if text.startswith(("queued", "starts"))]
    assert line[1] == "queued      number 3 in line, 3 jobs ahead, 1 of other projects, starts in about 1m 30s"
    assert line[2:] == ["starts in about 1m 25s", "starts in about 1m 15s"], "progress, as of a run"
    assert script.looks_at_line == [1, 6, 16], "once it moves, else every 10 seconds"


def test_an_evaluation_says_what_it_measures_and_nothing_of_training() -> None:
    told: list[str] = []
    view = PlainView(tell=told.append, clock=Clock(), evaluation=answers.evaluation(against="tiny-llama"))
    job = answers.job("eval-1", status="running")
    plan = {"method": "full", "total_steps": 400, "time": {"seconds": 3.0}}
    ours = job.tunesmith.model_copy(update={"plan": plan, "method": "full"})
    view.job(job.model_copy(update={"tunesmith": ours}))
    assert told == [
        "running     measures losses and answers (exact) on 20 rows under ft:tiny-llama:acme::1 and under tiny-llama"
    ]


def test_what_a_headline_says_is_not_said_again_by_an_event() -> None:
    told: list[str] = []
    view = PlainView(tell=told.append, clock=Clock())
    job = answers.job(status="queued")
    view.job(job.model_copy(update={"tunesmith": job.tunesmith.model_copy(update={"waiting_reason": "Too large."})}))
    view.event(answers.event("e1", message="Waiting: Too large.", level="warn"))
    assert told == ["queued      Too large."]


def test_a_restart_of_the_service_is_told_and_sat_out() -> None:
    away = Unreachable("No answer.")
    told, followed = told_by(Script("running", away, away, "running", "succeeded"), clock=Clock())
    assert followed.is_finished
    assert [line for line in told if "Waiting" in line or "again" in line] == [
        "No answer. Waiting for it to come back; the job itself goes on.",
        "The service answers again.",
    ]


def test_a_job_that_vanished_ends_the_following() -> None:
    with pytest.raises(ServiceError):
        told_by(Script("running", ServiceError("gone", http_status=404)), clock=Clock())


def test_the_timeout_ends_it_even_when_nothing_answers() -> None:
    clock = Clock()
    _, followed = told_by(Script("running", Unreachable("No answer.")), clock=clock, timeout_seconds=20)
    assert not followed.is_finished
    assert 20 <= clock.now <= 22


def test_a_log_sees_progress_every_10_seconds_and_later_more_rarely() -> None:
    def points(poll: int) -> list[MetricPoint]:
        return [MetricPoint(step=step, total_steps=200, train_loss=2.0) for step in range(1, poll + 1)]

    script = Script(*["running"] * 400, "succeeded", points=points)
    told, followed = told_by(script, clock=Clock())
    steps = [int(line.split("/")[0]) for line in told if "/200" in line]
    gaps = [later - earlier for earlier, later in itertools.pairwise(steps)]
    assert gaps[:8] == [10] * 8
    assert 30 <= gaps[-1] <= 40
    assert len(followed.points) == 401


def test_a_validation_loss_that_comes_later_belongs_to_its_step() -> None:
    def points(poll: int) -> list[MetricPoint]:
        late = 1.5 if poll >= 3 else None
        return [MetricPoint(step=1, train_loss=2.0), MetricPoint(step=2, train_loss=1.9, valid_loss=late)]

    _, followed = told_by(Script("running", "running", "running", "succeeded", points=points), clock=Clock())
    first, second = followed.points
    assert first == MetricPoint(step=1, train_loss=2.0)
    assert second == MetricPoint(step=2, train_loss=1.9, valid_loss=1.5)


def test_a_progress_line_shows_what_is_known() -> None:
    losses = {"train_loss": 1.1239, "valid_loss": 1.187}
    point = MetricPoint(step=312, total_steps=396, tokens_per_second=21_400, eta_seconds=460, **losses)
    assert (
        progress_line(point, best_valid_loss=1.187)
        == "312/396  loss 1.124  eta 7m 40s  valid 1.187 (best)  21.4k tok/s"
    )
    assert progress_line(MetricPoint(step=0)) == "0/?"


def test_a_narrow_terminal_keeps_step_loss_and_remaining_time() -> None:
    line = "312/396  loss 1.124  eta 7m 40s  valid 1.187 (best)  21.4k tok/s  MFU 41%"
    drawn = bar(0.5)
    assert fitted(drawn, line, columns=120) == f"  {drawn}  {line}"
    assert fitted(drawn, line, columns=80) == f"  {drawn}  312/396  loss 1.124  eta 7m 40s  valid 1.187 (best)"
    assert fitted(drawn, line, columns=70) == f"  {drawn}  312/396  loss 1.124  eta 7m 40s"
    assert fitted(drawn, line, columns=40) == line[:40]
    assert fitted(drawn, "preparing", columns=80) == f"  {drawn}  preparing"


def test_a_bar_is_empty_at_first_and_full_at_the_end() -> None:
    assert (bar(0.0), bar(0.5), bar(1.0)) == ("░" * 24, "█" * 12 + "░" * 12, "█" * 24)


def test_a_view_that_must_not_be_silent_says_how_long_it_has_taken() -> None:
    told: list[str] = []
    clock = Clock()
    view = PlainView(tell=told.append, clock=clock, silence_seconds=8)
    queued = answers.job(status="queued")
    for _ in range(4):
        view.job(queued)
        clock.now += 5
    assert [line.split() for line in told[1:]] == [["queued", "after", "10", "s"]]
