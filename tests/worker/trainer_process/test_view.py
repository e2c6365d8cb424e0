"""What a trainer is shown: what its run reads, and no other model of the worker."""

from pathlib import Path

from tests import plans
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.worker.run_directory import OtherModel, RunDirectory, TrainRequest
from tunesmith.worker.trainer_process.view import sandbox_of


def test_an_evaluation_is_shown_both_models(tmp_path: Path) -> None:
    request = TrainRequest(
        job_id="eval-1",
        attempt_id="attempt-1",
        spec=JobSpec(model="tiny", seed=1),
        plan=plans.plan(),
        dataset=DatasetFacts(rows=1, tokens=1, longest_row_tokens=1, supervised_tokens=1),
        model_dir="/models/base",
        adapter_dir="/models/adapter",
        against=OtherModel(model_dir="/models/other", adapter_dir="/models/masters"),
        training_file="/rows.jsonl",
    )
    run = RunDirectory(tmp_path / "run")
    run.root.mkdir()
    shown = sandbox_of(run, request, kind="landlock", home=tmp_path / "home", work=tmp_path, environment={})
    models = {"/models/base", "/models/adapter", "/models/other", "/models/masters"}
    assert models <= set(shown.readable)
    alone = sandbox_of(
        run, request.model_copy(update={"against": None}), kind="landlock", home=tmp_path, work=tmp_path, environment={}
    )
    assert not {"/models/other", "/models/masters"} & set(alone.readable)
