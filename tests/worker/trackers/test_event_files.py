"""A run's metrics as TensorBoard's event files: readable by its own format, and never a reason to fail."""

import json
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from tunesmith.worker.trackers.tensorboard import write_event_files


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """From the records of the only file: eight bytes of length, four of checksum, the event, four of checksum."""
    (file,) = folder.iterdir()
    content, found = file.read_bytes(), {}
    while content:
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, round(value.simple_value, 3)))
        content = content[16 + length :]
    return found


def test_every_metric_is_a_curve_over_steps(tmp_path: Path) -> None:
    lines = [
        {"step": 0, "train_loss": None, "valid_loss": 2.5, "time": 1_800_000_000.0},
        {"step": 1, "train_loss": 2.25, "total_steps": 2, "time": 1_800_000_001.0},
        {"step": 2, "train_loss": float("nan"), "time": 1_800_000_002.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "tra')
    assert write_event_files(tmp_path / "metrics.jsonl", tmp_path / "events") is None
    assert curves(tmp_path / "events") == {"valid_loss": [(0, 2.5)], "train_loss": [(1, 2.25)]}


@pytest.mark.parametrize("made", ["nothing", "link"])
def test_a_run_without_metrics_of_its_own_has_none(tmp_path: Path, made: str) -> None:
    metrics = tmp_path / "metrics.jsonl"
    if made == "link":
        metrics.symlink_to("/etc/hostname")
    assert write_event_files(metrics, tmp_path / "events") == "the run has no metrics"


def test_what_cannot_be_written_is_told_and_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train_loss": 2}\n')
    (tmp_path / "events").write_text("in the way")
    assert write_event_files(tmp_path / "metrics.jsonl", tmp_path / "events")
