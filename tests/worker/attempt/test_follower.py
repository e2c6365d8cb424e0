"""What the trainer writes arrives completely, once, in order, and late rather than never."""

import json
import threading
from pathlib import Path

import pytest
from structlog.typing import FilteringBoundLogger

from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS, eventually
from tests.worker.scripted_service import Reply, ScriptedService
from tunesmith.tuning.errors import LeaseLost
from tunesmith.tuning.messages import CanaryReport
from tunesmith.tuning.state import Phase
from tunesmith.worker.attempt.follower import BATCH_BYTES, LONGEST_LINE_BYTES, Follower, read_lines
from tunesmith.worker.attempt.progress import Progress
from tunesmith.worker.attempt.stop_requests import StopRequest, StopRequests
from tunesmith.worker.run_directory import RunDirectory, append_line, write_atomically
from tunesmith.worker.transport.control import HttpAttemptControl
from tunesmith.worker.transport.retry import Unavailable
from tunesmith.worker.transport.wire import service_client


@pytest.fixture
def progress() -> Progress:
    return Progress(total_steps=10)


@pytest.fixture
def follower(run: RunDirectory, control: HttpAttemptControl, progress: Progress, log: FilteringBoundLogger) -> Follower:
    directives = StopRequests(drain_deadline=lambda: None)
    return Follower(run, control, progress=progress, directives=directives, log=log, interval_seconds=0.02)


def test_no_secret_leaves_this_host_in_an_event(
    run: RunDirectory,
    control: HttpAttemptControl,
    progress: Progress,
    log: FilteringBoundLogger,
    service: ScriptedService,
) -> None:
    told = {"message": "the key is sesame", "data": {"seen": ["sesame", 7], "url": "https://me:pass@host/x"}}
    append_line(run.events, told)
    append_line(run.events, {"message": ["no event, but sesame"]})
    directives = StopRequests(drain_deadline=lambda: None)
    Follower(run, control, progress=progress, directives=directives, log=log, secrets=("sesame",)).ship()
    first, second = (request.json for request in service.to("/events"))
    assert first["message"] == "the key is [hidden]"
    assert first["data"] == {"seen": ["[hidden]", 7], "url": "https://[hidden]@host/x"}
    assert "sesame" not in json.dumps(second)


def points(service: ScriptedService) -> list[dict[str, object]]:
    return [point for request in service.to("/metrics") for point in request.json["points"]]


def test_points_arrive_in_order_with_their_byte_offsets(
    run: RunDirectory, follower: Follower, service: ScriptedService, progress: Progress
) -> None:
    append_line(run.metrics, {"step": 1, "train_loss": 2.5, "eta_seconds": 9.0})
    follower.ship()
    append_line(run.metrics, {"step": 2, "train_loss": 2.25, "eta_seconds": 8.0})
    follower.ship()
    first, second = (request.json for request in service.to("/metrics"))
    assert (first["start_offset"], first["end_offset"]) == (0, second["start_offset"])
    assert second["end_offset"] == run.metrics.stat().st_size
    assert [point["step"] for point in points(service)] == [1, 2]
    assert (progress.beat().step, progress.beat().eta_seconds) == (2, 8.0)


def test_a_half_written_line_waits_for_its_end(run: RunDirectory, follower: Follower, service: ScriptedService) -> None:
    run.metrics.write_bytes(b'{"step": 1}\n{"ste')
    follower.ship()
    assert [point["step"] for point in points(service)] == [1]
    with run.metrics.open("ab") as file:
        file.write(b'p": 2}\n')
    follower.ship()
    assert [point["step"] for point in points(service)] == [1, 2]


def test_numbers_that_json_cannot_hold_become_null(
    run: RunDirectory, follower: Follower, service: ScriptedService
) -> None:
    append_line(run.metrics, {"step": 1, "train_loss": float("nan"), "grad_norm": float("inf"), "note": "text"})
    follower.ship()
    assert points(service) == [{"step": 1, "train_loss": None, "grad_norm": None}]


def test_damaged_lines_are_passed_over(run: RunDirectory, follower: Follower, service: ScriptedService) -> None:
    run.metrics.write_bytes(b'\x00\x00garbage\n[1]\n{"step": 3}\n')
    follower.ship()
    assert points(service) == [{"step": 3}]


def test_nothing_is_lost_while_the_service_is_away(
    run: RunDirectory, follower: Follower, service: ScriptedService
) -> None:
    service.script("/metrics", *[Reply.error(503, "service_unavailable")] * 2)
    for step in range(1, 4):
        append_line(run.metrics, {"step": step})
        if step < 3:
            with pytest.raises(Unavailable):
                follower.ship()
    follower.ship()
    assert service.to("/metrics")[-1].json["start_offset"] == 0
    assert [point["step"] for point in service.to("/metrics")[-1].json["points"]] == [1, 2, 3]


def test_of_many_events_that_one_alone_is_told_again_whose_answer_did_not_come(
    run: RunDirectory, follower: Follower, service: ScriptedService
) -> None:
    for message in ("first", "second", "third"):
        append_line(run.events, {"message": message})
    service.script("/events", Reply(), Reply.error(503, "service_unavailable"))
    with pytest.raises(Unavailable):
        follower.ship()
    follower.ship()
    assert [request.json["message"] for request in service.to("/events")] == ["first", "second", "second", "third"]


def test_the_thread_goes_on_after_an_outage(run: RunDirectory, follower: Follower, service: ScriptedService) -> None:
    service.script("/metrics", *[Reply.error(503, "service_unavailable")] * 2)
    append_line(run.metrics, {"step": 1})
    follower.start()
    eventually(lambda: len(service.to("/metrics")) == 3, what="a third try")
    follower.stop()
    assert follower.recorded_step == 1


def test_the_thread_goes_on_after_an_error_that_nobody_foresaw(
    run: RunDirectory, follower: Follower, service: ScriptedService, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(_point: object) -> None:
        failed.set()
        raise RuntimeError("no memory")

    append_line(run.metrics, {"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(progress, "stepped", fail)
        follower.start()
        assert failed.wait(10)
    eventually(lambda: points(service) == [{"step": 1}], seconds=20, what="the point")
    follower.stop()


def test_an_hour_without_a_service_is_made_up_for(
    run: RunDirectory, progress: Progress, log: FilteringBoundLogger
) -> None:
    """The service is gone, connections are refused, and 36,000 steps are written: ten a second for an hour."""
    port = free_port()
    with ScriptedService(port=port) as before:
        before.otherwise = lambda _request: Reply(headers={"connection": "close"})
        client = service_client(before.url, "lease-token", timeout=5)
        control = HttpAttemptControl(client=client, blob_client=client, attempt_id="a", outage_patience_seconds=20)
        directives = StopRequests(drain_deadline=lambda: None)
        follower = Follower(run, control, progress=progress, directives=directives, log=log, interval_seconds=0.01)
        follower.start()
        append_line(run.metrics, {"step": 0})
        eventually(lambda: points(before))
    with run.metrics.open("ab") as file:
        file.writelines(b'{"step": %d, "train_loss": 1.5}\n' % step for step in range(1, 36_000))
    with pytest.raises(Unavailable):
        Follower(run, control, progress=progress, directives=directives, log=log).ship()
    with ScriptedService(port=port) as after:
        eventually(lambda: len(points(after)) >= 35_999, what=lambda: f"{len(after.requests)} requests")
        follower.stop()
        control.close()
    arrived = [point["step"] for point in points(before) + points(after)]
    assert arrived == list(range(36_000))
    chunks = [request.json for request in after.to("/metrics")]
    assert [chunk["start_offset"] for chunk in chunks[1:]] == [chunk["end_offset"] for chunk in chunks[:-1]]


def test_a_new_follower_goes_on_where_the_last_one_was(
    run: RunDirectory, follower: Follower, service: ScriptedService, control: HttpAttemptControl,
    progress: Progress, log: FilteringBoundLogger,
) -> None:  # fmt: skip
    append_line(run.metrics, {"step": 1})
    follower.ship()
    append_line(run.metrics, {"step": 2})
    directives = StopRequests(drain_deadline=lambda: None)
    Follower(run, control, progress=progress, directives=directives, log=log).ship()
    assert [point["step"] for point in points(service)] == [1, 2]


def test_batches_are_bounded(run: RunDirectory, follower: Follower, service: ScriptedService) -> None:
    line = json.dumps({"step": 1, "train_loss": 1.0}) + "\n"
    run.metrics.write_text(line * (3 * BATCH_BYTES // len(line)))
    follower.ship()
    assert len(service.to("/metrics")) >= 3
    assert all(len(request.body) < 2 * BATCH_BYTES for request in service.to("/metrics"))


def test_phases_and_events_are_told(
    run: RunDirectory, follower: Follower, service: ScriptedService, progress: Progress
) -> None:
    write_atomically(run.phase, "canary")
    append_line(run.events, {"level": "warn", "message": "One row was cut.", "data": {"row": 3}})
    append_line(run.events, {"level": "shout", "message": "Odd."})
    follower.ship()
    follower.ship()
    assert [request.json["phase"] for request in service.to("/phase")] == ["canary"]
    assert [request.json["message"] for request in service.to("/events")] == ["One row was cut.", "Odd."]
    assert progress.beat().phase is Phase.CANARY


CANARY = CanaryReport(
    tokens=500,
    longest_row_tokens=90,
    tokens_per_micro_step=512,
    seconds=2,
    tokens_per_second=250,
    peak_memory_bytes=10**9,
    expected_seconds=80,
)


def test_the_canary_is_told_once_and_estimates_until_the_first_step(
    run: RunDirectory, follower: Follower, service: ScriptedService, progress: Progress
) -> None:
    write_atomically(run.canary, CANARY.model_dump_json())
    follower.ship()
    follower.ship()
    (told,) = service.to("/canary")
    assert CanaryReport.model_validate(told.json) == CANARY
    assert (progress.beat().step, progress.beat().eta_seconds) == (None, 80)
    append_line(run.metrics, {"step": 1, "eta_seconds": 60.0})
    follower.ship()
    assert (progress.beat().step, progress.beat().eta_seconds) == (1, 60)


@pytest.mark.parametrize("obstacle", ["an older service", "a damaged file"])
def test_a_canary_that_cannot_be_told_holds_nothing_up(
    run: RunDirectory, follower: Follower, service: ScriptedService, obstacle: str
) -> None:
    service.script("/canary", Reply.error(404, "not_found"))
    write_atomically(run.canary, CANARY.model_dump_json() if obstacle == "an older service" else "{")
    append_line(run.metrics, {"step": 1})
    follower.ship()
    follower.ship()
    assert len(service.to("/canary")) == (obstacle == "an older service")
    assert [point["step"] for point in points(service)] == [1]


def test_one_refused_record_does_not_hold_up_the_rest(
    run: RunDirectory, follower: Follower, service: ScriptedService
) -> None:
    service.script("/events", Reply.error(400, "invalid_request"))
    append_line(run.events, {"level": "info", "message": "first"})
    append_line(run.events, {"level": "info", "message": "second"})
    follower.ship()
    assert [request.json["message"] for request in service.to("/events")] == ["first", "second"]


def test_a_lost_lease_ends_the_following_and_is_told(
    run: RunDirectory, control: HttpAttemptControl, service: ScriptedService, log: FilteringBoundLogger
) -> None:
    service.otherwise = lambda _request: Reply.error(409, "lease_lost")
    directives = StopRequests(drain_deadline=lambda: None)
    follower = Follower(
        run, control, progress=Progress(total_steps=1), directives=directives, log=log, interval_seconds=0.02
    )
    append_line(run.metrics, {"step": 1})
    follower.start()
    follower._thread.join(PATIENCE_SECONDS)
    assert directives.current() is StopRequest.LEASE_LOST
    with pytest.raises(LeaseLost):
        follower.flush(control)


def test_a_line_longer_than_any_we_write_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"x" * (LONGEST_LINE_BYTES + BATCH_BYTES + 5) + b'\n{"step": 1}\n')
    offset, seen = 0, []
    for _ in range(40):
        lines, offset = read_lines(path, offset)
        seen += lines
    assert seen[-1] == b'{"step": 1}\n'
    assert offset == path.stat().st_size
