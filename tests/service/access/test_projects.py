"""What an admin says that a project may have holds at once, before the settings, and is shown with what it has."""

from typing import Any

import httpx2
import psycopg
import pytest

from tests.control_plane import ControlPlane
from tests.machines import ONE_GPU
from tunesmith.tuning.state import Outcome


def set_limits(plane: ControlPlane, project: str, **limits: Any) -> httpx2.Response:
    return plane.request("POST", f"/v1/projects/{project}", key="admin", json=limits)


def project(plane: ControlPlane, name: str = "acme") -> dict[str, Any]:
    return dict(plane.request("GET", f"/v1/projects/{name}", key="admin").json())


def test_a_project_is_listed_with_its_limits_and_what_it_has(control_plane: ControlPlane) -> None:
    control_plane.create_job()
    assert set_limits(control_plane, "research", running_jobs=4).status_code == 200
    listed = control_plane.request("GET", "/v1/projects", key="admin").json()["data"]
    assert [one["id"] for one in listed] == ["acme", "other", "research"]
    assert listed[0]["usage"] | {"stored_bytes": 0} == {
        "running_jobs": 0,
        "queued_jobs": 1,
        "stored_bytes": 0,
        "gpu_hours_this_month": 0.0,
    }
    assert listed[0]["usage"]["stored_bytes"] > 0
    assert listed[2]["limits"]["running_jobs"] == 4
    assert listed[2]["limits"]["queued_jobs"] == 10_000
    assert control_plane.request("GET", "/v1/projects", key="member").status_code == 403
    assert control_plane.request("GET", "/v1/projects/none", key="admin").json()["error"]["code"] == "project_not_found"


def test_a_limit_of_queued_jobs_holds_at_once_and_null_gives_it_back(control_plane: ControlPlane) -> None:
    set_limits(control_plane, "acme", queued_jobs=1)
    control_plane.create_job()
    body = {"model": "tiny-llama", "training_file": control_plane.upload()}
    refused = control_plane.request("POST", "/v1/fine_tuning/jobs", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_queued_jobs")
    set_limits(control_plane, "acme", queued_jobs=None)
    assert control_plane.request("POST", "/v1/fine_tuning/jobs", json=body).status_code == 200


def test_a_limit_leaves_the_others_as_they_are(plane: ControlPlane) -> None:
    set_limits(plane, "acme", running_jobs=2)
    set_limits(plane, "acme", stored_bytes=100)
    assert project(plane)["limits"] | {"queued_jobs": None} == {
        "running_jobs": 2,
        "queued_jobs": None,
        "stored_bytes": 100,
        "gpu_hours_per_month": None,
    }


def test_a_limit_of_stored_bytes_refuses_a_file(plane: ControlPlane) -> None:
    set_limits(plane, "acme", stored_bytes=10)
    files = {"file": ("rows.jsonl", b"x" * 100)}
    refused = plane.request("POST", "/v1/files", data={"purpose": "fine-tune"}, files=files)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "too_many_stored_bytes")


def test_a_limit_of_stored_bytes_refuses_an_upload_before_its_first_part(plane: ControlPlane) -> None:
    set_limits(plane, "acme", stored_bytes=10)
    body = {"purpose": "fine-tune", "filename": "rows.jsonl", "bytes": 11, "mime_type": "application/jsonl"}
    refused = plane.request("POST", "/v1/uploads", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "too_many_stored_bytes")
    assert plane.request("POST", "/v1/uploads", json=body | {"bytes": 10}).status_code == 200


def test_a_limit_of_running_jobs_keeps_the_next_in_line(control_plane: ControlPlane) -> None:
    set_limits(control_plane, "acme", running_jobs=1)
    job_ids = [control_plane.create_job()["id"] for _ in range(2)]
    assert control_plane.worker("worker-1").claim() is not None
    assert control_plane.worker("worker-2").claim() is None
    waiting = control_plane.request("GET", f"/v1/fine_tuning/jobs/{job_ids[1]}/waiting").json()
    assert "runs 1 job" in waiting["reason"]


def ran(plane: ControlPlane, *, hours: float, until_hours_ago: float = 0, gpus: int = 1) -> None:
    """A job that a GPU worker has run."""
    plane.create_job()
    attempt = plane.worker("gpu-1", hardware=ONE_GPU).claim()
    assert attempt is not None
    attempt.finish(Outcome.CANCELLED)
    rewrite(
        plane,
        f"UPDATE attempts SET ended_at = now() - interval '{until_hours_ago} hours', "
        f"started_at = now() - interval '{until_hours_ago + hours} hours', "
        f"plan = jsonb_set(plan, '{{world_size}}', '{gpus}') WHERE id = '{attempt.claim.attempt_id}'",
    )


def rewrite(plane: ControlPlane, statement: str) -> None:
    """Change rows that the database lets nobody change."""
    with psycopg.connect(plane.settings.database_url) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement)


def hours_since_the_month_began(plane: ControlPlane) -> float:
    query = "SELECT extract(epoch FROM now() - date_trunc('month', now(), 'UTC')) / 3600"
    return float(plane.sql(query)[0][0])


def test_when_the_gpu_hours_of_the_month_are_used_up_jobs_wait(control_plane: ControlPlane) -> None:
    hours = min(1.0, hours_since_the_month_began(control_plane))
    ran(control_plane, hours=1, gpus=2)
    assert project(control_plane)["usage"]["gpu_hours_this_month"] == pytest.approx(2 * hours, abs=0.02)
    set_limits(control_plane, "acme", gpu_hours_per_month=1.9 * hours)
    job_id = control_plane.create_job()["id"]
    assert control_plane.worker("gpu-1", hardware=ONE_GPU).claim() is None
    reason = control_plane.request("GET", f"/v1/fine_tuning/jobs/{job_id}/waiting").json()["reason"]
    assert "GPU hours this month" in reason
    set_limits(control_plane, "acme", gpu_hours_per_month=2.1 * hours)
    assert control_plane.worker("gpu-1", hardware=ONE_GPU).claim() is not None


def test_what_ran_last_month_or_on_a_cpu_uses_no_gpu_hours(control_plane: ControlPlane) -> None:
    ran(control_plane, hours=5, until_hours_ago=hours_since_the_month_began(control_plane) + 0.1)
    ran(control_plane, hours=0.5)
    rewrite(
        control_plane,
        "UPDATE attempts SET worker_class = 'cpu-8-cores-16gib' WHERE ended_at > now() - interval '1 minute'",
    )
    assert project(control_plane)["usage"]["gpu_hours_this_month"] == 0


def test_limits_that_cannot_be_are_refused_by_their_field(plane: ControlPlane) -> None:
    for limits, param in (
        ({"running_jobs": -1}, "running_jobs"),
        ({"gpu_hours_per_month": "much"}, "gpu_hours_per_month"),
        ({"gpus": 3}, "gpus"),
    ):
        refused = set_limits(plane, "acme", **limits)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert set_limits(plane, "No", running_jobs=1).json()["error"]["param"] == "project"
    assert plane.sql("SELECT count(*) FROM projects") == [(0,)]
