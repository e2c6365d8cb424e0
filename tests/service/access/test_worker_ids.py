"""A worker's id belongs to the key that registered it: another worker's key cannot speak for it."""

from typing import Any

import pytest

from tests.control_plane import ControlPlane, WorkerSide
from tests.machines import CPU
from tunesmith.tuning.inference_messages import InferenceHeartbeat, RegisterInferenceWorker
from tunesmith.tuning.values.units import GIB


class OfAnother(WorkerSide):
    """The same worker's id and incarnation, said with another worker's key."""

    def __init__(self, worker: WorkerSide, key: str) -> None:
        super().__init__(worker.plane, worker.id, hardware=worker.hardware)
        self.incarnation, self._key = worker.incarnation, key

    def _post(self, path: str, body: Any) -> Any:
        return self.plane.request("POST", path, key=self._key, content=body.model_dump_json())


@pytest.fixture
def other_key(plane: ControlPlane) -> str:
    made = plane.request("POST", "/v1/keys", key="admin", json={"name": "gpu-2", "role": "worker"})
    return str(made.json()["key"])


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


REFUSED = (403, "worker_of_another_key")


def test_another_workers_key_can_neither_claim_nor_beat_nor_start_as_this_worker(
    control_plane: ControlPlane, other_key: str
) -> None:
    worker = control_plane.worker()
    job = control_plane.create_job()
    thief = OfAnother(worker, other_key)
    before = control_plane.sql("SELECT incarnation, last_seen_at FROM workers")
    assert code(thief.ask()) == code(thief.beat()) == REFUSED
    thief.incarnation = "a-new-start"
    with pytest.raises(AssertionError, match="Use that key"):
        thief.register()
    assert control_plane.sql("SELECT incarnation, last_seen_at FROM workers") == before
    claimed = worker.claim()
    assert claimed is not None
    assert claimed.job_id == job["id"]


def test_a_rotated_key_keeps_its_workers_and_the_old_one_speaks_for_them_until_its_end(
    control_plane: ControlPlane,
) -> None:
    worker = control_plane.worker()
    first = control_plane.request("POST", "/v1/keys/key-worker/rotate", key="admin", json={}).json()
    second = control_plane.request("POST", f"/v1/keys/{first['id']}/rotate", key="admin", json={}).json()
    for key in (first["key"], second["key"], control_plane.keys["worker"]):
        assert OfAnother(worker, key).beat().status_code == 204
    OfAnother(worker, second["key"]).register()
    assert worker.beat().status_code == 204


def test_an_id_whose_keys_have_all_ended_may_be_registered_with_another(
    control_plane: ControlPlane, other_key: str
) -> None:
    worker = control_plane.worker()
    rotated = control_plane.request("POST", "/v1/keys/key-worker/rotate", key="admin", json={}).json()
    control_plane.request("DELETE", "/v1/keys/key-worker", key="admin").raise_for_status()
    successor = OfAnother(worker, other_key)
    with pytest.raises(AssertionError, match="worker_of_another_key"):
        successor.register()
    control_plane.request("DELETE", f"/v1/keys/{rotated['id']}", key="admin").raise_for_status()
    successor.register()
    assert successor.beat().status_code == 204


def test_a_worker_from_before_ids_had_owners_is_that_of_the_key_that_speaks_first(
    control_plane: ControlPlane, other_key: str
) -> None:
    worker = control_plane.worker()
    control_plane.sql("UPDATE workers SET key_lineage = NULL")
    assert worker.beat().status_code == 204
    assert code(OfAnother(worker, other_key).beat()) == REFUSED


def test_one_key_may_have_many_workers(control_plane: ControlPlane) -> None:
    workers = [control_plane.worker(name) for name in ("worker-1", "worker-2")]
    assert [worker.beat().status_code for worker in workers] == [204, 204]


def test_an_inference_workers_id_is_its_keys_too(plane: ControlPlane, other_key: str) -> None:
    """Else its gateway's address could be replaced, and prompts be sent elsewhere."""
    start = RegisterInferenceWorker(
        worker_id="inference-1",
        incarnation="one",
        hostname="h",
        version="0",
        worker_class=CPU.worker_class,
        engine="tunesmith",
        url="http://gpu-1:8200",
        secret="x" * 32,
        memory_bytes=GIB,
    )
    beat = InferenceHeartbeat(incarnation="one", doing="ready", bases=(), names=None, requests=0)

    def post(path: str, body: Any, key: str) -> Any:
        return plane.request("POST", f"/internal/inference-workers{path}", key=key, content=body.model_dump_json())

    assert post("", start, "worker").status_code == 200
    elsewhere = start.model_copy(update={"url": "http://elsewhere:8200"})
    assert code(post("", elsewhere, other_key)) == code(post("/inference-1/heartbeat", beat, other_key)) == REFUSED
    blob = plane.request("GET", f"/internal/inference-workers/inference-1/blobs/{'0' * 64}", key=other_key)
    assert code(blob) == REFUSED
    assert plane.sql("SELECT url FROM inference_workers") == [("http://gpu-1:8200",)]
    assert post("/inference-1/heartbeat", beat, "worker").status_code == 204
