"""`tunesmith plan` on the live workers, and what `tunesmith get` tells after the run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.control_plane import ControlPlane, chat_rows
from tests.machines import CPU, ONE_GPU
from tests.service.planning.test_plans import BIG_CONFIG, plans, run_once
from tunesmith.tuning.values.json_objects import Json


def tunesmith(plane: ControlPlane, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "TUNESMITH_URL": f"{plane.url}/v1", "TUNESMITH_API_KEY": plane.keys["member"]}
    command = [sys.executable, "-m", "tunesmith.local.main", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "support.jsonl"
    path.write_bytes(chat_rows(40))
    return path


def test_a_file_is_planned_on_the_live_workers_without_being_sent(control_plane: ControlPlane, rows: Path) -> None:
    control_plane.worker()
    control_plane.worker("gpu", hardware=ONE_GPU)
    told = tunesmith(control_plane, "plan", str(rows), "--model", "tiny-llama")
    assert told.returncode == 0, told.stderr
    header, *lines = told.stdout.splitlines()
    assert header.split("  ")[0] == "FLEET"
    assert "PEAK / FREE GIB" in header
    assert {line.split()[0] for line in lines} == {CPU.worker_class, ONE_GPU.worker_class}
    assert all(" yes " in line and " now " in line for line in lines)
    assert "support.jsonl  40 rows, chat" in told.stderr
    assert "recipe  " in told.stderr
    assert "rows per step" in told.stderr
    assert control_plane.sql("SELECT count(*) FROM files") == [(0,)]
    assert control_plane.sql("SELECT count(*) FROM jobs") == [(0,)]


def test_the_json_is_the_services_own_answer(control_plane: ControlPlane, rows: Path) -> None:
    control_plane.worker()
    told = tunesmith(control_plane, "plan", str(rows), "--model", "tiny-llama", "--method", "full", "-o", "json")
    answer = json.loads(told.stdout)
    assert answer["chosen"] == CPU.worker_class
    assert answer["data"][0]["plan"]["method"] == "full"
    assert (answer["dataset"]["rows"], answer["dataset"]["held_out_rows"]) == (36, 4)


MACHINES = ("1xRTX4090", "8xA100-80G", "1xA100:30G", "8xCPU:32G")


@pytest.mark.parametrize(
    ("words", "ours", "learning"),
    [
        (("--rows", "3000"), {"rows": 3000}, {}),
        (
            ("--rows", "60000", "--tokens-per-row", "900", "--goal", "cost", "--epochs", "2", "--rank", "8"),
            {"rows": 60_000, "tokens_per_row": 900, "goal": "cost", "lora": {"rank": 8}},
            {"hyperparameters": {"n_epochs": 2}},
        ),
        (
            (
                "--rows",
                "20",
                "--objective",
                "dpo",
                "--method",
                "qlora",
                "--host-memory",
                "64",
                "--max-seq-length",
                "512",
            ),
            {"rows": 20, "method": "qlora", "host_memory_gib": 64, "max_seq_length": 512},
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {}}}},
        ),
    ],
)
def test_the_command_without_a_service_answers_what_the_service_answers(
    control_plane: ControlPlane, tmp_path: Path, words: tuple[str, ...], ours: Json, learning: Json
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(BIG_CONFIG))
    control_plane.request("POST", "/v1/models", key="admin", json={"name": "big", "config": BIG_CONFIG})
    answer = plans(control_plane, model="big", tunesmith={"on": [*MACHINES], **ours}, **learning)
    told = tunesmith(control_plane, "plan", "--config", str(config), "--on", ",".join(MACHINES), *words, "-o", "json")
    here = json.loads(told.stdout)
    assert [entry["hardware"] for entry in here] == [entry["worker_class"] for entry in answer["data"]]
    assert [entry.get("plan") for entry in here] == [entry["plan"] for entry in answer["data"]]
    assert any(entry["plan"] for entry in answer["data"])


def test_nothing_that_fits_is_exit_code_7_with_the_numbers(control_plane: ControlPlane) -> None:
    control_plane.add_model("big", config=BIG_CONFIG)
    assert tunesmith(control_plane, "plan", "--rows", "500", "--model", "big").returncode == 7
    control_plane.worker(hardware=ONE_GPU)
    told = tunesmith(control_plane, "plan", "--rows", "500", "--model", "big")
    assert told.returncode == 7
    assert " no " in told.stdout
    assert "21.0 GiB" in told.stderr


def test_a_bad_row_and_an_unknown_model_are_named(control_plane: ControlPlane, rows: Path) -> None:
    rows.write_bytes(chat_rows(2) + b"{oops\n")
    told = tunesmith(control_plane, "plan", str(rows), "--model", "tiny-llama")
    assert (told.returncode, "line 3: not valid JSON" in told.stderr) == (7, True)
    told = tunesmith(control_plane, "plan", "--rows", "5", "--model", "tiny-lama")
    assert (told.returncode, "tiny-llama" in told.stderr) == (7, True)


def test_get_and_accuracy_show_predicted_beside_measured(control_plane: ControlPlane) -> None:
    attempt = run_once(control_plane, memory=1.25, speed=0.5)
    told = tunesmith(control_plane, "get", attempt.job_id).stdout
    peak = attempt.claim.plan.memory.total_bytes
    assert f"memory: predicted {peak / 2**30:.1f} GiB, measured {peak * 1.25 / 2**30:.1f} GiB" in told
    assert "measured 12 s" in told
    accuracy = tunesmith(control_plane, "plan", "--accuracy")
    assert attempt.job_id in accuracy.stdout
    assert "+25%" in accuracy.stdout
    assert "-50%" in accuracy.stdout
    assert "TIME ERROR" in accuracy.stdout
    assert attempt.claim.plan.kernels in accuracy.stdout
