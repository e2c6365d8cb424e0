"""Things that happen at the same moment: real commits on several connections, and one outcome."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from tests.control_plane import AttemptSide, ControlPlane
from tunesmith.service.keeper.expired_leases import end_expired_leases
from tunesmith.tuning.state import Outcome

T = TypeVar("T")


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Make all calls together and return their results in order."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def test_many_claims_at_once_have_one_winner(control_plane: ControlPlane) -> None:
    workers = [control_plane.worker(f"w{number}") for number in range(8)]
    job_id = control_plane.create_job()["id"]
    attempts = [attempt for attempt in at_once(*[worker.claim for worker in workers]) if attempt]
    assert [attempt.job_id for attempt in attempts] == [job_id]
    assert control_plane.sql("SELECT count(*) FROM attempts") == [(1,)]


def test_as_many_claims_as_jobs_all_win_different_ones(control_plane: ControlPlane) -> None:
    workers = [control_plane.worker(f"w{number}") for number in range(6)]
    file = control_plane.upload()
    made = {control_plane.create_job(training_file=file)["id"] for _ in range(6)}
    won: list[AttemptSide] = []
    for _ in range(
        3
    ):  # a claim may pass over a job that another is just taking, as a worker that is rung again will not
        waiting = [worker for worker in workers if worker.id not in {attempt.claim.attempt_id for attempt in won}]
        won += [attempt for attempt in at_once(*[worker.claim for worker in waiting]) if attempt]
    assert {attempt.job_id for attempt in won} == made
    assert len(won) == 6


def test_sixty_four_posts_with_one_key_make_one_job(control_plane: ControlPlane) -> None:
    body = {"model": "tiny-llama", "training_file": control_plane.upload()}

    def post() -> tuple[int, str]:
        response = control_plane.request("POST", "/v1/fine_tuning/jobs", json=body, headers={"Idempotency-Key": "one"})
        return response.status_code, response.json()["id"]

    answers = at_once(*[post] * 64)
    assert len(set(answers)) == 1
    assert control_plane.sql("SELECT count(*) FROM jobs") == [(1,)]


def test_a_first_try_and_its_retry_at_once_make_one_job_or_the_retry_finds_it(control_plane: ControlPlane) -> None:
    body = {"model": "tiny-llama", "training_file": control_plane.upload()}

    def post(retry: str) -> str:
        headers = {"x-stainless-retry-count": retry}
        return str(control_plane.request("POST", "/v1/fine_tuning/jobs", json=body, headers=headers).json()["id"])

    first = post("0")
    assert set(at_once(*[lambda: post("1")] * 8)) == {first}


@pytest.mark.parametrize("round_", range(4))
def test_cancel_and_finish_at_once_agree_on_one_end(control_plane: ControlPlane, round_: int) -> None:
    attempt = control_plane.claimed()
    attempt.artifact()
    path = f"/v1/fine_tuning/jobs/{attempt.job_id}/cancel"
    cancelled, finished = at_once(
        lambda: control_plane.request("POST", path), lambda: attempt.finish(Outcome.SUCCEEDED)
    )
    assert finished.status_code == 204
    status = control_plane.job(attempt.job_id)["status"]
    assert (cancelled.status_code, status) in {(200, "cancelled"), (400, "succeeded")}


def test_a_takeover_and_the_old_owners_finish_at_once_leave_one_owner(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed("w1")
    attempt.artifact()
    again = control_plane.worker("w2")
    _, finished = at_once(lambda: control_plane.worker("w1").id, lambda: attempt.finish(Outcome.SUCCEEDED).status_code)
    status = control_plane.job(attempt.job_id)["status"]
    assert (finished, status) in {(204, "succeeded"), (409, "queued")}
    assert (again.claim() is not None) == (status == "queued")


def test_two_keepers_end_a_lease_once(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    control_plane.expire_leases()
    ended = at_once(*[lambda: control_plane.keep(end_expired_leases)] * 3)
    assert sum(ended) == 1
    assert control_plane.job(attempt.job_id)["status"] == "queued"


def test_claims_at_once_start_no_more_jobs_than_the_project_may_run(
    control_plane: ControlPlane, limited: Callable[..., None]
) -> None:
    limited(running_jobs=2)
    workers = [control_plane.worker(f"w{number}") for number in range(6)]
    file = control_plane.upload()
    for _ in range(6):
        control_plane.create_job(training_file=file)
    at_once(*[worker.claim for worker in workers])
    at_once(*[worker.claim for worker in workers])
    assert control_plane.sql("SELECT count(*) FROM jobs WHERE state = 'running'") == [(2,)]


def test_posts_at_once_put_no_more_jobs_in_line_than_the_project_may_have(
    control_plane: ControlPlane, limited: Callable[..., None]
) -> None:
    limited(queued_jobs=3)
    body = {"model": "tiny-llama", "training_file": control_plane.upload()}
    posts = [lambda: control_plane.request("POST", "/v1/fine_tuning/jobs", json=body).status_code] * 12
    assert Counter(at_once(*posts)) == {200: 3, 429: 9}
    assert control_plane.sql("SELECT count(*) FROM jobs") == [(3,)]


def test_uploads_at_once_store_no_more_bytes_than_the_project_may(
    control_plane: ControlPlane, limited: Callable[..., None]
) -> None:
    limited(stored_bytes=2500)
    form = {"data": {"purpose": "user_data"}, "files": {"file": ("x", b"x" * 1000)}}
    posts = [lambda: control_plane.request("POST", "/v1/files", **form).status_code] * 8
    assert Counter(at_once(*posts)) == {200: 2, 403: 6}


def test_events_written_at_once_have_no_gap_and_no_repeat(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    at_once(*[lambda: attempt.post("events", {"message": "x"})] * 24)
    numbers = [row[0] for row in control_plane.sql("SELECT seq FROM events ORDER BY seq")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert Counter(control_plane.messages(attempt.job_id))["x"] == 24
