"""A claim keeps its id until it is answered, so that a job which was given away unheard is not lost."""

from pathlib import Path

import pytest

from tests.worker.attempt.test_preparation import host
from tests.worker.scripted_service import Reply, ScriptedService
from tunesmith.worker.daemon.pool_worker import PoolWorker
from tunesmith.worker.settings import WorkerSettings
from tunesmith.worker.transport.control import HttpControlPlane
from tunesmith.worker.work_directory import WorkerSession

SESSION = WorkerSession(worker_id="w", incarnation="i", worker_class="c", name="n")


@pytest.fixture
def pool_worker(tmp_path: Path, service: ScriptedService) -> PoolWorker:
    values = {"url": service.url, "worker_key": "ts-worker", "REDIS_URL": "redis://127.0.0.1:1"}
    control = HttpControlPlane(url=service.url, worker_key="ts-worker", outage_patience_seconds=1)
    return PoolWorker(settings=WorkerSettings(**values, work_dir=tmp_path), control=control)


def test_a_claim_is_asked_under_one_id_until_it_is_answered(pool_worker: PoolWorker, service: ScriptedService) -> None:
    service.script("/claims", Reply.error(404, "worker_not_registered"))
    for _ in range(3):
        assert pool_worker._claim(SESSION, host()) is None
    first, again, next_one = [request.json["claim_id"] for request in service.to("/claims")]
    assert first == again
    assert next_one != first
    tokens = [request.json["lease_token"] for request in service.to("/claims")]
    assert tokens[0] == tokens[1] != tokens[2]
    pool_worker.close()


def test_a_worker_that_drains_claims_nothing(pool_worker: PoolWorker, service: ScriptedService) -> None:
    pool_worker._work.create()
    pool_worker._work.start_session(SESSION)
    pool_worker._work.start_draining(60)
    assert not pool_worker.run_next()
    assert service.to("/claims") == []
    pool_worker.close()
