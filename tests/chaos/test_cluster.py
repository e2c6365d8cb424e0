"""Everything twice, behind proxies, and something going wrong all the time: each promise holds, and no byte differs.

    CHAOS_SEED=7 CHAOS_SECONDS=240 make t F="tests/chaos/test_cluster.py -s"

The seed decides what happens, in which order and for how long; what it meets is decided by the machine. CHAOS_REPORT
names a page with a table for runs, as `make chaos` and `make soak` set it.
"""

import datetime as dt
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import report
from tests.chaos.auditor import ClusterAuditor
from tests.chaos.cluster import Cluster, running_cluster
from tests.chaos.crowd import Crowd
from tests.chaos.disturbances import HAPPENINGS, Disturber
from tests.stack.installation import MODEL, chat_rows
from tests.waiting import eventually
from tunesmith.tuning.values.json_objects import Json

ROWS, EPOCHS = 16, 2  # 8 steps with a checkpoint after each quarter
OPEN_JOBS = 6
PATIENCE_SECONDS = 900.0  # from the last disturbance to the last end
SILENCE_SECONDS = 30.0

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(0)]  # the length is the caller's


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


def test_a_cluster_that_is_disturbed_all_the_time_keeps_every_promise(cluster: Cluster) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(10**6))
    seconds = float(os.environ.get("CHAOS_SECONDS") or 240)
    print(f"CHAOS_SEED={seed} CHAOS_SECONDS={seconds:.0f}")
    auditor = ClusterAuditor(cluster.database_url, store=cluster.root / "store")
    body = upload(cluster)
    weights = run_undisturbed(cluster, auditor, body)

    cluster.revive()
    disturber = Disturber(cluster, seed=seed)
    with Crowd(cluster.urls, key=cluster.user_key, body=body, seed=seed, open_jobs=OPEN_JOBS) as crowd:
        disturb(disturber, auditor, crowd, seconds=seconds)
        print(f"disturbances: {dict(disturber.counts)}")
        come_to_rest(cluster, auditor, crowd)

    auditor.audit(crowd.promises, weights=weights)
    cluster.wait_for_silence(seconds=SILENCE_SECONDS)
    assert cluster.drain() == [0, 0]
    counts = auditor.counts()
    run = report.ClusterRun(
        seed=seed,
        began_on=dt.datetime.now(dt.UTC).date(),
        disturbed_seconds=seconds,
        jobs=counts["jobs"],
        attempts=counts["attempts"],
        looks=auditor.looks,
        disturbances=disturber.counts,
    )
    print(run.row())
    if "CHAOS_REPORT" in os.environ:
        report.add_to(Path(os.environ["CHAOS_REPORT"]), run)


def upload(cluster: Cluster) -> Json:
    """What every job asks for: the same training, with dropout, so that every random number counts."""
    with cluster.openai() as client:
        file = client.files.create(file=("rows.jsonl", chat_rows(ROWS)), purpose="fine-tune")
    return {
        "model": MODEL,
        "training_file": file.id,
        "seed": 11,
        "hyperparameters": {"n_epochs": EPOCHS, "batch_size": 4},
        "tunesmith": {"method": "lora", "lora": {"rank": 4, "dropout": 0.1}},
    }


def run_undisturbed(cluster: Cluster, auditor: ClusterAuditor, body: Json) -> str:
    """The hash of the weights of a job before anything goes wrong."""
    with cluster.http() as client:
        job_id = client.post("/v1/fine_tuning/jobs", json=body).raise_for_status().json()["id"]
    cluster.wait_for_status(job_id, "succeeded", seconds=PATIENCE_SECONDS)
    return auditor.weights_of(job_id)


def disturb(disturber: Disturber, auditor: ClusterAuditor, crowd: Crowd, *, seconds: float) -> None:
    """One disturbance after the other, and a look between them."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        disturber.disturb()
        auditor.look()
        assert not crowd.is_at_rest  # raises what went wrong for a user
    assert disturber.counts.keys() <= HAPPENINGS.keys()


def come_to_rest(cluster: Cluster, auditor: ClusterAuditor, crowd: Crowd) -> None:
    """Nothing goes wrong any more: whatever was accepted ends by itself."""
    crowd.is_content = True

    def has_come() -> bool:
        cluster.revive()
        auditor.look()
        return crowd.is_at_rest

    eventually(
        has_come, seconds=PATIENCE_SECONDS, pause_seconds=0.5, what=lambda: f"{crowd.waits_for}\n{cluster.logs()}"
    )
