"""Claims change bases least: within a project and a priority, near the front of the line, and not for long."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.control_plane import AttemptSide, ControlPlane, WorkerSide
from tunesmith.service.attempts.same_base import LOOK_AHEAD


@pytest.fixture
def two_bases(control_plane: ControlPlane) -> ControlPlane:
    control_plane.add_model("other-llama")
    return control_plane


def queued(plane: ControlPlane, *models: str, **fields: object) -> list[str]:
    """One job after another; their ids."""
    file = plane.upload()
    return [plane.create_job(model=model, training_file=file, **fields)["id"] for model in models]


def take(worker: WorkerSide) -> AttemptSide:
    """Claim as a worker does that remembers which base it has read."""
    attempt = worker.claim()
    assert attempt is not None
    worker.last_base = attempt.claim.base_model.base_digest
    return attempt


def order(worker: WorkerSide, count: int) -> list[str]:
    return [take(worker).job_id for _ in range(count)]


def test_jobs_of_two_bases_in_turn_are_claimed_base_by_base_and_each_says_why(two_bases: ControlPlane) -> None:
    ours = queued(two_bases, "tiny-llama", "other-llama", "tiny-llama", "other-llama", "tiny-llama", "other-llama")
    assert order(two_bases.worker(), 6) == [ours[n] for n in (0, 2, 4, 1, 3, 5)]
    why = "Started before 1 job ahead of it in the project's line: the worker used the same base last."
    assert why in two_bases.messages(ours[2])
    assert "ahead of it" not in " ".join(two_bases.messages(ours[1]))
    events = two_bases.request("GET", f"/v1/fine_tuning/jobs/{ours[4]}/events").json()["data"]
    found = [event["data"]["passed_over"] for event in events if "passed_over" in (event["data"] or {})]
    assert found == [[ours[1], ours[3]]]


def test_a_worker_that_remembers_no_base_takes_them_as_they_come(two_bases: ControlPlane) -> None:
    ours = queued(two_bases, "tiny-llama", "other-llama", "tiny-llama")
    workers = [two_bases.worker(f"w{number}") for number in range(3)]
    assert [take(worker).job_id for worker in workers] == ours


def test_an_adapter_counts_as_the_base_under_it(two_bases: ControlPlane) -> None:
    queued(two_bases, "tiny-llama")
    worker = two_bases.worker()
    first = take(worker)
    first.succeed()
    tuned = two_bases.job(first.job_id)["fine_tuned_model"]
    other, continued = queued(two_bases, "other-llama", tuned)
    assert order(worker, 2) == [continued, other]


def test_a_job_that_could_have_started_a_quarter_of_an_hour_ago_is_passed_over_no_more(two_bases: ControlPlane) -> None:
    worker = two_bases.worker()
    queued(two_bases, "tiny-llama")
    take(worker)
    long_waiting, other = queued(two_bases, "other-llama", "tiny-llama")
    earlier = "queued_at = queued_at - interval '16 minutes', not_before = not_before - interval '16 minutes'"
    two_bases.sql(f"UPDATE jobs SET {earlier} WHERE id = %s", long_waiting)
    assert order(worker, 2) == [long_waiting, other]


def test_no_job_of_another_project_or_of_higher_priority_is_passed_over(two_bases: ControlPlane) -> None:
    worker = two_bases.worker()
    queued(two_bases, "tiny-llama")
    take(worker)
    theirs = two_bases.create_job(key="stranger", model="other-llama")["id"]
    (low,) = queued(two_bases, "tiny-llama", tunesmith={"priority": -1})
    (high,) = queued(two_bases, "other-llama", tunesmith={"priority": 1})
    attempts = [worker.claim() for _ in range(3)]  # each time it says that it used the base of `low` last
    assert [attempt.job_id for attempt in attempts if attempt] == [theirs, high, low]


def test_nobody_looks_further_ahead_than_a_few_jobs(two_bases: ControlPlane) -> None:
    worker = two_bases.worker()
    queued(two_bases, "tiny-llama")
    take(worker)
    first, *_ = queued(two_bases, *["other-llama"] * LOOK_AHEAD, "tiny-llama")
    assert order(worker, 1) == [first]


def test_workers_that_all_want_the_same_base_at_once_get_a_job_each(two_bases: ControlPlane) -> None:
    first = two_bases.worker("first")
    queued(two_bases, "tiny-llama")
    take(first)
    jobs = queued(two_bases, *["other-llama", "tiny-llama"] * 4)
    workers = [two_bases.worker(f"w{number}") for number in jobs]
    for worker in workers:
        worker.last_base = first.last_base
    won: list[str] = []
    for _ in range(3):  # as in tests/races: a claim may pass over a job that another is just taking
        with ThreadPoolExecutor(len(workers)) as threads:
            claimed = list(threads.map(lambda worker: worker.claim(), workers))
        won += [attempt.job_id for attempt in claimed if attempt]
        workers = [worker for worker, attempt in zip(workers, claimed, strict=True) if attempt is None]
        if not workers:
            break
    assert sorted(won) == sorted(jobs)
