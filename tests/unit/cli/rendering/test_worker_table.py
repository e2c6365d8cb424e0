"""What the table of workers says about each: that it takes jobs, or why it gets none."""

from tests.machines import CPU
from tunesmith.cli.access.invitations import state_text
from tunesmith.tuning.api.workers import WorkerObject

READY = WorkerObject(
    id="worker-1",
    hostname="host",
    version="1",
    worker_class=CPU.worker_class,
    hardware=CPU.model_dump(mode="json"),
    slots=1,
    busy_slots=0,
    draining=False,
    job=None,
    jobs=[],
    registered_at=0,
    last_seen_at=0,
)
KEPT_OUT = READY.model_copy(update={"quarantined_until": 1_000, "quarantine_reason": "It lost 3 attempts in an hour."})


def test_a_worker_in_quarantine_says_until_when_and_why() -> None:
    text = state_text(KEPT_OUT, at=999)
    assert text.startswith("quarantined until ")
    assert text.endswith("It lost 3 attempts in an hour.")


def test_one_whose_quarantine_is_over_is_ready_like_any_other() -> None:
    assert (state_text(KEPT_OUT, at=1_000), state_text(READY, at=0)) == ("ready", "ready")


def test_one_that_takes_no_new_job_is_draining() -> None:
    assert state_text(READY.model_copy(update={"draining": True}), at=0) == "draining"
