"""What a worker reports, what the user sees of it, and what an attempt's end means for the job."""

import httpx2
import pytest

from tests.control_plane import TINY_CONFIG, AttemptSide, ControlPlane, sha256
from tests.waiting import eventually
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.state import Outcome, Phase

TRANSIENT = Failure(code="flaky", message="The disk hiccuped.", category=Category.TRANSIENT, retryable=True)
HOPELESS = Failure(
    code="invalid_row",
    message="Row 7 is empty.",
    category=Category.USER_ERROR,
    hint="Fix it.",
    log_tail="Traceback\x00",
)
KILLED = Failure(
    code="trainer_killed", message="SIGKILL", category=Category.WORKER_LOST, retryable=True, log_tail="oom"
)


def skip_pause(plane: ControlPlane) -> None:
    plane.sql("UPDATE jobs SET not_before = now() WHERE state = 'queued'")


def next_attempt(plane: ControlPlane, worker_id: str = "worker-1") -> AttemptSide:
    skip_pause(plane)
    attempt = plane.worker(worker_id).claim()
    assert attempt is not None
    return attempt


class TestReports:
    def test_a_heartbeat_extends_the_lease_and_shows_progress(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        assert attempt.claim.project
        control_plane.expire_leases()
        assert attempt.heartbeat(step=12).status_code == 200
        assert control_plane.sql("SELECT lease_expires_at > now() FROM attempts") == [(True,)]
        ours = control_plane.job(attempt.job_id)["tunesmith"]
        assert (ours["phase"], ours["progress"]) == ("training", {"step": 12, "total_steps": 96, "eta_seconds": 30.0})

    def test_marks_of_the_user_ride_back_on_the_heartbeat(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        control_plane.request("POST", f"/v1/fine_tuning/jobs/{attempt.job_id}/pause")
        assert attempt.heartbeat().json() == {"cancel": False, "pause": True}
        control_plane.request("POST", f"/v1/fine_tuning/jobs/{attempt.job_id}/resume")
        control_plane.request("POST", f"/v1/fine_tuning/jobs/{attempt.job_id}/cancel")
        assert attempt.heartbeat().json() == {"cancel": True, "pause": False}

    def test_metrics_sent_twice_or_in_longer_chunks_count_once(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed(hyperparameters={"n_epochs": 1})  # of fifty steps each is told
        points = [{"step": step, "train_loss": 2.0 - step / 10} for step in range(1, 5)]
        for _ in range(2):
            attempt.metrics(points[:2], start=0, end=50)
        attempt.metrics(points, start=0, end=100)
        attempt.metrics(points[:1], start=0, end=25)
        path = f"/v1/fine_tuning/jobs/{attempt.job_id}/metrics"
        assert control_plane.request("GET", path).json() == {"object": "list", "data": points}
        assert control_plane.request("GET", f"{path}?after_step=3").json()["data"] == points[3:]
        told = [message for message in control_plane.messages(attempt.job_id) if message.startswith("Step ")]
        assert len(told) == len(set(told)) == 4

    def test_a_batch_that_is_sent_again_tells_its_validation_points_once(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        points = [{"step": 0, "valid_loss": 3.0}, {"step": 1, "train_loss": 2.0, "valid_loss": 2.5}]
        for _ in range(3):
            assert attempt.metrics(points).status_code == 204
        told = [message for message in control_plane.messages(attempt.job_id) if message.startswith("Step ")]
        assert len(told) == 2

    def test_a_step_that_an_attempt_told_before_it_was_lost_is_told_once(self, control_plane: ControlPlane) -> None:
        first = control_plane.claimed()
        points = [{"step": 1, "train_loss": 2.0}, {"step": 2, "train_loss": 1.5, "valid_loss": 2.5}]
        first.metrics([{"step": 0, "valid_loss": 3.0}, *points])
        first.finish(Outcome.FAILED, failure=TRANSIENT)
        next_attempt(control_plane).metrics(points)
        told = [message for message in control_plane.messages(first.job_id) if message.startswith("Step ")]
        assert len(told) == 3

    def test_the_newest_attempt_wins_a_step_and_parts_of_a_step_become_one_point(
        self, control_plane: ControlPlane
    ) -> None:
        first = control_plane.claimed()
        first.metrics([{"step": 0, "valid_loss": 3.0}, {"step": 1, "train_loss": 9.0}, {"step": 2, "grad_norm": 9.0}])
        first.finish(Outcome.FAILED, failure=TRANSIENT)
        second = next_attempt(control_plane)
        second.metrics([{"step": 2, "train_loss": 1.0}])
        second.metrics([{"step": 2, "valid_loss": 1.5}], start=100)
        data = control_plane.request("GET", f"/v1/fine_tuning/jobs/{first.job_id}/metrics").json()["data"]
        assert data == [
            {"step": 0, "valid_loss": 3.0},
            {"step": 1, "train_loss": 9.0},
            {"step": 2, "train_loss": 1.0, "valid_loss": 1.5},
        ]

    def test_metric_events_are_thinned_but_keep_every_validation(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        control_plane.sql("UPDATE jobs SET total_steps = 1000")
        points = [{"step": s, "train_loss": 1.0, "valid_loss": 2.0 if s == 777 else None} for s in range(1, 1001)]
        attempt.metrics(points, end=10_000)
        told = [message for message in control_plane.messages(attempt.job_id) if message.startswith("Step ")]
        assert len(told) == 52
        assert "Step 777/1000: training loss=1.0000, validation loss=2.0000" in told

    def test_a_loss_that_is_not_a_number_is_kept_as_null(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        body = '{"start_offset": 0, "end_offset": 9, "points": [{"step": 1, "train_loss": NaN}]}'
        response = control_plane.request("POST", attempt.path("metrics"), key=attempt.claim.lease_token, content=body)
        assert response.status_code == 204
        data = control_plane.request("GET", f"/v1/fine_tuning/jobs/{attempt.job_id}/metrics").json()["data"]
        assert data == [{"step": 1, "train_loss": None}]

    def test_an_event_may_hold_any_byte_of_a_log(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        assert attempt.post("events", {"message": "a\x00b", "data": {"k\x00": float("inf")}}).status_code == 204
        assert control_plane.messages(attempt.job_id)[-1] == "a\ufffdb"

    def test_a_changed_plan_is_shown(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        plan = attempt.claim.plan.model_copy(update={"tokens_per_micro_step": 17})
        body = {"phase": Phase.CANARY, "plan": plan.model_dump(mode="json")}
        assert attempt.post("phase", body).status_code == 204
        ours = control_plane.job(attempt.job_id)["tunesmith"]
        assert (ours["phase"], ours["plan"]["tokens_per_micro_step"]) == ("canary", 17)

    def test_checkpoints_and_artifacts_need_all_their_bytes_in_the_store(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        missing = {"name": "manifest.json", "sha256": "1" * 64, "bytes": 3}
        for name, body in {
            "checkpoints": {"step": 1, "manifest_sha256": "1" * 64, "files": [missing]},
            "artifacts": {"kind": "adapter", "files": [missing]},
        }.items():
            assert attempt.post(name, body).json()["error"]["code"] == "blob_missing"
        climbing = {"kind": "adapter", "files": [{**missing, "name": "../../x"}]}
        assert attempt.post("artifacts", climbing).json()["error"]["param"] == "files.name"

    def test_a_blob_is_verified_against_its_name(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        wrong = control_plane.request(
            "PUT", attempt.path(f"blobs/{'2' * 64}"), key=attempt.claim.lease_token, content=b"x"
        )
        assert wrong.json()["error"]["code"] == "hash_mismatch"

    def test_a_worker_reads_the_blobs_of_its_job_and_no_others(self, control_plane: ControlPlane) -> None:
        secret = control_plane.upload(b'{"text": "of another project"}\n', key="stranger")
        digest = control_plane.request("GET", f"/v1/files/{secret}", key="stranger").json()["tunesmith"]["sha256"]
        attempt = control_plane.claimed()
        assert attempt.get(digest).status_code == 404
        for file in (*attempt.claim.base_model.files, attempt.claim.training_file):
            whole = attempt.get(file.sha256)
            assert sha256(whole.content) == file.sha256
            assert attempt.get(file.sha256, range="bytes=3-").content == whole.content[3:]


class TestEndings:
    def test_a_retryable_failure_goes_back_into_the_line_after_a_pause(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        attempt.finish(Outcome.FAILED, failure=TRANSIENT)
        assert control_plane.job(attempt.job_id)["status"] == "queued"
        assert control_plane.worker().claim() is None
        assert next_attempt(control_plane).claim.epoch == 2

    def test_a_new_attempt_resumes_from_the_newest_checkpoints(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        for step in (10, 20, 30, 40):
            attempt.checkpoint(step)
        attempt.finish(Outcome.PREEMPTED)
        claim = next_attempt(control_plane).claim
        assert [checkpoint.step for checkpoint in claim.resume] == [40, 30, 20]

    def test_a_failure_that_cannot_be_retried_fails_the_job_with_its_reason(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        attempt.finish(Outcome.FAILED, failure=HOPELESS)
        job = control_plane.job(attempt.job_id)
        assert job["status"] == "failed"
        assert job["error"] == {"code": "invalid_row", "message": "Row 7 is empty.", "param": None}
        expected = {"category": "user_error", "retryable": False, "hint": "Fix it.", "log_tail": "Traceback\ufffd"}
        assert job["tunesmith"]["failure"] == {**expected, "signal": None, "rank": None}
        assert control_plane.messages(job["id"])[-1] == "Fine-tuning job failed: Row 7 is empty. Fix it."

    def test_attempts_are_bounded(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        for _ in range(3):
            attempt.finish(Outcome.FAILED, failure=TRANSIENT)
            attempt = next_attempt(control_plane)
        attempt.finish(Outcome.FAILED, failure=TRANSIENT)
        job = control_plane.job(attempt.job_id)
        assert (job["status"], job["error"]["code"], job["tunesmith"]["attempts"]) == ("failed", "flaky", 4)

    def test_preemption_does_not_use_up_attempts(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        for _ in range(6):
            attempt.finish(Outcome.PREEMPTED)
            attempt = next_attempt(control_plane)
        attempt.succeed()
        assert control_plane.job(attempt.job_id)["status"] == "succeeded"

    def test_a_job_that_keeps_killing_its_trainer_is_poison(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        for _ in range(2):
            attempt.finish(Outcome.FAILED, failure=KILLED)
            attempt = next_attempt(control_plane)
        attempt.finish(Outcome.FAILED, failure=KILLED)
        job = control_plane.job(attempt.job_id)
        assert (job["status"], job["error"]["code"]) == ("failed", "poison")
        assert job["tunesmith"]["failure"]["log_tail"] == "oom"

    @pytest.mark.parametrize(
        "outcome", [Outcome.FAILED, Outcome.PREEMPTED, Outcome.CANCELLED, Outcome.PAUSED, Outcome.SUCCEEDED]
    )
    def test_a_cancelled_job_never_ends_otherwise(self, control_plane: ControlPlane, outcome: Outcome) -> None:
        attempt = control_plane.claimed()
        control_plane.request("POST", f"/v1/fine_tuning/jobs/{attempt.job_id}/cancel")
        attempt.artifact()
        failure = TRANSIENT if outcome is Outcome.FAILED else None
        assert attempt.finish(outcome, failure=failure).status_code == 204
        job = control_plane.job(attempt.job_id)
        assert (job["status"], job["fine_tuned_model"]) == ("cancelled", None)

    def test_a_paused_run_waits_until_it_is_resumed(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        control_plane.request("POST", f"/v1/fine_tuning/jobs/{attempt.job_id}/pause")
        attempt.finish(Outcome.PAUSED)
        assert control_plane.job(attempt.job_id)["status"] == "paused"
        control_plane.request("POST", f"/v1/fine_tuning/jobs/{attempt.job_id}/resume")
        assert next_attempt(control_plane).claim.epoch == 2

    def test_success_needs_a_model(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        assert attempt.finish(Outcome.SUCCEEDED).json()["error"]["code"] == "no_artifact"
        assert control_plane.job(attempt.job_id)["status"] == "running"

    def test_the_last_word_may_be_said_twice(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        attempt.succeed()
        before = control_plane.snapshot()
        assert attempt.finish(Outcome.SUCCEEDED).status_code == 204
        assert control_plane.snapshot() == before

    def test_results_can_be_downloaded(self, control_plane: ControlPlane) -> None:
        attempt = control_plane.claimed()
        attempt.succeed()
        artifact = control_plane.request("GET", f"/v1/fine_tuning/jobs/{attempt.job_id}/artifacts").json()["data"][0]
        assert artifact["kind"] == "adapter"
        for file in artifact["files"]:
            data = control_plane.request("GET", f"/v1/artifacts/{artifact['id']}/files/{file['name']}").content
            assert (sha256(data), len(data)) == (file["sha256"], file["bytes"])


class TestFencing:
    def everything(self, attempt: AttemptSide, digest: str) -> dict[str, httpx2.Response]:
        """Every write a worker can make."""
        file = {"name": "manifest.json", "sha256": digest, "bytes": 3}
        plan = attempt.claim.plan.model_dump(mode="json")
        return {
            "heartbeat": attempt.heartbeat(step=99),
            "phase": attempt.post("phase", {"phase": "exporting", "plan": plan}),
            "events": attempt.post("events", {"message": "I am still here"}),
            "metrics": attempt.metrics([{"step": 1, "train_loss": 0.0}]),
            "checkpoints": attempt.post("checkpoints", {"step": 9, "manifest_sha256": digest, "files": [file]}),
            "artifacts": attempt.post("artifacts", {"kind": "adapter", "files": [file]}),
            "put": control_put(attempt),
            "get": attempt.get(digest),
            "finish": attempt.finish(Outcome.SUCCEEDED),
            "finish failed": attempt.finish(Outcome.FAILED, failure=TRANSIENT),
        }

    def test_a_stale_worker_changes_nothing(self, control_plane: ControlPlane) -> None:
        stale = control_plane.claimed("worker-1")
        digest = stale.put(b"abc").sha256
        stale.artifact()
        control_plane.worker("worker-1")  # the same worker starts again: its earlier attempt is lost at once
        owner = next_attempt(control_plane, "worker-2")
        assert owner.job_id == stale.job_id
        before = control_plane.snapshot()
        for name, response in self.everything(stale, digest).items():
            assert (response.status_code, response.json()["error"]["code"]) == (409, "lease_lost"), name
            assert response.headers["x-should-retry"] == "false"
        assert control_plane.snapshot() == before
        owner.succeed()

    def test_a_worker_that_comes_back_after_the_job_has_ended_changes_nothing(
        self, control_plane: ControlPlane
    ) -> None:
        stale = control_plane.claimed()
        digest = stale.put(b"abc").sha256
        control_plane.worker("worker-1")
        next_attempt(control_plane, "worker-2").succeed()
        before = control_plane.snapshot()
        for name, response in self.everything(stale, digest).items():
            assert response.status_code == 409, name
        assert control_plane.snapshot() == before

    def test_another_attempts_token_and_a_users_key_open_nothing(self, control_plane: ControlPlane) -> None:
        first, second = control_plane.claimed("worker-1"), control_plane.claimed("worker-2")
        before = control_plane.snapshot()
        for token in (second.claim.lease_token, "member", "worker", "lease-wrong"):
            response = control_plane.request("POST", first.path("events"), key=token, json={"message": "x"})
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_lease_token")
        assert control_plane.snapshot() == before


def control_put(attempt: AttemptSide) -> httpx2.Response:
    return attempt.plane.request(
        "PUT", attempt.path(f"blobs/{sha256(b'new')}"), key=attempt.claim.lease_token, content=b"new"
    )


class TestClaimOrder:
    def claim_order(self, plane: ControlPlane, count: int) -> list[str]:
        attempts = [plane.worker(f"w{number}").claim() for number in range(count)]
        return [attempt.job_id for attempt in attempts if attempt]

    def test_higher_priority_goes_first_and_waiting_counts(self, control_plane: ControlPlane) -> None:
        ids = {p: control_plane.create_job(tunesmith={"priority": p})["id"] for p in (0, 5, 2)}
        control_plane.sql("UPDATE jobs SET queued_at = now() - interval '3 hours' WHERE id = %s", ids[0])
        assert self.claim_order(control_plane, 3) == [ids[0], ids[5], ids[2]]

    def test_a_project_that_runs_less_goes_first(self, control_plane: ControlPlane) -> None:
        first, second = (control_plane.create_job()["id"] for _ in range(2))
        other = control_plane.create_job(key="stranger")["id"]
        assert self.claim_order(control_plane, 3) == [first, other, second]

    def test_queue_positions_follow_the_same_order(self, control_plane: ControlPlane) -> None:
        low, high = (control_plane.create_job(tunesmith={"priority": p})["id"] for p in (0, 5))
        for job_id, place in ((low, 2), (high, 1)):  # a place may be a second old
            eventually(
                lambda job_id=job_id, place=place: control_plane.job(job_id)["tunesmith"]["queue_position"] == place
            )

    def test_an_unregistered_worker_gets_nothing(self, control_plane: ControlPlane) -> None:
        control_plane.create_job()
        worker = control_plane.worker()
        worker.incarnation = "another"
        for response in (worker.ask(), worker.beat()):
            assert (response.status_code, response.json()["error"]["code"]) == (404, "worker_not_registered")


def test_a_fully_trained_model_stands_on_its_own(control_plane: ControlPlane) -> None:
    control_plane.add_model("other", config={**TINY_CONFIG, "num_hidden_layers": 3})
    first = control_plane.claimed(model="other", tunesmith={"method": "full"})
    first.artifact("model")
    first.finish(Outcome.SUCCEEDED)
    name = control_plane.job(first.job_id)["fine_tuned_model"]
    second = control_plane.claimed(model=name)
    assert second.claim.base_model.adapter_of is None
    assert second.claim.base_model.files[0].name == "adapter_model.safetensors"


def test_workers_are_listed_with_what_they_do(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    worker = control_plane.request("GET", "/v1/workers", key="admin").json()["data"][0]
    assert (worker["id"], worker["job"], worker["worker_class"]) == ("worker-1", attempt.job_id, "cpu-2-cores-16gib")
    attempts = control_plane.request("GET", f"/v1/fine_tuning/jobs/{attempt.job_id}/attempts").json()["data"]
    assert [(item["epoch"], item["worker_id"], item["outcome"]) for item in attempts] == [(1, "worker-1", None)]
