"""A worker that spoils three attempts in an hour gets no more, as long as another can take them."""

import pytest

from tests.control_plane import ControlPlane, WorkerSide
from tests.service.test_attempts import TRANSIENT, skip_pause
from tunesmith.service.keeper.expired_leases import end_expired_leases
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.state import Outcome
from tunesmith.tuning.values.json_objects import Json

BROKEN = Failure(code=ErrorCode.WORKER_ERROR, message="OSError", category=Category.INTERNAL, retryable=True)
FULL = Failure(code=ErrorCode.DISK_FULL, message="No space.", category=Category.DISK_FULL, retryable=True)
UNUSABLE = Failure(code=ErrorCode.DISK_UNUSABLE, message="Read-only.", category=Category.TRANSIENT, retryable=True)


def lose(plane: ControlPlane, worker: WorkerSide, *, times: int) -> None:
    """The worker claims and falls silent, again and again."""
    for _ in range(times):
        skip_pause(plane)
        worker.beat()
        assert worker.claim() is not None
        plane.expire_leases()
        assert plane.keep(end_expired_leases) == 1
    skip_pause(plane)


def fail(plane: ControlPlane, worker: WorkerSide, failure: Failure, *, times: int) -> None:
    """The worker claims and reports the failure, again and again."""
    for _ in range(times):
        skip_pause(plane)
        attempt = worker.claim()
        assert attempt is not None
        assert attempt.finish(Outcome.FAILED, failure=failure).status_code == 204
    skip_pause(plane)


def shown(plane: ControlPlane, worker: WorkerSide) -> Json:
    listed = plane.request("GET", "/v1/workers", key="admin").json()["data"]
    return dict(next(one for one in listed if one["id"] == worker.id))


def test_the_third_loss_of_an_hour_keeps_a_worker_out_while_another_is_there(control_plane: ControlPlane) -> None:
    bad, good = control_plane.worker("bad"), control_plane.worker("good")
    job_id = control_plane.create_job()["id"]
    lose(control_plane, bad, times=2)
    assert shown(control_plane, bad)["quarantined_until"] is None
    lose(control_plane, bad, times=1)
    assert bad.claim() is None
    worker = shown(control_plane, bad)
    assert worker["quarantined_until"] > worker["last_seen_at"] + 3500
    assert worker["quarantine_reason"].startswith("It lost 3 attempts within an hour")
    attempt = good.claim()
    assert attempt is not None
    assert attempt.job_id == job_id


@pytest.mark.parametrize("failure", [BROKEN, FULL, UNUSABLE], ids=lambda failure: failure.code)
def test_a_worker_whose_host_is_broken_does_not_use_up_all_attempts_of_a_job(
    control_plane: ControlPlane, failure: Failure
) -> None:
    bad, good = control_plane.worker("bad"), control_plane.worker("good")
    job_id = control_plane.create_job()["id"]
    fail(control_plane, bad, failure, times=3)
    assert bad.claim() is None
    assert shown(control_plane, bad)["quarantine_reason"].startswith("3 attempts failed within an hour")
    attempt = good.claim()
    assert attempt is not None
    attempt.succeed()
    assert control_plane.job(job_id)["status"] == "succeeded"


def test_losses_and_faults_of_the_host_are_counted_together(control_plane: ControlPlane) -> None:
    bad, _ = control_plane.worker("bad"), control_plane.worker("good")
    control_plane.create_job()
    fail(control_plane, bad, BROKEN, times=2)
    lose(control_plane, bad, times=1)
    assert bad.claim() is None
    assert shown(control_plane, bad)["quarantine_reason"] == (
        "It lost 1 attempt within an hour: it fell silent or started again during them. "
        "2 attempts failed within an hour by its own fault or its disk's."
    )


def test_jobs_that_fail_by_themselves_keep_no_worker_out(control_plane: ControlPlane) -> None:
    worker, _ = control_plane.worker("worker"), control_plane.worker("good")
    for _ in range(2):
        control_plane.create_job()
    fail(control_plane, worker, TRANSIENT, times=4)
    assert shown(control_plane, worker)["quarantined_until"] is None
    assert worker.claim() is not None


def test_the_only_worker_of_its_class_goes_on(control_plane: ControlPlane) -> None:
    bad = control_plane.worker("bad")
    control_plane.create_job()
    lose(control_plane, bad, times=3)
    assert bad.claim() is not None


def test_starting_again_with_an_open_attempt_is_a_loss_and_ends_no_quarantine(control_plane: ControlPlane) -> None:
    control_plane.worker("good")
    control_plane.create_job()
    for _ in range(3):
        bad = control_plane.worker("bad")
        skip_pause(control_plane)
        assert bad.claim() is not None
    bad = control_plane.worker("bad")
    skip_pause(control_plane)
    assert bad.claim() is None


def test_an_hour_ends_it(control_plane: ControlPlane) -> None:
    bad, _ = control_plane.worker("bad"), control_plane.worker("good")
    control_plane.create_job()
    lose(control_plane, bad, times=3)
    control_plane.sql("UPDATE workers SET quarantined_until = quarantined_until - interval '1 hour'")
    assert bad.claim() is not None


def test_losses_of_hours_ago_do_not_count(control_plane: ControlPlane) -> None:
    bad, _ = control_plane.worker("bad"), control_plane.worker("good")
    control_plane.create_job()
    lose(control_plane, bad, times=2)
    unguarded = "SET session_replication_role = replica"  # an attempt that has ended never changes
    control_plane.sql(f"{unguarded}; UPDATE attempts SET ended_at = now() - interval '61 min'")
    lose(control_plane, bad, times=1)
    assert bad.claim() is not None


def test_an_administrator_ends_it_and_what_was_lost_before_does_not_count(control_plane: ControlPlane) -> None:
    bad, _ = control_plane.worker("bad"), control_plane.worker("good")
    control_plane.create_job()
    lose(control_plane, bad, times=3)
    path = "/v1/workers/bad/quarantine"
    assert control_plane.request("DELETE", path, key="member").status_code == 403
    assert control_plane.request("DELETE", path, key="admin").status_code == 204
    assert shown(control_plane, bad)["quarantine_reason"] is None
    lose(control_plane, bad, times=2)
    assert bad.claim() is not None
    assert control_plane.request("DELETE", "/v1/workers/nobody/quarantine", key="admin").status_code == 404
