"""Create requests that come while others are being recorded: they share a transaction, and nothing else."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.control_plane import ControlPlane
from tests.machines import CPU
from tunesmith.faults import armed
from tunesmith.service.database.tables import Job
from tunesmith.service.database.transactions import Database
from tunesmith.service.jobs.submit import Submission
from tunesmith.service.jobs.submit_groups import SubmitGroups
from tunesmith.service.settings import ProjectLimits
from tunesmith.service.web.auth import Caller
from tunesmith.tuning.api.requests.jobs import JobCreate
from tunesmith.tuning.errors import TunesmithError

Ending = Job | BaseException


def submission(
    plane: ControlPlane,
    training_file: str,
    *,
    suffix: str | None = None,
    idempotency_key: str | None = None,
    is_retry: bool = False,
    most_queued: int = 100_000,
    **fields: Any,
) -> Submission:
    ((key_id, lineage),) = plane.sql("SELECT id, lineage FROM api_keys WHERE role = 'member' AND project = 'acme'")
    return Submission(
        request=JobCreate(**{"model": "tiny-llama", "training_file": training_file, "suffix": suffix, **fields}),
        caller=Caller(key_id=key_id, project="acme", role="member", name="member", lineage=lineage),
        idempotency_key=idempotency_key,
        is_retry=is_retry,
        seed=1,
        max_attempts=3,
        worker_silence=timedelta(seconds=60),
        limits=ProjectLimits(queued_jobs=most_queued),
    )


def submit_at_once(plane: ControlPlane, submissions: Sequence[Submission]) -> list[Ending]:
    """All of them ask before the first is looked at."""

    async def work(database: Database) -> list[Ending]:
        groups = SubmitGroups(database)
        return await asyncio.gather(*map(groups.submit, submissions), return_exceptions=True)

    return plane.run(work)


def transactions(plane: ControlPlane) -> int:
    """How many made the jobs."""
    return int(plane.sql("SELECT count(DISTINCT xmin::text) FROM jobs")[0][0])


def jobs(endings: Sequence[Ending]) -> list[Job]:
    return [ending for ending in endings if isinstance(ending, Job)]


def codes(endings: Sequence[Ending]) -> list[str]:
    assert all(isinstance(ending, Job | TunesmithError) for ending in endings), endings
    return [ending.code for ending in endings if isinstance(ending, TunesmithError)]


def test_forty_requests_at_once_are_forty_jobs_of_two_transactions(control_plane: ControlPlane) -> None:
    file = control_plane.upload()
    control_plane.worker()
    control_plane.sql("DELETE FROM outbox")
    made = jobs(submit_at_once(control_plane, [submission(control_plane, file, suffix=f"n{n}") for n in range(40)]))
    assert [job.suffix for job in made] == [f"n{n}" for n in range(40)]
    assert [job.id for job in made] == sorted({job.id for job in made})
    assert transactions(control_plane) == 2
    histories = control_plane.sql("SELECT array_agg(seq ORDER BY seq) FROM events GROUP BY job_id")
    assert histories == [([1, 2, 3],)] * 40
    wakes = control_plane.sql(
        "SELECT count(*) FROM outbox WHERE topic = 'wake' AND payload->>'worker_class' = %s", CPU.worker_class
    )
    assert wakes == [(40,)]


def test_those_that_one_group_answered_share_the_next_with_who_came_meanwhile(control_plane: ControlPlane) -> None:
    file = control_plane.upload()

    async def work(database: Database) -> None:
        groups = SubmitGroups(database, pause_seconds=0.5)

        async def ask_twice(suffix: str) -> None:
            await groups.submit(submission(control_plane, file, suffix=suffix))
            await asyncio.sleep(0.001)
            await groups.submit(submission(control_plane, file, suffix=f"{suffix}-again"))

        async def ask_while_those_are_recorded() -> None:
            await asyncio.sleep(0)
            await groups.submit(submission(control_plane, file, suffix="meanwhile"))

        await asyncio.gather(ask_twice("one"), ask_twice("two"), ask_while_those_are_recorded())

    control_plane.run(work)
    together = {
        frozenset(row[0]) for row in control_plane.sql("SELECT array_agg(suffix) FROM jobs GROUP BY xmin::text")
    }
    assert together == {frozenset({"one", "two"}), frozenset({"one-again", "two-again", "meanwhile"})}


def test_who_asks_alone_again_and_again_waits_for_no_pause(control_plane: ControlPlane) -> None:
    file = control_plane.upload()

    async def work(database: Database) -> None:
        groups = SubmitGroups(database, pause_seconds=3600)
        for number in range(3):
            await groups.submit(submission(control_plane, file, suffix=f"n{number}"))

    async def in_time(database: Database) -> None:
        await asyncio.wait_for(work(database), timeout=60)

    control_plane.run(in_time)
    assert transactions(control_plane) == 3


def test_what_is_wrong_with_one_request_refuses_that_one_alone(control_plane: ControlPlane) -> None:
    file = control_plane.upload()
    endings = submit_at_once(
        control_plane,
        [
            submission(control_plane, file),
            submission(control_plane, "file-none", idempotency_key="of a bad one"),
            submission(control_plane, file, model="none"),
            submission(control_plane, file, tunesmith={"priority": 99}),
            submission(control_plane, file, idempotency_key="x" * 300),
            submission(control_plane, file),
        ],
    )
    assert [isinstance(ending, Job) for ending in endings] == [True, False, False, False, False, True]
    assert codes(endings) == ["file_not_found", "model_not_found", "priority_too_high", "invalid_request"]
    assert transactions(control_plane) == 1
    assert control_plane.sql("SELECT key FROM idempotency_keys") == []


def test_copies_with_one_idempotency_key_are_one_job(control_plane: ControlPlane) -> None:
    file = control_plane.upload()
    copies = [submission(control_plane, file, idempotency_key="nightly") for _ in range(5)]
    other = submission(control_plane, file, suffix="other", idempotency_key="nightly")
    endings = submit_at_once(control_plane, [*copies, other])
    assert len({job.id for job in jobs(endings)}) == 1
    assert len(jobs(endings)) == 5
    assert codes(endings) == ["idempotency_key_reused"]
    assert control_plane.sql("SELECT count(*) FROM jobs") == [(1,)]


def test_a_retry_among_others_finds_the_job_of_its_first_try(control_plane: ControlPlane) -> None:
    file = control_plane.upload()
    first, retry, other = submit_at_once(
        control_plane,
        [
            submission(control_plane, file),
            submission(control_plane, file, is_retry=True),
            submission(control_plane, file, suffix="other"),
        ],
    )
    assert isinstance(first, Job)
    assert isinstance(retry, Job)
    assert isinstance(other, Job)
    assert first.id == retry.id != other.id


@pytest.mark.parametrize("beside", [0, 1], ids=["alone", "beside another"])
def test_a_copy_that_an_older_version_handles_meanwhile_makes_no_second_job(
    control_plane: ControlPlane, beside: int
) -> None:
    file = control_plane.upload()
    made = control_plane.create_job(training_file=file)["id"]
    first = """
        INSERT INTO idempotency_keys (project, key, request_sha256, job_id, expires_at)
        VALUES ('acme', 'k', %s, %s, now() + interval '1 day')
    """
    copy = submission(control_plane, file, idempotency_key="k")
    others = [submission(control_plane, file)] * beside
    with psycopg.connect(control_plane.settings.database_url) as older, ThreadPoolExecutor(1) as pool:
        older.execute(first, [copy.sha256, made])  # without a lock on the name of the key
        submitted = pool.submit(submit_at_once, control_plane, [copy, *others])
        while not control_plane.sql("SELECT 1 FROM pg_locks WHERE NOT granted"):
            assert not submitted.done(), submitted.result()
        older.commit()
        ending, *_ = submitted.result()
    if beside:  # told apart from the other one, it is looked for again
        assert [job.id for job in jobs([ending])] == [made]
    else:
        assert codes([ending]) == ["conflict"]
    assert control_plane.sql("SELECT count(*) FROM jobs") == [(1 + beside,)]
    assert [job.id for job in jobs(submit_at_once(control_plane, [copy]))] == [made]


def test_of_more_requests_than_the_line_has_room_for_the_first_are_taken(control_plane: ControlPlane) -> None:
    file = control_plane.upload()
    endings = submit_at_once(control_plane, [submission(control_plane, file, most_queued=7) for _ in range(12)])
    assert [isinstance(ending, Job) for ending in endings] == [True] * 7 + [False] * 5
    assert codes(endings) == ["too_many_queued_jobs"] * 5


@pytest.mark.parametrize(("point", "kept"), [("before_commit", 0), ("after_commit", 6)])
def test_a_group_that_breaks_off_at_its_commit_is_wholly_made_or_not_at_all(
    control_plane: ControlPlane, point: str, kept: int
) -> None:
    file = control_plane.upload()
    with armed(f"{point}=raise"):
        endings = submit_at_once(control_plane, [submission(control_plane, file) for _ in range(6)])
    assert jobs(endings) == []
    assert control_plane.sql("SELECT count(*) FROM jobs") == [(kept,)]


def test_a_project_that_is_held_up_holds_up_no_other(control_plane: ControlPlane) -> None:
    own, others = control_plane.upload(), control_plane.upload(key="stranger")
    body = {"model": "tiny-llama", "training_file": own}
    with (
        psycopg.connect(control_plane.settings.database_url) as holder,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("LOCK TABLE idempotency_keys IN SHARE MODE")  # a new key waits
        held = pool.submit(
            control_plane.request, "POST", "/v1/fine_tuning/jobs", json=body, headers={"Idempotency-Key": "k"}
        )
        while not control_plane.sql("SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'RowExclusiveLock'"):
            assert not held.done(), held.result().text
        control_plane.create_job(key="stranger", training_file=others)
        assert not held.done()
        holder.rollback()
        assert held.result().status_code == 200
