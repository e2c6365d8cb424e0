"""Calls to the service outlast what passes, stop at what does not, and move files without trusting the wire."""

from pathlib import Path

import pytest

from tests.worker.conftest import ref
from tests.worker.scripted_service import Reply, Request, ScriptedService
from tunesmith.tuning.errors import InvalidRequest, LeaseLost, NotFound
from tunesmith.tuning.hardware import Cpu, HardwareProfile
from tunesmith.tuning.messages import ClaimRequest, EventReport, FinishReport
from tunesmith.tuning.state import Outcome
from tunesmith.worker.attempt.stop_requests import AttemptStopped, StopRequest
from tunesmith.worker.transport.control import HttpAttemptControl, HttpControlPlane
from tunesmith.worker.transport.retry import Patience, Unavailable

CONTENT = bytes(range(256)) * 4096
BLOB = ref("weights.bin", CONTENT)
HARDWARE = HardwareProfile(cpu=Cpu(model="test", cores=1, memory_total_bytes=1, memory_free_bytes=1))


def serve_content(request: Request) -> Reply:
    start = int(request.headers.get("range", "bytes=0-")[6:-1])
    return Reply(206 if start else 200, CONTENT[start:])


def test_a_patient_call_outlasts_errors_that_pass(control: HttpAttemptControl, service: ScriptedService) -> None:
    service.script("/finish", Reply.error(503, "service_unavailable", **{"retry-after": "0.1"}))
    service.script(
        "/finish", Reply.error(429, "slow_down", **{"retry-after": "0.1"}), Reply.error(500, "internal_error")
    )
    control.patiently().finish(FinishReport(outcome=Outcome.SUCCEEDED))
    assert len(service.to("/finish")) == 4
    assert service.requests[0].headers["authorization"] == "Bearer lease-token"


def test_an_impatient_call_is_made_once(control: HttpAttemptControl, service: ScriptedService) -> None:
    service.script("/events", Reply.error(503, "service_unavailable"))
    with pytest.raises(Unavailable):
        control.event(EventReport(message="hello"))
    assert len(service.requests) == 1


def test_a_lost_lease_is_never_tried_again(control: HttpAttemptControl, service: ScriptedService) -> None:
    service.otherwise = lambda _request: Reply.error(409, "lease_lost")
    with pytest.raises(LeaseLost):
        control.patiently().finish(FinishReport(outcome=Outcome.SUCCEEDED))
    assert len(service.requests) == 1


def test_a_refusal_is_never_tried_again(control: HttpAttemptControl, service: ScriptedService) -> None:
    service.otherwise = lambda _request: Reply.error(400, "no_artifact")
    with pytest.raises(InvalidRequest) as refusal:
        control.patiently().finish(FinishReport(outcome=Outcome.SUCCEEDED))
    assert (refusal.value.code, len(service.requests)) == ("no_artifact", 1)


def test_waiting_for_the_service_ends_when_the_attempt_is_halted(control: HttpAttemptControl) -> None:
    def check() -> None:
        raise AttemptStopped(StopRequest.CANCEL)

    with pytest.raises(AttemptStopped):
        control.patiently(check).finish(FinishReport(outcome=Outcome.SUCCEEDED))


def test_nothing_to_claim_is_no_error(service: ScriptedService) -> None:
    plane = HttpControlPlane(url=service.url, worker_key="ts-key", outage_patience_seconds=1)
    assert plane.claim(ClaimRequest(worker_id="w", incarnation="i", hardware=HARDWARE)) is None
    assert service.requests[0].headers["authorization"] == "Bearer ts-key"
    plane.close()


def test_a_claim_with_an_id_is_asked_again_under_the_same(service: ScriptedService) -> None:
    service.script("/claims", Reply(200, b"{}", cut_after_bytes=1), Reply.error(503, "service_unavailable"))
    plane = HttpControlPlane(url=service.url, worker_key="ts-key", outage_patience_seconds=1)
    request = ClaimRequest(worker_id="w", incarnation="i", hardware=HARDWARE, claim_id="one")
    assert plane.claim(request) is None
    assert [sent.json["claim_id"] for sent in service.to("/claims")] == ["one"] * 3
    plane.close()


def test_a_service_that_does_not_listen_is_unavailable() -> None:
    plane = HttpControlPlane(url="http://127.0.0.1:9", worker_key="ts-key", outage_patience_seconds=1)
    with pytest.raises(Unavailable):
        plane.claim(ClaimRequest(worker_id="w", incarnation="i", hardware=HARDWARE))
    plane.close()


def test_a_download_that_breaks_goes_on_where_it_stopped(
    control: HttpAttemptControl, service: ScriptedService, tmp_path: Path
) -> None:
    service.otherwise = serve_content
    service.script(BLOB.sha256, Reply(200, CONTENT, cut_after_bytes=len(CONTENT) // 2))
    control.patiently().download(BLOB, tmp_path / "weights.bin")
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT
    assert "range" in service.requests[1].headers


def test_a_download_with_wrong_bytes_is_fetched_again(
    control: HttpAttemptControl, service: ScriptedService, tmp_path: Path
) -> None:
    service.otherwise = serve_content
    service.script(BLOB.sha256, Reply(200, b"y" + CONTENT[1:]))
    control.patiently().download(BLOB, tmp_path / "weights.bin")
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT


def test_wrong_bytes_never_get_the_name_of_the_right_ones(
    control: HttpAttemptControl, service: ScriptedService, tmp_path: Path
) -> None:
    service.otherwise = lambda _request: Reply(200, b"wrong")
    with pytest.raises(Unavailable):
        control.download(BLOB, tmp_path / "weights.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_blob_that_is_not_ours_is_not_found(
    control: HttpAttemptControl, service: ScriptedService, tmp_path: Path
) -> None:
    service.otherwise = lambda _request: Reply.error(404, "blob_not_found")
    with pytest.raises(NotFound):
        control.patiently().download(BLOB, tmp_path / "weights.bin")


def test_an_upload_is_streamed_with_its_length(
    control: HttpAttemptControl, service: ScriptedService, tmp_path: Path
) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(CONTENT)
    service.script(BLOB.sha256, Reply.error(503, "service_unavailable", **{"retry-after": "0.1"}))
    control.patiently().upload(BLOB, path)
    (_, second) = service.requests
    assert (second.method, second.body) == ("PUT", CONTENT)
    assert "transfer-encoding" not in second.headers


def test_patience_ends() -> None:
    now = [0.0]
    tries = []

    def call() -> None:
        tries.append(now[0])
        raise Unavailable("away")

    patience = Patience(
        seconds=120, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s), jitter=lambda: 0.5
    )
    with pytest.raises(Unavailable):
        patience.call(call)
    assert 90 < now[0] <= 120
    assert len(tries) < 20, "the pauses grow"
