"""Long faults under real runs: a database that is away or frozen, a queue that forgets, a machine that sleeps."""

import time
from collections.abc import Iterator

import pytest

from tests.chaos.auditor import ClusterAuditor
from tests.chaos.cluster import BOTH, Cluster, running_cluster
from tests.chaos.crowd import Crowd
from tests.chaos.disturbances import flush, freeze, thaw
from tests.chaos.test_cluster import come_to_rest, run_undisturbed, upload
from tests.stack.worker import trainers_below
from tests.waiting import eventually

OUTAGE_SECONDS = 110.0  # nine leases
FROZEN_SECONDS = 65.0
FLUSH_EVERY_SECONDS = 5.0
LONG_ROWS, LONG_EPOCHS = 800, 50  # 10,000 steps: of 5,000 a quiet machine is done within the outage
SLEEP_ROWS, SLEEP_EPOCHS = 200, 4
TABLES = ("jobs", "attempts", "events", "metric_chunks", "checkpoints", "artifacts", "models")

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.mark.parametrize(
    "seconds", [pytest.param(30.0, marks=pytest.mark.slow), pytest.param(300.0, marks=pytest.mark.chaos)]
)
def test_a_queue_that_forgets_every_five_seconds_under_load_loses_no_job(cluster: Cluster, seconds: float) -> None:
    auditor = ClusterAuditor(cluster.database_url, store=cluster.root / "store")
    body = upload(cluster)
    weights = run_undisturbed(cluster, auditor, body)
    cluster.revive()
    deadline, flushes = time.monotonic() + seconds, 0
    with Crowd(cluster.urls, key=cluster.user_key, body=body, seed=1, open_jobs=8) as crowd:
        while time.monotonic() < deadline:
            flush(cluster)
            flushes += 1
            auditor.look()
            time.sleep(FLUSH_EVERY_SECONDS)
        come_to_rest(cluster, auditor, crowd)
    auditor.audit(crowd.promises, weights=weights)
    print(f"{flushes} flushes, {auditor.counts()}")
    assert auditor.counts()["attempts"]["lost"] == 0


@pytest.mark.chaos
def test_a_database_that_is_away_for_110_seconds_ends_no_run_and_loses_no_point(cluster: Cluster) -> None:
    cluster.revive()
    jobs = [cluster.submit(held_out_rows=0, rows=LONG_ROWS, epochs=LONG_EPOCHS) for _ in BOTH]
    for job_id in jobs:
        cluster.wait_for_step(job_id, 1)
    trainers = {trainer.pid for trainer in trainers_below(cluster.root)}
    cluster.postgres.stop()
    time.sleep(OUTAGE_SECONDS)
    still = {trainer.pid for trainer in trainers_below(cluster.root)}
    cluster.revive_postgres()

    print(f"{len(still)} of {len(trainers)} processes of runs were still at work after {OUTAGE_SECONDS:.0f} s")
    assert still, "the runs were over before the outage was"
    assert still <= trainers, "a run began again"
    for job_id in jobs:
        job = cluster.wait_for_status(job_id, "succeeded", seconds=900)
        assert [attempt["outcome"] for attempt in cluster.attempts(job_id)] == ["succeeded"]
        assert cluster.steps(job_id) == list(range(1, job["tunesmith"]["plan"]["total_steps"] + 1))


@pytest.mark.chaos
def test_a_database_that_is_frozen_for_65_seconds_is_answered_for_ends_no_run_and_loses_no_point(
    cluster: Cluster,
) -> None:
    cluster.revive()
    job_id = cluster.submit(held_out_rows=0, rows=LONG_ROWS, epochs=LONG_EPOCHS)
    cluster.wait_for_step(job_id, 1)
    trainers = {trainer.pid for trainer in trainers_below(cluster.root)}
    frozen = freeze(cluster.postgres.pid)
    deadline, slowest = time.monotonic() + FROZEN_SECONDS, 0.0
    try:
        while time.monotonic() < deadline:
            slowest = max(slowest, seconds_of_a_refusal(cluster))
            time.sleep(1)
        still = {trainer.pid for trainer in trainers_below(cluster.root)}
    finally:
        thaw(frozen)
    thawed_at = time.monotonic()
    eventually(cluster.answers, seconds=10, what=lambda: f"an answer\n{cluster.logs()}")
    print(
        f"{len(still)} of {len(trainers)} processes of the run were still at work after {FROZEN_SECONDS:.0f} s; "
        f"refusals took {slowest:.1f} s at most, the first answer {time.monotonic() - thawed_at:.1f} s"
    )

    assert still, "the run was over before the freeze was"
    assert still <= trainers, "a run began again"
    job = cluster.wait_for_status(job_id, "succeeded", seconds=900)
    assert [attempt["outcome"] for attempt in cluster.attempts(job_id)] == ["succeeded"]
    assert cluster.steps(job_id) == list(range(1, job["tunesmith"]["plan"]["total_steps"] + 1))


@pytest.mark.chaos
def test_a_worker_that_wakes_after_its_job_has_ended_elsewhere_changes_nothing_and_ends_its_run(
    cluster: Cluster,
) -> None:
    cluster.revive()
    job_id = cluster.submit(held_out_rows=0, rows=SLEEP_ROWS, epochs=SLEEP_EPOCHS)
    cluster.wait_for_checkpoint(job_id)
    (sleeper,) = (worker for worker in cluster.workers.values() if worker.trainers())
    stale = {trainer.pid for trainer in sleeper.trainers()}
    asleep = freeze(sleeper.process.pid)
    cluster.wait_for_status(job_id, "succeeded", seconds=900)
    before = rows_of(cluster, job_id)
    assert [attempt["outcome"] for attempt in cluster.attempts(job_id)] == ["lost", "succeeded"]
    thaw(asleep)

    eventually(lambda: sleeper.said("attempt.lease_lost"), seconds=60, what=lambda: f"the fence\n{cluster.logs()}")
    eventually(lambda: not stale & {one.pid for one in sleeper.trainers()}, seconds=30, what="the end of its run")
    assert rows_of(cluster, job_id) == before


def seconds_of_a_refusal(cluster: Cluster) -> float:
    """How long one API took to say that its database is away; it said that it lives meanwhile."""
    with cluster.http() as client:
        assert client.get("/healthz", timeout=5).is_success
        began_at = time.monotonic()
        answer = client.get("/v1/models")  # for which it has the 30 s of this client
        took = time.monotonic() - began_at
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        readiness = client.get("/readyz")
    assert (readiness.status_code, readiness.json()["checks"]["store"]) == (503, "ok")
    assert readiness.json()["checks"]["database"] != "ok"
    return took


def rows_of(cluster: Cluster, job_id: str) -> dict[str, list[str]]:
    """Everything that is recorded about a job, as text."""
    found = {}
    for table in TABLES:
        column = "id" if table == "jobs" else "job_id"
        rows = cluster.query(f"SELECT t::text FROM {table} t WHERE {column} = %s ORDER BY 1", job_id)
        found[table] = [text for (text,) in rows]
    return found
