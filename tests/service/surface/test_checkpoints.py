"""A checkpoint's weights by the name it is listed under, over the API and by the command."""

import os
from pathlib import Path

import pytest

from tests.command import Run, in_process
from tests.control_plane import AttemptSide, ControlPlane

FILES = {
    "adapter_model.safetensors": b"weights at ten",
    "adapter_config.json": b'{"base_model_name_or_path": "hub/base"}',
    "optimizer.safetensors": b"moments",
}


@pytest.fixture
def run(plane: ControlPlane, tmp_path: Path) -> Run:
    service = {"TUNESMITH_URL": plane.url, "TUNESMITH_API_KEY": plane.keys["member"]}
    return in_process({"PATH": os.environ["PATH"], "TUNESMITH_DATA_DIR": str(tmp_path), "COLUMNS": "200", **service})


@pytest.fixture
def attempt(control_plane: ControlPlane) -> AttemptSide:
    attempt = control_plane.claimed()
    assert attempt.checkpoint(10, **FILES).status_code == 204
    return attempt


def listed(plane: ControlPlane, job_id: str) -> dict[str, object]:
    return dict(plane.request("GET", f"/v1/fine_tuning/jobs/{job_id}/checkpoints").json()["data"][0])


def test_a_checkpoint_of_a_running_job_is_pulled_by_its_listed_name(
    control_plane: ControlPlane, attempt: AttemptSide, run: Run, tmp_path: Path
) -> None:
    name = listed(control_plane, attempt.job_id)["fine_tuned_model_checkpoint"]
    pulled = run("artifacts", "pull", name, "--to", tmp_path / "out")
    assert pulled.returncode == 0, pulled.stderr
    found = {path.name: path.read_bytes() for path in (tmp_path / "out" / "adapter").iterdir()}
    assert found == {name: FILES[name] for name in ("adapter_model.safetensors", "adapter_config.json")}


def test_what_only_training_goes_on_from_stays_with_the_job(control_plane: ControlPlane, attempt: AttemptSide) -> None:
    checkpoint = listed(control_plane, attempt.job_id)
    path = f"/v1/fine_tuning/jobs/{attempt.job_id}/checkpoints/{checkpoint['id']}/files"
    content = control_plane.request("GET", f"{path}/adapter_model.safetensors", headers={"range": "bytes=0-6"})
    assert (content.status_code, content.content) == (206, b"weights")
    for name in ("optimizer.safetensors", "manifest.json", "../x"):
        assert control_plane.request("GET", f"{path}/{name}").status_code == 404
    assert control_plane.request("GET", f"{path}/adapter_config.json", key="stranger").status_code == 404


def test_a_checkpoint_that_is_not_there_or_was_let_go_is_told(
    control_plane: ControlPlane, attempt: AttemptSide, run: Run, tmp_path: Path
) -> None:
    name = str(listed(control_plane, attempt.job_id)["fine_tuned_model_checkpoint"])
    absent = run("artifacts", "pull", f"{name}0", "--to", tmp_path / "out")
    assert (absent.returncode, "has no checkpoint" in absent.stderr) == (10, True)
    control_plane.sql("UPDATE checkpoints SET files = '[]'")
    gone = run("artifacts", "pull", name, "--to", tmp_path / "out")
    assert (gone.returncode, "let go" in gone.stderr) == (10, True)
    assert run("artifacts", "pull", name, "--merged").returncode == 2
    assert not (tmp_path / "out").exists()
