"""Rows that are held out and trained on: told with the job and the plan; and what `files show` tells of a file."""

import os
from pathlib import Path

import pytest

from tests.command import Run, in_process
from tests.control_plane import ControlPlane, chat_rows

ROWS = chat_rows(40).splitlines(keepends=True)


@pytest.fixture
def run(plane: ControlPlane, tmp_path: Path) -> Run:
    service = {"TUNESMITH_URL": plane.url, "TUNESMITH_API_KEY": plane.keys["member"]}
    return in_process({"PATH": os.environ["PATH"], "TUNESMITH_DATA_DIR": str(tmp_path), "COLUMNS": "200", **service})


def uploaded(plane: ControlPlane, first: int, last: int) -> str:
    return plane.upload(b"".join(ROWS[first:last]))


def warnings(plane: ControlPlane, training: str, validation: str) -> list[str]:
    """Of the job and of the plan, which say the same."""
    job = plane.create_job(training_file=training, validation_file=validation)
    events = plane.request("GET", f"/v1/fine_tuning/jobs/{job['id']}/events?limit=100").json()["data"]
    told = [event["message"] for event in events if event["level"] == "warn" and "validation" in event["message"]]
    body = {"model": "tiny-llama", "training_file": training, "validation_file": validation}
    assert plane.request("POST", "/v1/fine_tuning/plans", json=body).json()["warnings"] == told
    return told


def test_rows_of_both_files_are_told_with_the_job_and_the_plan(control_plane: ControlPlane, run: Run) -> None:
    training, validation = uploaded(control_plane, 0, 20), uploaded(control_plane, 17, 27)
    (told,) = warnings(control_plane, training, validation)
    assert told.startswith("3 of 10 different validation rows are also in the training file.")
    planned = run("plan", training, "--model", "tiny-llama")
    assert "also in the training file" not in planned.stderr


def test_the_same_file_twice_and_files_without_a_common_row(control_plane: ControlPlane) -> None:
    training = uploaded(control_plane, 0, 20)
    (told,) = warnings(control_plane, training, uploaded(control_plane, 0, 20))
    assert "the same bytes" in told
    assert warnings(control_plane, training, uploaded(control_plane, 20, 40)) == []


def test_files_that_an_older_version_checked_are_compared_by_their_bytes_alone(control_plane: ControlPlane) -> None:
    training, validation = uploaded(control_plane, 0, 20), uploaded(control_plane, 10, 20)
    control_plane.sql("UPDATE files SET report = report - 'sample'")
    assert warnings(control_plane, training, validation) == []


def test_files_show_tells_counts_lengths_and_repeats_and_no_hashes(control_plane: ControlPlane, run: Run) -> None:
    file_id = control_plane.upload(b"".join([*ROWS[:20], ROWS[3]]))
    shown = run("files", "show", file_id)
    assert shown.returncode == 0, shown.stderr
    assert "21 good rows" in shown.stdout
    assert "1 row repeated: line 21" in shown.stdout
    assert "tokens of a row by bytes" in shown.stdout
    assert "█" in shown.stdout
    assert "sample" not in control_plane.request("GET", f"/v1/files/{file_id}").json()["tunesmith"]["report"]
