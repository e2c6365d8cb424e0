"""What runs measured is read once: at a submit and a claim the service asks only whether it is still the newest."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from tests.control_plane import ControlPlane
from tests.service.planning.test_plans import run_once
from tunesmith.service.database.transactions import Database
from tunesmith.service.planning import corrections
from tunesmith.service.planning.corrections import MeasuredCorrections, measured_corrections
from tunesmith.service.planning.store import find_measured_version
from tunesmith.tuning.estimates.measured import LOOKED_BACK_RUNS
from tunesmith.tuning.words import Method

# Later runs of the same job, as other processes would record them.
_OTHERS = """
INSERT INTO attempts SELECT (jsonb_populate_record(attempt, jsonb_build_object(
    'id', attempt.id || to_char(number, 'FM0009'), 'epoch', 2 + number, 'claim_id', NULL))).*
FROM attempts attempt, generate_series(%s::int, %s::int) number WHERE epoch = 1
"""


async def learned(database: Database) -> MeasuredCorrections:
    async with database.transaction() as session:
        return await measured_corrections(session)


async def version(database: Database) -> str:
    async with database.transaction() as session:
        return await find_measured_version(session)


@contextmanager
def plans_read(plane: ControlPlane) -> Iterator[list[list[str]]]:
    """Of which attempts the API reads the plan meanwhile, query by query."""
    read: list[list[str]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if "attempts.plan" in statement and "ids" in parameters:
            read.append(list(parameters["ids"]))

    engine = plane.app.state.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield read
    event.remove(engine, "before_cursor_execute", note)


def attempt_ids(plane: ControlPlane) -> list[str]:
    return [row[0] for row in plane.sql("SELECT id FROM attempts ORDER BY id")]


def test_plans_of_runs_are_read_when_one_has_ended_and_never_again(control_plane: ControlPlane) -> None:
    file = control_plane.upload()
    run_once(control_plane)
    with plans_read(control_plane) as read:
        for _ in range(3):
            control_plane.create_job(training_file=file)
    assert read == [attempt_ids(control_plane)]
    run_once(control_plane)
    with plans_read(control_plane) as read:
        for _ in range(3):
            control_plane.create_job(training_file=file)
    assert read == [attempt_ids(control_plane)[1:]], "the first is known"


def test_what_another_process_has_recorded_counts_at_once(control_plane: ControlPlane) -> None:
    run_once(control_plane, memory=1.2)
    (before,) = control_plane.run(learned).by_kind.values()
    control_plane.sql(_OTHERS, 1, 1)
    (after,) = control_plane.run(learned).by_kind.values()
    assert ("1 run" in before[Method.LORA].basis, "2 runs" in after[Method.LORA].basis) == (True, True)


def test_an_attempt_that_begins_teaches_nothing_and_has_nothing_read_again(control_plane: ControlPlane) -> None:
    run_once(control_plane)
    control_plane.sql(_OTHERS, 1, 1000)
    before = control_plane.run(version)
    control_plane.claimed("worker-2")
    assert control_plane.run(version) == before, "of the thousand that are looked at none has left for it"


def test_what_is_kept_is_what_reading_all_anew_gives(control_plane: ControlPlane) -> None:
    for number in range(4):
        run_once(control_plane, memory=1 + number / 10, speed=1 - number / 10)
        kept = control_plane.run(learned)
        corrections._corrections.clear()
        corrections._measured.clear()
        assert control_plane.run(learned) == kept


def test_no_more_runs_are_kept_than_count(control_plane: ControlPlane) -> None:
    run_once(control_plane)
    for number in range(LOOKED_BACK_RUNS + 5):
        control_plane.sql(_OTHERS, number, number)
        control_plane.run(learned)
    assert {one.id for one in corrections._measured} == set(attempt_ids(control_plane)[-LOOKED_BACK_RUNS:])
