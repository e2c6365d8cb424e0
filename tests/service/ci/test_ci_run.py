"""`tunesmith ci run` and the action's script against a live API whose worker trains at once."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.command import Run, in_process
from tests.control_plane import ControlPlane, chat_rows
from tests.service.ci.training import shell, training
from tunesmith.cli.ci.job_file import load
from tunesmith.cli.ci.run import Run as CiRun
from tunesmith.cli.ci.run import Terms
from tunesmith.cli.client import Client
from tunesmith.cli.connection import Connection
from tunesmith.cli.rendering.live_view import PlainView

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[3]
TOOLS = Path(sys.executable).parent


@pytest.fixture
def environment(control_plane: ControlPlane, tmp_path: Path) -> dict[str, str]:
    usual = {"PATH": f"{TOOLS}:{os.environ['PATH']}", "HOME": str(tmp_path), "GITHUB_SHA": "0123456789abcdef"}
    files = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"), "GITHUB_OUTPUT": str(tmp_path / "outputs")}
    return shell(control_plane, usual | files)


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    return in_process(environment)


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a job file with rows beside it."""

    def write(**more: object) -> Path:
        (tmp_path / "rows.jsonl").write_bytes(chat_rows())
        path = tmp_path / "job.yaml"
        path.write_text(json.dumps({"model": "tiny-llama", "training_file": "rows.jsonl", **more}))
        return path

    return write


def counts(plane: ControlPlane) -> tuple[int, int]:
    return plane.sql("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM files WHERE purpose = 'fine-tune')")[0]


def outputs(folder: Path) -> dict[str, str]:
    """The newest."""
    return dict(line.split("=", 1) for line in (folder / "outputs").read_text().splitlines())


def test_a_good_result_is_reported_and_a_step_that_runs_again_attaches(
    control_plane: ControlPlane, run: Run, job_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = job_file(gate={"max_validation_loss": 2, "min_token_accuracy": 0.7}, metadata={"team": "search"})
    with training(control_plane):
        first = run("ci", "run", path, "--junit", tmp_path / "junit.xml")
    assert first.returncode == 0, first.stderr
    job_id = first.stdout.strip()
    job = control_plane.job(job_id)
    assert set(job["metadata"]) == {"team", "ci_key"}
    assert job["metadata"]["ci_key"].startswith("0123456789ab-")
    page = (tmp_path / "summary.md").read_text()
    assert "| validation loss | 3.0000 to **1.5000** |" in page
    assert "✅ gate `min_token_accuracy`: The token accuracy is 0.75" in page.replace("\\", "")
    assert outputs(tmp_path) | {"headline": ""} == {
        "exit-code": "0",
        "headline": "",
        "job-id": job_id,
        "status": "succeeded",
        "model": job["fine_tuned_model"],
        "validation-loss": "1.5",
        "token-accuracy": "0.75",
        "gate": "passed",
    }
    again = run("ci", "run", path)
    assert (again.returncode, again.stdout.strip()) == (0, job_id)
    assert "attached to" in again.stderr
    assert counts(control_plane) == (1, 1)


def test_another_commit_other_rows_or_new_make_another_job(
    control_plane: ControlPlane, run: Run, job_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = job_file()

    def submitted(*words: str, **env: str) -> str:
        return run("ci", "run", path, "--timeout", "0s", *words, env=env).stdout

    jobs = [submitted(), submitted(GITHUB_SHA="fedcba"), submitted("--new"), submitted("--key", "night-1")]
    assert submitted("--key", "night-1") == jobs[3]
    (tmp_path / "rows.jsonl").write_bytes(chat_rows(30))
    jobs.append(submitted())
    assert len(set(jobs)) == counts(control_plane)[0] == 5


def test_a_gate_that_refuses_exits_with_6_and_says_the_numbers(
    control_plane: ControlPlane, run: Run, job_file: Callable[..., Path], tmp_path: Path
) -> None:
    with training(control_plane, valid_loss=2.5):
        ended = run("ci", "run", job_file(gate={"max_validation_loss": 2}), env={"GITHUB_ACTIONS": "true"})
    assert ended.returncode == 6
    assert "The validation loss is 2.5; the gate wants at most 2." in ended.stderr
    assert "::error title=Tunesmith::The gate refuses" in ended.stdout
    assert (outputs(tmp_path)["gate"], outputs(tmp_path)["status"]) == ("refused", "succeeded")


def test_a_failed_job_exits_with_3_and_the_next_run_tries_again(
    control_plane: ControlPlane, run: Run, job_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = job_file()
    with training(control_plane, fails=True):
        first = run("ci", "run", path)
    assert (first.returncode, "No row teaches anything." in first.stderr) == (3, True)
    assert "❌ Tunesmith" in (tmp_path / "summary.md").read_text()
    with training(control_plane):
        second = run("ci", "run", path)
    assert second.returncode == 0
    assert second.stdout != first.stdout
    assert counts(control_plane) == (2, 1)


def test_what_the_service_refuses_exits_with_7_and_names_the_field(
    run: Run, job_file: Callable[..., Path], tmp_path: Path
) -> None:
    ended = run("ci", "run", job_file(model="no-such-model"))
    assert ended.returncode == 7
    assert "no-such-model" in ended.stderr
    assert outputs(tmp_path)["exit-code"] == "7"


def test_a_service_that_stays_away_exits_with_9(run: Run, job_file: Callable[..., Path]) -> None:
    ended = run("ci", "run", job_file(), "--patience", "0s", env={"TUNESMITH_URL": "http://127.0.0.1:9"})
    assert ended.returncode == 9


def test_a_report_that_cannot_be_written_keeps_no_other_from_it(
    run: Run, job_file: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    refused = run("ci", "run", job_file(model=5), "--junit", tmp_path / "taken" / "junit.xml")
    assert (refused.returncode, "junit.xml cannot be written" in refused.stderr) == (7, True)
    assert outputs(tmp_path)["exit-code"] == "7"


def test_a_time_that_is_up_exits_with_5_and_the_job_goes_on(
    control_plane: ControlPlane, run: Run, job_file: Callable[..., Path]
) -> None:
    ended = run("ci", "run", job_file(), "--timeout", "0s")
    assert ended.returncode == 5
    assert "tunesmith watch ftjob-" in ended.stderr
    assert control_plane.job(ended.stdout.strip())["status"] == "queued"


def test_a_dry_run_shows_the_plan_and_makes_nothing(
    control_plane: ControlPlane, run: Run, job_file: Callable[..., Path]
) -> None:
    control_plane.worker()
    ended = run("ci", "run", job_file(validation_file="rows.jsonl"), "--dry-run")
    assert ended.returncode == 0, ended.stderr
    assert "cpu-2-cores-16gib" in ended.stdout + ended.stderr
    assert "rows.jsonl  20 rows" in ended.stderr
    assert counts(control_plane) == (0, 0)


def test_the_champion_is_shown_beside_the_new_model(
    control_plane: ControlPlane, run: Run, job_file: Callable[..., Path], tmp_path: Path
) -> None:
    with training(control_plane):
        first = run("ci", "run", job_file(validation_file="rows.jsonl", champion="ft:no:such:model"))
        champion = control_plane.job(first.stdout.strip())["fine_tuned_model"]
        control_plane.sql("ALTER TABLE jobs DISABLE TRIGGER USER")
        control_plane.sql("UPDATE jobs SET version = version + 1, result = '{\"final_valid_loss\": 1.75}'")
        control_plane.sql("ALTER TABLE jobs ENABLE TRIGGER USER")
        second = run("ci", "run", job_file(validation_file="rows.jsonl", champion=champion, suffix="b"))
    assert (first.returncode, second.returncode) == (0, 0)
    page = (tmp_path / "summary.md").read_text()
    assert "1.7500, this one is 0.2500 better |" in page
    assert "| champion ft:no:such:model | nothing is known of it to compare with |" in page
    assert "nothing is known of the champion" in first.stderr


def test_two_runs_at_once_get_one_job(control_plane: ControlPlane, job_file: Callable[..., Path]) -> None:
    loaded = load(job_file())
    terms = Terms("one", is_new=False, timeout_seconds=None, patience_seconds=20, cancels_on_interrupt=False)
    together = threading.Barrier(4)
    made: list[str] = []

    def submit() -> None:
        connection = Connection(base_url=f"{control_plane.url}/v1", api_key=control_plane.keys["member"])
        with Client(find=lambda: connection) as client:
            view = PlainView(tell=lambda _line: None)
            together.wait()
            run = CiRun(client, loaded, terms, view=view, clock=time.monotonic, sleep=time.sleep)
            made.append(run.submit_or_attach().id)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len(set(made)) == 1


def test_the_script_of_the_action_runs_in_a_plain_shell_and_fails_a_build_on_a_worse_model(
    control_plane: ControlPlane, environment: dict[str, str], job_file: Callable[..., Path], tmp_path: Path
) -> None:
    action = yaml.safe_load((ROOT / "deploy/github-action/action.yml").read_text(encoding="utf-8"))
    step = action["runs"]["steps"][0]
    given = {
        "JOB_FILE": str(job_file(gate={"max_validation_loss": 2})),
        "TIMEOUT": action["inputs"]["timeout"]["default"],
        "JUNIT": str(tmp_path / "junit.xml"),
        "KEY": "",
        "DRY_RUN": action["inputs"]["dry-run"]["default"],
        "CANCEL_ON_INTERRUPT": action["inputs"]["cancel-on-interrupt"]["default"],
        "CLIENT": "",
    }
    assert set(step["env"]) == {*given, "TUNESMITH_URL", "TUNESMITH_API_KEY"}
    script = {**environment, **given, "GITHUB_ACTION_PATH": str(ROOT / "deploy/github-action")}

    def act(**more: str) -> "subprocess.CompletedProcess[str]":
        command = ["bash", "-c", step["run"]]
        return subprocess.run(command, env=script | more, capture_output=True, text=True, check=False, timeout=60)

    with training(control_plane):
        good = act()
    assert good.returncode == 0, good.stderr
    named = {value["value"].split("outputs.")[1].rstrip(" }") for value in action["outputs"].values()}
    assert named <= set(outputs(tmp_path))
    with training(control_plane, valid_loss=2.5):
        worse = act(KEY="worse")
    assert worse.returncode == 6
    assert 'failures="1"' in (tmp_path / "junit.xml").read_text()
