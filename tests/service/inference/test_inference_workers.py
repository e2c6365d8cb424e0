"""Inference workers register and beat, and read the files of models, not those of people."""

from tests.control_plane import ControlPlane, chat_rows, sha256
from tests.service.inference.conftest import InferenceSide, StandInGateway, ask
from tests.service.test_access import is_error


def test_a_worker_reads_files_of_models_and_nothing_else(control_plane: ControlPlane, inference: InferenceSide) -> None:
    path = f"/internal/inference-workers/{inference.id}/blobs"
    read = control_plane.request("GET", f"{path}/{sha256(b'tiny-llama')}", key="worker")
    assert (read.status_code, read.content) == (200, b"tiny-llama")
    part = control_plane.request("GET", f"{path}/{sha256(b'tiny-llama')}", key="worker", headers={"range": "bytes=5-"})
    assert (part.status_code, part.content) == (206, b"llama")
    control_plane.upload(chat_rows(3))
    assert is_error(control_plane.request("GET", f"{path}/{sha256(chat_rows(3))}", key="worker"), 404, "blob_not_found")
    assert is_error(control_plane.request("GET", f"{path}/{sha256(b'tiny-llama')}", key="member"), 403)
    unknown = control_plane.request(
        "GET", f"/internal/inference-workers/nobody/blobs/{sha256(b'tiny-llama')}", key="worker"
    )
    assert is_error(unknown, 404, "worker_not_registered")


def test_a_beat_of_an_earlier_start_is_told_to_register(
    control_plane: ControlPlane, inference: InferenceSide, gateway: StandInGateway
) -> None:
    assert inference.beat().status_code == 204
    later = InferenceSide(control_plane, inference.id, gateway)
    assert is_error(inference.beat(), 404, "worker_not_registered")
    assert later.beat(doing="serving", bases=["x"], requests=3).status_code == 204
    assert control_plane.sql("SELECT doing, bases, requests FROM inference_workers") == [("serving", ["x"], 3)]


def test_a_worker_of_no_sense_is_refused_by_its_field(control_plane: ControlPlane) -> None:
    refused = control_plane.request("POST", "/internal/inference-workers", key="worker", json={"worker_id": 3})
    assert is_error(refused, 400)


def test_a_silent_worker_is_asked_no_more(control_plane: ControlPlane, inference: InferenceSide) -> None:
    assert ask(control_plane).status_code == 200
    control_plane.sql("UPDATE inference_workers SET last_seen_at = now() - interval '1 hour'")
    assert is_error(ask(control_plane), 503, "no_inference_worker")
