"""The lease is kept while the service answers, wishes ride back, and silence alone never ends a run."""

import threading
from collections.abc import Iterator

import pytest
from structlog.typing import FilteringBoundLogger

from tests.waiting import eventually
from tests.worker.scripted_service import Reply, ScriptedService
from tunesmith.tuning.errors import LeaseLost
from tunesmith.tuning.state import Phase
from tunesmith.worker.attempt.lease_heartbeat import Heartbeat
from tunesmith.worker.attempt.progress import Progress
from tunesmith.worker.attempt.stop_requests import AttemptStopped, OutOfTime, StopRequest, StopRequests
from tunesmith.worker.transport.control import HttpAttemptControl

NOTHING = Reply.json({"cancel": False, "pause": False})


@pytest.fixture
def directives() -> StopRequests:
    return StopRequests(drain_deadline=lambda: None)


@pytest.fixture
def progress() -> Progress:
    return Progress(total_steps=7)


@pytest.fixture
def heartbeat(
    control: HttpAttemptControl, directives: StopRequests, progress: Progress, log: FilteringBoundLogger
) -> Iterator[Heartbeat]:
    beating = Heartbeat(control, progress=progress, directives=directives, interval_seconds=0.02, log=log)
    yield beating
    beating.stop()


def test_heartbeats_carry_where_the_run_is(heartbeat: Heartbeat, service: ScriptedService, progress: Progress) -> None:
    service.otherwise = lambda _request: NOTHING
    progress.reached(Phase.TRAINING)
    progress.stepped({"step": 3, "eta_seconds": 12.5, "train_loss": 1.0})
    heartbeat.start()
    eventually(lambda: len(service.to("/heartbeat")) >= 2)
    assert service.requests[0].json == {"phase": "training", "step": 3, "total_steps": 7, "eta_seconds": 12.5}


@pytest.mark.parametrize("wish", [StopRequest.CANCEL, StopRequest.PAUSE])
def test_what_the_user_wants_rides_back(
    wish: StopRequest, heartbeat: Heartbeat, service: ScriptedService, directives: StopRequests
) -> None:
    service.otherwise = lambda _request: Reply.json({"cancel": wish == "cancel", "pause": wish == "pause"})
    heartbeat.start()
    eventually(directives.current)
    assert directives.current() is wish
    with pytest.raises(AttemptStopped):
        directives.check_before_training()
    directives.check_while_handing_over()


def test_a_service_that_is_away_changes_nothing_and_is_found_again(
    heartbeat: Heartbeat, service: ScriptedService, directives: StopRequests
) -> None:
    service.script(
        "/heartbeat", *[Reply.error(503, "service_unavailable")] * 3, Reply.error(401, "invalid_lease_token")
    )
    service.otherwise = lambda _request: NOTHING
    heartbeat.start()
    eventually(lambda: len(service.to("/heartbeat")) >= 6)
    assert directives.current() is None


def test_whatever_is_answered_the_next_heartbeat_is_sent(
    heartbeat: Heartbeat, service: ScriptedService, directives: StopRequests
) -> None:
    service.script("/heartbeat", Reply(200, b"<html>"), Reply.json({"cancel": "perhaps"}), Reply.json([]))
    service.otherwise = lambda _request: NOTHING
    heartbeat.start()
    eventually(lambda: len(service.to("/heartbeat")) >= 5)
    assert directives.current() is None


def test_an_error_that_nobody_foresaw_does_not_end_the_beating(
    heartbeat: Heartbeat, service: ScriptedService, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.otherwise = lambda _request: NOTHING
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(progress, "beat", fail)
        heartbeat.start()
        assert failed.wait(60)
    eventually(lambda: len(service.to("/heartbeat")) >= 2)


def test_a_lost_lease_ends_the_beating_and_everything_else(
    heartbeat: Heartbeat, service: ScriptedService, directives: StopRequests
) -> None:
    service.otherwise = lambda _request: Reply.error(409, "lease_lost")
    heartbeat.start()
    eventually(directives.current)
    assert directives.current() is StopRequest.LEASE_LOST
    for check in (directives.check_before_training, directives.check_while_handing_over):
        with pytest.raises(LeaseLost):
            check()
    heartbeat.stop()
    assert len(service.requests) == 1


def test_the_more_urgent_directive_counts() -> None:
    directives = StopRequests(drain_deadline=lambda: 100.0, clock=lambda: 99.0)
    assert directives.current() is StopRequest.DRAIN
    for directive in (StopRequest.PAUSE, StopRequest.CANCEL, StopRequest.LEASE_LOST):
        directives.tell(directive)
        assert directives.current() is directive


def test_the_end_of_the_grace_ends_the_handing_over() -> None:
    now = [99.0]
    directives = StopRequests(drain_deadline=lambda: 100.0, clock=lambda: now[0])
    directives.check_while_handing_over()
    now[0] = 100.5
    with pytest.raises(OutOfTime):
        directives.check_while_handing_over()
