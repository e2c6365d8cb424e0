"""How long an attempt took before its first step, by what its trainer noted."""

from pathlib import Path

import pytest

from tunesmith.worker.attempt.startup import startup_seconds


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ('{"reached": "preparing", "time": 101.0}\n{"reached": "training", "time": 102.5}\n', 2.5),
        ('{"reached": "training", "time": 102.5}\n{"reached": "training", "time": 190.0}\n', 2.5),
        ('{"reached": "training", "time": 99.0}\n', 0.0),
        ('{"reached": "preparing", "time": 101.0}\n', None),
        ('[]\n{"reached": "training"}\n{"reached": "training", "time": "soon"}\n{"rea', None),
        ("", None),
    ],
)
def test_it_is_the_first_time_that_training_began(tmp_path: Path, lines: str, seconds: float | None) -> None:
    (tmp_path / "timeline.jsonl").write_text(lines)
    assert startup_seconds(tmp_path / "timeline.jsonl", since=100.0) == seconds


def test_a_link_that_a_trainer_left_and_a_missing_file_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "other").write_text('{"reached": "training", "time": 102.5}\n')
    (tmp_path / "timeline.jsonl").symlink_to(tmp_path / "other")
    assert startup_seconds(tmp_path / "timeline.jsonl", since=100.0) is None
    assert startup_seconds(tmp_path / "none", since=100.0) is None
