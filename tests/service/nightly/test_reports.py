"""What a due time cost: wall, waiting, starting and training of all the jobs that were made at it."""

from tests.command import in_process
from tests.control_plane import AttemptSide
from tests.service.nightly.nights import Nights
from tunesmith.tuning.messages import FinishReport
from tunesmith.tuning.state import Outcome


def finish(nights: Nights, attempt: AttemptSide, **result: object) -> None:
    """As a worker that measured this."""
    assert attempt.artifact().status_code == 204
    report = FinishReport(outcome=Outcome.SUCCEEDED, trained_tokens=10, result=result)
    assert attempt.post("finish", report).status_code == 204
    nights.sweep()


def at(nights: Nights, job_id: str, *, created: int, started: int, finished: int) -> None:
    """When it was created, started and ended, in seconds after three o'clock."""
    created_at, started_at, finished_at = (
        f"timestamptz '2026-01-01 03:00Z' + {seconds} * interval '1 s'" for seconds in (created, started, finished)
    )
    nights.plane.sql(
        f"SET session_replication_role = replica; "
        f"UPDATE jobs SET created_at = {created_at}, finished_at = {finished_at} WHERE id = '{job_id}'; "
        f"UPDATE attempts SET started_at = {started_at} WHERE job_id = '{job_id}'"
    )


def test_a_night_of_three_schedules_says_where_its_time_went(nights: Nights) -> None:
    nights.plane.add_model("other-llama")
    nights.upload()
    for name, model in (("one", "tiny-llama"), ("two", "other-llama"), ("three", "tiny-llama")):
        nights.create(name=name, job={"model": model, "suffix": name})
    nights.next_night(name="one")
    attempts = [nights.claim() for _ in range(3)]
    finish(nights, attempts[0], training_seconds=40.0, startup_seconds=4.0)
    finish(nights, attempts[1], training_seconds=30.0, startup_seconds=1.0)
    at(nights, attempts[0].job_id, created=2, started=3, finished=52)
    at(nights, attempts[1].job_id, created=2, started=52, finished=86)
    (night,) = nights.get("/v1/schedule_reports")["data"]
    assert night["firings"] == {"trained": 2, "submitted": 1}
    assert (night["jobs"], night["trained"]) == (3, 2)
    assert (night["wall_seconds"], night["longest_wait_seconds"]) == (84.0, 50.0)
    assert (night["startup_seconds"], night["training_seconds"]) == (5.0, 70.0)
    assert night["wall_over_training"] == 1.2
    assert night["base_changes"] == 2
    run = in_process({"TUNESMITH_URL": nights.plane.url, "TUNESMITH_API_KEY": nights.plane.keys["member"]})
    shown = run("schedules", "report").stdout
    assert "1m 24s" in shown, shown
    assert "1.20" in shown


def test_schedules_of_one_time_make_their_jobs_in_the_order_in_which_they_were_created(nights: Nights) -> None:
    nights.upload()
    names = ["one", "two", "three", "four"]
    for name in names:
        nights.create(name=name)
    for days in (1, -1):  # there and back: the rows of these lie behind those of the others now
        moved = f"next_fires_at + {days} * interval '1 day'"
        nights.plane.sql(f"UPDATE schedules SET next_fires_at = {moved} WHERE name IN ('three', 'one')")
    nights.next_night(name="one")
    made = [nights.firings(name)[-1]["job_id"] for name in names]
    assert made == sorted(made)
    assert [nights.claim().job_id for _ in names] == made


def test_nights_come_newest_first_and_one_without_a_job_has_no_times(nights: Nights) -> None:
    nights.upload()
    nights.create()
    nights.next_night()
    finish(nights, nights.claim(), training_seconds=1.0)
    nights.next_night()
    last, before = nights.get("/v1/schedule_reports")["data"]
    assert (last["firings"], last["jobs"], last["wall_seconds"]) == ({"skipped": 1}, 0, None)
    assert (before["jobs"], before["startup_seconds"], before["training_seconds"]) == (1, None, 1.0)
    assert len(nights.get("/v1/schedule_reports?limit=1")["data"]) == 1
    assert nights.plane.request("GET", "/v1/schedule_reports", key="stranger").json()["data"] == []
