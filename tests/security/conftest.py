"""A data directory as `tunesmith up` makes it, and trainers in each kind of sandbox that this machine allows."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.waiting import eventually
from tests.worker.attempt.test_preparation import claim
from tunesmith.tuning.codes import STACK_VARIABLE
from tunesmith.worker.machine.slots import Slot
from tunesmith.worker.run_directory import RunDirectory, TrainRequest
from tunesmith.worker.sandbox import choice
from tunesmith.worker.sandbox.definition import KINDS, Sandbox
from tunesmith.worker.trainer_process.launcher import Trainer, start, trainer_environment
from tunesmith.worker.trainer_process.view import sandbox_of
from tunesmith.worker.work_directory import WorkDirectory

SECRET = "ts-canary-0123456789"


class Site:
    """One host: what belongs to others lies beside the run."""

    def __init__(self, root: Path, *, kind: str) -> None:
        self.data, self.kind = root, kind
        self.work = WorkDirectory(root / "work")
        self.work.create()
        self.own = self._run("job-own", "mine")
        self.other = self._run("job-other", "other")
        self.model = self._file(self.work.models / "digest" / "config.json", "{}").parent
        self.admin_key = self._file(root / "keys" / "admin.key")
        self.blob = self._file(root / "store" / "blobs" / "ab" / "abcdef")
        self.token_of_others = self._file(self.work.tokens / "project-other" / "rows")
        self.home = self.work.home("project")
        self._file(self.other.root / "data" / "training.jsonl")
        self.started: list[Trainer] = []

    def sandbox(self, **changes: object) -> Sandbox:
        sandbox = sandbox_of(
            self.own,
            request(self.model),
            kind=self.kind,  # type: ignore[arg-type]
            home=self.home,
            work=self.work.root,
            environment={**os.environ, STACK_VARIABLE: str(self.data)},
        )
        return replace(sandbox, **changes)  # type: ignore[arg-type]

    def begin(self, script: str, *, slot: Slot | None = None, **changes: object) -> Trainer:
        """Start a Python script exactly as a trainer is started."""
        self.started.append(
            start(
                [sys.executable, "-P", "-c", script],
                self.own,
                environment=trainer_environment(os.environ, run_dir=self.own.root, cores=1, devices=()),
                slot=slot or Slot(0),
                records=self.work.trainers,
                log_cap_bytes=64 * 1024,
                sandbox=self.sandbox(**changes),
            )
        )
        return self.started[-1]

    def run(self, script: str, **changes: object) -> str:
        """What it printed, after its end."""
        trainer = self.begin(script, **changes)
        eventually(lambda: trainer.exit_code is not None)
        trainer.end()
        said = self.own.log.read_text()
        self.own.log.unlink()
        return said

    def _run(self, job: str, attempt: str) -> RunDirectory:
        run = RunDirectory(self.work.run_root(job_id=job, attempt_id=attempt))
        for folder in (run.root, run.checkpoints, run.output):
            folder.mkdir(parents=True)
        return run

    def _file(self, path: Path, text: str = SECRET) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


def request(model: Path) -> TrainRequest:
    wanted = claim()
    return TrainRequest.model_construct(
        model_dir=str(model), adapter_dir=None, resume_from=None, token_cache=None, plan=wanted.plan, spec=wanted.spec
    )


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """In a folder of its own outside of pytest's, whose name a trainer could not know."""
    if (reason := why_not(request.param)) is not None:
        pytest.skip(f"this machine allows no sandbox of {request.param}: {reason}")
    root = Path(tempfile.mkdtemp(prefix="tunesmith-site-"))
    made = Site(root, kind=request.param)
    yield made
    for trainer in made.started:
        trainer.end()
    shutil.rmtree(root)


_tried: dict[str, str | None] = {}


def why_not(kind: str) -> str | None:
    """The reason why this machine allows no sandbox of this kind."""
    if kind not in _tried:
        _tried[kind] = choice._trial(kind)  # type: ignore[arg-type]
    return _tried[kind]


Probe = Callable[[str], str]
