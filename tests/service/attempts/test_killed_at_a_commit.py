"""The API is killed right before or right after the commit of a request and started again; whoever asked asks again.

Nobody was answered, so nobody knows which of the two it was: what is asked for exists once either way.
"""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx2
import psycopg
import pytest

from tests.control_plane import AttemptSide, ControlPlane, WorkerSide
from tests.simulation.auditor import Auditor
from tests.stack.api_process import ApiProcess
from tests.waiting import eventually
from tunesmith.tuning.state import Outcome
from tunesmith.tuning.values.json_objects import Json

JOBS = "/v1/fine_tuning/jobs"
OTHERS = 8  # requests that come while the first is being recorded

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
Ask = Callable[[], httpx2.Response]
at_its_commit = pytest.mark.parametrize(("point", "kept"), [("before_commit", 0), ("after_commit", 1)])


@pytest.fixture
def api(control_plane: ControlPlane) -> Iterator[ApiProcess]:
    """What is set up beforehand is asked of `control_plane`, which goes on."""
    process = ApiProcess(control_plane)
    yield process
    process.stop()
    with psycopg.connect(control_plane.settings.database_url, autocommit=True) as connection:
        Auditor(connection).audit_events()


@at_its_commit
def test_a_job_is_created_once(control_plane: ControlPlane, api: ApiProcess, point: str, kept: int) -> None:
    ask = creating(api.plane, training_file=control_plane.upload(), key="nightly")

    killed_while(ask, api, at=point)
    assert count(control_plane, "jobs") == kept
    first = ask().json()["id"]
    assert ask().json()["id"] == first
    assert control_plane.sql("SELECT id FROM jobs") == [(first,)]
    assert control_plane.sql("SELECT job_id FROM idempotency_keys") == [(first,)]
    assert control_plane.messages(first)[0] == f"Created fine-tuning job: {first}"


@pytest.mark.parametrize(("point", "is_kept"), [("before_commit", False), ("after_commit", True)])
def test_the_jobs_of_a_group_are_created_once(
    control_plane: ControlPlane, api: ApiProcess, point: str, is_kept: bool
) -> None:
    file = control_plane.upload()
    asks = [creating(api.plane, training_file=file, key=f"key-{number}") for number in range(1 + OTHERS)]

    api.start(with_faults=f"{point}=kill@2")  # the first transaction is the first request's alone
    answers = asked_together(asks, api)
    assert api.wait_for_its_death() == signal.SIGKILL
    assert sum(answer.exception() is None for answer in answers) <= 1
    groups = [size for (size,) in control_plane.sql("SELECT count(*) FROM jobs GROUP BY xmin::text ORDER BY 1")]
    assert groups[0] == 1
    assert (len(groups), groups[-1] > 1) == ((2, True) if is_kept else (1, False))

    api.start()
    made = [ask().json()["id"] for ask in asks]
    assert len(set(made)) == len(asks)
    assert sorted(made) == [job_id for (job_id,) in control_plane.sql("SELECT id FROM jobs ORDER BY id")]
    assert count(control_plane, "idempotency_keys") == len(asks)


@at_its_commit
def test_a_waiting_job_is_cancelled_once(control_plane: ControlPlane, api: ApiProcess, point: str, kept: int) -> None:
    job_id = control_plane.create_job()["id"]

    killed_while(lambda: api.plane.request("POST", f"{JOBS}/{job_id}/cancel"), api, at=point)
    assert control_plane.job(job_id)["status"] == ("cancelled" if kept else "queued")
    answer = api.plane.request("POST", f"{JOBS}/{job_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert control_plane.messages(job_id).count("Fine-tuning job cancelled") == 1


@at_its_commit
def test_a_running_job_is_told_to_stop_once(
    control_plane: ControlPlane, api: ApiProcess, point: str, kept: int
) -> None:
    attempt = control_plane.claimed()
    cancel = f"{JOBS}/{attempt.job_id}/cancel"

    killed_while(lambda: api.plane.request("POST", cancel), api, at=point)
    assert attempt.heartbeat().json()["cancel"] is bool(kept)
    assert api.plane.request("POST", cancel).status_code == 200
    assert attempt.heartbeat().json()["cancel"] is True
    assert attempt.finish(Outcome.CANCELLED).status_code == 204
    assert control_plane.job(attempt.job_id)["status"] == "cancelled"
    asked = [text for text in control_plane.messages(attempt.job_id) if text.startswith("Cancellation requested")]
    assert len(asked) == 1


@at_its_commit
def test_a_claim_gives_one_attempt(control_plane: ControlPlane, api: ApiProcess, point: str, kept: int) -> None:
    worker = control_plane.worker()
    job_id = control_plane.create_job()["id"]
    there = over(api, worker)

    killed_while(lambda: there.ask(claim_id="claim-1"), api, at=point)
    assert count(control_plane, "attempts") == kept
    attempt = there.claim(claim_id="claim-1")
    assert attempt is not None
    assert control_plane.sql("SELECT id, job_id, epoch FROM attempts") == [(attempt.claim.attempt_id, job_id, 1)]
    assert there.ask(claim_id="claim-2").status_code == 204
    attempt.succeed()
    assert control_plane.job(job_id)["status"] == "succeeded"


@at_its_commit
def test_a_lease_is_renewed(control_plane: ControlPlane, api: ApiProcess, point: str, kept: int) -> None:
    attempt = control_plane.claimed()
    control_plane.sql("UPDATE attempts SET lease_expires_at = now() + interval '1 second'")
    there = AttemptSide(api.plane, attempt.claim)
    is_renewed = "SELECT lease_expires_at > now() + interval '30 seconds', step FROM attempts"

    killed_while(lambda: there.heartbeat(step=7), api, at=point)
    assert control_plane.sql(is_renewed) == [(bool(kept), 7 if kept else None)]
    assert there.heartbeat(step=7).status_code == 200
    assert control_plane.sql(is_renewed) == [(True, 7)]
    assert control_plane.job(attempt.job_id)["status"] == "running"


@at_its_commit
def test_metrics_are_kept_once(control_plane: ControlPlane, api: ApiProcess, point: str, kept: int) -> None:
    attempt = control_plane.claimed()
    there = AttemptSide(api.plane, attempt.claim)
    points: list[Json] = [{"step": step, "train_loss": 3.0 - step / 10} for step in (1, 2, 3)]

    killed_while(lambda: there.metrics(points), api, at=point)
    assert count(control_plane, "metric_chunks") == kept
    assert there.metrics(points).status_code == 204
    assert there.metrics([{"step": 4, "train_loss": 2.5}], start=100).status_code == 204
    metrics = control_plane.request("GET", f"{JOBS}/{attempt.job_id}/metrics").json()["data"]
    assert [point["step"] for point in metrics] == [1, 2, 3, 4]
    told = control_plane.sql("SELECT (data ->> 'step')::int FROM events WHERE type = 'metrics' ORDER BY seq")
    assert told == [(step,) for step in sorted({step for (step,) in told})]


@pytest.mark.parametrize(("point", "kept"), [("before_finish", 0), ("after_finish", 1)])
def test_an_attempt_ends_once(control_plane: ControlPlane, api: ApiProcess, point: str, kept: int) -> None:
    attempt = control_plane.claimed()
    attempt.artifact()
    there = AttemptSide(api.plane, attempt.claim)

    killed_while(lambda: there.finish(Outcome.SUCCEEDED), api, at=point)
    assert control_plane.job(attempt.job_id)["status"] == ("succeeded" if kept else "running")
    assert there.finish(Outcome.SUCCEEDED).status_code == 204
    assert control_plane.job(attempt.job_id)["status"] == "succeeded"
    assert control_plane.messages(attempt.job_id).count("The job has successfully completed") == 1
    assert control_plane.sql("SELECT job_id FROM models WHERE job_id IS NOT NULL") == [(attempt.job_id,)]
    assert control_plane.sql("SELECT outcome FROM attempts") == [("succeeded",)]


def killed_while(ask: Ask, api: ApiProcess, *, at: str) -> None:
    """Ask an API that kills itself at the point: there is no answer. Then start it again."""
    api.start(with_faults=f"{at}=kill")
    with pytest.raises(httpx2.TransportError):
        ask()
    assert api.wait_for_its_death() == signal.SIGKILL
    api.start()


def creating(plane: ControlPlane, *, training_file: str, key: str) -> Ask:
    body = {"model": "tiny-llama", "training_file": training_file}
    return lambda: plane.request("POST", JOBS, json=body, headers={"Idempotency-Key": key})


def asked_together(asks: list[Ask], api: ApiProcess) -> "list[Future[httpx2.Response]]":
    """The first is held up in its transaction until all others have come."""
    with psycopg.connect(api.plane.settings.database_url) as holder, ThreadPoolExecutor(len(asks)) as pool:
        holder.execute("LOCK TABLE idempotency_keys IN SHARE MODE")  # a new key waits
        answers = [pool.submit(asks[0])]
        waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'RowExclusiveLock'"
        eventually(lambda: api.plane.sql(waits), what="the first request's transaction")
        answers += [pool.submit(ask) for ask in asks[1:]]
        eventually(lambda: being_handled(api) == len(asks), what="all requests")
        holder.rollback()
    return answers


def being_handled(api: ApiProcess) -> int:
    """Requests of this key beside the one that finds it out."""
    headers = api.plane.request("GET", "/v1/nothing").headers
    return int(headers["x-ratelimit-limit-requests"]) - int(headers["x-ratelimit-remaining-requests"]) - 1


def over(api: ApiProcess, worker: WorkerSide) -> WorkerSide:
    """The same worker process, asking another address."""
    other = WorkerSide(api.plane, worker.id, hardware=worker.hardware)
    other.incarnation = worker.incarnation
    return other


def count(plane: ControlPlane, table: str) -> int:
    return int(plane.sql(f"SELECT count(*) FROM {table}")[0][0])
