"""A job fails at its deadline, wherever it is, and is tried as often as it asks for."""

import time
from typing import Any

import pytest

from tests.control_plane import ControlPlane
from tests.service.test_attempts import TRANSIENT
from tunesmith.service.keeper.expired_leases import end_expired_leases
from tunesmith.service.keeper.overdue_jobs import end_overdue_jobs
from tunesmith.tuning.state import Outcome


def let_it_pass(plane: ControlPlane, job_id: str) -> None:
    plane.sql("UPDATE jobs SET deadline_at = now() - interval '1 second' WHERE id = %s", job_id)


def ending(plane: ControlPlane, job_id: str) -> tuple[str, str | None]:
    job = plane.job(job_id)
    return job["status"], job["error"] and job["error"]["code"]


def submitted(plane: ControlPlane, **ours: Any) -> dict[str, Any]:
    body = {"model": "tiny-llama", "training_file": plane.upload(), "tunesmith": ours}
    response = plane.request("POST", "/v1/fine_tuning/jobs", json=body)
    return dict(response.json()) | {"http_status": response.status_code}


def test_a_span_counts_from_the_creation_and_a_moment_is_itself(control_plane: ControlPlane) -> None:
    job = submitted(control_plane, deadline="6h")
    assert job["tunesmith"]["deadline"] - job["created_at"] in (6 * 3600 - 1, 6 * 3600)
    moment = int(time.time()) + 600
    assert submitted(control_plane, deadline=moment)["tunesmith"]["deadline"] == moment
    assert submitted(control_plane)["tunesmith"]["deadline"] is None


@pytest.mark.parametrize("deadline", [1_700_000_000, "6", "0h", "six hours", "-1h", 1.5, 10**12])
def test_a_deadline_that_has_passed_or_means_nothing_is_refused_by_its_field(
    control_plane: ControlPlane, deadline: object
) -> None:
    answer = submitted(control_plane, deadline=deadline)
    assert answer["http_status"] == 400
    assert answer["error"]["param"].startswith("tunesmith.deadline")


def test_a_waiting_job_fails_at_its_deadline(control_plane: ControlPlane) -> None:
    early, late, patient = (
        submitted(control_plane, **ours)["id"] for ours in ({"deadline": "1h"}, {"deadline": "2h"}, {})
    )
    let_it_pass(control_plane, early)
    assert control_plane.keep(end_overdue_jobs) == 1
    assert ending(control_plane, early) == ("failed", "deadline_passed")
    assert [ending(control_plane, job)[0] for job in (late, patient)] == ["queued", "queued"]
    assert "had not ended by its deadline" in control_plane.messages(early)[-1]
    assert control_plane.keep(end_overdue_jobs) == 0


def test_jobs_of_one_deadline_fail_in_the_order_in_which_they_were_created(control_plane: ControlPlane) -> None:
    jobs = [submitted(control_plane, deadline="1h")["id"] for _ in range(8)]
    for job_id in reversed(jobs):  # the database has their rows in another order now
        control_plane.sql("UPDATE jobs SET deadline_at = '2026-01-02' WHERE id = %s", job_id)
    assert control_plane.keep(end_overdue_jobs) == 8
    assert control_plane.sql("SELECT id FROM jobs ORDER BY finished_at") == [(job_id,) for job_id in jobs]


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.SUCCEEDED])
def test_a_running_job_is_stopped_at_its_deadline_and_fails(control_plane: ControlPlane, outcome: Outcome) -> None:
    attempt = control_plane.claimed(tunesmith={"deadline": "1h"})
    let_it_pass(control_plane, attempt.job_id)
    assert control_plane.keep(end_overdue_jobs) == 1
    assert attempt.heartbeat().json()["cancel"] is True
    attempt.finish(outcome)
    assert ending(control_plane, attempt.job_id) == ("failed", "deadline_passed")


def test_a_paused_job_fails_when_it_is_resumed(control_plane: ControlPlane) -> None:
    job_id = submitted(control_plane, deadline="1h")["id"]
    control_plane.request("POST", f"/v1/fine_tuning/jobs/{job_id}/pause")
    let_it_pass(control_plane, job_id)
    assert control_plane.keep(end_overdue_jobs) == 0
    control_plane.request("POST", f"/v1/fine_tuning/jobs/{job_id}/resume")
    assert control_plane.keep(end_overdue_jobs) == 1
    assert ending(control_plane, job_id) == ("failed", "deadline_passed")


def test_a_worker_that_is_lost_meanwhile_changes_nothing_about_it(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed(tunesmith={"deadline": "1h"})
    let_it_pass(control_plane, attempt.job_id)
    control_plane.keep(end_overdue_jobs)
    control_plane.expire_leases()
    assert control_plane.keep(end_expired_leases) == 1
    assert ending(control_plane, attempt.job_id) == ("failed", "deadline_passed")


def test_a_user_who_cancels_in_time_cancels(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed(tunesmith={"deadline": "1h"})
    control_plane.request("POST", f"/v1/fine_tuning/jobs/{attempt.job_id}/cancel")
    control_plane.sql("UPDATE jobs SET deadline_at = now() + interval '1 microsecond' WHERE id = %s", attempt.job_id)
    assert control_plane.keep(end_overdue_jobs) == 0
    attempt.finish(Outcome.CANCELLED)
    assert ending(control_plane, attempt.job_id) == ("cancelled", None)


def test_a_job_that_has_ended_in_time_stays_as_it_is(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed(tunesmith={"deadline": "1h"})
    attempt.succeed()
    assert control_plane.keep(end_overdue_jobs) == 0
    assert ending(control_plane, attempt.job_id)[0] == "succeeded"


def test_a_job_is_tried_as_often_as_it_asks_for(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed(tunesmith={"retry": {"max_attempts": 1}})
    assert control_plane.job(attempt.job_id)["tunesmith"]["max_attempts"] == 1
    attempt.finish(Outcome.FAILED, failure=TRANSIENT)
    assert ending(control_plane, attempt.job_id) == ("failed", "flaky")


@pytest.mark.parametrize("number", [0, 101, "two"])
def test_a_number_of_attempts_that_makes_no_sense_is_refused(control_plane: ControlPlane, number: object) -> None:
    answer = submitted(control_plane, retry={"max_attempts": number})
    assert (answer["http_status"], answer["error"]["param"]) == (400, "tunesmith.retry.max_attempts")
