"""Repeating a job: only from what it was really made of, by its own plan, with a verdict that the service gives."""

import json
from typing import Any

import httpx2
import pytest

from tests.control_plane import AttemptSide, ControlPlane, chat_rows, sha256
from tests.machines import CPU, ONE_GPU, SMALL_CPU
from tunesmith.tuning.state import Outcome

WEIGHTS = b"trained weights"
POINTS = [{"step": 0, "valid_loss": 3.5}, {"step": 1, "train_loss": 3.25, "grad_norm": 1.0}]


def train(attempt: AttemptSide, *, weights: bytes = WEIGHTS, points: Any = POINTS, **manifest: Any) -> str:
    assert attempt.metrics(points).status_code == 204
    assert attempt.artifact(weights=weights, **manifest).status_code == 204
    assert attempt.finish(Outcome.SUCCEEDED).status_code == 204
    return attempt.job_id


def reproduce(plane: ControlPlane, job_id: str, **options: Any) -> httpx2.Response:
    return plane.request("POST", f"/v1/fine_tuning/jobs/{job_id}/reproduce", **options)


def error_of(response: httpx2.Response) -> Any:
    assert response.status_code == 409, response.text
    assert response.headers["x-should-retry"] == "false"
    error = response.json()["error"]
    assert error["hint"]
    return error


def test_a_repeated_job_is_linked_and_runs_by_the_first_plan_on_other_hardware(control_plane: ControlPlane) -> None:
    rows = control_plane.upload(chat_rows(30))
    first = train(control_plane.claimed(training_file=rows, validation_file=rows, suffix="night", seed=5))
    plan = control_plane.job(first)["tunesmith"]["plan"]
    answer = reproduce(control_plane, first)
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert (job["tunesmith"]["reproduces"], job["metadata"], job["seed"]) == (first, {"reproduces": first}, 5)
    assert any(first in message for message in control_plane.messages(job["id"]))

    # Twice the memory would have made the planner choose otherwise.
    roomier = CPU.model_copy(update={"cpu": CPU.cpu.model_copy(update={"cores": 8})})
    attempt = control_plane.worker("worker-2", hardware=roomier).claim()
    assert attempt is not None
    assert attempt.claim.is_plan_pinned
    assert attempt.claim.plan.model_dump(mode="json") == plan
    assert attempt.claim.training_file.sha256 == sha256(chat_rows(30))


def test_the_service_judges_the_second_run_by_its_bytes_and_numbers(control_plane: ControlPlane) -> None:
    worker = control_plane.worker()
    control_plane.create_job()
    first = train(worker.claim())
    verdicts = []
    for changes in ({}, {"weights": b"others", "versions": {"torch": "2.14.0"}, "points": [*POINTS[:1], {"step": 1}]}):
        second = reproduce(control_plane, first).json()["id"]
        path = f"/v1/fine_tuning/jobs/{second}/reproduction"
        assert error_of(control_plane.request("GET", path))["code"] == "job_not_finished"
        assert train(worker.claim(), **changes) == second
        verdicts.append(control_plane.request("GET", path).json())
    same, other = verdicts
    assert (same["verdict"], same["reproduces"], same["differences"]) == ("identical", first, [])
    assert (other["verdict"], other["first_different_step"]) == ("differs", 1)
    assert [item["what"] for item in other["differences"]] == ["versions.torch"]
    assert other["largest_differences"]["train_loss"] is None
    assert error_of(control_plane.request("GET", f"/v1/fine_tuning/jobs/{first}/reproduction"))["code"] == (
        "not_a_reproduction"
    )


def test_a_first_run_that_took_several_attempts_is_told(control_plane: ControlPlane) -> None:
    lost = control_plane.claimed()
    assert lost.finish(Outcome.PREEMPTED).status_code == 204
    worker = control_plane.worker("worker-2")
    first = train(worker.claim())
    second = reproduce(control_plane, first).json()["id"]
    assert train(worker.claim()) == second
    found = control_plane.request("GET", f"/v1/fine_tuning/jobs/{second}/reproduction").json()
    assert found["verdict"] == "identical"
    assert found["differences"] == [{"what": "attempts", "first": 2, "second": 1}]


def test_only_a_job_with_a_result_can_be_repeated(control_plane: ControlPlane) -> None:
    job_id = control_plane.create_job()["id"]
    assert error_of(reproduce(control_plane, job_id))["code"] == "job_not_finished"
    control_plane.request("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel")
    assert error_of(reproduce(control_plane, job_id))["code"] == "job_has_no_result"
    assert reproduce(control_plane, "ftjob-nothing").status_code == 404
    assert reproduce(control_plane, job_id, key="stranger").status_code == 404


def test_data_that_was_deleted_is_named_and_another_copy_of_it_does(control_plane: ControlPlane) -> None:
    rows = control_plane.upload()
    first = train(control_plane.claimed(training_file=rows))
    control_plane.request("DELETE", f"/v1/files/{rows}")
    error = error_of(reproduce(control_plane, first))
    assert (error["code"], error["param"]) == ("file_gone", "training_file")
    again = control_plane.upload()
    assert reproduce(control_plane, first).json()["training_file"] == again


def test_bytes_other_than_the_first_run_read_are_refused(control_plane: ControlPlane) -> None:
    first = train(control_plane.claimed(), base_model={"model.safetensors": "0" * 64})
    error = error_of(reproduce(control_plane, first))
    assert (error["code"], error["param"]) == ("base_model_changed", "model")
    other = train(control_plane.claimed("worker-2"), data={"training_file": "0" * 64})
    assert error_of(reproduce(control_plane, other))["code"] == "file_gone"


def test_a_base_that_is_gone_is_named(control_plane: ControlPlane) -> None:
    first = train(control_plane.claimed())
    control_plane.sql("UPDATE models SET status = 'incomplete' WHERE name = 'tiny-llama'")
    error = error_of(reproduce(control_plane, first))
    assert (error["code"], error["param"]) == ("base_model_gone", "model")


def test_a_plan_that_no_known_worker_can_run_is_refused_with_the_reason(control_plane: ControlPlane) -> None:
    first = train(control_plane.claimed())
    control_plane.sql("UPDATE workers SET last_seen_at = now() - interval '30 days'")
    control_plane.worker("gpu", hardware=ONE_GPU)
    control_plane.worker("small", hardware=SMALL_CPU)
    error = error_of(reproduce(control_plane, first))
    assert (error["code"], error["param"]) == ("plan_does_not_fit", "plan")
    assert "trains on cpu, this worker on cuda" in error["message"]


def test_a_result_without_a_readable_manifest_cannot_be_repeated(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    file = attempt.put(b"weights", name="adapter_model.safetensors")
    broken = attempt.put(b"[]", name="manifest.json")
    body = {"kind": "adapter", "files": [file.model_dump(), broken.model_dump()]}
    assert attempt.post("artifacts", body).status_code == 204
    assert attempt.finish(Outcome.SUCCEEDED).status_code == 204
    assert error_of(reproduce(control_plane, attempt.job_id))["code"] == "manifest_missing"


def test_a_request_sent_twice_with_one_key_repeats_the_job_once(control_plane: ControlPlane) -> None:
    first = train(control_plane.claimed())
    headers = {"Idempotency-Key": "again"}
    ids = {reproduce(control_plane, first, headers=headers).json()["id"] for _ in range(2)}
    assert len(ids) == 1
    assert control_plane.sql("SELECT count(*) FROM jobs WHERE reproduces = %s", first) == [(1,)]


@pytest.mark.parametrize("column", ["reproduces", "pinned_plan"])
def test_the_database_knows_no_pinned_plan_without_the_job_it_came_from(
    control_plane: ControlPlane, column: str
) -> None:
    job_id = control_plane.create_job()["id"]
    value = job_id if column == "reproduces" else json.dumps({})
    with pytest.raises(Exception, match="pinned_iff_reproduces"):
        control_plane.sql(f"UPDATE jobs SET {column} = %s", value)
