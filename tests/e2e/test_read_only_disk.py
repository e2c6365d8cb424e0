"""A worker whose whole disk becomes read-only falls silent and says why; another one does the work."""

from pathlib import Path

import pytest

from tests.stack.read_only_disk import ReadOnlyLater
from tests.stack.services import Services
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_worker_whose_disk_became_read_only_says_so_and_takes_no_job_from_others(
    stack: Services, tmp_path: Path
) -> None:
    folder = tmp_path / "machine"
    disk = ReadOnlyLater(folder)
    broken = stack.start_worker(work_dir=folder, disk=disk)
    eventually(lambda: broken.said("warm_trainer.decided"), what=lambda: f"a worker\n{stack.logs()}")
    disk.make_read_only(broken.process.pid)
    eventually(lambda: broken.said("Read-only file system"), seconds=30, what=lambda: f"its words\n{stack.logs()}")
    job_id = stack.submit(rows=8)
    good = stack.start_worker()
    stack.wait_for_status(job_id, "succeeded")
    assert [(one["outcome"], one["failure"]) for one in stack.attempts(job_id)] == [("succeeded", None)]
    assert broken.process.poll() is None
    assert good.terminate() == 0
    broken.kill()
