"""What a canary measured reaches the service, teaches the next plan, and counts less than a whole run."""

import httpx2
import pytest

from tests.control_plane import AttemptSide, ControlPlane
from tests.machines import CPU
from tests.service.planning.test_plans import finish, plans, run_once
from tunesmith.tuning.messages import CanaryReport
from tunesmith.tuning.state import Outcome


def rehearse(attempt: AttemptSide, *, memory: float, speed: float) -> httpx2.Response:
    """The report of a canary that took so many times the memory and had so many times the speed."""
    plan = attempt.claim.plan
    assert plan.time.micro_step_tokens_per_second is not None
    report = CanaryReport(
        tokens=100,
        longest_row_tokens=50,
        tokens_per_micro_step=plan.tokens_per_micro_step,
        seconds=1,
        tokens_per_second=plan.time.micro_step_tokens_per_second * speed,
        peak_memory_bytes=int(plan.memory.total_bytes * memory),
    )
    return attempt.post("canary", report)


def test_the_canary_of_a_job_that_never_finishes_teaches_too(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    assert rehearse(attempt, memory=1.25, speed=0.5).status_code == 204
    assert rehearse(attempt, memory=1.25, speed=0.5).status_code == 204  # a replay
    attempt.finish(Outcome.FAILED)
    (entry,) = plans(control_plane, training_file=control_plane.upload())["data"]
    before = attempt.claim.plan
    assert entry["predicted_peak_bytes"] == pytest.approx(before.memory.total_bytes * 1.25, rel=1e-3)
    assert entry["plan"]["time"]["measured_correction"] == pytest.approx(2 / 3), "one observation alone is capped"
    assert "(1 canary step of this model and method)" in entry["reasons"][-1]["text"]
    (shown,) = control_plane.request("GET", f"/v1/fine_tuning/jobs/{attempt.job_id}/attempts").json()["data"]
    assert shown["canary"]["tokens"] == 100
    late = rehearse(attempt, memory=9, speed=9)
    assert (late.status_code, late.json()["error"]["code"]) == (409, "lease_lost")


def test_a_finished_run_is_not_counted_twice_for_its_canary(control_plane: ControlPlane) -> None:
    control_plane.create_job()
    attempt = control_plane.worker().claim()
    assert attempt is not None
    rehearse(attempt, memory=1.7, speed=0.3)
    plan = attempt.claim.plan
    finish(attempt, peak_memory_bytes=int(plan.memory.total_bytes * 1.1), tokens_per_second=plan.time.tokens_per_second)
    (entry,) = plans(control_plane, training_file=control_plane.upload())["data"]
    assert entry["predicted_peak_bytes"] == pytest.approx(plan.memory.total_bytes * 1.1, rel=1e-3)
    assert entry["plan"]["time"]["measured_correction"] == pytest.approx(1)


def test_a_canary_without_sense_is_refused(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    body = {"tokens": 1, "longest_row_tokens": 1, "tokens_per_micro_step": 1, "seconds": -1, "tokens_per_second": 1}
    refused = attempt.post("canary", {**body, "peak_memory_bytes": 1})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "seconds")


def test_the_current_errors_are_told_by_class_model_method_and_kernels(control_plane: ControlPlane) -> None:
    first = run_once(control_plane, memory=1.25, speed=0.5)
    second = run_once(control_plane, memory=1.0, speed=1.0)
    unfinished = control_plane.claimed("worker-2")
    rehearse(unfinished, memory=1.0, speed=1.0)
    answer = control_plane.request("GET", "/v1/fine_tuning/plans/accuracy").json()
    (kind,) = answer["kinds"]
    assert (kind["worker_class"], kind["model"]) == (CPU.worker_class, "tiny-llama")
    assert (kind["method"], kind["kernels"]) == (first.claim.plan.method, first.claim.plan.kernels)
    assert (kind["runs"], kind["canaries"]) == (2, 1)
    assert kind["memory_error"] == pytest.approx(0.125, abs=0.01)  # 0.25 and then none
    assert kind["time_error"] == pytest.approx(0.5, abs=0.01)  # twice as long, then right
    newest = control_plane.sql("SELECT extract(epoch FROM started_at)::bigint FROM attempts WHERE ended_at IS NULL")
    assert kind["newest_at"] == pytest.approx(newest[0][0], abs=1)
    assert [pair["job"] for pair in answer["data"]] == [second.job_id, first.job_id]


def test_a_run_on_a_busy_host_moves_no_promise_and_the_plan_says_why(control_plane: ControlPlane) -> None:
    run_once(control_plane, speed=1 / 6, others_share=0.9)
    (entry,) = plans(control_plane, training_file=control_plane.upload())["data"]
    assert entry["plan"]["time"]["measured_correction"] == pytest.approx(1, abs=0.005)
    assert "discounted because others used 90% of the machine" in entry["reasons"][-1]["text"]
    (pair,) = control_plane.request("GET", "/v1/fine_tuning/plans/accuracy").json()["data"]
    assert pair["others_share"] == 0.9
