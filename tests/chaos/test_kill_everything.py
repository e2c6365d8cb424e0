"""Whatever dies while a job runs, the job ends with the very bytes that an undisturbed run ends with."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.quick_installation import installation, submit
from tests.chaos.reference import UndisturbedRun, request_of
from tests.stack.up import Up, short_folder
from tunesmith.worker.hashes import sha256_of

ROWS, EPOCHS = 160, 30  # 1,200 steps with four checkpoints: longer than the kills take on a fast machine
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def up() -> Iterator[Up]:
    with short_folder() as folder, installation(folder) as running:
        yield running


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_job_outlives_the_kill_of_every_part_and_its_adapter_has_the_bytes_of_an_undisturbed_run(
    up: Up, tmp_path: Path
) -> None:
    job_id = submit(up, rows=ROWS, epochs=EPOCHS)
    up.wait_for_step(job_id, 1)
    with UndisturbedRun(request_of(up, job_id), folder=tmp_path / "undisturbed") as undisturbed:
        for part in ("api", "worker-api", "valkey", "postgres"):
            kill_beside_the_trainer(up, job_id, part)
        up.wait_for_checkpoint(job_id)
        for part in ("trainer", "worker"):
            kill_and_resume(up, job_id, part)
        job = up.wait_for_end(job_id, seconds=240)
        expected = undisturbed.wait(seconds=240)

    assert job["status"] == "succeeded", f"{job['error']}\n{up.logs()}"
    assert_attempts(up, job_id)
    assert up.steps(job_id) == list(range(1, job["tunesmith"]["plan"]["total_steps"] + 1))
    assert_history_is_gapless(up, job_id)
    adapter = pull_adapter(up, job_id, tmp_path / "pulled")
    assert sha256_of(adapter / WEIGHTS) == sha256_of(expected / WEIGHTS)
    assert_loads(up, adapter, tmp_path)

    before = up.pids()
    assert len(before) >= 5
    assert up.stop() == 0, up.logs()
    assert up.pids() == []
    assert up.trainers() == []


def kill_and_resume(up: Up, job_id: str, part: str) -> None:
    """A part whose death ends the run: a new attempt goes on from a checkpoint."""
    attempts = len(up.attempts(job_id))
    up.replace(part)
    up.wait_for_resumption(job_id, attempt=attempts + 1)


def kill_beside_the_trainer(up: Up, job_id: str, part: str) -> None:
    """A part that the trainer does not need: the same process goes on, and its steps arrive later."""
    attempts, trainers = len(up.attempts(job_id)), up.trainers()
    up.replace(part)
    up.wait_for_step(job_id, up.last_step(job_id) + 1)
    assert up.trainers() == trainers, f"the kill of {part} restarted the training\n{up.logs()}"
    assert len(up.attempts(job_id)) == attempts


def assert_attempts(up: Up, job_id: str) -> None:
    """One more for each kill that ended a run, none for the others."""
    attempts = up.attempts(job_id)
    assert [attempt["outcome"] for attempt in attempts] == ["failed", "lost", "succeeded"]
    assert [attempt["failure"] and attempt["failure"]["code"] for attempt in attempts] == [
        "trainer_killed",
        "worker_lost",
        None,
    ]


def assert_history_is_gapless(up: Up, job_id: str) -> None:
    seqs = [seq for (seq,) in up.query("SELECT seq FROM events WHERE job_id = %s ORDER BY seq", job_id)]
    assert seqs == list(range(1, len(seqs) + 1))


def pull_adapter(up: Up, job_id: str, folder: Path) -> Path:
    """The command verifies every file by its sha256; here once more against what the service promises."""
    up.tunesmith("artifacts", "pull", job_id, "--to", str(folder), "--kind", "adapter")
    artifacts = up.get(f"/v1/fine_tuning/jobs/{job_id}/artifacts")["data"]
    (adapter,) = (artifact for artifact in artifacts if artifact["kind"] == "adapter")
    assert {file["name"]: file["sha256"] for file in adapter["files"]} == {
        path.name: sha256_of(path) for path in (folder / "adapter").iterdir()
    }
    return folder / "adapter"


def assert_loads(up: Up, adapter: Path, tmp_path: Path) -> None:
    """PEFT opens the adapter on its base model, in a process of its own because torch is large."""
    script = (
        "import sys; from peft import PeftModel; from transformers import AutoModelForCausalLM as M;"
        "print(PeftModel.from_pretrained(M.from_pretrained(sys.argv[1]), sys.argv[2]).active_adapter)"
    )
    base = up.data_dir.parent / "tiny"
    command = [sys.executable, "-c", script, str(base), str(adapter)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
