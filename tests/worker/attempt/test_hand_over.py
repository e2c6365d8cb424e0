"""What a failed run leaves behind: a result that is complete is handed over although what came after it failed."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.typing import FilteringBoundLogger

from tests.worker.attempt.test_preparation import claim, host
from tests.worker.scripted_service import ScriptedService
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.messages import FinishReport
from tunesmith.tuning.state import Outcome
from tunesmith.worker.attempt.exit_classifier import TrainerExit
from tunesmith.worker.attempt.rehearsals import Rehearsals
from tunesmith.worker.attempt.runner import AttemptContext, AttemptRunner
from tunesmith.worker.machine.slots import Slot
from tunesmith.worker.run_directory import EXIT_FAILED, RunDirectory, TrainResult
from tunesmith.worker.settings import WorkerSettings
from tunesmith.worker.trainer_process.log_file import log_tail
from tunesmith.worker.transport.control import HttpAttemptControl
from tunesmith.worker.transport.model_cache import ModelCache
from tunesmith.worker.work_directory import WorkDirectory

UNMERGED = Failure(code="merged_model_differs", message="It differs.", category=Category.INTERNAL)


@pytest.fixture
def attempt(tmp_path: Path, control: HttpAttemptControl, log: FilteringBoundLogger) -> AttemptRunner:
    work = WorkDirectory(tmp_path / "work")
    work.create()
    values = {"url": "http://127.0.0.1:1", "worker_key": "ts-worker", "REDIS_URL": "redis://127.0.0.1:1"}
    settings = WorkerSettings(**values, work_dir=work.root)
    around = AttemptContext(
        work=work,
        settings=settings,
        slot=Slot(index=0),
        hardware=host(),
        models=ModelCache(work.models),
        rehearsals=Rehearsals(),
    )
    return AttemptRunner(claim(), control=control, surroundings=around, log=log)


@pytest.mark.parametrize("made", ["adapter", None])
def test_an_adapter_whose_merged_model_was_refused_is_an_artifact_of_the_failed_job(
    attempt: AttemptRunner, run: RunDirectory, service: ScriptedService, made: str | None
) -> None:
    (run.output / "adapter_model.safetensors").write_bytes(b"weights")
    result = TrainResult(failure=UNMERGED, output_kind=made)
    ending = TrainerExit(exit_code=EXIT_FAILED, result=result, log_tail="")
    idle = SimpleNamespace(flush=lambda _control: None)
    report = attempt._hand_over(run, ending, follower=idle, uploader=idle)
    assert report.outcome is Outcome.FAILED
    assert report.failure == UNMERGED
    sent = [json.loads(request.body) for request in service.to("/artifacts")]
    assert [artifact["kind"] for artifact in sent] == ([made] if made else [])


@pytest.mark.parametrize("room", [True, False])
def test_curves_are_an_artifact_and_a_full_disk_costs_only_them(
    attempt: AttemptRunner, run: RunDirectory, service: ScriptedService, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    run.metrics.write_text('{"step": 1, "train_loss": 2.0}\n')
    if not room:
        monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    idle = SimpleNamespace(flush=lambda _control: None)
    ending = TrainerExit(
        exit_code=EXIT_FAILED, result=TrainResult(failure=UNMERGED, output_kind="adapter"), log_tail=""
    )
    (run.output / "adapter_model.safetensors").write_bytes(b"weights")
    report = attempt._hand_over(run, ending, follower=idle, uploader=idle)
    assert report.failure == UNMERGED
    sent = [json.loads(request.body)["kind"] for request in service.to("/artifacts")]
    assert sent == (["adapter", "tensorboard"] if room else ["adapter"])


def test_no_secret_leaves_this_host_in_the_end_of_a_log(run: RunDirectory) -> None:
    run.log.write_text("before\nthe key is sesame\n")
    assert log_tail(run.log, secrets=("sesame",)) == "before\nthe key is [hidden]"


def test_no_secret_leaves_this_host_in_a_failure(attempt: AttemptRunner, service: ScriptedService) -> None:
    """A trainer writes its failure itself, and may put anything into it."""
    said = "ts-worker at redis://127.0.0.1:1, hf_abcdefghijklmnopqrst"
    failure = UNMERGED.model_copy(update={"message": said, "hint": said, "log_tail": said})
    attempt._finish(FinishReport(outcome=Outcome.FAILED, failure=failure))
    (request,) = service.to("/finish")
    told = request.json["failure"]
    assert (told["code"], told["category"]) == (UNMERGED.code, UNMERGED.category)
    assert {told[name] for name in ("message", "hint", "log_tail")} == {"[hidden] at [hidden], [hidden]"}
