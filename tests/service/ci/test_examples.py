"""The examples that talk to the API run as they are, against a live one whose worker trains at once."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.command import in_process
from tests.control_plane import ControlPlane
from tests.ports import free_port
from tests.service.ci.training import shell, training
from tests.service.webhooks.receiver import cancelled, listen, send
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
ROWS = EXAMPLES / "support.jsonl"


@pytest.fixture
def environment(control_plane: ControlPlane, tmp_path: Path) -> dict[str, str]:
    control_plane.add_model("my-base")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return shell(control_plane, {"PATH": path, "HOME": str(tmp_path)})


@pytest.mark.parametrize("command", [["submit_with_curl.sh"], ["node", "submit_with_fetch.mjs"]])
def test_an_example_submits_and_waits(
    control_plane: ControlPlane, environment: dict[str, str], command: list[str]
) -> None:
    *program, script = command
    if program and shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    words = [*program, str(EXAMPLES / script), str(ROWS), "my-base"]
    with training(control_plane):
        ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("succeeded ")


def test_the_job_file_runs(control_plane: ControlPlane, environment: dict[str, str]) -> None:
    with training(control_plane):
        ended = in_process(environment)("ci", "run", EXAMPLES / "job.yaml")
    assert ended.returncode == 0, ended.stderr


def test_the_workflow_uses_inputs_and_outputs_that_the_action_has() -> None:
    action = yaml.safe_load((ROOT / "deploy/github-action/action.yml").read_text(encoding="utf-8"))
    workflow = yaml.safe_load((EXAMPLES / "github_workflow.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["retrain"]["steps"]
    used = next(step for step in steps if "github-action" in step.get("uses", ""))
    assert used["uses"].split("@")[0].endswith("deploy/github-action")
    required = {name for name, given in action["inputs"].items() if given.get("required")}
    assert required <= set(used["with"]) <= set(action["inputs"])
    assert "steps.tune.outputs.model" in steps[-1]["env"]["MODEL"]
    assert "model" in action["outputs"]


def test_the_receiver_takes_what_is_signed_and_nothing_else(
    control_plane: ControlPlane, environment: dict[str, str]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/hooks"
    endpoint = listen(control_plane, url)
    forged = listen(control_plane, url)
    command = [sys.executable, str(EXAMPLES / "webhook_receiver.py"), str(port)]
    secret = {"OPENAI_WEBHOOK_SECRET": endpoint.secret}
    process = subprocess.Popen(command, env=environment | secret, stdout=subprocess.PIPE, text=True)
    try:
        eventually(lambda: _listens(port))
        job_id = cancelled(control_plane)
        assert send(control_plane) == 2
        assert process.stdout is not None
        assert process.stdout.readline() == f"fine_tuning.job.cancelled {job_id}\n"
    finally:
        process.kill()
        process.communicate()
    statuses = "SELECT endpoint_id, log->0->>'status_code' FROM webhook_deliveries"
    assert dict(control_plane.sql(statuses)) == {endpoint.id: "204", forged.id: "400"}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
