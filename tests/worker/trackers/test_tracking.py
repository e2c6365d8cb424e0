"""W&B and MLflow hear how a run goes, from processes that can neither fail nor hold up the job."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.typing import FilteringBoundLogger

from tests.waiting import PATIENCE_SECONDS, eventually
from tests.worker.attempt.test_preparation import claim
from tunesmith.tuning.job import Integration
from tunesmith.tuning.messages import Claim, EventReport
from tunesmith.tuning.state import Outcome
from tunesmith.worker.run_directory import RunDirectory, append_line
from tunesmith.worker.trackers.tracked_run import TrackedRun
from tunesmith.worker.trackers.tracking import Tracking, tracking

KEY = {"WANDB_API_KEY": "wandb-key"}
ROOT = Path(__file__).parents[3]
WANDB = """
import json, os, pathlib
heard = pathlib.Path(os.environ["HOME"], "wandb.jsonl")
def say(what): heard.open("a").write(json.dumps(what) + "\\n")
def Settings(**settings): return settings
class Run:
    url = "https://wandb.example.com/acme/support/runs/1"
    def log(self, metrics, step): say([step, {k: v for k, v in metrics.items() if k[0] != "_"}])
    def finish(self, exit_code): say(["finished", exit_code])
def init(**asked):
    print("a library that prints")
    say([asked["project"], asked["name"], asked["tags"], asked["id"], sorted(os.environ)])
    return Run()
"""
MLFLOW = """
import json, os, pathlib, types
heard = pathlib.Path(os.environ["HOME"], "mlflow.jsonl")
def say(*what): heard.open("a").write(json.dumps(what) + "\\n")
entities = types.SimpleNamespace(Metric=lambda *parts: parts)
"""
MLFLOW_CLIENT = """
from types import SimpleNamespace as Some
from mlflow import say
class MlflowClient:
    def __init__(self, tracking_uri): pass
    def get_experiment_by_name(self, name): return None
    def create_experiment(self, name): return "7"
    def search_runs(self, ids, filter_string, max_results): return []
    def create_run(self, experiment, run_name, tags): return Some(info=Some(run_id="r1"))
    def log_param(self, run_id, name, value): pass
    def log_batch(self, run_id, metrics): say("batch", [list(metric) for metric in metrics])
    def set_terminated(self, run_id, status): say("ended", status)
"""


class Heard:
    """What the job's history was told."""

    def __init__(self) -> None:
        self.reports: list[EventReport] = []

    def __call__(self, report: EventReport) -> None:
        self.reports.append(report)

    @property
    def messages(self) -> list[str]:
        return [report.message for report in self.reports]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, for stand-ins of the libraries."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def environment(packages: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join((str(packages), str(ROOT)))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(packages),
        "PYTHONPATH": path,
        "TUNESMITH_WORKER_KEY": "ts-secret",
        "AWS_SECRET_ACCESS_KEY": "aws",
        **more,
    }


def asked(**wandb: object) -> Claim:
    integration = Integration.model_validate({"type": "wandb", "wandb": {"project": "support", **wandb}})
    plain = claim()
    return plain.model_copy(update={"spec": plain.spec.model_copy(update={"integrations": (integration,)})})


@contextmanager
def followed(
    job: Claim, run: RunDirectory, heard: Heard, log: FilteringBoundLogger, **around: object
) -> Iterator[Tracking]:
    with tracking(job, run, tell=heard, log=log, **around) as found:
        yield found
    found.wait(seconds=PATIENCE_SECONDS)


def lines(path: Path) -> list[list[object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_wandb_hears_every_point_under_the_names_that_the_job_asked_for(
    run: RunDirectory, packages: Path, heard: Heard, log: FilteringBoundLogger
) -> None:
    (packages / "wandb.py").write_text(WANDB)
    around = environment(packages, WANDB_API_KEY="wandb-key")
    append_line(run.metrics, {"step": 1, "train_loss": 2.5, "time": 1.0})
    with followed(asked(name="night", tags=["nightly"]), run, heard, log, environment=around) as found:
        eventually(lambda: heard.messages)
        append_line(run.metrics, {"step": 2, "train_loss": float("nan"), "valid_loss": 1.5, "time": 2.0})
        found.outcome = Outcome.SUCCEEDED
    first, *points = lines(packages / "wandb.jsonl")
    assert first[:4] == ["support", "night", ["nightly"], claim().job_id]
    assert points == [[1, {"train_loss": 2.5}], [2, {"valid_loss": 1.5}], ["finished", 0]]
    assert heard.messages == ["W&B shows this run: https://wandb.example.com/acme/support/runs/1"]
    assert heard.reports[0].data == {"tracker": "wandb", "url": "https://wandb.example.com/acme/support/runs/1"}
    assert not {"TUNESMITH_WORKER_KEY", "AWS_SECRET_ACCESS_KEY"} & set(first[4])


def test_mlflow_hears_every_point_and_how_it_ended(
    run: RunDirectory, packages: Path, heard: Heard, log: FilteringBoundLogger
) -> None:
    (packages / "mlflow").mkdir()
    (packages / "mlflow" / "__init__.py").write_text(MLFLOW)
    (packages / "mlflow" / "tracking.py").write_text(MLFLOW_CLIENT)
    append_line(run.metrics, {"step": 3, "train_loss": 2.0, "time": 5.0})
    around = environment(packages, MLFLOW_TRACKING_URI="http://mlflow.example.com:5000")
    with followed(claim(), run, heard, log, environment=around) as found:
        found.outcome = Outcome.FAILED
    assert lines(packages / "mlflow.jsonl") == [["batch", [["train_loss", 2.0, 5000, 3]]], ["ended", "FAILED"]]
    assert heard.messages == ["MLflow shows this run: http://mlflow.example.com:5000/#/experiments/7/runs/r1"]


def test_a_tracker_that_fails_is_told_once_without_its_key(
    run: RunDirectory, packages: Path, heard: Heard, log: FilteringBoundLogger
) -> None:
    (packages / "wandb.py").write_text(
        "import os\ndef Settings(**_): ...\ndef init(**_): raise OSError('no ' + os.environ['WANDB_API_KEY'])"
    )
    around = environment(packages, WANDB_API_KEY="wandb-key")
    with followed(claim(), run, heard, log, environment=around):
        pass
    assert heard.messages == ["W&B is told no more of this run: OSError: no [hidden]"]


def test_words_of_a_tracker_that_cannot_be_understood_are_passed_over(
    run: RunDirectory, packages: Path, heard: Heard, log: FilteringBoundLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.worker.trackers.tracking._PROGRAM", "odd")
    (packages / "odd.py").write_text(
        "import sys\nfor word in (b'\\xff', b'7', b'[' * 100_000, b'{\"url\": \"https://w.example.com/1\"}'):\n"
        "    sys.stdout.buffer.write(word + b'\\n')\n"
    )
    (packages / "wandb.py").touch()
    with followed(claim(), run, heard, log, environment=environment(packages, **KEY)):
        pass
    assert heard.messages == ["W&B shows this run: https://w.example.com/1"]


def test_a_follower_ends_whatever_it_is_told_last(run: RunDirectory, packages: Path) -> None:
    (packages / "wandb.py").write_text(WANDB)
    tracked = TrackedRun(
        kind="wandb", metrics=str(run.metrics), project="support", name="night", job_id="job", config={}
    )
    follower = subprocess.Popen(
        [sys.executable, "-m", "tunesmith.worker.trackers.follow"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(packages, PYTHONIOENCODING="utf-8:strict", **KEY),
    )
    assert follower.stdin is not None
    assert follower.stdout is not None
    follower.stdin.write(tracked.model_dump_json().encode() + b"\n")
    follower.stdin.flush()
    assert b"runs/1" in follower.stdout.readline()
    follower.communicate(b"\xff no word", timeout=30)
    assert lines(packages / "wandb.jsonl")[-1] == ["finished", 1]


def test_nobody_waits_for_a_tracker_that_hangs(
    run: RunDirectory, packages: Path, heard: Heard, log: FilteringBoundLogger
) -> None:
    (packages / "wandb.py").write_text(
        "import os, pathlib, time\ndef Settings(**_): ...\n"
        "def init(**_):\n    pathlib.Path(os.environ['HOME'], 'pid').write_text(str(os.getpid()))\n    time.sleep(600)"
    )
    with tracking(claim(), run, tell=heard, log=log, environment=environment(packages, WANDB_API_KEY="k")) as found:
        eventually(lambda: (packages / "pid").exists() and (packages / "pid").read_text())
        waited = time.monotonic()
    assert time.monotonic() - waited < 30, "its alarm would end it after a minute"
    pid = int((packages / "pid").read_text())
    os.kill(pid, 14)  # the alarm that it has set itself for a minute from now
    found.wait(seconds=PATIENCE_SECONDS)
    assert not Path(f"/proc/{pid}").exists()


def test_an_alarm_ends_a_tracker_that_hangs_after_the_job(
    run: RunDirectory, packages: Path, heard: Heard, log: FilteringBoundLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    (packages / "wandb.py").write_text("import time\ndef Settings(**_): ...\ndef init(**_): time.sleep(600)")
    monkeypatch.setattr("tunesmith.worker.trackers.tracking._PROGRAM", "quick")
    (packages / "quick.py").write_text(
        "import sys, tunesmith.worker.trackers.follow as follow\nfollow._LAST_SECONDS = 1\nsys.exit(follow.main())"
    )
    with tracking(claim(), run, tell=heard, log=log, environment=environment(packages, WANDB_API_KEY="k")) as found:
        pass
    found.wait(seconds=PATIENCE_SECONDS)
    assert not any(thread.is_alive() for thread in found._threads)


def test_a_job_that_asks_for_a_tracker_which_is_not_there_is_told_why(
    run: RunDirectory, packages: Path, heard: Heard, log: FilteringBoundLogger
) -> None:
    with followed(asked(), run, heard, log, environment=environment(packages)):
        pass
    assert heard.messages == ["W&B is told nothing of this run: WANDB_API_KEY is not set where the worker runs."]
    with followed(claim(), run, heard, log, environment=environment(packages, MLFLOW_TRACKING_URI="http://x")):
        pass
    assert "the package mlflow is not installed" in heard.messages[1]
    with followed(claim(), run, heard, log, environment=environment(packages)):
        pass
    assert len(heard.messages) == 2


def test_points_of_a_link_that_a_trainer_left_are_not_followed(
    run: RunDirectory, packages: Path, heard: Heard, log: FilteringBoundLogger, tmp_path: Path
) -> None:
    (packages / "wandb.py").write_text(WANDB)
    (tmp_path / "elsewhere").write_text('{"step": 1, "secret": 4}\n')
    run.metrics.symlink_to(tmp_path / "elsewhere")
    with followed(claim(), run, heard, log, environment=environment(packages, WANDB_API_KEY="k")):
        pass
    assert lines(packages / "wandb.jsonl")[1:] == [["finished", 1]]
