"""How often a job is tried: failures, lost workers and preemptions are counted apart, and poison is told as such."""

from typing import Any

import pytest

from tests.control_plane import AttemptSide, ControlPlane
from tests.service.test_attempts import KILLED, TRANSIENT, next_attempt, skip_pause
from tunesmith.service.attempts.outcomes import Policy
from tunesmith.service.keeper.expired_leases import end_expired_leases
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.state import Outcome

STALLED = Failure(code="trainer_stalled", message="It hangs.", category=Category.STALLED, retryable=True)
COUNTS = ("attempts", "attempts_failed", "max_attempts", "attempts_lost", "attempts_preempted")


def counts(plane: ControlPlane, job_id: str) -> dict[str, Any]:
    ours = plane.job(job_id)["tunesmith"]
    return {name: ours[name] for name in COUNTS}


def lose_worker(plane: ControlPlane) -> None:
    plane.expire_leases()
    assert plane.keep(end_expired_leases) == 1


def test_each_way_to_end_has_a_counter_of_its_own(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    job_id = attempt.job_id
    attempt.finish(Outcome.PREEMPTED)
    next_attempt(control_plane).finish(Outcome.FAILED, failure=TRANSIENT)
    next_attempt(control_plane)
    lose_worker(control_plane)
    assert counts(control_plane, job_id) == dict(zip(COUNTS, (3, 1, 4, 1, 1), strict=True))
    last = next_attempt(control_plane)
    assert counts(control_plane, job_id) == dict(zip(COUNTS, (4, 1, 4, 1, 1), strict=True))
    last.succeed()
    assert counts(control_plane, job_id) == dict(zip(COUNTS, (4, 1, 4, 1, 1), strict=True))


def test_lost_workers_do_not_use_up_what_may_fail(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    for number in range(9):
        lose_worker(control_plane)
        next_attempt(control_plane, f"w{number}")
    lose_worker(control_plane)
    job = control_plane.job(attempt.job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "worker_lost")
    assert job["error"]["message"].startswith("Lost 10 workers, the most that a job may lose.")
    assert (job["tunesmith"]["attempts_lost"], job["tunesmith"]["attempts_failed"]) == (10, 0)


def test_failures_do_not_use_up_what_may_be_lost_and_the_job_says_what_ended_it(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    lose_worker(control_plane)
    for _ in range(3):
        next_attempt(control_plane).finish(Outcome.FAILED, failure=TRANSIENT)
    assert control_plane.job(attempt.job_id)["status"] == "queued"
    assert "(failure 3 of 4 that it may have)" in control_plane.messages(attempt.job_id)[-1]
    next_attempt(control_plane).finish(Outcome.FAILED, failure=TRANSIENT)
    error = control_plane.job(attempt.job_id)["error"]
    assert (error["code"], error["message"]) == (
        "flaky",
        "Failed 4 times, the most that it may. Last: The disk hiccuped.",
    )


def test_a_lost_worker_is_told_with_its_budget_and_the_next_try_waits_longer_each_time(
    control_plane: ControlPlane,
) -> None:
    attempt = control_plane.claimed()
    waits = []
    for number in range(3):
        lose_worker(control_plane)
        assert f"(worker {number + 1} of 10 that it may lose)" in control_plane.messages(attempt.job_id)[-1]
        waits.append(float(control_plane.sql("SELECT extract(epoch FROM not_before - now()) FROM jobs")[0][0]))
        next_attempt(control_plane, f"w{number}")
    assert waits[0] <= 0
    assert 3 < waits[1] <= 5
    assert 7 < waits[2] <= 10


def pause_seconds(plane: ControlPlane) -> float:
    return float(plane.sql("SELECT extract(epoch FROM not_before - now()) FROM jobs")[0][0])


def test_a_job_that_is_given_back_without_getting_further_waits_longer_each_time_and_says_so(
    control_plane: ControlPlane,
) -> None:
    attempt = control_plane.claimed()
    waits = []
    for _ in range(4):
        attempt.finish(Outcome.PREEMPTED)
        waits.append(pause_seconds(control_plane))
        reason = control_plane.job(attempt.job_id)["tunesmith"]["waiting_reason"]
        attempt = next_attempt(control_plane)
    assert waits[0] <= 0
    assert 3 < waits[1] <= 5
    assert 7 < waits[2] <= 10
    assert 14 < waits[3] <= 20
    assert reason.startswith("Tried again at ")
    assert reason.endswith(" UTC. Workers gave it back 4 times without a step further.")
    assert any("gave it back 4 times without a step further. Trying again in" in line for line in history(attempt))


def test_a_job_that_gets_further_each_time_is_given_back_as_often_as_it_takes(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    for step in (1, 2, 40, 41, 96):
        attempt.heartbeat(step=step)
        attempt.finish(Outcome.PREEMPTED)
        assert pause_seconds(control_plane) <= 0
        attempt = next_attempt(control_plane)
    for _ in range(2):
        attempt.heartbeat(step=96)
        attempt.finish(Outcome.PREEMPTED)
        attempt = next_attempt(control_plane)
    assert any("gave it back 2 times" in line for line in history(attempt))


def test_a_job_that_every_worker_gives_back_does_not_go_round_for_ever(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    give_back_before(control_plane, attempt, times=98)
    attempt.finish(Outcome.PREEMPTED)
    assert pause_seconds(control_plane) <= 300
    attempt = next_attempt(control_plane)
    assert attempt.finish(Outcome.PREEMPTED).status_code == 204
    job = control_plane.job(attempt.job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "given_back_too_often")
    assert job["error"]["message"] == "Workers gave it back 100 times without a step further."


def test_a_job_that_is_paused_meanwhile_no_longer_waits_for_its_next_try(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    attempt.finish(Outcome.FAILED, failure=TRANSIENT)
    path = f"/v1/fine_tuning/jobs/{attempt.job_id}"
    assert TRANSIENT.message in control_plane.job(attempt.job_id)["tunesmith"]["waiting_reason"]
    assert control_plane.request("POST", f"{path}/pause").json()["tunesmith"]["waiting_reason"] is None
    resumed = control_plane.request("POST", f"{path}/resume").json()["tunesmith"]["waiting_reason"]
    assert resumed.startswith("Waits for a worker to take it: ")
    assert pause_seconds(control_plane) <= 0


def give_back_before(plane: ControlPlane, attempt: AttemptSide, *, times: int) -> None:
    """As many earlier attempts that were given back, as rows: playing them takes a minute."""
    columns = "job_id, worker_id, incarnation, worker_class, lease_token_sha256, lease_expires_at, phase, plan"
    plane.sql("UPDATE jobs SET epoch = epoch + %s", times)
    plane.sql("UPDATE attempts SET epoch = epoch + %s", times)
    plane.sql(
        f"""
        INSERT INTO attempts (id, epoch, ended_at, outcome, {columns})
        SELECT 'attempt-' || number, number, now(), 'preempted', {columns} FROM attempts, generate_series(1, %s) number
        WHERE attempts.id = %s
        """,
        times,
        attempt.claim.attempt_id,
    )


def history(attempt: AttemptSide) -> list[str]:
    return attempt.plane.messages(attempt.job_id)


def test_a_stalled_trainer_is_tried_again_as_often_as_a_failed_one(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    for _ in range(3):
        attempt.finish(Outcome.FAILED, failure=STALLED)
        attempt = next_attempt(control_plane)
    attempt.finish(Outcome.FAILED, failure=STALLED)
    job = control_plane.job(attempt.job_id)
    assert (job["error"]["code"], job["tunesmith"]["failure"]["category"]) == ("trainer_stalled", "stalled")


def test_poison_keeps_what_is_known_of_the_kill(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    killed = KILLED.model_copy(update={"signal": "SIGSEGV", "rank": 1})
    for _ in range(2):
        attempt.finish(Outcome.FAILED, failure=killed)
        attempt = next_attempt(control_plane)
    attempt.finish(Outcome.FAILED, failure=killed)
    job = control_plane.job(attempt.job_id)
    failure = job["tunesmith"]["failure"]
    assert (job["error"]["code"], failure["signal"], failure["rank"]) == ("poison", "SIGSEGV", 1)
    assert failure["retryable"] is False
    skip_pause(control_plane)
    assert control_plane.worker().claim() is None


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, [5, 10, 20, 300]), (1.0, [3.75, 7.5, 15, 225])])
def test_the_pause_doubles_to_a_bound_and_is_shortened_by_chance(jitter: float, seconds: list[float]) -> None:
    policy = Policy(retry_seconds=5, max_lost_attempts=10, jitter=jitter)
    assert [policy.pause(number).total_seconds() for number in (1, 2, 3, 20)] == seconds
