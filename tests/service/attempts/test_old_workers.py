"""A service is replaced before its workers: those of yesterday do not say all that is asked today."""

from typing import Any

from tests.control_plane import ControlPlane
from tests.machines import CPU
from tunesmith.tuning.values.json_objects import Json

_NEW_IN_HARDWARE = ("kept_models", "constants")


def yesterday(hardware: Json) -> Json:
    """As a worker says it that has never heard of the fields that came later."""
    return {name: value for name, value in hardware.items() if name not in _NEW_IN_HARDWARE}


class Worker:
    """Plain bodies, as they travel."""

    def __init__(self, plane: ControlPlane, hardware: Json) -> None:
        self._plane, self._hardware = plane, hardware

    def post(self, path: str, body: Json, *, key: str = "worker") -> Any:
        response = self._plane.request("POST", f"/internal/{path}", key=key, json=body)
        assert response.status_code in (200, 204), (path, response.text)
        return response.json() if response.content else None

    def run_one(self) -> str:
        """From its registration to the end of a job, whose id is returned."""
        names = {"hostname": "host", "version": "0.0.1", "slots": 1}
        once = {"worker_id": "old", "incarnation": "once", "hardware": self._hardware}
        self.post("workers", {**once, **names})
        beat = {"incarnation": "once", "hardware": self._hardware, "busy_slots": 0, "draining": False}
        self.post("workers/old/heartbeat", beat)
        claim = self.post("claims", once)
        attempt, token = f"attempts/{claim['attempt_id']}", claim["lease_token"]
        self.post(f"{attempt}/phase", {"phase": "training"}, key=token)
        self.post(f"{attempt}/heartbeat", {"phase": "training"}, key=token)
        self.post(f"{attempt}/events", {"message": "hello"}, key=token)
        points = [{"step": 1, "train_loss": 1.0}]
        self.post(f"{attempt}/metrics", {"start_offset": 0, "end_offset": 10, "points": points}, key=token)
        self.post(f"{attempt}/finish", {"outcome": "preempted"}, key=token)
        return str(claim["job_id"])


def test_a_worker_of_an_earlier_version_carries_a_job_to_its_end(control_plane: ControlPlane) -> None:
    job = control_plane.create_job()
    worker = Worker(control_plane, yesterday(CPU.model_dump(mode="json")))
    assert worker.run_one() == job["id"]
    assert control_plane.sql("SELECT outcome FROM attempts WHERE ended_at IS NOT NULL") == [("preempted",)]
