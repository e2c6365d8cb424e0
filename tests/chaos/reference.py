"""The same training without any service around it, so that nothing can disturb it."""

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.stack.up import Up
from tunesmith.worker.run_directory import RunDirectory, TrainRequest
from tunesmith.worker.trainer_process.launcher import trainer_environment


def request_of(up: Up, job_id: str) -> TrainRequest:
    """What the worker told the trainer of the job's first attempt."""
    attempt_id = up.attempts(job_id)[0]["id"]
    return RunDirectory(up.data_dir / "work" / "runs" / job_id / attempt_id).request()


class UndisturbedRun:
    """A trainer run by hand on a copy of a request, with as many threads as the worker gives it."""

    def __init__(self, request: TrainRequest, *, folder: Path) -> None:
        assert request.resume_from is None
        self._run = RunDirectory(folder)
        self._run.create(request.model_copy(update={"lifeline_fd": None, **_copy_data(request, folder)}))

    def __enter__(self) -> Self:
        environment = trainer_environment(os.environ, run_dir=self._run.root, cores=1, devices=())
        with self._run.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tunesmith.worker.train", str(self._run.root)],
                env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def wait(self, *, seconds: float) -> Path:
        """The folder of the finished adapter."""
        assert self._process.wait(seconds) == 0, self._run.log.read_text()
        return self._run.output


def _copy_data(request: TrainRequest, folder: Path) -> dict[str, str]:
    """The service may clean up the run directory of an attempt; the copy stays."""
    folder.mkdir(parents=True)
    copy = folder / "training.jsonl"
    copy.write_bytes(Path(request.training_file).read_bytes())
    return {"training_file": str(copy)}
