"""Things that happen at the same moment: real commits on several connections, and one outcome."""

import asyncio
from collections import Counter
from collections.abc import Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg
import pytest

from tests.control_plane import AttemptSide, ControlPlane, sha256
from tests.waiting import eventually
from tunesmith.service.app import create_app
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
    with psycopg.connect(control_plane.settings.database_url) as other, ThreadPoolExecutor(6) as pool:
        other.execute("LOCK TABLE attempts IN SHARE MODE")  # none of them starts its job before all have counted
        claims = [pool.submit(worker.claim) for worker in workers]
        while control_plane.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") != [(6,)]:
            assert not any(claim.done() for claim in claims)
        other.rollback()
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


def test_copies_of_one_claim_at_once_get_one_attempt(control_plane: ControlPlane) -> None:
    worker = control_plane.worker()
    file = control_plane.upload()
    for _ in range(3):
        control_plane.create_job(training_file=file)
    attempts = at_once(*[lambda: worker.claim(claim_id="one")] * 4)
    assert len({attempt.claim.attempt_id for attempt in attempts if attempt}) == 1
    assert control_plane.sql("SELECT count(*) FROM attempts") == [(1,)]


def test_a_lease_that_is_renewed_while_the_keeper_waits_for_its_job_is_not_ended(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    control_plane.expire_leases()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(control_plane.settings.database_url) as heartbeat, ThreadPoolExecutor(1) as pool:
        heartbeat.execute("SELECT 1 FROM jobs FOR NO KEY UPDATE")
        keeper = pool.submit(control_plane.keep, end_expired_leases)
        eventually(lambda: control_plane.sql(waiting) == [(1,)], what="the keeper at the lock of the job")
        heartbeat.execute("UPDATE attempts SET lease_expires_at = now() + interval '1 minute'")
        heartbeat.commit()
        assert keeper.result() == 0
    assert attempt.heartbeat().status_code == 200


def test_bytes_that_arrive_after_a_takeover_are_not_recorded(control_plane: ControlPlane) -> None:
    stale = control_plane.claimed("worker-1")
    content = b"sent to the end by a worker that has lost its lease"
    digest = sha256(content)

    async def send_and_be_overtaken() -> list[int]:
        app = create_app(control_plane.settings)
        statuses: list[int] = []

        async def receive() -> dict[str, object]:  # asked for the first time behind the first fence
            control_plane.worker("worker-1")
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            statuses.extend([message["status"]] if message["type"] == "http.response.start" else [])

        await app(put(stale.path(f"blobs/{digest}"), token=stale.claim.lease_token), receive, send)
        await app.state.database.close()
        return statuses

    assert asyncio.run(send_and_be_overtaken()) == [409]
    assert control_plane.sql("SELECT count(*) FROM blobs WHERE sha256 = %s AND is_stored", digest) == [(0,)]


def put(path: str, *, token: str) -> dict[str, Any]:
    """A request as a server hands it to the application."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "PUT",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"authorization", f"Bearer {token}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
