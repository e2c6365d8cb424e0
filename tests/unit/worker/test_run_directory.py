"""What is read of a run while its trainer is writing."""

from pathlib import Path

import pytest

from tunesmith.worker.run_directory import RunDirectory, append_line


@pytest.mark.parametrize("written", ["", '{"step"', '{"step":1,"loss":2.5}'])
def test_a_first_line_that_is_being_written_is_no_step(tmp_path: Path, written: str) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.last_step() == 0
    directory.metrics.write_text(written)
    assert directory.last_step() == 0


def test_the_last_step_is_that_of_the_last_whole_line(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    append_line(directory.metrics, {"step": 7})
    append_line(directory.metrics, {"step": 8})
    with directory.metrics.open("a") as half:
        half.write('{"step":9,"lo')
    assert directory.last_step() == 8
