"""A request that breaks off at a commit: it is wholly made or not at all, an error says so, and a repeat ends right."""

import pytest

from tests.control_plane import ControlPlane
from tunesmith.faults import armed
from tunesmith.tuning.state import Outcome


@pytest.mark.parametrize(("point", "kept"), [("before_commit", 0), ("after_commit", 1)])
def test_a_submit_that_breaks_off_at_its_commit_is_no_success_and_its_repeat_makes_one_job(
    control_plane: ControlPlane, point: str, kept: int
) -> None:
    body = {"model": "tiny-llama", "training_file": control_plane.upload()}

    def post() -> int:
        headers = {"Idempotency-Key": "one"}
        return control_plane.request("POST", "/v1/fine_tuning/jobs", json=body, headers=headers).status_code

    with armed(f"{point}=raise"):
        assert post() == 500
        assert control_plane.sql("SELECT count(*) FROM jobs") == [(kept,)]
        assert post() == 200
    assert control_plane.sql("SELECT count(*) FROM jobs") == [(1,)]


def test_a_cancel_that_breaks_off_at_its_commit_is_no_success(control_plane: ControlPlane) -> None:
    job_id = control_plane.create_job()["id"]
    with armed("before_commit=raise"):
        assert control_plane.request("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel").status_code == 500
    assert control_plane.job(job_id)["status"] == "queued"


@pytest.mark.parametrize(("point", "status"), [("before_finish", "running"), ("after_finish", "succeeded")])
def test_a_last_word_that_breaks_off_at_its_commit_is_said_again_and_counts_once(
    control_plane: ControlPlane, point: str, status: str
) -> None:
    attempt = control_plane.claimed()
    attempt.artifact()
    with armed(f"{point}=raise"):
        assert attempt.finish(Outcome.SUCCEEDED).status_code == 500
        assert control_plane.job(attempt.job_id)["status"] == status
        assert attempt.finish(Outcome.SUCCEEDED).status_code == 204
    assert control_plane.job(attempt.job_id)["status"] == "succeeded"
    assert control_plane.messages(attempt.job_id).count("The job has successfully completed") == 1
    assert control_plane.sql("SELECT count(*) FROM models WHERE job_id = %s", attempt.job_id) == [(1,)]
